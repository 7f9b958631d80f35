"""The contract between the stores and what holds the bytes: a file system, a bucket, a dictionary.

A driver keeps *objects* at `/`-separated keys. Small objects are read and written whole, and change by
compare-and-swap; large ones are *staged* first, append by append, and become an object in one step. Every
driver passes the same suite, `tests/storage/test_driver_contract.py`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

Observer = Callable[[Sequence[bytes]], None]
"""Looks at bytes in the thread that moves them."""

PIECE_BYTES = 1 << 20
"""The size in which large objects are read: one thread hop each."""


RECORD_BYTES_MAX = 16384
"""The longest record of a staged object."""

_NO_COMPONENTS = frozenset({"", ".", ".."})


def check_key(key: str) -> str:
    """Return the key if it is one as Driver says. Raises ValueError: it would name something else."""
    if not _NO_COMPONENTS.isdisjoint(key.split("/")) or "\0" in key:
        raise ValueError(f"no key: {key!r}")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"no key: {key!r}") from error
    return key


def check_prefix(prefix: str) -> None:
    """Raise ValueError unless a listing may be asked for it: it is empty, or a key and a slash."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    if prefix and not prefix.endswith("/"):
        raise ValueError(f"a prefix ends in a slash: {prefix!r}")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do beyond the contract, as data: nobody asks for a driver's name."""

    presigned_urls: bool = False
    """Whether `presign` may give URLs; without it, it never does."""
    object_bytes_max: int | None = None
    append_bytes_min: int = 0
    staged_in_place: bool = True
    """Whether staged bytes lie at their key, where other registries find them."""
    folders_hold_objects: bool = False
    """A folded entry of a listing stands for an object, unless that was deleted a short while ago."""

    durable_at_once: bool = False
    """What one process can read is durable, whoever has written it."""

    listings_tell_sizes: bool = False
    """Whether entries of listings that are not folded tell what `stat` does."""

    rare_seconds: float = 0.0
    """So long what is nearly never there may be taken to be absent after a look: looks cost a call each."""

    looks_cost_calls: bool = False
    """Whether a look at one object costs as much as a write of one."""

    page_entries: int = 10_000
    """So many entries of a listing cost as much as one."""

    calls_at_once: int = 1
    """So many calls for one request are worth making at the same time."""

    writes_at_once: int = 1
    """So many writes for one request take together as long as one."""


@dataclass(frozen=True, slots=True)
class Stat:
    """Size in bytes and time of the last write, in seconds since the epoch.

    `at_key` is false while the bytes lie elsewhere in the store, from where only the driver reads them.
    """

    size: int
    modified: float
    at_key: bool = True


@dataclass(frozen=True, slots=True)
class SmallObject:
    """The bytes of a small object, and the opaque version that they stand for."""

    body: bytes
    version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing.

    With a delimiter, everything below `key` may be folded into one entry: then `key` ends in `/` and
    `is_prefix` is true. (A folded entry may turn out to hold nothing.) `found` is what `stat` would tell, where a
    listing tells it for nothing.
    """

    key: str
    is_prefix: bool = False
    found: Stat | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in byte order of their keys; `more` says that the listing goes on after the last."""

    entries: Sequence[Entry]
    more: bool


@dataclass(frozen=True, slots=True)
class Moved:
    """An object that was moved to its key, or could not be."""

    key: str
    size: int
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Sized:
    """Something that takes space: an object, or an `unfinished` upload of one.

    `pointed` says that it holds bytes of an object that is read elsewhere.
    """

    key: str
    size: int
    unfinished: bool = False
    pointed: bool = False


class Reader(Protocol):
    """One version of a large object, held open: a replacement meanwhile does not change what it reads."""

    size: int
    modified: float
    identity: str
    """Equal for two readers only if they read the same bytes from the same place, unmodified between."""

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, in pieces of at most PIECE_BYTES.

        `observe([piece])` is called for each in the thread that reads it, before it is yielded and in order.
        Raises Corrupt if the object ends before that, StorageUnavailable if it can't be read.
        """
        ...

    def read_once(self) -> None:
        """Say, ahead of the first piece, that nobody will read the bytes again soon: caches need not keep them."""
        ...

    async def close(self) -> None:
        """Let go of the object. Safe to call twice."""
        ...


class StagedWriter(Protocol):
    """The one writer of a staged object. Its lock dies with its process."""

    size: int
    """Bytes kept so far: where the next write goes."""

    record: bytes
    """The record of the staged object as it was when the writer came; empty without one."""

    def aim(self, key: str) -> bool:
        """Say, before the first byte, where all of them will be committed; tells whether that is made use of.

        If so, the bytes go there at once, invisibly, and nothing of them is kept but by `commit`: a flush is
        refused, and the next writer finds the staged object empty. `truncate(0)` takes the aim back.
        """
        ...

    async def write(self, pieces: Sequence[bytes], observe: Observer | None = None) -> None:
        """Append the pieces, calling `observe(pieces)` in the thread that writes them.

        On failure `size` is what is really kept. Raises StorageFull and its kin; NotFound if the staged
        object was discarded meanwhile.
        """
        ...

    async def truncate(self, size: int) -> None:
        """Take back everything after the first `size` bytes."""
        ...

    async def flush(self, record: bytes | None = None) -> None:
        """Return only when the bytes so far, and the way to them, survive a power cut; and then a new record.

        Raises NotFound if the staged object was discarded meanwhile, and Busy if another writer came first.
        """
        ...

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Read back what was staged, as Reader.pieces does."""
        ...

    async def commit(self, key: str, record: bytes | None = None) -> str:
        """Make the staged bytes the object at `key`, replacing what was there, in one durable step.

        The staged object is gone afterwards and the writer closed; the record is replaced by the one given, or gone
        too. (A power cut may leave it as it was.) Returns the identity that a Reader of the new object has.
        """
        ...

    async def close(self) -> None:
        """Release the lock and keep the bytes. Safe to call twice, and after commit."""
        ...


