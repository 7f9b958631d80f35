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
SIZES = 1000
LOST_SECONDS = 86400.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stored:
    """What is stored about a prefix."""

    places: list[Place] = field(default_factory=list)

    @property
    def has_additions(self) -> bool:
        """Whether anything was linked to since the count."""
        return any(place.kind is Kind.USAGE_ADDED for place in self.places)

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
        stored: dict[str, _Stored] = defaultdict(_Stored)
        async for place in self._store.places():
            if place.repository:
                stored[place.repository].places.append(place)
        listed = {limit.prefix: limit async for limit in self._listed()}
        touched = await self._touched()
        dropped = 0
        for prefix in {**stored, **listed}:
            limit, found = self._rules.of_prefix(prefix), stored[prefix]
            if limit is not None:
                await self._look_after(limit, found, is_listed=prefix in listed, is_touched=prefix in touched)
                continue
            for place in found.places:
                await self._store.forget(place)
            dropped += len(found.places)
        return dropped

    async def count(self, prefix: str) -> UsageView:
        """Count a prefix anew, and return what is known of it then."""
        await self._count(prefix, await self._store.view(prefix))
        return await self._store.view(prefix)

    async def _listed(self) -> AsyncIterator[Limit]:
        """The limits of all repositories of the catalog."""
        async for name in self._catalog.names():
            for limit in self._rules.of_repository(name):
                yield limit

    async def _touched(self) -> set[str]:
        """All prefixes in which links were removed lately.

        Removals stay written down until a sweep of theirs that comes after this one.
        """
        found: set[str] = set()
        async for place in walk(self._driver, keys.REMOVALS):
            if is_removal_of_bytes(place):
                found.update(limit.prefix for limit in self._rules.of_repository(place.repository))
        return found

    async def _look_after(self, limit: Limit, found: _Stored, *, is_listed: bool, is_touched: bool) -> None:
        """Count a prefix, or merge what was added; or forget it, if nothing is left of it."""
        prefix = limit.prefix
        view = await (self._store.view(prefix) if found.has_additions else self._store.view_of_head(prefix))
        if await self._is_due(view, prefix, is_touched=is_touched):
            await self._count(prefix, await self._store.view(prefix))
            view = await self._store.view(prefix)
            if not is_listed and not view.additions and view.head is not None and not view.head.blobs:
                await self._store.forget_count(prefix, view.head)
                return
        elif await self._merge(prefix, view):
            view = await self._store.view(prefix)
        await self._warn(limit, view)
        await self._store.drop_lost_lists(prefix, found.lists, older_than_seconds=LOST_SECONDS)

    async def _is_due(self, view: UsageView, prefix: str, *, is_touched: bool) -> bool:
        head = view.head
        if head is None or not view.is_whole:
            return True
        age = self._clock() - head.began
        is_old = not 0 <= age < self._recount_seconds or 0 < head.again <= self._clock()
        rested = head.began + head.took / REST_SHARE
        if age >= 0 and self._clock() < rested:
            if is_touched and not 0 < head.again <= rested:
                # The removals may be forgotten until then.
                await self._store.put(prefix, view, replace(head, again=rested), None)
            return False
        return is_old or is_touched

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

    async def _merge(self, prefix: str, view: UsageView) -> bool:
        """Take additions into the list, if there are enough; tells whether it did."""
        settled = [each for each in view.additions if each.time < self._clock() - SETTLED_SECONDS]
        if view.head is None or len(settled) < MERGED_MIN:
            return False
        counter = BlobCounter()
        for blob, size in [*((each.blob, each.size) for each in settled), *view.blobs]:
            counter.add(blob, size)
        if not await self._store.put(prefix, view, view.head, counter.counted()):
            return False
        await self._store.drop(settled)
        return True

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

    async def _warn(self, limit: Limit, view: UsageView) -> None:
        """Tell, once for each share of the quota that is passed, that it is."""
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
