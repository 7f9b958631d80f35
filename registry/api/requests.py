"""One parsed request: what routing, policy and storage all look at, so they can't see different names."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from registry.asgi import PIECES
from registry.auth.callers import Caller, everybody
from registry.names import RepositoryName
from registry.query import Query

NOBODY = everybody("")


@dataclass(slots=True)
class Request:
    """A request whose path has been parsed.

    `tail` is what follows the name and the kind of thing: a reference, a digest or an upload id, as text.
    `root` is the path that clients see before `/v2/`, empty or `/...`.
    """

    scope: Scope
    receive: Receive
    method: str
    root: str
    name: RepositoryName | None
    tail: str
    query: Query
    caller: Caller = NOBODY
    """Who makes the request, once that is known."""
    _headers: dict[bytes, bytes] | None = field(default=None)

    @property
    def repository(self) -> RepositoryName:
        """The repository's name, on routes that have one."""
        assert self.name is not None, "asked for the repository on a route without one"
        return self.name

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name; several lines are joined by commas (RFC 9110, 5.3)."""
        if self._headers is None:
            self._headers = {}
            for key, value in self.scope["headers"]:
                known = self._headers.get(key)
                self._headers[key] = value if known is None else known + b", " + value
        found = self._headers.get(name)
        return None if found is None else found.decode("latin-1").strip()

    @property
    def content_length(self) -> int | None:
        """The announced length of the body in bytes, or None if it comes chunked."""
        length = self.header(b"content-length")
        return int(length) if length is not None and length.isascii() and length.isdigit() else None

    async def batches(self) -> AsyncIterator[list[bytes]]:
        """The body as lists of pieces, as they come. Raises ClientDisconnect if it does not come whole."""
        fetch = (self.scope.get("extensions") or {}).get(PIECES)
        more = True
        while more:
            if fetch is not None:
                pieces, more = await fetch()
            else:
                pieces, more = await self._receive()
            if pieces:
                yield pieces

    async def _receive(self) -> tuple[list[bytes], bool]:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        return ([body] if body else []), message.get("more_body", False)
