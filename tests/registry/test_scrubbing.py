"""The scrub reads everything within its period, at its rate, and goes on where another process has stopped."""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from registry import scrubbing
from registry.scrubbing import FAILURES_MAX, Pace, Scrubber, due
from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Page
from storage.errors import NotFound, StorageUnavailable
from storage.leases import LeaseStore
from storage.memory import MemoryReader
from storage.scrubs import SHARDS, Cursor, ScrubStore, ShardRecord
from tests.stores import REPOSITORY, Clock, RefusingDriver, body_at, push

PERIOD = 1000.0
RATE = 1 << 20


class Power(BaseException):
    """The process was killed."""


class Disk(RefusingDriver):
    """Notes which blobs are opened, fails to read those in `failing`, and may kill its process at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[Digest] = []
        self.failing: set[str] = set()
        self.is_down = False
        self.kill_at: Digest | None = None

    async def open(self, key: str) -> MemoryReader:
        digest = Digest("sha256", key.split("/")[-2])
        if digest == self.kill_at:
            raise Power
        self.opened.append(digest)
        if key in self.failing or self.is_down:
            raise StorageUnavailable("input/output error", key=key)
        return await super().open(key)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        if self.is_down:
            raise StorageUnavailable("no answer")
        return await super().list(prefix, after=after, limit=limit, fold=fold)

    def rot(self, digest: Digest) -> None:
        """Change a byte of a blob behind everybody's back."""
        found = self._objects[keys.blob(digest)]
        self._objects[keys.blob(digest)] = type(found)(b"?" + found.body[1:], found.version, found.modified)

    def fill(self, count: int, *, shard: str | None = None) -> Sequence[Digest]:
        """Store blobs, all of one shard if that is given."""
        found: list[Digest] = []
        for number in itertools.count():
            body = f"blob {number}".encode()
            digest = Digest.of(body)
            if shard is None or digest.hex.startswith(shard):
                self.write(keys.blob(digest), body)
                found.append(digest)
            if len(found) == count:
                return sorted(found, key=lambda digest: digest.hex)
        raise AssertionError


class Process:
    """One scrubber on a disk, with a clock that its pauses move on."""

    def __init__(self, disk: Disk, clock: Clock, *, rate: int = RATE) -> None:
        self.clock = clock
        self.blobs = BlobStore(disk, clock=clock)
        self.store = ScrubStore(disk, clock=clock)
        self.paused = 0.0
        self.told: list[Digest] = []
        leases = LeaseStore(disk, new_id=lambda: secrets.token_hex(4), clock=clock)
        self.scrubber = Scrubber(
            disk,
            self.blobs,
            leases,
            rate=rate,
            period_seconds=PERIOD,
            clock=clock,
            monotonic=clock,
            pause=self.pause,
            told=self.tell,
        )

    async def pause(self, seconds: float) -> None:
        self.paused += seconds
        self.clock.now += seconds
        await asyncio.sleep(0)

    async def tell(self, digest: Digest) -> None:
        self.told.append(digest)

    async def scrub(self) -> None:
        await self.scrubber.scrub()


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def process(disk: Disk) -> Process:
    return Process(disk, Clock())


async def test_every_blob_is_read_once_in_a_period_and_again_in_the_next(disk: Disk, process: Process) -> None:
    digests = disk.fill(500)

    await process.scrub()
    assert sorted(disk.opened, key=str) == sorted(digests, key=str)
    await process.scrub()
    assert len(disk.opened) == 500
    process.clock.now += PERIOD
    await process.scrub()

    assert len(disk.opened) == 1000
    shards = await process.store.shards()
    assert due(shards, process.clock.now, PERIOD) == 0
    assert sum(shard.blobs for shard in shards.values()) == 500
    assert sum(shard.bytes for shard in shards.values()) == sum(len(f"blob {number}") for number in range(500))


async def test_what_is_known_of_a_store_is_one_small_object(disk: Disk, process: Process) -> None:
    disk.fill(3000)

    await process.scrub()

    assert len(await body_at(disk, keys.SCRUB_SHARDS)) < 50_000
    with pytest.raises(NotFound):
        await disk.stat(keys.SCRUB_CURSOR)


async def test_the_shard_that_was_read_the_longest_ago_is_next(disk: Disk, process: Process) -> None:
    [digest] = disk.fill(1, shard="42")
    now = process.clock.now
    for number, shard in enumerate(SHARDS):
        age = PERIOD + 5 if shard == "42" else number
        await process.store.record(shard, ShardRecord(began=now - age, ended=now - age))

    await process.scrub()

    assert disk.opened == [digest]


async def test_damage_is_remembered_told_once_and_never_served(disk: Disk, process: Process) -> None:
    body = b"a layer" * 1000
    digest = await push(disk, body)
    assert await process.blobs.exists(REPOSITORY, digest)
    disk.rot(digest)

    with capture_logs() as logs:
        await process.scrub()
        process.clock.now += PERIOD
        await process.scrub()

    [line] = [line for line in logs if line["event"] == "damaged blob"]
    assert (line["key"], line["remedy"]) == (keys.blob(digest), "push the blob again")
    assert process.told == [digest]
    assert not await BlobStore(disk).exists(REPOSITORY, digest)
    assert sum(shard.damaged for shard in (await process.store.shards()).values()) == 1
    await push(disk, body)
    assert await BlobStore(disk).exists(REPOSITORY, digest)


