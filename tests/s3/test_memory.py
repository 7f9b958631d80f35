"""Memory for bodies: never more than allowed, and somebody always gets on."""

import asyncio
from collections.abc import Callable

import pytest

from storage.s3.memory import OVERTAKEN_SECONDS, MemoryBudget

PART = 8
BYTES_MAX = 32


class Holder:
    """Somebody who can put his bytes aside whenever he waits."""

    def __init__(self, budget: MemoryBudget) -> None:
        self.held = 0
        self.aside = 0
        self.spills = 0
        self.pinned = False
        self._budget = budget

    def can_spill(self) -> bool:
        return not self.pinned

    async def spill(self) -> bool:
        self.spills += 1
        await asyncio.sleep(0)
        self.aside += self.held
        self._budget.give_back(self, self.held)
        return True

    async def take(self, count: int) -> None:
        """As a writer does: what was put aside is needed again."""
        while True:
            aside = self.aside
            await self._budget.take(self, count + aside)
            if self.aside == aside:
                self.aside = 0
                return
            self._budget.give_back(self, count + aside)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def budget(now: list[float]) -> MemoryBudget:
    return MemoryBudget(BYTES_MAX, part_bytes=PART, monotonic=lambda: now[0])


@pytest.fixture
def holder(budget: MemoryBudget) -> Callable[[], Holder]:
    return lambda: Holder(budget)


async def test_what_fits_is_given_at_once_and_no_more(budget: MemoryBudget, holder: Callable[[], Holder]) -> None:
    first, second = holder(), holder()

    assert budget.try_take(first, BYTES_MAX)
    assert not budget.try_take(second, 1)
    budget.give_back(first, 1)
    assert budget.try_take(second, 1)

    assert (first.held, second.held, budget.used, budget.peak) == (BYTES_MAX - 1, 1, BYTES_MAX, BYTES_MAX)


async def test_who_waits_for_a_client_is_asked_to_put_bytes_aside(holder: Callable[[], Holder]) -> None:
    holders = [holder() for _ in range(5)]
    for each in holders[:4]:
        await each.take(PART)
    holders[0].pinned = True

    await asyncio.wait_for(holders[4].take(1), 5)

    assert [each.spills for each in holders] == [0, 1, 0, 0, 0]


async def test_what_is_being_sent_is_waited_for_before_anybody_puts_bytes_aside(
    budget: MemoryBudget, holder: Callable[[], Holder]
) -> None:
    sender, idle, asking = holder(), holder(), holder()
    sender.pinned = True
    await sender.take(3 * PART)
    await idle.take(PART)

    taking = asyncio.create_task(asking.take(1))
    await asyncio.sleep(0)
    budget.give_back(sender, PART)
    await asyncio.wait_for(taking, 5)

    assert idle.spills == 0


async def test_who_is_nearest_to_a_whole_part_comes_first(budget: MemoryBudget, holder: Callable[[], Holder]) -> None:
    filler, far, near = holder(), holder(), holder()
    filler.pinned = far.pinned = near.pinned = True
    await far.take(1)
    await near.take(PART - 2)
    await filler.take(BYTES_MAX - PART + 1)
    done: list[str] = []

    async def take(name: str, each: Holder) -> None:
        await each.take(1)
        done.append(name)

    tasks = [asyncio.create_task(take("far", far)), asyncio.create_task(take("near", near))]
    await asyncio.sleep(0)
    budget.give_back(filler, PART)
    await asyncio.gather(*tasks)

    assert done == ["near", "far"]


async def test_nobody_is_overtaken_for_ever(
    budget: MemoryBudget, holder: Callable[[], Holder], now: list[float]
) -> None:
    filler, early, near = holder(), holder(), holder()
    filler.pinned = early.pinned = near.pinned = True
    await near.take(PART - 2)
    await filler.take(BYTES_MAX - PART + 2)
    done: list[str] = []

    async def take(name: str, each: Holder) -> None:
        await each.take(1)
        done.append(name)

    tasks = [asyncio.create_task(take("early", early))]
    await asyncio.sleep(0)
    now[0] += OVERTAKEN_SECONDS + 1
    tasks.append(asyncio.create_task(take("near", near)))
    await asyncio.sleep(0)
    budget.give_back(filler, PART)
    await asyncio.gather(*tasks)

    assert done == ["early", "near"]


async def test_a_wait_that_is_cancelled_leaves_nothing_behind(
    budget: MemoryBudget, holder: Callable[[], Holder]
) -> None:
    filler, first, second = holder(), holder(), holder()
    filler.pinned = True
    await filler.take(BYTES_MAX)
    tasks = [asyncio.create_task(first.take(5)), asyncio.create_task(second.take(1))]
    await asyncio.sleep(0)

    tasks[0].cancel()
    budget.give_back(filler, 1)
    await asyncio.wait_for(tasks[1], 5)

    assert (first.held, second.held, budget.used) == (0, 1, BYTES_MAX)


async def test_all_get_on_who_hold_the_beginnings_of_parts_and_were_busy_when_memory_ran_out(
    budget: MemoryBudget, holder: Callable[[], Holder]
) -> None:
    """Forty uploads hung for ever: nobody told who waited that others could put their bytes aside by now."""
    holders = [holder() for _ in range(40)]

    async def upload(each: Holder) -> None:
        for _ in range(5 * PART):
            each.pinned = True
            await asyncio.sleep(0)
            each.pinned = False
            await each.take(1)
            if each.held > PART:
                each.pinned = True
                await asyncio.sleep(0)
                budget.give_back(each, PART)
        each.pinned = False
        if each.held:
            budget.give_back(each, each.held)

    await asyncio.wait_for(asyncio.gather(*(upload(each) for each in holders)), 60)

    assert budget.used == 0
    assert budget.peak <= BYTES_MAX
