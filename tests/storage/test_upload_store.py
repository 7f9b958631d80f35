"""A session lies in storage: any process takes it up at its true offset with its true hash."""

import json
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from storage import digest as digests
from storage import keys
from storage.digest import SHA256, SHA512, Digest
from storage.errors import Busy, Corrupt, NotFound, StorageFull, StorageRefused
from storage.uploads import Upload, UploadRecord, UploadStore, UploadWriter
from tests.stores import OTHER, REPOSITORY, Clock, RefusingDriver, body_at, damages, joined, keys_below

ID = "0123456789abcdef"
IDLE, LIFETIME, ENDED = 3600.0, 86400.0, 600.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(clock: Clock) -> RefusingDriver:
    return RefusingDriver(clock=clock)


@pytest.fixture
def store(driver: RefusingDriver, clock: Clock) -> UploadStore:
    return UploadStore(driver, clock=clock)


async def begin(store: UploadStore, upload: str = ID, *, algorithms: tuple[str, ...] = (SHA256,)) -> Upload:
    return await store.begin(REPOSITORY, upload, algorithms=algorithms)


async def add(store: UploadStore, *pieces: bytes, upload: str = ID) -> None:
    writer = await store.write(REPOSITORY, upload)
    try:
        await writer.append(pieces)
        await store.save(writer)
    finally:
        await writer.close()


async def staged(store: UploadStore, upload: str = ID) -> bytes:
    writer = await store.write(REPOSITORY, upload)
    try:
        return await joined(writer.staged.pieces(0, writer.size))
    finally:
        await writer.close()


async def sweep(store: UploadStore) -> int:
    return await store.expire(idle_seconds=IDLE, lifetime_seconds=LIFETIME, ended_seconds=ENDED)


async def test_a_session_begins_empty_and_grows_by_what_is_saved(store: UploadStore) -> None:
    begun = await begin(store)
    assert begun.size == (await store.find(REPOSITORY, ID)).size == 0

    await add(store, b"some ", b"bytes")
    await add(store, b" more")

    assert (await store.find(REPOSITORY, ID)).size == 15
    assert await staged(store) == b"some bytes more"


async def test_its_bytes_and_its_start_lie_where_distribution_purges_them(
    driver: RefusingDriver, store: UploadStore
) -> None:
    await begin(store)

    started = await body_at(driver, f"docker/registry/v2/repositories/{REPOSITORY}/_uploads/{ID}/startedat")
    assert started == b"1970-01-12T13:46:40Z"


async def test_a_session_is_unknown_in_every_other_repository(store: UploadStore) -> None:
    await begin(store)

    for look in (store.find, store.record):
        for repository, upload in ((OTHER, ID), (REPOSITORY, "other")):
            with pytest.raises(NotFound):
                await look(repository, upload)


@pytest.mark.parametrize("algorithms", [(SHA256,), (SHA256, SHA512)])
async def test_the_hash_goes_on_in_another_process_without_reading_again(
    driver: RefusingDriver, clock: Clock, algorithms: tuple[str, ...]
) -> None:
    store = UploadStore(driver, clock=clock)
    await begin(store, algorithms=algorithms)
    await add(store, b"some ", b"bytes")

    writer = await UploadStore(driver, clock=clock).write(REPOSITORY, ID)
    writer.staged.pieces = None  # type: ignore[assignment, method-assign]  # a read would be a TypeError
    await writer.append([b" more"])

    for algorithm in algorithms:
        assert await writer.digest(algorithm) == Digest.of(b"some bytes more", algorithm)


async def test_a_digest_that_nobody_announced_is_computed_by_reading(store: UploadStore) -> None:
    await begin(store)
    await add(store, b"some bytes")
    writer = await store.write(REPOSITORY, ID)

    writer.also_hash(SHA512)

    assert await writer.digest(SHA512) == Digest.of(b"some bytes", SHA512)


async def test_a_digest_that_is_announced_before_the_first_byte_is_computed_on_the_way(store: UploadStore) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    writer.also_hash(SHA512)
    writer.also_hash(SHA512)
    await writer.append([b"some bytes"])

    assert [running.algorithm for running in writer.hashes] == [SHA256, SHA512]
    assert await writer.digest(SHA512) == Digest.of(b"some bytes", SHA512)


