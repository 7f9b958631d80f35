"""Answers: a status, headers as they go out, and a body that is bytes or comes in pieces."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from starlette.types import Send

Header = tuple[bytes, bytes]

API_VERSION: Header = (b"docker-distribution-api-version", b"registry/2.0")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
JSON: Header = (b"content-type", b"application/json")
NO_BODY_STATUSES = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Stream:
    """A body of `length` bytes that is read while it is sent, and closed whatever happens."""

    length: int
    pieces: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. The length of the body is always stated: no answer under `/v2/` is ever chunked."""

    status: int
    headers: Sequence[Header] = ()
    body: bytes | Stream = b""
    length: int | None = None
    """The length to state where it is not that of the body: for HEAD."""

    async def send(self, send: Send) -> None:
        """Put the answer on the wire."""
        body = self.body
        start = [API_VERSION, *self.headers]
        if self.status not in NO_BODY_STATUSES:
            stated = self.length
            if stated is None:
                stated = len(body) if isinstance(body, bytes) else body.length
            start.append((b"content-length", b"%d" % stated))
        if isinstance(body, bytes):
            await send({"type": "http.response.start", "status": self.status, "headers": start})
            await send({"type": "http.response.body", "body": body})
            return
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": start})
            async for piece in body.pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await body.close()

    async def without_body(self) -> "Response":
        """The same answer for HEAD: the length is stated, the bytes are let go of."""
        if isinstance(self.body, bytes):
            length = len(self.body) if self.length is None else self.length
        else:
            length = self.body.length
            await self.body.close()
        return Response(self.status, self.headers, length=length)


def json_response(content: object, *, headers: Sequence[Header] = (), status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status, [JSON, NOSNIFF, *headers], encode_json(content))


def encode_json(content: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def header(name: bytes, value: str) -> Header:
    """A response header from text that was validated before."""
    return (name, value.encode("latin-1"))
