"""Blobs are stored once, readable only through a link, and what is damaged is not there until it is pushed again."""

import pytest
from structlog.testing import capture_logs

from storage import keys
from storage.blobs import BlobStore
from storage.digest import SHA512, Digest
from storage.drivers import PIECE_BYTES
from storage.errors import Corrupt, NotFound
from storage.links import link_text
from storage.memory import MemoryDriver
from tests.stores import OTHER, REPOSITORY, RefusingDriver, body_at, damages, joined, push

BODY = b"a layer" * 100
LARGE = bytes(range(256)) * (PIECE_BYTES // 256) + b"the last piece"


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> BlobStore:
    return BlobStore(driver)


async def read(store: BlobStore, digest: Digest, repository: str = REPOSITORY) -> bytes:
    blob = await store.open(repository, digest)
    try:
        return await joined(blob.verified_pieces())
    finally:
        await blob.close()


async def damage(driver: MemoryDriver, digest: Digest, body: bytes) -> str:
    key = keys.blob(digest)
    await driver.put(key, body)
    return key


@pytest.mark.parametrize("body", [b"", b"x", BODY, LARGE], ids=["empty", "one byte", "small", "two pieces"])
async def test_a_pushed_blob_reads_back_to_the_byte(driver: RefusingDriver, store: BlobStore, body: bytes) -> None:
    digest = await push(driver, body)

    blob = await store.open(REPOSITORY, digest)

    assert blob.size == (await store.stat(REPOSITORY, digest)).size == len(body)
    assert await joined(blob.verified_pieces()) == body
    assert await joined(blob.pieces(1, max(0, len(body) - 1))) == body[1:]
    assert await store.exists(REPOSITORY, digest)
    assert await store.check(REPOSITORY, digest)


async def test_bytes_and_link_lie_where_distribution_looks(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    root = "docker/registry/v2"

    assert await body_at(driver, f"{root}/blobs/sha256/{digest.hex[:2]}/{digest.hex}/data") == BODY
    link = await body_at(driver, f"{root}/repositories/{REPOSITORY}/_layers/sha256/{digest.hex}/link")
    assert link.decode() == str(digest)
    assert await store.resolve(REPOSITORY, digest) == digest


async def test_a_sha512_blob_lies_under_its_sha256_digest(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY, algorithm=SHA512)

    assert await store.resolve(REPOSITORY, digest) == Digest.of(BODY)
    assert await read(store, digest) == BODY
    assert await read(store, Digest.of(BODY)) == BODY  # distribution fails without this link


async def test_a_blob_is_not_there_for_a_repository_without_a_link(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)

    for refused in (store.stat(OTHER, digest), store.open(OTHER, digest), store.resolve(OTHER, digest)):
        with pytest.raises(NotFound):
            await refused
    assert not await store.exists(OTHER, digest)
    assert not await store.check(OTHER, digest)


async def test_a_mount_lets_another_repository_read_it(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)

    await store.mount(OTHER, digest, source=REPOSITORY)

    assert await read(store, digest, OTHER) == BODY


async def test_a_mount_from_where_the_blob_is_not_grants_nothing(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)

    with pytest.raises(NotFound):
        await store.mount(OTHER, digest, source="team/third")

    assert not await store.exists(OTHER, digest)


async def test_unlinking_takes_it_from_one_repository_only(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    await store.mount(OTHER, digest, source=REPOSITORY)

    await store.unlink(REPOSITORY, digest)

    assert not await store.exists(REPOSITORY, digest)
    assert await read(store, digest, OTHER) == BODY


async def test_the_first_repository_to_link_is_remembered_as_a_source(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    await push(driver, BODY, repository=OTHER)

    assert await store.source(digest) == REPOSITORY
    assert await store.source(Digest.of(b"other")) is None


@pytest.mark.parametrize("hint", [b"\xff", b"x" * 1000], ids=["no ASCII", "too long"])
async def test_a_damaged_source_hint_is_no_source(driver: RefusingDriver, store: BlobStore, hint: bytes) -> None:
    digest = await push(driver, BODY)
    await driver.put(keys.blob_source(digest), hint)

    assert await store.source(digest) is None


async def test_a_source_hint_that_may_not_be_read_fails_no_push(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    driver.refused = {keys.blob_source(digest)}

    await push(driver, BODY, repository=OTHER)

    assert await read(store, digest, OTHER) == BODY


async def test_an_emptied_blob_is_corrupt_logged_and_healed_by_a_push(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    key = await damage(driver, digest, b"")

    with capture_logs() as logs:
        for refused in (store.stat(REPOSITORY, digest), store.open(REPOSITORY, digest)):
            with pytest.raises(Corrupt):
                await refused
    await push(driver, BODY)

    assert damages(logs) == [key, key]
    assert await read(store, digest) == BODY


async def test_the_blob_of_no_bytes_is_not_taken_for_an_emptied_one(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, b"")

    assert (await store.stat(REPOSITORY, digest)).size == 0


@pytest.mark.parametrize(
    "damaged",
    [LARGE[:-1], LARGE[:10], LARGE + b"x", b"X" + LARGE[1:], LARGE[:-1] + b"X"],
    ids=["one byte short", "cut", "longer", "first byte rotted", "last byte rotted"],
)
async def test_a_damaged_blob_never_comes_whole_and_is_not_there_from_then_on(
    driver: RefusingDriver, store: BlobStore, damaged: bytes
) -> None:
    digest = await push(driver, LARGE)
    key = await damage(driver, digest, damaged)
    blob = await store.open(REPOSITORY, digest)
    sent = bytearray()

    async def send() -> None:
        async for piece in blob.verified_pieces():
            sent.extend(piece)

    with capture_logs() as logs, pytest.raises(Corrupt):
        await send()

    assert len(sent) < len(damaged)
    assert damages(logs) == [key]
    for refused in (store.stat(REPOSITORY, digest), store.open(REPOSITORY, digest)):
        with pytest.raises(Corrupt):
            await refused
    assert not await store.exists(REPOSITORY, digest)


async def test_a_push_heals_what_was_found_damaged(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, LARGE)
    await damage(driver, digest, LARGE[:-1] + b"X")
    assert not await store.check(REPOSITORY, digest)
    assert not await store.exists(REPOSITORY, digest)

    await push(driver, LARGE, repository=OTHER)

    assert await store.check(REPOSITORY, digest)
    assert await read(store, digest) == LARGE
    with pytest.raises(NotFound):  # the mark of the damage is gone
        await driver.get(keys.damaged(digest), bytes_max=1000)


async def test_a_reader_goes_on_with_the_bytes_that_it_opened(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, LARGE)
    blob = await store.open(REPOSITORY, digest)
    pieces = blob.verified_pieces()
    first = await anext(pieces)

    await damage(driver, digest, b"rotten")
    await store.unlink(REPOSITORY, digest)

    assert first + await joined(pieces) == LARGE


async def test_a_link_without_bytes_is_corrupt_and_logged(driver: RefusingDriver, store: BlobStore) -> None:
    digest = await push(driver, BODY)
    await driver.delete(keys.blob(digest))

    with capture_logs() as logs:
        for refused in (store.stat(REPOSITORY, digest), store.open(REPOSITORY, digest)):
            with pytest.raises(Corrupt):
                await refused

    assert damages(logs) == [keys.blob(digest)] * 2


async def test_bytes_that_may_not_be_read_are_corrupt_and_logged_and_a_push_heals(
    driver: RefusingDriver, store: BlobStore
) -> None:
    digest, sound = await push(driver, BODY), await push(driver, b"another blob")
    driver.refused = {keys.blob(digest)}

    with capture_logs() as logs:
        for refused in (store.stat(REPOSITORY, digest), store.open(REPOSITORY, digest)):
            with pytest.raises(Corrupt):
                await refused

    assert damages(logs) == [keys.blob(digest)] * 2
    assert await read(store, sound) == b"another blob"
    await push(driver, BODY)
    assert await read(store, digest) == BODY


@pytest.mark.parametrize(
    "text",
    [b"", b"sha256:abc", link_text(Digest.of(b"another")), link_text(Digest.of(BODY, SHA512))],
    ids=["empty", "cut", "of another blob", "of another algorithm"],
)
async def test_a_damaged_link_leads_to_nothing_is_logged_and_healed_by_a_push(
    driver: RefusingDriver, store: BlobStore, text: bytes
) -> None:
    digest = await push(driver, BODY)
    await push(driver, b"another")
    key = keys.layer_link(REPOSITORY, digest)
    await driver.put(key, text)

    with capture_logs() as logs, pytest.raises(Corrupt):
        await store.open(REPOSITORY, digest)
    await push(driver, BODY)

    assert damages(logs) == [key]
    assert await read(store, digest) == BODY


async def test_a_sha512_link_to_another_blob_is_found_out_while_it_is_read(
    driver: RefusingDriver, store: BlobStore
) -> None:
    digest, other = await push(driver, BODY, algorithm=SHA512), await push(driver, b"another")
    await driver.put(keys.layer_link(REPOSITORY, digest), link_text(other))

    with pytest.raises(Corrupt):
        await read(store, digest)
