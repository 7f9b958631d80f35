"""Tags of a known repository are listed, even if there are none; an unknown one is told as such."""

import pytest

from registry.errors import NameUnknown
from registry.names import Tag
from storage import keys
from tests.registry.images import image
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services


@pytest.fixture
def services() -> Services:
    return Services()


async def test_an_unknown_repository_has_no_list(services: Services) -> None:
    await services.push_blob(b"a blob makes no repository", repository=OTHER)

    for repository in (REPOSITORY, OTHER):
        with pytest.raises(NameUnknown, match="push a manifest to it first"):
            await services.tags.list(repository, limit=10)


async def test_a_repository_without_tags_has_an_empty_list(services: Services) -> None:
    pushed = await services.push(image())
    await services.manifests.delete(REPOSITORY, LATEST)

    assert (await services.tags.list(REPOSITORY, limit=10)).tags == []
    await services.manifests.delete(REPOSITORY, pushed.digest)
    assert (await services.tags.list(REPOSITORY, limit=10)).tags == []


async def test_a_repository_that_only_distribution_has_written_to_is_known(services: Services) -> None:
    await services.push(image())
    await services.manifests.delete(REPOSITORY, LATEST)
    await services.driver.delete(keys.catalog_entry(REPOSITORY))

    assert (await services.tags.list(REPOSITORY, limit=10)).tags == []


async def test_a_page_is_cut_at_its_limit_and_goes_on_after_the_last(services: Services) -> None:
    for tag in ("c", "a", "b"):
        await services.push(image(), Tag(tag))

    first = await services.tags.list(REPOSITORY, limit=2)
    second = await services.tags.list(REPOSITORY, after="b", limit=2)

    assert (first.tags, first.more) == (["a", "b"], True)
    assert (second.tags, second.more) == (["c"], False)


async def test_the_catalog_lists_repositories_that_hold_or_held_a_manifest(services: Services) -> None:
    await services.push(image(), repository=OTHER)
    await services.push(image())
    await services.push_blob(b"no manifest", repository=REPOSITORY)

    assert await services.catalog.list(limit=10) == ([REPOSITORY, OTHER], False)
    assert await services.catalog.list(limit=1) == ([REPOSITORY], True)
    assert await services.catalog.list(after=REPOSITORY, limit=1) == ([OTHER], False)
