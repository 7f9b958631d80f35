"""The janitor sweeps as long as it lives, whatever a sweep comes to."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from registry.janitor import LEASE, Janitor, seldom
from storage.errors import StorageUnavailable
from storage.leases import LeaseStore
from storage.memory import MemoryDriver
from tests.stores import Clock


def leases(driver: MemoryDriver | None = None, clock: Clock | None = None) -> LeaseStore:
    return LeaseStore(driver or MemoryDriver(), new_id=lambda: secrets.token_hex(4), clock=clock or Clock())


class Sweeps:
    """Counts sweeps; each returns or raises what stands next in `results`."""

    def __init__(self, *results: int | Exception) -> None:
        self.results = list(results)
        self.all_done = asyncio.Event()

    async def __call__(self) -> int:
        result = self.results.pop(0) if self.results else 0
        if not self.results:
            self.all_done.set()
        if isinstance(result, Exception):
            raise result
        return result


async def test_a_sweep_that_fails_is_logged_and_followed_by_the_next() -> None:
    sweeps = Sweeps(OSError("the disk is gone"), 0, 3, ValueError("odd"), 0)
    janitor = Janitor(leases(), {"things": sweeps, "others": Sweeps()}, sweep_seconds=0)

    with capture_logs() as logs:
        janitor.start()
        await asyncio.wait_for(sweeps.all_done.wait(), 10)
        await janitor.close()

    assert [line["log_level"] for line in logs] == ["error", "info", "error"]
    assert (logs[1]["what"], logs[1]["count"]) == ("things", 3)


async def test_a_sweep_that_the_store_fails_is_told_in_a_line() -> None:
    sweeps = Sweeps(StorageUnavailable("no answer in time"), 0)
    janitor = Janitor(leases(), {"things": sweeps}, sweep_seconds=0)

    with capture_logs() as logs:
        janitor.start()
        await asyncio.wait_for(sweeps.all_done.wait(), 10)
        await janitor.close()

    [told] = [line for line in logs if line["event"] == "a sweep failed"]
    assert told["reason"] == "no answer in time"
    assert "exc_info" not in told


async def test_it_waits_between_half_of_its_interval_and_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    sweeps = Sweeps(0)
    janitor = Janitor(leases(), {"things": sweeps}, sweep_seconds=1000)
    janitor.start()
    await asyncio.wait_for(sweeps.all_done.wait(), 10)
    await janitor.close()

    assert bounds[0] == (0.5, 1)


async def test_closing_ends_it_before_and_after_it_was_started() -> None:
    janitor = Janitor(leases(), {"things": Sweeps()}, sweep_seconds=1000)
    await janitor.close()
    janitor.start()

    await asyncio.wait_for(janitor.close(), 10)
    await janitor.close()


async def test_of_several_that_share_a_store_one_sweeps_and_the_others_come_when_their_turn_is_due() -> None:
    driver, clock = MemoryDriver(), Clock()
    begun, go_on = asyncio.Event(), asyncio.Event()
    swept: list[str] = []

    async def slow() -> int:
        begun.set()
        await go_on.wait()
        swept.append("first")
        return 0

    async def count() -> int:
        swept.append("second")
        return 0

    first = Janitor(leases(driver, clock), {"things": slow}, sweep_seconds=1000)
    second = leases(driver, clock)
    sweeping = asyncio.create_task(first._leases.run(LEASE, first._sweep_all))
    await begun.wait()

    assert not await second.run(LEASE, as_work(count), rest_seconds=50)
    go_on.set()
    assert await sweeping
    assert not await second.run(LEASE, as_work(count), rest_seconds=50)
    clock.now += 50
    assert await second.run(LEASE, as_work(count), rest_seconds=50)
    assert swept == ["first", "second"]


def as_work(sweep: Callable[[], Awaitable[int]]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await sweep()

    return work


async def test_what_is_swept_seldom_rests_in_all_processes() -> None:
    driver, clock = MemoryDriver(), Clock()
    workers = [leases(driver, clock) for _ in range(2)]
    sweeps = Sweeps(3, 2, 9)

    assert [await seldom(each, "rare", sweeps, rest_seconds=60) for each in workers] == [3, 0]
    clock.now += 60
    assert [await seldom(each, "rare", sweeps, rest_seconds=60) for each in workers] == [2, 0]
