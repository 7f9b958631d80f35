"""Pushes, deletions and counts of one prefix, at once and in thousands of orders, some of them dying at any call.

Never are more bytes linked to than the quota allows, never are fewer told to be used than are linked to, and a count
that nobody disturbs is exact.
"""

import os
import random
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from registry import usage_sweeps
from registry.errors import QuotaExceeded, RegistryError
from registry.names import RepositoryName
from registry.quotas import Quotas
from storage import keys
from storage.counted_blobs import NO_BLOBS
from storage.digest import Digest
from storage.errors import StorageUnavailable
from storage.places import Kind, read_key
from storage.usage import UsageStore, UsageView
from tests.races.schedules import BUCKET, DIRECTORY, Schedule, ScheduledDriver, finish
from tests.registry.services import Services
from tests.stores import Power

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 2_000)
MUTANT_SCHEDULES = 6_000

LIMIT = 100
SOURCE = RepositoryName("elsewhere/app")
REPOSITORIES = tuple(map(RepositoryName, ("team/app", "team/other", "team")))
BLOBS = {name: name.encode() * size for name, size in {"a": 20, "b": 30, "c": 40, "d": 50}.items()}
DIGESTS = {name: Digest.of(content) for name, content in BLOBS.items()}
KINDS = ("push", "push", "push", "push", "delete", "count", "count", "merge", "wait")
WAITED_SECONDS = usage_sweeps.SETTLED_SECONDS / 3
"""A request never takes as long as an addition needs to settle: an addition relies on that."""

RESTED_SECONDS = 1e6
"""Also a count that took long is followed by another one by then."""


Operation = tuple[str, ...]
Scene = tuple[Sequence[Operation], Sequence[Operation]]


@dataclass(slots=True)
class QuotaSchedule(Schedule):
    """Workers whose registry has a quota."""

    def worker(self) -> Services:
        """Return another worker on the store."""
        services = Services(self.driver, clock=self.clock, quotas={"team": LIMIT})
        services.removals._pause = Schedule.worker(self).removals._pause
        return services


