"""Byte ranges of a GET (RFC 9110, section 14)."""

import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

RANGES_MAX = 1024
"""More in one request are ignored: each costs a part with a head of its own, and a read (CVE-2011-3192)."""

_SPEC = re.compile(r"\s*+(\d{0,19})-(\d{0,19})\s*+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `end`, both included, of a representation of `size` bytes."""

    start: int
    end: int
    size: int

    @property
    def length(self) -> int:
        """How many bytes these are."""
        return self.end - self.start + 1

    def __str__(self) -> str:
        return f"bytes {self.start}-{self.end}/{self.size}"


def parse_ranges(text: str, size: int) -> list[ByteRange] | None:
    """Read a Range header: the satisfiable ranges in the order asked for, or None to answer with everything.

    None for other units, for what is no range at all, for more than RANGES_MAX of them, and for ranges that
    overlap so much that the answer would be longer than the whole (RFC 9110, 14.2: a server may ignore the
    header).
    """
    unit, equals, specs = text.partition("=")
    if unit.strip().lower() != "bytes" or not equals or specs.count(",") >= RANGES_MAX:
        return None
    asked = [spec for spec in specs.split(",") if spec.strip()]
    found: list[ByteRange] = []
    for spec in asked:
        matched = _SPEC.fullmatch(spec)
        if matched is None or not any(matched.groups()):
            return None
        if (satisfiable := _range(matched[1], matched[2], size)) is not None:
            found.append(satisfiable)
    # Who asks for several and gets one without parts would cut it wrongly (containers/image does).
    is_one_of_several = len(found) == 1 < len(asked)
    return None if not asked or is_one_of_several or sum(r.length for r in found) > size else found


def _range(first: str, last: str, size: int) -> ByteRange | None:
    if not first:
        start, end = max(0, size - int(last)), size - 1
    else:
        start, end = int(first), min(int(last), size - 1) if last else size - 1
    return ByteRange(start, end, size) if start <= end else None


@dataclass(frozen=True, slots=True)
class Multipart:
    """Several ranges as one body of multipart/byteranges, whose length is known before it is read."""

    ranges: list[ByteRange]
    media_type: str
    boundary: str = field(default_factory=lambda: secrets.token_hex(16))

    @property
    def content_type(self) -> str:
        """The media type of the whole."""
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """Bytes of the whole body."""
        return sum(len(self._head(r)) + r.length for r in self.ranges) + len(self._end)

    async def pieces(self, read: Callable[[int, int], AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
        """Yield the body; `read` yields the bytes of an offset and a length."""
        for wanted in self.ranges:
            yield self._head(wanted)
            async for piece in read(wanted.start, wanted.length):
                yield piece
        yield self._end

    def _head(self, wanted: ByteRange) -> bytes:
        lines = f"\r\n--{self.boundary}\r\nContent-Type: {self.media_type}\r\nContent-Range: {wanted}\r\n\r\n"
        return lines.encode("ascii")

    @property
    def _end(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode("ascii")
