"""Removals, under way and of late: announced before anything is taken, and written down until long after.

A removal announces itself and then looks whether it may go on; who relies on something writes that down and then
looks for announcements. Both act before they look, so that one of them sees the other. An announcement counts for a
few seconds only: a process that dies in the middle keeps nobody waiting for longer, and has taken nothing that is
relied on.

What was announced stays written down for KEPT_SECONDS. So one listing tells whether anything was taken from a
repository lately, and if nothing was, what has been looked up within TRUSTED_SECONDS still is as it was found.
Whatever takes a blob's link, a manifest, a tag or a catalog entry has to announce it here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused, StorageUnavailable
from storage.places import Place
from storage.walk import walk

ANNOUNCED_SECONDS = 6.0
TAKEN_SECONDS_MAX = 3.0
"""So long after its announcement a removal may still take something. What lies between is for clocks that differ."""

CLOCKS_DIFFER_SECONDS = ANNOUNCED_SECONDS - TAKEN_SECONDS_MAX

KEPT_SECONDS = 900.0
TRUSTED_SECONDS = 600.0
"""So long what was looked up is taken for true if no removal is written down. What lies between is for clocks that
differ, and for removals that stand still."""

PAUSE_SECONDS = 0.01
TEXT_BYTES_MAX = 64
RECENT_MAX = 1000
"""So many are looked through: one call to a bucket. Where there are more, everything counts as taken."""

DONE = b" done"


class Removal:
    """One announced removal."""

    def __init__(self, key: str, clock: Callable[[], float], write: Callable[[], Awaitable[float]]) -> None:
        self._key = key
        self._clock = clock
        self._write = write
        self._started = clock()

    async def announce(self) -> None:
        """Let it count from now on."""
        self._started = await self._write()

    async def extend(self) -> None:
        """Let it count from now on, so that a long look is in time. Raises StorageUnavailable if it is late already."""
        self.check_time()
        await self.announce()
        self.check_time()

    @property
    def is_late(self) -> bool:
        """Whether others may have stopped waiting."""
        return self.is_over(TAKEN_SECONDS_MAX)

    def is_over(self, seconds: float) -> bool:
        """Whether it began more than so many seconds ago."""
        return not 0 <= self._clock() - self._started <= seconds

    def check_time(self) -> None:
        """Raise StorageUnavailable if it is too late to take anything."""
        if self.is_late:
            raise StorageUnavailable("the removal took too long, and has removed nothing", key=self._key)


@dataclass(frozen=True, slots=True)
class Recent:
    """What may have been taken from a repository of late: whatever is not said to be untouched has to be looked up."""

    repository: str
    folders: frozenset[str]
    is_complete: bool

    def touches_blob(self, digest: Digest) -> bool:
        """Tell whether a blob's link may have been taken."""
        return self.may_be_collected or self._touches(keys.blob_removals(self.repository, digest))

    def touches_manifest(self, digest: Digest) -> bool:
        """Tell whether a manifest may have been taken."""
        return self.may_be_collected or self._touches(keys.manifest_removals(self.repository, digest))

    def touches(self, digest: Digest) -> bool:
        """Tell whether a blob's link or a manifest may have been taken."""
        return self.touches_blob(digest) or self.touches_manifest(digest)

    def touches_tag(self, tag: str) -> bool:
        """Tell whether a tag, or an entry of its index, may have been taken."""
        return self.may_be_collected or self._touches(keys.tag_removals(self.repository, tag))

    def touches_entry(self) -> bool:
        """Tell whether the repository's entry in the catalog may have been taken."""
        return self._touches(keys.entry_removals(self.repository))

    @property
    def may_be_collected(self) -> bool:
        """Whether a garbage collection may have taken anything."""
        return not self.is_complete or keys.collection_removals(self.repository) in self.folders

    def _touches(self, folder: str) -> bool:
        whole = keys.repository_removals(self.repository)
        return not self.is_complete or folder in self.folders or whole in self.folders


