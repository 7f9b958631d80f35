"""Large blobs are there at once through a pointer, and are moved to their keys afterwards."""

import asyncio
import random

import pytest

from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageUnavailable
from storage.s3 import S3Driver, pointers, turns
from storage.s3.records import STAGED
from storage.s3.settings import MIB
from storage.s3.strays import move_all
from tests.s3.conftest import OpenDriver
from tests.s3.faults import Fault, Proxy, always
from tests.s3.weed import Store
from tests.stores import read_large

KEY = "docker/registry/v2/repositories/app/_uploads/1/data"
RECORD = "pierhead/uploads/1"
PART = 5 * MIB
BODY = random.Random(7).randbytes(3 * PART + 11)
BLOB = keys.blob(Digest.of(BODY))


async def below(driver: Driver, prefix: str) -> list[str]:
    return [entry.key for entry in (await driver.list(prefix, limit=100)).entries]


async def push(driver: S3Driver, body: bytes = BODY, *, cuts: int = 1, record: str = RECORD) -> str:
    """Push a blob in several requests; returns its key."""
    key = keys.blob(Digest.of(body))
    await driver.stage(KEY, record=record, text=b"session")
    step = len(body) // cuts + 1
    for first in range(0, len(body), step):
        writer = await driver.open_staged(KEY, record=record)
        await writer.write([body[first : first + step]])
        await writer.flush(b"session")
        await writer.close()
    writer = await driver.open_staged(KEY, record=record)
    await writer.commit(key, b"ended")
    await writer.close()
    return key


async def moved(driver: S3Driver) -> None:
    """Return when nothing is left to be moved."""
    while tasks := list(driver._mover._tasks.values()):
        await asyncio.wait(tasks)
    assert await below(driver, keys.POINTERS) == []


@pytest.fixture
async def still(open_driver: OpenDriver, monkeypatch: pytest.MonkeyPatch) -> S3Driver:
    """Return a driver whose background work has died."""
    driver = await open_driver(part_bytes=PART)
    monkeypatch.setattr(driver._mover, "schedule", lambda _key: None)
    return driver


async def test_a_blob_is_there_at_once_and_nothing_tells_where_it_lies(
    still: S3Driver, open_driver: OpenDriver
) -> None:
    other = await open_driver()
    await push(still)

    assert await below(still, keys.BLOBS) == []
    for driver in (still, other):
        assert (await driver.stat(BLOB)).size == len(BODY)
        assert await read_large(driver, BLOB) == BODY
        assert (await driver.get(BLOB, bytes_max=len(BODY))).body == BODY
        reader = await driver.open(BLOB)
        assert b"".join([piece async for piece in reader.pieces(PART - 3, PART + 7)]) == BODY[PART - 3 : 2 * PART + 4]
        await reader.close()


@pytest.mark.parametrize("tail", [0, 11, MIB, PART - 1])
@pytest.mark.parametrize("cuts", [1, 4])
async def test_it_is_moved_to_its_key_and_nothing_else_is_left(open_driver: OpenDriver, tail: int, cuts: int) -> None:
    driver = await open_driver(part_bytes=PART)
    body = BODY[: 2 * PART + tail]

    blob = await push(driver, body, cuts=cuts)
    await moved(driver)

    assert await below(driver, keys.BLOBS) == [blob]
    assert await read_large(driver, blob) == body
    assert await below(driver, f"{STAGED}/") == []


async def test_who_reads_while_it_is_moved_reads_on(still: S3Driver) -> None:
    await push(still)
    reader = await still.open(BLOB)
    reading = reader.pieces(0, reader.size)
    read = [await anext(reading) for _ in range(3)]

    assert await still._pointers.move(BLOB)
    read += [piece async for piece in reader.pieces(sum(map(len, read)), len(BODY) - sum(map(len, read)))]

    assert b"".join(read) == BODY
    assert b"".join([*read[:3], *[piece async for piece in reading]]) == BODY
    await reader.close()


