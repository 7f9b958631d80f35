"""A connection to the store in the event loop: one request at a time, and its answer. RFC 9112, as stores speak it.

What is doubtful is refused: an answer that was taken for more, less or another one than it is would be believed.
"""

import asyncio
import re
import select
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

BODY_BYTES_MAX = 1 << 20
"""Longer bodies are read and hashed in threads."""

HEAD_BYTES_MAX = 64 << 10
LINE_BYTES_MAX = 4 << 10
TRAILERS_MAX = 100

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: |$)", re.ASCII)
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;|$)")
_HEAD_END, _LINE_END = b"\r\n\r\n", b"\r\n"


class TooLong(ValueError):
    """The body of an answer is longer than BODY_BYTES_MAX."""


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came: headers by their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One connection. It closes itself when the store does, or says something that it was not asked."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._poll = select.poll()
        self._received = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._asked = self._begun = self._last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's for TLS does not say so
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Keep what has come, unless nothing was asked."""
        if self._asked:
            self._begun = True
            self._received += data
            self._wake()
        else:
            self.abort()

    def eof_received(self) -> None:
        """Close: an answer to what is sent now would not come."""
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits."""
        self._ended, self._error = True, error
        self._wake()

    def abort(self) -> None:
        """Close at once."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    @property
    def is_reusable(self) -> bool:
        """Tell whether the last answer was read to its end, and nothing has come since.

        The socket is asked too: while the loop was busy, the store may have closed it, and a request sent now would
        fail without need.
        """
        done = not (self._asked or self._last or self._ended or self._received)
        return done and self._transport is not None and not self._transport.is_closing() and not self._poll.poll(0)

    async def exchange(self, method: str, request: bytes) -> Received:
        """Send a request and read its answer.

        Raises OSError, EOFError and ValueError when the answer does not come, breaks off or can't be understood:
        then the connection is not reusable. TooLong is such a ValueError.
        """
        assert self._transport is not None, "it is not open"
        self._asked, self._begun = True, False
        self._transport.write(request)
        answer = await self._read(method)
        self._asked = False
        return answer

    async def _read(self, method: str) -> Received:
        while True:
            version, status, headers = _parse_head(await self._until(_HEAD_END, HEAD_BYTES_MAX))
            if status == 101:
                raise ValueError("another protocol than HTTP")
            if status >= 200:
                break
        options = headers.get("connection", "").lower()
        self._last = "close" in options or (version == "0" and "keep-alive" not in options)
        if method == "HEAD" or status in {204, 304}:
            return Received(status, headers)
        coding = headers.get("transfer-encoding")
        if coding is not None:
            # With both, somebody on the way may see another end than we do (RFC 9112, 6.3).
            self._last = self._last or "content-length" in headers
            if coding.lower() != "chunked":
                raise ValueError("an unknown transfer coding")
            body = await self._chunks()
            return Received(status, headers | {"content-length": str(len(body))}, body)
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdecimal()):
            raise ValueError("an answer of unknown length")
        return Received(status, headers, await self._exactly(int(length[:20])))

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = _CHUNK_SIZE.match(await self._until(_LINE_END, LINE_BYTES_MAX))
            if size is None:
                raise ValueError("no length of a chunk")
            count = int(size[1], 16)
            if count == 0:
                break
            if count + len(body) > BODY_BYTES_MAX:
                raise TooLong
            body += await self._exactly(count)
            if await self._exactly(2) != _LINE_END:
                raise ValueError("a chunk of another length")
        for _ in range(TRAILERS_MAX):
            if not await self._until(_LINE_END, LINE_BYTES_MAX):
                return bytes(body)
        raise ValueError("too many trailers")

    async def _exactly(self, count: int) -> bytes:
        if count > BODY_BYTES_MAX:
            raise TooLong
        while len(self._received) < count:
            await self._more()
        return self._take(count)

    async def _until(self, end: bytes, bytes_max: int) -> bytes:
        """Take what comes before `end`, and `end` with it."""
        searched = 0
        while (found := self._received.find(end, searched, bytes_max)) < 0:
            if len(self._received) >= bytes_max:
                raise ValueError("a head that does not end")
            searched = max(0, len(self._received) - len(end) + 1)
            await self._more()
        taken = self._take(found)
        del self._received[: len(end)]
        return taken

    def _take(self, count: int) -> bytes:
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def _more(self) -> None:
        if self._ended:
            if self._begun:
                raise EOFError
            raise self._error or ConnectionResetError
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _parse_head(head: bytes) -> tuple[str, int, dict[str, str]]:
    """Minor version, status and headers. Raises ValueError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    status = _STATUS.match(first)
    if status is None:
        raise ValueError("no answer of HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, _colon, value = line.partition(":")
        name, value = _header_name(name), value.strip(" \t")
        if headers.setdefault(name, value) != value:
            if name in {"content-length", "transfer-encoding", "etag"}:
                raise ValueError("a header with two values")
            headers[name] = f"{headers[name]}, {value}"
    return status[1], int(status[2]), headers


@lru_cache(maxsize=256)
def _header_name(text: str) -> str:
    """In small letters. A store has few of them. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError("no header")
    return text.lower()
