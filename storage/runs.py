"""Runs of the garbage collection: their marker, and the looks and announcements that make them safe.

See storage/arrivals.py for the other side. One run at a time is a matter of a lease; what is here keeps the store
whole also if two of them believe to be the one. A run deletes nothing unless its marker was still there after it had
looked for arrivals; and one that ends waits, before it takes its marker away, for deletions that others have announced.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from storage import keys
from storage.arrivals import MANIFESTS, RUN_BYTES_MAX, RUN_SECONDS, State, marker_text, read_state
from storage.drivers import Driver
from storage.errors import NotFound, StorageUnavailable, VersionMismatch
from storage.places import Kind
from storage.removals import PAUSE_SECONDS, Removal, announcement, counts, read_announcement
from storage.walk import walk

MARGIN_SECONDS = 1.0
"""What is waited beyond the time that a look at the marker may be old."""

RENEW_SECONDS = RUN_SECONDS / 10
LATE_SECONDS = RUN_SECONDS / 2
"""A run whose marker was not written for that long gives up: others may soon take it for dead."""


class RunLost(StorageUnavailable):
    """Another run has taken over, or this one stood still for too long."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What arrived while a run was under way: canonical digests, as text."""

    manifests: set[str] = field(default_factory=set)
    blobs: set[str] = field(default_factory=set)


class Run:
    """One run, from its marker to its end."""

    def __init__(
        self,
        driver: Driver,
        run: str,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.id = run
        self._driver = driver
        self._clock = clock
        self._new_id = new_id
        self._pause = pause
        self._written = 0.0
        self._version = ""

    async def begin(self) -> None:
        """Put up the marker, and return when everybody sees it."""
        self._written = self._clock()
        self._version = await self._driver.put(keys.COLLECTION_RUN, marker_text(self.id, self._written))
        seconds = self._driver.capabilities.rare_seconds
        if seconds:
            await self._pause(seconds + MARGIN_SECONDS)
            await self.check()

    async def check(self) -> None:
        """See that the marker is there, and write it again now and then. Raises RunLost."""
        now = self._clock()
        try:
            if not 0 <= now - self._written <= LATE_SECONDS:
                raise RunLost("the collection stood still for too long", key=keys.COLLECTION_RUN)
            if now - self._written > RENEW_SECONDS:
                text = marker_text(self.id, now)
                self._version = await self._driver.replace(keys.COLLECTION_RUN, text, version=self._version)
                self._written = now
                return
            found = await self._driver.get(keys.COLLECTION_RUN, bytes_max=RUN_BYTES_MAX)
        except (VersionMismatch, NotFound) as error:
            raise RunLost("another collection has begun", key=keys.COLLECTION_RUN) from error
        if found.version != self._version:
            raise RunLost("another collection has begun", key=keys.COLLECTION_RUN)

    async def fresh(self) -> Fresh:
        """What has arrived. Raises RunLost if this is not the run that is told."""
        found = Fresh()
        # Of all runs: a process that has not seen this one's marker yet tells the one before it.
        async for place in walk(self._driver, keys.FRESH):
            if place.kind is Kind.FRESH:
                of_kind = found.manifests if place.key.split("/")[4] == MANIFESTS else found.blobs
                of_kind.add(str(place.digest))
        await self.check()
        return found

    @asynccontextmanager
    async def deleting(self, low: str, high: str) -> AsyncIterator[Removal]:
        """Announce that bytes may be deleted whose digests lie from `low` to `high`, both in hexadecimal digits."""
        key = keys.deleting(low, high, self._new_id())

        async def write() -> float:
            now = self._clock()
            await self._driver.put(key, announcement(now))
            return now

        removal = Removal(key, self._clock, write)
        await removal.announce()
        try:
            yield removal
        finally:
            # What stays behind if the store fails now stops counting by itself.
            with contextlib.suppress(StorageUnavailable):
                await self._driver.delete(key)

    async def end(self) -> None:
        """Let the marker say that it is over, unless it is another run's by now, and what only this run needed."""
        while await self._deletions(dead=False):
            await self._pause(PAUSE_SECONDS)
        left = [place.key async for place in walk(self._driver, keys.FRESH)]
        try:
            text = marker_text(self.id, self._clock(), is_on=False)
            await self._driver.replace(keys.COLLECTION_RUN, text, version=self._version)
        except VersionMismatch:
            return
        left += [place.key async for place in walk(self._driver, f"{keys.FRESH}{self.id}/")]
        await self._driver.delete_many(list(dict.fromkeys(left)))
        await self._driver.delete_many(await self._deletions(dead=True))

    async def _deletions(self, *, dead: bool) -> list[str]:
        found = []
        async for place in walk(self._driver, keys.DELETING):
            text = await read_announcement(self._driver, place.key)
            if text and counts(text, self._clock()) != dead:
                found.append(place.key)
        return found


async def state_of(driver: Driver, *, now: float) -> State:
    """The latest run, and whether it is under way."""
    try:
        return read_state((await driver.get(keys.COLLECTION_RUN, bytes_max=RUN_BYTES_MAX)).body, now)
    except NotFound:
        return State()
