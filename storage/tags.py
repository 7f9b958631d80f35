"""Tags: names that point at manifests and change by compare-and-swap, and whose changes are all written down."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver, SmallObject
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageRefused, StorageUnavailable, VersionMismatch
from storage.history import HistoryStore
from storage.links import LINK_BYTES_MAX, link_text, read_link, read_link_version
from storage.removals import Recent
from storage.timelines import PUSHED, Cause, Why
from storage.together import together

SWAP_ATTEMPTS_MAX = 200
LIST_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class TagPage:
    """Tags in byte order; `more` says that there are others after the last."""

    tags: list[str]
    more: bool


@dataclass(frozen=True, slots=True)
class SeenTag:
    """What a tag points at, and the link that says so, to compare and swap it by: None if there is no tag."""

    digest: Digest | None
    link: SmallObject | None


_NEW = SeenTag(None, None)
DELETED = Cause("", Why.DELETE)


@dataclass(frozen=True, slots=True)
class _Swapped:
    """What a tag pointed at before, and when that was seen, as the history tells the time."""

    before: Digest | None
    time: int


class TagStore:
    """`current/link` is the single authority over what a tag points at. Each change of it goes into the history."""

    def __init__(self, driver: Driver, history: HistoryStore) -> None:
        self._driver = driver
        self._history = history

    @property
    def _indexes_current(self) -> bool:
        """Whether a tag's index lists where it points. Where calls count, only where it has pointed before.

        Nothing but the garbage collection of distribution reads the index, and that needs no entry.
        """
        return not self._driver.capabilities.looks_cost_calls

    async def get(self, repository: str, tag: str) -> Digest:
        """What the tag points at. Raises NotFound."""
        return await read_link(self._driver, keys.tag_link(repository, tag))

    async def current(self, repository: str, tag: str) -> Digest | None:
        """What the tag points at, or None if that is nothing."""
        seen = await self.see(repository, tag)
        return None if seen is None else seen.digest

    async def see(self, repository: str, tag: str) -> "SeenTag | None":
        """What the tag points at, for `set`; None if that can't be read."""
        try:
            current = await self._current(keys.tag_link(repository, tag))
        except (Corrupt, StorageRefused):
            return None
        return SeenTag(_digest_or_none(current), current)

    async def set(
        self,
        repository: str,
        tag: str,
        digest: Digest,
        *,
        allow: Callable[[Digest | None], None] | None,
        seen: "SeenTag | None" = None,
        cause: Cause = PUSHED,
    ) -> Digest | None:
        """Point the tag at a manifest and return what it pointed at before.

        `allow` is asked with what the tag points at (None: nothing) and may raise to refuse; question and
        change are one step, for the change fails if the tag has moved since. `seen` saves reading it. `cause` is what
        the history is told, if anything changes.

        Whoever calls this looks afterwards whether the tag was deleted meanwhile, and then calls `mend`.
        """
        capabilities = self._driver.capabilities
        if allow is None and capabilities.looks_cost_calls:
            seen = _NEW  # as most are: a create that fails costs no more than a look
        swapped = await self._swap(repository, tag, digest, allow or _anything, seen)
        before = swapped.before
        if before == digest and capabilities.durable_at_once:
            return before

        async def record() -> None:
            await self._history.append(repository, tag, old=before, new=digest, cause=cause, time=swapped.time)

        # Not before the tag: what is left of a push that dies would look like a tag to whoever lists folders.
        indexed = digest if self._indexes_current else before
        writes = [] if before == digest else [record]
        if indexed is not None:
            writes.append(partial(self._put_index, repository, tag, indexed))
        await together(writes, capabilities.writes_at_once)
        return before

    async def mend(self, repository: str, tag: str, digest: Digest) -> None:
        """Let the tag's index fit after the tag was set to `digest` and may have been deleted at the same time."""
        if self._indexes_current:
            try:
                await self._driver.stat(keys.tag_index_link(repository, tag, digest))
            except NotFound:
                await self._put_index(repository, tag, digest)
        await self.forget_if_gone(repository, tag)  # which looks again as well

    async def forget_if_gone(self, repository: str, tag: str) -> None:
        """Take what a deletion of the tag has left that did not come to its end."""
        if await self.current(repository, tag) is None:
            await self._forget(repository, tag)

    async def _swap(
        self,
        repository: str,
        tag: str,
        digest: Digest,
        allow: Callable[[Digest | None], None],
        seen: "SeenTag | None",
    ) -> _Swapped:
        key = keys.tag_link(repository, tag)
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            seen = seen or await self.see(repository, tag)
            time = self._history.now()  # after the look, ahead of the swap: so times are in the order of swaps
            if seen is None:
                # What can't be read can't be compared: it points at nothing, and is written over.
                allow(None)
                await self._driver.put(key, link_text(digest))
                return _Swapped(None, time)
            allow(seen.digest)
            if seen.digest == digest and self._driver.capabilities.durable_at_once:
                return _Swapped(digest, time)
            try:
                if seen.link is None:
                    await self._driver.create(key, link_text(digest))
                else:
                    await self._driver.replace(key, link_text(digest), version=seen.link.version)
            except (AlreadyExists, VersionMismatch):
                seen = None
                await asyncio.sleep(0)
                continue
            return _Swapped(seen.digest, time)
        raise StorageUnavailable("the tag is being changed by too many at once", key=key)

    async def delete(
        self,
        repository: str,
        tag: str,
        *,
        only: Digest | None = None,
        allow: Callable[[Digest | None], None] | None = None,
        cause: Cause = DELETED,
    ) -> Digest | None:
        """Delete the tag, if `only` is given just while it points there; returns where it pointed.

        `allow` is asked with that and may raise to refuse, in one step with the deletion as in `set`. A damaged tag,
        which points at nothing, is deleted as well. `cause` is what the history is told, which stays. Raises NotFound
        if there is no such tag.
        """
        key = keys.tag_link(repository, tag)
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            try:
                digest, version = await read_link_version(self._driver, key)
            except Corrupt:
                if only is not None:
                    raise
                (allow or _anything)(None)
                time = self._history.now()
                await self._driver.delete(key)
                await self._history.append(repository, tag, old=None, new=None, cause=cause, time=time)
                await self._forget(repository, tag)
                return None
            except NotFound:
                if only is None:
                    # A deletion may have been cut off half-way: its client asks again.
                    await self._forget(repository, tag)
                raise
            if only is not None and digest != only:
                raise NotFound("the tag points elsewhere", key=key)
            (allow or _anything)(digest)
            time = self._history.now()
            try:
                await self._driver.delete_version(key, version=version)
            except VersionMismatch:
                await asyncio.sleep(0)
                continue
            await self._history.append(repository, tag, old=digest, new=None, cause=cause, time=time)
            await self._forget(repository, tag)
            return digest
        raise StorageUnavailable("the tag is being changed by too many at once", key=key)

    async def list(
        self,
        repository: str,
        *,
        after: str = "",
        limit: int,
        is_wanted: Callable[[str], bool] | None = None,
        recent: Callable[[], Awaitable[Recent]] | None = None,
    ) -> TagPage:
        """Tags greater than `after` in byte order, at most `limit`.

        `is_wanted` passes over what was made on the disk by hand and can be no tag. `recent` tells which ones may have
        been deleted lately: where a folder holds something, only those are looked at.
        """
        names = await self.names(repository, after=after)
        may_be_gone: Callable[[str], bool] = _always
        if names and recent is not None and self._driver.capabilities.folders_hold_objects:
            may_be_gone = (await recent()).touches_tag
        found: list[str] = []
        for tag in names:
            if is_wanted is not None and not is_wanted(tag):
                continue
            if may_be_gone(tag) and not await self._is_there(repository, tag):
                continue
            if len(found) == limit:
                return TagPage(found, more=True)
            found.append(tag)
        return TagPage(found, more=False)

    async def names(self, repository: str, *, after: str = "") -> Sequence[str]:
        """Every tag greater than `after`, in byte order, and maybe some that are there no more."""
        return sorted(await self._folders(keys.tags(repository), after))

    async def _is_there(self, repository: str, tag: str) -> bool:
        try:
            await self._driver.stat(keys.tag_link(repository, tag))
        except (NotFound, StorageRefused):
            return False  # an empty folder, one that a delete has just left, or one that may not be read
        return True

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
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            await self._empty_index(repository, tag)
            current = await self.current(repository, tag) if self._indexes_current else None
            if current is None:
                return
            # Set again since. What is put back here a second deletion may have missed: so look once more.
            await self._put_index(repository, tag, current)
            if await self.current(repository, tag) == current:
                return
        raise StorageUnavailable("the tag is being changed by too many at once", key=keys.tag_link(repository, tag))

    async def _put_index(self, repository: str, tag: str, digest: Digest) -> None:
        await self._driver.put(keys.tag_index_link(repository, tag, digest), link_text(digest))

    async def _empty_index(self, repository: str, tag: str) -> None:
        while True:
            page = await self._driver.list(keys.tag_index(repository, tag), limit=LIST_PAGE)
            for entry in page.entries:
                await self._driver.delete(entry.key)
            if not page.more:
                return


def _anything(_current: Digest | None) -> None:
    """Refuse nothing."""


def _always(_tag: str) -> bool:
    return True


def _digest_or_none(current: SmallObject | None) -> Digest | None:
    """What a link's bytes say; None for a damaged link, which points at nothing and is written over."""
    if current is None:
        return None
    try:
        return Digest.parse(current.body.decode("ascii").strip())
    except ValueError:
        return None