async def read_record(driver: "Driver", writer: StagedWriter, key: str) -> None:
    """Give a new writer the record of its staged object, read under its lock; if that fails, close it."""
    try:
        writer.record = (await driver.get(key, bytes_max=RECORD_BYTES_MAX)).body
    except BaseException:
        await writer.close()
        raise


async def nothing_to_move() -> AsyncIterator[Moved]:
    """Yield nothing: what Driver.compact does where every object lies at its key."""
    none: tuple[Moved, ...] = ()
    for moved in none:
        yield moved


class Driver(Protocol):
    """Objects at keys. A key is one or more non-empty components joined by `/`, none of them `.` or `..`.

    Anything else given as a key is the caller's mistake and a ValueError.

    Everything that changes the store is durable when it returns: it survives a power cut, together with
    every directory on the way to it. Any method may raise StorageUnavailable and its subclasses.

    A staged object may have a *record*, one line of text that changes together with its bytes: never before them.
    It is the first line of the object at `record`, in which a driver may keep more behind it. Whoever begins a staged
    object with a record names its key in every other call.
    """

    capabilities: Capabilities

    async def start(self) -> None:
        """Prove that the store can be used as configured; raises StorageError saying what to do if not."""
        ...

    async def close(self) -> None:
        """Let go of threads and connections."""
        ...

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read a small object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        ...

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its version. Raises AlreadyExists: of many creators one wins."""
        ...

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        """Compare and swap: write only over `version`. Raises VersionMismatch, also when it is gone."""
        ...

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        """Write an object, whatever was there; readers see the old bytes or the new ones.

        `durable=False` is for what may be lost in a power cut (never torn, for all other failures).
        """
        ...

    async def delete(self, key: str) -> None:
        """Delete an object; deleting what is absent is fine."""
        ...

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:
        """Delete objects as `delete` does, for less than it would cost one by one, in no order.

        If that fails, some may be gone. With `durable=False` some may be back after a power cut.
        """
        ...

    async def settle(self) -> None:
        """Make everything durable that this process has written and deleted without: worth it for a lot of it."""
        ...

    async def delete_version(self, key: str, *, version: str) -> None:
        """Delete only `version`. Raises VersionMismatch, also when it is gone."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        """List objects whose key starts with `prefix` (which ends in `/`), in byte order of the keys.

        Only keys greater than `after` (a full key, which need not exist) are given, at most `limit`. With
        `fold`, everything below the next `/` after the prefix becomes one entry.
        """
        ...

    async def stat(self, key: str) -> Stat:
        """Tell size and time of an object. Raises NotFound."""
        ...

    async def open(self, key: str) -> Reader:
        """Open a large object for reading. Raises NotFound."""
        ...

    async def presign(self, key: str, *, seconds: int) -> str | None:
        """Make a URL by which whoever has it reads the object with GET, whole or a range, for so many seconds.

        What is read by it comes as octets to be saved, whatever they are. None if there is no URL for this object:
        then it is read through `open`. Whether there is such an object is not looked at.
        """
        ...

    async def stage(self, key: str, *, record: str = "", text: bytes = b"") -> None:
        """Begin an empty staged object, and its record. Raises AlreadyExists if there is one.

        It is not an object: get, stat and list need not know it. It may be lost in a power cut until its
        writer has flushed it.
        """
        ...

    async def stat_staged(self, key: str, *, record: str = "") -> Stat:
        """Tell size and time of a staged object, also while it is written to. Raises NotFound."""
        ...

    async def open_staged(self, key: str, *, record: str = "") -> StagedWriter:
        """Become the writer of a staged object. Raises NotFound, or Busy if it has one already.

        Where a look at a lock costs a call, several may open it who write only a little: then the first of them
        to flush is the writer, and the others are told so.
        """
        ...

    async def discard(self, key: str, *, record: str = "") -> None:
        """Drop a staged object and its record, also from under its writer; dropping what is absent is fine."""
        ...

    async def tidy(self, prefix: str) -> None:
        """Remove the folders below a prefix that hold nothing, and it itself, where there are such things as folders.

        For whoever has deleted everything there; what is written meanwhile makes its folders anew.
        """
        ...

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Drop what dead processes have left that no key leads to, and return how much of it there was."""
        ...

    def sizes(self) -> AsyncIterator[Sized]:
        """Yield everything that takes space, in no order: objects, staged bytes, what dead processes have left."""
        ...

    def compact(self) -> AsyncIterator[Moved]:
        """Move every object whose bytes do not lie at its key yet, so that others find it there too.

        Those that another process is moving are waited for.
        """
        ...
