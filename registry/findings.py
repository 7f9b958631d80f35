"""What may be wrong with a store: each kind of finding, how bad it is, and what to do about it.

The table is the source of docs/how-to/verify-a-store.md; a test compares the two.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum, unique


class Severity(IntEnum):
    """How bad a finding is.

    NOTE: garbage, or a curiosity; nothing has to be done. WARNING: something is not reachable or an index has
    drifted, and nothing that was acknowledged is lost. ERROR: data is damaged or gone, or a name leads nowhere.
    """

    NOTE = 0
    WARNING = 1
    ERROR = 2


PUSH_OBJECT = "push the object again"
PUSH_IMAGE = "push the image again"
PUSH_BLOB = "push an image that has the blob again"
ADOPT = "run pierhead adopt"
REMOVE = "remove it"
OWNER = "give it to the user that Pierhead runs as (chown -R), readable and writable for its owner"


@unique
class Problem(Enum):
    """One kind of finding: its severity, what it means, and what to do."""

    LINK_EMPTY = (Severity.ERROR, "the link is empty", PUSH_OBJECT)
    LINK_DAMAGED = (Severity.ERROR, "the link holds no digest", PUSH_OBJECT)
    LINK_ELSEWHERE = (Severity.ERROR, "the link leads to another object than its key says", PUSH_OBJECT)
    LINK_DANGLING = (Severity.WARNING, "the bytes that the link leads to are gone", PUSH_BLOB)
    TAG_DANGLING = (Severity.ERROR, "the tag points at a manifest that the repository does not hold", PUSH_IMAGE)
    TAG_LEFTOVER = (Severity.NOTE, "the tag was deleted, or never set; this is left of it", REMOVE)
    MANIFEST_MISSING = (Severity.ERROR, "the bytes of the manifest are gone", PUSH_IMAGE)
    MANIFEST_DAMAGED = (Severity.ERROR, "the bytes of the manifest do not hash to its digest", PUSH_IMAGE)
    MANIFEST_SHAPE = (Severity.WARNING, "the manifest is of no known shape: what it needs is unknown", PUSH_IMAGE)
    MANIFEST_INCOMPLETE = (Severity.ERROR, "the manifest refers to blobs that can't be served", PUSH_IMAGE)
    MANIFEST_SIZE = (Severity.ERROR, "the manifest tells the size of a blob wrong", "build and push the image again")
    INDEX_INCOMPLETE = (
        Severity.WARNING,
        "the index lists manifests that the repository does not hold",
        "nothing if it is meant to be sparse; else push the index again",
    )
    BLOB_EMPTY = (Severity.ERROR, "the blob is an empty file", PUSH_BLOB)
    BLOB_DAMAGED = (Severity.ERROR, "the bytes of the blob do not hash to its digest", PUSH_BLOB)
    BLOB_UNLINKED = (Severity.NOTE, "garbage: no repository links to the blob", "nothing: it takes space, and no more")
    UNREADABLE = (Severity.ERROR, "it may not be read", OWNER)
    UNWRITABLE = (Severity.ERROR, "the directory may not be written to: pushes into it fail", OWNER)
    UPLOAD_ABANDONED = (Severity.NOTE, "an upload that no session of Pierhead belongs to", "remove its directory")
    UPLOAD_DAMAGED = (Severity.WARNING, "the record of the upload can't be read", "remove it; the client starts over")
    UPLOAD_BYTES_GONE = (
        Severity.NOTE,
        "the upload has ended, or has lost its bytes",
        "nothing: it is dropped when idle",
    )
    UPLOAD_SHORT = (Severity.NOTE, "the upload has fewer bytes than were hashed", "nothing: they are read again")
    NAME_REFUSED = (Severity.WARNING, "no repository can have this name: it is not served", "move it to a valid name")
    TAG_REFUSED = (Severity.WARNING, "no tag can have this name: it is not served", "push the image under a valid tag")
    STRAY = (Severity.WARNING, "nothing of a registry's layout lies at such a key", REMOVE)
    TEMPORARY = (Severity.NOTE, "an unfinished file of distribution", "remove it while distribution is stopped")
    DIRECTORY = (Severity.WARNING, "a directory lies where a file should be", REMOVE)
    SYMLINK_DANGLING = (Severity.WARNING, "a symbolic link that leads nowhere", REMOVE)
    SYMLINK_LOOP = (Severity.WARNING, "a symbolic link that leads to itself or to a directory above it", REMOVE)
    SYMLINK = (Severity.NOTE, "a symbolic link, which is followed", "see that it stays on one file system")
    SPECIAL_FILE = (Severity.WARNING, "it is no file and no directory", REMOVE)
    NAME_BYTES = (Severity.WARNING, "its name is not UTF-8, so it is left out", "rename or remove it")
    LAYOUT_MISSING = (Severity.WARNING, "the store was never opened by Pierhead", ADOPT)
    LAYOUT_UNKNOWN = (Severity.ERROR, "the store has another layout", "use the version of Pierhead that wrote it")
    UNADOPTED = (Severity.WARNING, "the indexes may lack what another registry wrote", ADOPT)
    CATALOG_MISSING = (Severity.WARNING, "the catalog lacks the repository", ADOPT)
    CATALOG_STALE = (Severity.WARNING, "the catalog names a repository of which nothing is left", ADOPT)
    REFERRER_MISSING = (Severity.WARNING, "the referrers of the subject lack the manifest", ADOPT)
    REFERRER_STALE = (Severity.WARNING, "the referrer refers to another subject", ADOPT)
    REFERRER_LEFTOVER = (Severity.NOTE, "the referrer was deleted, or never there: it is not listed", ADOPT)
    REFERRER_DAMAGED = (Severity.WARNING, "the referrer's entry is not what its manifest says", ADOPT)
    HISTORY_DAMAGED = (
        Severity.WARNING,
        "the record of a tag's history does not tell who made the change and why",
        "nothing: when it was, and what the tag pointed at since, is told by its name",
    )
    SOURCE_STALE = (Severity.NOTE, "the repository named does not link to the blob any more", ADOPT)
    REMOVAL_LEFTOVER = (
        Severity.NOTE,
        "a deletion that was cut off",
        "nothing: it is dropped by itself",
    )
    TYPE_STALE = (Severity.NOTE, "a media type whose manifest is gone", REMOVE)
    MARKER_STALE = (
        Severity.NOTE,
        "marks as damaged a copy that is no longer there",
        "nothing: the scrub drops it",
    )
    MARKER_WRONG = (Severity.WARNING, "marks as damaged a blob that is whole, so it is not served", REMOVE)

    def __init__(self, severity: Severity, meaning: str, remedy: str) -> None:
        self.severity = severity
        self.meaning = meaning
        self.remedy = remedy

    @property
    def slug(self) -> str:
        """The kind as it is printed and documented."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: with what (its key), and the particulars if there are any.

    What is wrong with bytes that nobody links to is garbage: `severity` may be lower than the problem's.
    """

    problem: Problem
    key: str
    detail: str = ""
    severity_max: Severity = Severity.ERROR

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return min(self.problem.severity, self.severity_max)

    @property
    def text(self) -> str:
        """What is wrong, in one line without control characters: names found on a disk may hold anything."""
        return printable(f"{self.problem.meaning}: {self.detail}" if self.detail else self.problem.meaning)


def printable(text: str) -> str:
    r"""The text with everything that a terminal might take for a command written as `\x1b`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
