"""Whole collections on every kind of store: what goes, what stays, and what comes back."""

import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from registry.collector.collection import Collection
from registry.collector.reports import Report, last_report
from registry.collector.rules import Rules
from registry.collector.undo import Undo, Undone
from registry.collector.why import Why
from registry.errors import BlobUnknown, ManifestUnknown
from registry.media_types import FOREIGN_LAYERS, IMAGE
from registry.names import RepositoryName, Tag
from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound
from storage.filesystem import FileSystemDriver
from storage.links import read_link
from storage.memory import MemoryDriver
from storage.places import Kind
from storage.s3 import S3Driver
from storage.walk import walk
from tests.registry.images import CONFIG, LAYER, LAYER_TYPE, descriptor, encode, image, index
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services, body
from tests.s3.weed import Store
from tests.stores import Clock

INNER = RepositoryName("team/app/inner")
GARBAGE = b"a layer that only garbage needs"
LONG = 100_000.0
AT_ONCE = Rules(grace_seconds=0, trash_seconds=0)


class Ahead(Clock):
    """The real time, or later than that."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(params=["memory", "filesystem", "s3"])
async def services(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Services]:
    """Return the rules of a registry over one kind of store, whose waits take no time."""
    driver: Driver = MemoryDriver() if request.param == "memory" else FileSystemDriver(tmp_path / "data")
    if request.param == "s3":
        weed: Store = request.getfixturevalue("weed")
        driver = S3Driver(weed.settings(f"tests/{secrets.token_hex(8)}"))
    await driver.start()
    clock = Ahead()
    made = Services(cast("MemoryDriver", driver), clock=clock)

    async def wait(seconds: float) -> None:
        clock.ahead += seconds

    made.removals._pause = wait
    yield made
    await driver.close()


async def collect(services: Services, rules: Rules = AT_ONCE, *, brake: bool = False) -> Report:
    collection = Collection(
        services.collector_stores(), rules, clock=services.clock, new_id=lambda: secrets.token_hex(8)
    )
    return await collection.run(brake=brake)


def let_pass(services: Services, seconds: float = LONG) -> None:
    """Let a time pass, a long one unless told."""
    assert isinstance(services.clock, Ahead)
    services.clock.ahead += seconds


async def undo(services: Services, repository: str = REPOSITORY, digest: Digest | None = None) -> Undone:
    undoing = Undo(services.collector_stores(), services.blob_store, clock=services.clock)
    return await undoing.run(lambda taken: taken.repository == repository, digest)


async def push_garbage(services: Services, repository: RepositoryName = REPOSITORY, **fields: Any) -> Digest:
    """Push an image without a tag, with a layer of its own."""
    await services.push_blob(GARBAGE, repository=repository)
    document = image(GARBAGE, **fields)
    return (await services.push(document, Digest.of(encode(document)), repository=repository)).digest


async def dangling(driver: Driver) -> list[str]:
    """Links that lead nowhere, as distribution would find them."""
    found = []
    async for place in walk(driver, keys.REPOSITORIES):
        if place.kind in {Kind.LAYER, Kind.REVISION}:
            try:
                await driver.stat(keys.blob(await read_link(driver, place.key)))
            except NotFound:
                found.append(place.key)
        if place.kind is Kind.TAG_INDEX and place.digest is not None:
            try:
                await driver.stat(keys.revision_link(place.repository, place.digest))
            except NotFound:
                found.append(place.key)
    return found


async def test_what_a_tag_leads_to_stays_and_the_rest_goes_with_its_bytes(services: Services) -> None:
    kept = (await services.push(image())).digest
    garbage = await push_garbage(services)
    let_pass(services)

    report = await collect(services)

    assert (report.taken_manifests, report.taken_layers, report.deleted_blobs) == (1, 1, 2)
    assert (await services.manifests.get(REPOSITORY, LATEST)).digest == kept
    assert await services.read_blob(Digest.of(LAYER)) == LAYER
    with pytest.raises(ManifestUnknown):
        await services.manifests.get(REPOSITORY, garbage)
    for digest in (garbage, Digest.of(GARBAGE)):
        with pytest.raises(NotFound):
            await services.driver.stat(keys.blob(digest))
    assert await dangling(services.driver) == []
    assert await last_report(services.driver) == report


async def test_indexes_subjects_and_what_lists_blobs_keep_what_they_name(services: Services) -> None:
    child = encode(image(GARBAGE))
    await services.push_blob(GARBAGE)
    await services.push(image(GARBAGE), Digest.of(child))
    cache = index(child)
    cache["manifests"] = [*cast("list[object]", cache["manifests"]), descriptor(LAYER, LAYER_TYPE)]
    await services.push_blob(LAYER)
    await services.push(cache)
    subject = {**descriptor(child, IMAGE)}
    signature = (await services.push(image(subject=subject), Digest.of(encode(image(subject=subject))))).digest
    let_pass(services)

    report = await collect(services)

    assert (report.taken_manifests, report.taken_layers, report.deleted_blobs) == (0, 0, 0)
    assert len((await services.referrers.list(REPOSITORY, Digest.of(child))).descriptors) == 1
    await services.manifests.delete(REPOSITORY, LATEST)
    let_pass(services)
    report = await collect(services)

    assert report.taken_manifests == 3
    assert (await services.referrers.list(REPOSITORY, Digest.of(child))).descriptors == []
    assert not await services.catalog_store.has(REPOSITORY)
    assert await dangling(services.driver) == []
    with pytest.raises(ManifestUnknown):
        await services.manifests.get(REPOSITORY, signature)


async def test_other_names_of_a_blob_and_layers_that_lie_elsewhere_are_no_garbage(services: Services) -> None:
    alias = Digest.of(LAYER, "sha512")
    await services.uploads.put(REPOSITORY, alias, body(LAYER))
    document = image()
    foreign = {"mediaType": min(FOREIGN_LAYERS), "digest": str(Digest.of(b"elsewhere")), "size": 9}
    document["layers"] = [descriptor(LAYER, algorithm="sha512"), foreign]
    await services.push(document)
    let_pass(services)

    report = await collect(services)

    assert (report.taken_manifests, report.taken_layers, report.deleted_blobs) == (0, 0, 0)
    assert await services.read_blob(alias) == LAYER
    assert await services.read_blob(Digest.of(LAYER)) == LAYER


async def test_a_layer_that_several_repositories_share_stays_for_those_that_need_it(services: Services) -> None:
    await push_garbage(services)
    await services.push_blob(GARBAGE, repository=INNER)
    await services.push(image(GARBAGE), repository=INNER)
    let_pass(services)

    report = await collect(services)

    assert report.taken_manifests == 1
    assert await services.read_blob(Digest.of(GARBAGE), repository=INNER) == GARBAGE
    with pytest.raises(BlobUnknown):
        await services.read_blob(Digest.of(GARBAGE))
    assert [name async for name in names(services)] == [INNER]


async def names(services: Services) -> AsyncIterator[str]:
    for name in (await services.catalog_store.list(limit=100))[0]:
        yield name


async def test_what_is_young_stays(services: Services) -> None:
    garbage = await push_garbage(services)
    rules = Rules(grace_seconds=3600, trash_seconds=0)

    assert (await collect(services, rules)).taken_manifests == 0
    assert (await services.manifests.get(REPOSITORY, garbage)).digest == garbage

    let_pass(services)
    assert (await collect(services, rules)).taken_manifests == 1


async def test_what_was_pushed_beside_an_open_upload_stays(services: Services) -> None:
    begun = (await services.uploads.begin(REPOSITORY)).record.id
    digest = await services.push_blob(GARBAGE)
    let_pass(services)

    rules = Rules(grace_seconds=3600, trash_seconds=0)
    assert (await collect(services, rules)).taken_layers == 0
    assert await services.read_blob(digest) == GARBAGE

    await services.uploads.cancel(REPOSITORY, begun)
    assert (await collect(services, rules)).taken_layers == 1


async def test_what_is_in_the_trash_can_be_put_back_until_its_bytes_go(services: Services) -> None:
    subject = (await services.push(image())).digest
    garbage = await push_garbage(services, subject={**descriptor(encode(image()), IMAGE)})
    await services.manifests.delete(REPOSITORY, LATEST)
    let_pass(services)
    rules = Rules(grace_seconds=10, trash_seconds=3600)

    report = await collect(services, rules)
    assert (report.taken_manifests, report.deleted_blobs) == (2, 0)
    assert (await collect(services, rules)).deleted_blobs == 0

    done = await undo(services, digest=garbage)
    # The subject stands in it, so it comes back as well.
    assert (done.manifests, done.gone) == (2, 0)
    assert (await services.manifests.get(REPOSITORY, garbage)).body == encode(
        image(GARBAGE, subject={**descriptor(encode(image()), IMAGE)})
    )
    assert await services.read_blob(Digest.of(GARBAGE)) == GARBAGE
    assert len((await services.referrers.list(REPOSITORY, subject)).descriptors) == 1
    assert (await undo(services)).manifests == 0

    let_pass(services)
    assert (await collect(services, rules)).taken_manifests == 2
    let_pass(services)
    assert (await collect(services, rules)).deleted_blobs == 5
    done = await undo(services)
    assert (done.manifests, done.layers, done.gone > 0) == (0, 0, True)
    assert await dangling(services.driver) == []


async def test_a_collection_that_would_take_too_much_takes_nothing(services: Services) -> None:
    await services.push(image())
    garbage = await push_garbage(services)
    let_pass(services)
    rules = Rules(grace_seconds=0, trash_seconds=0, brake_share=0.3, brake_floor=0)

    report = await collect(services, rules, brake=True)

    assert (report.outcome, report.taken_manifests, report.deleted_blobs) == ("braked", 0, 0)
    assert "1 of 2 manifests" in report.reason
    assert (await services.manifests.get(REPOSITORY, garbage)).digest == garbage
    assert (await collect(services, rules)).taken_manifests == 1


async def test_a_manifest_that_cannot_be_read_keeps_its_repository_and_no_other(services: Services) -> None:
    damaged = (await services.push(image())).digest
    garbage = await push_garbage(services)
    elsewhere = await push_garbage(services, OTHER)
    await services.driver.put(keys.blob(damaged), b"damaged")
    let_pass(services)

    report = await collect(services)

    assert report.kept == {REPOSITORY: f"the manifest {damaged} can't be read"}
    assert (await services.manifests.get(REPOSITORY, garbage)).digest == garbage
    assert await services.read_blob(Digest.of(GARBAGE)) == GARBAGE
    with pytest.raises(ManifestUnknown):
        await services.manifests.get(OTHER, elsewhere)


@pytest.mark.parametrize("text", ["", "sha256:" + "0" * 64], ids=["damaged", "leads nowhere"])
async def test_a_tag_that_says_nothing_keeps_its_repository(services: Services, text: str) -> None:
    await services.push(image())
    garbage = await push_garbage(services)
    await services.driver.put(keys.tag_link(REPOSITORY, "broken"), text.encode())
    let_pass(services)

    report = await collect(services)

    assert list(report.kept) == [REPOSITORY]
    assert (await services.manifests.get(REPOSITORY, garbage)).digest == garbage


async def test_it_can_be_told_what_keeps_something(services: Services) -> None:
    child, document = encode(image()), index(encode(image()))
    await services.push(image(), Digest.of(child))
    await services.push(document, Tag("v1"))
    garbage = await push_garbage(services)
    let_pass(services)
    why = Why(services.collector_stores(), Rules(grace_seconds=0), clock=services.clock)

    async def told(digest: Digest) -> list[tuple[bool, str]]:
        return [(reason.is_kept, reason.text) async for reason in why.tell(digest)]

    above = f"manifest {Digest.of(child)} which is referred to by {Digest.of(encode(document))}: tag v1"
    assert await told(Digest.of(child)) == [(True, above)]
    assert await told(Digest.of(LAYER)) == [(True, f"blob of {above}")]
    assert await told(Digest.of(CONFIG)) == [(True, f"blob of {above}")]
    [(is_kept, text)] = await told(garbage)
    assert not is_kept
    assert "goes with the next collection" in text
    await collect(services, Rules(grace_seconds=0))
    [(is_kept, text)] = await told(garbage)
    assert is_kept
    assert "in the trash until" in text


class SlowDriver(MemoryDriver):
    """Deletes as slowly as a disk that others use as well."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self._slow_clock = clock

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:
        await super().delete_many(keys, durable=durable)
        self._slow_clock.now += len(keys) * 0.008


