"""Tags: names that point at manifests and change by compare-and-swap."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver, SmallObject
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageRefused, StorageUnavailable, VersionMismatch
from storage.links import LINK_BYTES_MAX, link_text, read_link, read_link_version

SWAP_ATTEMPTS_MAX = 200
LIST_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in byte order; `more` says that there are others after the last."""

    tags: list[str]
    more: bool


class TagStore:
    """`current/link` is the single authority over what a tag points at."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def get(self, repository: str, tag: str) -> Digest:
        """What the tag points at. Raises NotFound."""
        return await read_link(self._driver, keys.tag_link(repository, tag))

    async def current(self, repository: str, tag: str) -> Digest | None:
        """What the tag points at, or None if that is nothing."""
        try:
            return _digest_or_none(await self._current(keys.tag_link(repository, tag)))
        except (Corrupt, StorageRefused):
            return None

    async def set(
        self, repository: str, tag: str, digest: Digest, *, allow: Callable[[Digest | None], None]
    ) -> Digest | None:
        """Point the tag at a manifest and return what it pointed at before.

        `allow` is asked with what the tag points at (None: nothing) and may raise to refuse; question and
        change are one step, for the change fails if the tag has moved since.
        """
        index = keys.tag_index_link(repository, tag, digest)
        await self._driver.put(index, link_text(digest))
        before = await self._swap(repository, tag, digest, allow)
        try:
            await self._driver.stat(index)
        except NotFound:
            # The tag was being deleted, and its index with it: see _forget, which looks again as well.
            await self._driver.put(index, link_text(digest))
            if await self.current(repository, tag) is None:
                await self._forget(repository, tag)
        return before

    async def _swap(
        self, repository: str, tag: str, digest: Digest, allow: Callable[[Digest | None], None]
    ) -> Digest | None:
        key = keys.tag_link(repository, tag)
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            try:
                current = await self._current(key)
            except (Corrupt, StorageRefused):
                # What can't be read can't be compared: it points at nothing, and is written over.
                allow(None)
                await self._driver.put(key, link_text(digest))
                return None
            before = _digest_or_none(current)
            allow(before)
            try:
                if current is None:
                    await self._driver.create(key, link_text(digest))
                else:
                    await self._driver.replace(key, link_text(digest), version=current.version)
            except (AlreadyExists, VersionMismatch):
                await asyncio.sleep(0)
                continue
            return before
        raise StorageUnavailable("the tag is being changed by too many at once", key=key)

    async def delete(self, repository: str, tag: str, *, only: Digest | None = None) -> Digest | None:
        """Delete the tag, if `only` is given just while it points there; returns where it pointed.

        A damaged tag, which points at nothing, is deleted as well. Raises NotFound if there is no such tag.
        """
        key = keys.tag_link(repository, tag)
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            try:
                digest, version = await read_link_version(self._driver, key)
            except Corrupt:
                if only is not None:
                    raise
                await self._driver.delete(key)
                await self._forget(repository, tag)
                return None
            except NotFound:
                if only is None:
                    # A deletion may have been cut off half-way: its client asks again.
                    await self._forget(repository, tag)
                raise
            if only is not None and digest != only:
                raise NotFound("the tag points elsewhere", key=key)
            try:
                await self._driver.delete_version(key, version=version)
            except VersionMismatch:
                await asyncio.sleep(0)
                continue
            await self._forget(repository, tag)
            return digest
        raise StorageUnavailable("the tag is being changed by too many at once", key=key)

    async def list(
        self, repository: str, *, after: str = "", limit: int, is_wanted: Callable[[str], bool] | None = None
    ) -> TagPage:
        """Tags greater than `after` in byte order, at most `limit`.

        `is_wanted` passes over what was made on the disk by hand and can be no tag.
        """
        found: list[str] = []
        async for tag in self.iterate(repository, after=after):
            if is_wanted is not None and not is_wanted(tag):
                continue
            if len(found) == limit:
                return TagPage(found, more=True)
            found.append(tag)
        return TagPage(found, more=False)

    async def iterate(self, repository: str, *, after: str = "") -> AsyncIterator[str]:
        """Every tag greater than `after`, in byte order."""
        prefix = keys.tags(repository)
        for tag in sorted(await self._folders(prefix, after)):
            try:
                await self._driver.stat(keys.tag_link(repository, tag))
            except (NotFound, StorageRefused):
                continue  # an empty folder, one that a delete has just left, or one that may not be read
            yield tag

    async def _folders(self, prefix: str, after: str) -> Sequence[str]:
        # Keys sort by the folder's name with its closing slash, so `1.0-alpine/` stands before `1.0/`: a
        # listing that started after `1.0-alpine` would miss `1.0`. All names are read, then sorted.
        found: list[str] = []
        start = ""
        while True:
            page = await self._driver.list(prefix, after=start, limit=LIST_PAGE, fold=True)
            names = (entry.key[len(prefix) : -1] for entry in page.entries if entry.is_prefix)
            found.extend(name for name in names if name > after)
            if not page.more:
                return found
            start = page.entries[-1].key

    async def _current(self, key: str) -> SmallObject | None:
        try:
            return await self._driver.get(key, bytes_max=LINK_BYTES_MAX)
        except Corrupt:
            raise
        except NotFound:
            return None

    async def _forget(self, repository: str, tag: str) -> None:
        while True:
            page = await self._driver.list(keys.tag_index(repository, tag), limit=LIST_PAGE)
            for entry in page.entries:
                await self._driver.delete(entry.key)
            if not page.more:
                break
        current = await self.current(repository, tag)
        if current is not None:  # set again since
            await self._driver.put(keys.tag_index_link(repository, tag, current), link_text(current))


def _digest_or_none(current: SmallObject | None) -> Digest | None:
    """What a link's bytes say; None for a damaged link, which points at nothing and is written over."""
    if current is None:
        return None
    try:
        return Digest.parse(current.body.decode("ascii").strip())
    except ValueError:
        return None
