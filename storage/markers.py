"""Markers of damaged blobs: which stored copies were found not to hash to their digest."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver, Stat
from storage.errors import NotFound
from storage.places import Kind
from storage.walk import walk

MARKER_BYTES_MAX = 256
LISTED_MAX = 1000
"""With more of them than that, each blob's is looked for."""


class DamagedMarkers:
    """There is nearly never one.

    So where a look costs a call, all of them are listed once in `rare_seconds`, and one that another process has
    written may be missed for as long. What this process writes it knows at once.
    """

    def __init__(self, driver: Driver, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._driver = driver
        self._clock = clock
        self._rare_seconds = driver.capabilities.rare_seconds
        self._listing = asyncio.Lock()
        self._listed: set[str] | None = None
        self._until = -math.inf

    async def fits(self, canonical: Digest, found: Stat) -> bool:
        """Tell whether this very copy was found damaged. A marker of a copy that was replaced since is deleted."""
        text = await self._read(canonical)
        if text is None:
            return False
        if text == marker_text(found):
            return True
        await self._driver.delete(keys.damaged(canonical))
        return False

    async def may_be(self, canonical: Digest) -> bool:
        """Tell whether there may be a marker of some copy."""
        if not self._rare_seconds:
            return True
        async with self._listing:
            if self._clock() >= self._until:
                await self._list()
            return self._listed is None or keys.damaged(canonical) in self._listed

    async def is_marked(self, canonical: Digest, found: Stat) -> bool:
        """Look whether this very copy was found damaged, without relying on an earlier listing."""
        return await self._get(canonical) == marker_text(found)

    async def put(self, canonical: Digest, found: Stat) -> None:
        """Remember that a stored copy does not hash to its digest."""
        key = keys.damaged(canonical)
        await self._driver.put(key, marker_text(found), durable=False)
        async with self._listing:  # one that has begun before may lack it
            if self._listed is not None:
                self._listed.add(key)

    async def drop(self, canonical: Digest) -> None:
        """Forget that a stored copy was found damaged: it was replaced, or reads well again."""
        await self._driver.delete(keys.damaged(canonical))

    async def marked(self, *, shard: str | None = None) -> AsyncIterator[Digest]:
        """Every digest, or all of one shard, whose copy was found damaged, or one before it."""
        async for place in walk(self._driver, keys.DAMAGED if shard is None else keys.damaged_of_shard(shard)):
            if place.kind is Kind.DAMAGED and place.digest is not None:
                yield place.digest

    async def _read(self, canonical: Digest) -> bytes | None:
        return await self._get(canonical) if await self.may_be(canonical) else None

    async def _get(self, canonical: Digest) -> bytes | None:
        try:
            return (await self._driver.get(keys.damaged(canonical), bytes_max=MARKER_BYTES_MAX)).body
        except NotFound:
            return None

    async def _list(self) -> None:
        begun = self._clock()
        page = await self._driver.list(keys.DAMAGED, limit=LISTED_MAX)
        self._listed = None if page.more else {entry.key for entry in page.entries}
        self._until = begun + self._rare_seconds


def marker_text(found: Stat) -> bytes:
    """What is stored to remember a damaged copy by."""
    return f"{found.size} {found.modified!r}".encode()
