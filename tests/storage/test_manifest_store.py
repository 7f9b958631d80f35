"""Manifests come back to the byte, under the type that was pushed first, or not at all."""

import pytest
from structlog.testing import capture_logs

from storage import keys
from storage.digest import SHA256, SHA512, Digest
from storage.errors import Corrupt, NotFound
from storage.links import link_text
from storage.manifests import ManifestStore
from tests.stores import OTHER, REPOSITORY, RefusingDriver, body_at, damages

BODY = b'{"schemaVersion": 2}'
IMAGE = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> ManifestStore:
    return ManifestStore(driver)


async def put(store: ManifestStore, body: bytes, *, algorithm: str = SHA256, repository: str = REPOSITORY) -> Digest:
    digest = Digest.of(body, algorithm)
    await store.link(repository, digest, canonical=await store.put_bytes(body), body=body)
    return digest


async def read(store: ManifestStore, digest: Digest, repository: str = REPOSITORY) -> bytes:
    return (await store.read(digest, await store.resolve(repository, digest))).body


@pytest.mark.parametrize("algorithm", [SHA256, SHA512])
async def test_a_manifest_reads_back_to_the_byte_under_the_digest_of_its_push(
    store: ManifestStore, algorithm: str
) -> None:
    digest = await put(store, BODY, algorithm=algorithm)

    assert await read(store, digest) == BODY
    assert await store.resolve(REPOSITORY, digest) == Digest.of(BODY)
    assert await store.exists(REPOSITORY, digest)


async def test_bytes_and_link_lie_where_distribution_looks(driver: RefusingDriver, store: ManifestStore) -> None:
    digest = await put(store, BODY)
    root = "docker/registry/v2"

    assert await body_at(driver, f"{root}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data") == BODY
    link = f"{root}/repositories/{REPOSITORY}/_manifests/revisions/sha256/{digest.hex}/link"
    assert (await body_at(driver, link)).decode() == str(digest)


async def test_stored_bytes_are_invisible_until_they_are_linked(store: ManifestStore) -> None:
    canonical = await store.put_bytes(BODY)

    assert not await store.exists(REPOSITORY, canonical)
    with pytest.raises(NotFound):
        await store.resolve(REPOSITORY, canonical)


async def test_a_manifest_belongs_to_the_repository_that_links_to_it(store: ManifestStore) -> None:
    digest = await put(store, BODY)

    assert not await store.exists(OTHER, digest)


async def test_linking_tells_whether_the_manifest_was_not_visible_before(store: ManifestStore) -> None:
    digest = await store.put_bytes(BODY)

    assert await store.link(REPOSITORY, digest, canonical=digest, body=BODY)
    assert not await store.link(REPOSITORY, digest, canonical=digest, body=BODY)
    await store.unlink(REPOSITORY, digest)
    assert await store.link(REPOSITORY, digest, canonical=digest, body=BODY)


async def test_linking_again_mends_a_damaged_link(driver: RefusingDriver, store: ManifestStore) -> None:
    digest = await put(store, BODY)
    await driver.put(keys.revision_link(REPOSITORY, digest), b"")

    assert not await store.link(REPOSITORY, digest, canonical=digest, body=BODY)

    assert await read(store, digest) == BODY


async def test_unlinking_leaves_the_bytes_to_other_repositories(store: ManifestStore) -> None:
    digest = await put(store, BODY)
    await put(store, BODY, repository=OTHER)

    await store.unlink(REPOSITORY, digest)

    assert not await store.exists(REPOSITORY, digest)
    assert await read(store, digest, OTHER) == BODY


@pytest.mark.parametrize("damaged", [b"", BODY[:-1], BODY + b" ", b"[" + BODY[1:]])
async def test_a_damaged_manifest_is_corrupt_and_logged_with_its_key_until_it_is_pushed_again(
    driver: RefusingDriver, store: ManifestStore, damaged: bytes
) -> None:
    digest = await put(store, BODY)
    await driver.put(keys.blob(digest), damaged)

    with capture_logs() as logs, pytest.raises(Corrupt):
        await read(store, digest)
    await put(store, BODY)

    assert damages(logs) == [keys.blob(digest)]
    assert await read(store, digest) == BODY


async def test_a_link_to_missing_bytes_is_corrupt_and_logged(driver: RefusingDriver, store: ManifestStore) -> None:
    digest = await put(store, BODY)
    await driver.delete(keys.blob(digest))

    with capture_logs() as logs, pytest.raises(Corrupt):
        await read(store, digest)

    assert damages(logs) == [keys.blob(digest)]


