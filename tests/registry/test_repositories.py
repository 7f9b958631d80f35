"""A deleted repository is gone, with everything of it and nothing of others, wherever the deletion is cut off."""

import json

import pytest

from registry.errors import Denied, ManifestBlobUnknown, NameUnknown, Unsupported
from registry.names import RepositoryName, Tag
from registry.repositories import Deleted
from registry.tag_rules import ImmutableTags
from storage import keys
from storage.digest import SHA512, Digest
from storage.places import Kind, read_key
from tests.registry.images import CONFIG, LAYER, descriptor, encode, image, index
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services, body
from tests.stores import Clock, Power, StepDriver, keys_below

INSIDE = RepositoryName(f"{REPOSITORY}/inside")
IMAGE_DIGEST = Digest.of(encode(image()))
ARTIFACT = image(subject=descriptor(encode(image()), str(image()["mediaType"])))
UNNAMED = {name: value for name, value in image(annotations={"un": "named"}).items() if name != "mediaType"}
V1 = ImmutableTags.model_validate({"repositories": "team/**", "tags": "v*"})


async def filled(services: Services, repository: RepositoryName = REPOSITORY) -> None:
    """Push one of everything."""
    await services.push(image(), repository=repository)
    await services.push(image(), Digest.of(encode(image()), SHA512), tags=[Tag("sha512")], repository=repository)
    await services.push(index(encode(image())), Tag("v1"), repository=repository)
    await services.push(ARTIFACT, Digest.of(encode(ARTIFACT)), repository=repository)
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    await services.push(UNNAMED, Tag("unnamed"), repository=repository, media_type=kind)
    await services.uploads.put(repository, Digest.of(b"by sha512", SHA512), body(b"by sha512"))
    begun = await services.uploads.begin(repository)
    await services.uploads.append(repository, begun.record.id, body(b"half"))


def of(driver: StepDriver, repository: str) -> list[str]:
    """Every object that is a repository's, but for the notes of removals."""
    found = []
    for key, stored in driver._objects.items():
        place = read_key(key)
        is_upload = place.kind is Kind.UPLOAD_RECORD and json.loads(stored.body)["repository"] == repository
        is_source = place.kind is Kind.SOURCE and stored.body == repository.encode()
        is_ended = is_upload and json.loads(stored.body)["digest"] is not None
        if (
            (place.repository == repository or is_upload or is_source)
            and place.kind is not Kind.REMOVAL
            and not is_ended
        ):
            found.append(key)
    return found


def lies(driver: StepDriver) -> list[str]:
    """What leads nowhere: a tag without its manifest, a manifest without what it refers to."""
    there, found = driver._objects, []
    for key, stored in there.items():
        place = read_key(key)
        if place.kind is Kind.TAG:
            target = Digest.parse(stored.body.decode())
            if keys.revision_link(place.repository, target) not in there:
                found.append(f"{key} leads nowhere")
        if place.kind is Kind.REVISION:
            document = json.loads(there[keys.blob(Digest.parse(stored.body.decode()))].body)
            lists = [Digest.parse(each["digest"]) for each in document.get("manifests", ())]
            blobs = [*document.get("layers", ()), *filter(None, [document.get("config")])]
            needed = {keys.revision_link(place.repository, digest) for digest in lists}
            needed |= {keys.layer_link(place.repository, Digest.parse(each["digest"])) for each in blobs}
            found += [f"{key} lacks {each}" for each in needed - there.keys()]
    return found


@pytest.fixture
def driver() -> StepDriver:
    return StepDriver()


@pytest.fixture
def services(driver: StepDriver) -> Services:
    return Services(driver)


async def test_nothing_of_a_deleted_repository_is_left(driver: StepDriver, services: Services) -> None:
    await filled(services)
    await driver.put(keys.tag_link(REPOSITORY, "damaged"), b"")
    await driver.put(f"{keys.uploads(REPOSITORY)}0123/hashstates/sha256/0", b"of distribution")
    await driver.put(f"{keys.layers(REPOSITORY)}sha256/no-digest/link", b"by hand")
    before = of(driver, REPOSITORY)

    deleted = await services.repositories.delete(REPOSITORY)

    assert len(before) > 20
    assert of(driver, REPOSITORY) == []
    assert deleted == Deleted(tags=5, manifests=5, blobs=4, uploads=1, is_gone=True)
    assert await services.catalog.list(limit=10) == ([], False)
    with pytest.raises(NameUnknown):
        await services.tags.list(REPOSITORY, limit=10)


async def test_other_repositories_keep_what_they_share_also_those_inside(
    driver: StepDriver, services: Services
) -> None:
    for repository in (REPOSITORY, OTHER, INSIDE):
        await filled(services, repository)
    before = {name: of(driver, name) for name in (OTHER, INSIDE)}

    await services.repositories.delete(REPOSITORY)

    assert of(driver, REPOSITORY) == []
    assert {name: of(driver, name) for name in (OTHER, INSIDE)} == before
    assert await services.read_blob(Digest.of(LAYER), repository=INSIDE) == LAYER
    assert (await services.catalog.list(limit=10))[0] == [INSIDE, OTHER]
    assert lies(driver) == []


