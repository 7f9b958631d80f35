"""How many calls to the store each method of the driver makes."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.s3 import S3Driver
from storage.s3.settings import MIB
from tests.s3.faults import Proxy
from tests.s3.weed import Store

KEY = "docker/registry/v2/repositories/app/_uploads/1/data"
BLOB = keys.blob(Digest.of(b"whatever"))
PART = 5 * MIB


@pytest.fixture
async def driver(weed: Store, prefix: str, proxy: Proxy) -> AsyncIterator[S3Driver]:
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint, part_bytes=PART, memory_bytes_max=64 * MIB))
    await driver.start()
    proxy.taken()
    yield driver
    await driver.close()


async def test_small_objects_take_one_call_each(driver: S3Driver, proxy: Proxy) -> None:
    version = await driver.create("k", b"1")
    version = await driver.replace("k", b"2", version=version)
    assert proxy.taken() == {"PutObject": 2}
    await driver.get("k", bytes_max=9)
    assert proxy.taken() == {"GetObject": 1}
    await driver.stat("k")
    assert proxy.taken() == {"HeadObject": 1}
    await driver.put("k", b"3")
    assert proxy.taken() == {"PutObject": 1}
    await driver.delete_version("k", version=(await driver.get("k", bytes_max=9)).version)
    await driver.delete("k")
    assert proxy.taken() == {"GetObject": 1, "DeleteObject": 2}


@pytest.mark.parametrize("size", [0, 1, 3 * MIB])
async def test_reading_an_object_from_its_start_takes_one_call(driver: S3Driver, proxy: Proxy, size: int) -> None:
    await driver.put("k", bytes(size))
    proxy.taken()

    reader = await driver.open("k")
    assert sum([len(piece) async for piece in reader.pieces(0, reader.size)]) == size
    await reader.close()

    assert proxy.taken() == {"GetObject": 1}


async def test_a_listing_takes_one_call_for_each_thousand_keys(driver: S3Driver, proxy: Proxy) -> None:
    for number in range(1100):
        await driver.put(f"t/{number:04}/current/link", b"", durable=False)
    proxy.taken()

    page = await driver.list("t/", limit=5000, fold=True)

    assert len(page.entries) == 1100
    assert not page.more
    assert proxy.taken() == {"ListObjectsV2": 2}


async def test_the_first_page_of_a_listing_takes_one_call(driver: S3Driver, proxy: Proxy) -> None:
    for number in range(300):
        await driver.put(f"c/app-{number:04}!", b"", durable=False)
    proxy.taken()

    page = await driver.list("c/", limit=100)

    assert page.more
    assert proxy.taken() == {"ListObjectsV2": 1}


async def _push(driver: S3Driver, body: bytes, key: str) -> None:
    """What a client does that sends the bytes with PATCH and finishes with an empty PUT."""
    await driver.stage(KEY)
    writer = await driver.open_staged(KEY)
    await writer.write([body])
    await writer.flush()
    await writer.close()
    writer = await driver.open_staged(KEY)
    await writer.commit(key)
    await writer.close()


async def test_a_small_push_takes_six_calls(driver: S3Driver, proxy: Proxy) -> None:
    await _push(driver, b"small" * 1000, "blob")

    # stage 1; open 1 (twice); flush 1; commit 2
    assert proxy.taken() == {"PutObject": 3, "GetObject": 2, "DeleteObject": 1}


async def test_a_push_of_less_than_a_part_puts_its_tail_aside(driver: S3Driver, proxy: Proxy) -> None:
    await _push(driver, bytes(MIB), "blob")

    assert proxy.taken() == {"PutObject": 4, "GetObject": 3, "DeleteObject": 2}


async def test_a_large_push_ends_with_a_pointer_and_copies_nothing(
    driver: S3Driver, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver._mover, "schedule", lambda _key: None)
    await _push(driver, bytes(3 * PART + 5), BLOB)

    # stage, turn, flush, close, what it is to be, pointer
    assert proxy.taken() == {
        "PutObject": 6,
        "GetObject": 2,
        "HeadObject": 1,
        "CreateMultipartUpload": 1,
        "UploadPart": 4,
        "CompleteMultipartUpload": 1,
        "DeleteObject": 1,
    }
    await driver._pointers.move(BLOB)
    assert proxy.taken() == {"GetObject": 1, "PutObject": 1, "CopyObject": 1, "DeleteObject": 2}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda driver: driver.stat_staged(KEY), {"HeadObject": 1}),
        (lambda driver: driver.discard(KEY), {"GetObject": 1, "DeleteObject": 1}),
    ],
)
async def test_a_staged_object_is_looked_at_and_dropped_with_few_calls(
    driver: S3Driver,
    proxy: Proxy,
    call: Callable[[S3Driver], Awaitable[object]],
    expected: dict[str, int],
) -> None:
    await driver.stage(KEY)
    proxy.taken()

    await call(driver)

    assert proxy.taken() == expected


async def test_a_blob_is_located_without_reading_it(driver: S3Driver, proxy: Proxy) -> None:
    store, body = BlobStore(driver), b"the bytes of a blob"
    digest = Digest.of(body)
    await driver.put(keys.blob(digest), body)
    await store.link("team/app", digest, canonical=digest)
    proxy.taken()

    found, url = await store.locate("team/app", digest, seconds=60)

    assert (found.size, url is None) == (len(body), False)
    # What is got is the link; what is listed, which blobs are remembered as damaged.
    assert proxy.taken() == {"HeadObject": 1, "GetObject": 1, "ListObjectsV2": 1}
