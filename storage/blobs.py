"""Blobs: bytes stored once under their digest, and readable only where a repository links to them."""

import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from storage import keys
from storage.arrivals import BLOBS, Arrivals, State
from storage.digest import SHA256, Digest, RunningHash
from storage.drivers import Driver, Reader, StagedWriter, Stat
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, StorageRefused, StorageUnavailable
from storage.known_blobs import KnownBlob, KnownBlobs
from storage.links import delete_link, link_text, read_link
from storage.markers import DamagedMarkers

EMPTY = Digest.of(b"")
SOURCE_BYTES_MAX = 512
VERIFIED_SECONDS = 600.0
VERIFIED_MAX = 4096
LINK_ATTEMPTS_MAX = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob open for reading: the digest it was asked by, the one that its bytes lie under, the link's key."""

    digest: Digest
    canonical: Digest
    link: str
    reader: Reader
    verified: "VerifiedCopies"
    condemn: Callable[[Digest, Stat], Awaitable[None]]

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.reader.size

    def pieces(self, start: int, length: int) -> AsyncIterator[bytes]:
        """Yield `length` bytes from offset `start`, unchecked."""
        return self.reader.pieces(start, length)

    async def verified_pieces(self) -> AsyncIterator[bytes]:
        """Yield the whole blob, holding the last piece back until everything has hashed to the digest.

        Raises Corrupt before that last piece, so that a reader who counts bytes never takes damaged ones
        for whole. A copy that was verified a short while ago, and is untouched since, is not hashed again.
        """
        copy = (self.reader.identity, self.digest)
        if self.verified.has(copy):
            async for piece in self.reader.pieces(0, self.reader.size):
                yield piece
            return
        running = {expected: RunningHash(expected.algorithm) for expected in (self.canonical, self.digest)}

        def observe(pieces: Sequence[bytes]) -> None:
            for each in running.values():
                for piece in pieces:
                    each.update(piece)

        held: bytes | None = None
        async for piece in self.reader.pieces(0, self.reader.size, observe):
            if held is not None:
                yield held
            held = piece
        if running[self.canonical].digest() != self.canonical:
            await self.condemn(self.canonical, Stat(self.reader.size, self.reader.modified))
            raise Corrupt("the stored bytes do not hash to their digest", key=keys.blob(self.canonical))
        if running[self.digest].digest() != self.digest:
            log.error("damaged link", key=self.link, reason="it leads to another blob", remedy="push the blob again")
            raise Corrupt("the link leads to another blob", key=self.link)
        self.verified.add(copy)
        if held is not None:
            yield held

    async def close(self) -> None:
        """Let go of the bytes."""
        await self.reader.close()


