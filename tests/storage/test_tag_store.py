"""A tag points at one manifest, changes by compare-and-swap, and is listed in byte order."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities
from storage.errors import Corrupt, NotFound, StorageUnavailable, VersionMismatch
from storage.memory import MemoryDriver
from storage.tags import SWAP_ATTEMPTS_MAX, TagStore
from tests.properties import tags as tag_names
from tests.stores import OTHER, REPOSITORY, RefusingDriver, body_at, damages, keys_below, tag_store

ONE, TWO, THREE = (Digest.of(body) for body in (b"one", b"two", b"three"))


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> TagStore:
    return tag_store(driver)


def anything(_current: Digest | None) -> None:
    """Refuse nothing."""


class Refused(Exception):
    """What a condition raises."""


async def put(store: TagStore, tag: str, digest: Digest, *, repository: str = REPOSITORY) -> Digest | None:
    return await store.set(repository, tag, digest, allow=anything)


async def test_a_tag_points_where_it_was_set_and_setting_tells_where_it_pointed_before(store: TagStore) -> None:
    assert await put(store, "v1", ONE) is None
    assert await put(store, "v1", TWO) == ONE
    assert await put(store, "v1", TWO) == TWO

    assert await store.get(REPOSITORY, "v1") == await store.current(REPOSITORY, "v1") == TWO


async def test_an_absent_tag_is_not_found(store: TagStore) -> None:
    await put(store, "v1", ONE)

    assert await store.current(REPOSITORY, "v2") is None
    for repository, tag in ((REPOSITORY, "v2"), (REPOSITORY, "V1"), (OTHER, "v1")):
        with pytest.raises(NotFound):
            await store.get(repository, tag)
        with pytest.raises(NotFound):
            await store.delete(repository, tag)


async def test_a_tag_lies_where_distribution_looks(driver: RefusingDriver, store: TagStore) -> None:
    await put(store, "v1", ONE)
    await put(store, "v1", TWO)
    root = f"docker/registry/v2/repositories/{REPOSITORY}/_manifests/tags/v1"

    assert (await body_at(driver, f"{root}/current/link")).decode() == str(TWO)
    for digest in (ONE, TWO):
        assert (await body_at(driver, f"{root}/index/sha256/{digest.hex}/link")).decode() == str(digest)


async def test_in_a_bucket_the_index_of_a_tag_lists_where_it_has_pointed_before(
    driver: RefusingDriver, store: TagStore
) -> None:
    driver.capabilities = Capabilities(durable_at_once=True, looks_cost_calls=True)
    index = []
    for digest in (ONE, TWO, TWO, ONE, THREE):
        await put(store, "v1", digest)
        await store.mend(REPOSITORY, "v1", digest)
        index.append(await keys_below(driver, keys.tag_index(REPOSITORY, "v1")))

    one, two = ([keys.tag_index_link(REPOSITORY, "v1", digest)] for digest in (ONE, TWO))
    assert index == [[], one, one, sorted(one + two), sorted(one + two)]
    await store.delete(REPOSITORY, "v1")
    assert await keys_below(driver, keys.tag_index(REPOSITORY, "v1")) == []


async def test_a_condition_is_asked_with_what_the_tag_points_at_and_its_refusal_changes_nothing(
    store: TagStore,
) -> None:
    asked: list[Digest | None] = []

    def refuse(current: Digest | None) -> None:
        asked.append(current)
        raise Refused

    with pytest.raises(Refused):
        await store.set(REPOSITORY, "v1", TWO, allow=refuse)
    await put(store, "v1", ONE)
    with pytest.raises(Refused):
        await store.set(REPOSITORY, "v1", TWO, allow=refuse)

    assert asked == [None, ONE]
    assert await store.get(REPOSITORY, "v1") == ONE


async def test_two_first_sets_under_the_condition_that_there_is_none_have_one_winner(store: TagStore) -> None:
    def only_if_absent(current: Digest | None) -> None:
        if current is not None:
            raise Refused

    sets = [store.set(REPOSITORY, "v1", digest, allow=only_if_absent) for digest in (ONE, TWO, THREE)]
    results = await asyncio.gather(*sets, return_exceptions=True)

    assert sum(result is None for result in results) == 1
    winner = (ONE, TWO, THREE)[results.index(None)]
    assert await store.get(REPOSITORY, "v1") == winner


class RacedDriver(RefusingDriver):
    """Before each of the first `races` compare-and-swaps of a tag, somebody else moves it."""

    def __init__(self, races: int) -> None:
        super().__init__()
        self.races = races

    async def create(self, key: str, body: bytes) -> str:
        await self._race(key)
        return await super().create(key, body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        await self._race(key)
        return await super().replace(key, body, version=version)

    async def delete_version(self, key: str, *, version: str) -> None:
        await self._race(key)
        await super().delete_version(key, version=version)

    async def _race(self, key: str) -> None:
        if self.races > 0:
            self.races -= 1
            await self.put(key, str(THREE).encode())


async def test_a_lost_swap_asks_the_condition_again_with_what_has_won() -> None:
    driver = RacedDriver(races=0)
    store = tag_store(driver)
    await put(store, "v1", ONE)
    driver.races = 2
    asked: list[Digest | None] = []

    before = await store.set(REPOSITORY, "v1", TWO, allow=asked.append)

    assert asked == [ONE, THREE, THREE]
    assert before == THREE
    assert await store.get(REPOSITORY, "v1") == TWO


async def test_a_lost_first_set_asks_the_condition_again_with_what_has_won() -> None:
    store = tag_store(RacedDriver(races=1))
    asked: list[Digest | None] = []

    before = await store.set(REPOSITORY, "v1", TWO, allow=asked.append)

    assert asked == [None, THREE]
    assert before == THREE


async def test_a_tag_that_is_moved_for_ever_is_given_up_on() -> None:
    store = tag_store(RacedDriver(races=SWAP_ATTEMPTS_MAX))

    with pytest.raises(StorageUnavailable):
        await put(store, "v1", TWO)


async def test_deleting_takes_the_tag_and_its_index_and_nothing_of_other_tags(
    driver: RefusingDriver, store: TagStore
) -> None:
    await put(store, "v1", ONE)
    await put(store, "v1", TWO)
    await put(store, "v1.1", ONE)

    assert await store.delete(REPOSITORY, "v1") == TWO

    left = await keys_below(driver, keys.tags(REPOSITORY))
    assert len(left) == 2
    assert all("/v1.1/" in key for key in left)


async def test_deleting_a_tag_only_while_it_points_there_spares_one_that_has_moved(store: TagStore) -> None:
    await put(store, "v1", TWO)

    with pytest.raises(NotFound):
        await store.delete(REPOSITORY, "v1", only=ONE)

    assert await store.get(REPOSITORY, "v1") == TWO
    assert await store.delete(REPOSITORY, "v1", only=TWO) == TWO


async def test_a_tag_that_moves_while_it_is_deleted_for_its_digest_is_spared() -> None:
    driver = RacedDriver(races=0)
    store = tag_store(driver)
    await put(store, "v1", ONE)
    driver.races = 1

    with pytest.raises(NotFound):
        await store.delete(REPOSITORY, "v1", only=ONE)

    assert await store.get(REPOSITORY, "v1") == THREE


async def test_a_tag_that_moves_while_it_is_deleted_by_name_is_deleted() -> None:
    driver = RacedDriver(races=0)
    store = tag_store(driver)
    await put(store, "v1", ONE)
    driver.races = 1

    assert await store.delete(REPOSITORY, "v1") == THREE

    assert await store.current(REPOSITORY, "v1") is None


async def test_a_version_that_was_overtaken_is_not_deleted(driver: RefusingDriver) -> None:
    with pytest.raises(VersionMismatch):
        await driver.delete_version("some/link", version="0")


@pytest.mark.parametrize("text", [b"", b"sha256:", b"\xff", b"x" * 10_000], ids=["empty", "cut", "no ASCII", "long"])
async def test_a_damaged_tag_points_at_nothing_and_is_mended_by_a_push(
    driver: RefusingDriver, store: TagStore, text: bytes
) -> None:
    key = keys.tag_link(REPOSITORY, "v1")
    await driver.put(key, text)

    with capture_logs() as logs, pytest.raises(Corrupt):
        await store.get(REPOSITORY, "v1")
    assert await store.current(REPOSITORY, "v1") is None
    assert await put(store, "v1", ONE) is None

    assert damages(logs) == [key]
    assert await store.get(REPOSITORY, "v1") == ONE


async def test_a_tag_that_may_not_be_read_is_mended_by_a_push(driver: RefusingDriver, store: TagStore) -> None:
    await put(store, "v1", ONE)
    driver.refused = {keys.tag_link(REPOSITORY, "v1")}

    assert await store.current(REPOSITORY, "v1") is None
    await put(store, "v1", TWO)

    assert await store.get(REPOSITORY, "v1") == TWO


async def test_a_condition_may_refuse_to_write_over_a_tag_that_may_not_be_read(
    driver: RefusingDriver, store: TagStore
) -> None:
    await put(store, "v1", ONE)
    driver.refused = {keys.tag_link(REPOSITORY, "v1")}

    def refuse(_current: Digest | None) -> None:
        raise Refused

    with pytest.raises(Refused):
        await store.set(REPOSITORY, "v1", TWO, allow=refuse)

    driver.refused = set()
    assert await store.get(REPOSITORY, "v1") == ONE


@pytest.mark.parametrize("text", [b"", b"x" * 10_000])
async def test_a_damaged_tag_can_be_deleted_by_name_but_not_for_a_digest(
    driver: RefusingDriver, store: TagStore, text: bytes
) -> None:
    await put(store, "v1", ONE)
    await driver.put(keys.tag_link(REPOSITORY, "v1"), text)

    with pytest.raises(Corrupt):
        await store.delete(REPOSITORY, "v1", only=ONE)
    assert await store.delete(REPOSITORY, "v1") is None

    assert not await keys_below(driver, keys.tags(REPOSITORY))


@given(st.sets(tag_names, max_size=12), tag_names | st.just(""), st.integers(0, 14))
async def test_a_listing_is_the_sorted_rest_after_any_text_cut_at_its_limit(
    tags: set[str], after: str, limit: int
) -> None:
    store = tag_store(MemoryDriver())
    for tag in tags:
        await put(store, tag, ONE)
    expected = sorted(tag for tag in tags if tag > after)

    page = await store.list(REPOSITORY, after=after, limit=limit)

    assert page.tags == expected[:limit]
    assert page.more == (len(expected) > limit)


async def test_tags_whose_names_continue_each_other_are_in_byte_order(store: TagStore) -> None:
    # As folders, `1.0-alpine/` sorts before `1.0/`.
    for tag in ("1.0", "1.0-alpine", "1.0.1", "1.0_x", "1"):
        await put(store, tag, ONE)

    assert (await store.list(REPOSITORY, limit=10)).tags == ["1", "1.0", "1.0-alpine", "1.0.1", "1.0_x"]
    assert (await store.list(REPOSITORY, after="1.0-alpine", limit=10)).tags == ["1.0.1", "1.0_x"]
    assert (await store.list(REPOSITORY, after="1", limit=1)).tags == ["1.0"]


async def test_a_folder_without_a_current_link_is_no_tag(driver: RefusingDriver, store: TagStore) -> None:
    await put(store, "v1", ONE)
    await driver.put(keys.tag_index_link(REPOSITORY, "v0", ONE), str(ONE).encode())
    await driver.put(keys.tags(REPOSITORY) + "stray", b"")

    assert (await store.list(REPOSITORY, limit=10)).tags == ["v1"]


async def test_more_tags_than_a_page_of_the_driver_holds_are_all_listed(store: TagStore) -> None:
    wanted = [f"v{number:04}" for number in range(1100)]
    for tag in wanted:
        await put(store, tag, ONE)

    assert (await store.list(REPOSITORY, limit=2000)).tags == wanted
