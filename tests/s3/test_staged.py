"""Staged objects of many parts: resumed, taken back, read back, lost and taken over; and memory that is bounded."""

import asyncio
import random

import pytest

from storage.errors import Busy, NotFound
from storage.s3 import S3Driver, opening, turns
from storage.s3.records import STAGED
from storage.s3.settings import MIB
from tests.s3.conftest import OpenDriver
from tests.stores import read_large

KEY = "docker/registry/v2/repositories/app/_uploads/1/data"
PART = 5 * MIB


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def left(driver: S3Driver) -> list[str]:
    return [entry.key for entry in (await driver.list(f"{STAGED}/", limit=100)).entries]


@pytest.fixture
async def pair(open_driver: OpenDriver) -> tuple[S3Driver, S3Driver]:
    """Return two replicas with small parts."""
    return await open_driver(part_bytes=PART), await open_driver(part_bytes=PART)


SIZES = [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 7]


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_sent_in_two_requests_to_two_replicas_become_one_object(
    pair: tuple[S3Driver, S3Driver], size: int
) -> None:
    body = some_bytes(size)
    for cut in {0, size // 3, max(0, size - 3)}:
        await pair[0].stage(KEY)
        for driver, piece in zip(pair, (body[:cut], body[cut:]), strict=True):
            writer = await driver.open_staged(KEY)
            assert writer.size == (0 if driver is pair[0] else cut)
            await writer.write([piece])
            await writer.flush()
            await writer.close()
            assert (await pair[1].stat_staged(KEY)).size == writer.size
        writer = await pair[0].open_staged(KEY)
        await writer.commit(f"k{cut}")

        assert await read_large(pair[1], f"k{cut}") == body
        assert await left(pair[0]) == []


async def test_a_session_moves_between_replicas_at_any_byte(pair: tuple[S3Driver, S3Driver]) -> None:
    chance = random.Random(3)
    body = some_bytes(4 * PART + 99)
    await pair[0].stage(KEY)
    at, turn = 0, 0
    while at < len(body):
        step = chance.choice([1, 1000, 300_000, PART - 1, PART, PART + 1])
        writer = await pair[turn % 2].open_staged(KEY)
        assert writer.size == at
        await writer.write([body[at : at + step]])
        await writer.flush()
        await writer.close()
        at, turn = min(at + step, len(body)), turn + 1

    writer = await pair[0].open_staged(KEY)
    await writer.commit("k")

    assert await read_large(pair[0], "k") == body
    assert await left(pair[0]) == []


async def test_random_work_is_what_a_byte_string_would_give(pair: tuple[S3Driver, S3Driver]) -> None:
    for seed in range(12):
        chance = random.Random(seed)
        model = b""
        await pair[0].stage(KEY)
        for step in range(chance.randint(2, 7)):
            writer = await pair[chance.randint(0, 1)].open_staged(KEY)
            assert writer.size == len(model), (seed, step)
            for _ in range(chance.randint(1, 3)):
                action = chance.choice(["write", "write", "truncate", "read", "flush"])
                if action == "write":
                    piece = some_bytes(chance.choice([1, 1000, MIB, PART, 2 * PART + 5]), seed)
                    await writer.write([piece])
                    model += piece
                elif action == "truncate":
                    size = chance.choice([0, len(model) // 2, max(0, len(model) - 10), PART, PART + 1, PART - 1])
                    await writer.truncate(size)
                    model = model[:size]
                elif action == "read":
                    start = chance.randint(0, len(model))
                    length = chance.randint(0, len(model) - start)
                    found = b"".join([piece async for piece in writer.pieces(start, length)])
                    assert found == model[start : start + length], (seed, step)
                else:
                    await writer.flush()
                assert writer.size == len(model), (seed, step, action)
            await writer.close()
        writer = await pair[0].open_staged(KEY)
        await writer.commit("k")
        assert await read_large(pair[1], "k") == model, seed
        assert await left(pair[0]) == [], seed


async def test_more_parts_than_one_upload_takes_go_on_in_another(open_driver: OpenDriver) -> None:
    driver = await open_driver(part_bytes=PART, parts_max=2, copy_part_bytes=2 * PART)
    body = some_bytes(11 * PART + 12)
    await driver.stage(KEY)
    writer = await driver.open_staged(KEY)
    for first in range(0, len(body), 3 * MIB):
        await writer.write([body[first : first + 3 * MIB]])
    await writer.flush()
    await writer.close()
    writer = await driver.open_staged(KEY)
    assert writer.size == len(body)

    await writer.commit("k")
    assert await read_large(driver, "k") == body


async def test_a_writer_that_died_keeps_others_out_for_no_longer_than_its_lease(
    pair: tuple[S3Driver, S3Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LEASE_SECONDS", 3.0)
    body = some_bytes(2 * PART + 100)
    await pair[0].stage(KEY)
    dead = await pair[0].open_staged(KEY)
    await dead.write([body])
    await dead.flush()
    await dead.write([b"never flushed"])
    dead._turn.stop()  # as kill -9 does

    with pytest.raises(Busy):
        await pair[1].open_staged(KEY)
    await asyncio.sleep(4.2)  # the store tells times in whole seconds
    writer = await pair[1].open_staged(KEY)

    assert writer.size == len(body)
    await writer.write([b"more"])
    await writer.commit("k")
    assert await read_large(pair[0], "k") == body + b"more"
    for call in (dead.flush(), dead.commit("stolen")):
        with pytest.raises(NotFound):
            await call
    await dead.close()
    with pytest.raises(NotFound):
        await pair[0].stat("stolen")


async def test_a_lease_is_renewed_while_its_writer_lives(
    pair: tuple[S3Driver, S3Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(turns, "RENEW_SECONDS", 0.5)
    await pair[0].stage(KEY)
    writer = await pair[0].open_staged(KEY)
    await writer.write([b"1"])
    await asyncio.sleep(1.0)

    for _ in range(10):
        await asyncio.sleep(0.5)
        with pytest.raises(Busy):
            await pair[1].open_staged(KEY)

    await writer.commit("k")
    assert await read_large(pair[1], "k") == b"1"


async def test_parts_that_were_sent_are_kept_by_the_renewal(
    pair: tuple[S3Driver, S3Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(turns, "RENEW_SECONDS", 0.3)
    body = some_bytes(3 * PART)
    await pair[0].stage(KEY)
    dead = await pair[0].open_staged(KEY)
    await dead.write([body])
    async with asyncio.timeout(10):
        while (await pair[1].stat_staged(KEY)).size < 2 * PART:
            await asyncio.sleep(0.1)
            await dead.write([])  # takes note of parts that have arrived
    dead._turn.stop()
    await asyncio.sleep(3.5)

    writer = await pair[1].open_staged(KEY)

    assert writer.size == 2 * PART
    await writer.write([body[2 * PART :]])
    await writer.commit("k")
    assert await read_large(pair[1], "k") == body
    await dead.close()


async def test_a_discard_by_another_replica_stops_the_writer(pair: tuple[S3Driver, S3Driver]) -> None:
    await pair[0].stage(KEY)
    writer = await pair[0].open_staged(KEY)
    await writer.write([bytes(2 * PART)])

    await pair[1].discard(KEY)

    with pytest.raises(NotFound):
        await writer.flush()
    with pytest.raises(NotFound):
        await writer.commit("k")
    await writer.close()
    with pytest.raises(NotFound):
        await pair[0].stat("k")
    with pytest.raises(NotFound):
        await pair[0].stat_staged(KEY)


async def test_memory_is_bounded_and_slow_writers_do_not_stop_others(open_driver: OpenDriver) -> None:
    driver = await open_driver(part_bytes=PART, memory_bytes_max=3 * PART)
    bodies = [some_bytes(PART + 1000 * number, number) for number in range(1, 11)]
    writers = []
    for number in range(len(bodies)):
        await driver.stage(f"up/{number}/data")
        writers.append(await driver.open_staged(f"up/{number}/data"))

    for first in range(0, PART + 20_000, 2 * MIB):  # all of them slowly, in turns: none has a part for long
        for body, writer in zip(bodies, writers, strict=True):
            await writer.write([body[first : first + 2 * MIB]])
    await asyncio.gather(*(writer.commit(f"k{number}") for number, writer in enumerate(writers)))

    assert driver.memory.peak <= 3 * PART
    assert driver.memory.used == 0
    for number, body in enumerate(bodies):
        assert await read_large(driver, f"k{number}") == body
    assert await left(driver) == []


async def test_many_writers_at_once_all_come_through(open_driver: OpenDriver) -> None:
    driver = await open_driver(part_bytes=PART, memory_bytes_max=4 * PART)
    bodies = [some_bytes(2 * PART + 1000 * number, number) for number in range(1, 9)]

    async def push(number: int, body: bytes) -> None:
        await driver.stage(f"up/{number}/data")
        writer = await driver.open_staged(f"up/{number}/data")
        for first in range(0, len(body), 700_000):
            await writer.write([body[first : first + 700_000]])
        await writer.commit(f"k{number}")

    async with asyncio.timeout(60):
        await asyncio.gather(*(push(number, body) for number, body in enumerate(bodies)))

    assert driver.memory.peak <= 4 * PART
    assert driver.memory.used == 0
    for number, body in enumerate(bodies):
        assert await read_large(driver, f"k{number}") == body


async def test_a_cancelled_call_leaves_a_writer_that_goes_on(pair: tuple[S3Driver, S3Driver]) -> None:
    body = some_bytes(6 * PART + 1)
    for number, after in enumerate((0.0, 0.005, 0.02, 0.05, 0.1)):
        await pair[0].stage(KEY)
        writer = await pair[0].open_staged(KEY)
        writing = asyncio.create_task(writer.write([body]))
        await asyncio.sleep(after)
        writing.cancel()
        await asyncio.wait([writing])
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(after)
        flushing.cancel()
        await asyncio.wait([flushing])
        assert body.startswith(b"".join([piece async for piece in writer.pieces(0, writer.size)]))
        await writer.close()

        resumed = await pair[1].open_staged(KEY)
        assert resumed.size == writer.size
        await resumed.write([body[resumed.size :]])
        await resumed.commit(f"k{number}")

        assert await read_large(pair[0], f"k{number}") == body
        assert await left(pair[0]) == []
        assert pair[0].memory.used == pair[1].memory.used == 0


async def test_the_sweep_takes_what_no_record_names_and_nothing_else(pair: tuple[S3Driver, S3Driver]) -> None:
    driver = pair[0]
    await driver.stage(KEY)
    writer = await driver.open_staged(KEY)
    await writer.write([bytes(2 * PART + MIB)])
    await writer.flush()
    await driver.put(f"{STAGED}/up/9/data/tail-stray", b"of a crash")
    stray = await driver._staging.multiparts.begin(f"{STAGED}/up/9/data/parts-stray")

    assert await driver.sweep(older_than_seconds=3600) == 0
    assert await driver.sweep(older_than_seconds=-5) == 2

    await writer.commit("k")
    assert await read_large(driver, "k") == bytes(2 * PART + MIB)
    with pytest.raises(NotFound):
        await driver._staging.multiparts.send(stray, 1, b"x")
    assert await left(driver) == []
