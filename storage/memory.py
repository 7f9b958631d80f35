"""Objects in a dictionary: the contract at its plainest, for tests."""

import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from storage.drivers import (
    PIECE_BYTES,
    Capabilities,
    Entry,
    Moved,
    Observer,
    Page,
    Sized,
    SmallObject,
    Stat,
    check_key,
    check_prefix,
    nothing_to_move,
    read_record,
)
from storage.errors import AlreadyExists, Busy, Corrupt, NotFound, VersionMismatch


@dataclass(frozen=True, slots=True)
class _Object:
    """One version of an object; never changed, only replaced."""

    body: bytes
    version: str
    modified: float


class _Staged:
    """A staged object: `written` by one writer at a time, and `gone` once committed or discarded."""

    def __init__(self, modified: float) -> None:
        self.body = bytearray()
        self.modified = modified
        self.written = False
        self.gone = False


class MemoryDriver:
    """Nothing survives it. Every write makes a new version, equal bytes or not."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = Capabilities()
        self._clock = clock
        self._versions = itertools.count(1)
        self._objects: dict[str, _Object] = {}
        self._staged: dict[str, _Staged] = {}

    async def start(self) -> None:
        """Nothing can be wrong with it."""

    async def close(self) -> None:
        """Nothing to let go of."""

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read a small object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        found = self._find(key)
        if len(found.body) > bytes_max:
            raise Corrupt(f"the object has {len(found.body)} bytes, at most {bytes_max} expected", key=key)
        return SmallObject(found.body, found.version)

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its version. Raises AlreadyExists."""
        if check_key(key) in self._objects:
            raise AlreadyExists("there is such an object already", key=key)
        return self.write(key, body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        """Write only over `version`, and return the new one. Raises VersionMismatch."""
        self._check(key, version)
        return self.write(key, body)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:  # noqa: ARG002  # nothing is
        """Write an object, whatever was there, and return its version."""
        return self.write(key, body)

    async def delete(self, key: str) -> None:
        """Delete an object; deleting what is absent is fine."""
        self._objects.pop(check_key(key), None)

    async def settle(self) -> None:
        """Nothing is durable."""

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:  # noqa: ARG002  # as above
        """Delete objects; deleting what is absent is fine."""
        for key in keys:
            self._objects.pop(check_key(key), None)

    async def delete_version(self, key: str, *, version: str) -> None:
        """Delete only `version`. Raises VersionMismatch."""
        self._check(key, version)
        del self._objects[key]

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        """List a page of objects in byte order of their keys."""
        check_prefix(prefix)
        entries = {_entry(key, prefix, fold=fold) for key in self._objects if key.startswith(prefix)}
        start = after.encode("utf-8", "surrogatepass")
        found = sorted((e for e in entries if e.key.encode() > start), key=lambda e: e.key.encode())
        return Page(found[: max(limit, 0)], more=len(found) > max(limit, 0))

    async def stat(self, key: str) -> Stat:
        """Tell size and time of an object. Raises NotFound."""
        found = self._find(key)
        return Stat(len(found.body), found.modified)

    async def open(self, key: str) -> "MemoryReader":
        """Open an object for reading. Raises NotFound."""
        found = self._find(key)
        return MemoryReader(key, found.body, found.modified, found.version)

    async def presign(self, key: str, *, seconds: int) -> str | None:  # noqa: ARG002  # the contract's
        """Give no URL: there is nobody but this driver to read objects from."""
        check_key(key)
        return None

    async def stage(self, key: str, *, record: str = "", text: bytes = b"") -> None:
        """Begin an empty staged object, and its record. Raises AlreadyExists."""
        if check_key(key) in self._staged:
            raise AlreadyExists("there is such a staged object already", key=key)
        if record:
            await self.put(record, text)
        self._staged[key] = _Staged(self._clock())

    async def stat_staged(self, key: str, *, record: str = "") -> Stat:  # noqa: ARG002  # its key is enough
        """Tell size and time of a staged object. Raises NotFound."""
        staged = self._find_staged(key)
        return Stat(len(staged.body), staged.modified)

    async def open_staged(self, key: str, *, record: str = "") -> "MemoryWriter":
        """Become the writer of a staged object. Raises NotFound, or Busy if it has one already."""
        staged = self._find_staged(key)
        if staged.written:
            raise Busy("another writer holds the staged object", key=key)
        writer = MemoryWriter(self, key, staged, record)
        if record:
            await read_record(self, writer, record)
        return writer

    async def tidy(self, prefix: str) -> None:
        """Do nothing: there are no folders."""
        check_prefix(prefix)

    async def sweep(self, *, older_than_seconds: float) -> int:  # noqa: ARG002  # there is nothing of the kind
        """Drop nothing: what a dead process had in memory is gone with it."""
        return 0

    async def sizes(self) -> AsyncIterator[Sized]:
        """Yield every object and everything staged."""
        for key, found in list(self._objects.items()):
            yield Sized(key, len(found.body))
        for key, staged in list(self._staged.items()):
            yield Sized(key, len(staged.body))

    def compact(self) -> AsyncIterator[Moved]:
        """Yield nothing: every object lies at its key."""
        return nothing_to_move()

    async def discard(self, key: str, *, record: str = "") -> None:
        """Drop a staged object and its record, also from under its writer; dropping what is absent is fine."""
        self.forget_staged(check_key(key))
        if record:
            await self.delete(record)

    def write(self, key: str, body: bytes) -> str:
        """Make bytes the object at `key` and return the version."""
        version = str(next(self._versions))
        self._objects[check_key(key)] = _Object(bytes(body), version, self._clock())
        return version

    def forget_staged(self, key: str) -> None:
        """Take a staged object away from everybody, its writer included."""
        if staged := self._staged.pop(key, None):
            staged.gone = True

    def now(self) -> float:
        """What the clock says, in seconds since the epoch."""
        return self._clock()

    def _find(self, key: str) -> _Object:
        if found := self._objects.get(check_key(key)):
            return found
        raise NotFound("no such object", key=key)

    def _find_staged(self, key: str) -> _Staged:
        if staged := self._staged.get(check_key(key)):
            return staged
        raise NotFound("no such staged object", key=key)

    def _check(self, key: str, version: str) -> None:
        found = self._objects.get(check_key(key))
        if found is None or found.version != version:
            raise VersionMismatch("the object has changed or is gone", key=key)


class MemoryReader:
    """One version of an object."""

    def __init__(self, key: str, body: bytes, modified: float, version: str) -> None:
        self.size = len(body)
        self.modified = modified
        self.identity = _identity(key, version)
        self._key = key
        self._body = body

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, in pieces of at most PIECE_BYTES."""
        return _pieces(self._key, self._body, start, length, observe)

    def read_once(self) -> None:
        """There is no cache."""

    async def close(self) -> None:
        """Nothing to let go of."""


class MemoryWriter:
    """The one writer of a staged object, until it is closed."""

    def __init__(self, driver: MemoryDriver, key: str, staged: _Staged, record: str) -> None:
        staged.written = True
        self.size = len(staged.body)
        self.record = b""
        self._record_key = record
        self._driver = driver
        self._key = key
        self._staged: _Staged | None = staged

    def aim(self, key: str) -> bool:
        """Make no use of it: everything is kept at once."""
        check_key(key)
        return False

    async def write(self, pieces: Sequence[bytes], observe: Observer | None = None) -> None:
        """Append the pieces. Raises NotFound if the staged object was discarded."""
        staged = self._held()
        for piece in pieces:
            staged.body += piece
        self.size = len(staged.body)
        staged.modified = self._driver.now()
        if observe is not None:
            observe(pieces)

    async def truncate(self, size: int) -> None:
        """Take back everything after the first `size` bytes."""
        staged = self._held()
        del staged.body[size:]
        self.size = len(staged.body)

    async def flush(self, record: bytes | None = None) -> None:
        """Take the new record. Raises NotFound if the staged object was discarded."""
        self._held()
        if record is not None:
            await self._driver.put(self._record_key, record)

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Read back what was staged."""
        return _pieces(self._key, bytes(self._held().body), start, length, observe)

    async def commit(self, key: str, record: bytes | None = None) -> str:
        """Make the staged bytes the object at `key`, close the writer, and return the object's identity."""
        version = self._driver.write(key, bytes(self._held().body))
        self._driver.forget_staged(self._key)
        await self.close()
        if record is not None:
            await self._driver.put(self._record_key, record)
        elif self._record_key:
            await self._driver.delete(self._record_key)
        return _identity(key, version)

    async def close(self) -> None:
        """Release the staged object to the next writer."""
        if self._staged:
            self._staged.written = False
            self._staged = None

    def _held(self) -> _Staged:
        if self._staged is None or self._staged.gone:
            raise NotFound("the staged object is gone", key=self._key)
        return self._staged


def _entry(key: str, prefix: str, *, fold: bool) -> Entry:
    name, slash, _rest = key.removeprefix(prefix).partition("/")
    return Entry(f"{prefix}{name}/", is_prefix=True) if fold and slash else Entry(key)


def _identity(key: str, version: str) -> str:
    return f"{key}@{version}"


async def _pieces(key: str, body: bytes, start: int, length: int, observe: Observer | None) -> AsyncIterator[bytes]:
    end = start + length
    while start < min(end, len(body)):
        piece = body[start : min(start + PIECE_BYTES, end)]
        if observe is not None:
            observe([piece])
        yield piece
        start += len(piece)
    if start < end:
        raise Corrupt(f"the object ends {end - start} bytes early", key=key)
