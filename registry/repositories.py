"""Deleting a whole repository, while others push to it.

Names go before links, and what refers to something goes before that: at every instant what is left is whole. What is
pushed meanwhile stays, and with it everything that it needs: before it takes a batch, the deletion announces itself and
then looks what is needed, as pushes publish and then look. After a crash, whoever asks again goes on where it ended.
"""

import asyncio
import contextlib
import graphlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from registry.errors import Denied, ManifestUnknown, NameUnknown, Unsupported
from registry.immutability import Immutability
from registry.manifests import Changes, Manifests, ManifestStores
from registry.names import RepositoryName, Tag
from registry.references import References
from storage.digest import SHA256, Digest
from storage.errors import NotFound
from storage.manifests import ManifestStore
from storage.removals import Removal
from storage.repositories import RepositoryStore
from storage.tags import DELETED
from storage.timelines import Cause
from storage.together import together
from storage.uploads import UploadStore

PAGE = 1000
ENTRY_ATTEMPTS_MAX = 20
PAUSE_SECONDS = 0.05
"""Between two batches: pushes that wait for an announcement to end get a turn."""

BATCH_SECONDS_MAX = 1.0
"""After which an announcement ends and another begins; it is late after TAKEN_SECONDS_MAX."""


@dataclass(slots=True)
class Deleted:
    """How many of each were deleted. `is_gone` says that nothing is left: nothing was pushed meanwhile."""

    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    uploads: int = 0
    is_gone: bool = False

    def counts(self) -> dict[str, int]:
        """How many of each, by name."""
        return {"tags": self.tags, "manifests": self.manifests, "blobs": self.blobs, "uploads": self.uploads}

    def told(self) -> dict[str, str]:
        """What the audit trail tells of it."""
        return {name: str(count) for name, count in self.counts().items()} | {"gone": "yes" if self.is_gone else "no"}


@dataclass(frozen=True, slots=True)
class Summary:
    """What a repository holds."""

    name: str
    tags: int
    manifests: int


