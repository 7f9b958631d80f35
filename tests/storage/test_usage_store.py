"""What is told of a prefix is never too low, whoever counts and adds at the same time."""

import itertools

import pytest

from storage import keys
from storage.counted_blobs import BlobCounter, CountedBlobs, fingerprint
from storage.digest import Digest
from storage.memory import MemoryDriver
from storage.usage import UsageHead, UsageStore
from tests.stores import Clock, keys_below

ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


_ids = itertools.count()


def counted(*blobs: tuple[Digest, int]) -> CountedBlobs:
    counter = BlobCounter()
    for digest, size in blobs:
        counter.add(fingerprint(digest), size)
    return counter.counted()


def store_on(driver: MemoryDriver, clock: Clock | None = None) -> UsageStore:
    return UsageStore(driver, clock=clock or Clock(), new_id=lambda: f"{next(_ids)}")


async def count(store: UsageStore, prefix: str, blobs: CountedBlobs) -> bool:
    return await store.put(prefix, await store.view(prefix), UsageHead("", 0, 0, 1.0, 0.5), blobs)


async def test_an_addition_counts_once_for_each_blob_and_not_for_one_that_was_counted() -> None:
    store = store_on(MemoryDriver())
    await count(store, "team", counted((ONE, 10)))
    for digest, size in [(ONE, 10), (TWO, 5), (TWO, 5)]:
        await store.add("team", digest, size)

    view = await store.view("team")

    assert view.used == 15
    assert view.holds(ONE)
    assert not view.holds(TWO)
    assert (await store.view("team/app")).used == (await store.view("tea")).used == 0


async def test_without_a_count_the_additions_are_told() -> None:
    store = store_on(MemoryDriver())
    key = await store.add("team", ONE, 10)
    await store.add("team", TWO, 5)

    await store.take_back(key)

    assert (await store.view("team")).head is None
    assert (await store.view("team")).used == 5


async def test_of_two_who_count_one_wins_and_leaves_nothing_of_the_other() -> None:
    driver = MemoryDriver()
    store = store_on(driver)
    await count(store, "team", counted())
    first = await store.view("team")

    assert await count(store, "team", counted((ONE, 10)))
    assert not await store.put("team", first, UsageHead("", 0, 0, 2.0, 0.5), counted((TWO, 7)))

    assert (await store.view("team")).used == 10
    assert len(await keys_below(driver, f"{keys.usage('team')}_counted/")) == 1


@pytest.mark.parametrize("when", ["before the additions are read", "before the head is read", "before the list is"])
async def test_an_addition_that_is_taken_into_a_count_meanwhile_is_seen_in_one_of_the_two(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    driver = MemoryDriver()
    store, other = store_on(driver), store_on(driver)
    await count(store, "team", counted((TWO, 5)))
    await store.add("team", ONE, 10)
    prefixes = {
        "before the additions are read": keys.usage_additions("team"),
        "before the head is read": keys.usage_head("team"),
        "before the list is": f"{keys.usage('team')}_counted/",
    }
    done = False

    async def merge_at(key: str) -> None:
        nonlocal done
        if not done and key.startswith(prefixes[when]):
            done = True
            view = await other.view("team")
            assert await count(other, "team", counted((ONE, 10), (TWO, 5)))
            await other.drop(view.additions)

    get, listing = driver.get, driver.list

    async def get_slowly(key: str, *, bytes_max: int) -> object:
        await merge_at(key)
        return await get(key, bytes_max=bytes_max)

    async def list_slowly(prefix: str, **options: object) -> object:
        await merge_at(prefix)
        return await listing(prefix, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(driver, "get", get_slowly)
    monkeypatch.setattr(driver, "list", list_slowly)

    view = await store_on(driver).view("team")  # it has no list in its memory

    assert done
    assert view.used == 15
    assert view.is_whole


async def test_a_lost_list_makes_additions_count_twice_rather_than_not_at_all() -> None:
    driver = MemoryDriver()
    await count(store_on(driver), "team", counted((ONE, 10)))
    [listed] = await keys_below(driver, f"{keys.usage('team')}_counted/")
    await driver.delete(listed)
    store = store_on(driver)
    await store.add("team", ONE, 10)

    view = await store.view("team")

    assert view.used == 20
    assert not view.is_whole


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"counted": 1}', b'{"counted": "a", "size": "b"}'])
async def test_a_damaged_head_is_no_count_and_is_replaced_by_the_next_one(text: bytes) -> None:
    driver = MemoryDriver()
    store = store_on(driver)
    await driver.put(keys.usage_head("team"), text)

    assert (await store.view("team")).head is None
    assert await count(store, "team", counted((ONE, 10)))
    assert (await store.view("team")).used == 10


async def test_a_list_that_no_head_leads_to_goes_when_it_is_old() -> None:
    driver, clock = MemoryDriver(), Clock()
    store = store_on(driver, clock)
    await count(store, "team", counted((ONE, 10)))
    await driver.put(keys.usage_counted("team", f"{int(clock.now):010}-lost"), b"")
    names = [place.name async for place in store.places() if place.name]

    await store.drop_lost_lists("team", names, older_than_seconds=60)
    assert len(await keys_below(driver, f"{keys.usage('team')}_counted/")) == 2
    clock.now += 61
    await store.drop_lost_lists("team", names, older_than_seconds=60)

    assert len(await keys_below(driver, f"{keys.usage('team')}_counted/")) == 1
    assert (await store.view("team")).used == 10


async def test_lists_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.usage.CACHE_BYTES_MAX", 16)
    store = store_on(MemoryDriver())
    for prefix in ("a", "b", "c"):
        await count(store, prefix, counted((ONE, 1), (TWO, 1)))
        await store.view(prefix)

    assert len(store._lists) == 1
    assert store._lists_bytes == 32
