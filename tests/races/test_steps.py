"""Races too narrow to be met by chance: another worker acts exactly between two steps of the first."""

from collections.abc import Awaitable, Callable

import pytest

from registry.errors import BlobUnknown, ManifestUnknown
from registry.media_types import IMAGE
from storage import keys
from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, descriptor, encode, image
from tests.registry.services import LATEST, REPOSITORY, Services
from tests.stores import StepDriver, keys_below

BODY = encode(image())
DIGEST = Digest.of(BODY)

Act = Callable[[], Awaitable[object]]


@pytest.fixture
def driver() -> StepDriver:
    return StepDriver()


@pytest.fixture
def worker(driver: StepDriver) -> Services:
    return Services(driver)


@pytest.fixture
def other(driver: StepDriver) -> Services:
    """Return another worker on the same store."""
    return Services(driver)


def ahead_of(driver: StepDriver, *steps: tuple[str, str, Act]) -> list[tuple[str, str, Act]]:
    """Let each act once, in order: ahead of a method's call for a key. Returns those that are still to come."""
    waiting = list(steps)

    async def before_write(method: str, key: str) -> None:
        if waiting and (method, key) == waiting[0][:2]:
            await waiting.pop(0)[2]()

    driver.before_write = before_write
    return waiting


async def test_of_two_deletes_of_a_blob_one_finds_nothing(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    digest = await worker.push_blob(LAYER)
    link = keys.layer_link(REPOSITORY, digest)
    ahead_of(driver, ("delete_version", link, lambda: other.blobs.delete(REPOSITORY, digest)))

    with pytest.raises(BlobUnknown):
        await worker.blobs.delete(REPOSITORY, digest)


async def test_of_two_deletes_of_a_manifest_one_finds_nothing(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    link = keys.revision_link(REPOSITORY, DIGEST)
    ahead_of(driver, ("delete_version", link, lambda: other.manifests.delete(REPOSITORY, DIGEST)))

    with pytest.raises(ManifestUnknown):
        await worker.manifests.delete(REPOSITORY, DIGEST)


async def test_a_push_that_is_withdrawn_leaves_what_another_push_was_told_is_there(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.revision_link(REPOSITORY, DIGEST)
    waiting = ahead_of(
        driver,
        ("create", link, lambda: other.blobs.delete(REPOSITORY, layer)),
        ("delete_version", link, lambda: other.push(image())),
    )

    await worker.manifests.put(REPOSITORY, DIGEST, BODY, media_type=IMAGE)

    assert waiting == []
    assert (await worker.manifests.get(REPOSITORY, DIGEST)).body == BODY
    assert (await worker.manifests.get(REPOSITORY, LATEST)).body == BODY


async def test_a_push_whose_manifest_is_deleted_leaves_the_tag_of_a_push_after_that(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.tag_link(REPOSITORY, LATEST)
    waiting = ahead_of(
        driver,
        ("create", link, lambda: other.manifests.delete(REPOSITORY, DIGEST)),
        ("delete_version", link, lambda: other.push(image())),
    )

    await worker.manifests.put(REPOSITORY, LATEST, BODY, media_type=IMAGE)

    assert waiting == []
    assert (await worker.manifests.get(REPOSITORY, LATEST)).body == BODY


async def test_an_artifact_that_is_pushed_again_while_it_is_deleted_is_listed(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    subject = descriptor(b"an image", IMAGE)
    artifact = image(subject=subject)
    digest, named = Digest.of(encode(artifact)), Digest.parse(str(subject["digest"]))
    await worker.push(artifact)
    entry = keys.referrer(REPOSITORY, named, digest)
    waiting = ahead_of(driver, ("delete", entry, lambda: other.push(artifact)))

    await worker.manifests.delete(REPOSITORY, digest)

    assert waiting == []
    assert (await worker.manifests.get(REPOSITORY, digest)).body == encode(artifact)
    assert len((await worker.referrers.list(REPOSITORY, named)).descriptors) == 1


async def test_a_tag_that_is_set_again_while_it_is_deleted_keeps_its_index(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    entry = keys.tag_index_link(REPOSITORY, LATEST, DIGEST)
    waiting = ahead_of(driver, ("delete", entry, lambda: other.push(image())))

    await worker.manifests.delete(REPOSITORY, LATEST)

    assert waiting == []
    assert (await worker.manifests.get(REPOSITORY, LATEST)).body == BODY
    assert await keys_below(driver, keys.tag_index(REPOSITORY, LATEST)) == [entry]


async def test_a_tag_that_is_deleted_while_it_is_set_has_an_index_as_well(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    link, entry = keys.tag_link(REPOSITORY, LATEST), keys.tag_index_link(REPOSITORY, LATEST, DIGEST)
    waiting = ahead_of(driver, ("replace", link, lambda: other.manifests.delete(REPOSITORY, LATEST)))

    await worker.push(image())

    assert waiting == []
    assert await keys_below(driver, keys.tag_index(REPOSITORY, LATEST)) == [entry]
