"""An immutable tag stays where it was set, whatever is asked for, and what it points at stays with it."""

import pytest
from pydantic import ValidationError

from registry.errors import Denied, ManifestUnknown
from registry.histories import Target
from registry.immutability import Immutability
from registry.manifests import Changes
from registry.names import RepositoryName, Tag
from registry.tag_rules import ImmutableTags
from storage import keys
from storage.digest import Digest
from tests.registry.images import descriptor, encode, image, index
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services
from tests.stores import StepDriver, keys_below

V1 = Tag("v1")
FIRST, SECOND = image(), image(annotations={"a": "b"})
FIRST_DIGEST, SECOND_DIGEST = Digest.of(encode(FIRST)), Digest.of(encode(SECOND))
SIGNATURE = Tag(f"sha256-{FIRST_DIGEST.hex}.sig")


def rule(**fields: object) -> ImmutableTags:
    return ImmutableTags.model_validate({"repositories": ["team/**"], "tags": ["v*"], **fields})


@pytest.fixture
def services() -> Services:
    return Services(immutable=[rule(**{"except": ["*-dev"]})])


async def current(services: Services, tag: Tag) -> Digest | None:
    return await services.tag_store.current(REPOSITORY, tag)


async def test_an_immutable_tag_can_be_set_and_set_again_to_the_same_and_not_moved(services: Services) -> None:
    await services.push(FIRST, V1)
    await services.push(FIRST, V1)

    with pytest.raises(Denied) as refused:
        await services.push(SECOND, V1)

    assert await current(services, V1) == FIRST_DIGEST
    rule_text = "immutable rule 1 (team/** v* except *-dev)"
    assert refused.value.detail == {"rule": rule_text, "tag": "v1", "current": str(FIRST_DIGEST)}
    assert rule_text in refused.value.message
    assert str(FIRST_DIGEST) in refused.value.message
    with pytest.raises(ManifestUnknown):  # refused ahead of everything that would be stored
        await services.manifests.get(REPOSITORY, SECOND_DIGEST)


async def test_a_push_by_digest_with_tags_moves_none_that_is_immutable(services: Services) -> None:
    await services.push(FIRST, V1)

    with pytest.raises(Denied):
        await services.push(SECOND, SECOND_DIGEST, tags=[LATEST, V1])

    assert (await current(services, V1), await current(services, LATEST)) == (FIRST_DIGEST, None)


@pytest.mark.parametrize("tag", ["v1-dev", "latest", SIGNATURE, f"sha256-{FIRST_DIGEST.hex}"])
async def test_other_tags_move_as_ever_and_those_of_signatures_under_any_rule(tag: str) -> None:
    services = Services(immutable=[rule(tags=["v*", "sha*"], **{"except": ["*-dev"]})])
    await services.push(FIRST, Tag(tag))

    await services.push(SECOND, Tag(tag))
    assert await current(services, Tag(tag)) == SECOND_DIGEST
    await services.manifests.delete(REPOSITORY, Tag(tag))


async def test_what_only_looks_like_a_signature_is_none(services: Services) -> None:
    services = Services(immutable=[rule(tags=["*"])])
    tag = Tag(f"sha256-{FIRST_DIGEST.hex[:40]}.sig")
    await services.push(FIRST, tag)

    with pytest.raises(Denied):
        await services.push(SECOND, tag)


async def test_a_rule_holds_in_its_repositories_only(services: Services) -> None:
    elsewhere = RepositoryName("team-evil/app")
    await services.push(FIRST, V1, repository=elsewhere)

    await services.push(SECOND, V1, repository=elsewhere)

    assert await services.tag_store.get(elsewhere, V1) == SECOND_DIGEST


async def test_deleting_and_pushing_does_not_get_round_it(services: Services) -> None:
    await services.push(FIRST, V1)
    await services.push(FIRST, LATEST)
    changes = Changes()

    for reference in (V1, FIRST_DIGEST):
        with pytest.raises(Denied) as refused:
            await services.manifests.delete(REPOSITORY, reference, changes=changes)
        assert "immutable rule 1" in refused.value.message

    assert (changes.untagged, changes.deleted) == ([], None)
    assert (await current(services, V1), await current(services, LATEST)) == (FIRST_DIGEST, FIRST_DIGEST)
    assert await keys_below(services.driver, keys.removals(REPOSITORY)) == []


