"""The catalog as clients see it: the names of all repositories in byte order."""

from storage.catalog import CatalogStore


class Catalog:
    """Not part of OCI; every client of distribution knows it."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    async def list(self, *, after: str = "", limit: int) -> tuple[list[str], bool]:
        """Names greater than `after`, at most `limit`, and whether there are more."""
        return await self._store.list(after=after, limit=limit)
