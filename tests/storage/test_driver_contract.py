"""What every driver has to pass: one test for each sentence of storage/drivers.py.

A further driver joins by one more branch in the fixture `open_store`.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from storage.drivers import PIECE_BYTES, Driver, Page
from storage.errors import AlreadyExists, Busy, Corrupt, NotFound, VersionMismatch
from storage.filesystem import FileSystemDriver
from storage.memory import MemoryDriver
from storage.s3 import S3Driver
from tests.s3.weed import Store
from tests.stores import joined, read_large

OpenStore = Callable[[], Awaitable[Driver]]
DRIVERS = ["filesystem", "memory", "s3"]
NO_KEYS = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a/.", "a\0b", "a/\ud800", "a/\udcff"]
RACERS = 24


@pytest.fixture(params=DRIVERS)
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Return a function that gives one more driver on the same store, as another worker has it."""
    memory = MemoryDriver()
    bucket: Store | None = request.getfixturevalue("weed") if request.param == "s3" else None
    prefix = f"contract/{secrets.token_hex(8)}"

    async with AsyncExitStack() as opened:

        async def opener() -> Driver:
            driver: Driver = memory if request.param == "memory" else FileSystemDriver(tmp_path / "data")
            if bucket is not None:
                driver = S3Driver(bucket.settings(prefix))
            await driver.start()
            opened.push_async_callback(driver.close)
            return driver

        yield opener


@pytest.fixture
async def driver(open_store: OpenStore) -> Driver:
    return await open_store()


async def read(driver: Driver, key: str) -> bytes:
    return (await driver.get(key, bytes_max=1 << 20)).body


async def stage_and_commit(driver: Driver, key: str, body: bytes, *, at: str = "up/1/data") -> None:
    await driver.stage(at)
    writer = await driver.open_staged(at)
    await writer.write([body])
    await writer.commit(key)


async def keys(driver: Driver, prefix: str, *, after: str = "", limit: int = 1000, fold: bool = False) -> list[str]:
    page = await driver.list(prefix, after=after, limit=limit, fold=fold)
    return [entry.key for entry in page.entries]


async def all_pages(driver: Driver, prefix: str, *, limit: int, fold: bool = False) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = await driver.list(prefix, after=after, limit=limit, fold=fold)
        assert len(page.entries) <= limit
        found += [entry.key for entry in page.entries]
        if not page.more:
            return found
        assert page.entries
        after = page.entries[-1].key


async def put_all(driver: Driver, names: Sequence[str]) -> None:
    for name in names:
        await driver.put(name, b"x", durable=False)


async def count_winners(tries: Sequence[Awaitable[object]], lost: type[Exception]) -> list[int]:
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(r, lost) for r in results if isinstance(r, BaseException)), results
    return [index for index, result in enumerate(results) if not isinstance(result, BaseException)]


