"""Everything that lies in a store, place by place, in byte order of the keys."""

from collections.abc import AsyncIterator

from storage.drivers import Driver
from storage.places import Place, read_key

PAGE = 5000
"""A page of a listing is one walk down to where the last one ended: larger pages walk less often."""


async def walk(driver: Driver, prefix: str, *, after: str = "") -> AsyncIterator[Place]:
    """Yield what lies below a prefix, behind the key `after` if one is given.

    What is written or deleted meanwhile may or may not be among it.

    Raises StorageUnavailable if the prefix itself can't be listed.
    """
    while True:
        page = await driver.list(prefix, after=after, limit=PAGE)
        for entry in page.entries:
            yield read_key(entry.key)
        if not page.more:
            return
        after = page.entries[-1].key


async def is_empty(driver: Driver, prefix: str) -> bool:
    """Tell whether nothing lies below a prefix."""
    return not (await driver.list(prefix, limit=1)).entries
