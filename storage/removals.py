"""Removals under way: announced before anything is taken, so that whoever comes to rely on it meanwhile can wait.

A removal announces itself and then looks whether it may go on; who relies on something writes that down and then
looks for announcements. Both act before they look, so that one of them sees the other. An announcement counts for a
few seconds only: a process that dies in the middle keeps nobody waiting for longer, and has taken nothing that is
relied on.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused, StorageUnavailable
from storage.walk import is_empty, walk

ANNOUNCED_SECONDS = 6.0
TAKEN_SECONDS_MAX = 3.0
"""So long after its announcement a removal may still take something. What lies between is for clocks that differ."""

PAUSE_SECONDS = 0.01
TEXT_BYTES_MAX = 64
PAGE = 500


class Removal:
    """One announced removal."""

    def __init__(self, key: str, started: float, clock: Callable[[], float]) -> None:
        self._key = key
        self._started = started
        self._clock = clock

    @property
    def is_late(self) -> bool:
        """Whether others may have stopped waiting."""
        return not 0 <= self._clock() - self._started <= TAKEN_SECONDS_MAX

    def check_time(self) -> None:
        """Raise StorageUnavailable if it is too late to take anything."""
        if self.is_late:
            raise StorageUnavailable("the removal took too long, and has removed nothing", key=self._key)


class RemovalStore:
    """Announcements of removals, of blob links and of manifests."""

    def __init__(
        self,
        driver: Driver,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._new_id = new_id
        self._pause = pause

    @asynccontextmanager
    async def of_blob(self, repository: str, digest: Digest) -> AsyncIterator[Removal]:
        """Announce that a blob may be taken from a repository, until the end of the `with` block."""
        async with self._announced(keys.blob_removals(repository, digest)) as removal:
            yield removal

    @asynccontextmanager
    async def of_manifest(self, repository: str, digest: Digest) -> AsyncIterator[Removal]:
        """Announce that a manifest may be taken from a repository, until the end of the `with` block."""
        async with self._announced(keys.manifest_removals(repository, digest)) as removal:
            yield removal

    async def wait_for_blobs(self, repository: str, digests: Iterable[Digest]) -> None:
        """Return once none of the blobs is about to be removed."""
        await self._wait([keys.blob_removals(repository, digest) for digest in digests])

    async def wait_for_manifest(self, repository: str, digest: Digest) -> None:
        """Return once the manifest is not about to be removed."""
        await self._wait([keys.manifest_removals(repository, digest)])

    async def expire(self) -> int:
        """Drop the announcements of processes that have died; returns how many."""
        dropped = 0
        async for place in walk(self._driver, keys.REMOVALS):
            if not await self._counts(place.key):
                await self._driver.delete(place.key)
                dropped += 1
        return dropped

    @asynccontextmanager
    async def _announced(self, prefix: str) -> AsyncIterator[Removal]:
        key, started = f"{prefix}{self._new_id()}", self._clock()
        await self._driver.create(key, f"{started + ANNOUNCED_SECONDS!r}".encode())
        try:
            yield Removal(key, started, self._clock)
        finally:
            # What stays behind if the store fails now stops counting by itself.
            with contextlib.suppress(StorageUnavailable):
                await self._driver.delete(key)

    async def _wait(self, prefixes: Iterable[str]) -> None:
        if await is_empty(self._driver, keys.REMOVALS):
            return  # as nearly always
        for prefix in prefixes:
            while await self._any_counts(prefix):
                await self._pause(PAUSE_SECONDS)

    async def _any_counts(self, prefix: str) -> bool:
        after = ""
        while True:
            page = await self._driver.list(prefix, after=after, limit=PAGE)
            for entry in page.entries:
                if await self._counts(entry.key):
                    return True
            if not page.more:
                return False
            after = page.entries[-1].key

    async def _counts(self, key: str) -> bool:
        try:
            until = float((await self._driver.get(key, bytes_max=TEXT_BYTES_MAX)).body)
        except (Corrupt, StorageRefused, ValueError):
            return False  # a power cut has left it
        except NotFound:
            return False
        # One from the far future comes from a clock that has been set back since.
        return self._clock() < until <= self._clock() + 2 * ANNOUNCED_SECONDS
