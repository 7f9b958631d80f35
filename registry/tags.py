"""Tags as clients see them: a listing in byte order."""

from functools import partial

from registry.errors import NameUnknown
from registry.names import RepositoryName, is_tag
from storage.catalog import CatalogStore
from storage.manifests import ManifestStore
from storage.removals import RemovalStore
from storage.tags import TagPage, TagStore


class Tags:
    """A repository is known once it holds a manifest."""

    def __init__(
        self, store: TagStore, removals: RemovalStore, manifests: ManifestStore, catalog: CatalogStore
    ) -> None:
        self._store = store
        self._removals = removals
        self._manifests = manifests
        self._catalog = catalog

    async def list(self, repository: RepositoryName, *, after: str = "", limit: int) -> TagPage:
        """Tags greater than `after`, at most `limit` (end-8). Raises NameUnknown."""
        page = await self._store.list(
            repository,
            after=after,
            limit=limit,
            is_wanted=is_tag,
            recent=partial(self._removals.recent_tags, repository),
        )
        if not page.tags and not await self._is_known(repository):
            raise NameUnknown("there is no such repository: push a manifest to it first")
        return page

    async def _is_known(self, repository: RepositoryName) -> bool:
        # A repository that only another registry has written to has no entry in the catalog yet.
        return await self._catalog.has(repository) or bool(await self._manifests.list(repository, limit=1))
