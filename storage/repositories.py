"""Repositories as a whole: what lies in one, and what is left of one that is deleted."""

import contextlib
from collections.abc import AsyncIterator

from storage import keys
from storage.blobs import SOURCE_BYTES_MAX
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound
from storage.places import Kind, Place
from storage.walk import is_empty, walk


class RepositoryStore:
    """Never looks into the repositories that lie inside another one."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def holds_manifests(self, repository: str) -> bool:
        """Tell whether a manifest is left. A tag without one is about to be taken back."""
        return not await is_empty(self._driver, keys.revisions(repository))

    async def holds_content(self, repository: str) -> bool:
        """Tell whether anything is left that can be pulled: a manifest, a tag or a blob."""
        prefixes = (keys.manifests(repository), keys.layers(repository))
        return not all([await is_empty(self._driver, prefix) for prefix in prefixes])

    async def holds_anything(self, repository: str) -> bool:
        """Tell whether anything at all is left, apart from the entry in the catalog and from announcements."""
        prefixes = (
            keys.uploads(repository),
            keys.media_types(repository),
            keys.subjects(repository),
            *keys.repository_records(repository),
        )
        if await self.holds_content(repository):
            return True
        return not all([await is_empty(self._driver, prefix) for prefix in prefixes])

    async def layers(self, repository: str) -> list[Digest]:
        """The digest of every blob that it links to."""
        return [place.digest async for place in walk(self._driver, keys.layers(repository)) if place.digest is not None]

    async def media_types(self, repository: str) -> list[Digest]:
        """The digest of every manifest whose media type is stored."""
        found = walk(self._driver, keys.media_types(repository))
        return [place.digest async for place in found if place.digest is not None]

    async def referrers(self, repository: str) -> list[tuple[Digest, Digest]]:
        """Subject and digest of every referrer."""
        found = walk(self._driver, keys.subjects(repository))
        return [(place.subject, place.digest) async for place in found if place.subject and place.digest]

    async def forget_source(self, repository: str, digest: Digest) -> None:
        """Forget that mounts find a blob here. What another repository has written meanwhile is a hint, and may go."""
        key = keys.blob_source(digest)
        with contextlib.suppress(NotFound):
            if (await self._driver.get(key, bytes_max=SOURCE_BYTES_MAX)).body == repository.encode("ascii"):
                await self._driver.delete(key)

    async def forget_past(self, repository: str) -> None:
        """Delete what is known of the past of tags that are not there.

        Whoever sets a tag sets it first, and then writes down that he did: what is found of a tag that is there may
        be of one that was just set.
        """
        for prefix in keys.repository_records(repository):
            async for place in walk(self._driver, prefix):
                if not place.name or not await self._is_there(keys.tag_link(repository, place.name)):
                    await self._driver.delete(place.key)

    async def drop_foreign_uploads(self, repository: str) -> None:
        """Delete what lies in the place of upload sessions and belongs to none of ours."""
        async for place in self._foreign_uploads(repository):
            await self._driver.delete(place.key)

    async def _foreign_uploads(self, repository: str) -> AsyncIterator[Place]:
        async for place in walk(self._driver, keys.uploads(repository)):
            is_ours = place.name and await self._is_there(keys.upload_record(place.name))
            if not is_ours:
                yield place

    async def drop_strays(self, repository: str) -> None:
        """Delete what lies in it and is nothing that anybody knows."""
        for prefix in (keys.manifests(repository), keys.layers(repository)):
            async for place in walk(self._driver, prefix):
                if place.kind in {Kind.STRAY, Kind.TEMPORARY}:
                    await self._driver.delete(place.key)

    async def tidy(self, repository: str) -> None:
        """Remove empty folders, by which distribution takes it for a repository."""
        for prefix in (keys.uploads(repository), keys.manifests(repository), keys.layers(repository)):
            await self._driver.tidy(prefix)

    async def _is_there(self, key: str) -> bool:
        try:
            await self._driver.stat(key)
        except NotFound:
            return False
        return True
