"""Where an HTTP/1.1 message begins and ends (RFC 9112), in the strict form only.

What two parsers could read differently is how one request is smuggled inside another, so nothing is repaired
here: no bare LF, no folded line, no second Content-Length, no transfer coding but `chunked`. Bytes after a
refusal are never looked at again.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

REQUEST_LINE_BYTES_MAX = 32 << 10
"""Room for a hundred `tag` parameters of the greatest length; longer ones get 414."""

CHUNK_LINE_BYTES_MAX = 256
EXTENSION_BYTES_MAX = 4 << 10
TRAILER_BYTES_MAX = 8 << 10
"""Chunk extensions and trailers mean nothing here; this much of them in one body is read past."""

END_OF_HEAD = b"\r\n\r\n"

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([!-\"$-~]+) HTTP/([0-9])\.([0-9])\r\n")
_FIELD = re.compile(rb"(" + _TOKEN + rb"+):([\t -~\x80-\xff]*)\r\n")
_FIELD_OVERHEAD = len(b":\r\n")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)?(?::[0-9]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?@]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[\t -~\x80-\xff]*)?)")
_NOT_IN_A_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")


class Refused(Exception):
    """The bytes are not a request that is taken here: answer with `status`, then close."""

    def __init__(self, status: int, message: str, *, code: str = "UNSUPPORTED") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


LINE_TOO_LONG = Refused(414, f"the request line is longer than {REQUEST_LINE_BYTES_MAX} bytes")


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers, checked. `path` and `query` are as sent; header names are lower case.

    `length` is that of the body in bytes, None if it comes in chunks. `keep_alive` is what the client wishes.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    length: int | None
    keep_alive: bool
    expects_continue: bool


Sink = Callable[[memoryview], None]
"""Takes a part of a body. The memory is used again afterwards: what is to stay must be copied."""


class Body(Protocol):
    """The end of one request's body: knows which of the bytes that arrive still belong to it."""

    ended: bool
    left: int | None
    """How many bytes are still to come, None if only the client knows."""

    def feed(self, data: bytes | bytearray, start: int, end: int, sink: Sink) -> int:
        """Pass what is body in `data[start:end]` to `sink`, and return where the rest begins.

        If the rest is not empty and the body has not ended, the rest is the beginning of a line: feed it again
        with what follows it. Raises Refused.
        """
        ...


