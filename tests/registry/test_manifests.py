"""A manifest is visible only with everything it refers to, a tag only with its manifest, whatever happens between."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from registry.errors import (
    Denied,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    Unsupported,
)
from registry.manifests import CACHE_BYTES_MAX, CACHED_BYTES_MAX, Changes
from registry.media_types import DOCKER_IMAGE, FOREIGN_LAYERS, IMAGE, OCTET_STREAM
from registry.names import Tag
from storage import keys
from storage.digest import SHA512, Digest
from storage.links import link_text
from storage.removals import ANNOUNCED_SECONDS
from tests.registry.images import CONFIG, LAYER, LAYER_TYPE, descriptor, encode, image, index
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services
from tests.stores import Clock, Power, RefusingDriver, StepDriver, damages

OPAQUE = "application/vnd.example.manifest+json"
IMAGE_BODY = encode(image())
IMAGE_DIGEST = Digest.of(IMAGE_BODY)


@pytest.fixture
def driver() -> StepDriver:
    return StepDriver()


@pytest.fixture
def services(driver: StepDriver) -> Services:
    return Services(driver)


async def get(services: Services, reference: Tag | Digest = LATEST) -> bytes:
    return (await services.manifests.get(REPOSITORY, reference)).body


async def test_a_manifest_comes_back_to_the_byte_by_tag_and_by_digest(services: Services) -> None:
    pushed = await services.push(image())

    assert pushed.digest == IMAGE_DIGEST
    for reference in (LATEST, IMAGE_DIGEST):
        found = await services.manifests.get(REPOSITORY, reference)
        assert (found.body, found.media_type, found.digest) == (IMAGE_BODY, IMAGE, IMAGE_DIGEST)


async def test_a_tag_tells_the_digest_that_it_was_pushed_with(services: Services) -> None:
    digest = Digest.of(IMAGE_BODY, SHA512)
    await services.push(image(), digest, tags=[LATEST])

    found = await services.manifests.get(REPOSITORY, LATEST)

    assert (found.digest, found.body) == (digest, IMAGE_BODY)
    with pytest.raises(ManifestUnknown):  # its other name was not pushed
        await services.manifests.get(REPOSITORY, IMAGE_DIGEST)


async def test_bytes_that_do_not_hash_to_their_digest_are_refused_before_they_are_parsed(services: Services) -> None:
    with pytest.raises(DigestInvalid):
        await services.manifests.put(REPOSITORY, IMAGE_DIGEST, b"no manifest", media_type=IMAGE)


async def test_every_missing_digest_is_told_once(services: Services) -> None:
    await services.push_blob(CONFIG)

    with pytest.raises(ManifestBlobUnknown) as refused:
        await services.manifests.put(REPOSITORY, LATEST, encode(image(b"a", b"b", b"a")), media_type=IMAGE)

    assert refused.value.missing == [str(Digest.of(b"a")), str(Digest.of(b"b"))]
    assert [detail for _message, detail in refused.value.lines] == [{"digest": d} for d in refused.value.missing]
    with pytest.raises(ManifestUnknown):
        await get(services)


async def test_what_another_repository_holds_is_missing_here_and_not_granted(services: Services) -> None:
    await services.push(image(), repository=OTHER)

    for document in (image(), index(IMAGE_BODY)):
        with pytest.raises(ManifestBlobUnknown):
            await services.manifests.put(REPOSITORY, LATEST, encode(document), media_type=None)

    assert not await services.blob_store.exists(REPOSITORY, Digest.of(LAYER))


async def test_a_subject_and_foreign_layers_may_be_missing(services: Services) -> None:
    layers = [descriptor(b"elsewhere", media_type) for media_type in sorted(FOREIGN_LAYERS)]

    pushed = await services.push(image(layers=layers, subject=descriptor(b"no such", IMAGE)))

    assert pushed.subject == Digest.of(b"no such")


async def test_an_index_may_list_blobs_as_a_build_cache_does(services: Services) -> None:
    await services.push_blob(b"cache config")
    await services.push_blob(LAYER)
    document = index() | {
        "manifests": [
            descriptor(LAYER, LAYER_TYPE),
            descriptor(b"cache config", "application/vnd.buildkit.cacheconfig.v0"),
        ]
    }

    await services.push(document)

    assert await get(services) == encode(document)


async def test_children_of_an_index_have_to_be_here(services: Services) -> None:
    with pytest.raises(ManifestBlobUnknown):
        await services.push(index(IMAGE_BODY))
    await services.push(image())
    await services.push(index(IMAGE_BODY))


async def test_a_sparse_registry_takes_manifests_whose_references_are_absent(driver: StepDriver) -> None:
    services = Services(driver, sparse=True)

    await services.manifests.put(REPOSITORY, LATEST, encode(image(b"absent")), media_type=IMAGE)

    assert await get(services) == encode(image(b"absent"))


async def test_the_first_type_of_the_same_bytes_wins(services: Services) -> None:
    document = image(media_type=None)
    await services.push(document, media_type=DOCKER_IMAGE)

    await services.push(document, media_type=IMAGE)
    await Services(services.driver).push(document, media_type=IMAGE)

    assert (await services.manifests.get(REPOSITORY, LATEST)).media_type == DOCKER_IMAGE


async def test_a_push_that_broke_off_decides_no_type(services: Services, driver: StepDriver) -> None:
    document = image(media_type=None)
    digest = Digest.of(encode(document))

    async def cut(_method: str, key: str) -> None:
        if key == keys.revision_link(REPOSITORY, digest):
            raise Power

    driver.before_write = cut
    with pytest.raises(Power):
        await services.push(document, media_type=DOCKER_IMAGE)
    driver.before_write = None

    await services.push(document, media_type=IMAGE)

    assert (await services.manifests.get(REPOSITORY, LATEST)).media_type == IMAGE


async def test_another_repository_may_hold_the_same_bytes_under_another_type(services: Services) -> None:
    document = image(media_type=None)
    await services.push(document, media_type=DOCKER_IMAGE)
    await services.push(document, media_type=IMAGE, repository=OTHER)

    assert (await services.manifests.get(REPOSITORY, LATEST)).media_type == DOCKER_IMAGE
    assert (await services.manifests.get(OTHER, LATEST)).media_type == IMAGE


async def test_a_manifest_without_a_named_type_is_taken_with_a_warning(services: Services) -> None:
    assert (await services.push(image())).warning is None
    assert "mediaType" in ((await services.push(image(media_type=None))).warning or "")


async def test_an_allowed_type_is_kept_beside_the_bytes(driver: StepDriver) -> None:
    services = Services(driver, opaque_types=[OPAQUE])

    await services.push({"anything": 1}, media_type=OPAQUE)

    assert (await Services(driver).manifests.get(REPOSITORY, LATEST)).media_type == OPAQUE


async def test_bytes_of_which_nothing_is_known_are_served_as_octets(services: Services) -> None:
    body = b"not even JSON"
    digest = await services.manifest_store.put_bytes(body)
    await services.manifest_store.link(REPOSITORY, digest, canonical=digest, body=body)

    assert (await services.manifests.get(REPOSITORY, digest)).media_type == OCTET_STREAM


@pytest.mark.parametrize("name", ["a\r\nset-cookie: b", "\u00fc", "\u2713"])
async def test_a_type_that_no_header_can_hold_is_not_sent_in_one(services: Services, name: str) -> None:
    body = encode(image(media_type=name))  # written by who knows whom, for it is refused here
    digest = await services.manifest_store.put_bytes(body)
    await services.manifest_store.link(REPOSITORY, digest, canonical=digest, body=body)

    assert (await services.manifests.get(REPOSITORY, digest)).media_type == OCTET_STREAM


async def test_a_wrong_size_in_the_manifest_is_the_clients_mistake(services: Services) -> None:
    await services.push_blob(LAYER)
    wrong = {**descriptor(LAYER), "size": 6}

    with pytest.raises(ManifestInvalid, match="has 6 bytes; it has 7"):
        await services.push(image(layers=[wrong]))

    assert await services.blob_store.exists(REPOSITORY, Digest.of(LAYER))


@pytest.mark.parametrize("damaged", [LAYER[:-1], LAYER + b"x", b""])
async def test_a_damaged_layer_is_found_out_when_a_manifest_names_its_true_size_and_healed_by_a_push(
    services: Services, damaged: bytes
) -> None:
    digest = await services.push_blob(LAYER)
    await services.push_blob(CONFIG)
    await services.driver.put(keys.blob(digest), damaged)

    with capture_logs() as logs, pytest.raises(ManifestBlobUnknown) as refused:
        await services.manifests.put(REPOSITORY, LATEST, IMAGE_BODY, media_type=IMAGE)
    assert refused.value.missing == [str(digest)]
    assert keys.blob(digest) in damages(logs)
    assert not await services.blob_store.exists(REPOSITORY, digest)

    await services.push_blob(LAYER)
    await services.manifests.put(REPOSITORY, LATEST, IMAGE_BODY, media_type=IMAGE)
    assert await get(services) == IMAGE_BODY


async def test_deleting_a_tag_leaves_the_manifest_and_its_other_tags(services: Services) -> None:
    other = Tag("other")
    await services.push(image())
    await services.push(image(), other)

    await services.manifests.delete(REPOSITORY, LATEST)

    with pytest.raises(ManifestUnknown):
        await get(services)
    assert await get(services, other) == await get(services, IMAGE_DIGEST) == IMAGE_BODY


async def test_deleting_a_manifest_takes_every_tag_that_points_at_it_and_no_other(services: Services) -> None:
    another = image(annotations={"another": "one"})
    for tag in ("a", "b", "c"):
        await services.push(image(), Tag(tag))
    await services.push(another, Tag("b"))

    await services.manifests.delete(REPOSITORY, IMAGE_DIGEST)

    assert (await services.tags.list(REPOSITORY, limit=10)).tags == ["b"]
    assert await get(services, Tag("b")) == encode(another)
    for absent in (Tag("a"), Tag("c"), IMAGE_DIGEST):
        with pytest.raises(ManifestUnknown):
            await get(services, absent)


async def test_what_is_not_there_cannot_be_deleted(services: Services) -> None:
    for reference in (LATEST, IMAGE_DIGEST):
        with pytest.raises(ManifestUnknown):
            await services.manifests.delete(REPOSITORY, reference)


async def test_where_deletion_is_off_nothing_is_deleted(driver: StepDriver) -> None:
    services = Services(driver, delete=False)
    await services.push(image())

    for reference in (LATEST, IMAGE_DIGEST):
        with pytest.raises(Unsupported, match="delete = true"):
            await services.manifests.delete(REPOSITORY, reference)

    assert await get(services) == IMAGE_BODY


@pytest.mark.parametrize("damage", [b"", b"{}", None], ids=["emptied", "rotted", "missing"])
async def test_a_damaged_manifest_is_unknown_logged_healed_by_a_push_and_deletable(
    services: Services, damage: bytes | None
) -> None:
    sound = image(annotations={"another": "one"})
    await services.push(image())
    await services.push(sound, Tag("sound"))
    key = keys.blob(IMAGE_DIGEST)

    async def spoil() -> None:
        await (services.driver.delete(key) if damage is None else services.driver.put(key, damage))

    await spoil()
    with capture_logs() as logs:
        for reference in (LATEST, IMAGE_DIGEST):
            with pytest.raises(ManifestUnknown, match="damaged: push it again"):
                await get(services, reference)
    assert damages(logs) == [key, key]
    assert await get(services, Tag("sound")) == encode(sound)

    await services.push(image())
    assert await get(services) == IMAGE_BODY

    await spoil()
    await services.manifests.delete(REPOSITORY, IMAGE_DIGEST)
    assert (await services.tags.list(REPOSITORY, limit=10)).tags == ["sound"]


@pytest.mark.parametrize("text", [b"", b"x" * 5000, link_text(Digest.of(b"no such"))])
async def test_a_damaged_tag_is_unknown_healed_by_a_push_and_deletable(services: Services, text: bytes) -> None:
    await services.push(image())
    key = keys.tag_link(REPOSITORY, LATEST)

    await services.driver.put(key, text)
    with pytest.raises(ManifestUnknown):
        await get(services)
    await services.push(image())
    assert await get(services) == IMAGE_BODY

    await services.driver.put(key, text)
    await services.manifests.delete(REPOSITORY, LATEST)
    with pytest.raises(ManifestUnknown):
        await services.manifests.delete(REPOSITORY, LATEST)


async def test_a_revision_link_that_may_not_be_read_is_healed_by_a_push() -> None:
    driver = RefusingDriver()
    services = Services(driver)
    await services.push(image())
    driver.refused = {keys.revision_link(REPOSITORY, IMAGE_DIGEST)}

    with pytest.raises(ManifestUnknown):
        await get(services)
    await services.push(image())

    assert await get(services) == IMAGE_BODY


async def test_a_verified_manifest_is_read_from_storage_once(services: Services, driver: StepDriver) -> None:
    await services.push(image())
    await get(services)
    driver.refused = {keys.blob(IMAGE_DIGEST)}

    assert await get(services) == IMAGE_BODY


async def test_a_deletion_through_another_worker_is_seen_at_once_although_the_bytes_are_cached(
    services: Services,
) -> None:
    await services.push(image())
    await get(services)

    await Services(services.driver).manifests.delete(REPOSITORY, IMAGE_DIGEST)

    for reference in (LATEST, IMAGE_DIGEST):
        with pytest.raises(ManifestUnknown):
            await get(services, reference)


async def test_cached_bytes_are_visible_only_where_the_repository_holds_the_manifest(services: Services) -> None:
    await services.push(image())
    await get(services)

    with pytest.raises(ManifestUnknown):
        await services.manifests.get(OTHER, IMAGE_DIGEST)


async def test_the_cache_is_bounded_in_bytes(services: Services) -> None:
    large = CACHED_BYTES_MAX - 1000
    for number in range(CACHE_BYTES_MAX // large + 5):
        document = image(annotations={"n": str(number), "padding": "x" * large})
        await services.push(document)
        assert await get(services) == encode(document)

    cache = services.manifests._cache
    kept = sum(len(text.body) for text in cache._texts.values())
    assert kept == cache._bytes <= CACHE_BYTES_MAX
    assert kept > CACHE_BYTES_MAX // 2


# What follows is about what happens between two steps of a push.


def once(key: str, act: Callable[[], Awaitable[object]]) -> Callable[[str, str], Awaitable[None]]:
    """Act once, ahead of the first write of `key`."""
    done = False

    async def before_write(_method: str, written: str) -> None:
        nonlocal done
        if written == key and not done:
            done = True
            await act()

    return before_write


async def test_a_blob_that_is_deleted_while_a_manifest_is_pushed_withdraws_the_manifest(
    services: Services, driver: StepDriver
) -> None:
    await services.push_blob(CONFIG)
    layer = await services.push_blob(LAYER)
    worker = Services(driver)
    driver.before_write = once(
        keys.revision_link(REPOSITORY, IMAGE_DIGEST), lambda: worker.blobs.delete(REPOSITORY, layer)
    )

    with pytest.raises(ManifestBlobUnknown):
        await services.manifests.put(REPOSITORY, LATEST, IMAGE_BODY, media_type=IMAGE)

    for reference in (LATEST, IMAGE_DIGEST):
        with pytest.raises(ManifestUnknown):
            await get(services, reference)


async def test_a_manifest_that_is_deleted_before_its_tag_is_set_takes_the_tag_with_it(
    services: Services, driver: StepDriver
) -> None:
    await services.push_blob(CONFIG)
    await services.push_blob(LAYER)
    worker = Services(driver)
    driver.before_write = once(
        keys.tag_link(REPOSITORY, LATEST), lambda: worker.manifests.delete(REPOSITORY, IMAGE_DIGEST)
    )

    await services.manifests.put(REPOSITORY, LATEST, IMAGE_BODY, media_type=IMAGE)

    assert (await services.tags.list(REPOSITORY, limit=10)).tags == []
    for reference in (LATEST, IMAGE_DIGEST):
        with pytest.raises(ManifestUnknown):
            await get(services, reference)


async def test_a_tag_that_is_pushed_while_its_manifest_is_deleted_does_not_outlive_it(
    services: Services, driver: StepDriver
) -> None:
    await services.push(image())
    new, worker = Tag("new"), Services(driver)

    async def push() -> None:
        # The tag is set as late as can be: after the deletion has looked at the tags.
        await worker.tag_store.set(REPOSITORY, new, IMAGE_DIGEST, allow=lambda _current: None)

    driver.before_write = once(keys.revision_link(REPOSITORY, IMAGE_DIGEST), push)
    await services.manifests.delete(REPOSITORY, IMAGE_DIGEST)

    assert (await services.tags.list(REPOSITORY, limit=10)).tags == []


async def test_many_pushes_and_deletions_of_one_tag_leave_it_whole_or_gone(services: Services) -> None:
    bodies = [image(annotations={"n": str(number)}) for number in range(6)]
    workers = [Services(services.driver) for _ in bodies]
    await services.push(image())

    await asyncio.gather(
        *(worker.push(document) for worker, document in zip(workers, bodies, strict=True)),
        *(worker.manifests.delete(REPOSITORY, IMAGE_DIGEST) for worker in workers[:1]),
        return_exceptions=True,
    )

    for tag in (await services.tags.list(REPOSITORY, limit=10)).tags:
        assert await get(services, Tag(tag)) in [encode(document) for document in bodies]
    for document in bodies:
        assert await get(services, Digest.of(encode(document))) == encode(document)


async def holds_what_it_shows(services: Services) -> None:
    """Assert the invariant: whatever can be seen leads to everything that it refers to, byte for byte."""
    for tag in (await services.tag_store.list(REPOSITORY, limit=100)).tags:
        await services.manifests.get(REPOSITORY, Tag(tag))
    for revision in await services.manifest_store.list(REPOSITORY, limit=100):
        await services.manifests.get(REPOSITORY, revision)
        for digest in await services.references.of(REPOSITORY, revision):
            if not await services.manifest_store.exists(REPOSITORY, digest):
                assert Digest.of(await services.read_blob(digest)) == digest
    subject = Digest.of(b"subject")
    for found in (await services.referrers.list(REPOSITORY, subject)).descriptors:
        await services.manifests.get(REPOSITORY, Digest.parse(str(found["digest"])))


@pytest.mark.parametrize("action", ["push", "delete manifest", "delete tag", "delete blob"])
async def test_a_power_cut_ahead_of_any_write_leaves_garbage_never_a_lie(action: str) -> None:
    document = image(subject=descriptor(b"subject", IMAGE), annotations={"a": "b"}, media_type=None)
    digest = Digest.of(encode(document))
    for step in range(100):
        driver = StepDriver()
        services, left = Services(driver), step

        async def cut(_method: str, _key: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Power  # and again at each write of whatever tidies up

        if action == "push":
            acting = services.push(document, Tag("new"), media_type=DOCKER_IMAGE)
        else:
            await services.push(document, media_type=DOCKER_IMAGE)
            await services.push_blob(b"unused")
            acting = {
                "delete manifest": lambda services=services: services.manifests.delete(REPOSITORY, digest),
                "delete tag": lambda services=services: services.manifests.delete(REPOSITORY, LATEST),
                "delete blob": lambda services=services: services.blobs.delete(REPOSITORY, Digest.of(b"unused")),
            }[action]()
        driver.before_write = cut
        finished = (await asyncio.gather(acting, return_exceptions=True))[0]
        driver.before_write = None

        await holds_what_it_shows(Services(driver))
        if not isinstance(finished, BaseException):
            break
        # The client, who has had no answer, does it again.
        # Whoever waits for a deletion that has died waits no longer than it counts for.
        again = Services(driver, clock=Clock(services.clock.now + ANNOUNCED_SECONDS))
        await again.push(document, Tag("new"), media_type=DOCKER_IMAGE)
        assert await get(again, Tag("new")) == encode(document)
        assert (await again.manifests.get(REPOSITORY, digest)).media_type == DOCKER_IMAGE
    else:
        pytest.fail("it never came to its end")
    assert step >= (8 if action == "push" else 1)


async def test_what_was_done_before_a_push_failed_is_told(services: Services) -> None:
    await services.push_blob(CONFIG)
    await services.push_blob(LAYER)
    changes, asked = Changes(), 0

    def allow(_current: Digest | None, _new: Digest) -> None:
        nonlocal asked
        asked += 1
        if asked > 3:  # each tag is asked about before anything is stored; the second one is refused when it is set
            raise Denied("the policy has changed meanwhile")

    with pytest.raises(Denied):
        await services.manifests.put(
            REPOSITORY, IMAGE_DIGEST, IMAGE_BODY, media_type=IMAGE, tags=[Tag("a"), Tag("b")], allow=allow,
            changes=changes,
        )  # fmt: skip

    assert (changes.pushed, changes.tagged) == (IMAGE_DIGEST, [("a", None)])


async def test_a_deletion_tells_every_tag_that_it_has_taken(services: Services) -> None:
    for tag in ("a", "b"):
        await services.push(image(), Tag(tag))
    changes = Changes()

    await services.manifests.delete(REPOSITORY, IMAGE_DIGEST, changes=changes)

    assert changes == Changes(deleted=IMAGE_DIGEST, untagged=[("a", IMAGE_DIGEST), ("b", IMAGE_DIGEST)])
