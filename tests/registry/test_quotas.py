"""A prefix holds no more than its quota, however many push at once, and what it holds already is never refused."""

import os
from collections.abc import AsyncIterator, Sequence

import pytest

from registry.errors import BlobUnknown, QuotaExceeded, UploadUnknown
from registry.histories import Target
from registry.names import RepositoryName, Tag
from registry.quota_rules import Limit, Quota, QuotaRules
from registry.uploads import Body
from storage import keys
from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services, body
from tests.stores import keys_below

ELSEWHERE = RepositoryName("another/app")
IMAGE = encode(image())
IMAGE_BYTES = len(CONFIG) + len(LAYER) + len(IMAGE)


@pytest.mark.parametrize(
    ("repository", "limits"),
    [
        ("team", [("team", 50)]),
        ("team/app", [("team", 50), ("team/app", 10)]),
        ("team/app/x", [("team", 50), ("team/app", 10)]),
        ("team/other", [("team", 50), ("team/other", 20)]),
        ("teams/app", [("teams", 100), ("teams/app", 30)]),
        ("b/app", [("b", 100), ("b/app", 30)]),
    ],
)
def test_a_prefix_has_the_quota_that_names_it_best(repository: str, limits: Sequence[tuple[str, int]]) -> None:
    quotas = {"*": 100, "team": 50, "team/*": 20, "*/app": 30, "team/app": 10}
    rules = QuotaRules([Quota(repositories=name, bytes=size) for name, size in quotas.items()])

    assert rules.of_repository(repository) == [Limit(prefix, size) for prefix, size in limits]


async def test_what_a_quota_does_not_cover_is_neither_counted_nor_looked_at() -> None:
    services = Services(quotas={"team": 1})

    await services.push(image(), repository=ELSEWHERE)

    assert await keys_below(services.driver, keys.USAGE) == []


async def test_blobs_and_manifests_of_all_repositories_below_count_once() -> None:
    services = Services(quotas={"team": 10_000})

    for repository in (REPOSITORY, OTHER, RepositoryName("team")):
        await services.push(image(), repository=repository)

    assert await services.used("team") == IMAGE_BYTES


async def test_a_blob_that_does_not_fit_is_refused_with_what_would_help() -> None:
    services = Services(quotas={"team": 3 << 20})
    await services.push_blob(os.urandom(2 << 20))

    with pytest.raises(QuotaExceeded) as raised:
        await services.push_blob(os.urandom((1 << 20) + 1))

    assert raised.value.message == (
        "quota of team: 2 MiB of 3 MiB used, 1 MiB left, 1 MiB or more needed: "
        "delete tags, whose space the garbage collector frees, or ask for a larger quota"
    )
    assert (raised.value.status, raised.value.code) == (403, "DENIED")
    assert await services.used("team") == 2 << 20


async def test_exactly_the_quota_fits() -> None:
    services = Services(quotas={"team": IMAGE_BYTES})

    await services.push(image())

    assert await services.used("team") == IMAGE_BYTES
    with pytest.raises(QuotaExceeded):
        await services.uploads.begin(REPOSITORY)


async def test_a_session_begins_only_where_something_is_left() -> None:
    services = Services(quotas={"team": 10})
    await services.push_blob(b"0123456789")

    for repository in (REPOSITORY, OTHER):
        with pytest.raises(QuotaExceeded, match="10 B of 10 B used"):
            await services.uploads.begin(repository)
    await services.uploads.begin(ELSEWHERE)


@pytest.mark.parametrize("pieces", [[b"x" * 11], [b"x" * 6, b"x" * 6]])
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_stream_is_stopped_where_it_passes_the_quota_and_its_session_ends(
    pieces: list[bytes], *, chunked: bool
) -> None:
    services = Services(quotas={"team": 10})
    upload = (await services.uploads.begin(REPOSITORY)).record.id

    with pytest.raises(QuotaExceeded, match="of team: 0 B of 10 B used"):
        await services.uploads.append(REPOSITORY, upload, body(*pieces, chunked=chunked))

    with pytest.raises(UploadUnknown):
        await services.uploads.get(REPOSITORY, upload)
    assert [found async for found in services.driver.sizes() if "_uploads" in found.key] == []


async def test_an_announced_length_that_does_not_fit_is_refused_before_a_byte_is_read() -> None:
    services = Services(quotas={"team": 10})
    upload = (await services.uploads.begin(REPOSITORY)).record.id

    read: list[bytes] = []

    async def batches() -> AsyncIterator[Sequence[bytes]]:
        read.append(b"x" * 11)
        yield read

    with pytest.raises(QuotaExceeded):
        await services.uploads.append(REPOSITORY, upload, Body(batches(), length=11))
    with pytest.raises(QuotaExceeded):
        await services.uploads.put(REPOSITORY, Digest.of(b"x"), Body(batches(), length=11))
    assert read == []


async def test_what_the_others_have_pushed_meanwhile_counts_at_the_commit() -> None:
    services = Services(quotas={"team": 10})
    upload = (await services.uploads.begin(REPOSITORY)).record.id
    await services.uploads.append(REPOSITORY, upload, body(b"123456"))
    await services.push_blob(b"abcdef", repository=OTHER)

    with pytest.raises(QuotaExceeded, match="6 B of 10 B used, 4 B left, 6 B or more needed"):
        await services.uploads.finish(REPOSITORY, upload, Digest.of(b"123456"), body())

    with pytest.raises(BlobUnknown):
        await services.blobs.stat(REPOSITORY, Digest.of(b"123456"))
    assert await services.used("team") == 6


