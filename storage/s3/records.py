"""The record of a staged object: its bytes as they lie in the bucket, and whose turn it is to write.

The record changes by compare-and-swap only. So whoever has lost his turn can't change it any more, whatever his
clock says, and bytes count as kept only when it says so.
"""

import json
import secrets
from dataclasses import dataclass, replace
from typing import Any

from storage.errors import Corrupt
from storage.keys import OURS

STAGED = "/".join((OURS, "staged"))
RECORD = "record"
INLINE_BYTES_MAX = 256 << 10
"""A tail of that size lies in the record itself: one call instead of two."""

RECORD_BYTES_MAX = (2 << 20) + INLINE_BYTES_MAX
VERSION = 1

SIZE, MODIFIED, WRITER = "staged-size", "staged-modified", "staged-writer"


@dataclass(frozen=True, slots=True)
class Part:
    """One uploaded part of a multipart upload."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Segment:
    """An object of which the first `size` bytes are staged: all of them if `whole`."""

    key: str
    etag: str
    size: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Multipart:
    """A multipart upload that has begun, and its parts in order. No part's number is ever used again."""

    key: str
    id: str
    parts: tuple[Part, ...] = ()
    next_number: int = 1

    @property
    def size(self) -> int:
        """Bytes in all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class Tail:
    """The bytes after the last part: in the record, or in an object of their own."""

    inline: bytes = b""
    key: str = ""
    etag: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class StagedRecord:
    """The staged bytes are those of the segments, then of the parts, then of the tail.

    `writer` is whose turn it is; `modified` is when bytes were last added, in seconds since the epoch.
    """

    modified: float
    writer: str = ""
    segments: tuple[Segment, ...] = ()
    upload: Multipart | None = None
    tail: Tail = Tail()

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(s.size for s in self.segments) + (self.upload.size if self.upload else 0) + self.tail.size

    def to_bytes(self) -> bytes:
        """The record as it is stored: a line of JSON, and the tail."""
        upload = self.upload
        fields = {
            "version": VERSION,
            "nonce": secrets.token_hex(8),  # each write has another entity tag, even one that changes nothing
            "modified": self.modified,
            "writer": self.writer,
            "segments": [[s.key, s.etag, s.size, s.whole] for s in self.segments],
            "upload": upload and [upload.key, upload.id, upload.next_number, _parts(upload)],
            "tail": [self.tail.key, self.tail.etag, self.tail.size],
        }
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n" + self.tail.inline

    def metadata(self) -> dict[str, str]:
        """What a HEAD of the record tells."""
        return {SIZE: str(self.size), MODIFIED: repr(self.modified), WRITER: self.writer}

    def released(self) -> "StagedRecord":
        """The same bytes, and nobody's turn."""
        return replace(self, writer="")

    @classmethod
    def from_bytes(cls, text: bytes, key: str) -> "StagedRecord":
        """Read a stored record. Raises Corrupt."""
        line, newline, inline = text.partition(b"\n")
        try:
            fields = json.loads(line)
            if not newline or fields["version"] != VERSION:
                raise ValueError("of another version")
            record = _record(fields, inline)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Corrupt("the record of a staged object is damaged: push again", key=key) from error
        if not record.tail.key and len(inline) != record.tail.size:
            raise Corrupt("the record of a staged object is cut off: push again", key=key)
        return record


def folder(key: str) -> str:
    """Everything that a staged object has in the bucket."""
    return f"{STAGED}/{key}/"


def record_key(key: str) -> str:
    """Where the record of a staged object lies."""
    return folder(key) + RECORD


def new_key(key: str, kind: str) -> str:
    """A name below the folder that was never used before."""
    return f"{folder(key)}{kind}-{secrets.token_hex(8)}"


def _record(fields: dict[str, Any], inline: bytes) -> StagedRecord:
    upload = None
    if fields["upload"]:
        upload_key, upload_id, number, parts = fields["upload"]
        etags = [Part(int(n), str(etag), int(size)) for n, etag, size in parts]
        upload = Multipart(str(upload_key), str(upload_id), tuple(etags), int(number))
    tail_key, etag, size = fields["tail"]
    return StagedRecord(
        modified=float(fields["modified"]),
        writer=str(fields["writer"]),
        segments=tuple(Segment(str(k), str(tag), int(size), bool(all_)) for k, tag, size, all_ in fields["segments"]),
        upload=upload,
        tail=Tail(inline if not tail_key else b"", str(tail_key), str(etag), int(size)),
    )


def _parts(upload: Multipart) -> list[list[object]]:
    return [[part.number, part.etag, part.size] for part in upload.parts]
