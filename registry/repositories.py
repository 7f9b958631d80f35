"""Deleting a whole repository, while others push to it.

Names go before links, and what refers to something goes before that: at every instant what is left is whole. What is
pushed meanwhile stays, and with it everything that it needs: before it takes a batch, the deletion announces itself and
then looks what is needed, as pushes publish and then look. After a crash, whoever asks again goes on where it ended.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from registry.batches import Batches, all_manifests, in_time, parents_first
from registry.errors import Denied, ManifestUnknown, NameUnknown, Unsupported
from registry.immutability import Immutability
from registry.manifests import Changes, Manifests, ManifestStores
from registry.names import RepositoryName, Tag
from registry.references import References
from storage.digest import SHA256, Digest
from storage.errors import NotFound
from storage.removals import Removal
from storage.repositories import RepositoryStore
from storage.tags import DELETED
from storage.timelines import Cause
from storage.together import together
from storage.uploads import UploadStore

ENTRY_ATTEMPTS_MAX = 20


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
        contents = _Contents(self._stores, self._manifests, self._contents, repository, deleted=deleted, cause=cause)
        announced = partial(self._stores.removals.of_repository, repository)
        batches = Batches(announced, calls_at_once=self._stores.calls_at_once, pause=self._pause)
        for level in await contents.levels():
            await batches.take(level, _Manifests(contents))
        await self._take_uploads(repository, deleted)
        await batches.take(await self._contents.layers(repository), _Blobs(contents))
        await self._take_leftovers(repository)
        await self._take_entry(repository)
        await self._contents.tidy(repository)
        deleted.is_gone = not await self._contents.holds_content(repository)
        return deleted

    async def list(self) -> AsyncIterator[Summary]:
        """Yield every repository of the catalog, in byte order."""
        async for name in self._stores.catalog.names():
            tags = await self._stores.tags.list(name, limit=sys.maxsize)
            manifests = await all_manifests(self._stores.manifests, name)
            yield Summary(name, len(tags.tags), len(manifests))

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
    """Takes the manifests and the blobs of one repository."""

    def __init__(
        self,
        stores: ManifestStores,
        manifests: Manifests,
        contents: RepositoryStore,
        repository: RepositoryName,
        *,
        deleted: Deleted,
        cause: Cause,
    ) -> None:
        self.stores = stores
        self.manifests = manifests
        self.contents = contents
        self.repository = repository
        self.deleted = deleted
        self.cause = cause
        self._reader = References(stores.manifests)
        self._references: dict[Digest, frozenset[Digest]] = {}

    async def levels(self) -> list[list[Digest]]:
        """Every manifest that is there now, by levels: each ahead of everything that those in it refer to."""
        doomed = await all_manifests(self.stores.manifests, self.repository)
        await self._read(doomed)
        return parents_first({digest: self._references.get(digest, frozenset()) for digest in doomed})

    async def needed(self, doomed: Collection[Digest], removal: Removal) -> set[Digest]:
        """What tags, and manifests that are not doomed, need by now.

        What is kept of a level needs others in turn, which come in a later one: by then it is not doomed.
        """
        present = await all_manifests(self.stores.manifests, self.repository, removal)
        await self._read(present, removal)
        kept = [digest for digest in present if digest not in doomed]
        needed = {each for digest in kept for each in self._references.get(digest, ())}
        for tag in await self.stores.tags.names(self.repository):
            await in_time(removal)
            with contextlib.suppress(NotFound):
                needed.add(await self.stores.tags.get(self.repository, tag))
        for digest in [each for each in needed if each.algorithm != SHA256]:
            # Behind a link by another digest there has to be one by the digest that the bytes lie under.
            await in_time(removal)
            with contextlib.suppress(NotFound):
                needed.add(await self.stores.blobs.resolve(self.repository, digest))
        return needed

    async def _read(self, revisions: Sequence[Digest], removal: Removal | None = None) -> None:
        """Read what manifests refer to, those that were not read yet."""

        async def read(digest: Digest) -> None:
            await in_time(removal)
            references = await self._reader.read(self.repository, digest)
            # One that can't be read refers to nothing, as it can't be pulled; until it is pushed again.
            if references is not None:
                self._references[digest] = frozenset(references)
            await asyncio.sleep(0)

        new = [digest for digest in revisions if digest not in self._references]
        await together([partial(read, digest) for digest in new], self.stores.calls_at_once)


class _Manifests:
    """The manifests, as what is taken."""

    def __init__(self, of: _Contents) -> None:
        self._of = of
        self.needed = of.needed

    async def take(self, digest: Digest) -> Digest | None:
        of, canonical, changes = self._of, None, Changes()
        with contextlib.suppress(NotFound):
            canonical = await of.stores.manifests.resolve(of.repository, digest)
        await of.manifests.take(of.repository, digest, changes=changes, cause=of.cause)
        of.deleted.manifests += changes.deleted is not None
        return canonical

    async def restore(self, digest: Digest, canonical: Digest) -> None:
        await self._of.stores.manifests.link(self._of.repository, digest, canonical=canonical, body=None)
        self._of.deleted.manifests -= 1


class _Blobs:
    """The blobs, as what is taken."""

    def __init__(self, of: _Contents) -> None:
        self._of = of
        self.needed = of.needed

    async def take(self, digest: Digest) -> Digest | None:
        of, canonical = self._of, None
        with contextlib.suppress(NotFound):
            canonical = await of.stores.blobs.resolve(of.repository, digest)
        # First, since nothing leads to it afterwards. Losing a hint costs a longer search.
        await of.contents.forget_source(of.repository, digest)
        with contextlib.suppress(NotFound):
            await of.stores.blobs.unlink(of.repository, digest)
            of.deleted.blobs += 1
        return canonical

    async def restore(self, digest: Digest, canonical: Digest) -> None:
        await self._of.stores.blobs.link(self._of.repository, digest, canonical=canonical)
        self._of.deleted.blobs -= 1
