"""Quotas: whether what is pushed still fits into what its prefix may hold."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from registry.errors import QuotaExceeded
from registry.names import RepositoryName
from registry.quantities import short_bytes
from registry.quota_rules import Limit, QuotaRules
from storage.digest import Digest
from storage.usage import UsageStore, UsageView

VIEW_SECONDS = 2.0
"""So old may be what the begin of an upload is judged by. What becomes visible is judged by a look of its own."""
VIEWS_MAX = 1024

HELP = "delete tags, whose space the garbage collector frees, or ask for a larger quota"


class Quotas:
    """What is linked to is counted ahead of the link, so that pushes at the same time do not exceed a quota together.

    Each writes down what it is about to add, and then looks at everything that was written down: of two that do not
    both fit at least one sees the other. A repository that no quota covers costs nothing.
    """

    def __init__(
        self, rules: QuotaRules, store: UsageStore, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._rules = rules
        self._store = store
        self._monotonic = monotonic
        self._views: OrderedDict[str, tuple[UsageView, float]] = OrderedDict()

    def covers(self, repository: RepositoryName) -> bool:
        """Tell whether there is a quota for the repository."""
        return bool(self._rules.of_repository(repository))

    async def levels(self, repository: RepositoryName) -> Sequence[tuple[Limit, int]]:
        """Each limit that the repository counts against, with the bytes that are used of it."""
        limits = self._rules.of_repository(repository)
        return [(limit, (await self._recent_view(limit.prefix)).used) for limit in limits]

    async def admit(self, repository: RepositoryName, size: int) -> "Room":
        """Tell how large a blob may get that begins to come in. Raises QuotaExceeded if it can't have `size` bytes.

        Even an empty one is refused where nothing is left, and one that the prefix holds already: that it does is told
        only to who has the bytes.
        """
        found = Room(None, 0)
        for limit in self._rules.of_repository(repository):
            room = Room(limit, (await self._recent_view(limit.prefix)).used)
            if not room.has(max(size, 1)):
                room = Room(
                    limit, (await self._look(limit.prefix)).used
                )  # nobody is refused by what was so a while ago
                room.check(max(size, 1))
            if found.left is None or (room.left is not None and room.left < found.left):
                found = room
        return found

    async def reserve(self, repository: RepositoryName, canonical: Digest, size: int) -> None:
        """Count a blob whose link is about to be written, under its sha256 digest. Raises QuotaExceeded.

        If the link is not written after all, the prefix is taken to hold the blob until it is counted again.
        """
        limits = self._rules.of_repository(repository)
        added = [await self._store.add(limit.prefix, canonical, size) for limit in limits]
        try:
            for limit in limits:
                view = await self._look(limit.prefix)
                if view.used > limit.bytes and not view.holds(canonical):
                    raise _refusal(limit, view.used - size, size)
        except QuotaExceeded:
            for key in added:
                await self._store.take_back(key)
            for limit in limits:
                self._views.pop(limit.prefix, None)
            raise

    async def _recent_view(self, prefix: str) -> UsageView:
        view, until = self._views.get(prefix, (None, 0.0))
        return view if view is not None and self._monotonic() < until else await self._look(prefix)

    async def _look(self, prefix: str) -> UsageView:
        until = self._monotonic() + VIEW_SECONDS
        view = await self._store.view(prefix)
        self._views[prefix] = (view, until)
        self._views.move_to_end(prefix)
        if len(self._views) > VIEWS_MAX:
            self._views.popitem(last=False)
        return view


class Room:
    """What is left of a quota; without a limit there is room for everything."""

    def __init__(self, limit: Limit | None, used: int) -> None:
        self._limit = limit
        self._used = used

    @property
    def left(self) -> int | None:
        """How many bytes more there may be; None for any number."""
        return None if self._limit is None else self._limit.bytes - self._used

    def has(self, size: int) -> bool:
        """Tell whether so many bytes fit."""
        return self._limit is None or self._used + size <= self._limit.bytes

    def check(self, size: int) -> None:
        """Raise QuotaExceeded if so many bytes do not fit."""
        if self._limit is not None and not self.has(size):
            raise _refusal(self._limit, self._used, size)


def _refusal(limit: Limit, used: int, size: int) -> QuotaExceeded:
    left = max(0, limit.bytes - used)
    return QuotaExceeded(
        f"quota of {limit.prefix}: {short_bytes(used)} of {short_bytes(limit.bytes)} used, {short_bytes(left)} left, "
        f"{short_bytes(size)} or more needed: {HELP}",
        detail={"prefix": limit.prefix, "limit": limit.bytes, "used": used, "asked": size},
    )
