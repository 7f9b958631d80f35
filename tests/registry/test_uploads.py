"""A session grows only at its end, has one writer, and what breaks off leaves what was promised."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from registry.errors import (
    DigestInvalid,
    RangeInvalid,
    SizeInvalid,
    TooLarge,
    TooManyRequests,
    UploadUnknown,
)
from registry.names import RepositoryName
from registry.uploads import Body, UploadLimits
from storage import keys
from storage.digest import SHA256, SHA512, Digest
from storage.errors import NotFound, StorageFull
from tests.registry.images import image
from tests.registry.services import OTHER, REPOSITORY, Services, body, broken
from tests.stores import Clock, StepDriver, keys_below

BODY = b"some bytes of a layer"
DIGEST = Digest.of(BODY)


class Vanished(Exception):
    """The client is gone."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(clock: Clock) -> Services:
    return Services(StepDriver(), clock=clock)


async def begin(services: Services) -> str:
    return (await services.uploads.begin(REPOSITORY)).record.id


async def size(services: Services, upload: str) -> int:
    return (await services.uploads.get(REPOSITORY, upload)).size


class Gate:
    """A body whose first piece is in, and whose second waits until the gate opens."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self.first_is_in = asyncio.Event()
        self.open = asyncio.Event()
        self.body = Body(self._batches(first, second))

    async def _batches(self, first: bytes, second: bytes) -> AsyncIterator[Sequence[bytes]]:
        yield [first]
        self.first_is_in.set()
        await self.open.wait()
        yield [second]


@pytest.mark.parametrize("algorithm", [SHA256, SHA512])
@pytest.mark.parametrize("hint", [SHA256, SHA512])
async def test_the_digest_decides_the_algorithm_whatever_was_announced(
    services: Services, algorithm: str, hint: str
) -> None:
    upload = (await services.uploads.begin(REPOSITORY, algorithm=hint)).record.id
    await services.uploads.append(REPOSITORY, upload, body(BODY[:5]))
    digest = Digest.of(BODY, algorithm)

    await services.uploads.finish(REPOSITORY, upload, digest, body(BODY[5:]))

    assert await services.read_blob(digest) == BODY


@pytest.mark.parametrize("start", [None, 0])
async def test_a_stream_that_breaks_off_keeps_its_bytes_and_a_chunk_takes_them_back(
    services: Services, start: int | None
) -> None:
    upload = await begin(services)

    with pytest.raises(Vanished):
        await services.uploads.append(
            REPOSITORY,
            upload,
            broken(BODY[:5], BODY[5:9], error=Vanished(), start=start, length=None if start is None else len(BODY)),
        )
    kept = 9 if start is None else 0
    assert await size(services, upload) == kept

    await services.uploads.append(REPOSITORY, upload, body(BODY[kept:], start=kept))
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body())
    assert await services.read_blob(DIGEST) == BODY


async def test_a_last_request_that_breaks_off_can_be_sent_again(services: Services) -> None:
    upload = await begin(services)
    await services.uploads.append(REPOSITORY, upload, body(BODY[:5]))

    with pytest.raises(Vanished):
        await services.uploads.finish(REPOSITORY, upload, DIGEST, broken(BODY[5:9], error=Vanished()))
    assert await size(services, upload) == 9

    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY[9:]))
    assert await services.read_blob(DIGEST) == BODY


async def test_a_request_that_is_cancelled_keeps_what_has_come_and_leaves_no_lock(services: Services) -> None:
    upload = await begin(services)
    gate = Gate(BODY[:5], b"never")
    request = asyncio.create_task(services.uploads.append(REPOSITORY, upload, gate.body))
    await gate.first_is_in.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request

    assert await size(services, upload) == 5
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY[5:]))
    assert await services.read_blob(DIGEST) == BODY


async def test_a_session_is_taken_up_by_another_worker_at_any_byte(services: Services) -> None:
    upload = await begin(services)
    for place, byte in enumerate(BODY):
        worker = Services(services.driver)
        assert await size(worker, upload) == place
        await worker.uploads.append(REPOSITORY, upload, body(bytes([byte])))

    await Services(services.driver).uploads.finish(REPOSITORY, upload, DIGEST, body())

    assert await services.read_blob(DIGEST) == BODY


async def test_a_second_writer_is_told_the_true_offset_and_its_bytes_are_not_mixed_in(services: Services) -> None:
    upload, worker = await begin(services), Services(services.driver)
    gate = Gate(BODY[:5], BODY[5:])
    first = asyncio.create_task(services.uploads.append(REPOSITORY, upload, gate.body))
    await gate.first_is_in.wait()

    with pytest.raises(RangeInvalid) as appended:
        await worker.uploads.append(REPOSITORY, upload, body(b"XXXX"))
    with pytest.raises(RangeInvalid) as finished:
        await worker.uploads.finish(REPOSITORY, upload, DIGEST, body())
    gate.open.set()
    await first

    assert (appended.value.size, finished.value.size, appended.value.status) == (5, 5, 416)
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body())
    assert await services.read_blob(DIGEST) == BODY


async def test_a_cancel_wins_over_a_request_that_is_adding_at_its_next_write(services: Services) -> None:
    upload = await begin(services)
    gate = Gate(BODY[:5], BODY[5:])
    adding = asyncio.create_task(services.uploads.append(REPOSITORY, upload, gate.body))
    await gate.first_is_in.wait()

    await Services(services.driver).uploads.cancel(REPOSITORY, upload)
    gate.open.set()

    with pytest.raises(UploadUnknown, match="cancelled"):
        await adding
    with pytest.raises(UploadUnknown):
        await services.uploads.get(REPOSITORY, upload)
    assert await keys_below(services.driver, "") == []


async def test_two_finishes_at_once_evaluate_one_digest(services: Services) -> None:
    upload, wrong = await begin(services), Digest.of(b"wrong")
    await services.uploads.append(REPOSITORY, upload, body(BODY))

    results = await asyncio.gather(
        services.uploads.finish(REPOSITORY, upload, DIGEST, body()),
        services.uploads.finish(REPOSITORY, upload, wrong, body()),
        return_exceptions=True,
    )

    assert results[0] is None
    assert isinstance(results[1], RangeInvalid | UploadUnknown)
    assert await services.read_blob(DIGEST) == BODY


async def test_the_same_blob_from_many_at_once_is_taken_from_all(services: Services) -> None:
    names = [RepositoryName(f"team/app-{number}") for number in range(8)]

    await asyncio.gather(*(services.push_blob(BODY, repository=name) for name in names))

    for name in names:
        assert await services.read_blob(DIGEST, repository=name) == BODY


async def test_a_finish_whose_answer_was_lost_can_be_repeated_with_the_same_digest_only(services: Services) -> None:
    upload = await begin(services)
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY))

    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY))

    with pytest.raises(UploadUnknown):
        await services.uploads.finish(REPOSITORY, upload, Digest.of(b"other"), body())
    with pytest.raises(UploadUnknown):
        await services.uploads.finish(OTHER, upload, DIGEST, body())


async def test_a_finish_is_not_repeated_as_done_once_the_blob_was_deleted(services: Services) -> None:
    upload = await begin(services)
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY))
    await services.blobs.delete(REPOSITORY, DIGEST)

    with pytest.raises(UploadUnknown):
        await services.uploads.finish(REPOSITORY, upload, DIGEST, body())


async def test_a_wrong_digest_ends_the_session_and_stores_nothing(services: Services) -> None:
    upload = await begin(services)
    await services.uploads.append(REPOSITORY, upload, body(BODY))

    with pytest.raises(DigestInvalid, match=str(DIGEST)):
        await services.uploads.finish(REPOSITORY, upload, Digest.of(b"other"), body())

    with pytest.raises(UploadUnknown):
        await services.uploads.get(REPOSITORY, upload)
    assert await keys_below(services.driver, "") == []


@pytest.mark.parametrize(("start", "length"), [(1, 5), (4, 5), (6, 5), (10**18, 5)])
async def test_a_chunk_for_another_place_is_refused_before_a_byte_is_read(
    services: Services, start: int, length: int
) -> None:
    upload = await begin(services)
    await services.uploads.append(REPOSITORY, upload, body(BODY[:5]))

    with pytest.raises(RangeInvalid) as refused:
        await services.uploads.append(REPOSITORY, upload, broken(error=Vanished(), start=start, length=length))

    assert refused.value.size == await size(services, upload) == 5


@pytest.mark.parametrize("length", [1, 4, 6, 100])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_chunk_of_another_length_than_its_range_is_taken_back(
    services: Services, length: int, chunked: bool
) -> None:
    upload = await begin(services)
    await services.uploads.append(REPOSITORY, upload, body(BODY[:5]))

    for request in (
        services.uploads.append(REPOSITORY, upload, body(b"123", b"45", start=5, length=length, chunked=chunked)),
        services.uploads.finish(
            REPOSITORY, upload, DIGEST, body(b"123", b"45", start=5, length=length, chunked=chunked)
        ),
    ):
        with pytest.raises(SizeInvalid):
            await request
        assert await size(services, upload) == 5

    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY[5:], start=5))
    assert await services.read_blob(DIGEST) == BODY


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_blob_over_the_limit_is_refused_and_its_last_bytes_taken_back(clock: Clock, chunked: bool) -> None:
    services = Services(clock=clock, limits=UploadLimits(10, blob_bytes_max=10))
    upload = await begin(services)
    await services.uploads.append(REPOSITORY, upload, body(b"x" * 10, chunked=chunked))

    for request in (
        services.uploads.append(REPOSITORY, upload, body(b"y", chunked=chunked)),
        services.uploads.finish(REPOSITORY, upload, Digest.of(b"x" * 10 + b"y"), body(b"y", chunked=chunked)),
        services.uploads.put(REPOSITORY, Digest.of(b"y" * 11), body(b"y" * 11, chunked=chunked)),
    ):
        with pytest.raises(TooLarge, match="at most 10 bytes"):
            await request

    assert await size(services, upload) == 10
    await services.uploads.finish(REPOSITORY, upload, Digest.of(b"x" * 10), body())


async def test_a_whole_blob_that_fails_leaves_no_session_behind(services: Services) -> None:
    for request in (
        services.uploads.put(REPOSITORY, Digest.of(b"other"), body(BODY)),
        services.uploads.put(REPOSITORY, DIGEST, broken(BODY, error=Vanished())),
    ):
        with pytest.raises((DigestInvalid, Vanished)):
            await request

    assert await keys_below(services.driver, "") == []


async def test_more_bodies_than_the_limit_are_told_to_come_back_and_the_place_is_free_again(clock: Clock) -> None:
    services = Services(clock=clock, limits=UploadLimits(1))
    first, second = await begin(services), await begin(services)
    gate = Gate(BODY[:5], BODY[5:])
    receiving = asyncio.create_task(services.uploads.append(REPOSITORY, first, gate.body))
    await gate.first_is_in.wait()

    for request in (
        services.uploads.append(REPOSITORY, second, broken(error=Vanished())),
        services.uploads.finish(REPOSITORY, second, DIGEST, broken(error=Vanished())),
        services.uploads.put(REPOSITORY, DIGEST, broken(error=Vanished())),
    ):
        with pytest.raises(TooManyRequests) as refused:
            await request
        assert ("retry-after", "1") in refused.value.headers
    # What receives nothing needs no place.
    await services.uploads.finish(REPOSITORY, second, Digest.of(b""), body(chunked=False))
    gate.open.set()
    await receiving

    await services.uploads.finish(REPOSITORY, first, DIGEST, body(b""))
    assert await services.read_blob(DIGEST) == BODY


async def test_a_full_disk_is_told_and_the_session_goes_on_when_there_is_space(services: Services) -> None:
    driver = services.driver
    assert isinstance(driver, StepDriver)
    upload = await begin(services)

    async def full(_method: str, key: str) -> None:
        raise StorageFull("no space left on device", key=key)

    driver.before_write = full
    with pytest.raises(StorageFull):
        await services.uploads.append(REPOSITORY, upload, body(BODY[:5]))
    driver.before_write = None

    kept = await size(services, upload)
    await services.uploads.finish(REPOSITORY, upload, DIGEST, body(BODY[kept:]))
    assert await services.read_blob(DIGEST) == BODY


async def test_an_expired_session_is_unknown(services: Services, clock: Clock) -> None:
    upload = await begin(services)
    clock.now += 2e9  # beyond the clock that the driver dates its bytes by

    assert await services.uploads.expire() == 1

    with pytest.raises(UploadUnknown):
        await services.uploads.append(REPOSITORY, upload, body(BODY))


async def test_a_mount_without_a_source_finds_the_blob_wherever_it_is(services: Services) -> None:
    digest = await services.push_blob(BODY, repository=OTHER)

    assert await services.uploads.mount(REPOSITORY, digest, None)
    assert await services.read_blob(digest) == BODY


async def test_a_mount_without_a_source_looks_through_the_catalog_when_the_hint_is_out_of_date(
    services: Services,
) -> None:
    third = RepositoryName("team/third")
    digest = await services.push_blob(BODY, repository=OTHER)
    await services.push(image(), repository=third)
    await services.push_blob(BODY, repository=third)
    await services.blobs.delete(OTHER, digest)

    assert await services.uploads.mount(REPOSITORY, digest, None)
    assert await services.blob_store.source(digest) == third


@pytest.mark.parametrize("hint", [b"", b"../../etc", b"Team/App", b"a//b", b"\xff"])
async def test_a_mount_survives_a_damaged_hint(services: Services, hint: bytes) -> None:
    digest = await services.push_blob(BODY, repository=OTHER)
    await services.driver.put(keys.blob_source(digest), hint)

    assert not await services.uploads.mount(REPOSITORY, digest, None)
    await services.push(image(), repository=OTHER)
    assert await services.uploads.mount(REPOSITORY, digest, None)


@pytest.mark.parametrize("source", [OTHER, RepositoryName("no/such"), None])
async def test_a_mount_of_what_is_not_there_grants_nothing(services: Services, source: RepositoryName | None) -> None:
    await services.push(image(), repository=OTHER)

    assert not await services.uploads.mount(REPOSITORY, DIGEST, source)
    with pytest.raises(NotFound):
        await services.blob_store.stat(REPOSITORY, DIGEST)


async def test_a_mount_from_the_repository_itself_is_a_question_whether_it_is_there(services: Services) -> None:
    assert not await services.uploads.mount(REPOSITORY, DIGEST, REPOSITORY)
    await services.push_blob(BODY)
    assert await services.uploads.mount(REPOSITORY, DIGEST, REPOSITORY)