async def test_a_move_that_broke_off_is_gone_on_with_by_the_sweep_of_another(
    still: S3Driver, open_driver: OpenDriver
) -> None:
    await push(still)
    other = await open_driver()

    assert await move_all(other._staging, idle_seconds=3600) == 0
    assert await move_all(other._staging, idle_seconds=-5) == 1

    assert await below(other, keys.BLOBS) == [BLOB]
    assert await below(other, keys.POINTERS) == []
    assert await below(other, f"{STAGED}/") == []


async def test_a_mover_that_died_keeps_others_out_for_no_longer_than_its_lease(
    still: S3Driver, open_driver: OpenDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointers, "LEASE_SECONDS", 3.0)
    await push(still)
    other = await open_driver()
    copying = asyncio.Event()

    async def copy(*_given: object) -> str:
        copying.set()
        await asyncio.Event().wait()
        return "never"

    monkeypatch.setattr(still._staging.multiparts, "copy", copy)
    moving = asyncio.create_task(still._pointers.move(BLOB))
    await copying.wait()
    moving.cancel()

    assert not await other._pointers.move(BLOB)
    await asyncio.sleep(4.2)  # the store tells times in whole seconds
    assert await other._pointers.move(BLOB)

    assert await read_large(still, BLOB) == BODY


async def test_a_mover_that_was_taken_for_dead_does_no_harm(
    still: S3Driver, open_driver: OpenDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointers, "LEASE_SECONDS", 0.0)
    await push(still)
    other = await open_driver()
    copy = still._staging.multiparts.copy

    async def slow(*given: object) -> str:
        await other._pointers.move(BLOB)
        return await copy(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(still._staging.multiparts, "copy", slow)

    assert not await still._pointers.move(BLOB)

    assert await read_large(still, BLOB) == BODY
    assert await below(still, keys.POINTERS) == []


async def test_the_same_blob_pushed_by_two_at_once_is_kept_once(still: S3Driver, open_driver: OpenDriver) -> None:
    await push(still)
    again = await open_driver(part_bytes=PART)

    await push(again, record="pierhead/uploads/2")
    await moved(again)

    assert await read_large(still, BLOB) == BODY
    assert await below(still, f"{STAGED}/") == []


async def test_a_push_over_a_blob_of_another_size_replaces_it_at_once(still: S3Driver) -> None:
    await still.put(BLOB, b"cut off by some accident")

    await push(still)

    assert await below(still, keys.POINTERS) == []
    assert await read_large(still, BLOB) == BODY


async def test_a_pointer_that_leads_nowhere_is_mended_by_the_next_push(still: S3Driver) -> None:
    await push(still)
    found = await still._pointers.find(BLOB)
    assert found is not None
    await still._objects.delete(found.pointer.segments[0].key)
    with pytest.raises((NotFound, StorageUnavailable)):
        await read_large(still, BLOB)

    await push(still, record="pierhead/uploads/2")

    assert await read_large(still, BLOB) == BODY


async def test_a_deleted_blob_takes_its_pointer_and_bytes_with_it(still: S3Driver) -> None:
    await push(still)

    await still.delete(BLOB)

    with pytest.raises(NotFound):
        await still.stat(BLOB)
    assert await below(still, keys.POINTERS) == await below(still, f"{STAGED}/") == []


async def test_neither_a_discard_nor_a_sweep_takes_what_a_pointer_leads_to(
    still: S3Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_self: object, _text: object) -> None:
        raise StorageUnavailable("killed between the pointer and the record")

    monkeypatch.setattr(turns.Turn, "end", dies)
    await push(still)
    with pytest.raises(NotFound):
        await still.open_staged(KEY, record=RECORD)  # nobody goes on with the bytes of a blob

    await still.discard(KEY, record=RECORD)
    assert await still._staging.pointers.find(BLOB)
    await move_all(still._staging, idle_seconds=3600)
    await still.sweep(older_than_seconds=-5)

    assert await read_large(still, BLOB) == BODY


async def test_staged_bytes_that_never_became_a_blob_are_swept(weed: Store, prefix: str, proxy: Proxy) -> None:
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint, part_bytes=PART, attempts_max=1))
    await driver.start()
    await driver.stage(KEY, record=RECORD, text=b"session")
    writer = await driver.open_staged(KEY, record=RECORD)
    await writer.write([BODY])
    await writer.flush()
    proxy.plan = always("PutObject", Fault.DROP)
    with pytest.raises(StorageUnavailable):
        await writer.commit(BLOB)
    proxy.plan = None
    await writer.close()

    await driver.discard(KEY, record=RECORD)
    await driver.sweep(older_than_seconds=-5)

    assert await below(driver, "pierhead/staged/") == []
    with pytest.raises(NotFound):
        await driver.stat(BLOB)
    await driver.close()


