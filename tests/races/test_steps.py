"""Races too narrow to be met by chance: another worker acts exactly between two steps of the first."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from registry.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown, Unsupported
from registry.manifests import Pushed
from registry.media_types import IMAGE
from registry.names import Tag
from storage import keys
from storage.digest import Digest
from storage.drivers import SmallObject
from storage.errors import StorageUnavailable
from storage.places import Kind, read_key
from storage.removals import ANNOUNCED_SECONDS, DONE, KEPT_SECONDS
from tests.races.schedules import BUCKET
from tests.registry.images import CONFIG, LAYER, descriptor, encode, image
from tests.registry.services import LATEST, REPOSITORY, Services
from tests.stores import Clock, Power, StepDriver, body_at, keys_below

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
    pushes: list[asyncio.Task[Pushed]] = []

    async def push() -> None:
        pushes.append(asyncio.create_task(other.push(image())))
        for _ in range(50):  # it finds blob and manifest, and waits
            await asyncio.sleep(0)
        assert not pushes[0].done()

    waiting = ahead_of(
        driver,
        ("create", link, lambda: other.blobs.delete(REPOSITORY, layer)),
        ("delete", link, push),
    )

    with pytest.raises(ManifestBlobUnknown):
        await worker.manifests.put(REPOSITORY, DIGEST, BODY, media_type=IMAGE)
    await pushes[0]

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


class LateReader(StepDriver):
    """Lets somebody act, once, after a link was read."""

    act: Act | None = None
    after = ""

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        found = await super().get(key, bytes_max=bytes_max)
        if key == self.after and self.act is not None:
            act, self.act = self.act, None
            await act()
        return found


async def test_who_reads_a_tag_gets_what_it_moved_to_if_the_manifest_before_is_gone_by_then() -> None:
    driver = LateReader()
    worker, other = Services(driver), Services(driver)
    await worker.push(image())
    moved = image(subject=descriptor(b"another image", IMAGE))

    async def move_and_delete() -> None:
        await other.push(moved)
        await other.manifests.delete(REPOSITORY, DIGEST)

    driver.after, driver.act = keys.tag_link(REPOSITORY, LATEST), move_and_delete

    assert (await worker.manifests.get(REPOSITORY, LATEST)).body == encode(moved)
    assert driver.act is None


async def test_a_tag_whose_manifest_is_gone_is_looked_up_twice_and_no_more(
    driver: StepDriver, worker: Services
) -> None:
    await worker.push(image())
    await driver.delete(keys.revision_link(REPOSITORY, DIGEST))

    with pytest.raises(ManifestUnknown):
        await worker.manifests.get(REPOSITORY, LATEST)


async def test_an_artifact_that_is_pushed_again_while_it_is_deleted_is_listed(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    subject = descriptor(b"an image", IMAGE)
    artifact = image(subject=subject)
    digest, named = Digest.of(encode(artifact)), Digest.parse(str(subject["digest"]))
    await worker.push(artifact)
    entry = keys.referrer(REPOSITORY, named, digest)
    pushes: list[asyncio.Task[Pushed]] = []

    async def push() -> None:
        pushes.append(asyncio.create_task(other.push(artifact)))
        for _ in range(50):  # it waits for the deletion
            await asyncio.sleep(0)

    waiting = ahead_of(driver, ("delete", entry, push))

    await worker.manifests.delete(REPOSITORY, digest)
    await pushes[0]

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


async def test_a_deletion_of_a_tag_puts_no_index_back_that_a_second_deletion_has_missed(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    entry = keys.tag_index_link(REPOSITORY, LATEST, DIGEST)
    waiting = ahead_of(
        driver,
        ("delete", entry, lambda: other.push(image())),
        ("put", entry, lambda: asyncio.sleep(0)),  # by that push
        ("put", entry, lambda: other.manifests.delete(REPOSITORY, LATEST)),
    )

    await worker.manifests.delete(REPOSITORY, LATEST)

    assert waiting == []
    assert await keys_below(driver, keys.tag_index(REPOSITORY, LATEST)) == []


async def test_a_tag_that_is_deleted_while_it_is_set_has_an_index_as_well(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    link, entry = keys.tag_link(REPOSITORY, LATEST), keys.tag_index_link(REPOSITORY, LATEST, DIGEST)
    waiting = ahead_of(driver, ("replace", link, lambda: other.manifests.delete(REPOSITORY, LATEST)))

    await worker.push(image())

    assert waiting == []
    assert await keys_below(driver, keys.tag_index(REPOSITORY, LATEST)) == [entry]


async def test_a_blob_stays_readable_while_its_deletion_finds_a_manifest_that_was_just_pushed(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    found: list[bytes] = []

    async def push_and_read() -> None:
        driver.before_write = None
        pushing = asyncio.create_task(other.push(image()))
        await pushing
        found.append(await other.read_blob(layer))

    async def before_write(method: str, key: str) -> None:
        if method == "create" and key.startswith(keys.blob_removals(REPOSITORY, layer)):
            await push_and_read()

    driver.before_write = before_write
    with pytest.raises(Unsupported, match="refers to this blob"):
        await worker.blobs.delete(REPOSITORY, layer)

    assert found == [LAYER]
    assert await worker.read_blob(layer) == LAYER
    assert await under_way(driver) == []


async def test_a_push_waits_for_a_deletion_that_has_announced_itself_and_then_misses_the_blob(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.layer_link(REPOSITORY, layer)
    pushes: list[asyncio.Task[Pushed]] = []

    async def before_write(method: str, key: str) -> None:
        if (method, key) == ("delete_version", link):
            pushes.append(asyncio.create_task(put_only(other)))
            for _ in range(50):  # it writes its manifest, and waits
                await asyncio.sleep(0)
            assert await other.manifest_store.exists(REPOSITORY, DIGEST)
            assert not pushes[0].done()

    driver.before_write = before_write
    await worker.blobs.delete(REPOSITORY, layer)

    with pytest.raises(ManifestBlobUnknown):
        await pushes[0]
    assert not await worker.manifest_store.exists(REPOSITORY, DIGEST)
    assert await under_way(driver) == []


@pytest.mark.parametrize("dies_before", ["the blob's link is taken", "it has said that it is done"])
async def test_a_deletion_that_dies_half_way_takes_nothing_from_a_push_that_comes_then(
    driver: StepDriver, worker: Services, other: Services, dies_before: str
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.layer_link(REPOSITORY, layer)

    async def before_write(method: str, key: str) -> None:
        if dies_before == "the blob's link is taken" and (method, key) == ("delete_version", link):
            raise Power
        if method == "put" and key.startswith(keys.REMOVALS):
            raise Power

    driver.before_write = before_write
    with pytest.raises(Power):
        await worker.blobs.delete(REPOSITORY, layer)
    driver.before_write = None
    assert len(await under_way(driver)) == 1
    other.clock.now += ANNOUNCED_SECONDS  # as long as a push waits at most

    await other.push(image())

    assert await other.read_blob(layer) == LAYER
    assert await other.manifests.expire_removals() == 0
    other.clock.now += KEPT_SECONDS + 1
    assert await other.manifests.expire_removals() == 1
    assert await keys_below(driver, keys.REMOVALS) == []


async def test_a_deletion_that_was_held_up_for_too_long_takes_nothing(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)

    async def before_write(method: str, key: str) -> None:
        if method == "create" and key.startswith(keys.REMOVALS):
            worker.clock.now += ANNOUNCED_SECONDS

    driver.before_write = before_write
    with pytest.raises(StorageUnavailable, match="took too long"):
        await worker.blobs.delete(REPOSITORY, layer)

    await other.push(image())
    assert await other.read_blob(layer) == LAYER


async def test_a_manifest_that_is_being_withdrawn_while_another_push_finds_it_whole_stays(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.revision_link(REPOSITORY, DIGEST)
    acknowledged: list[Pushed] = []

    async def before_write(method: str, key: str) -> None:
        if (method, key) == ("create", link) and not acknowledged:
            driver.before_write = withdrawing
            await other.blobs.delete(REPOSITORY, layer)

    async def withdrawing(method: str, key: str) -> None:
        # The first push has found that the layer is gone, and now says that it will withdraw.
        if method == "create" and key.startswith(keys.manifest_removals(REPOSITORY, DIGEST)):
            driver.before_write = None
            acknowledged.append(await other.push(image()))

    driver.before_write = before_write
    await worker.manifests.put(REPOSITORY, DIGEST, BODY, media_type=IMAGE)

    assert len(acknowledged) == 1
    assert (await worker.manifests.get(REPOSITORY, LATEST)).body == BODY


async def test_what_a_deletion_that_was_cut_off_has_left_goes_when_its_client_asks_again(
    driver: StepDriver, worker: Services
) -> None:
    subject = descriptor(b"an image", IMAGE)
    artifact = image(subject=subject)
    digest = (await worker.push(artifact)).digest
    entry = keys.referrer(REPOSITORY, Digest.parse(str(subject["digest"])), digest)

    async def before_write(method: str, key: str) -> None:
        if (method, key) == ("delete", entry) or (method == "delete" and key.startswith(index)):
            raise Power

    index = keys.tag_index(REPOSITORY, LATEST)
    for reference in (LATEST, digest):
        driver.before_write = before_write
        with pytest.raises(Power):
            await worker.manifests.delete(REPOSITORY, reference)
        driver.before_write = None
        with pytest.raises(ManifestUnknown):
            await worker.manifests.delete(REPOSITORY, reference)

    assert await keys_below(driver, index) == []
    left = [read_key(key).kind for key in await keys_below(driver, keys.OUR_REPOSITORIES)]
    assert set(left) == {Kind.HISTORY}


async def test_what_a_deletion_of_a_tag_has_left_that_died_is_taken_before_the_deletion_is_forgotten(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    index = keys.tag_index(REPOSITORY, LATEST)

    async def before_write(method: str, key: str) -> None:
        if method == "delete" and key.startswith(index):
            raise Power

    driver.before_write = before_write
    with pytest.raises(Power):
        await worker.manifests.delete(REPOSITORY, LATEST)
    driver.before_write = None
    [removal] = await keys_below(driver, keys.tag_removals(REPOSITORY, LATEST))
    await driver.put(
        removal, (await body_at(driver, removal)).removesuffix(DONE)
    )  # it could not say that it was through
    assert len(await keys_below(driver, index)) == 1

    other.clock.now += KEPT_SECONDS + ANNOUNCED_SECONDS + 1
    assert await other.manifests.expire_removals() == 1

    assert await keys_below(driver, index) == []


async def test_a_bucket_does_not_list_a_tag_that_was_half_deleted(driver: StepDriver, worker: Services) -> None:
    driver.capabilities = BUCKET
    for tag in (LATEST, Tag("other")):
        for layer in (LAYER, CONFIG):  # its index lists what it pointed at before
            await worker.push(image(layer), tag)

    async def before_write(method: str, key: str) -> None:
        if method == "delete" and key.startswith(keys.tag_index(REPOSITORY, LATEST)):
            raise Power

    driver.before_write = before_write
    with pytest.raises(Power):
        await worker.manifests.delete(REPOSITORY, LATEST)

    assert len(await keys_below(driver, keys.tag_index(REPOSITORY, LATEST))) == 1
    assert (await worker.tags.list(REPOSITORY, limit=10)).tags == ["other"]


async def test_a_push_that_took_too_long_looks_again(driver: StepDriver, worker: Services, other: Services) -> None:
    driver.capabilities = BUCKET
    slow = Services(driver, clock=Clock(worker.clock.now))
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)
    link = keys.revision_link(REPOSITORY, DIGEST)

    async def delete_and_forget() -> None:
        await other.blobs.delete(REPOSITORY, layer)
        for clock in (slow.clock, other.clock):
            clock.now += KEPT_SECONDS + ANNOUNCED_SECONDS + 1
        assert await other.manifests.expire_removals() == 1

    waiting = ahead_of(driver, ("create", link, delete_and_forget))

    with pytest.raises(ManifestBlobUnknown):
        await put_only(slow)

    assert waiting == []
    assert not await worker.manifest_store.exists(REPOSITORY, DIGEST)


async def test_a_push_does_not_rely_on_a_blob_that_was_found_damaged_since(driver: StepDriver) -> None:
    driver.capabilities = BUCKET
    worker = Services(driver)
    layer = await worker.push_blob(LAYER)
    await worker.push_blob(CONFIG)

    await worker.blob_store.condemn(layer, await driver.stat(keys.blob(layer)))

    with pytest.raises(ManifestBlobUnknown):
        await put_only(worker)


async def test_a_repository_that_an_adoption_has_taken_from_the_catalog_is_entered_again(
    driver: StepDriver, worker: Services, other: Services
) -> None:
    await worker.push(image())
    await worker.manifests.delete(REPOSITORY, DIGEST)
    async with other.removals.of_entry(REPOSITORY):  # as an adoption does
        await driver.delete(keys.catalog_entry(REPOSITORY))

    await worker.push(image())

    assert await keys_below(driver, keys.CATALOG) == [keys.catalog_entry(REPOSITORY)]


async def under_way(driver: StepDriver) -> list[str]:
    """Return the removals that have not said that they are through."""
    found = await keys_below(driver, keys.REMOVALS)
    return [key for key in found if not (await body_at(driver, key)).endswith(DONE)]


async def put_only(services: Services) -> Pushed:
    """Push a manifest whose blobs are there, or were."""
    return await services.manifests.put(REPOSITORY, LATEST, BODY, media_type=IMAGE)
