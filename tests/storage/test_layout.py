"""The layout has a version, and nobody else's is touched."""

import pytest

from storage import keys
from storage.catalog import CatalogStore
from storage.digest import Digest
from storage.errors import AlreadyExists, LayoutUnknown, StorageError
from storage.layout import LAYOUT, check_layout, is_unadopted
from storage.links import link_text
from storage.memory import MemoryDriver
from tests.stores import REPOSITORY, body_at, push


async def test_the_first_start_writes_the_version_and_later_ones_find_it() -> None:
    driver = MemoryDriver()

    await check_layout(driver)
    version = (await driver.get(keys.LAYOUT, bytes_max=256)).version
    await check_layout(driver)

    found = await driver.get(keys.LAYOUT, bytes_max=256)
    assert (found.body, found.version) == (b"pierhead layout 1\n", version)


@pytest.mark.parametrize("text", [b"pierhead layout 2\n", b"", b"\xff\x00", LAYOUT[:-1]])
async def test_an_unknown_version_is_refused_with_what_to_do_and_left_as_it_is(text: bytes) -> None:
    driver = MemoryDriver()
    await driver.put(keys.LAYOUT, text)

    with pytest.raises(LayoutUnknown, match="start the version of Pierhead that wrote it"):
        await check_layout(driver)

    assert await body_at(driver, keys.LAYOUT) == text


async def test_what_is_no_version_at_all_is_refused() -> None:
    driver = MemoryDriver()
    await driver.put(keys.LAYOUT, b"x" * 1000)

    with pytest.raises(StorageError):
        await check_layout(driver)


class RacingDriver(MemoryDriver):
    """Another process starts first, in the very moment between the look and the write."""

    def __init__(self, theirs: bytes) -> None:
        super().__init__()
        self._theirs = theirs

    async def create(self, key: str, body: bytes) -> str:
        await self.put(key, self._theirs)
        with pytest.raises(AlreadyExists):
            await super().create(key, body)
        raise AlreadyExists("lost the race", key=key)


async def test_two_first_starts_at_once_both_succeed() -> None:
    await check_layout(RacingDriver(LAYOUT))


async def test_a_first_start_that_loses_to_another_version_is_refused() -> None:
    with pytest.raises(LayoutUnknown):
        await check_layout(RacingDriver(b"pierhead layout 9\n"))


async def test_a_store_is_unadopted_if_it_holds_manifests_that_no_index_knows() -> None:
    driver = MemoryDriver()
    await check_layout(driver)
    assert not await is_unadopted(driver)

    await push(driver, b"the blob of a push that has not come to its manifest")
    assert not await is_unadopted(driver)

    digest = Digest.of(b"a manifest")
    await driver.put(keys.revision_link(REPOSITORY, digest), link_text(digest))
    assert await is_unadopted(driver)

    await CatalogStore(driver).add(REPOSITORY)
    assert not await is_unadopted(driver)
