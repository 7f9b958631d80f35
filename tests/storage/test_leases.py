"""Leases: one holder at a time, and a dead one keeps nobody waiting for longer than a lease."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from storage import keys, leases
from storage.errors import StorageUnavailable
from storage.leases import LEASE_SECONDS, LeaseStore
from storage.memory import MemoryDriver
from tests.stores import Clock


class Process:
    """One of several processes on a store; each has a clock of its own that starts anywhere."""

    def __init__(self, driver: MemoryDriver, name: str) -> None:
        self.ticks = Clock(hash(name) % 1000)
        self.leases = LeaseStore(driver, new_id=lambda: name, clock=Clock(), monotonic=self.ticks)
        self.worked = 0
        self.working = asyncio.Event()

    async def work(self) -> None:
        self.worked += 1

    async def work_for_ever(self) -> None:
        self.working.set()
        await asyncio.Event().wait()


@pytest.fixture
def driver() -> MemoryDriver:
    return MemoryDriver()


async def killed(process: Process) -> None:
    """Let a process begin to work and die of kill -9: nothing is released."""
    running = asyncio.create_task(process.leases.run("job", process.work_for_ever))
    await process.working.wait()
    process.leases._release = nothing  # type: ignore[assignment,method-assign]
    running.cancel()
    await asyncio.wait([running])


async def nothing(_name: str, _version: str) -> None:
    """Release nothing."""


async def test_work_is_done_and_the_lease_is_free_afterwards(driver: MemoryDriver) -> None:
    first, second = Process(driver, "first"), Process(driver, "second")

    for process in (first, second, first):
        assert await process.leases.run("job", process.work)

    assert (first.worked, second.worked) == (2, 1)


async def test_two_different_pieces_of_work_are_done_at_once(driver: MemoryDriver) -> None:
    first, second = Process(driver, "first"), Process(driver, "second")
    running = asyncio.create_task(first.leases.run("job", first.work_for_ever))
    await first.working.wait()

    assert await second.leases.run("another", second.work)
    running.cancel()
    await asyncio.wait([running])
    assert await second.leases.run("job", second.work)


async def test_who_died_keeps_others_out_for_a_lease_and_no_longer(driver: MemoryDriver) -> None:
    first, second = Process(driver, "first"), Process(driver, "second")
    await killed(first)

    assert not await second.leases.run("job", second.work)
    second.ticks.now += LEASE_SECONDS - 1
    assert not await second.leases.run("job", second.work)
    second.ticks.now += 1
    assert await second.leases.run("job", second.work)


async def test_a_holder_that_renews_is_never_taken_for_dead(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    first, second = Process(driver, "first"), Process(driver, "second")
    first.leases._clock = lambda: asyncio.get_running_loop().time()
    running = asyncio.create_task(first.leases.run("job", first.work_for_ever))
    await first.working.wait()

    for _ in range(5):
        assert not await second.leases.run("job", second.work)
        second.ticks.now += LEASE_SECONDS
        await asyncio.sleep(0.05)

    running.cancel()
    await asyncio.wait([running])


async def test_who_was_only_taken_for_dead_is_stopped_and_leaves_the_lease_to_the_other(
    driver: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Process(driver, "first"), Process(driver, "second")
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.2)
    running = asyncio.create_task(first.leases.run("job", first.work_for_ever))
    await first.working.wait()
    assert not await second.leases.run("job", second.work)
    second.ticks.now += LEASE_SECONDS

    taking = asyncio.create_task(second.leases.run("job", second.work_for_ever))
    await second.working.wait()

    assert not await asyncio.wait_for(running, 10)
    held = (await driver.get(keys.lease("job"), bytes_max=999)).body
    assert b'"second"' in held
    taking.cancel()
    await asyncio.wait([taking])


async def test_what_work_raises_comes_out_and_the_lease_is_free(driver: MemoryDriver) -> None:
    first, second = Process(driver, "first"), Process(driver, "second")

    async def fails() -> None:
        raise StorageUnavailable("the disk is gone")

    with pytest.raises(StorageUnavailable):
        await first.leases.run("job", fails)

    assert await second.leases.run("job", second.work)


@pytest.mark.parametrize("text", [b"", b"no json", b"[1]", b'{"holder": "", "ended": "x"}'])
async def test_a_damaged_lease_is_free(driver: MemoryDriver, text: bytes) -> None:
    await driver.put(keys.lease("job"), text)

    assert await Process(driver, "first").leases.run("job", Process(driver, "first").work)


async def test_of_many_who_come_at_once_one_does_the_work(driver: MemoryDriver) -> None:
    processes = [Process(driver, f"p{number}") for number in range(20)]
    works: list[Callable[[], Awaitable[None]]] = [process.work for process in processes]

    done = await asyncio.gather(
        *(process.leases.run("job", work, rest_seconds=9) for process, work in zip(processes, works, strict=True))
    )

    assert done.count(True) == 1