async def test_bytes_that_may_not_be_read_are_corrupt_and_logged(driver: RefusingDriver, store: ManifestStore) -> None:
    digest = await put(store, BODY)
    driver.refused = {keys.blob(digest)}

    with capture_logs() as logs, pytest.raises(Corrupt):
        await read(store, digest)

    assert damages(logs) == [keys.blob(digest)]


async def test_a_link_to_another_manifest_is_corrupt_and_logged(driver: RefusingDriver, store: ManifestStore) -> None:
    digest, other = await put(store, BODY), await put(store, b"{}")
    key = keys.revision_link(REPOSITORY, digest)
    await driver.put(key, link_text(other))

    with capture_logs() as logs, pytest.raises(Corrupt):
        await store.resolve(REPOSITORY, digest)

    assert damages(logs) == [key]
    assert not await store.exists(REPOSITORY, digest)


async def test_a_sha512_link_to_another_manifest_is_found_out_when_it_is_read(
    driver: RefusingDriver, store: ManifestStore
) -> None:
    digest, other = await put(store, BODY, algorithm=SHA512), await put(store, b"{}")
    await driver.put(keys.revision_link(REPOSITORY, digest), link_text(other))

    with pytest.raises(Corrupt):
        await read(store, digest)


async def test_the_first_media_type_wins_over_that_of_a_later_push(store: ManifestStore) -> None:
    digest = Digest.of(BODY)
    await store.put_media_type(REPOSITORY, digest, DOCKER, told=IMAGE)
    await put(store, BODY)

    await store.put_media_type(REPOSITORY, digest, IMAGE, told=None)
    await store.put_media_type(REPOSITORY, digest, "application/other", told=IMAGE)

    assert await store.media_type(REPOSITORY, digest) == DOCKER


async def test_a_type_that_the_bytes_tell_is_not_changed_by_a_later_push(store: ManifestStore) -> None:
    digest = await put(store, BODY)  # whose bytes told the type that it was pushed with

    await store.put_media_type(REPOSITORY, digest, DOCKER, told=IMAGE)

    assert await store.media_type(REPOSITORY, digest) is None


async def test_a_type_that_a_broken_push_has_left_does_not_outlive_a_push_under_the_type_that_the_bytes_tell(
    store: ManifestStore,
) -> None:
    digest = Digest.of(BODY)
    await store.put_media_type(REPOSITORY, digest, DOCKER, told=IMAGE)

    await store.put_media_type(REPOSITORY, digest, IMAGE, told=IMAGE)

    assert await store.media_type(REPOSITORY, digest) is None


async def test_a_media_type_goes_with_its_manifest(store: ManifestStore) -> None:
    digest = Digest.of(BODY)
    await store.put_media_type(REPOSITORY, digest, DOCKER, told=None)
    await put(store, BODY)

    await store.unlink(REPOSITORY, digest)

    assert await store.media_type(REPOSITORY, digest) is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"a\r\nset-cookie: b", b"x" * 2000])
async def test_a_damaged_media_type_is_none_and_logged(
    driver: RefusingDriver, store: ManifestStore, text: bytes
) -> None:
    digest = await put(store, BODY)
    key = keys.media_type(REPOSITORY, digest)
    await driver.put(key, text)

    with capture_logs() as logs:
        assert await store.media_type(REPOSITORY, digest) is None

    assert damages(logs) == [key]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_listing_in_pages_gives_each_manifest_once(store: ManifestStore, limit: int) -> None:
    pushed = {await put(store, b"%d" % number) for number in range(5)}
    pushed |= {await put(store, b"%d" % number, algorithm=SHA512) for number in range(3)}
    found: list[Digest] = []
    while page := await store.list(REPOSITORY, after=found[-1] if found else None, limit=limit):
        assert len(page) <= limit
        found += page

    assert set(found) == pushed
    assert len(found) == len(pushed)


async def test_listing_passes_over_what_is_no_revision(driver: RefusingDriver, store: ManifestStore) -> None:
    digest = await put(store, BODY)
    prefix = keys.revisions(REPOSITORY)
    for stray in ("readme", "md5/abc/link", f"sha256/{'0' * 64}/signatures/x", f"sha256/{'0' * 63}/link"):
        await driver.put(prefix + stray, b"stray")

    assert await store.list(REPOSITORY, limit=10) == [digest]
    assert await store.list(REPOSITORY, limit=1) == [digest]
