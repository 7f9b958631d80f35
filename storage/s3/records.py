"""The record of a staged object: its bytes as they lie in the bucket, and whose turn it is to write.

The record changes by compare-and-swap only. So whoever has lost his turn can't change it any more, whatever his
clock says, and bytes count as kept only when it says so. What its owner wants to remember beside the bytes is its
first line.
"""

import json
import secrets
from dataclasses import dataclass, replace
from typing import Any

from storage.drivers import RECORD_BYTES_MAX
from storage.errors import Corrupt
from storage.keys import OURS

STAGED = "/".join((OURS, "staged"))
INLINE_BYTES_MAX = 256 << 10
"""A tail of that size lies in the record itself: one call instead of two."""

STORED_BYTES_MAX = RECORD_BYTES_MAX + (2 << 20) + INLINE_BYTES_MAX
VERSION = 1

SIZE, MODIFIED, WRITER = "staged-size", "staged-modified", "staged-writer"


@dataclass(frozen=True, slots=True)
class Where:
    """A staged object's key, the key of its record, and the folder of everything else that it has in the bucket."""

    key: str
    record: str
    folder: str

    def new_key(self, kind: str) -> str:
        """A name below the folder that was never used before."""
        return f"{self.folder}{kind}-{secrets.token_hex(8)}"


def where(key: str, record: str = "") -> Where:
    """Tell where a staged object lies that has a record of its owner's at `record`, or none."""
    if record:
        return Where(key, record, f"{STAGED}/{record}/")
    return Where(key, f"{STAGED}/{key}/record", f"{STAGED}/{key}/")


def record_key_of(name: str) -> str | None:
    """The reverse: which record may name what lies below STAGED; None for a record itself."""
    folder, _slash, leaf = name.removeprefix(f"{STAGED}/").rpartition("/")
    if leaf == "record":
        return None
    return folder if folder.startswith(f"{OURS}/") else f"{STAGED}/{folder}/record"


def check_text(text: bytes) -> bytes:
    """Return the owner's line if it is one. Raises ValueError."""
    if b"\n" in text or len(text) > RECORD_BYTES_MAX:
        raise ValueError("a record is one line")
    return text


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
    """A multipart upload that has begun, and its parts in order. No part's number is ever used again.

    `nonce` tells the object that comes of it from others at the same key.
    """

    key: str
    id: str
    parts: tuple[Part, ...] = ()
    next_number: int = 1
    nonce: str = ""

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

    `writer` is whose turn it is; `modified` is when bytes were last added, in seconds since the epoch; `text` is the
    owner's line. Once `committing` names an object, the bytes may be that object's at any moment: nobody goes on with
    them. Of an `ended` one nothing is left but the text.
    """

    modified: float
    writer: str = ""
    segments: tuple[Segment, ...] = ()
    upload: Multipart | None = None
    tail: Tail = Tail()
    text: bytes = b""
    committing: str = ""
    ended: bool = False

    @property
    def size(self) -> int:
        """Bytes kept."""
        return sum(s.size for s in self.segments) + (self.upload.size if self.upload else 0) + self.tail.size

    @property
    def names(self) -> list[str]:
        """The objects that hold its bytes."""
        return [segment.key for segment in self.segments] + ([self.tail.key] if self.tail.key else [])

    def to_bytes(self) -> bytes:
        """The record as it is stored: the owner's line, a line of JSON, and the tail."""
        upload = self.upload
        fields = {
            "version": VERSION,
            "nonce": secrets.token_hex(8),  # each write has another entity tag, even one that changes nothing
            "modified": self.modified,
            "writer": self.writer,
            "segments": [[s.key, s.etag, s.size, s.whole] for s in self.segments],
            "upload": upload and [upload.key, upload.id, upload.next_number, _parts(upload)],
            "tail": [self.tail.key, self.tail.etag, self.tail.size],
            "committing": self.committing,
            "ended": self.ended,
        }
        return b"\n".join((self.text, json.dumps(fields, separators=(",", ":")).encode(), self.tail.inline))

    def metadata(self) -> dict[str, str]:
        """What a HEAD of the record tells."""
        if self.ended:
            return {}
        return {SIZE: str(self.size), MODIFIED: repr(self.modified), WRITER: self.writer}

    def released(self) -> "StagedRecord":
        """The same bytes, and nobody's turn."""
        return replace(self, writer="")

    @classmethod
    def from_bytes(cls, stored: bytes, key: str) -> "StagedRecord":
        """Read a stored record. Raises Corrupt."""
        text, _newline, rest = stored.partition(b"\n")
        line, newline, inline = rest.partition(b"\n")
        try:
            fields = json.loads(line)
            if not newline or fields["version"] != VERSION:
                raise ValueError("of another version")
            record = replace(_record(fields, inline), text=text)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise Corrupt("the record of a staged object is damaged: push again", key=key) from error
        if not record.tail.key and len(inline) != record.tail.size:
            raise Corrupt("the record of a staged object is cut off: push again", key=key)
        return record


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
        committing=str(fields["committing"]),
        ended=bool(fields["ended"]),
    )


def _parts(upload: Multipart) -> list[list[object]]:
    return [[part.number, part.etag, part.size] for part in upload.parts]
