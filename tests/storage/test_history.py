"""Every change of a tag is written down, and what is not is observed by the next reader."""

import asyncio
import json
import random

import pytest

from storage import keys
from storage.digest import Digest
from storage.errors import StorageUnavailable
from storage.history import HistoryStore, Mark, window
from storage.memory import MemoryDriver
from storage.places import Kind, read_key
from storage.tags import TagStore
from storage.timelines import Cause, Why
from tests.stores import REPOSITORY, Clock, Power, RefusingDriver, StepDriver, body_at, history_store, keys_below

ONE, TWO, THREE = (Digest.of(body) for body in (b"one", b"two", b"three"))
ALICE, BOB = Cause("user:alice", Why.PUSH), Cause("user:bob", Why.ROLLBACK)


async def at_once(_seconds: float) -> None:
    """Wait for nobody."""


class Histories:
    """The tags and histories of one store, as one process sees them."""

    def __init__(self, driver: MemoryDriver | None = None, clock: Clock | None = None) -> None:
        self.driver = driver or RefusingDriver()
        self.clock = clock or Clock()
        self.store = history_store(self.driver, clock=self.clock)
        self.store._pause = at_once
        self.tags = TagStore(self.driver, self.store)

    async def set(self, digest: Digest, cause: Cause = ALICE, *, tag: str = "v1", after: float = 1.0) -> None:
        self.clock.now += after
        await self.tags.set(REPOSITORY, tag, digest, allow=None, cause=cause)

    async def delete(self, *, tag: str = "v1", after: float = 1.0) -> None:
        self.clock.now += after
        await self.tags.delete(REPOSITORY, tag, cause=Cause("user:carol", Why.DELETE))

    async def told(self, tag: str = "v1") -> list[tuple[Digest | None, Digest | None, str, str]]:
        found = await self.store.entries(REPOSITORY, tag)
        return [(each.old, each.new, each.cause.who, each.cause.why.value) for each in found]

    async def count(self) -> int:
        return len(await keys_below(self.driver, keys.histories(REPOSITORY)))


@pytest.fixture
def histories() -> Histories:
    return Histories()


async def test_each_change_is_told_with_who_made_it_and_why_the_newest_first(histories: Histories) -> None:
    await histories.set(ONE)
    await histories.set(TWO)
    await histories.set(ONE, BOB)
    await histories.delete()

    assert await histories.told() == [
        (ONE, None, "user:carol", "delete"),
        (TWO, ONE, "user:bob", "rollback"),
        (ONE, TWO, "user:alice", "push"),
        (None, ONE, "user:alice", "push"),
    ]
    times = [each.seconds for each in await histories.store.entries(REPOSITORY, "v1")]
    assert times == [1_000_004.0, 1_000_003.0, 1_000_002.0, 1_000_001.0]


async def test_the_same_again_is_no_change(histories: Histories) -> None:
    await histories.set(ONE)
    await histories.set(ONE, BOB)

    assert await histories.told() == [(None, ONE, "user:alice", "push")]


async def test_a_record_lies_where_the_format_says_and_holds_what_it_says(histories: Histories) -> None:
    await histories.set(ONE)

    [key] = await keys_below(histories.driver, keys.histories(REPOSITORY))
    folder, _, name = key.rpartition("/")
    time, change, record = name.split(".")
    assert folder == f"pierhead/repositories/{REPOSITORY}/_history/v1"
    assert (time, change, len(record)) == ("0001000001000000", f"sha256-{ONE.hex}", 32)
    assert json.loads(await body_at(histories.driver, key)) == {
        "who": "user:alice",
        "old": None,
        "new": str(ONE),
        "why": "push",
        "when": "1970-01-12T13:46:41.000000+00:00",
    }
    place = read_key(key)
    assert (place.kind, place.repository, place.name, place.digest) == (Kind.HISTORY, REPOSITORY, "v1", ONE)


async def test_a_tag_that_nobody_knows_has_no_history(histories: Histories) -> None:
    await histories.set(ONE)

    assert await histories.told("v2") == []
    assert await histories.told("v") == []
    assert await histories.count() == 1


async def test_what_another_registry_has_set_is_observed_once(histories: Histories) -> None:
    await histories.driver.put(keys.tag_link(REPOSITORY, "v1"), str(ONE).encode())
    histories.clock.now += 5

    for _ in range(2):
        assert await histories.told() == [(None, ONE, "", "observed")]
    await histories.driver.put(keys.tag_link(REPOSITORY, "v1"), str(TWO).encode())
    assert (await histories.told())[0] == (ONE, TWO, "", "observed")
    await histories.driver.delete(keys.tag_link(REPOSITORY, "v1"))
    assert (await histories.told())[0] == (TWO, None, "", "observed")

    assert await histories.count() == 3


