"""The catalog: which repositories there are. An index that can be rebuilt from the tree."""

from storage import keys
from storage.drivers import Driver
from storage.errors import NotFound


class CatalogStore:
    """A repository enters with its first manifest."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def add(self, repository: str) -> None:
        """Enter a repository; entering it again is fine."""
        if not await self.has(repository):
            await self._driver.put(keys.catalog_entry(repository), b"")

    async def has(self, repository: str) -> bool:
        """Tell whether the repository is known."""
        try:
            await self._driver.stat(keys.catalog_entry(repository))
        except NotFound:
            return False
        return True

    async def list(self, *, after: str = "", limit: int) -> tuple[list[str], bool]:
        """Repositories whose names are greater than `after` in byte order, and whether there are more."""
        start = keys.catalog_entry(after) if after else ""
        page = await self._driver.list(keys.CATALOG, after=start, limit=limit)
        names = [entry.key.removeprefix(keys.CATALOG) for entry in page.entries]
        return [name.removesuffix(keys.CATALOG_END) for name in names], page.more