async def test_bytes_that_a_killed_process_wrote_without_saving_are_kept_and_hashed(store: UploadStore) -> None:
    await begin(store)
    await add(store, b"saved ")
    killed = await store.write(REPOSITORY, ID)
    await killed.append([b"not saved "])
    await killed.close()

    found = await store.find(REPOSITORY, ID)
    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"later"])

    assert found.size == len(b"saved not saved ")
    assert await writer.digest(SHA256) == Digest.of(b"saved not saved later")


async def test_bytes_that_a_power_cut_took_back_are_not_believed_in(store: UploadStore) -> None:
    await begin(store)
    await add(store, b"saved and lost")
    writer = await store.write(REPOSITORY, ID)
    await writer.staged.truncate(5)
    await writer.close()

    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"!"])

    assert await writer.digest(SHA256) == Digest.of(b"saved!")


@pytest.mark.parametrize("state", ["", "????", "AAAA"])
async def test_a_hash_state_that_is_none_costs_a_read_and_nothing_else(
    driver: RefusingDriver, store: UploadStore, state: str
) -> None:
    await begin(store)
    await add(store, b"some bytes")
    record = replace(await store.record(REPOSITORY, ID), states={SHA256: state})
    await driver.put(keys.upload_record(ID), record.to_json())

    writer = await store.write(REPOSITORY, ID)

    assert await writer.digest(SHA256) == Digest.of(b"some bytes")


async def test_where_no_state_can_be_had_the_bytes_are_read_at_the_end(
    store: UploadStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_EXPORTABLE", frozenset())
    await begin(store)
    await add(store, b"some ")
    assert (await store.record(REPOSITORY, ID)).states == {}

    await add(store, b"bytes")
    writer = await store.write(REPOSITORY, ID)

    assert writer.hashes == []
    assert await writer.digest(SHA256) == Digest.of(b"some bytes")


async def test_a_session_has_one_writer_until_that_one_is_closed(store: UploadStore) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)

    with pytest.raises(Busy):
        await store.write(REPOSITORY, ID)
    await writer.close()
    await writer.close()

    await (await store.write(REPOSITORY, ID)).close()


@pytest.mark.parametrize("kept", [b"", b"kept "])
async def test_rolling_back_to_the_start_of_the_request_takes_the_hash_back_too(
    store: UploadStore, kept: bytes
) -> None:
    await begin(store)
    await add(store, kept)
    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"taken back"])

    await writer.roll_back(len(kept))
    assert [running.count for running in writer.hashes] == [len(kept)]
    await writer.append([b"instead"])

    assert await writer.digest(SHA256) == Digest.of(kept + b"instead")


async def test_rolling_back_into_earlier_bytes_voids_the_hash_and_the_digest_is_read(store: UploadStore) -> None:
    await begin(store)
    await add(store, b"some bytes")
    writer = await store.write(REPOSITORY, ID)

    await writer.roll_back(4)

    assert await writer.digest(SHA256) == Digest.of(b"some")


async def test_a_write_that_was_hashed_and_not_kept_leaves_no_wrong_state(store: UploadStore) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"kept"])
    writer.hashes[0].update(b"hashed, but never kept")

    await store.save(writer)
    await writer.close()

    record = await store.record(REPOSITORY, ID)
    assert (record.hashed, record.states) == (0, {})
    again = await store.write(REPOSITORY, ID)
    assert await again.digest(SHA256) == Digest.of(b"kept")


async def test_a_finished_session_is_remembered_with_its_digest_and_open_no_more(
    driver: RefusingDriver, store: UploadStore
) -> None:
    await begin(store)
    await add(store, b"some bytes")
    digest = Digest.of(b"some bytes")
    writer = await store.write(REPOSITORY, ID)

    await writer.staged.commit("blob", store.ended(writer, digest))
    await store.finish(writer)

    assert (await store.record(REPOSITORY, ID)).digest == str(digest)
    for refused in (store.find(REPOSITORY, ID), store.write(REPOSITORY, ID)):
        with pytest.raises(NotFound):
            await refused
    assert await keys_below(driver, f"{keys.ROOT}/repositories/") == []