async def test_what_no_immutable_tag_needs_is_deleted_as_ever(services: Services) -> None:
    await services.push(FIRST, V1)
    await services.push(SECOND, LATEST)

    await services.manifests.delete(REPOSITORY, SECOND_DIGEST)

    assert await current(services, LATEST) is None
    with pytest.raises(ManifestUnknown):
        await services.manifests.delete(REPOSITORY, Tag("v2"))


async def test_the_images_of_an_immutable_index_stay_also_below_another_index(services: Services) -> None:
    await services.push(FIRST, FIRST_DIGEST)
    inner = index(encode(FIRST))
    await services.push(inner, Digest.of(encode(inner)))
    outer = {**index(), "manifests": [descriptor(encode(inner), str(inner["mediaType"]))]}
    await services.push(outer, V1)

    for digest in (FIRST_DIGEST, Digest.of(encode(inner))):
        with pytest.raises(Denied):
            await services.manifests.delete(REPOSITORY, digest)


async def test_the_operator_may_delete_by_force_and_then_it_can_be_pushed_anew(services: Services) -> None:
    await services.push(FIRST, V1)

    await services.manifests.delete(REPOSITORY, FIRST_DIGEST, force=True)
    await services.push(SECOND, V1)

    assert await current(services, V1) == SECOND_DIGEST


async def test_a_rollback_moves_no_immutable_tag_and_a_deleted_one_can_be_restored(services: Services) -> None:
    before = Services(services.driver, clock=services.clock)
    await before.push(FIRST, V1)
    await before.push(SECOND, V1)

    with pytest.raises(Denied):
        await services.histories.rollback(REPOSITORY, V1, Target(number=1), who="user:alice")
    assert await current(services, V1) == SECOND_DIGEST

    await services.manifests.delete(REPOSITORY, V1, force=True)
    await services.histories.restore(REPOSITORY, V1, who="user:alice")
    assert await current(services, V1) == SECOND_DIGEST


async def test_a_damaged_immutable_tag_is_mended_by_a_push_and_not_deleted(services: Services) -> None:
    await services.push(FIRST, V1)
    await services.driver.put(keys.tag_link(REPOSITORY, V1), b"")

    with pytest.raises(Denied) as refused:
        await services.manifests.delete(REPOSITORY, V1)
    await services.push(FIRST, V1)

    assert "current" not in dict(refused.value.detail or {})  # type: ignore[arg-type]
    assert await current(services, V1) == FIRST_DIGEST


async def test_of_two_first_pushes_at_once_the_second_is_refused_in_the_very_step() -> None:
    driver = StepDriver()
    ours, theirs = (Services(driver, immutable=[rule()]) for _ in range(2))

    async def overtake(method: str, key: str) -> None:
        if method == "create" and key == keys.tag_link(REPOSITORY, V1):
            driver.before_write = None
            await theirs.push(FIRST, V1)

    driver.before_write = overtake

    with pytest.raises(Denied):
        await ours.push(SECOND, V1)

    assert await current(ours, V1) == FIRST_DIGEST


async def test_a_tag_that_comes_while_it_is_deleted_is_not_deleted_after_all() -> None:
    driver = StepDriver()
    services = Services(driver, immutable=[rule()])

    async def overtake(_method: str, key: str) -> None:
        if key.startswith(keys.tag_removals(REPOSITORY, V1)):
            driver.before_write = None
            await services.push(FIRST, V1)

    driver.before_write = overtake

    with pytest.raises(Denied):
        await services.manifests.delete(REPOSITORY, V1)

    assert await current(services, V1) == FIRST_DIGEST


def test_without_a_rule_for_the_tag_nothing_is_asked() -> None:
    rules = Immutability([rule()])

    assert rules.on_set(REPOSITORY, LATEST, FIRST_DIGEST) is None
    assert rules.on_delete(OTHER, LATEST) is None
    assert rules.on_set("other/app", V1, FIRST_DIGEST) is None
    assert not rules.covers_any_of("other/app")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"repositories": ["Team/**"]}, "'T' stands in no repository's name"),
        ({"repositories": []}, "write \\*\\* for every repository"),
        ({"tags": ["v:1"]}, "matches no tag"),
        ({"except": ["["]}, "matches no tag"),
        ({"tag": ["v1"]}, "Extra inputs"),
    ],
)
def test_a_rule_that_can_match_nothing_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        rule(**fields)
