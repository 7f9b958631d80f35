"""What is worth a line of the audit trail, and how texts of clients are kept within it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from json import JSONEncoder

CUT = "[cut]"
"""Stands at the end of a text that was too long, and in place of particulars that were too many."""

LINE_BYTES_MAX = 4096
"""No line is longer, its newline included: write(2) does not tear so much in a pipe (PIPE_BUF, pipe(7))."""

FIELDS_MAX = {"actor": 512, "address": 256, "repository": 512, "reference": 256, "old": 160, "new": 160}
"""How many bytes of JSON each field may take. With DETAIL_BYTES_MAX they sum up to less than LINE_BYTES_MAX."""

DETAIL_KEY_MAX = 64
DETAIL_VALUE_MAX = 1024
DETAIL_BYTES_MAX = 1536
DETAIL_ENTRY_BYTES = 6
"""Quotes, colon and comma of one entry."""

_JSON = JSONEncoder(ensure_ascii=True, separators=(",", ":"))

Fields = dict[str, str | int | dict[str, str]]


@unique
class EventKind(Enum):
    """What has happened. The last four are written by the trail itself."""

    LOGIN = "login"
    LOGIN_FAILED = "login-failed"
    TOKEN_ISSUED = "token-issued"  # noqa: S105  # no password
    TOKEN_CREATED = "token-created"  # noqa: S105
    TOKEN_REVOKED = "token-revoked"  # noqa: S105
    PUSH = "push"
    TAG_CREATED = "tag-created"
    TAG_MOVED = "tag-moved"
    TAG_DELETED = "tag-deleted"
    TAG_ROLLED_BACK = "tag-rolled-back"
    TAG_RESTORED = "tag-restored"
    MANIFEST_DELETED = "manifest-deleted"
    BLOB_DELETED = "blob-deleted"
    REPOSITORY_DELETED = "repository-deleted"
    BLOB_DAMAGED = "blob-damaged"
    MOUNT = "mount"
    POLICY_CHANGED = "policy-changed"
    USERS_CHANGED = "users-changed"
    CERTIFICATE_CHANGED = "certificate-changed"
    STARTED = "started"
    ROTATED = "rotated"
    PRUNED = "pruned"
    TORN_LINE = "torn-line"
    CHAIN_BROKEN = "chain-broken"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened. Any text may come from a client; none of them is a secret.

    `actor` is str(Identity), `address` the client's, `reference` a tag or digest, `old` and `new` the digests that a
    tag pointed at before and points at now. What is empty is left out of the line.
    """

    kind: EventKind
    actor: str = ""
    address: str = ""
    repository: str = ""
    reference: str = ""
    old: str = ""
    new: str = ""
    detail: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> Fields:
        """The event as it stands in a line, each text cut to what it may take there."""
        fields: Fields = {"event": self.kind.value}
        for name, bytes_max in FIELDS_MAX.items():
            if text := getattr(self, name):
                fields[name] = limited(text, bytes_max)
        if self.detail:
            fields["detail"] = _limited_detail(self.detail)
        return fields


def encode(fields: Mapping[str, object]) -> str:
    r"""JSON on one line of printable ASCII: newlines and whatever a terminal obeys become `\u....`."""
    return _JSON.encode(fields)


def limited(text: str, bytes_max: int) -> str:
    """The text, or as much of its start as takes at most `bytes_max` bytes of JSON together with CUT."""
    if _size(text[: bytes_max + 1]) <= bytes_max:
        return text
    room = bytes_max - len(CUT)
    for end, character in enumerate(text):
        room -= _size(character)
        if room < 0:
            return text[:end] + CUT
    raise AssertionError("a text that is too long has an end that is too much")


def _limited_detail(detail: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    room = DETAIL_BYTES_MAX - _size(CUT) - len(str(len(detail))) - DETAIL_ENTRY_BYTES
    for name, value in detail.items():
        name, value = limited(name, DETAIL_KEY_MAX), limited(value, DETAIL_VALUE_MAX)  # noqa: PLW2901
        room -= _size(name) + _size(value) + DETAIL_ENTRY_BYTES
        if room < 0:
            kept[CUT] = str(len(detail) - len(kept))
            break
        kept[name] = value
    return kept


def _size(text: str) -> int:
    return len(_JSON.encode(text)) - 2
