"""A repository reads what it links to, and cannot lose a blob that its manifests need."""

import pytest
from structlog.testing import capture_logs

from registry.errors import BlobUnknown, Unsupported
from registry.names import Tag
from storage import keys
from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, encode, image, index
from tests.registry.services import OTHER, REPOSITORY, Services
from tests.stores import damages


@pytest.fixture
def services() -> Services:
    return Services()


async def test_an_unknown_blob_is_unknown_to_every_question(services: Services) -> None:
    digest = await services.push_blob(LAYER, repository=OTHER)

    for question in (
        services.blobs.stat(REPOSITORY, digest),
        services.blobs.open(REPOSITORY, digest),
        services.blobs.delete(REPOSITORY, digest),
    ):
        with pytest.raises(BlobUnknown, match="holds no such blob"):
            await question


async def test_a_damaged_blob_is_unknown_with_the_advice_to_push_it_again(services: Services) -> None:
    digest = await services.push_blob(LAYER)
    await services.driver.put(keys.blob(digest), b"")

    for question in (services.blobs.stat(REPOSITORY, digest), services.blobs.open(REPOSITORY, digest)):
        with pytest.raises(BlobUnknown, match="damaged: push it again"):
            await question


async def test_deleting_takes_the_blob_from_this_repository_only(services: Services) -> None:
    digest = await services.push_blob(LAYER)
    await services.push_blob(LAYER, repository=OTHER)

    await services.blobs.delete(REPOSITORY, digest)

    with pytest.raises(BlobUnknown):
        await services.blobs.stat(REPOSITORY, digest)
    assert await services.read_blob(digest, repository=OTHER) == LAYER


@pytest.mark.parametrize("content", [LAYER, CONFIG])
async def test_a_blob_that_a_manifest_refers_to_is_kept_until_that_is_deleted(
    services: Services, content: bytes
) -> None:
    pushed = await services.push(image())

    with pytest.raises(Unsupported, match=f"{pushed.digest} refers to this blob: delete that first") as refused:
        await services.blobs.delete(REPOSITORY, Digest.of(content))
    assert refused.value.detail == {"manifest": str(pushed.digest)}
    assert await services.read_blob(Digest.of(content)) == content

    await services.manifests.delete(REPOSITORY, pushed.digest)
    await services.blobs.delete(REPOSITORY, Digest.of(content))


async def test_a_manifest_of_another_repository_keeps_nothing_here(services: Services) -> None:
    await services.push(image(), repository=OTHER)
    digest = await services.push_blob(LAYER)

    await services.blobs.delete(REPOSITORY, digest)


async def test_where_deletion_is_off_nothing_is_deleted() -> None:
    services = Services(delete=False)
    digest = await services.push_blob(LAYER)

    with pytest.raises(Unsupported, match="delete = true"):
        await services.blobs.delete(REPOSITORY, digest)

    assert await services.read_blob(digest) == LAYER


async def test_a_damaged_link_can_be_deleted(services: Services) -> None:
    digest = await services.push_blob(LAYER)
    await services.driver.put(keys.layer_link(REPOSITORY, digest), b"")

    await services.blobs.delete(REPOSITORY, digest)

    with pytest.raises(BlobUnknown, match="holds no such blob"):
        await services.blobs.stat(REPOSITORY, digest)


async def test_references_are_found_through_all_pages_and_known_ones_are_not_read_again(services: Services) -> None:
    pushed = [
        (await services.push(image(annotations={"n": str(number)}), Tag(f"v{number}"))).digest for number in range(5)
    ]
    seen: set[Digest] = set()

    assert await services.references.find(REPOSITORY, Digest.of(b"absent"), seen=seen) is None
    assert seen == set(pushed)
    assert await services.references.find(REPOSITORY, Digest.of(LAYER), seen=seen) is None
    assert await services.references.find(REPOSITORY, Digest.of(LAYER), seen=set()) in pushed


async def test_config_layers_and_children_are_references_and_the_subject_is_none(services: Services) -> None:
    child = image()
    await services.push(child)
    parent = index(encode(child), subject={"mediaType": "a/b", "digest": str(Digest.of(b"subject")), "size": 1})
    digest = (await services.push(parent)).digest

    assert await services.references.of(REPOSITORY, digest) == {Digest.of(encode(child))}
    assert await services.references.of(REPOSITORY, Digest.of(encode(child))) == {Digest.of(CONFIG), Digest.of(LAYER)}


async def test_an_unreadable_manifest_refers_to_nothing_and_is_logged(services: Services) -> None:
    digest = (await services.push(image())).digest
    await services.driver.put(keys.blob(digest), b"{}")

    with capture_logs() as logs:
        assert await services.references.of(REPOSITORY, digest) == set()

    assert damages(logs) == [keys.blob(digest)]


async def test_bytes_that_are_no_manifest_refer_to_nothing_and_are_logged(services: Services) -> None:
    digest = await services.manifest_store.put_bytes(b"no JSON")
    await services.manifest_store.link(REPOSITORY, digest, canonical=digest, body=b"no JSON")

    with capture_logs() as logs:
        assert await services.references.of(REPOSITORY, digest) == set()

    assert [line["digest"] for line in logs] == [str(digest)]
