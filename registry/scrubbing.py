"""The scrub: every blob is read again in the background, slowly, to find damage before somebody needs the blob.

It goes shard by shard (storage/scrubs.py), the one first that was read the longest ago, and rests when each was read
within the period. One process of all that share the store scrubs at a time. A shard that a process leaves unfinished
is gone on with where the cursor is, by whoever comes next.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace

import structlog

from registry.background import BackgroundWork
from registry.hashing import Hasher
from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Driver, Stat
from storage.errors import StorageError, StorageUnavailable
from storage.leases import LeaseStore
from storage.places import Kind, Place
from storage.scrubs import SHARDS, Cursor, ScrubStore, ShardRecord
from storage.walk import walk

LEASE = "scrub"
LOOK_SECONDS_MAX = 300.0
LOOKS_IN_A_PERIOD = 100
"""Whether something is due is looked at so often, and at least every LOOK_SECONDS_MAX."""

SAVE_SECONDS = 30.0
"""So much work is done again after a crash."""

BLOB_COST_BYTES = 1 << 16
"""What a blob counts for at least: opening many small ones is work as well."""

FAILURES_MAX = 5
"""If so many blobs in a row can't be read for a reason that passes, the store is given a rest."""

log = structlog.get_logger(__name__)


class Pace:
    """Lets at most so many bytes a second pass, without making up for pauses by haste."""

    def __init__(
        self,
        rate: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._pause = pause
        self._free_at = 0.0

    async def __call__(self, count: int) -> None:
        """Wait until these bytes, which were just read, have taken their time."""
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._rate
        await self._pause(self._free_at - now)


class Scrubber(BackgroundWork):
    """Scrubs for as long as it lives. `told` is called with each digest whose bytes are found damaged."""

    def __init__(
        self,
        driver: Driver,
        blobs: BlobStore,
        leases: LeaseStore,
        *,
        rate: int,
        period_seconds: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        told: Callable[[Digest], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._blobs = blobs
        self._leases = leases
        self._store = ScrubStore(driver, clock=clock)
        self._pace = Pace(rate, clock=monotonic, pause=pause)
        self._read_bytes = 0
        self._hasher = Hasher(driver, read=self._count, pace=self._pace)
        self._period_seconds = period_seconds
        self._clock = clock
        self._pause = pause
        self._told = told

    async def scrub(self) -> None:
        """Read every shard that is due, one after the other. Raises StorageUnavailable if the store fails."""
        while (cursor := await self._next()) is not None:
            await self._shard(cursor)

    async def _run(self) -> None:
        seconds = min(LOOK_SECONDS_MAX, self._period_seconds / LOOKS_IN_A_PERIOD)
        while True:
            # Workers that were started together spread out.
            await self._pause(seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret
            try:
                await self._leases.run(LEASE, self.scrub, rest_seconds=seconds / 4)
            except StorageError as error:
                log.warning("the scrub was interrupted", reason=str(error), remedy="none: it goes on later")
            except Exception:  # a job that ends at its first error would never run again
                log.exception("the scrub failed")

    async def _next(self) -> Cursor | None:
        """Where to go on: in the shard that was left unfinished, else at the one that was read the longest ago."""
        shards, cursor = await self._store.shards(), await self._store.cursor()
        now = self._clock()
        if cursor is not None and is_due(shards.get(cursor.shard), now, self._period_seconds):
            return cursor
        oldest = min(SHARDS, key=lambda shard: shards[shard].ended if shard in shards else 0.0)
        if not is_due(shards.get(oldest), now, self._period_seconds):
            return None
        return Cursor(oldest, found=ShardRecord(began=now))

    async def _shard(self, cursor: Cursor) -> None:
        found, saved, failures = cursor.found, self._clock(), 0
        condemned = {digest async for digest in self._blobs.condemned(shard=cursor.shard)}
        async for place, digest in self._places(cursor):
            try:
                found = await self._blob(digest, found, is_condemned=digest in condemned)
            except StorageUnavailable as error:
                failures += 1
                if failures % FAILURES_MAX == 0:
                    await self._store.shards()  # which raises if it is not these blobs, but the store
                remedy = "check the disk, the owner of the file and its mode; or push the blob again"
                log.error("unreadable blob", key=keys.blob(digest), reason=str(error), remedy=remedy)
                found = found.with_unreadable(digest)
            if place.kind is Kind.BLOB and not 0 <= self._clock() - saved < SAVE_SECONDS:
                saved = self._clock()
                await self._store.move(replace(cursor, after=digest.hex, found=found))
        await self._store.record(cursor.shard, replace(found, ended=self._clock()))
        await self._store.end()

    async def _places(self, cursor: Cursor) -> AsyncIterator[tuple[Place, Digest]]:
        """The blobs of a shard from the cursor on; ahead of them those that do not lie at their keys yet."""
        after = keys.blob(cursor.after_digest) if cursor.after_digest else ""
        if not after:
            async for place in walk(self._driver, keys.pointers_of_shard(cursor.shard)):
                if place.kind is Kind.POINTER and place.digest is not None:
                    yield place, place.digest
        async for place in walk(self._driver, keys.blobs_of_shard(cursor.shard), after=after):
            if place.kind is Kind.BLOB and place.digest is not None:
                yield place, place.digest

    async def _blob(self, digest: Digest, found: ShardRecord, *, is_condemned: bool) -> ShardRecord:
        """Hash a blob, and remember what comes of it. Raises StorageUnavailable if it can't be read."""
        before = self._read_bytes
        hashed = await self._hasher.check(digest)
        read = self._read_bytes - before
        await self._pace(max(0, BLOB_COST_BYTES - read))
        if hashed is None:
            return found  # deleted since it was listed
        found = replace(found, blobs=found.blobs + 1, bytes=found.bytes + read)
        if not hashed.is_whole:
            if not await self._blobs.is_condemned(digest, hashed.found):
                await self._condemn(digest, hashed.found)
            return replace(found, damaged=found.damaged + 1)
        if is_condemned and await self._blobs.is_condemned(digest, hashed.found):
            await self._blobs.acquit(digest)
            log.warning("a blob that was damaged reads well again", key=keys.blob(digest), remedy="check the disk")
        return found

    async def _condemn(self, digest: Digest, copy: Stat) -> None:
        await self._blobs.condemn(digest, copy)
        if self._told is not None:
            await self._told(digest)

    def _count(self, read: int) -> None:
        self._read_bytes += read


def is_due(found: ShardRecord | None, now: float, period_seconds: float) -> bool:
    """Tell whether a shard has to be read again. Times in the future come from clocks set back since."""
    return found is None or not 0 <= now - found.ended < period_seconds


def due(shards: Mapping[str, ShardRecord], now: float, period_seconds: float) -> int:
    """How many shards have to be read."""
    return sum(is_due(shards.get(shard), now, period_seconds) for shard in SHARDS)
