"""Signing keys lie in slots that are filled once, and damage to one hides no other."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from storage import keys
from storage.errors import AlreadyExists
from storage.memory import MemoryDriver
from storage.signing_keys import RECORD_BYTES_MAX, SigningKeyRecord, SigningKeyStore
from tests.stores import RefusingDriver, body_at, damages, keys_below

OLD = SigningKeyRecord("old", 100, "-----OLD-----")
NEW = SigningKeyRecord("new", 200, "-----NEW-----")


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> SigningKeyStore:
    return SigningKeyStore(driver)


async def test_keys_are_listed_newest_first(store: SigningKeyStore) -> None:
    await store.add(OLD, after=None)
    await store.add(NEW, after="old")

    assert [stored.record for stored in await store.list()] == [NEW, OLD]


async def test_keys_of_one_second_have_the_same_order_everywhere(
    driver: RefusingDriver, store: SigningKeyStore
) -> None:
    twin = SigningKeyRecord("a", OLD.created, "x")
    await store.add(twin, after="old")
    await store.add(OLD, after=None)

    assert [stored.record for stored in await SigningKeyStore(driver).list()] == [OLD, twin]


async def test_of_many_that_make_the_next_key_one_does(driver: RefusingDriver) -> None:
    records = [SigningKeyRecord(str(number), 100, "x") for number in range(10)]

    results = await asyncio.gather(
        *(SigningKeyStore(driver).add(record, after=None) for record in records), return_exceptions=True
    )

    assert results.count(None) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9
    assert len(await SigningKeyStore(driver).list()) == 1


async def test_a_slot_is_never_written_over(driver: RefusingDriver, store: SigningKeyStore) -> None:
    await store.add(OLD, after=None)

    with pytest.raises(AlreadyExists):
        await store.add(NEW, after=None)
    await store.add(NEW, after=None, attempt=1)

    assert await keys_below(driver, keys.SIGNING_KEYS) == [keys.signing_key("first"), keys.signing_key("first.1")]
    assert await body_at(driver, keys.signing_key("first")) == OLD.to_json()


async def test_a_key_can_be_removed_twice(store: SigningKeyStore) -> None:
    await store.add(OLD, after=None)
    (stored,) = await store.list()

    await store.remove(stored)
    await store.remove(stored)

    assert await store.list() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        OLD.to_json()[:-5],
        b"\xff" * 20,
        b"[" * 10_000,
        b'{"kid": "old", "created": "100", "private": "SECRET"}',
        b'{"kid": "old", "created": true, "private": "SECRET"}',
        b'{"kid": 1, "created": 100, "private": "SECRET"}',
        b'{"kid": "old", "created": 100, "private": 5}',
        b'"SECRET' + b"x" * RECORD_BYTES_MAX,
    ],
)
async def test_a_damaged_record_is_passed_over_and_told_once_without_its_bytes(
    driver: RefusingDriver, store: SigningKeyStore, body: bytes
) -> None:
    key = keys.signing_key("old")
    await store.add(OLD, after=None)
    driver.write(key, body)

    with capture_logs() as logs:
        first, second = await store.list(), await store.list()

    assert [stored.record for stored in first] == [stored.record for stored in second] == [OLD]
    assert damages(logs) == [key]
    assert "SECRET" not in str(logs)


async def test_a_record_that_may_not_be_read_is_passed_over(driver: RefusingDriver, store: SigningKeyStore) -> None:
    await store.add(OLD, after=None)
    await store.add(NEW, after="old")
    driver.refused.add(keys.signing_key("old"))

    with capture_logs() as logs:
        found = await store.list()

    assert [stored.record for stored in found] == [OLD]
    assert damages(logs) == [keys.signing_key("old")]


def test_a_record_shows_nothing_of_the_key() -> None:
    assert "OLD" not in repr(OLD)


@given(st.binary())
def test_no_bytes_make_the_reader_fail_in_another_way(body: bytes) -> None:
    try:
        SigningKeyRecord.from_json(body)
    except ValueError:
        return


@given(st.text(), st.integers(), st.text())
def test_what_is_written_is_read(kid: str, created: int, pem: str) -> None:
    record = SigningKeyRecord(kid, created, pem)

    assert SigningKeyRecord.from_json(record.to_json()) == record


async def test_the_memory_driver_is_enough() -> None:
    assert await SigningKeyStore(MemoryDriver()).list() == []