class Repositories:
    """Deletes repositories, and never looks into those that lie inside of another one."""

    def __init__(
        self,
        stores: ManifestStores,
        manifests: Manifests,
        uploads: UploadStore,
        contents: RepositoryStore,
        *,
        immutability: Immutability | None = None,
        delete: bool = True,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stores = stores
        self._manifests = manifests
        self._uploads = uploads
        self._contents = contents
        self._immutability = immutability or Immutability()
        self._delete = delete
        self._pause = pause

    async def delete(
        self,
        repository: RepositoryName,
        *,
        force: bool = False,
        deleted: Deleted | None = None,
        cause: Cause = DELETED,
    ) -> Deleted:
        """Delete everything that is in a repository now, and return what that was; `deleted` is told as it happens.

        The history of its tags goes with them, but for tags that are set meanwhile: it is told `cause`.

        Raises NameUnknown; Unsupported where deletion is switched off, and Denied if the repository has an immutable
        tag, unless forced. Bytes that other repositories link to stay, as all bytes do until they are collected.
        """
        deleted = deleted or Deleted()
        if not self._delete and not force:
            raise Unsupported("deletion is switched off: set delete = true in the configuration")
        if not await self._is_known(repository):
            raise NameUnknown("there is no such repository")
        if not force:
            await self._refuse_immutable(repository)
        await self._take_tags(repository, deleted, cause, force=force)
        contents = _Contents(
            self._stores,
            self._manifests,
            self._contents,
            repository,
            deleted=deleted,
            cause=cause,
            pause=self._pause,
        )
        await contents.take_manifests()
        await self._take_uploads(repository, deleted)
        await contents.take_blobs()
        await self._take_leftovers(repository)
        await self._take_entry(repository)
        await self._contents.tidy(repository)
        deleted.is_gone = not await self._contents.holds_content(repository)
        return deleted

    async def list(self) -> AsyncIterator[Summary]:
        """Yield every repository of the catalog, in byte order."""
        after, more = "", True
        while more:
            names, more = await self._stores.catalog.list(after=after, limit=PAGE)
            for name in names:
                tags = await self._stores.tags.list(name, limit=sys.maxsize)
                manifests = await all_manifests(self._stores.manifests, name)
                yield Summary(name, len(tags.tags), len(manifests))
            after = names[-1] if names else after

    async def _is_known(self, repository: RepositoryName) -> bool:
        if await self._stores.catalog.has(repository) or await self._contents.holds_anything(repository):
            return True
        return bool(await self._uploads.of_repository(repository))

    async def _refuse_immutable(self, repository: RepositoryName) -> None:
        if not self._immutability.covers_any_of(repository):
            return
        for tag in await self._stores.tags.names(repository):
            refuse = self._immutability.on_delete(repository, tag)
            seen = None if refuse is None else await self._stores.tags.see(repository, tag)
            if refuse is not None and (seen is None or seen.link is not None):
                refuse(None if seen is None else seen.digest)

    async def _take_tags(self, repository: RepositoryName, deleted: Deleted, cause: Cause, *, force: bool) -> None:
        async def take(tag: str) -> None:
            try:
                await self._manifests.delete(repository, Tag(tag), force=force, cause=cause)
                deleted.tags += 1
            except (ManifestUnknown, Denied):
                pass  # gone, or an immutable one that was set since

        tags = await self._stores.tags.names(repository)
        await together([partial(take, tag) for tag in tags], self._stores.calls_at_once)

    async def _take_uploads(self, repository: RepositoryName, deleted: Deleted) -> None:
        for upload in await self._uploads.of_repository(repository):
            await self._uploads.cancel(repository, upload)
            deleted.uploads += 1
        await self._contents.drop_foreign_uploads(repository)

    async def _take_leftovers(self, repository: RepositoryName) -> None:
        """Take what is told of manifests that are not there, whatever it was that was cut off."""
        for digest in await self._contents.media_types(repository):
            await self._stores.manifests.forget_media_type_if_gone(repository, digest)
        for subject, digest in await self._contents.referrers(repository):
            await self._manifests.forget_referrer(repository, subject, digest)
        await self._contents.forget_past(repository)
        await self._contents.drop_strays(repository)

    async def _take_entry(self, repository: RepositoryName) -> None:
        if await self._contents.holds_manifests(repository):
            return
        async with self._stores.removals.of_entry(repository):
            # A push links its manifest and then looks at the catalog, or finds no announcement and relies on what it
            # saw earlier. Whatever it saw, the manifest is there by now.
            if await self._contents.holds_manifests(repository):
                return
            for _attempt in range(ENTRY_ATTEMPTS_MAX):
                await self._stores.catalog.remove(repository)
                if not await self._contents.holds_manifests(repository):
                    return
                await self._stores.catalog.add(repository)
                # Another deletion may have taken the manifest, and the entry before it was put back.
                if await self._contents.holds_manifests(repository):
                    return


class _Contents:
    """Takes the manifests and the blobs of one repository, batch by batch."""

    def __init__(
        self,
        stores: ManifestStores,
        manifests: Manifests,
        contents: RepositoryStore,
        repository: RepositoryName,
        *,
        deleted: Deleted,
        cause: Cause,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._cause = cause
        self._stores = stores
        self._manifests = manifests
        self._contents = contents
        self._repository = repository
        self._deleted = deleted
        self._pause = pause
        self._reader = References(stores.manifests)
        self._references: dict[Digest, frozenset[Digest]] = {}

    async def take_manifests(self) -> None:
        """Take every manifest that is there now, and that nothing needs which is pushed meanwhile."""
        doomed = await self._revisions()
        await self._read(doomed)
        for level in _parents_first({digest: self._references.get(digest, frozenset()) for digest in doomed}):
            await self._take_all(level, self._take_manifest, self._restore_manifest)

    async def take_blobs(self) -> None:
        """Take every blob that is there now, and that no manifest needs."""
        await self._take_all(await self._contents.layers(self._repository), self._take_blob, self._restore_blob)

    async def _revisions(self, removal: Removal | None = None) -> Sequence[Digest]:
        return await all_manifests(self._stores.manifests, self._repository, partial(_in_time, removal))

    async def _read(self, revisions: Sequence[Digest], removal: Removal | None = None) -> None:
        """Read what manifests refer to, those that were not read yet."""

        async def read(digest: Digest) -> None:
            await _in_time(removal)
            references = await self._reader.read(self._repository, digest)
            # One that can't be read refers to nothing, as it can't be pulled; until it is pushed again.
            if references is not None:
                self._references[digest] = frozenset(references)
            await asyncio.sleep(0)

        new = [digest for digest in revisions if digest not in self._references]
        await together([partial(read, digest) for digest in new], self._stores.calls_at_once)

    async def _needed(self, doomed: Collection[Digest], removal: Removal) -> set[Digest]:
        """What tags, and manifests that are not doomed, need by now.

        What is kept of a level needs others in turn, which come in a later one: by then it is not doomed.
        """
        present = await self._revisions(removal)
        await self._read(present, removal)
        kept = [digest for digest in present if digest not in doomed]
        needed = {each for digest in kept for each in self._references.get(digest, ())}
        for tag in await self._stores.tags.names(self._repository):
            await _in_time(removal)
            with contextlib.suppress(NotFound):
                needed.add(await self._stores.tags.get(self._repository, tag))
        for digest in [each for each in needed if each.algorithm != SHA256]:
            # Behind a link by another digest there has to be one by the digest that the bytes lie under.
            await _in_time(removal)
            with contextlib.suppress(NotFound):
                needed.add(await self._stores.blobs.resolve(self._repository, digest))
        return needed

    async def _take_all(
        self,
        doomed: Sequence[Digest],
        take: Callable[[Digest], Awaitable[Digest | None]],
        restore: Callable[[Digest, Digest], Awaitable[None]],
    ) -> None:
        left = list(doomed)
        while left:
            async with self._stores.removals.of_repository(self._repository) as removal:
                left = await self._take_batch(removal, left, take, restore)
            if left:
                await self._pause(PAUSE_SECONDS)

    async def _take_batch(
        self,
        removal: Removal,
        left: Sequence[Digest],
        take: Callable[[Digest], Awaitable[Digest | None]],
        restore: Callable[[Digest, Digest], Awaitable[None]],
    ) -> list[Digest]:
        """Take what nobody needs, until the time is over; returns the rest. Raises StorageUnavailable if it is late."""
        needed = await self._needed(set(left), removal)
        await removal.extend()
        waiting = [digest for digest in left if digest not in needed]
        taken: dict[Digest, Digest] = {}
        at_once = self._stores.calls_at_once

        async def take_one(digest: Digest) -> None:
            if not removal.is_over(BATCH_SECONDS_MAX):
                canonical = await take(digest)
                taken[digest] = canonical or digest

        while waiting and not removal.is_over(BATCH_SECONDS_MAX):
            now, waiting = waiting[:at_once], waiting[at_once:]
            await together([partial(take_one, digest) for digest in now], at_once)
            waiting = [digest for digest in now if digest not in taken] + waiting
            await asyncio.sleep(0)
        if removal.is_late:
            # This process stood still, and a push may have waited no longer.
            await removal.announce()
            needed = await self._needed(set(waiting), removal)
            for digest in needed & taken.keys():
                await restore(digest, taken[digest])
        return waiting

    async def _take_manifest(self, digest: Digest) -> Digest | None:
        canonical: Digest | None = None
        with contextlib.suppress(NotFound):
            canonical = await self._stores.manifests.resolve(self._repository, digest)
        changes = Changes()
        await self._manifests.take(self._repository, digest, changes=changes, cause=self._cause)
        self._deleted.manifests += changes.deleted is not None
        return canonical

    async def _restore_manifest(self, digest: Digest, canonical: Digest) -> None:
        await self._stores.manifests.link(self._repository, digest, canonical=canonical)
        self._deleted.manifests -= 1

    async def _take_blob(self, digest: Digest) -> Digest | None:
        canonical: Digest | None = None
        with contextlib.suppress(NotFound):
            canonical = await self._stores.blobs.resolve(self._repository, digest)
        # First, since nothing leads to it afterwards. Losing a hint costs a longer search.
        await self._contents.forget_source(self._repository, digest)
        with contextlib.suppress(NotFound):
            await self._stores.blobs.unlink(self._repository, digest)
            self._deleted.blobs += 1
        return canonical

    async def _restore_blob(self, digest: Digest, canonical: Digest) -> None:
        await self._stores.blobs.link(self._repository, digest, canonical=canonical)
        self._deleted.blobs -= 1


async def all_manifests(
    manifests: ManifestStore, repository: str, at_page: Callable[[], Awaitable[None]] | None = None
) -> Sequence[Digest]:
    """Every manifest of a repository, in the order of their keys; `at_page` is called ahead of each page."""
    found: list[Digest] = []
    while True:
        if at_page is not None:
            await at_page()
        page = await manifests.list(repository, after=found[-1] if found else None, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found


async def _in_time(removal: Removal | None) -> None:
    """Let an announcement count for as long as the look takes."""
    if removal is not None and removal.is_over(BATCH_SECONDS_MAX):
        await removal.extend()


def _parents_first(references: Mapping[Digest, frozenset[Digest]]) -> list[list[Digest]]:
    """Manifests by levels, each level ahead of everything that those in it refer to."""
    sorter: graphlib.TopologicalSorter[Digest] = graphlib.TopologicalSorter()
    for digest, referred in references.items():
        sorter.add(digest)
        for child in referred & references.keys():
            sorter.add(child, digest)
    sorter.prepare()
    levels = []
    while sorter.is_active():
        level = list(sorter.get_ready())
        levels.append(level)
        sorter.done(*level)
    return levels
