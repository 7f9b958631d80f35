"""Sweeps over the usage of prefixes that have a quota: additions are taken into the count, and links counted anew.

One process of all does it at a time, as part of the sweep. Twice at once does no harm: a count is replaced by
compare-and-swap, and what it has not taken in stays an addition.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from registry.quantities import short_bytes
from registry.quota_rules import Limit, QuotaRules
from registry.usage import linked_blobs
from storage import keys
from storage.catalog import CatalogStore
from storage.counted_blobs import BlobCounter, CountedBlobs, fingerprint
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageRefused
from storage.places import Kind, Place
from storage.together import together
from storage.usage import UsageHead, UsageStore, UsageView, is_removal_of_bytes
from storage.walk import walk

SETTLED_SECONDS = 1800.0
"""The link that an addition is about was written long before, or never will be: five attempts at the slowest call."""
MERGED_MIN = 500
"""So many settled additions are worth a new list: fewer are listed by the same call."""
REST_SHARE = 0.05
"""At most this share of the time is spent on counting one prefix."""
NAMES = 1000
SIZES = 1000
LOST_SECONDS = 86400.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stored:
    """What is stored about a prefix."""

    places: list[Place] = field(default_factory=list)

    @property
    def lists(self) -> list[str]:
        """The lists of counted blobs, by name."""
        return [place.name for place in self.places if place.kind is Kind.USAGE_COUNTED]


class UsageSweep:
    """Keeps what is known of covered prefixes exact.

    A prefix is counted when it never was, when something was removed in it since the last sweeps, when additions that
    nothing was linked to by have settled, and when its count is older than `recount_seconds`.
    """

    def __init__(
        self,
        driver: Driver,
        store: UsageStore,
        catalog: CatalogStore,
        rules: QuotaRules,
        *,
        recount_seconds: float,
        warn_percent: Sequence[int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._driver = driver
        self._store = store
        self._catalog = catalog
        self._rules = rules
        self._recount_seconds = recount_seconds
        self._warn_percent = warn_percent
        self._clock = clock

    async def sweep(self) -> int:
        """Look after all prefixes; returns how many objects were dropped about prefixes that no quota covers now."""
        dropped = 0
        stored: dict[str, _Stored] = defaultdict(_Stored)
        async for place in self._store.places():
            if place.repository:
                stored[place.repository].places.append(place)
        covered = {limit.prefix: limit async for limit in self._limits(stored)}
        for prefix, limit in covered.items():
            await self._look_after(limit, stored[prefix].lists)
        for prefix, found in stored.items():
            if prefix not in covered:
                for place in found.places:
                    await self._store.forget(place)
                dropped += len(found.places)
        return dropped

    async def count(self, prefix: str) -> UsageView:
        """Count a prefix anew, and return what is known of it then."""
        await self._count(prefix, await self._store.view(prefix))
        return await self._store.view(prefix)

    async def _limits(self, stored: dict[str, _Stored]) -> AsyncIterator[Limit]:
        """The limits of all prefixes of which there is anything, maybe several times each."""
        for prefix in list(stored):
            if (limit := self._rules.of_prefix(prefix)) is not None:
                yield limit
        after, more = "", True
        while more:
            names, more = await self._catalog.list(after=after, limit=NAMES)
            for name in names:
                for limit in self._rules.of_repository(name):
                    yield limit
            after = names[-1] if names else after

    async def _look_after(self, limit: Limit, lists: Sequence[str]) -> None:
        view = await self._store.view(limit.prefix)
        if await self._is_due(limit.prefix, view):
            await self._count(limit.prefix, view)
        else:
            await self._merge(limit.prefix, view)
        await self._warn(limit)
        await self._store.drop_lost_lists(limit.prefix, lists, older_than_seconds=LOST_SECONDS)

    async def _is_due(self, prefix: str, view: UsageView) -> bool:
        head = view.head
        if head is None or not view.is_whole:
            return True
        age = self._clock() - head.began
        if 0 <= age < head.took / REST_SHARE:
            return False
        is_old = not 0 <= age < self._recount_seconds or 0 < head.again <= self._clock()
        return is_old or await self._has_removals(prefix)

    async def _has_removals(self, prefix: str) -> bool:
        """Whether links were removed lately. Removals stay written down until a sweep that comes after this one."""
        async for place in walk(self._driver, keys.removals(prefix)):
            if is_removal_of_bytes(place):
                return True
        return False

    async def _count(self, prefix: str, view: UsageView) -> None:
        """Go through all links of a prefix. What is linked to meanwhile stays an addition."""
        began = self._clock()
        blobs = await self._linked(prefix, view)
        unseen = (each.time for each in view.additions if each.blob not in blobs)
        head = UsageHead(
            "",
            0,
            0,
            began,
            self._clock() - began,
            0 if view.head is None else view.head.warned,
            max((time + SETTLED_SECONDS for time in unseen if time >= began - SETTLED_SECONDS), default=0.0),
        )
        if await self._store.put(prefix, view, head, blobs):
            # A link whose addition is older has been there when the walk came by, or will never be.
            await self._store.drop(each for each in view.additions if each.time < began - SETTLED_SECONDS)

    async def _merge(self, prefix: str, view: UsageView) -> None:
        settled = [each for each in view.additions if each.time < self._clock() - SETTLED_SECONDS]
        if view.head is None or len(settled) < MERGED_MIN:
            return
        counter = BlobCounter()
        for blob, size in [*((each.blob, each.size) for each in settled), *view.blobs]:
            counter.add(blob, size)
        if await self._store.put(prefix, view, view.head, counter.counted()):
            await self._store.drop(settled)

    async def _linked(self, prefix: str, view: UsageView) -> CountedBlobs:
        """Every blob that is linked to at or below a prefix, with its size: known by the view, or looked up."""
        counter, added = BlobCounter(), {each.blob: each.size for each in view.additions}
        sought: list[Digest] = []
        async for _place, digest in linked_blobs(self._driver, f"{keys.REPOSITORIES}{prefix}/"):
            blob = fingerprint(digest)
            # What was gone when it was counted may be back.
            if size := view.blobs.size(blob) or added.get(blob):
                counter.add(blob, size)
                continue
            sought.append(digest)
            if len(sought) == SIZES:
                await self._size(sought, counter)
                sought.clear()
        await self._size(sought, counter)
        return counter.counted()

    async def _size(self, digests: Sequence[Digest], counter: BlobCounter) -> None:
        at_once = self._driver.capabilities.calls_at_once
        sizes = await together([partial(self._size_of, digest) for digest in digests], at_once)
        for digest, size in zip(digests, sizes, strict=True):
            counter.add(fingerprint(digest), size)

    async def _size_of(self, digest: Digest) -> int:
        try:
            return (await self._driver.stat(keys.blob(digest))).size
        except (NotFound, StorageRefused):
            return 0  # a link to what is gone takes no space

    async def _warn(self, limit: Limit) -> None:
        """Tell, once for each share of the quota that is passed, that it is."""
        view = await self._store.view(limit.prefix)
        if view.head is None:
            return
        used = view.used
        passed = max((share for share in self._warn_percent if used * 100 >= limit.bytes * share), default=0)
        if passed == view.head.warned:
            return
        if not await self._store.put(limit.prefix, view, replace(view.head, warned=passed), None):
            return
        if passed > view.head.warned:
            log.warning(
                "a quota is nearly used up" if used < limit.bytes else "a quota is used up",
                prefix=limit.prefix,
                used=short_bytes(used),
                limit=short_bytes(limit.bytes),
                percent=used * 100 // limit.bytes,
                remedy="let retention delete old tags, run pierhead gc, or raise the quota",
            )
