"""Bodies that are held in memory whole: bounded one by one, and all of them together."""

import contextlib
from collections.abc import AsyncIterator

from registry.api.requests import Request
from registry.errors import TooLarge, TooManyRequests

SMALL_BYTES = 64 << 10
"""What any connection may hold, as it may hold that much of headers. Most manifests are far smaller."""

LARGE_MAX = 32
"""Larger bodies held at once. A client that never ends its body holds one of them, not memory without end."""

RETRY_SECONDS = 1


class WholeBodies:
    """At most LARGE_MAX bodies above SMALL_BYTES are held at any time, each of at most `bytes_max`."""

    def __init__(self, *, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._large = 0

    @contextlib.asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body, which counts until the block ends. Raises TooLarge, TooManyRequests."""
        if (request.content_length or 0) > self._bytes_max:
            raise self._too_large()
        # Joined as it comes: as a list, chunks of one byte would take a hundred times their size.
        body = bytearray()
        is_large = False
        try:
            async for pieces in request.batches():
                body += b"".join(pieces)
                if len(body) > self._bytes_max:
                    raise self._too_large()
                if not is_large and len(body) > SMALL_BYTES:
                    self._refuse_if_full()
                    self._large += 1
                    is_large = True
            yield bytes(body)
        finally:
            self._large -= is_large

    def _refuse_if_full(self) -> None:
        if self._large >= LARGE_MAX:
            raise TooManyRequests(
                f"{self._large} manifests above {SMALL_BYTES} bytes are being received, which is the limit: try again",
                headers=[("retry-after", str(RETRY_SECONDS))],
            )

    def _too_large(self) -> TooLarge:
        return TooLarge(f"a manifest has at most {self._bytes_max} bytes")
