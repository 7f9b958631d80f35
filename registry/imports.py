"""What is known of tags that were set before their changes were written down, or by another registry.

distribution keeps, beside what a tag points at, a link for everything that it has pointed at: the tag's index. The time
of each of them is that of the last push of it. From these a history begins, and goes on where another registry was used
in between.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter

from registry.names import RepositoryName, is_tag
from storage import keys
from storage.catalog import CatalogStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused
from storage.history import HistoryStore
from storage.layout import is_unadopted
from storage.links import read_link
from storage.places import Kind
from storage.timelines import Cause, Why
from storage.walk import walk

IMPORTED = Cause("", Why.IMPORTED)


class Imports:
    """Adds to histories what the indexes of tags know besides. What is done twice adds nothing."""

    def __init__(self, driver: Driver, history: HistoryStore) -> None:
        self._driver = driver
        self._history = history
        self._catalog = CatalogStore(driver)

    async def are_done(self) -> bool:
        """Tell whether all histories have begun: from then on, only what is newer than their records is added."""
        try:
            await self._driver.stat(keys.IMPORTED)
        except NotFound:
            return False
        return True

    async def finish(self) -> None:
        """Write down that all histories have begun."""
        await self._driver.put(keys.IMPORTED, b"")

    async def begin(self) -> int:
        """Let all histories begin, once in the life of a store; returns how many changes were added.

        A store of another registry is left to adoption, which knows all repositories.
        """
        if await self.are_done() or await is_unadopted(self._driver):
            return 0
        added = 0
        async for name in self._catalog.names():
            added += await self.repository(RepositoryName(name), everything=True)
        await self.finish()
        return added

    async def known(self, repository: str) -> set[Digest]:
        """Every manifest that the indexes of a repository's tags know of."""
        return {
            place.digest
            async for place in walk(self._driver, keys.tags(repository))
            if place.kind is Kind.TAG_INDEX and place.digest is not None and place.repository == repository
        }

    async def repository(self, repository: RepositoryName, *, everything: bool) -> int:
        """Add what the indexes of a repository's tags know; returns how many changes that was.

        Without `everything`, of a tag that has a history only what was pushed after its newest record.
        """
        added, tag, known = 0, "", list[Digest]()
        async for place in walk(self._driver, keys.tags(repository)):
            if place.kind not in {Kind.TAG, Kind.TAG_INDEX} or place.repository != repository:
                continue
            if place.name != tag:
                added += await self._tag(repository, tag, known, everything=everything)
                tag, known = place.name, []
            if place.digest is not None:
                known.append(place.digest)
        return added + await self._tag(repository, tag, known, everything=everything)

    async def _tag(self, repository: RepositoryName, tag: str, index: Sequence[Digest], *, everything: bool) -> int:
        if not is_tag(tag):
            return 0
        try:
            current = await read_link(self._driver, keys.tag_link(repository, tag))
        except Corrupt:
            return 0  # it points at nothing; its push begins the history
        except NotFound:
            return 0  # what a deletion has left
        marks = await self._history.marks(repository, tag)
        told = {mark.new for mark in marks}
        since = -1 if everything or not marks else marks[-1].time
        times = [
            (time, digest)
            for digest in index
            if digest not in told | {current}
            and (time := await self._time(keys.tag_index_link(repository, tag, digest))) > since
        ]
        times.sort(key=_by_time)
        if current not in told:
            times = [*times, (await self._time(keys.tag_link(repository, tag)), current)]
        await self._write(repository, tag, times, [(mark.time, mark.new) for mark in marks])
        if marks and (marks[-1].new != current or times):
            await self._history.entries(repository, tag, limit=1)  # which observes what is missing
        return len(times)

    async def _write(
        self,
        repository: RepositoryName,
        tag: str,
        times: Sequence[tuple[int, Digest]],
        told: list[tuple[int, Digest | None]],
    ) -> None:
        last = 0
        for time, digest in times:
            last = max(time, last + 1)  # what was copied without its times is told in some order
            before = max((each for each in told if each[0] < last), key=itemgetter(0), default=(0, None))[1]
            await self._history.append(repository, tag, old=before, new=digest, cause=IMPORTED, time=last)
            told.append((last, digest))

    async def _time(self, key: str) -> int:
        """When an object was written, in microseconds since the epoch; -1 if it is gone."""
        try:
            return max(0, int((await self._driver.stat(key)).modified * 1_000_000))
        except (NotFound, StorageRefused):
            return -1


class HistoryUpkeep:
    """What a server does for histories now and then: lets them begin, and drops what is out of their window."""

    def __init__(
        self, imports: Imports, history: HistoryStore, *, clock: Callable[[], float], keep_seconds: float, last: int
    ) -> None:
        self._imports = imports
        self._history = history
        self._clock = clock
        self._keep_seconds = keep_seconds
        self._last = last

    async def run(self) -> int:
        """Do it; returns how many records were dropped."""
        await self._imports.begin()
        return await self._history.prune_all(since=self._clock() - self._keep_seconds, last=self._last)


def _by_time(found: tuple[int, Digest]) -> tuple[int, str]:
    return found[0], str(found[1])