async def test_a_session_whose_bytes_are_left_after_it_ended_is_not_written_to(
    driver: RefusingDriver, store: UploadStore
) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    await driver.put(keys.upload_record(ID), store.ended(writer, Digest.of(b"")))
    await writer.close()

    with pytest.raises(NotFound):
        await store.write(REPOSITORY, ID)


async def test_a_cancelled_session_leaves_nothing_and_its_writer_finds_out_at_the_next_write(
    driver: RefusingDriver, store: UploadStore
) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"some"])

    await store.cancel(REPOSITORY, ID)

    with pytest.raises(NotFound):
        await writer.append([b"bytes"])
    with pytest.raises(NotFound):
        await store.save(writer)
    with pytest.raises(NotFound):
        await store.find(REPOSITORY, ID)
    assert await keys_below(driver, keys.UPLOADS) == []
    with pytest.raises(NotFound):
        await driver.stat_staged(keys.upload_bytes(REPOSITORY, ID))
    assert await keys_below(driver, f"{keys.ROOT}/") == []


async def test_a_cancel_that_has_only_begun_is_not_undone_by_a_writer_that_saves(
    driver: RefusingDriver, store: UploadStore
) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    await driver.discard(keys.upload_bytes(REPOSITORY, ID))  # the first step of a cancel

    with pytest.raises(NotFound):
        await store.save(writer)

    await store.cancel(REPOSITORY, ID)
    assert await keys_below(driver, keys.UPLOADS) == []


async def test_what_a_cancel_that_was_cut_off_has_left_is_swept(
    driver: RefusingDriver, store: UploadStore, clock: Clock
) -> None:
    await begin(store)
    await driver.discard(keys.upload_bytes(REPOSITORY, ID))
    clock.now += 100

    assert await store.expire(idle_seconds=100, lifetime_seconds=1000, ended_seconds=1000) == 1
    assert await keys_below(driver, f"{keys.OURS}/") == []
    assert await keys_below(driver, f"{keys.ROOT}/") == []


async def test_a_session_that_is_used_outlives_its_idle_time(store: UploadStore, clock: Clock) -> None:
    await begin(store)
    for _ in range(3):
        clock.now += IDLE - 1
        await add(store, b"x")

    assert await sweep(store) == 0
    assert await staged(store) == b"xxx"


async def test_an_idle_session_is_dropped_with_its_bytes(
    driver: RefusingDriver, store: UploadStore, clock: Clock
) -> None:
    await begin(store)
    await add(store, b"abandoned")
    clock.now += IDLE - 1
    assert await sweep(store) == 0
    clock.now += 1

    assert await sweep(store) == 1

    assert await sweep(store) == 0
    with pytest.raises(NotFound):
        await store.find(REPOSITORY, ID)
    with pytest.raises(NotFound):
        await driver.stat_staged(keys.upload_bytes(REPOSITORY, ID))
    assert await keys_below(driver, f"{keys.ROOT}/") == []


async def test_bytes_that_arrive_count_as_use_before_they_are_saved(store: UploadStore, clock: Clock) -> None:
    await begin(store)
    clock.now += IDLE - 1
    writer = await store.write(REPOSITORY, ID)
    await writer.append([b"x"])
    await writer.close()
    clock.now += IDLE - 1

    assert await sweep(store) == 0