async def test_a_blob_that_reads_well_again_is_served_again(disk: Disk, process: Process) -> None:
    digest = await push(disk, b"a layer")
    await process.blobs.condemn(digest, await disk.stat(keys.blob(digest)))

    await process.scrub()

    assert await process.blobs.exists(REPOSITORY, digest)


async def test_markers_of_copies_that_were_replaced_are_dropped(disk: Disk, process: Process) -> None:
    digests = disk.fill(2)
    for digest in digests:
        await disk.put(keys.damaged(digest), b"1 2.0")
    await disk.delete(keys.blob(digests[0]))

    await process.scrub()

    assert not (await disk.list(keys.DAMAGED, limit=9)).entries


async def test_a_shard_is_gone_on_with_where_a_killed_process_has_stopped(disk: Disk) -> None:
    digests = disk.fill(8, shard="00")
    clock = Clock()
    # A blob costs at least 64 KiB, so at this rate each of them takes longer than a cursor is left unsaved.
    first, second = Process(disk, clock, rate=1 << 10), Process(disk, clock)
    disk.kill_at = digests[5]
    with pytest.raises(Power):
        await first.scrub()
    assert disk.opened == digests[:5]
    disk.kill_at, disk.opened = None, []

    await second.scrub()

    assert disk.opened == digests[5:]
    assert (await second.store.shards())["00"].blobs == 8


async def test_the_rate_is_kept(disk: Disk) -> None:
    body = bytes(10 << 20)
    disk.write(keys.blob(Digest.of(body)), body)
    slow = Process(disk, Clock(), rate=1 << 20)

    await slow.scrub()

    assert slow.paused == pytest.approx(10, abs=0.5)


async def test_a_pause_is_not_made_up_for_by_haste() -> None:
    clock, waited = Clock(), list[float]()

    async def pause(seconds: float) -> None:
        waited.append(seconds)

    pace = Pace(100, clock=clock, pause=pause)
    await pace(100)
    clock.now += 50
    await pace(100)

    assert waited == [1, 1]


async def test_a_blob_that_may_not_be_read_is_named_and_the_rest_is_read(disk: Disk, process: Process) -> None:
    digests = disk.fill(FAILURES_MAX * 3, shard="07")
    for digest in digests[:-1]:
        disk.failing.add(keys.blob(digest))

    with capture_logs() as logs:
        await process.scrub()

    shard = (await process.store.shards())["07"]
    assert (shard.blobs, shard.unreadable_count) == (1, len(digests) - 1)
    assert shard.unreadable[0] == digests[0].hex
    assert len([line for line in logs if line["event"] == "unreadable blob"]) == len(digests) - 1


async def test_a_store_that_is_down_leaves_no_shard_read(disk: Disk, process: Process) -> None:
    disk.fill(300)
    disk.is_down = True

    with pytest.raises(StorageUnavailable):
        await process.scrub()

    assert await process.store.shards() == {}


@pytest.mark.parametrize(
    "text", [b"", b"no json", b"[]", b"1", b'{"00": 1}', b'{"00": {"ended": "x"}}', bytes(2 << 20)]
)
async def test_damaged_records_are_written_anew(disk: Disk, process: Process, text: bytes) -> None:
    disk.fill(20)
    disk.write(keys.SCRUB_SHARDS, text)
    disk.write(keys.SCRUB_CURSOR, text)

    await process.scrub()

    assert due(await process.store.shards(), process.clock.now, PERIOD) == 0
    assert len(disk.opened) == 20


async def test_a_cursor_of_another_shard_than_it_says_is_no_cursor(process: Process) -> None:
    for after in ("", "00" * 32, "not hex"):
        await process.store.move(Cursor("01", after))
        assert (await process.store.cursor() is None) is (after != "")


async def test_two_processes_record_their_shards_side_by_side(disk: Disk) -> None:
    clock = Clock()
    stores = [ScrubStore(disk, clock=clock) for _ in range(8)]

    await asyncio.gather(*(stores[n].record(SHARDS[n], ShardRecord(ended=1.0 + n)) for n in range(8)))

    shards = await stores[0].shards()
    assert {shard: found.ended for shard, found in shards.items()} == {SHARDS[n]: 1.0 + n for n in range(8)}


async def test_one_of_several_processes_scrubs_and_it_goes_on_after_a_failure(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = disk.fill(50)
    monkeypatch.setattr(scrubbing, "LOOK_SECONDS_MAX", 1.0)
    clock = Clock()
    processes = [Process(disk, clock) for _ in range(3)]
    disk.is_down = True

    async def until() -> AsyncIterator[None]:
        while due(await processes[0].store.shards(), clock.now, PERIOD):
            await asyncio.sleep(0)
            yield

    for process in processes:
        process.scrubber.start()
    for _ in range(500):
        await asyncio.sleep(0)
    disk.is_down, disk.opened = False, []
    async for _ in until():
        pass
    for process in processes:
        await process.scrubber.close()

    assert set(disk.opened) == set(digests)