async def test_a_mount_counts_and_is_refused_where_it_does_not_fit() -> None:
    services = Services(quotas={"team": 10})
    for content in (b"12345678", b"abcdefgh"):
        await services.push_blob(content, repository=ELSEWHERE)

    assert await services.uploads.mount(REPOSITORY, Digest.of(b"12345678"), ELSEWHERE)
    with pytest.raises(QuotaExceeded, match="8 B of 10 B used"):
        await services.uploads.mount(REPOSITORY, Digest.of(b"abcdefgh"), ELSEWHERE)

    assert await services.used("team") == 8
    assert not await services.blob_store.exists(REPOSITORY, Digest.of(b"abcdefgh"))


async def test_in_a_full_prefix_what_it_holds_can_be_mounted_and_tagged_again() -> None:
    services = Services(quotas={"team": IMAGE_BYTES})
    await services.push(image())
    await services.usage_sweep().sweep()

    assert await services.uploads.mount(OTHER, Digest.of(LAYER), REPOSITORY)
    assert await services.uploads.mount(OTHER, Digest.of(CONFIG), REPOSITORY)
    await services.manifests.put(OTHER, LATEST, IMAGE, media_type=None)
    await services.manifests.put(REPOSITORY, Tag("v2"), IMAGE, media_type=None)

    assert await services.used("team") == IMAGE_BYTES


async def test_whether_a_full_prefix_holds_a_blob_is_not_told_to_who_does_not_have_its_bytes() -> None:
    services = Services(quotas={"team": 10})
    await services.push_blob(b"0123456789", repository=OTHER)
    await services.usage_sweep().sweep()
    told = []

    for digest in (Digest.of(b"0123456789"), Digest.of(b"something else")):
        with pytest.raises(QuotaExceeded) as raised:
            await services.uploads.put(REPOSITORY, digest, body(b"guess"))
        told.append(raised.value.message)

    assert told[0] == told[1]


async def test_a_blob_that_the_prefix_holds_already_fits_in_any_case_once_its_bytes_are_there() -> None:
    services = Services(quotas={"team": 10})
    upload = (await services.uploads.begin(REPOSITORY)).record.id
    await services.uploads.append(REPOSITORY, upload, body(b"0123456789"))
    await services.push_blob(b"0123456789", repository=OTHER)
    await services.usage_sweep().sweep()

    await services.uploads.finish(REPOSITORY, upload, Digest.of(b"0123456789"), body(chunked=False))

    assert await services.used("team") == 10


async def test_where_the_quota_was_lowered_only_what_is_new_is_refused() -> None:
    before = Services(quotas={"team": 10_000})
    await before.push(image())
    await before.usage_sweep().sweep()
    services = Services(before.driver, quotas={"team": 10})

    await services.manifests.put(REPOSITORY, Tag("v2"), IMAGE, media_type=None)
    with pytest.raises(QuotaExceeded):
        await services.manifests.put(REPOSITORY, LATEST, encode(image(annotations={"a": "b"})), media_type=None)


async def test_a_manifest_that_does_not_fit_is_refused_and_moves_no_tag() -> None:
    services = Services(quotas={"team": IMAGE_BYTES + 10})
    pushed = await services.push(image())

    with pytest.raises(QuotaExceeded):
        await services.push(image(annotations={"a": "b" * 100}))

    assert (await services.manifests.get(REPOSITORY, LATEST)).digest == pushed.digest
    assert await services.used("team") == IMAGE_BYTES


async def test_the_narrower_of_two_quotas_holds_and_leaves_nothing_in_the_wider_one() -> None:
    services = Services(quotas={"team": 100, "team/app": 10})

    with pytest.raises(QuotaExceeded, match="quota of team/app"):
        await services.push_blob(b"x" * 11)
    await services.push_blob(b"x" * 11, repository=OTHER)

    assert await services.used("team") == 11
    assert await services.used("team/app") == 0


async def test_a_push_that_breaks_off_behind_its_reservation_counts_until_the_next_count() -> None:
    services = Services(quotas={"team": 100})
    await services.quotas.reserve(REPOSITORY, Digest.of(b"lost"), 60)

    with pytest.raises(QuotaExceeded):
        await services.push_blob(b"x" * 50)
    services.clock.now += 4000
    await services.usage_sweep().sweep()
    services.clock.now += 10

    await services.push_blob(b"x" * 50)
    assert await services.used("team") == 50


async def test_a_tag_goes_back_to_what_was_never_counted_though_the_quota_is_used_up_by_now() -> None:
    roomy = Services(quotas={"team": 1 << 20})
    for number in range(2):
        await roomy.push(image(annotations={"number": str(number)}))
    services = Services(roomy.driver, quotas={"team": 1})

    await services.histories.rollback(REPOSITORY, LATEST, Target(), who="user:alice")

    first = Digest.of(encode(image(annotations={"number": "0"})))
    assert await services.tag_store.get(REPOSITORY, LATEST) == first
    with pytest.raises(QuotaExceeded):
        await services.push(image(annotations={"number": "2"}))