async def test_what_is_not_there_can_not_be_deleted(services: Services) -> None:
    await filled(services, INSIDE)

    with pytest.raises(NameUnknown):
        await services.repositories.delete(REPOSITORY)

    await services.repositories.delete(INSIDE)
    with pytest.raises(NameUnknown):
        await services.repositories.delete(INSIDE)


async def test_a_repository_that_holds_no_more_than_a_blob_or_an_upload_is_one(services: Services) -> None:
    await services.push_blob(LAYER)
    assert (await services.repositories.delete(REPOSITORY)).blobs == 1

    await services.uploads.begin(REPOSITORY)
    assert (await services.repositories.delete(REPOSITORY)).uploads == 1


async def test_an_immutable_tag_keeps_its_repository_unless_forced(driver: StepDriver) -> None:
    services = Services(driver, immutable=[V1])
    await filled(services)
    before = of(driver, REPOSITORY)

    with pytest.raises(Denied) as refused:
        await services.repositories.delete(REPOSITORY)

    assert dict(refused.value.detail or {})["tag"] == "v1"  # type: ignore[arg-type]
    assert of(driver, REPOSITORY) == before
    assert (await services.repositories.delete(REPOSITORY, force=True)).is_gone
    assert of(driver, REPOSITORY) == []


async def test_where_deletion_is_switched_off_only_the_operator_deletes(driver: StepDriver) -> None:
    services = Services(driver, delete=False)
    await services.push(image())

    with pytest.raises(Unsupported):
        await services.repositories.delete(REPOSITORY)

    assert (await services.repositories.delete(REPOSITORY, force=True)).is_gone


async def test_a_deletion_that_dies_at_any_write_leaves_no_lie_and_the_next_one_ends_it() -> None:
    steps = died = 0
    while True:
        driver, clock = StepDriver(), Clock()
        await filled(Services(driver, clock=clock))
        left = steps

        async def die(_method: str, _key: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Power

        driver.before_write = die
        try:
            await Services(driver, clock=clock).repositories.delete(REPOSITORY)
        except Power:
            died += 1
        driver.before_write = None
        assert lies(driver) == [], f"after {steps} writes"
        if died <= steps:
            break
        if not of(driver, REPOSITORY):
            steps += 1
            continue
        clock.now += 10
        assert (await Services(driver, clock=clock).repositories.delete(REPOSITORY)).is_gone, f"after {steps} writes"
        assert of(driver, REPOSITORY) == [], f"after {steps} writes"
        steps += 1

    assert died > 40


async def test_what_is_pushed_meanwhile_stays_with_everything_it_needs(driver: StepDriver, services: Services) -> None:
    await filled(services)
    other = Services(driver, clock=services.clock)
    late = image(annotations={"late": "yes"})

    async def push(method: str, key: str) -> None:
        # The blobs are there still, and so is the manifest that the new index lists.
        if method == "delete_version" and key.startswith(keys.tags(REPOSITORY)):
            driver.before_write = None
            await other.manifests.put(REPOSITORY, LATEST, encode(late), media_type=None)
            await other.manifests.put(REPOSITORY, Tag("late"), encode(index(encode(image()))), media_type=None)

    driver.before_write = push

    deleted = await services.repositories.delete(REPOSITORY)

    assert not deleted.is_gone
    assert (await services.tags.list(REPOSITORY, limit=10)).tags == ["late"]
    assert (await services.catalog.list(limit=10))[0] == [REPOSITORY]
    assert lies(driver) == []


async def test_a_push_that_comes_too_late_is_told_what_is_missing(driver: StepDriver, services: Services) -> None:
    await filled(services)
    other = Services(driver, clock=services.clock)

    await services.repositories.delete(REPOSITORY)

    with pytest.raises(ManifestBlobUnknown) as refused:
        await other.manifests.put(REPOSITORY, LATEST, encode(image()), media_type=None)
    assert set(refused.value.missing) == {str(Digest.of(content)) for content in (CONFIG, LAYER)}
    await other.push(image())
    assert (await services.catalog.list(limit=10))[0] == [REPOSITORY]


async def test_a_list_tells_what_each_repository_holds(services: Services) -> None:
    await filled(services)
    await services.push(image(), repository=OTHER)

    found = [(each.name, each.tags, each.manifests) async for each in services.repositories.list()]

    assert found == [(REPOSITORY, 4, 5), (OTHER, 1, 1)]


async def test_announcements_are_few(driver: StepDriver, services: Services) -> None:
    for number in range(30):
        await services.push(image(annotations={"n": str(number)}), Tag(f"t{number}"))

    await services.repositories.delete(REPOSITORY)

    folders = await keys_below(driver, keys.removals(REPOSITORY))
    assert len([key for key in folders if "/_tags/" not in key]) < 6
