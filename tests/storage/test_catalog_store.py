"""The catalog lists repositories in byte order of their names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.catalog import CatalogStore
from storage.memory import MemoryDriver
from storage.removals import TRUSTED_SECONDS
from tests.properties import repository_names
from tests.stores import Clock, keys_below


async def test_a_repository_is_known_once_it_was_added_and_adding_it_again_writes_nothing() -> None:
    driver = MemoryDriver()
    store = CatalogStore(driver)

    assert not await store.has("team/app")
    await store.add("team/app")
    version = (await driver.get("pierhead/catalog/team/app!", bytes_max=10)).version
    await store.add("team/app")

    assert await store.has("team/app")
    assert not await store.has("team")
    assert (await driver.get("pierhead/catalog/team/app!", bytes_max=10)).version == version
    assert len(await keys_below(driver, "pierhead/")) == 1


@given(st.sets(repository_names, max_size=10), repository_names | st.just(""), st.integers(0, 12))
async def test_a_listing_is_the_sorted_rest_after_any_name_cut_at_its_limit(
    repositories: set[str], after: str, limit: int
) -> None:
    store = CatalogStore(MemoryDriver())
    for name in repositories:
        await store.add(name)
    expected = sorted(name for name in repositories if name > after)

    assert await store.list(after=after, limit=limit) == (expected[:limit], len(expected) > limit)


@pytest.mark.parametrize("after", ["a", "a-b", "a/b"])
async def test_a_repository_inside_of_another_one_sorts_as_its_name_does(after: str) -> None:
    store = CatalogStore(MemoryDriver())
    expected = ["a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a__b", "ab"]
    for name in reversed(expected):
        await store.add(name)

    assert (await store.list(limit=100))[0] == expected
    assert (await store.list(after=after, limit=100))[0] == expected[expected.index(after) + 1 :]


async def test_an_entry_that_was_seen_is_not_looked_for_as_long_as_none_was_taken() -> None:
    driver, clock = MemoryDriver(), Clock()
    store = CatalogStore(driver, clock=clock)
    await store.add("team/app")
    await driver.delete(keys.catalog_entry("team/app"))

    await store.add("team/app", trust=True)
    assert not await store.has("team/app")
    await store.add("team/app")
    assert await store.has("team/app")

    await driver.delete(keys.catalog_entry("team/app"))
    clock.now += TRUSTED_SECONDS + 1
    await store.add("team/app", trust=True)
    assert await store.has("team/app")
