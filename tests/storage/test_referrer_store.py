"""Referrers of a subject are listed in pages, each once, and a damaged one is passed over alone."""

import pytest
from structlog.testing import capture_logs

from storage import keys
from storage.digest import SHA512, Digest
from storage.referrers import Referrer, ReferrerStore
from tests.stores import OTHER, REPOSITORY, RefusingDriver, damages

SUBJECT = Digest.of(b"subject")
SIGNATURE = "application/vnd.example.signature"


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> ReferrerStore:
    return ReferrerStore(driver)


def referrer(number: int, *, algorithm: str = "sha256") -> Referrer:
    digest = Digest.of(b"referrer %d" % number, algorithm)
    descriptor = {
        "digest": str(digest),
        "size": number,
        "artifactType": SIGNATURE,
        "annotations": {"n\u00fcmber": f"{number} \u2713"},
    }
    return Referrer(digest, SIGNATURE, descriptor)


async def listed(store: ReferrerStore, *, limit: int) -> list[Referrer]:
    found: list[Referrer] = []
    more = True
    while more:
        page, more = await store.list(REPOSITORY, SUBJECT, after=found[-1].digest if found else None, limit=limit)
        assert len(page) <= limit
        assert page or not more
        found += page
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_what_was_put_is_listed_once_and_unchanged_in_the_order_of_digests(
    store: ReferrerStore, limit: int
) -> None:
    put = [referrer(number) for number in range(5)] + [referrer(9, algorithm=SHA512)]
    for each in (*put, put[0]):
        await store.put(REPOSITORY, SUBJECT, each)

    found = await listed(store, limit=limit)

    assert found == sorted(put, key=lambda each: (each.digest.algorithm, each.digest.hex))


async def test_referrers_belong_to_one_subject_of_one_repository(store: ReferrerStore) -> None:
    await store.put(REPOSITORY, SUBJECT, referrer(1))

    assert await store.list(OTHER, SUBJECT, limit=10) == ([], False)
    assert await store.list(REPOSITORY, Digest.of(b"other"), limit=10) == ([], False)
    assert await store.list(REPOSITORY, Digest.of(b"subject", SHA512), limit=10) == ([], False)


async def test_a_deleted_referrer_is_gone_and_deleting_it_again_is_fine(store: ReferrerStore) -> None:
    await store.put(REPOSITORY, SUBJECT, referrer(1))
    await store.put(REPOSITORY, SUBJECT, referrer(2))

    await store.delete(REPOSITORY, SUBJECT, referrer(1).digest)
    await store.delete(REPOSITORY, SUBJECT, referrer(1).digest)

    assert await listed(store, limit=10) == [referrer(2)]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"{}", b'{"digest":"sha256:0"}'])
@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_damaged_entries_are_logged_and_passed_over_however_many_stand_together(
    driver: RefusingDriver, store: ReferrerStore, text: bytes, limit: int
) -> None:
    put = sorted((referrer(number) for number in range(8)), key=lambda each: each.digest.hex)
    for each in put:
        await store.put(REPOSITORY, SUBJECT, each)
    damaged = [keys.referrer(REPOSITORY, SUBJECT, each.digest) for each in put[2:7]]
    for key in damaged:
        await driver.put(key, text)

    with capture_logs() as logs:
        found = await listed(store, limit=limit)

    assert found == [put[0], put[1], put[7]]
    assert set(damages(logs)) == set(damaged)


async def test_entries_that_may_not_be_read_or_have_no_name_are_passed_over(
    driver: RefusingDriver, store: ReferrerStore
) -> None:
    for number in (1, 2):
        await store.put(REPOSITORY, SUBJECT, referrer(number))
    await driver.put(keys.referrers(REPOSITORY, SUBJECT) + "stray", b"{}")
    driver.refused = {keys.referrer(REPOSITORY, SUBJECT, referrer(1).digest)}

    assert await listed(store, limit=10) == [referrer(2)]