class RemovalStore:
    """Announcements of removals: of blob links, manifests, tags, entries of the catalog, and whole repositories."""

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

    def now(self) -> float:
        """When a look begins whose result is to be trusted later, see `recent`."""
        return self._clock()

    async def rest(self, seconds: float) -> None:
        """Wait, as everything here does."""
        await self._pause(seconds)

    async def recent(self, repository: str, *, since: float) -> Recent:
        """Tell what may have been taken from a repository between `since` and now."""
        return await self._recent(repository, keys.removals(repository), since)

    async def recent_tags(self, repository: str) -> Recent:
        """Tell which tags may have been deleted within the last KEPT_SECONDS, or are being deleted."""
        return await self._recent(repository, keys.tags_removals(repository), self._clock())

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

    @asynccontextmanager
    async def of_tag(self, repository: str, tag: str) -> AsyncIterator[Removal]:
        """Announce that a tag may be deleted, until the end of the `with` block. Nobody waits for it."""
        async with self._announced(keys.tag_removals(repository, tag), durable=False) as removal:
            yield removal

    @asynccontextmanager
    async def of_repository(self, repository: str) -> AsyncIterator[Removal]:
        """Announce that any blob and manifest may be taken from a repository, until the end of the `with` block.

        For what takes many things one after the other: it ends before it is late, and begins anew.
        """
        async with self._announced(keys.repository_removals(repository)) as removal:
            yield removal

    @asynccontextmanager
    async def of_entry(self, repository: str) -> AsyncIterator[Removal]:
        """Announce that a repository may be taken from the catalog, until the end of the `with` block."""
        async with self._announced(keys.entry_removals(repository)) as removal:
            yield removal

    @asynccontextmanager
    async def of_collection(self, repository: str, run: str) -> AsyncIterator[Removal]:
        """Announce that a garbage collection may take any blob or manifest, until the end of the `with` block.

        All announcements of a run for a repository are one object, which is written again for each.
        """
        async with self._announced(keys.collection_removals(repository), name=run) as removal:
            yield removal

    @asynccontextmanager
    async def of_retry(self, repository: str) -> AsyncIterator[Removal]:
        """Announce that a push puts right what a garbage collection has taken from under it: tags may go back."""
        async with self._announced(keys.retry_removals(repository)) as removal:
            yield removal

    async def wait_for_blobs(self, repository: str, digests: Iterable[Digest]) -> None:
        """Return once none of the blobs is about to be removed."""
        await self._wait(repository, {keys.blob_removals(repository, digest) for digest in digests})

    async def wait_for_manifest(self, repository: str, digest: Digest) -> None:
        """Return once the manifest is not about to be removed."""
        await self._wait(repository, {keys.manifest_removals(repository, digest)})

    async def collected_since(self, repository: str, since: float) -> bool:
        """Tell whether a garbage collection may have taken anything at `since` or later, by the announcements."""
        return await self._any(keys.collection_removals(repository), since - CLOCKS_DIFFER_SECONDS)

    async def deleted_since(self, repository: str, digest: Digest, since: float) -> bool:
        """Tell whether somebody has been deleting the manifest at `since` or later."""
        folders = (keys.manifest_removals(repository, digest), keys.repository_removals(repository))
        return any([await self._any(folder, since) for folder in folders])

    async def of_manifests(self, repository: str) -> dict[str, bool]:
        """All announcements of deletions of manifests, and of pushes that put something right; whether each counts."""
        found: dict[str, bool] = {}
        folders = f"{keys.removals(repository)}_revisions/", keys.repository_removals(repository)
        for prefix in (*folders, keys.retry_removals(repository)):
            async for place in walk(self._driver, prefix):
                text = await self._read(place.key)
                if text is not None:
                    found[place.key] = self._counts(text)
        return found

    async def _any(self, prefix: str, since: float) -> bool:
        async for place in walk(self._driver, prefix):
            text = await self._read(place.key)
            if text is not None and (self._counts(text) or until_of(text) - ANNOUNCED_SECONDS >= since):
                return True
        return False

    async def expire(self, end_tag_removal: Callable[[str, str], Awaitable[None]]) -> int:
        """Forget removals that have ended, or whose processes have died, long ago; returns how many.

        `end_tag_removal(repository, tag)` is called ahead of that for a tag whose deletion did not say that it was
        through.
        """
        dropped = 0
        async for place in walk(self._driver, keys.REMOVALS):
            text = await self._read(place.key)
            if text is None or not self._is_over(text):
                continue
            if _is_of_tag(place) and not text.endswith(DONE):
                await end_tag_removal(place.repository, place.name)
            await self._driver.delete(place.key)
            dropped += 1
        return dropped

    async def has_died(self, key: str) -> bool:
        """Tell whether a removal neither counts any more nor has said that it was through."""
        text = await self._read(key)
        return text is not None and not text.endswith(DONE) and not self._counts(text)

    @asynccontextmanager
    async def _announced(self, prefix: str, *, durable: bool = True, name: str = "") -> AsyncIterator[Removal]:
        key = f"{prefix}{name or self._new_id()}"
        written = False

        async def write() -> float:
            nonlocal written
            now = self._clock()
            if name:
                await self._driver.put(key, self._text_now())
            elif durable and not written:
                await self._driver.create(key, self._text_now())
            else:
                await self._driver.put(key, self._text_now(), durable=False)
            written = True
            return now

        removal = Removal(key, self._clock, write)
        await removal.announce()
        try:
            yield removal
        finally:
            # What stays behind if the store fails now stops counting by itself.
            with contextlib.suppress(StorageUnavailable):
                await self._driver.put(key, self._text_now() + DONE, durable=False)

    def _text_now(self) -> bytes:
        return announcement(self._clock())

    async def _recent(self, repository: str, prefix: str, since: float) -> Recent:
        page = await self._driver.list(prefix, limit=RECENT_MAX)
        folders = frozenset(entry.key[: entry.key.rfind("/") + 1] for entry in page.entries)
        is_fresh = 0 <= self._clock() - since <= TRUSTED_SECONDS
        return Recent(repository, folders, is_fresh and not page.more)

    async def _wait(self, repository: str, folders: Collection[str]) -> None:
        # What takes anything of the repository takes this as well.
        folders = {*folders, keys.collection_removals(repository), keys.repository_removals(repository)}
        while await self._any_counts(repository, folders):
            await self._pause(PAUSE_SECONDS)

    async def _any_counts(self, repository: str, folders: Collection[str]) -> bool:
        async for place in walk(self._driver, keys.removals(repository)):
            if place.key[: place.key.rfind("/") + 1] in folders:
                text = await self._read(place.key)
                if text is not None and self._counts(text):
                    return True
        return False

    async def _read(self, key: str) -> bytes | None:
        return await read_announcement(self._driver, key)

    def _counts(self, text: bytes) -> bool:
        return counts(text, self._clock())

    def _is_over(self, text: bytes) -> bool:
        return not self._clock() - KEPT_SECONDS <= until_of(text) <= self._clock() + KEPT_SECONDS


async def read_announcement(driver: Driver, key: str) -> bytes | None:
    """The text of an announcement: empty for one that can't be read, None if there is none."""
    try:
        return (await driver.get(key, bytes_max=TEXT_BYTES_MAX)).body
    except (Corrupt, StorageRefused):
        return b""  # a power cut has left it
    except NotFound:
        return None


def announcement(now: float) -> bytes:
    """The text of an announcement that is made now."""
    return f"{now + ANNOUNCED_SECONDS!r}".encode()


def counts(text: bytes, now: float) -> bool:
    """Tell whether an announcement holds: whoever relies on what it is about waits."""
    # One from the far future comes from a clock that has been set back since.
    return not text.endswith(DONE) and now < until_of(text) <= now + 2 * ANNOUNCED_SECONDS


def until_of(text: bytes) -> float:
    """Until when an announcement counts, or would if its removal had not ended; 0 for a damaged one."""
    try:
        return float(text.removesuffix(DONE))
    except ValueError:
        return 0.0


def _is_of_tag(place: Place) -> bool:
    return bool(place.name) and place.digest is None