class TestSmallObjects:
    async def test_what_is_put_is_got(self, driver: Driver) -> None:
        await driver.put("a/b/c", b"body")

        assert await read(driver, "a/b/c") == b"body"

    @pytest.mark.parametrize("body", [b"", b"\0", bytes(range(256)) * 4096])
    async def test_any_bytes_come_back_as_they_were(self, driver: Driver, body: bytes) -> None:
        await driver.create("k", body)

        assert (await driver.get("k", bytes_max=len(body))).body == body

    async def test_every_write_returns_the_version_that_is_read(self, driver: Driver) -> None:
        async def current() -> str:
            return (await driver.get("k", bytes_max=9)).version

        created = await driver.create("k", b"1")
        assert created == await current()
        assert await driver.replace("k", b"2", version=created) == await current()
        assert await driver.put("k", b"3") == await current()
        assert await driver.put("k", b"4", durable=False) == await current()

    async def test_versions_of_different_bytes_differ(self, driver: Driver) -> None:
        versions = [await driver.put("k", str(number % 10).encode()) for number in range(10)]

        assert len(set(versions)) == 10

    async def test_get_of_what_is_absent_is_not_found(self, driver: Driver) -> None:
        await driver.put("a/b", b"")

        for key in ("b", "a/c", "a/b/c", "x" * 300):
            with pytest.raises(NotFound):
                await read(driver, key)

    async def test_get_of_more_than_expected_is_corrupt(self, driver: Driver) -> None:
        await driver.put("k", b"12345")

        with pytest.raises(Corrupt):
            await driver.get("k", bytes_max=4)
        assert (await driver.get("k", bytes_max=5)).body == b"12345"

    async def test_an_error_names_the_key(self, driver: Driver) -> None:
        with pytest.raises(NotFound, match=r"\[no/such\]") as caught:
            await read(driver, "no/such")
        assert caught.value.key == "no/such"

    async def test_create_refuses_a_taken_key_and_changes_nothing(self, driver: Driver) -> None:
        await driver.put("k", b"first")

        with pytest.raises(AlreadyExists):
            await driver.create("k", b"second")
        assert await read(driver, "k") == b"first"

    async def test_create_race_has_one_winner_and_keeps_its_bytes(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        bodies = [str(number).encode() for number in range(RACERS)]

        tries = [drivers[number % 2].create("a/new/key", body) for number, body in enumerate(bodies)]
        winners = await count_winners(tries, AlreadyExists)

        assert len(winners) == 1
        assert await read(drivers[0], "a/new/key") == bodies[winners[0]]

    async def test_replace_writes_over_the_version_that_was_read(self, driver: Driver) -> None:
        version = await driver.put("k", b"1")

        await driver.replace("k", b"2", version=version)

        assert await read(driver, "k") == b"2"

    async def test_replace_loses_against_an_earlier_change(self, driver: Driver) -> None:
        version = await driver.put("k", b"1")
        await driver.put("k", b"2")

        with pytest.raises(VersionMismatch):
            await driver.replace("k", b"3", version=version)
        assert await read(driver, "k") == b"2"

    async def test_replace_of_what_is_gone_loses_and_brings_nothing_back(self, driver: Driver) -> None:
        version = await driver.put("a/k", b"1")
        await driver.delete("a/k")

        with pytest.raises(VersionMismatch):
            await driver.replace("a/k", b"2", version=version)
        with pytest.raises(NotFound):
            await read(driver, "a/k")

    async def test_replace_race_has_one_winner_and_keeps_its_bytes(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        version = await drivers[0].put("k", b"start")
        bodies = [str(number).encode() for number in range(RACERS)]

        tries = [drivers[n % 2].replace("k", body, version=version) for n, body in enumerate(bodies)]
        winners = await count_winners(tries, VersionMismatch)

        assert len(winners) == 1
        assert await read(drivers[0], "k") == bodies[winners[0]]

    async def test_counting_by_compare_and_swap_loses_no_step(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        await drivers[0].create("n", b"0")

        async def step(driver: Driver) -> None:
            while True:
                found = await driver.get("n", bytes_max=99)
                try:
                    await driver.replace("n", str(int(found.body) + 1).encode(), version=found.version)
                except VersionMismatch:
                    await asyncio.sleep(0)
                else:
                    return

        await asyncio.gather(*(step(drivers[number % 2]) for number in range(RACERS)))

        assert int(await read(drivers[0], "n")) == RACERS

    async def test_replace_never_overwrites_a_put_that_it_did_not_see(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        for _round in range(20):
            version = await drivers[0].put("k", b"start")

            replaced, _put = await asyncio.gather(
                drivers[0].replace("k", b"replaced", version=version),
                drivers[1].put("k", b"put"),
                return_exceptions=True,
            )

            # Either replace came first and was overwritten, or it came second and lost: the put stays.
            assert await read(drivers[0], "k") == b"put"
            assert isinstance(replaced, str | VersionMismatch)

    async def test_put_overwrites(self, driver: Driver) -> None:
        await driver.put("k", b"a longer first body")
        await driver.put("k", b"short")

        assert await read(driver, "k") == b"short"

    @pytest.mark.parametrize("durable", [True, False])
    async def test_readers_see_the_old_bytes_or_the_new_ones(self, driver: Driver, durable: bool) -> None:
        bodies = [bytes([number]) * 50_000 for number in range(8)]
        await driver.put("k", bodies[0])
        done = asyncio.Event()

        async def write() -> None:
            for body in bodies * 4:
                await driver.put("k", body, durable=durable)
            done.set()

        writing = asyncio.create_task(write())
        while not done.is_set():
            assert await read(driver, "k") in bodies
            await asyncio.sleep(0)
        await writing

    async def test_delete_removes(self, driver: Driver) -> None:
        await driver.put("a/k", b"")

        await driver.delete("a/k")

        with pytest.raises(NotFound):
            await driver.stat("a/k")

    async def test_delete_of_what_is_absent_is_fine(self, driver: Driver) -> None:
        await driver.put("a/k", b"")

        for key in ("b", "a/l", "a/k/x", "a", "x" * 300):
            await driver.delete(key)

        assert await read(driver, "a/k") == b""

    async def test_delete_version_removes_that_version_only(self, driver: Driver) -> None:
        version = await driver.put("k", b"1")
        newer = await driver.put("k", b"2")

        with pytest.raises(VersionMismatch):
            await driver.delete_version("k", version=version)
        assert await read(driver, "k") == b"2"
        await driver.delete_version("k", version=newer)
        with pytest.raises(VersionMismatch):
            await driver.delete_version("k", version=newer)

    async def test_replace_and_delete_version_have_one_winner(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        for _round in range(20):
            version = await drivers[0].put("a/k", b"start")

            winners = await count_winners(
                [
                    drivers[0].replace("a/k", b"replaced", version=version),
                    drivers[1].delete_version("a/k", version=version),
                ],
                VersionMismatch,
            )

            assert len(winners) == 1
            assert await keys(drivers[0], "a/") == (["a/k"] if winners == [0] else [])

    async def test_writes_beside_deletes_of_the_last_neighbour_succeed(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]

        async def churn(name: str, driver: Driver) -> None:
            for number in range(15):
                await driver.put(f"deep/er/{name}/k", str(number).encode())
                assert await read(driver, f"deep/er/{name}/k") == str(number).encode()
                await driver.delete(f"deep/er/{name}/k")

        await asyncio.gather(*(churn(str(number), drivers[number % 2]) for number in range(4)))

        assert await keys(drivers[0], "deep/") == []

    async def test_one_driver_sees_at_once_what_another_one_did(self, open_store: OpenStore) -> None:
        first, second = await open_store(), await open_store()

        version = await first.put("a/k", b"1")

        assert (await second.get("a/k", bytes_max=9)).version == version
        await second.delete_version("a/k", version=version)
        with pytest.raises(NotFound):
            await first.stat("a/k")

    @pytest.mark.parametrize("key", NO_KEYS)
    async def test_what_is_no_key_is_refused_everywhere(self, driver: Driver, key: str) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: driver.get(key, bytes_max=1),
            lambda: driver.create(key, b""),
            lambda: driver.replace(key, b"", version="v"),
            lambda: driver.put(key, b""),
            lambda: driver.delete(key),
            lambda: driver.delete_version(key, version="v"),
            lambda: driver.stat(key),
            lambda: driver.open(key),
            lambda: driver.presign(key, seconds=60),
            lambda: driver.stage(key),
            lambda: driver.stat_staged(key),
            lambda: driver.open_staged(key),
            lambda: driver.discard(key),
        ]
        for call in calls:
            with pytest.raises(ValueError, match="no key"):
                await call()


class TestListing:
    NAMES = (
        "p/!", "p/-", "p/.a", "p/0", "p/a!", "p/a!/x", "p/a-", "p/a-b/x", "p/a.b/x", "p/a/0", "p/a/b/c",
        "p/a/b-/c", "p/a0", "p/a_/x", "p/b", "p/ä", "p/ä/x", "p0", "q/x",
    )  # fmt: skip

    @pytest.fixture
    async def names(self, driver: Driver) -> list[str]:
        # No file system holds a file and a directory of the same name: those with children win.
        names = [name for name in self.NAMES if not any(other.startswith(f"{name}/") for other in self.NAMES)]
        await put_all(driver, names)
        return sorted((name for name in names if name.startswith("p/")), key=str.encode)

    async def test_keys_are_in_byte_order_of_the_whole_key(self, driver: Driver, names: list[str]) -> None:
        assert names.index("p/a-b/x") < names.index("p/a.b/x") < names.index("p/a/0") < names.index("p/a0")
        assert await keys(driver, "p/") == names

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
    async def test_pages_joined_are_the_whole_listing(self, driver: Driver, names: list[str], limit: int) -> None:
        assert await all_pages(driver, "p/", limit=limit) == names

    async def test_only_keys_greater_than_after_are_given(self, driver: Driver, names: list[str]) -> None:
        afters = [*names, *(f"{name}/" for name in names), *(name[:-1] for name in names)]
        for after in (*afters, "", "a", "p", "p/", "p/a/b/", "p/a/zz", "p/\ud800", "p0", "z"):
            later = [n for n in names if n.encode() > after.encode("utf-8", "surrogatepass")]
            assert await keys(driver, "p/", after=after) == later, after

    async def test_more_says_whether_the_listing_goes_on(self, driver: Driver, names: list[str]) -> None:
        assert (await driver.list("p/", limit=len(names) - 1)).more
        assert not (await driver.list("p/", limit=len(names))).more
        assert not (await driver.list("p/", after=names[-2], limit=1)).more
        assert (await driver.list("p/", after=names[-3], limit=1)).more

    async def test_folded_everything_below_the_next_slash_is_one_entry(self, driver: Driver, names: list[str]) -> None:
        page = await driver.list("p/", limit=1000, fold=True)

        expected = {f"p/{rest[0]}/" if len(rest := n[2:].split("/", 1)) > 1 else n for n in names}
        assert [entry.key for entry in page.entries] == sorted(expected, key=str.encode)
        assert all(entry.is_prefix == entry.key.endswith("/") for entry in page.entries)

    @pytest.mark.parametrize("limit", [1, 2, 3])
    async def test_folded_pages_joined_are_the_whole_listing(
        self, driver: Driver, names: list[str], limit: int
    ) -> None:
        assert names
        assert await all_pages(driver, "p/", limit=limit, fold=True) == await keys(driver, "p/", fold=True)

    async def test_a_folded_entry_is_compared_as_it_is_written(self, driver: Driver, names: list[str]) -> None:
        assert names
        assert "p/a/" in await keys(driver, "p/", after="p/a", fold=True)
        assert "p/a/" not in await keys(driver, "p/", after="p/a/", fold=True)
        assert "p/a/" not in await keys(driver, "p/", after="p/a/0", fold=True)

    async def test_a_prefix_with_nothing_below_it_lists_nothing(self, driver: Driver) -> None:
        await driver.put("a/file", b"")

        for prefix in ("b/", "a/b/c/", "a/file/", "a/fil/", f"{'x' * 300}/"):
            assert await driver.list(prefix, limit=10) == Page([], more=False)

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../", "./"])
    async def test_what_is_no_prefix_is_refused(self, driver: Driver, prefix: str) -> None:
        with pytest.raises(ValueError, match=r"no key|slash"):
            await driver.list(prefix, limit=1)

    async def test_deleted_objects_are_not_listed(self, driver: Driver) -> None:
        await put_all(driver, ["a/1", "a/2/x", "a/3"])

        await driver.delete("a/2/x")

        assert await keys(driver, "a/") == ["a/1", "a/3"]


class TestLargeObjects:
    async def test_stat_tells_size_and_time(self, driver: Driver) -> None:
        before = time.time()
        await driver.put("k", b"12345")

        found = await driver.stat("k")

        assert found.size == 5
        assert before - 1 < found.modified < time.time() + 1  # a file's time comes from a coarser clock

    async def test_stat_and_open_of_what_is_absent_are_not_found(self, driver: Driver) -> None:
        await driver.put("a/b", b"")

        for key in ("b", "a/b/c", "x" * 300):
            with pytest.raises(NotFound):
                await driver.stat(key)
            with pytest.raises(NotFound):
                await driver.open(key)

    async def test_pieces_are_exactly_what_was_asked_for(self, driver: Driver) -> None:
        body = bytes(range(251)) * 12_000
        await driver.put("k", body)
        reader = await driver.open("k")

        for start, length in [(0, len(body)), (0, 0), (1, 1), (70_000, PIECE_BYTES * 2), (len(body) - 9, 9)]:
            pieces = [piece async for piece in reader.pieces(start, length)]
            assert b"".join(pieces) == body[start : start + length]
            assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
        await reader.close()

    @pytest.mark.parametrize("size", [0, 10, PIECE_BYTES + 10])
    async def test_an_object_that_ends_early_is_corrupt(self, driver: Driver, size: int) -> None:
        await driver.put("k", bytes(size))
        reader = await driver.open("k")

        with pytest.raises(Corrupt):
            await joined(reader.pieces(0, size + 1))
        await reader.close()

    async def test_a_reader_keeps_its_version_when_the_object_is_replaced(self, driver: Driver) -> None:
        await driver.put("k", b"old bytes")
        reader = await driver.open("k")

        await driver.put("k", b"new")

        assert await joined(reader.pieces(0, reader.size)) == b"old bytes"
        await reader.close()

    async def test_a_reader_keeps_its_version_when_the_object_is_deleted(self, driver: Driver) -> None:
        await driver.put("k", bytes(3 * PIECE_BYTES))
        reader = await driver.open("k")

        await driver.delete("k")

        assert len(await joined(reader.pieces(0, reader.size))) == 3 * PIECE_BYTES
        await reader.close()

    async def test_identity_is_equal_only_for_the_same_unmodified_bytes(self, driver: Driver) -> None:
        await driver.put("k", b"1")
        await driver.put("other", b"1")
        identities = []
        for key in ("k", "k", "other"):
            reader = await driver.open(key)
            identities.append(reader.identity)
            await reader.close()
        await driver.put("k", b"2")
        reader = await driver.open("k")

        assert identities[0] == identities[1]
        assert len({*identities, reader.identity}) == 3
        await reader.close()

    async def test_a_reader_may_be_closed_twice(self, driver: Driver) -> None:
        await driver.put("k", b"1")
        reader = await driver.open("k")

        await reader.close()
        await reader.close()


class TestStagedObjects:
    KEY = "up/loads/1/data"

    async def test_staged_bytes_become_the_object_by_commit(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([b"one", b"", b"two"])
        await writer.write([])
        await writer.write([b"three"])

        await writer.commit("blobs/x/data")

        assert await read_large(driver, "blobs/x/data") == b"onetwothree"
        with pytest.raises(NotFound):
            await driver.stat_staged(self.KEY)
        with pytest.raises(NotFound):
            await driver.open_staged(self.KEY)

    async def test_many_and_large_pieces_arrive_in_order(self, driver: Driver) -> None:
        pieces = [bytes([n % 251]) * (n % 7) for n in range(3000)] + [b"L" * (5 * PIECE_BYTES), b"end"]
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)

        await writer.write(pieces)

        assert writer.size == sum(map(len, pieces))
        await writer.commit("k")
        assert await read_large(driver, "k") == b"".join(pieces)

    async def test_observe_is_given_every_piece_once_and_in_order(self, driver: Driver) -> None:
        pieces = [bytes([n]) * 300_000 for n in range(20)]
        seen: list[bytes] = []
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)

        await writer.write(pieces, seen.extend)

        assert seen == pieces
        await writer.close()

    async def test_what_observe_raises_comes_out_and_the_size_is_true(self, driver: Driver) -> None:
        def observe(_pieces: Sequence[bytes]) -> None:
            raise LookupError("of the observer")

        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)

        with pytest.raises(LookupError):
            await writer.write([b"12345"], observe)
        assert writer.size == (await driver.stat_staged(self.KEY)).size
        await writer.close()

    async def test_a_commit_without_bytes_makes_an_empty_object(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)

        await writer.commit("k")

        assert (await driver.stat("k")).size == 0

    async def test_commit_replaces_and_readers_keep_what_they_hold(self, driver: Driver) -> None:
        await driver.put("k", b"old")
        reader = await driver.open("k")

        await stage_and_commit(driver, "k", b"new bytes")

        assert await joined(reader.pieces(0, 3)) == b"old"
        assert await read_large(driver, "k") == b"new bytes"
        await reader.close()

    async def test_commit_closes_the_writer(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([b"kept"])
        await writer.commit("k")

        with pytest.raises(NotFound):
            await writer.write([b"more"])
        await writer.close()
        await writer.close()
        assert writer.size == 4
        assert await read_large(driver, "k") == b"kept"

    async def test_one_writer_at_a_time(self, open_store: OpenStore) -> None:
        first, second = await open_store(), await open_store()
        await first.stage(self.KEY)
        writer = await first.open_staged(self.KEY)
        await writer.write([b"123"])

        with pytest.raises(Busy):
            await first.open_staged(self.KEY)

        async def intrude() -> None:
            intruder = await second.open_staged(self.KEY)
            await writer.flush()
            try:
                await intruder.write([b"xyz"])  # another process may have to write to find out
                await intruder.flush()
            finally:
                await intruder.close()

        with pytest.raises(Busy):
            await intrude()
        await writer.close()
        next_writer = await first.open_staged(self.KEY)

        assert next_writer.size == 3
        await next_writer.write([b"456"])
        await next_writer.commit("k")
        assert await read_large(first, "k") == b"123456"

    async def test_of_many_who_write_only_those_who_are_told_so_have_written(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        await drivers[0].stage(self.KEY)

        async def add(number: int) -> bytes:
            writer = await drivers[number % 2].open_staged(self.KEY)
            try:
                await writer.write([b"%d," % number])
                await writer.flush()
            finally:
                await writer.close()
            return b"%d," % number

        results = await asyncio.gather(*map(add, range(RACERS)), return_exceptions=True)

        written = [result for result in results if isinstance(result, bytes)]
        assert written
        assert all(isinstance(result, Busy) for result in results if not isinstance(result, bytes))
        writer = await drivers[0].open_staged(self.KEY)
        kept = await joined(writer.pieces(0, writer.size))
        await writer.close()
        assert sorted(kept.split(b",")) == sorted(b"".join(written).split(b","))

    async def test_a_record_changes_with_the_bytes_and_is_left_by_the_commit(self, open_store: OpenStore) -> None:
        first, second = await open_store(), await open_store()
        await first.stage(self.KEY, record="records/1", text=b"begun")
        assert (await first.get("records/1", bytes_max=1 << 20)).body.split(b"\n")[0] == b"begun"
        writer = await first.open_staged(self.KEY, record="records/1")
        assert writer.record == b"begun"
        await writer.write([b"123"])

        await writer.flush(b"flushed")
        await writer.close()

        assert [entry.key for entry in (await second.list("records/", limit=9)).entries] == ["records/1"]
        assert (await second.stat_staged(self.KEY, record="records/1")).size == 3
        resumed = await second.open_staged(self.KEY, record="records/1")
        assert (resumed.record, resumed.size) == (b"flushed", 3)
        await resumed.commit("k", b"ended")
        assert await read_large(first, "k") == b"123"
        assert (await first.get("records/1", bytes_max=1 << 20)).body.split(b"\n")[0] == b"ended"
        for call in (first.stat_staged(self.KEY, record="records/1"), first.open_staged(self.KEY, record="records/1")):
            with pytest.raises(NotFound):
                await call

    async def test_a_record_goes_with_what_it_belongs_to(self, driver: Driver) -> None:
        for number, ends in enumerate((driver.discard, None)):
            record = f"records/{number}"
            await driver.stage(self.KEY, record=record, text=b"begun")
            if ends is not None:
                await ends(self.KEY, record=record)
            else:
                writer = await driver.open_staged(self.KEY, record=record)
                await writer.commit("k")
            with pytest.raises(NotFound):
                await driver.get(record, bytes_max=1 << 20)

    @pytest.mark.parametrize("size", [0, 10, 20 << 20])
    async def test_an_aimed_upload_is_the_object_or_nothing(self, driver: Driver, size: int) -> None:
        body = bytes(range(256)) * (size // 256) + b"end"
        for number, kept in enumerate((False, True, True)):
            key = f"blobs/{number}/data"
            await driver.stage(self.KEY)
            writer = await driver.open_staged(self.KEY)
            aimed = writer.aim(key)
            await writer.write([body])
            with pytest.raises(NotFound):
                await driver.stat(key)
            if number == 2:
                await writer.truncate(0)
                assert writer.size == 0
                await writer.write([body[:5]])
            if kept:
                await writer.commit(key)
                assert await read_large(driver, key) == (body if number == 1 else body[:5])
                continue
            await writer.close()
            if aimed:
                assert (await driver.stat_staged(self.KEY)).size == 0
            await driver.discard(self.KEY)
            with pytest.raises(NotFound):
                await driver.stat(key)

    async def test_a_closed_writer_writes_nothing_more(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.close()
        await writer.close()

        for call in (writer.write([b"x"]), writer.flush(), writer.truncate(0), writer.commit("k")):
            with pytest.raises(NotFound):
                await call
        assert (await driver.stat_staged(self.KEY)).size == 0

    async def test_what_was_not_staged_is_not_found(self, driver: Driver) -> None:
        with pytest.raises(NotFound):
            await driver.open_staged(self.KEY)
        with pytest.raises(NotFound):
            await driver.stat_staged(self.KEY)

    async def test_stage_begins_empty_and_refuses_what_is_begun(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        assert (await driver.stat_staged(self.KEY)).size == 0

        with pytest.raises(AlreadyExists):
            await driver.stage(self.KEY)

    async def test_stat_staged_tells_the_truth_while_it_is_written(self, driver: Driver) -> None:
        before = time.time()
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        for size in (3, 6):
            await writer.write([b"abc"])
            found = await driver.stat_staged(self.KEY)
            assert found.size == writer.size == size
            assert before - 1 < found.modified < time.time() + 1
        await writer.close()

    async def test_truncate_takes_back_the_end_and_writing_goes_on_there(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([b"0123456789"])

        await writer.truncate(4)
        assert writer.size == (await driver.stat_staged(self.KEY)).size == 4
        await writer.write([b"ab"])

        await writer.commit("k")
        assert await read_large(driver, "k") == b"0123ab"

    async def test_truncate_never_lengthens(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([b"01"])

        await writer.truncate(5)

        assert writer.size == (await driver.stat_staged(self.KEY)).size == 2
        await writer.close()

    async def test_flushed_bytes_are_there_for_the_next_writer(self, open_store: OpenStore) -> None:
        first, second = await open_store(), await open_store()
        await first.stage(self.KEY)
        writer = await first.open_staged(self.KEY)
        await writer.write([b"kept"])
        await writer.flush()
        await writer.close()

        resumed = await second.open_staged(self.KEY)

        assert await joined(resumed.pieces(0, resumed.size)) == b"kept"
        await resumed.close()

    async def test_staged_bytes_are_read_back_as_readers_do(self, driver: Driver) -> None:
        body = bytes(range(251)) * 9000
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([body])

        assert await joined(writer.pieces(100, len(body) - 100)) == body[100:]
        with pytest.raises(Corrupt):
            await joined(writer.pieces(0, len(body) + 1))
        await writer.close()

    async def test_discard_takes_the_bytes_from_under_the_writer(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        writer = await driver.open_staged(self.KEY)
        await writer.write([b"x"])

        await driver.discard(self.KEY)

        for call in (writer.write([b"y"]), writer.flush(), writer.truncate(0), writer.commit("k")):
            with pytest.raises(NotFound):
                await call
        await writer.close()
        with pytest.raises(NotFound):
            await driver.stat("k")
        with pytest.raises(NotFound):
            await driver.stat_staged(self.KEY)

    async def test_a_writer_of_discarded_bytes_cannot_touch_those_begun_after_them(self, driver: Driver) -> None:
        await driver.stage(self.KEY)
        old = await driver.open_staged(self.KEY)
        await driver.discard(self.KEY)
        await driver.stage(self.KEY)
        new = await driver.open_staged(self.KEY)
        await new.write([b"new"])

        with pytest.raises(NotFound):
            await old.commit("k")
        await old.close()

        await new.commit("k")
        assert await read_large(driver, "k") == b"new"

    async def test_discard_of_what_is_absent_is_fine(self, driver: Driver) -> None:
        await driver.discard(self.KEY)
        await driver.stage(self.KEY)
        await driver.discard(self.KEY)
        await driver.discard(self.KEY)

    async def test_commit_and_discard_race_keeps_all_or_nothing(self, driver: Driver) -> None:
        for number in range(20):
            await driver.stage(self.KEY)
            writer = await driver.open_staged(self.KEY)
            await writer.write([b"whole"])

            committed, discarded = await asyncio.gather(
                writer.commit(f"k{number}"), driver.discard(self.KEY), return_exceptions=True
            )
            await writer.close()

            assert discarded is None
            if isinstance(committed, str):
                assert await read_large(driver, f"k{number}") == b"whole"
            else:
                assert isinstance(committed, NotFound)
                with pytest.raises(NotFound):
                    await driver.stat(f"k{number}")

    async def test_two_commits_to_one_key_leave_one_of_them_whole(self, open_store: OpenStore) -> None:
        drivers = [await open_store(), await open_store()]
        bodies = [bytes([number]) * 100_000 for number in range(6)]

        tries = [stage_and_commit(drivers[n % 2], "a/b/k", body, at=f"up/{n}/data") for n, body in enumerate(bodies)]
        await asyncio.gather(*tries)

        assert await read_large(drivers[0], "a/b/k") in bodies


class TestCapabilities:
    async def test_they_are_told_as_data(self, driver: Driver) -> None:
        assert driver.capabilities.presigned_urls is isinstance(driver, S3Driver)
        assert driver.capabilities.object_bytes_max is None

    async def test_a_url_reads_the_object_and_only_who_is_capable_of_it_gives_one(self, driver: Driver) -> None:
        await stage_and_commit(driver, "a/b c/k", b"some bytes")

        url = await driver.presign("a/b c/k", seconds=60)

        assert (url is not None) == driver.capabilities.presigned_urls
        if url is not None:
            assert httpx.get(url).content == b"some bytes"
            assert httpx.get(url, headers={"range": "bytes=5-8"}).content == b"byte"

    async def test_start_may_be_repeated_on_a_store_in_use(self, open_store: OpenStore) -> None:
        first = await open_store()
        await first.put("k", b"1")

        second = await open_store()

        assert await read(second, "k") == b"1"


async def test_every_piece_read_is_shown_to_the_observer_before_it_is_given_out(driver: Driver) -> None:
    body = bytes(range(256)) * (5 * PIECE_BYTES // 512)
    await driver.put("big", body)
    reader = await driver.open("big")
    seen: list[bytes] = []
    given: list[bytes] = []

    async for piece in reader.pieces(10, len(body) - 20, seen.extend):
        given.append(piece)
        assert seen[: len(given)] == given
    await reader.close()

    assert b"".join(given) == body[10:-10]
    assert seen == given


async def test_a_reader_may_be_left_in_the_middle_and_closed(driver: Driver) -> None:
    await driver.put("big", bytes(4 * PIECE_BYTES))
    reader = await driver.open("big")
    pieces = reader.pieces(0, reader.size)

    first = await anext(pieces)
    await pieces.aclose()  # type: ignore[attr-defined]  # it is a generator in every driver
    await reader.close()

    assert first == bytes(len(first))


async def test_a_commit_returns_the_identity_that_a_reader_of_the_object_has(driver: Driver) -> None:
    await driver.stage("staged")
    writer = await driver.open_staged("staged")
    await writer.write([b"bytes"])

    identity = await writer.commit("k")

    reader = await driver.open("k")
    await reader.close()
    assert identity == reader.identity


async def test_tidying_leaves_every_object(driver: Driver) -> None:
    for key in ("a/b", "a/c/d", "a/gone"):
        await driver.put(key, b"an object")
    await driver.delete("a/gone")

    for prefix in ("a/c/", "a/", "b/"):
        await driver.tidy(prefix)

    assert [entry.key for entry in (await driver.list("", limit=10)).entries] == ["a/b", "a/c/d"]


async def test_a_sweep_leaves_what_is_in_use(driver: Driver) -> None:
    await driver.put("a/b", b"an object")
    await driver.stage("up/1/data")
    writer = await driver.open_staged("up/1/data")
    await writer.write([b"staged"])
    await writer.flush()

    await driver.sweep(older_than_seconds=86400)

    assert await read(driver, "a/b") == b"an object"
    await writer.write([b" bytes"])
    await writer.commit("a/c")
    assert await read_large(driver, "a/c") == b"staged bytes"


async def test_many_objects_are_deleted_at_once_and_the_absent_are_fine(driver: Driver) -> None:
    blobs = [f"docker/registry/v2/blobs/sha256/{n % 3:02}/{n:064}/data" for n in range(40)]
    await put_all(driver, [*blobs, "a/b/1", "a/b/2"])

    await driver.delete_many([*blobs, "a/b/1", "a/b/absent", "absent"])

    assert await keys(driver, "docker/") == []
    assert await keys(driver, "a/") == ["a/b/2"]
    await driver.delete_many([])
    with pytest.raises(ValueError, match="no key"):
        await driver.delete_many(["a//b"])


async def test_a_listing_tells_sizes_and_times_where_the_driver_says_so(driver: Driver) -> None:
    await driver.put("a/one", b"12345")

    [entry] = (await driver.list("a/", limit=10)).entries

    if driver.capabilities.listings_tell_sizes:
        assert entry.found is not None
        assert entry.found.size == 5
        assert abs(entry.found.modified - (await driver.stat("a/one")).modified) < 2
    else:
        assert entry.found is None
