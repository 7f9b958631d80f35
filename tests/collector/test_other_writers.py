"""Collections beside what does not push: what was damaged, set by another registry, or is put back."""

import time
from pathlib import Path

import pytest

from registry.collector.reports import Outcome
from registry.collector.undo import Undo, Undone
from registry.config import Settings
from registry.names import Tag
from registry.operations import Operations
from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.errors import NotFound
from storage.links import read_link
from storage.memory import MemoryDriver
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.registry.services import OTHER, REPOSITORY, Services
from tests.stores import keys_below

COLLECTIONS = 2
"""What one unlinks the next one deletes."""


async def collect(driver: MemoryDriver, *, trash_seconds: float = 0.0) -> None:
    """Collect, without any grace."""
    gc = {"grace_seconds": 0, "trash_seconds": trash_seconds}
    settings = Settings.model_validate({"data": Path("/nowhere"), "gc": gc})
    for _ in range(COLLECTIONS):
        await Operations(settings, driver).collection(share=1.0).run(brake=False)


async def test_a_repository_that_is_kept_whole_keeps_the_bytes_of_manifests_held_by_sha512() -> None:
    services = Services()
    body = encode(image())
    digest = Digest.of(body, "sha512")
    await services.push(image(), digest, tags=[Tag("v1")])
    damaged = await services.push(image(annotations={"of": "another"}), Tag("v2"))
    services.driver.write(keys.blob(damaged.digest), b"rotten")
    garbage = await services.push_blob(b"garbage", repository=OTHER)

    await collect(services.driver)

    assert (await services.manifests.get(REPOSITORY, Tag("v1"))).body == body
    assert not await services.blob_store.exists(OTHER, garbage)


async def test_a_link_by_sha512_that_can_not_be_read_keeps_all_bytes() -> None:
    services = Services()
    body = encode(image())
    digest = Digest.of(body, "sha512")
    await services.push(image(), digest, tags=[Tag("v1")])
    link = keys.revision_link(REPOSITORY, digest)
    text = (await services.driver.get(link, bytes_max=256)).body
    services.driver.write(link, b"")

    await collect(services.driver)

    services.driver.write(link, text)
    assert (await services.manifests.get(REPOSITORY, Tag("v1"))).body == body


async def undo(services: Services) -> Undone:
    settings = Settings.model_validate({"data": Path("/nowhere")})
    stores, _rules = Operations(settings, services.driver).collector(share=1.0)
    return await Undo(stores, BlobStore(services.driver), clock=time.time).run(lambda _taken: True)


async def test_an_undo_leaves_the_link_of_a_push_that_has_come_since() -> None:
    services = Services()
    digest = await services.push_blob(b"garbage")
    await collect(services.driver, trash_seconds=1000)
    assert not await services.blob_store.exists(REPOSITORY, digest)
    await services.push_blob(b"garbage")
    found = await services.blob_store.stat(REPOSITORY, digest)
    await services.blob_store.condemn(digest, found)  # to be healed by another push, as its link says

    await undo(services)

    assert await read_link(services.driver, keys.layer_link(REPOSITORY, digest)) == digest


async def test_an_undo_takes_links_back_whose_bytes_are_gone() -> None:
    services = Services()
    digest = await services.push_blob(b"garbage")
    await collect(services.driver, trash_seconds=1000)
    await services.driver.delete(keys.blob(digest))

    assert (await undo(services)).gone == 1

    with pytest.raises(NotFound):
        await read_link(services.driver, keys.layer_link(REPOSITORY, digest))


async def test_an_undo_puts_back_what_only_another_registry_would_take() -> None:
    services = Services()
    body = b'{"schemaVersion": 2, "schemaVersion": 2, "layers": []}'
    digest = await services.manifest_store.put_bytes(body)
    await services.manifest_store.link(REPOSITORY, digest, canonical=digest, body=body)
    await collect(services.driver, trash_seconds=1000)
    assert not await services.manifest_store.exists(REPOSITORY, digest)

    assert (await undo(services)).manifests == 1

    assert await services.manifest_store.exists(REPOSITORY, digest)


async def test_a_missing_link_takes_no_bytes_of_what_a_tag_needs() -> None:
    services = Services()
    await services.push(image(), Tag("v1"))
    await services.driver.delete(keys.layer_link(REPOSITORY, Digest.of(LAYER)))

    await collect(services.driver)

    for content in (CONFIG, LAYER):
        assert (await services.driver.get(keys.blob(Digest.of(content)), bytes_max=100)).body == content


async def test_earlier_states_of_another_registry_are_kept_until_its_histories_have_begun() -> None:
    services = Services()
    old = await services.push(image(annotations={"is": "old"}), Tag("v1"))
    await services.push(image(annotations={"is": "new"}), Tag("v1"))
    for mark in await services.history.marks(REPOSITORY, "v1"):
        await services.driver.delete(mark.key)  # distribution writes none

    await collect(services.driver)

    assert await services.manifest_store.exists(REPOSITORY, old.digest)


async def test_links_that_are_all_lost_take_no_bytes_with_them_before_somebody_has_looked() -> None:
    services = Services()
    await services.push(image(), Tag("v1"))
    blobs = await keys_below(services.driver, keys.BLOBS)
    for key in await keys_below(services.driver, keys.REPOSITORIES):  # a mount that is missing, say
        await services.driver.delete(key)

    for brake, left in ((True, blobs), (False, [])):
        settings = Settings.model_validate({"data": Path("/nowhere"), "gc": {"grace_seconds": 0, "trash_seconds": 0}})
        report = await Operations(settings, services.driver).collection(share=1.0).run(brake=brake)

        assert report.outcome == (Outcome.BRAKED if brake else Outcome.DONE).value
        assert await keys_below(services.driver, keys.BLOBS) == left