def parse_head(block: bytes, *, fields_max: int) -> Head:
    """Parse everything up to and including the empty line. Raises Refused."""
    line = _REQUEST_LINE.match(block)
    if line is None:
        raise Refused(400, "malformed request line")
    if line.end() > REQUEST_LINE_BYTES_MAX:
        raise LINE_TOO_LONG
    method, target, major, minor = line.groups()
    if major != b"1":
        raise Refused(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    fields = _FIELD.findall(block, line.end())
    # findall() steps over what does not match: only if nothing was stepped over is every line a field.
    if sum(len(n) + len(v) + _FIELD_OVERHEAD for n, v in fields) != len(block) - line.end() - 2:
        raise Refused(400, "malformed header line")
    if len(fields) > fields_max:
        raise Refused(431, f"more than {fields_max} header lines")
    headers = [(name.lower(), value.strip(b" \t")) for name, value in fields]
    return _check(method.decode(), target, "1.0" if minor == b"0" else "1.1", headers)


def check_partial_head(data: bytes | bytearray, start: int, end: int, *, checked: int) -> None:
    """Refuse at once what cannot become a head any more, for instance a TLS ClientHello (RFC 8446).

    `checked` tells how many bytes of it were looked at before. Raises Refused.
    """
    wrong = _NOT_IN_A_HEAD.search(data, max(start, start + checked - 2), end)
    if wrong:
        raise Refused(400, "this is not HTTP/1.1")
    line_end = data.find(b"\r\n", start, end)
    if line_end < 0:
        if end - start > REQUEST_LINE_BYTES_MAX:
            raise LINE_TOO_LONG
        if not data[start:end].isascii():
            raise Refused(400, "the request line is not ASCII")
    elif _REQUEST_LINE.match(data, start, end) is None:
        raise Refused(400, "malformed request line")


def body_of(head: Head) -> Body:
    """What ends the body of a request with this head."""
    return ChunkedBody() if head.length is None else SizedBody(head.length)


class SizedBody:
    """A body of an announced length (RFC 9112 section 6.2)."""

    __slots__ = ("ended", "left")

    def __init__(self, length: int) -> None:
        self.left: int | None = length
        self.ended = length == 0

    def feed(self, data: bytes | bytearray, start: int, end: int, sink: Sink) -> int:
        """See Body."""
        assert self.left is not None
        taken = min(self.left, end - start)
        self.left -= taken
        self.ended = self.left == 0
        sink(memoryview(data)[start : start + taken])
        return start + taken


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1). Extensions and trailers are bounded and dropped."""

    __slots__ = ("_chunk", "_extension_bytes", "_step", "_trailer_bytes", "ended", "left")

    def __init__(self) -> None:
        self.left: int | None = None
        self.ended = False
        self._chunk = 0
        self._extension_bytes = 0
        self._trailer_bytes = 0
        self._step: Callable[[ChunkedBody, bytes], None] = ChunkedBody._size_line

    def feed(self, data: bytes | bytearray, start: int, end: int, sink: Sink) -> int:
        """See Body."""
        view = memoryview(data)
        while start < end and not self.ended:
            if self._chunk:
                taken = min(self._chunk, end - start)
                sink(view[start : start + taken])
                start += taken
                self._chunk -= taken
                continue
            line_end = data.find(b"\r\n", start, min(end, start + TRAILER_BYTES_MAX))
            if line_end < 0:
                self._check_partial_line(data, start, end)
                break
            self._step(self, bytes(view[start:line_end]))
            start = line_end + 2
        return start

    def _size_line(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line) if len(line) <= CHUNK_LINE_BYTES_MAX else None
        if match is None:
            raise Refused(400, "malformed chunk")
        size, extension = match.groups()
        self._extension_bytes += len(extension)
        if self._extension_bytes > EXTENSION_BYTES_MAX:
            raise Refused(400, "too many chunk extensions")
        self._chunk = int(size, 16)
        self._step = ChunkedBody._line_after_data if self._chunk else ChunkedBody._trailer_line

    def _line_after_data(self, line: bytes) -> None:
        if line:
            raise Refused(400, "a chunk is longer than it says")
        self._step = ChunkedBody._size_line

    def _trailer_line(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise Refused(431, f"more than {TRAILER_BYTES_MAX} bytes of trailers")
        if not line:
            self.ended = True
        elif not _FIELD.fullmatch(line + b"\r\n"):
            raise Refused(400, "malformed trailer line")

    def _check_partial_line(self, data: bytes | bytearray, start: int, end: int) -> None:
        longest = TRAILER_BYTES_MAX - 2 if self._step is ChunkedBody._trailer_line else CHUNK_LINE_BYTES_MAX
        if end - start > longest or _NOT_IN_A_HEAD.search(data, start, end):
            raise Refused(400, "malformed chunk")


def _check(method: str, target: bytes, version: str, headers: list[tuple[bytes, bytes]]) -> Head:
    hosts, lengths, codings, options = [], [], [], b""
    expects_continue = False
    for name, value in headers:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
        elif name == b"connection":
            options += b"," + value.lower()
        elif name == b"expect":
            expects_continue = _expectation(value)
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise Refused(400, "exactly one Host header is needed")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Refused(400, "malformed Host header")
    path, _, query = target.partition(b"?")
    if path[:1] != b"/":
        path, query = _absolute(method, target, headers)
    keep_alive = version == "1.1" and not (options and b"close" in map(bytes.strip, options.split(b",")))
    length = _length(lengths, codings, version)
    return Head(method, path, query, version, headers, length, keep_alive, expects_continue and version == "1.1")


def _length(lengths: list[bytes], codings: list[bytes], version: str) -> int | None:
    """RFC 9112 section 6.3, without its leniencies."""
    if codings:
        if lengths:
            raise Refused(400, "Content-Length and Transfer-Encoding exclude each other")
        if version == "1.0":
            raise Refused(400, "HTTP/1.0 has no Transfer-Encoding")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Refused(501, "the only transfer coding known here is chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
        raise Refused(400, "malformed Content-Length")
    return int(lengths[0])


def _absolute(method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The absolute form counts, and its host replaces the Host header (RFC 9112 section 3.2.2)."""
    match = _ABSOLUTE.fullmatch(target)
    if method == "CONNECT" or match is None or not _HOST.fullmatch(match[1]):
        raise Refused(400, "the request target must be a path")
    headers[:] = [(b"host", match[1]), *((name, value) for name, value in headers if name != b"host")]
    return match[2] or b"/", (match[3] or b"?")[1:]


def _expectation(value: bytes) -> bool:
    if value.lower() != b"100-continue":
        raise Refused(417, "the only expectation known here is 100-continue")
    return True
