"""Markers of damaged copies: looked for each time, or listed now and then where a look costs a call."""

import pytest

from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities, Page, SmallObject, Stat
from storage.markers import LISTED_MAX, DamagedMarkers
from storage.memory import MemoryDriver
from tests.stores import Clock, keys_below

DIGEST = Digest.of(b"damaged")
COPY, OTHER_COPY = Stat(7, 1.5), Stat(7, 2.5)
SECONDS = 5.0


class CountingDriver(MemoryDriver):
    """Counts what is asked of it."""

    def __init__(self, *, rare_seconds: float) -> None:
        super().__init__()
        self.capabilities = Capabilities(rare_seconds=rare_seconds)
        self.asked: list[str] = []

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        self.asked.append("get")
        return await super().get(key, bytes_max=bytes_max)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        self.asked.append("list")
        return await super().list(prefix, after=after, limit=limit, fold=fold)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("rare_seconds", [0.0, SECONDS])
async def test_a_copy_is_damaged_while_it_is_the_one_that_was_found_so(clock: Clock, rare_seconds: float) -> None:
    driver = CountingDriver(rare_seconds=rare_seconds)
    markers = DamagedMarkers(driver, clock=clock)
    assert not await markers.fits(DIGEST, COPY)

    await markers.put(DIGEST, COPY)

    assert await markers.fits(DIGEST, COPY)
    assert not await markers.fits(DIGEST, OTHER_COPY)
    assert await keys_below(driver, keys.DAMAGED) == []


async def test_where_looks_are_cheap_each_copy_is_looked_for(clock: Clock) -> None:
    driver = CountingDriver(rare_seconds=0.0)
    markers, other = DamagedMarkers(driver, clock=clock), DamagedMarkers(driver, clock=clock)
    assert not await markers.fits(DIGEST, COPY)

    await other.put(DIGEST, COPY)

    assert await markers.fits(DIGEST, COPY)
    assert driver.asked == ["get", "get"]


async def test_where_looks_cost_calls_those_of_others_are_seen_after_a_few_seconds(clock: Clock) -> None:
    driver = CountingDriver(rare_seconds=SECONDS)
    markers, other = DamagedMarkers(driver, clock=clock), DamagedMarkers(driver, clock=clock)
    for _ in range(3):
        assert not await markers.fits(DIGEST, COPY)
    assert driver.asked == ["list"]

    await other.put(DIGEST, COPY)
    clock.now += SECONDS - 0.1
    assert not await markers.fits(DIGEST, COPY)
    clock.now += 0.1
    assert await markers.fits(DIGEST, COPY)
    assert driver.asked == ["list", "list", "get"]


async def test_with_more_than_are_listed_each_is_looked_for(clock: Clock) -> None:
    driver = CountingDriver(rare_seconds=SECONDS)
    for number in range(LISTED_MAX + 1):
        driver.write(keys.damaged(Digest.of(str(number).encode())), b"")
    markers = DamagedMarkers(driver, clock=clock)

    assert not await markers.fits(DIGEST, COPY)
    await DamagedMarkers(driver).put(DIGEST, COPY)
    assert await markers.fits(DIGEST, COPY)
