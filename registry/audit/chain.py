"""The chain: each line carries the SHA-256 of the line before it, and with a key its own HMAC."""

import hashlib
import hmac
import json
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeGuard

from registry.audit.events import LINE_BYTES_MAX, Fields, encode

KEY_BYTES_MIN = 32
KEY_BYTES_MAX = 4096
HEAD_BYTES_MAX = 512

_HASH = re.compile(r"[0-9a-f]{64}")
_MAC = re.compile(rb',"mac":"([0-9a-f]{64})"\}\n')
_MAC_BYTES = len(b',"mac":"') + 64 + len(b'"}\n')


class KeyInvalid(ValueError):
    """The key file can't be used; the message says why and what to do, and holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the chain: an event's number, from 1, and the SHA-256 of its line, newline included."""

    seq: int
    hash: str


GENESIS = Mark(0, "0" * 64)
"""What the first line is chained to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that was read back. `mark` is its own, `previous` the hash that it is chained to."""

    mark: Mark
    previous: str
    fields: dict[str, object]

    def follows(self, mark: Mark) -> bool:
        """Tell whether the line was written right after that one."""
        return self.mark.seq == mark.seq + 1 and self.previous == mark.hash

    @property
    def event(self) -> object:
        """What has happened, as the line has it."""
        return self.fields.get("event")

    @property
    def time(self) -> str:
        """When, as the line has it."""
        return str(self.fields.get("time", ""))

    @property
    def detail(self) -> dict[str, object]:
        """The particulars; empty if there are none."""
        detail = self.fields.get("detail")
        return detail if isinstance(detail, dict) else {}

    @property
    def has_mac(self) -> bool:
        """Tell whether the line was written with a key."""
        return "mac" in self.fields


def seal(fields: Fields, after: Mark, *, time: float, key: bytes | None) -> tuple[bytes, Mark]:
    """The line that follows `after`, and its mark. `time` is in seconds since the epoch."""
    line = _seal(encode({"seq": after.seq + 1, "previous": after.hash, "time": timestamp(time), **fields}), key)
    return line, Mark(after.seq + 1, hash_of(line))


def read_line(line: bytes) -> Entry | None:
    """Read a line with its newline back; None if it is none of an audit trail."""
    if not line.endswith(b"\n"):
        return None
    fields = _read(line) or {}
    match fields:
        case {"seq": seq, "previous": str(previous), "event": str()} if _is_number(seq) and _HASH.fullmatch(previous):
            return Entry(Mark(seq, hash_of(line)), previous, fields)
    return None


def mac_holds(line: bytes, key: bytes) -> bool:
    """Tell whether a line was written by somebody who has the key."""
    if not (found := _MAC.fullmatch(line[-_MAC_BYTES:])):
        return False
    return hmac.compare_digest(found[1], _mac(line[:-_MAC_BYTES] + b"}", key))


def write_head(mark: Mark, key: bytes | None) -> bytes:
    """The head record: how far the chain has come."""
    return _seal(encode({"head": mark.seq, "hash": mark.hash}), key)


def read_head(body: bytes, key: bytes | None) -> Mark | None:
    """Read a head record back; None if it is none, or with a key, was not written by somebody who has it."""
    if key is not None and not mac_holds(body, key):
        return None
    match _read(body):
        case {"head": seq, "hash": str(digest)} if _is_number(seq) and _HASH.fullmatch(digest):
            return Mark(seq, digest)
    return None


def load_key(path: Path) -> bytes:
    """Read the secret for HMACs: the whole file, white space at its ends left out. Raises KeyInvalid."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(KEY_BYTES_MAX + 1).strip() if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise KeyInvalid(f"the key file {path} can't be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyInvalid(f"the key file {path} may be read by others: chmod 600 {path}")
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise KeyInvalid(
            f"the key file {path} must hold {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes: openssl rand -hex 32 > {path}"
        )
    return key


def timestamp(time: float) -> str:
    """RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def hash_of(line: bytes) -> str:
    """What the next line carries; `sed -n 7p audit.log | sha256sum` tells the same."""
    return hashlib.sha256(line).hexdigest()


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0  # true is an int as well


def _seal(body: str, key: bytes | None) -> bytes:
    line = body.encode("ascii")
    if key is None:
        return line + b"\n"
    return b'%b,"mac":"%b"}\n' % (line[:-1], _mac(line, key))


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256").hex().encode("ascii")


def _read(line: bytes) -> dict[str, object] | None:
    if len(line) > LINE_BYTES_MAX:
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
