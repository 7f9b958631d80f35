"""The catalog as clients see it: the names of all repositories in byte order."""

from collections.abc import Callable

from storage.catalog import CatalogStore


class Catalog:
    """Not part of OCI; every client of distribution knows it."""

    def __init__(self, store: CatalogStore) -> None:
        self._store = store

    async def list(
        self, *, after: str = "", limit: int, shows: Callable[[str], bool] | None = None
    ) -> tuple[list[str], bool]:
        """Names greater than `after`, at most `limit` of those that `shows`, and whether there are more."""
        if shows is None:
            return await self._store.list(after=after, limit=limit)
        found: list[str] = []
        more = True
        while more:
            names, more = await self._store.list(after=after, limit=max(limit + 1, self._store.page_entries))
            for name in names:
                if not shows(name):
                    continue
                if len(found) == limit:
                    return found, True
                found.append(name)
            after = names[-1] if names else after
        return found, False
