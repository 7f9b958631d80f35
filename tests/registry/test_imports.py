"""Histories begin with what the indexes of tags know, and go on where another registry was used in between."""

from registry.imports import HistoryUpkeep, Imports
from storage import keys
from storage.digest import Digest
from storage.layout import check_layout
from storage.memory import MemoryDriver
from storage.timelines import Cause, Why
from tests.registry.services import REPOSITORY, Services
from tests.stores import Clock, keys_below

ONE, TWO, THREE, FOUR = (Digest.of(body) for body in (b"one", b"two", b"three", b"four"))
ALICE = Cause("user:alice", Why.PUSH)


class Store:
    """A store that another registry writes to, and Pierhead."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.driver = MemoryDriver(clock=self.clock)
        self.services = Services(self.driver, clock=self.clock)
        self.services.history._pause = at_once
        self.imports = Imports(self.driver, self.services.history)

    async def set_elsewhere(self, *digests: Digest, tag: str = "v1") -> None:
        """Move a tag as distribution does."""
        for digest in digests:
            self.clock.now += 10
            for key in (keys.tag_index_link(REPOSITORY, tag, digest), keys.tag_link(REPOSITORY, tag)):
                await self.driver.put(key, str(digest).encode())

    async def set_here(self, digest: Digest, tag: str = "v1") -> None:
        self.clock.now += 10
        await self.services.tag_store.set(REPOSITORY, tag, digest, allow=None, cause=ALICE)

    async def told(self, tag: str = "v1") -> list[tuple[Digest | None, str, float]]:
        found = await self.services.history.entries(REPOSITORY, tag)
        return [(each.new, each.cause.why.value, round(each.seconds) - 1_000_000) for each in found]


async def at_once(_seconds: float) -> None:
    """Wait for nobody."""


async def test_a_history_begins_with_what_the_index_knows_by_its_times() -> None:
    store = Store()
    await store.set_elsewhere(ONE, TWO, THREE)

    assert await store.imports.repository(REPOSITORY, everything=True) == 3

    expected = [(THREE, "imported", 30), (TWO, "imported", 20), (ONE, "imported", 10)]
    assert await store.told() == expected
    for everything in (True, False):
        assert await store.imports.repository(REPOSITORY, everything=everything) == 0
    assert await store.told() == expected


async def test_what_the_tag_points_at_is_the_newest_whatever_the_times_say() -> None:
    store = Store()
    await store.set_elsewhere(ONE, TWO)
    await store.driver.put(keys.tag_link(REPOSITORY, "v1"), str(ONE).encode())
    store.clock.now += 100
    await store.driver.put(keys.tag_index_link(REPOSITORY, "v1", TWO), str(TWO).encode())

    await store.imports.repository(REPOSITORY, everything=True)

    assert [new for new, _why, _time in await store.told()] == [ONE, TWO]


async def test_each_tag_has_its_own_and_what_is_no_tag_has_none() -> None:
    store = Store()
    await store.set_elsewhere(ONE, TWO, tag="v1")
    await store.set_elsewhere(THREE, tag="v1-alpine")
    await store.set_elsewhere(FOUR, tag="no tag!")
    await store.driver.put(keys.tag_link(REPOSITORY, "damaged"), b"")
    await store.driver.put(keys.tag_index_link(REPOSITORY, "deleted", ONE), str(ONE).encode())

    assert await store.imports.repository(REPOSITORY, everything=True) == 3

    assert await store.services.history.tags(REPOSITORY) == ["v1", "v1-alpine"]


async def test_what_was_pushed_before_the_first_record_is_added_ahead_of_it_once() -> None:
    store = Store()
    await store.set_elsewhere(ONE, TWO)
    await store.set_here(THREE)

    assert await store.imports.repository(REPOSITORY, everything=True) == 2

    assert await store.told() == [(THREE, "push", 30), (TWO, "imported", 20), (ONE, "imported", 10)]
    assert len(await keys_below(store.driver, keys.histories(REPOSITORY))) == 3


async def test_what_another_registry_has_pushed_in_between_is_added_behind() -> None:
    store = Store()
    await store.set_here(ONE)
    await store.set_elsewhere(TWO, THREE)

    assert await store.imports.repository(REPOSITORY, everything=False) == 2
    assert await store.imports.repository(REPOSITORY, everything=False) == 0

    assert await store.told() == [(THREE, "imported", 30), (TWO, "imported", 20), (ONE, "push", 10)]


async def test_what_was_begun_and_cut_off_is_completed() -> None:
    whole, cut = Store(), Store()
    for store in (whole, cut):
        await store.set_elsewhere(ONE, TWO, THREE)
    await cut.services.history.append(
        REPOSITORY, "v1", old=None, new=ONE, cause=Cause("", Why.IMPORTED), time=1_000_010_000_000
    )

    assert await whole.imports.repository(REPOSITORY, everything=True) == 3
    assert await cut.imports.repository(REPOSITORY, everything=True) == 2

    assert await cut.told() == await whole.told()


async def test_what_was_pruned_is_not_added_again() -> None:
    store = Store()
    for digest in (ONE, TWO, THREE):
        await store.set_here(digest)
    await store.services.history.prune(REPOSITORY, since=store.clock.now, last=0)

    assert await store.imports.repository(REPOSITORY, everything=False) == 0

    assert [why for _new, why, _time in await store.told()] == ["push"]


async def test_what_went_back_and_forth_elsewhere_is_observed() -> None:
    store = Store()
    await store.set_here(ONE)
    await store.set_here(TWO)
    await store.set_elsewhere(ONE)

    await store.imports.repository(REPOSITORY, everything=False)

    assert [(new, why) for new, why, _time in await store.told()] == [
        (ONE, "observed"),
        (TWO, "push"),
        (ONE, "push"),
    ]
    assert len(await keys_below(store.driver, keys.histories(REPOSITORY))) == 3


def upkeep(store: Store) -> HistoryUpkeep:
    return HistoryUpkeep(store.imports, store.services.history, clock=store.clock, keep_seconds=60, last=1)


async def test_a_server_lets_the_histories_of_an_older_store_begin_once() -> None:
    store = Store()
    await check_layout(store.driver)
    await store.driver.delete(keys.IMPORTED)  # an earlier version has not written it
    await store.set_elsewhere(ONE, TWO)
    await store.services.catalog_store.add(REPOSITORY)

    for _ in range(2):
        assert await upkeep(store).run() == 0
        assert await store.imports.are_done()
    await store.set_elsewhere(THREE, tag="other")
    await upkeep(store).run()

    assert await store.services.history.tags(REPOSITORY) == ["v1"]


async def test_a_server_leaves_a_store_of_another_registry_to_adoption() -> None:
    store = Store()
    await store.set_elsewhere(ONE, TWO)
    await check_layout(store.driver)

    assert await upkeep(store).run() == 0

    assert not await store.imports.are_done()
    assert await store.services.history.tags(REPOSITORY) == []


async def test_a_server_drops_what_is_out_of_the_window() -> None:
    store = Store()
    for digest in (ONE, TWO, THREE, FOUR):
        await store.set_here(digest)
    await store.set_here(ONE, tag="other")
    store.clock.now += 1000

    assert await upkeep(store).run() == 2

    assert [new for new, _why, _time in await store.told()] == [FOUR, THREE]
    assert [new for new, _why, _time in await store.told("other")] == [ONE]
