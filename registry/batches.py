"""Taking many manifests or blobs from one repository, while others push to it.

Before it takes a batch, it announces itself and then looks what is needed, as pushes publish and then look: one of the
two sees the other.
"""

import asyncio
import graphlib
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from storage.digest import Digest
from storage.manifests import ManifestStore
from storage.removals import Removal
from storage.together import together

PAGE = 1000
PAUSE_SECONDS = 0.05
"""Between two batches: pushes that wait for an announcement to end get a turn."""

BATCH_SECONDS_MAX = 1.0
"""After which an announcement ends and another begins; it is late after TAKEN_SECONDS_MAX."""


class Kind(Protocol):
    """What is taken: manifests or blobs, for one reason or another."""

    async def needed(self, doomed: Collection[Digest], removal: Removal) -> set[Digest]:
        """What is needed by now, by what is not doomed. Calls `in_time` in between."""
        ...

    async def take(self, digest: Digest) -> Digest | None:
        """Take one, and tell the digest that its bytes lie under."""
        ...

    async def restore(self, digest: Digest, canonical: Digest) -> None:
        """Put one back."""
        ...


class Batches:
    """Takes what nobody needs. `announced` announces a batch, until the end of its `with` block."""

    def __init__(
        self,
        announced: Callable[[], AbstractAsyncContextManager[Removal]],
        *,
        calls_at_once: int,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._announced = announced
        self._calls_at_once = calls_at_once
        self._pause = pause

    async def take(self, doomed: Sequence[Digest], kind: Kind) -> None:
        """Take those of the doomed that nobody needs. Raises StorageUnavailable."""
        left = list(doomed)
        while left:
            async with self._announced() as removal:
                left = await self._take_batch(removal, left, kind)
            if left:
                await self._pause(PAUSE_SECONDS)

    async def _take_batch(self, removal: Removal, left: Sequence[Digest], kind: Kind) -> list[Digest]:
        """Take what nobody needs, until the time is over; returns the rest."""
        needed = await kind.needed(set(left), removal)
        await removal.extend()
        waiting = [digest for digest in left if digest not in needed]
        taken: dict[Digest, Digest] = {}

        async def take_one(digest: Digest) -> None:
            if not removal.is_over(BATCH_SECONDS_MAX):
                taken[digest] = await kind.take(digest) or digest

        while waiting and not removal.is_over(BATCH_SECONDS_MAX):
            now, waiting = waiting[: self._calls_at_once], waiting[self._calls_at_once :]
            await together([partial(take_one, digest) for digest in now], self._calls_at_once)
            waiting = [digest for digest in now if digest not in taken] + waiting
            await asyncio.sleep(0)
        if removal.is_late:
            # This process stood still, and a push may have waited no longer.
            await removal.announce()
            needed = await kind.needed(set(waiting), removal)
            for digest in needed & taken.keys():
                await kind.restore(digest, taken[digest])
        return waiting


async def in_time(removal: Removal | None) -> None:
    """Let an announcement count for as long as a look takes."""
    if removal is not None and removal.is_over(BATCH_SECONDS_MAX):
        await removal.extend()


async def all_manifests(manifests: ManifestStore, repository: str, removal: Removal | None = None) -> Sequence[Digest]:
    """Every manifest of a repository, in the order of their keys."""
    found: list[Digest] = []
    while True:
        await in_time(removal)
        page = await manifests.list(repository, after=found[-1] if found else None, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found


def parents_first(references: Mapping[Digest, frozenset[Digest]]) -> list[list[Digest]]:
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