async def test_a_session_lives_no_longer_than_its_lifetime_however_busy(store: UploadStore, clock: Clock) -> None:
    await begin(store)
    for _ in range(int(LIFETIME // IDLE) + 1):
        clock.now += IDLE - 1
        await add(store, b"x")
    clock.now += 100

    assert await sweep(store) == 1


async def test_a_session_that_is_written_to_is_not_swept(store: UploadStore, clock: Clock) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    clock.now += 2 * LIFETIME

    assert await sweep(store) == 0
    await writer.append([b"still here"])
    await writer.close()
    assert await sweep(store) == 1


async def test_a_session_without_its_bytes_is_dropped_when_its_time_has_come(
    driver: RefusingDriver, store: UploadStore, clock: Clock
) -> None:
    await begin(store)
    await driver.discard(keys.upload_bytes(REPOSITORY, ID))
    assert await sweep(store) == 0
    clock.now += IDLE

    assert await sweep(store) == 1
    assert await keys_below(driver, keys.UPLOADS) == []


async def test_an_ended_session_is_forgotten_after_a_while(store: UploadStore, clock: Clock) -> None:
    await begin(store)
    writer = await store.write(REPOSITORY, ID)
    await writer.staged.commit("blob", store.ended(writer, Digest.of(b"")))
    await store.finish(writer)
    clock.now += ENDED - 1
    assert await sweep(store) == 0
    clock.now += 1

    assert await sweep(store) == 1
    with pytest.raises(NotFound):
        await store.record(REPOSITORY, ID)


async def test_a_sweep_goes_through_all_pages(store: UploadStore, clock: Clock) -> None:
    for number in range(1100):
        await begin(store, f"upload-{number}")
    clock.now += IDLE

    assert await sweep(store) == 1100


DAMAGED = {
    "empty": b"",
    "cut": b'{"id":',
    "no object": b"[]",
    "null": b"null",
    "a number": b"1",
    "no text": b"\xff\xfe",
    "nested": b"[" * 10_000,
    "too long": b" " * 20_000,
    "a field is missing": b'{"id": "x"}',
}


def changed(**fields: object) -> bytes:
    record = json.loads(UploadRecord(ID, REPOSITORY, (SHA256,), 0.0, 0.0).to_json())
    return json.dumps({**record, **fields}).encode()


DAMAGED |= {
    f"{name} is {value!r}": changed(**{name: value})
    for name, value in [
        ("id", "another"),
        ("id", 5),
        ("repository", None),
        ("repository", "../../etc"),
        ("repository", ""),
        ("algorithms", 5),
        ("algorithms", [5]),
        ("created", "now"),
        ("touched", None),
        ("hashed", "many"),
        ("hashed", 1.5),
        ("states", []),
        ("states", {"sha256": 5}),
        ("digest", 5),
        ("unknown", 1),
    ]
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED.keys())
async def test_a_damaged_record_is_logged_and_ends_its_session_alone(
    driver: RefusingDriver, store: UploadStore, text: bytes
) -> None:
    await begin(store)
    await begin(store, "sound")
    await driver.put(keys.upload_record(ID), text)

    with capture_logs() as logs, pytest.raises(Corrupt):
        await store.find(REPOSITORY, ID)
    assert damages(logs) == [keys.upload_record(ID)]

    assert await sweep(store) == 1
    assert await keys_below(driver, keys.UPLOADS) == [keys.upload_record("sound")]


async def test_a_record_that_may_not_be_read_is_passed_over_by_the_sweep(
    driver: RefusingDriver, store: UploadStore, clock: Clock
) -> None:
    await begin(store)
    await begin(store, "zzz")
    driver.refused = {keys.upload_record(ID)}
    await driver.discard(keys.upload_bytes(REPOSITORY, "zzz"))
    clock.now += IDLE

    with capture_logs() as logs:
        assert await sweep(store) == 1

    assert damages(logs) == [keys.upload_record(ID)]
    with pytest.raises(StorageRefused):
        await store.find(REPOSITORY, ID)


def test_a_record_reads_back_as_it_was_written() -> None:
    record = UploadRecord(ID, REPOSITORY, (SHA256, SHA512), 1.5, 2.25, 7, {SHA256: "AAAA"}, f"sha256:{'0' * 64}")

    assert UploadRecord.from_json(record.to_json()) == record


async def test_a_writer_tells_the_states_of_what_it_has_hashed(store: UploadStore) -> None:
    await begin(store, algorithms=(SHA256, SHA512))
    writer: UploadWriter = await store.write(REPOSITORY, ID)
    assert set(writer.states()) == {SHA256, SHA512}

    writer.hashes[1].update(b"not kept")

    assert set(writer.states()) == {SHA256}


class FailingDriver(RefusingDriver):
    """Has no space for records any more."""

    full = False

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        if self.full:
            raise StorageFull("no space left", key=key)
        return await super().put(key, body, durable=durable)


async def test_bytes_whose_record_could_not_be_saved_are_found_and_hashed_later(clock: Clock) -> None:
    driver = FailingDriver()
    store = UploadStore(driver, clock=clock)
    await begin(store)
    driver.full = True
    with pytest.raises(StorageFull):
        await add(store, b"some bytes")
    driver.full = False

    writer = await store.write(REPOSITORY, ID)

    assert (writer.size, await writer.digest(SHA256)) == (10, Digest.of(b"some bytes"))
