"""Redirects: the bytes of a blob come from the store itself, by a URL that lasts for a while."""

from collections.abc import Callable, Sequence

from registry.addresses import Network, is_within
from registry.api.forwarding import client_address
from registry.api.requests import Request
from registry.api.responses import Header, Response, header
from storage.digest import Digest

NEVER_STORED: Header = (b"cache-control", b"private, no-store")
"""Whoever has the answer may read the blob: nobody keeps it, and not longer than the URL lasts."""


class Redirects:
    """Which requests for a blob are redirected. With no `networks` those of every client are."""

    def __init__(self, networks: Sequence[Network] | None, *, seconds: int, is_trusted: Callable[[str], bool]) -> None:
        self.seconds = seconds
        self._networks = networks
        self._is_trusted = is_trusted

    def include(self, request: Request) -> bool:
        """Tell whether a GET may be answered with a redirect.

        The client sends its headers again to the store, which has entity tags of its own and gives everything to who
        asks for several ranges: such requests are answered here.
        """
        if request.header(b"if-match") is not None or request.header(b"if-range") is not None:
            return False
        if "," in (request.header(b"range") or ""):
            return False
        return self._networks is None or is_within(client_address(request.scope, self._is_trusted), self._networks)


def redirect(url: str, digest: Digest) -> Response:
    """The answer that sends a client on; with 307 the method stays GET (RFC 9110, 15.4.8)."""
    return Response(307, [header(b"location", url), header(b"docker-content-digest", str(digest)), NEVER_STORED])