class VerifiedCopies:
    """Which stored copies this process has hashed within the last VERIFIED_SECONDS, by identity and digest.

    An identity changes with every write to a file, whoever makes it. What a disk changes by itself is found out
    when the time is over.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[str, Digest], float] = OrderedDict()

    def has(self, copy: tuple[str, Digest]) -> bool:
        """Tell whether the copy was verified and is taken at its word for now."""
        return self._until.get(copy, 0.0) > self._clock()

    def add(self, copy: tuple[str, Digest]) -> None:
        """Take note of a copy that was just verified."""
        self._until.pop(copy, None)
        self._until[copy] = self._clock() + VERIFIED_SECONDS
        if len(self._until) > VERIFIED_MAX:
            self._until.popitem(last=False)


class BlobStore:
    """Every link in it was written after the bytes that it leads to were durable.

    A stored copy that was found not to hash to its digest is remembered by size and time of its last write,
    and is not there from then on: clients ask before they push, and only a no makes them push again.
    """

    def __init__(
        self, driver: Driver, *, clock: Callable[[], float] = time.time, arrivals: Arrivals | None = None
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._arrivals = arrivals or Arrivals(driver, clock=clock)
        self._verified = VerifiedCopies()
        self._markers = DamagedMarkers(driver)
        self._known = KnownBlobs()
        self._is_remembering = driver.capabilities.rare_seconds > 0

    async def stat(self, repository: str, digest: Digest) -> Stat:
        """Tell size and time of a blob that the repository links to. Raises NotFound."""
        _canonical, found = await self._look(repository, digest)
        return found

    async def locate(self, repository: str, digest: Digest, *, seconds: int) -> tuple[Stat, str | None]:
        """Tell size and time of a blob, and a URL of its bytes that lasts so many seconds, if there is one.

        Raises NotFound. Nobody checks what is read by the URL but its reader.
        """
        canonical, found = await self._look(repository, digest)
        if not found.at_key:
            return found, None
        return found, await self._driver.presign(keys.blob(canonical), seconds=seconds)

    async def known(self, repository: str, digest: Digest, *, since: float) -> KnownBlob | None:
        """What this process has found at `since` or later, in seconds since the epoch.

        Whoever relies on it has to look whether the link was removed since. Nothing is told where looks are cheap.
        """
        known = self._known.get(repository, digest, since=since)
        if known is None or await self._markers.may_be(known.canonical):
            return None
        return known

    async def exists(self, repository: str, digest: Digest) -> bool:
        """Tell whether the repository links to the blob and its bytes are there."""
        try:
            await self.stat(repository, digest)
        except NotFound:
            return False
        return True

    async def open(self, repository: str, digest: Digest) -> Blob:
        """Open a blob that the repository links to. Raises NotFound."""
        canonical = await self.resolve(repository, digest)
        key = keys.blob(canonical)
        try:
            reader = await self._driver.open(key)
        except (NotFound, StorageRefused) as error:
            raise _unreadable(key, error) from error
        try:
            await self._refuse_damaged(canonical, Stat(reader.size, reader.modified))
        except BaseException:
            await reader.close()
            raise
        return Blob(digest, canonical, keys.layer_link(repository, digest), reader, self._verified, self.condemn)

    async def check(self, repository: str, digest: Digest) -> bool:
        """Read a blob and tell whether it is there and hashes to its digest."""
        try:
            blob = await self.open(repository, digest)
        except NotFound:
            return False
        try:
            async for _piece in blob.verified_pieces():
                pass
        except Corrupt:
            return False
        finally:
            await blob.close()
        return True

    async def condemn(self, canonical: Digest, found: Stat) -> None:
        """Remember that the stored copy does not hash to its digest."""
        log.error("damaged blob", key=keys.blob(canonical), remedy="push the blob again")
        await self._markers.put(canonical, found)

    async def acquit(self, canonical: Digest) -> None:
        """Forget that a stored copy was damaged: it was replaced, or has just been read and is whole."""
        await self._markers.drop(canonical)

    async def condemned(self, *, shard: str | None = None) -> AsyncIterator[Digest]:
        """Every digest, or all of one shard, whose copy was found damaged and still lies there.

        What is remembered of other copies, which were replaced since or are gone, is forgotten.
        """
        async for canonical in self._markers.marked(shard=shard):
            try:
                found = await self._driver.stat(keys.blob(canonical))
            except StorageUnavailable:
                yield canonical
                continue
            except NotFound:
                await self.acquit(canonical)
                continue
            if await self._markers.is_marked(canonical, found):
                yield canonical
            else:
                await self.acquit(canonical)

    async def is_condemned(self, canonical: Digest, found: Stat) -> bool:
        """Tell whether this very copy is remembered not to hash to its digest."""
        return await self._markers.is_marked(canonical, found)

    def aim(self, writer: StagedWriter, digest: Digest) -> bool:
        """Say what the bytes are to be before they come; tells whether nothing of them is kept until they are it."""
        return digest.algorithm == SHA256 and writer.aim(keys.blob(digest))

    async def commit(
        self,
        writer: StagedWriter,
        repository: str,
        digest: Digest,
        *,
        canonical: Digest,
        record: bytes | None = None,
    ) -> None:
        """Make verified staged bytes the blob, `record` what is left of their record, and link the repository to it.

        The bytes always replace what lies there: a copy that was truncated or has rotted is healed by the
        push, and no reader is disturbed, for it holds the old file open.
        """
        looked, size = self._clock(), writer.size
        since = await self._arrivals.tell(canonical, BLOBS)  # of the collection that is under way these bytes are safe
        await self._drop_condemned(canonical)
        identity = await writer.commit(keys.blob(canonical), record)
        for name in (canonical, digest):
            self._verified.add((identity, name))
        try:
            await self.link(repository, digest, canonical=canonical, since=since)
        except Corrupt as error:
            # A collection has begun since, and its grace period is shorter than this.
            raise StorageUnavailable("the bytes were collected as garbage: push them again", key=error.key) from error
        self._remember(repository, digest, KnownBlob(canonical, size, looked))

    async def link(
        self, repository: str, digest: Digest, *, canonical: Digest, hint: bool = True, since: State | None = None
    ) -> None:
        """Let the repository read a blob whose bytes are durable already, by this digest and the canonical one.

        distribution looks for the canonical link behind every other one, and fails without it. `hint` lets mounts
        without a source find it. The bytes were there after the garbage collection was told of them, or seen, `since`.
        Raises Corrupt if a collection has deleted the bytes meanwhile.
        """
        await self._put_links(repository, digest, canonical)
        for _attempt in range(LINK_ATTEMPTS_MAX):
            state = await self._arrivals.state()
            if state == since and not state.is_on:
                break
            if state != since:
                since = await self._arrivals.tell(canonical, BLOBS)
                await self._check_bytes(canonical)
            # A batch that was announced before that may have been about to take a link that was there already.
            await self._arrivals.wait_for_links(repository)
            if await self._are_linked(repository, digest, canonical):
                break
            await self._put_links(repository, digest, canonical)
        if not hint:
            return
        if self._driver.capabilities.durable_at_once:
            with contextlib.suppress(AlreadyExists):
                await self._driver.create(keys.blob_source(digest), repository.encode("ascii"))
        elif await self.source(digest) is None:
            await self.remember_source(repository, digest)

    async def _put_links(self, repository: str, digest: Digest, canonical: Digest) -> None:
        if digest != canonical:
            await self._driver.put(keys.layer_link(repository, canonical), link_text(canonical))
        await self._driver.put(keys.layer_link(repository, digest), link_text(canonical))

    async def _are_linked(self, repository: str, *digests: Digest) -> bool:
        try:
            for digest in set(digests):
                await self._driver.stat(keys.layer_link(repository, digest))
        except NotFound:
            return False
        return True

    async def _check_bytes(self, canonical: Digest) -> None:
        key = keys.blob(canonical)
        try:
            await self._driver.stat(key)
        except NotFound as error:
            raise Corrupt("the bytes were collected as garbage", key=key) from error

    async def mount(
        self,
        repository: str,
        digest: Digest,
        *,
        source: str,
        reserve: Callable[[Digest, int], Awaitable[None]] | None = None,
    ) -> None:
        """Let the repository read a blob that `source` may read. Raises NotFound.

        `reserve`, if given, is called ahead of the link with the canonical digest and the size, and may refuse.
        """
        looked, state = self._clock(), await self._arrivals.state()
        since = None if state.is_on else state  # of the one that is under way the bytes are not safe yet
        canonical, found = await self._look(source, digest)
        if reserve is not None:
            await reserve(canonical, found.size)
        # Whoever has brought the blob has left a hint, and whoever names a source needs none.
        await self.link(repository, digest, canonical=canonical, hint=False, since=since)
        self._remember(repository, digest, KnownBlob(canonical, found.size, looked))

    async def source(self, digest: Digest) -> str | None:
        """A repository that is said to link to the blob: a hint, which may be out of date."""
        try:
            found = await self._driver.get(keys.blob_source(digest), bytes_max=SOURCE_BYTES_MAX)
            return found.body.decode("ascii")
        except (NotFound, StorageRefused, ValueError):
            return None

    async def remember_source(self, repository: str, digest: Digest) -> None:
        """Note a repository that links to the blob, for `source`."""
        await self._driver.put(keys.blob_source(digest), repository.encode("ascii"), durable=False)

    async def unlink(self, repository: str, digest: Digest) -> None:
        """Take the blob from the repository; its bytes stay for whoever else links to them. Raises NotFound."""
        self._known.drop(repository, digest)
        await delete_link(self._driver, keys.layer_link(repository, digest))

    async def resolve(self, repository: str, digest: Digest) -> Digest:
        """The digest that the bytes of a blob of this repository lie under. Raises NotFound."""
        key = keys.layer_link(repository, digest)
        canonical = await read_link(self._driver, key)
        if canonical.algorithm != SHA256 or (digest.algorithm == SHA256 and canonical != digest):
            log.error("damaged link", key=key, reason="it leads to another blob", remedy="push the blob again")
            raise Corrupt("the link leads to another blob", key=key)
        return canonical

    async def _drop_condemned(self, canonical: Digest) -> None:
        """Delete a damaged copy that a commit would not replace at once: readers would find it for a while."""
        if self._driver.capabilities.staged_in_place or not await self._markers.may_be(canonical):
            return
        with contextlib.suppress(NotFound):
            if await self._markers.is_marked(canonical, await self._driver.stat(keys.blob(canonical))):
                await self._driver.delete(keys.blob(canonical))

    async def _look(self, repository: str, digest: Digest) -> tuple[Digest, Stat]:
        """Where the bytes of a blob lie that the repository links to, their size and time. Raises NotFound."""
        looked = self._clock()
        canonical = await self.resolve(repository, digest)
        key = keys.blob(canonical)
        try:
            found = await self._driver.stat(key)
        except (NotFound, StorageRefused) as error:
            raise _unreadable(key, error) from error
        await self._refuse_damaged(canonical, found)
        self._remember(repository, digest, KnownBlob(canonical, found.size, looked))
        return canonical, found

    def _remember(self, repository: str, digest: Digest, known: KnownBlob) -> None:
        if self._is_remembering:
            self._known.add(repository, digest, known)

    async def _refuse_damaged(self, canonical: Digest, found: Stat) -> None:
        key = keys.blob(canonical)
        # A crash of a registry that renames before it fsyncs leaves an empty file under a full blob's name.
        if found.size == 0 and canonical != EMPTY:
            log.error("damaged blob", key=key, reason="the file is empty", remedy="push the blob again")
            raise Corrupt("the stored blob is empty", key=key)
        if await self._markers.fits(canonical, found):
            raise Corrupt("the stored blob was found damaged", key=key)


def _unreadable(key: str, error: StorageError) -> Corrupt:
    remedy = "check that the file is there, its owner and its mode; or push the blob again"
    log.error("unreadable blob", key=key, reason=str(error), remedy=remedy)
    return Corrupt("the stored blob is missing or may not be read", key=key)