async def test_a_slow_disk_is_given_less_at_once() -> None:
    clock = Clock()
    services = Services(SlowDriver(clock), clock=clock)
    blobs = [b"%d" % number for number in range(1000)]
    for blob in blobs:
        await services.driver.put(keys.blob(Digest.of(blob)), blob)

    report = await collect(services)

    assert (report.outcome, report.deleted_blobs) == ("done", len(blobs))


async def test_bytes_whose_links_went_without_a_collection_stay_for_the_trash_window_too(services: Services) -> None:
    await services.push(image())
    let_pass(services)
    rules = Rules(grace_seconds=10, trash_seconds=3600)
    await collect(services, rules)
    await services.repositories.delete(REPOSITORY)
    assert (await collect(services, rules)).deleted_blobs == 0

    let_pass(services, 3000)
    assert (await collect(services, rules)).deleted_blobs == 0
    let_pass(services, 700)

    assert (await collect(services, rules)).deleted_blobs == 3
    assert await dangling(services.driver) == []


async def test_bytes_that_were_linked_to_in_between_begin_their_time_anew(services: Services) -> None:
    await services.push(image())
    let_pass(services)
    await services.repositories.delete(REPOSITORY)
    rules, layer = Rules(grace_seconds=10, trash_seconds=3600), Digest.of(LAYER)
    await collect(services, rules)
    let_pass(services, 3700)
    await services.blob_store.link(REPOSITORY, layer, canonical=layer)
    found = await collect(services, rules)
    assert (found.taken_layers, found.deleted_blobs) == (1, 2)
    assert (await collect(services, rules)).deleted_blobs == 0
    let_pass(services, 3700)
    assert (await collect(services, rules)).deleted_blobs == 1