def work(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """What a client asks of a worker, or what a worker does by itself."""
    match operation:
        case "push", blob, repository:
            return services.uploads.mount(RepositoryName(repository), DIGESTS[blob], SOURCE)
        case "delete", blob, repository:
            return services.blobs.delete(RepositoryName(repository), DIGESTS[blob])
        case ("count",):
            return services.usage_sweep(recount_seconds=0.001, warn_percent=()).sweep()
        case ("merge",):
            return services.usage_sweep(recount_seconds=1e12, warn_percent=()).sweep()
    return _wait_long(services)


async def _wait_long(services: Services) -> None:
    await services.driver.stat(keys.blob(DIGESTS["a"]))
    services.clock.now += WAITED_SECONDS


def any_scene(chance: random.Random) -> Scene:
    """Return what there was before, and what is asked at once."""
    pushed = [("push", chance.choice("ab"), chance.choice(REPOSITORIES)) for _ in range(chance.randrange(3))]
    before: list[Operation] = [*pushed]
    if chance.random() < 0.7:
        before += [*[("wait",)] * chance.choice([0, 6]), ("count",)]
    if chance.random() < 0.3:
        before += [("wait",)] * 6
    asked: list[Operation] = []
    for _ in range(chance.randint(2, 5)):
        kind = chance.choice(KINDS)
        if kind in {"push", "delete"}:
            asked.append((kind, chance.choice(list(BLOBS)), chance.choice(REPOSITORIES)))
        elif asked.count(("wait",)) < 2 or kind != "wait":
            asked.append((kind,))
    return before, asked


def run_one(seed: str, make: Callable[[random.Random], Scene]) -> list[str]:
    """Run a schedule; a line for each thing that is not as it has to be."""
    chance = random.Random(seed)
    schedule = QuotaSchedule(chance, ScheduledDriver(chance.choice([DIRECTORY, BUCKET])))
    begun = Services(schedule.driver, clock=schedule.clock)
    for content in BLOBS.values():
        finish(begun.push_blob(content, repository=SOURCE))
    before, asked = make(chance)
    for operation in before:
        finish(work(operation, schedule.worker()))
    for operation in asked:
        crash_at = chance.randrange(12) if chance.random() < 0.2 else None
        schedule.add(" ".join(operation), partial(work, operation), crash_at)
    schedule.run()
    return [f"{seed}: {before}, {asked}: {wrong}" for wrong in wrongs(schedule)]


def wrongs(schedule: QuotaSchedule) -> list[str]:
    """What is not as it has to be."""
    found = []
    for actor in schedule.actors:
        outcome = actor.outcome
        if isinstance(outcome, BaseException) and not isinstance(outcome, RegistryError | StorageUnavailable | Power):
            found.append(f"{actor.name} raised {outcome!r}")
    last = schedule.worker()
    linked, used = finish(linked_bytes(schedule.driver)), finish(last.used("team"))
    assert isinstance(linked, int)
    assert isinstance(used, int)
    if linked > LIMIT:
        found.append(f"{linked} bytes are linked to, more than the quota of {LIMIT}")
    if used < linked:
        found.append(f"{used} bytes are told, and {linked} are linked to")
    for _ in range(2):
        schedule.clock.now += RESTED_SECONDS
        finish(last.usage_sweep(recount_seconds=0.001, warn_percent=()).sweep())
    if (used := finish(last.used("team"))) != linked:
        found.append(f"{used} bytes are told at rest, and {linked} are linked to")
    return found


async def linked_bytes(driver: ScheduledDriver) -> int:
    """The bytes of the blobs that repositories of the prefix link to, read from the keys."""
    page = await driver.list(f"{keys.REPOSITORIES}team/", limit=10_000)
    places = [read_key(entry.key) for entry in page.entries]
    digests = {place.digest for place in places if place.kind is Kind.LAYER}
    return sum(len(content) for name, content in BLOBS.items() if DIGESTS[name] in digests)


def first_wrong(schedules: int, make: Callable[[random.Random], Scene] = any_scene) -> list[str]:
    """Run schedules until something is wrong."""
    for number in range(schedules):
        if found := run_one(f"{SEED}-{number}", make):
            return found
    return []


def test_no_order_exceeds_the_quota_or_tells_too_little() -> None:
    assert first_wrong(SCHEDULES) == []


def test_the_scheduler_finds_additions_that_are_dropped_before_their_link_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_sweeps, "SETTLED_SECONDS", -1.0)
    assert first_wrong(MUTANT_SCHEDULES)


def test_the_scheduler_finds_a_count_that_is_read_before_the_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    async def view_the_other_way_round(self: UsageStore, prefix: str) -> UsageView:
        head, version = await self._head(prefix)
        blobs = None if head is None else await self._list(prefix, head)
        additions = [addition async for addition in self._additions(prefix)]
        return UsageView(head, version, NO_BLOBS if blobs is None else blobs, additions)

    monkeypatch.setattr(UsageStore, "view", view_the_other_way_round)
    before = [("count",), ("push", "a", "team"), ("push", "c", "team"), *[("wait",)] * 6]
    assert first_wrong(MUTANT_SCHEDULES, lambda _chance: (before, [("push", "d", "team/app"), ("merge",)]))


def test_the_scheduler_finds_a_look_ahead_of_the_reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reserve(self: Quotas, repository: RepositoryName, canonical: Digest, size: int) -> None:
        for limit in self._rules.of_repository(repository):
            if (await self._look(limit.prefix)).used + size > limit.bytes:
                raise QuotaExceeded("full")
            await self._store.add(limit.prefix, canonical, size)

    monkeypatch.setattr(Quotas, "reserve", reserve)
    assert first_wrong(MUTANT_SCHEDULES)


@pytest.fixture(autouse=True)
def _merge_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_sweeps, "MERGED_MIN", 1)
