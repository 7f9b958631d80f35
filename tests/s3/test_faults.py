"""What becomes of each kind of call when the store or the way to it fails: survived, or told cleanly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from storage.drivers import StagedWriter
from storage.errors import AlreadyExists, NotFound, StorageRefused, StorageUnavailable, VersionMismatch
from storage.s3 import S3Driver
from storage.s3.client import Bucket
from storage.s3.settings import MIB
from tests.s3.conftest import OpenDriver
from tests.s3.faults import Fault, Proxy, always, first
from tests.s3.weed import Store
from tests.stores import read_large

KEY = "docker/registry/v2/repositories/app/_uploads/1/data"
PART = 5 * MIB
BODY = bytes(range(256)) * (11 * MIB // 256)  # two parts and a bit
PASSING = [
    Fault.DROP,
    Fault.RESET,
    Fault.LOSE,
    Fault.HANG,
    Fault.ERROR,
    Fault.DONE_ERROR,
    Fault.SLOW_DOWN,
    Fault.CUT,
    Fault.CUT_HEAD,
    Fault.SHORT,
]


@pytest.fixture
async def driver(weed: Store, prefix: str, proxy: Proxy) -> AsyncIterator[S3Driver]:
    settings = weed.settings(
        prefix,
        endpoint=proxy.endpoint,
        part_bytes=PART,
        copy_part_bytes=PART,
        read_timeout_seconds=0.5,
        copy_timeout_seconds=0.5,
        attempts_max=3,
        backoff_seconds_max=0.05,
    )
    driver = S3Driver(settings)
    await driver.start()
    proxy.taken()
    yield driver
    proxy.plan = None
    await driver.close()


@pytest.fixture
async def direct(open_driver: OpenDriver) -> S3Driver:
    """Return a driver that speaks to the store without the proxy."""
    return await open_driver()


async def send(writer: StagedWriter, body: bytes) -> None:
    await writer.write([body])
    await writer.flush()


async def read_on(pieces: AsyncIterator[bytes]) -> None:
    async for piece in pieces:
        assert piece == BODY[: len(piece)]  # it repeats itself after 256 bytes


async def push(driver: S3Driver, key: str, *, staged: str = KEY) -> None:
    """A large upload in two requests."""
    await driver.stage(staged)
    try:
        for piece in (BODY[: 3 * MIB], BODY[3 * MIB :]):
            writer = await driver.open_staged(staged)
            try:
                await writer.write([piece])
                await writer.flush()
            finally:
                await writer.close()
        writer = await driver.open_staged(staged)
        try:
            await writer.commit(key)
        finally:
            await writer.close()
    except BaseException:
        await driver.discard(staged)
        raise


SMALL: dict[str, tuple[str, Callable[[S3Driver], Awaitable[object]]]] = {
    "get": ("GetObject", lambda driver: driver.get("there", bytes_max=99)),
    "create": ("PutObject", lambda driver: driver.create("new", b"1")),
    "put": ("PutObject", lambda driver: driver.put("there", b"1")),
    "delete": ("DeleteObject", lambda driver: driver.delete("there")),
    "stat": ("HeadObject", lambda driver: driver.stat("there")),
    "open": ("GetObject", lambda driver: driver.open("there")),
    "list": ("ListObjectsV2", lambda driver: driver.list("", limit=9)),
    "stage": ("PutObject", lambda driver: driver.stage(KEY)),
}


@pytest.mark.parametrize("fault", PASSING)
async def test_a_fault_that_passes_is_survived(driver: S3Driver, proxy: Proxy, fault: Fault) -> None:
    for kind, call in SMALL.values():
        proxy.plan = None
        await driver.put("there", b"some bytes")
        proxy.taken()
        proxy.plan = first(kind, fault, count=2)

        await call(driver)

        assert proxy.counts[kind] >= (1 if fault is Fault.CUT else 3), kind


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.RESET, Fault.ERROR, Fault.SLOW_DOWN, Fault.HANG])
async def test_a_fault_that_stays_is_told_in_time(driver: S3Driver, proxy: Proxy, fault: Fault) -> None:
    await driver.put("there", b"some bytes")
    for kind, call in SMALL.values():
        proxy.taken()
        proxy.plan = always(kind, fault)

        async with asyncio.timeout(10):
            with pytest.raises(StorageUnavailable, match="3 attempts"):
                await call(driver)


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.DONE_ERROR])
async def test_a_conditional_write_whose_answer_was_lost_has_not_lost(
    driver: S3Driver, direct: S3Driver, proxy: Proxy, fault: Fault
) -> None:
    proxy.plan = first("PutObject", fault)
    version = await driver.create("k", b"1")
    proxy.taken()
    proxy.plan = first("PutObject", fault)
    version = await driver.replace("k", b"2", version=version)
    assert (await direct.get("k", bytes_max=9)).version == version
    proxy.taken()
    proxy.plan = first("DeleteObject", fault)
    await driver.delete_version("k", version=version)

    with pytest.raises(NotFound):
        await direct.get("k", bytes_max=9)


async def test_a_conditional_write_that_has_lost_is_told_so_after_a_fault_too(
    driver: S3Driver, direct: S3Driver, proxy: Proxy
) -> None:
    version = await direct.put("k", b"1")
    await direct.put("k", b"2")
    proxy.plan = first("PutObject", Fault.LOSE)

    with pytest.raises(AlreadyExists):
        await driver.create("k", b"3")
    proxy.taken()
    with pytest.raises(VersionMismatch):
        await driver.replace("k", b"3", version=version)

    assert (await direct.get("k", bytes_max=9)).body == b"2"


UPLOADING = [
    "PutObject",
    "GetObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "UploadPartCopy",
]


@pytest.mark.parametrize("fault", [*PASSING, Fault.LATE])
async def test_an_upload_survives_a_fault_that_passes(
    driver: S3Driver, direct: S3Driver, proxy: Proxy, fault: Fault
) -> None:
    for kind in UPLOADING:
        proxy.taken()
        proxy.plan = first(kind, fault, count=2)

        # Each has a key of its own, as every session has. The first write of a record may be done as late as after the
        # session's end, when nothing stands in its way any more: who used the key again would find a session there.
        await push(driver, kind, staged=KEY.replace("1", kind))

        assert await read_large(direct, kind) == BODY


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.ERROR, Fault.SLOW_DOWN])
@pytest.mark.parametrize("kind", UPLOADING)
async def test_an_upload_that_fails_leaves_nothing_half_visible(
    driver: S3Driver, direct: S3Driver, proxy: Proxy, kind: str, fault: Fault
) -> None:
    proxy.plan = always(kind, fault)

    with pytest.raises(StorageUnavailable):
        await push(driver, "k")

    with pytest.raises(NotFound):
        await direct.stat("k")
    proxy.plan = None
    assert driver.memory.used == 0
    await driver.discard(KEY)
    await push(driver, "k")
    assert await read_large(direct, "k") == BODY


@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_a_session_goes_on_from_the_last_byte_kept(
    driver: S3Driver, direct: S3Driver, proxy: Proxy, after: int
) -> None:
    await driver.stage(KEY)
    writer = await driver.open_staged(KEY)
    await writer.write([BODY[: 3 * MIB]])
    await writer.flush()
    proxy.taken()
    calls = iter(range(1000))
    proxy.plan = lambda _kind, _number: Fault.RESET if next(calls) >= after else None
    with pytest.raises(StorageUnavailable):
        await send(writer, BODY[3 * MIB :])
    proxy.plan = None
    await writer.close()

    kept = (await direct.stat_staged(KEY)).size
    writer = await driver.open_staged(KEY)
    assert 3 * MIB <= writer.size == kept <= len(BODY)
    await writer.write([BODY[writer.size :]])
    await writer.commit("k")
    assert await read_large(direct, "k") == BODY


async def test_a_stream_that_breaks_goes_on_from_where_it_broke(
    driver: S3Driver, direct: S3Driver, proxy: Proxy
) -> None:
    await direct.put("k", BODY)
    proxy.plan = first("GetObject", Fault.CUT, count=2)

    assert await read_large(driver, "k") == BODY
    assert proxy.counts["GetObject"] == 3


async def test_a_stream_that_breaks_is_not_continued_with_other_bytes(
    driver: S3Driver, direct: S3Driver, proxy: Proxy
) -> None:
    await direct.put("k", BODY)
    proxy.plan = first("GetObject", Fault.CUT)
    reader = await driver.open("k")
    pieces = reader.pieces(0, reader.size)
    assert await anext(pieces) == BODY[:MIB]
    await direct.put("k", bytes(len(BODY)))

    with pytest.raises(StorageUnavailable, match="replaced"):
        await read_on(pieces)
    await reader.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"access_key": "unknown"}, "access key is unknown|credentials"),
        ({"secret_key": "wrong-secret"}, "secret key|credentials"),
        ({"endpoint": "http://127.0.0.1:9"}, "can't be reached"),
    ],
)
async def test_a_start_that_fails_says_what_to_do_and_no_secret(
    weed: Store, changes: dict[str, object], said: str
) -> None:
    driver = S3Driver(weed.settings("x", attempts_max=2, backoff_seconds_max=0.01, **changes))
    with pytest.raises(StorageUnavailable, match=said) as caught:
        await driver.start()
    await driver.close()

    assert "secret" not in str(caught.value).replace("secret key", "")
    assert "s3://registry" in str(caught.value)


async def test_a_bucket_without_conditional_writes_is_refused(
    weed: Store, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Bucket.call

    async def unconditionally(self: Bucket, operation: str, key: str = "", /, **given: object) -> dict[str, object]:
        kept = {name: value for name, value in given.items() if name not in {"IfNoneMatch", "IfMatch"}}
        return await real(self, operation, key, **kept)

    monkeypatch.setattr(Bucket, "call", unconditionally)
    driver = S3Driver(weed.settings(prefix))
    with pytest.raises(StorageRefused, match="ignores If-None-Match"):
        await driver.start()
    await driver.close()


async def test_without_conditional_deletes_a_delete_has_one_winner_still(open_driver: OpenDriver) -> None:
    drivers = [await open_driver(), await open_driver()]
    for driver in drivers:
        driver._objects.deletes_conditionally = False
    for _round in range(10):
        version = await drivers[0].put("k", b"start")
        results = await asyncio.gather(
            drivers[0].replace("k", b"replaced", version=version),
            drivers[1].delete_version("k", version=version),
            return_exceptions=True,
        )
        assert sum(isinstance(result, VersionMismatch) for result in results) == 1, results
        if isinstance(results[0], str):
            assert (await drivers[0].get("k", bytes_max=99)).body == b"replaced"
        else:
            with pytest.raises(NotFound):
                await drivers[0].get("k", bytes_max=99)


async def test_what_a_crash_has_left_marked_as_deleted_is_absent_and_may_be_created(open_driver: OpenDriver) -> None:
    driver = await open_driver()
    driver._objects.deletes_conditionally = False
    version = await driver.put("k", b"1")
    await driver._objects.replace("k", b"", version=version, metadata={"pierhead-gone": "1"})

    for call in (driver.get("k", bytes_max=9), driver.stat("k"), driver.open("k")):
        with pytest.raises(NotFound):
            await call
    await driver.create("k", b"2")

    assert (await driver.get("k", bytes_max=9)).body == b"2"