async def test_what_another_registry_has_set_in_between_is_told_by_what_came_after(histories: Histories) -> None:
    await histories.set(ONE)
    await histories.driver.put(keys.tag_link(REPOSITORY, "v1"), str(TWO).encode())
    await histories.set(THREE)

    assert [each[1] for each in await histories.told()] == [THREE, TWO, ONE]
    assert (await histories.store.kept(REPOSITORY, since=0, last=0))["v1"] == [THREE, TWO, ONE]


@pytest.mark.parametrize("deletes", [False, True])
async def test_a_writer_that_dies_between_link_and_record_leaves_what_the_next_reader_finds(deletes: bool) -> None:
    driver = StepDriver()
    histories = Histories(driver)
    await histories.set(ONE)

    async def die(_method: str, key: str) -> None:
        if "/_history/" in key:
            raise Power

    driver.before_write = die
    with pytest.raises(Power):
        await (histories.delete() if deletes else histories.set(TWO))
    driver.before_write = None

    assert await histories.told() == [
        (ONE, None if deletes else TWO, "", "observed"),
        (None, ONE, "user:alice", "push"),
    ]


async def test_a_reader_between_link_and_record_waits_for_the_record() -> None:
    driver, waits = StepDriver(), list[float]()
    histories = Histories(driver)
    await histories.set(ONE)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def stop(_method: str, key: str) -> None:
        if "/_history/" in key:
            reached.set()
            await go_on.wait()

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        go_on.set()
        await asyncio.sleep(0)
        await writer

    driver.before_write = stop
    writer = asyncio.create_task(histories.set(TWO))
    await reached.wait()
    histories.store._pause = pause

    assert [each[3] for each in await histories.told()] == ["push", "push"]
    assert len(waits) == 1
    assert await histories.count() == 2


async def test_a_reader_who_may_not_write_is_told_all_the_same() -> None:
    driver = StepDriver()
    histories = Histories(driver)
    await driver.put(keys.tag_link(REPOSITORY, "v1"), str(ONE).encode())

    async def refuse(_method: str, key: str) -> None:
        raise StorageUnavailable("read-only", key=key)

    driver.before_write = refuse

    assert await histories.told() == [(None, ONE, "", "observed")]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"new": "x"}', b"x" * 10_000, None])
async def test_a_damaged_record_still_tells_what_its_key_says(histories: Histories, text: bytes | None) -> None:
    await histories.set(ONE)
    await histories.set(TWO)
    [_, key] = sorted(await keys_below(histories.driver, keys.histories(REPOSITORY)))
    if text is None:
        assert isinstance(histories.driver, RefusingDriver)
        histories.driver.refused = {key}
    else:
        await histories.driver.put(key, text)
    await histories.set(THREE)

    assert [(new, why) for _, new, _, why in await histories.told()] == [
        (THREE, "push"),
        (TWO, "unknown"),
        (ONE, "push"),
    ]


async def test_a_damaged_link_is_neither_gone_nor_observed(histories: Histories) -> None:
    await histories.set(ONE)
    await histories.driver.put(keys.tag_link(REPOSITORY, "v1"), b"")

    assert await histories.told() == [(None, ONE, "user:alice", "push")]


async def test_only_the_newest_are_read_where_no_more_are_asked_for(histories: Histories) -> None:
    for number in range(60):
        await histories.set((ONE, TWO)[number % 2])

    found = await histories.store.entries(REPOSITORY, "v1", limit=7)

    assert [each.new for each in found] == [TWO, ONE, TWO, ONE, TWO, ONE, TWO]
    assert len(await histories.store.entries(REPOSITORY, "v1")) == 60
    assert await histories.count() == 60


async def test_workers_at_once_write_a_history_that_ends_where_the_tag_points() -> None:
    driver, chance = MemoryDriver(), random.Random(7)
    workers = [Histories(driver, Clock(1_000_000 + chance.uniform(-2, 2))) for _ in range(4)]

    async def work(worker: Histories) -> None:
        for _ in range(8):
            await worker.set(Digest.of(chance.randbytes(4)), after=0.001)
            await asyncio.sleep(0)

    await asyncio.gather(*map(work, workers))

    reader = workers[0]
    current = await reader.tags.get(REPOSITORY, "v1")
    found = await reader.store.entries(REPOSITORY, "v1")
    assert found[0].new == current
    assert await reader.count() >= 32


