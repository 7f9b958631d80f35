"""Referrers are listed while their manifest is held, whatever has become of the subject."""

import json

import pytest

from registry.media_types import IMAGE, INDEX
from registry.names import Tag
from registry.referrers import PAGE, PAGE_BYTES_MAX
from storage.digest import SHA512, Digest
from tests.registry.images import CONFIG_TYPE, descriptor, encode, image, index
from tests.registry.services import OTHER, REPOSITORY, Services
from tests.stores import StepDriver

SUBJECT = Digest.of(b"subject")
NAMED = descriptor(b"subject", IMAGE)


@pytest.fixture
def services() -> Services:
    return Services(StepDriver())


async def listed(services: Services, subject: Digest = SUBJECT, *, types: tuple[str, ...] = ()) -> list[object]:
    """Return the digests of all pages."""
    found: list[object] = []
    after: Digest | None = None
    while True:
        page = await services.referrers.list(REPOSITORY, subject, artifact_types=types, after=after)
        assert (
            len(json.dumps(page.descriptors, ensure_ascii=False).encode()) <= PAGE_BYTES_MAX
            or len(page.descriptors) == 1
        )
        found += [each["digest"] for each in page.descriptors]
        after = page.after
        if after is None:
            return found


async def test_images_and_indexes_are_described_with_everything_that_was_said_of_them(services: Services) -> None:
    annotations = {"": "", "\u00fc": "\U0001f600 <script>"}
    first = image(subject=NAMED, annotations=annotations)
    second = index(subject=NAMED, artifactType="application/a")
    for number, document in enumerate((first, second)):
        await services.push(document, Tag(f"v{number}"))

    found = (await services.referrers.list(REPOSITORY, SUBJECT)).descriptors

    expected = [
        {**descriptor(encode(first), IMAGE), "annotations": annotations, "artifactType": CONFIG_TYPE},
        {**descriptor(encode(second), INDEX), "artifactType": "application/a"},
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)


async def test_an_index_without_an_artifact_type_has_none_in_the_list(services: Services) -> None:
    document = index(subject=NAMED)
    await services.push(document)

    found = (await services.referrers.list(REPOSITORY, SUBJECT)).descriptors

    assert found == [descriptor(encode(document), INDEX)]


async def test_a_referrer_pushed_under_sha512_is_listed_under_it(services: Services) -> None:
    document = image(subject=NAMED)
    digest = Digest.of(encode(document), SHA512)
    await services.push(document, digest)

    assert await listed(services) == [str(digest)]


async def test_a_filter_takes_any_of_its_types(services: Services) -> None:
    made = {kind: image(subject=NAMED, artifactType=f"application/{kind}") for kind in "abc"}
    for kind, document in made.items():
        await services.push(document, Tag(kind))

    def digests(kinds: str) -> set[str]:
        return {str(Digest.of(encode(made[kind]))) for kind in kinds}

    assert set(await listed(services)) == digests("abc")
    assert set(await listed(services, types=("application/a", "application/c"))) == digests("ac")
    assert await listed(services, types=("application/d",)) == []


async def test_a_deleted_referrer_is_gone_at_once_and_a_deleted_subject_changes_nothing(services: Services) -> None:
    subject = image()
    await services.push(subject)
    digest = Digest.of(encode(subject))
    referrer = image(subject=descriptor(encode(subject), IMAGE))
    await services.push(referrer, Tag("signature"))

    await services.manifests.delete(REPOSITORY, digest)
    assert await listed(services, digest) == [str(Digest.of(encode(referrer)))]

    await services.manifests.delete(REPOSITORY, Digest.of(encode(referrer)))
    assert await listed(services, digest) == []


async def test_referrers_of_another_repository_are_not_listed(services: Services) -> None:
    await services.push(image(subject=NAMED), repository=OTHER)

    assert await listed(services) == []


async def test_an_entry_whose_manifest_is_not_visible_yet_or_any_more_is_not_listed(services: Services) -> None:
    document = image(subject=NAMED)
    await services.push(document)
    await services.manifest_store.unlink(REPOSITORY, Digest.of(encode(document)))

    assert await listed(services) == []


async def test_pages_stay_below_the_size_of_a_manifest_and_give_each_referrer_once(services: Services) -> None:
    pushed = set()
    for number in range(9):
        document = image(subject=NAMED, annotations={"n": str(number), "padding": "\u00fc" * 500_000})
        await services.push(document)
        pushed.add(str(Digest.of(encode(document))))

    first = await services.referrers.list(REPOSITORY, SUBJECT)
    found = await listed(services)

    assert first.after is not None
    assert 1 <= len(first.descriptors) < 9
    assert set(found) == pushed
    assert len(found) == 9


async def test_one_referrer_that_is_larger_than_a_page_is_listed_alone(services: Services) -> None:
    await services.push(image(subject=NAMED, annotations={"padding": "x" * (PAGE_BYTES_MAX + 1)}), Tag("large"))
    await services.push(image(subject=NAMED), Tag("small"))

    assert len(set(await listed(services))) == 2


async def test_more_referrers_than_are_read_at_once_are_all_listed(services: Services) -> None:
    for number in range(PAGE + 5):
        await services.push(image(subject=NAMED, annotations={"n": str(number)}))

    assert len(set(await listed(services))) == PAGE + 5
