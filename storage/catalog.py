"""The catalog: which repositories there are. An index that can be rebuilt from the tree."""

import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from storage import keys
from storage.drivers import Driver
from storage.errors import NotFound
from storage.removals import TRUSTED_SECONDS

ENTERED_MAX = 4096
PAGE = 1000


class CatalogStore:
    """A repository enters with its first manifest."""

    def __init__(self, driver: Driver, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._driver = driver
        self._clock = clock
        self._entered: OrderedDict[str, float] = OrderedDict()

    @property
    def page_entries(self) -> int:
        """How many entries a page should have at least: fewer cost as much."""
        return self._driver.capabilities.page_entries

    async def add(self, repository: str, *, trust: bool = False) -> None:
        """Enter a repository; entering it again is fine.

        `trust` says that no entry was taken from the catalog within TRUSTED_SECONDS: then one that was seen in that
        time is not looked for.
        """
        now = self._clock()
        if trust and 0 <= now - self._entered.get(repository, -math.inf) <= TRUSTED_SECONDS:
            return
        if not await self.has(repository):
            await self._driver.put(keys.catalog_entry(repository), b"")
        self._entered[repository] = now
        self._entered.move_to_end(repository)
        if len(self._entered) > ENTERED_MAX:
            self._entered.popitem(last=False)

    async def has(self, repository: str) -> bool:
        """Tell whether the repository is known."""
        try:
            await self._driver.stat(keys.catalog_entry(repository))
        except NotFound:
            return False
        return True

    async def remove(self, repository: str) -> None:
        """Take a repository out. Whoever does announces it, and looks afterwards whether that was right."""
        self._entered.pop(repository, None)
        await self._driver.delete(keys.catalog_entry(repository))

    async def names(self) -> AsyncIterator[str]:
        """Yield every repository, in byte order."""
        after, more = "", True
        while more:
            names, more = await self.list(after=after, limit=PAGE)
            for name in names:
                yield name
            after = names[-1] if names else after

    async def list(self, *, after: str = "", limit: int) -> tuple[list[str], bool]:
        """Repositories whose names are greater than `after` in byte order, and whether there are more."""
        start = keys.catalog_entry(after) if after else ""
        page = await self._driver.list(keys.CATALOG, after=start, limit=limit)
        names = [entry.key.removeprefix(keys.CATALOG) for entry in page.entries]
        return [name.removesuffix(keys.CATALOG_END) for name in names], page.more
