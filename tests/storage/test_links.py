"""A link is a digest as text, or it is damaged, logged and not there."""

import pytest
from hypothesis import given
from structlog.testing import capture_logs

from storage.digest import Digest
from storage.errors import Corrupt, NotFound, StorageRefused
from storage.links import LINK_BYTES_MAX, link_text, read_link, read_link_version
from storage.memory import MemoryDriver
from tests.properties import digest_texts
from tests.stores import RefusingDriver, damages

KEY = "some/link"
DIGEST = Digest.of(b"bytes")


@given(digest_texts.map(Digest.parse))
async def test_a_link_leads_where_it_was_written_to(digest: Digest) -> None:
    driver = MemoryDriver()
    await driver.put(KEY, link_text(digest))

    assert await read_link(driver, KEY) == digest


def test_the_text_of_a_link_is_that_of_distribution_without_a_newline() -> None:
    assert link_text(DIGEST) == f"sha256:{DIGEST.hex}".encode()


async def test_white_space_around_a_link_that_was_mended_by_hand_is_ignored() -> None:
    driver = MemoryDriver()
    await driver.put(KEY, link_text(DIGEST) + b"\n")

    assert await read_link(driver, KEY) == DIGEST


async def test_the_version_of_a_link_is_the_one_to_compare_and_swap_it_by() -> None:
    driver = MemoryDriver()
    await driver.put(KEY, link_text(DIGEST))

    digest, version = await read_link_version(driver, KEY)
    await driver.replace(KEY, b"other", version=version)

    assert digest == DIGEST


async def test_an_absent_link_is_not_found_and_nothing_to_log() -> None:
    with capture_logs() as logs, pytest.raises(NotFound) as raised:
        await read_link(MemoryDriver(), KEY)

    assert not isinstance(raised.value, Corrupt)
    assert not logs


@pytest.mark.parametrize(
    "text",
    [b"", b" ", b"\0" * 71, b"sha256:", b"sha256:" + b"A" * 64, b"\xff" * 71, b"x" * (LINK_BYTES_MAX + 1)],
    ids=["empty", "blank", "zeros", "cut", "upper case", "no ASCII", "too long"],
)
async def test_a_damaged_link_is_corrupt_and_logged_with_its_key(text: bytes) -> None:
    driver = MemoryDriver()
    await driver.put(KEY, text)

    with capture_logs() as logs, pytest.raises(Corrupt) as raised:
        await read_link(driver, KEY)

    assert raised.value.key == KEY
    assert damages(logs) == [KEY]


async def test_a_link_that_may_not_be_read_is_corrupt_and_logged_so_that_only_it_is_lost() -> None:
    driver = RefusingDriver()
    await driver.put(KEY, link_text(DIGEST))
    driver.refused = {KEY}

    with capture_logs() as logs, pytest.raises(Corrupt) as raised:
        await read_link(driver, KEY)

    assert isinstance(raised.value.__cause__, StorageRefused)
    assert damages(logs) == [KEY]