async def test_a_plain_copy_is_there_for_who_wants_one(open_driver: OpenDriver) -> None:
    driver = await open_driver(part_bytes=PART, commit="copy")

    await push(driver, cuts=3)

    assert await below(driver, keys.BLOBS) == [BLOB]
    assert await below(driver, keys.POINTERS) == await below(driver, f"{STAGED}/") == []
    assert await read_large(driver, BLOB) == BODY


async def test_an_aimed_upload_goes_straight_to_its_key(proxy: Proxy, weed: Store, prefix: str) -> None:
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint, part_bytes=PART))
    await driver.start()
    await driver.stage(KEY, record=RECORD, text=b"session")
    writer = await driver.open_staged(KEY, record=RECORD)
    proxy.taken()

    assert writer.aim(BLOB)
    await writer.write([BODY])
    await writer.commit(BLOB, b"ended")

    assert proxy.taken() == {"PutObject": 2, "CreateMultipartUpload": 1, "UploadPart": 4, "CompleteMultipartUpload": 1}
    assert await below(driver, keys.BLOBS) == [BLOB]
    assert await read_large(driver, BLOB) == BODY
    await driver.close()


async def test_an_aimed_upload_whose_server_dies_leaves_an_empty_session_and_parts_for_the_sweep(
    open_driver: OpenDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.s3.opening.LEASE_SECONDS", 1.0)
    driver, other = await open_driver(part_bytes=PART), await open_driver(part_bytes=PART)
    await driver.stage(KEY, record=RECORD, text=b"session")
    dead = await driver.open_staged(KEY, record=RECORD)
    assert dead.aim(BLOB)
    await dead.write([BODY])
    dead._turn.stop()
    await asyncio.sleep(2.5)

    writer = await other.open_staged(KEY, record=RECORD)
    assert writer.size == 0
    assert await other.sweep(older_than_seconds=-5) == 1
    await writer.write([b"small"])
    await writer.commit("k", b"ended")
    await dead.close()

    with pytest.raises(NotFound):
        await other.stat(BLOB)


async def test_parts_grow_so_that_as_many_as_there_may_be_hold_a_large_blob(open_driver: OpenDriver) -> None:
    driver = await open_driver(part_bytes=PART, parts_max=8, memory_bytes_max=60 * MIB)
    body = random.Random(8).randbytes(60 * MIB)
    settings = driver._bucket.settings
    sizes = [settings.part_bytes_at(number) // MIB for number in range(1, 9)]
    assert sizes == [5, 5, 10, 10, 20, 20, 20, 20]

    key = await push(driver, body)

    assert await read_large(driver, key) == body
    await moved(driver)
    assert await read_large(driver, key) == body


async def test_a_copy_that_was_found_damaged_is_healed_at_once_by_a_push(still: S3Driver) -> None:
    blobs = BlobStore(still)
    await still.put(BLOB, BODY[:-1] + b"?")
    await blobs.link("team/app", Digest.of(BODY), canonical=Digest.of(BODY))
    assert not await blobs.check("team/app", Digest.of(BODY))
    await still.stage(KEY, record=RECORD, text=b"session")
    writer = await still.open_staged(KEY, record=RECORD)
    await writer.write([BODY])

    await blobs.commit(writer, "team/app", Digest.of(BODY), canonical=Digest.of(BODY), record=b"ended")

    assert await blobs.check("team/app", Digest.of(BODY))
    assert await BlobStore(still).check("team/app", Digest.of(BODY))
