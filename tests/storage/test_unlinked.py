"""Since when bytes are not linked to, as it is remembered from one collection to the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.digest import Digest
from storage.memory import MemoryDriver
from storage.unlinked import Noted, Since, UnlinkedStore

ENTRIES = st.lists(st.tuples(st.binary(max_size=3), st.floats(0, 1e10)), max_size=50)


@given(ENTRIES)
def test_what_was_noted_is_told_again_and_never_as_older(entries: list[tuple[bytes, float]]) -> None:
    noted, latest = Noted(), dict[Digest, float]()
    for body, when in entries:
        digest = Digest.of(body)
        noted.add(digest, when)
        latest[digest] = max(when, latest.get(digest, 0.0))

    since = Since.from_bytes(noted.since().to_bytes())

    for digest, when in latest.items():
        told = since.get(digest)
        assert told is not None
        assert when <= told <= when + 1
    assert since.get(Digest.of(b"never noted")) is None


async def test_a_store_remembers_what_was_written_last() -> None:
    driver, digest = MemoryDriver(), Digest.of(b"blob")
    store = UnlinkedStore(driver)
    assert (await store.read()).get(digest) is None

    noted = Noted()
    noted.add(digest, 7.0)
    await store.write(noted.since())

    assert (await store.read()).get(digest) == 7


@pytest.mark.parametrize("stored", [b"x", b"x" * 8, b"x" * 24])
async def test_a_damaged_record_remembers_nothing(stored: bytes) -> None:
    driver = MemoryDriver()
    await driver.put(keys.UNLINKED, stored)

    assert (await UnlinkedStore(driver).read()).to_bytes() == b""