async def test_times_of_one_process_never_stand_still(histories: Histories) -> None:
    times = [histories.store.now() for _ in range(3)]

    assert times == sorted(set(times))


def marks(*states: tuple[float, Digest | None]) -> list[Mark]:
    return [Mark(str(place), "v1", int(second * 1e6), new) for place, (second, new) in enumerate(states)]


@pytest.mark.parametrize(
    ("since", "last", "expected"),
    [
        (100, 0, "3"),  # what it points at is always kept
        (30, 0, "3"),
        (29, 0, "32"),  # current at `since`
        (25, 0, "32"),
        (20, 0, "32"),
        (19, 0, "321"),
        (10, 0, "321"),
        (0, 0, "3210"),
        (100, 1, "32"),
        (100, 2, "321"),
        (100, 3, "3210"),
        (100, 9, "3210"),
    ],
)
def test_the_window_has_what_was_current_since_and_the_last_states(since: float, last: int, expected: str) -> None:
    given = marks((0, ONE), (10, TWO), (20, ONE), (30, THREE))

    assert "".join(mark.key for mark in window(given, since=since, last=last)) == expected


def test_deletions_count_for_no_state_and_what_is_told_twice_for_one() -> None:
    given = marks((0, ONE), (10, TWO), (20, None), (30, THREE), (40, THREE), (50, None))

    assert "".join(mark.key for mark in window(given, since=49, last=2)) == "54321"
    assert "".join(mark.key for mark in window(given, since=49, last=0)) == "543"
    assert window([], since=0, last=3) == []


@pytest.mark.parametrize(("since", "expected"), [(50, "2"), (49, "210"), (0, "210")])
def test_a_tag_that_is_gone_for_longer_than_the_window_keeps_nothing(since: float, expected: str) -> None:
    given = marks((0, ONE), (10, TWO), (50, None))

    assert "".join(mark.key for mark in window(given, since=since, last=9)) == expected


async def test_what_is_kept_is_told_for_each_tag_of_the_repository_alone(histories: Histories) -> None:
    await histories.set(ONE, tag="v1")
    await histories.set(TWO, tag="v1")
    await histories.set(TWO, tag="v1-alpine")
    await histories.delete(tag="v1-alpine")
    await histories.set(ONE, tag="gone")
    await histories.delete(tag="gone")
    await histories.tags.set(f"{REPOSITORY}/inside", "other", ONE, allow=None)

    assert await histories.store.kept(REPOSITORY, since=0, last=1) == {
        "v1": [TWO, ONE],
        "v1-alpine": [TWO],
        "gone": [ONE],
    }
    assert (await histories.store.kept(REPOSITORY, since=0, last=0))["v1"] == [TWO, ONE]
    later = histories.clock.now + 1
    assert await histories.store.kept(REPOSITORY, since=later, last=1) == {"v1": [TWO, ONE]}
    assert await histories.store.tags(REPOSITORY) == ["gone", "v1", "v1-alpine"]


async def test_pruning_takes_what_keeps_nothing_and_leaves_the_newest(histories: Histories) -> None:
    for digest in (ONE, TWO, THREE, ONE, TWO):
        await histories.set(digest, after=10)
    await histories.set(ONE, tag="other")
    before = await histories.store.kept(REPOSITORY, since=histories.clock.now, last=1)

    assert await histories.store.prune(REPOSITORY, since=histories.clock.now, last=1) == 3

    assert await histories.store.kept(REPOSITORY, since=histories.clock.now, last=1) == before
    assert [each[1] for each in await histories.told()] == [TWO, ONE]
    assert await histories.store.prune(REPOSITORY, since=histories.clock.now, last=0) == 1
    assert await histories.told("other") == [(None, ONE, "user:alice", "push")]


async def test_a_history_of_sha512_digests_is_read_as_it_was_written(histories: Histories) -> None:
    digest = Digest.of(b"five", "sha512")
    await histories.set(digest)

    assert await histories.told() == [(None, digest, "user:alice", "push")]
    assert await histories.store.kept(REPOSITORY, since=0, last=1) == {"v1": [digest]}


def test_a_store_of_histories_is_made_of_a_driver_a_clock_and_ids() -> None:
    assert HistoryStore(MemoryDriver(), Clock(), lambda: "a1").now() == 1_000_000_000_000
