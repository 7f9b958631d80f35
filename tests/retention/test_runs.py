"""What becomes of a store: nothing is dropped before its plan could be seen, and nothing that anything needs."""

import json

import pytest

from registry.audit.events import EventKind
from registry.errors import ManifestUnknown
from registry.names import Tag
from registry.retention.plans import HistoryWindow
from registry.tag_rules import ImmutableTags
from storage import keys
from storage.digest import Digest
from storage.errors import StorageUnavailable
from storage.memory import MemoryDriver
from storage.timelines import Why
from tests.registry.images import descriptor, encode, image, index
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services
from tests.retention.keeping import DAY, HOUR, Keeping, rule
from tests.stores import Clock, body_at, keys_below


@pytest.fixture
def clock() -> Clock:
    return Clock(1_700_000_000.0)


@pytest.fixture
def services(clock: Clock) -> Services:
    return Services(MemoryDriver(clock=clock), clock=clock)


def numbered(number: int) -> dict[str, object]:
    return image(annotations={"number": str(number)})


async def push_days(services: Services, *tags: str) -> dict[str, Digest]:
    """Push an image of its own under each tag, one each day."""
    found = {}
    for number, tag in enumerate(tags):
        found[tag] = (await services.push(numbered(number), Tag(tag))).digest
        services.clock.now += DAY
    return found


async def tags(services: Services) -> list[str]:
    return list((await services.tag_store.list(REPOSITORY, limit=100)).tags)


async def manifests(services: Services) -> set[Digest]:
    return set(await services.manifest_store.list(REPOSITORY, limit=1000))


async def test_the_first_run_only_plans_and_a_later_one_drops(services: Services) -> None:
    await push_days(services, "a", "b", "c")
    keeping = Keeping(services, rule(keep_last=1))

    dropped = [await keeping.retention.sweep()]
    services.clock.now += DAY - 1
    dropped.append(await keeping.retention.sweep())
    planned = (await keeping.retention.state()).last
    assert await tags(services) == ["a", "b", "c"]
    services.clock.now += 2
    dropped.append(await keeping.retention.sweep())

    assert dropped == [0, 0, 2]
    assert (planned["carried_out"], planned["dropped_tags"], planned["kept_tags"]) == (False, 2, 1)
    assert await tags(services) == ["c"]
    last = (await keeping.retention.state()).last
    assert (last["carried_out"], last["dropped_tags"]) == (True, 2)


async def test_rules_that_change_have_to_be_seen_anew(services: Services) -> None:
    await push_days(services, "a", "b", "c")
    await Keeping(services, rule(keep_last=2)).retention.sweep()
    services.clock.now += 2 * DAY

    assert await Keeping(services, rule(keep_last=1)).retention.sweep() == 0
    assert await Keeping(services, rule(keep_last=2)).retention.sweep() == 0  # changed back is changed
    assert len(await tags(services)) == 3
    assert await Keeping(services).retention.sweep() == 0
    services.clock.now += 2 * DAY
    assert await Keeping(services, rule(keep_last=2)).retention.sweep() == 0
    assert len(await tags(services)) == 3


async def test_the_operator_who_has_seen_the_plan_need_not_wait(services: Services) -> None:
    await push_days(services, "a", "b")
    keeping = Keeping(services, rule(keep_last=1))
    [plan] = [plan async for plan in keeping.retention.plans(await keeping.retention.state())]

    outcome = await keeping.retention.run_now()

    assert [verdict.image.tag for verdict in plan.dropped_tags] == ["a"]
    assert (outcome.dropped_tags, outcome.kept_tags) == (1, 1)
    assert await tags(services) == ["b"]


async def test_a_dropped_tag_is_told_with_its_rule_to_history_and_audit_trail(services: Services) -> None:
    pushed = await push_days(services, "a", "b")
    keeping = Keeping(services, rule(keep_last=1))

    await keeping.retention.run_now()

    newest = (await services.history.entries(REPOSITORY, "a"))[0]
    assert (newest.old, newest.new, newest.cause.who, newest.cause.why) == (
        pushed["a"],
        None,
        "retention",
        Why.RETENTION,
    )
    [event] = keeping.events
    assert (event.kind, event.actor, event.reference, event.old) == (
        EventKind.TAG_DELETED,
        "retention",
        "a",
        str(pushed["a"]),
    )
    assert event.detail == {"rule": "retention rule 1 (** *)"}


async def test_a_tag_that_has_moved_since_the_plan_stays(services: Services) -> None:
    await push_days(services, "a", "b")
    keeping = Keeping(services, rule(keep_last=1))
    [plan] = [plan async for plan in keeping.retention.plans(await keeping.retention.state())]
    await services.push(numbered(7), Tag("a"))

    assert await keeping.retention._carry_out(plan) == (0, 0)

    assert await tags(services) == ["a", "b"]


async def test_the_time_of_a_tag_is_that_of_its_last_change_and_not_of_a_push_of_the_same(services: Services) -> None:
    await push_days(services, "a", "b")
    await services.push(numbered(0), Tag("a"))  # nothing changes
    keeping = Keeping(services, rule(keep_last=1))

    await keeping.retention.run_now()

    assert await tags(services) == ["b"]


async def test_a_tag_without_a_history_is_as_old_as_its_link(services: Services) -> None:
    await push_days(services, "a", "b")
    for key in await keys_below(services.driver, keys.histories(REPOSITORY)):
        await services.driver.delete(key)
    keeping = Keeping(services, rule(keep_newer_than="36h"))

    await keeping.retention.run_now()

    assert await tags(services) == ["b"]


async def test_an_immutable_tag_is_dropped_only_by_a_rule_that_says_so(services: Services, clock: Clock) -> None:
    immutable = [ImmutableTags.model_validate({"repositories": "**", "tags": "v*"})]
    guarded = Services(services.driver, clock=clock, immutable=immutable)
    await push_days(guarded, "v1", "x", "v2")

    await Keeping(guarded, rule(keep_last=0), immutable=immutable).retention.run_now()
    assert await tags(services) == ["v1", "v2"]
    # Also if it is immutable only for whoever drops it.
    await Keeping(guarded, rule(keep_last=0)).retention.run_now()
    assert await tags(services) == ["v1", "v2"]
    await Keeping(guarded, rule(keep_last=1, immutable=True), immutable=immutable).retention.run_now()
    assert await tags(services) == ["v2"]


async def test_a_label_of_the_image_says_how_long_it_lasts(services: Services) -> None:
    config = json.dumps({"config": {"Labels": {"expires-after": "12h"}}}).encode()
    await services.push_blob(config)
    await services.push(image(config=config), Tag("labelled"))
    await services.push(image(annotations={"expires-after": "3d"}), Tag("annotated"))
    await services.push(image(), Tag("plain"))
    services.clock.now += DAY
    keeping = Keeping(services, rule(expires_label="expires-after"))

    await keeping.retention.run_now()

    assert await tags(services) == ["annotated", "plain"]


async def test_other_repositories_are_left_alone(services: Services) -> None:
    await services.push(image(), repository=OTHER)
    await push_days(services, "a")
    keeping = Keeping(services, rule(repositories=["team/app"], keep_last=0, untagged_after=0))

    outcome = await keeping.retention.run_now()

    assert outcome.repositories == 1
    assert await services.tag_store.current(OTHER, LATEST) is not None


async def test_a_plan_shows_also_the_tags_that_no_rule_covers_if_asked_for(services: Services) -> None:
    await push_days(services, "a", "latest")
    keeping = Keeping(services, rule(tags="a", keep_last=0))
    state = await keeping.retention.state()

    [few] = [plan async for plan in keeping.retention.plans(state)]
    [all_of_them] = [plan async for plan in keeping.retention.plans(state, uncovered=True)]

    assert [(each.image.tag, each.is_kept) for each in few.tags] == [("a", False)]
    told = [(each.image.tag, each.is_kept, each.rule, each.why) for each in all_of_them.tags]
    assert told[1:] == [("latest", True, "", "no rule covers it")]


# Manifests without a tag


async def test_manifests_without_a_tag_go_after_a_while_and_only_those(services: Services) -> None:
    pushed = await push_days(services, "a", "b")
    await services.push(numbered(9), Tag("a"))  # what a was is without a tag from now on
    keeping = Keeping(services, rule(untagged_after="7d"))

    services.clock.now += 6 * DAY
    assert (await keeping.retention.run_now()).dropped_manifests == 0
    services.clock.now += 2 * DAY
    outcome = await keeping.retention.run_now()

    assert (outcome.dropped_manifests, outcome.kept_untagged) == (1, 0)
    assert await manifests(services) == {pushed["b"], Digest.of(encode(numbered(9)))}
    assert [(event.kind, event.reference) for event in keeping.events] == [
        (EventKind.MANIFEST_DELETED, str(pushed["a"]))
    ]


async def test_what_an_index_a_subject_or_a_referrer_needs_stays(services: Services) -> None:
    child, subject, lone = numbered(1), numbered(2), numbered(3)
    for each in (child, subject, lone):
        await services.push(each, Digest.of(encode(each)))
    inner = index(encode(child))
    await services.push(inner, Digest.of(encode(inner)))
    outer = {**index(), "manifests": [descriptor(encode(inner), str(inner["mediaType"]))]}
    await services.push(outer, Tag("index"))
    artifact = image(subject=descriptor(encode(subject), str(subject["mediaType"])))
    await services.push(artifact, Tag("artifact"))
    signature = image(annotations={"of": "child"}, subject=descriptor(encode(child), str(child["mediaType"])))
    await services.push(signature, Digest.of(encode(signature)))
    services.clock.now += 100 * DAY
    keeping = Keeping(services, rule(untagged_after=0))

    await keeping.retention.run_now()

    kept = {Digest.of(encode(each)) for each in (child, subject, inner, outer, artifact, signature)}
    assert await manifests(services) == kept


async def test_referrers_go_with_their_subject_and_an_index_with_what_it_lists(services: Services) -> None:
    child = numbered(1)
    await services.push(child, Digest.of(encode(child)))
    await services.push(index(encode(child)), Digest.of(encode(index(encode(child)))))
    signature = image(subject=descriptor(encode(child), str(child["mediaType"])))
    await services.push(signature, Digest.of(encode(signature)))
    services.clock.now += 100 * DAY

    outcome = await Keeping(services, rule(untagged_after="1h")).retention.run_now()

    assert outcome.dropped_manifests == 3
    assert await manifests(services) == set()
    assert await keys_below(services.driver, keys.subjects(REPOSITORY)) == []


async def test_what_is_young_keeps_what_it_needs(services: Services) -> None:
    child = numbered(1)
    await services.push(child, Digest.of(encode(child)))
    services.clock.now += 100 * DAY
    await services.push(index(encode(child)), Digest.of(encode(index(encode(child)))))

    assert (await Keeping(services, rule(untagged_after="1h")).retention.run_now()).dropped_manifests == 0


async def test_what_the_history_keeps_can_still_be_rolled_back_to(services: Services) -> None:
    pushed = await push_days(services, "a", "a", "a")
    before = await manifests(services)
    services.clock.now += 30 * DAY

    await Keeping(
        services, rule(untagged_after=0), window=HistoryWindow(keep_seconds=60 * DAY, keep_last=1)
    ).retention.run_now()
    assert await manifests(services) == before
    await Keeping(
        services, rule(untagged_after=0), window=HistoryWindow(keep_seconds=DAY, keep_last=1)
    ).retention.run_now()
    assert len(await manifests(services)) == 2
    await Keeping(
        services, rule(untagged_after=0), window=HistoryWindow(keep_seconds=DAY, keep_last=0)
    ).retention.run_now()

    assert await manifests(services) == {pushed["a"]}


async def test_a_manifest_or_tag_that_can_not_be_read_keeps_all_manifests(services: Services) -> None:
    await push_days(services, "a", "a")
    services.clock.now += 30 * DAY
    keeping = Keeping(services, rule(untagged_after=0))
    await services.driver.put(keys.tag_link(REPOSITORY, "broken"), b"?")

    outcome = await keeping.retention.run_now()
    await services.driver.delete(keys.tag_link(REPOSITORY, "broken"))
    body_key = keys.blob(Digest.of(encode(numbered(0))))
    whole = await body_at(services.driver, body_key)
    await services.driver.put(body_key, b"rotten")
    outcome_too = await keeping.retention.run_now()

    assert outcome.dropped_manifests == outcome_too.dropped_manifests == 0
    assert "broken" in outcome.problems[0]
    assert str(Digest.of(encode(numbered(0)))) in outcome_too.problems[0]
    await services.driver.put(body_key, whole)
    assert (await keeping.retention.run_now()).dropped_manifests == 1


async def test_a_tag_that_comes_between_plan_and_deed_keeps_its_manifest(services: Services) -> None:
    pushed = await push_days(services, "a", "b")
    await services.manifests.delete(REPOSITORY, Tag("a"))
    services.clock.now += 30 * DAY
    keeping = Keeping(services, rule(untagged_after=0))
    [plan] = [plan async for plan in keeping.retention.plans(await keeping.retention.state())]
    assert [each.digest for each in plan.dropped_manifests] == [pushed["a"]]
    await services.push(numbered(0), Tag("again"))

    assert await keeping.retention._carry_out(plan) == (0, 0)

    with pytest.raises(ManifestUnknown):
        await services.manifests.get(REPOSITORY, Tag("a"))
    assert (await services.manifests.get(REPOSITORY, Tag("again"))).digest == pushed["a"]


# Pulls


async def test_what_is_pulled_by_tag_or_by_digest_is_kept_and_a_look_counts_for_nothing(services: Services) -> None:
    pushed = await push_days(services, "tag", "digest", "never")
    keeping = Keeping(services, rule(keep_pulled_within="10d"))
    await keeping.retention.sweep()
    services.clock.now += 15 * DAY
    keeping.pulls.note(REPOSITORY, "tag")
    keeping.pulls.note(REPOSITORY, str(pushed["digest"]))
    await keeping.pulls.flush()
    services.clock.now += HOUR

    await keeping.retention.sweep()

    assert await tags(services) == ["digest", "tag"]
    services.clock.now += 11 * DAY
    await keeping.retention.sweep()
    assert await tags(services) == []


async def test_what_may_have_been_pulled_before_anybody_counted_is_kept(services: Services) -> None:
    await push_days(services, "a")
    services.clock.now += 300 * DAY
    keeping = Keeping(services, rule(keep_pulled_within="10d"), delay_seconds=0)

    await keeping.retention.sweep()
    services.clock.now += 9 * DAY
    await keeping.retention.sweep()
    assert await tags(services) == ["a"]
    services.clock.now += 2 * DAY
    await keeping.retention.sweep()

    assert await tags(services) == []


async def test_records_of_several_workers_count_together_and_are_merged(services: Services) -> None:
    await push_days(services, "a", "b")
    first, second = (Keeping(services, rule(keep_pulled_within="1d"), delay_seconds=0) for _ in range(2))
    await first.retention.sweep()
    services.clock.now += 3 * DAY
    for keeping, tag in ((first, "a"), (second, "b"), (second, "gone")):
        keeping.pulls.note(REPOSITORY, tag)
        await keeping.pulls.flush()

    await first.retention.sweep()

    assert await tags(services) == ["a", "b"]
    assert len(await keys_below(services.driver, keys.pulls(REPOSITORY))) == 1
    assert set(await first.pull_store.read(REPOSITORY)) == {"a", "b"}


async def test_a_damaged_record_of_pulls_does_no_harm(services: Services) -> None:
    await push_days(services, "a")
    keeping = Keeping(services, rule(keep_pulled_within="1d"))
    await services.driver.put(keys.pulls_record(REPOSITORY, "0" * 32), b"[]")
    keeping.pulls.note(REPOSITORY, "a")
    await keeping.pulls.flush()

    assert set(await keeping.pull_store.read(REPOSITORY)) == {"a"}


async def test_nothing_is_counted_where_no_rule_asks_for_it(services: Services) -> None:
    keeping = Keeping(services, rule(repositories="team/*", keep_pulled_within="1d"))

    keeping.pulls.note("other/app", "a")
    await keeping.pulls.flush()

    assert await keys_below(services.driver, keys.OUR_REPOSITORIES) == []


async def test_what_the_store_does_not_take_is_written_down_later(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping = Keeping(services, rule(keep_pulled_within="1d"))
    keeping.pulls.note(REPOSITORY, "a")
    add = keeping.pull_store.add

    async def fail(_repository: str, _hours: object) -> None:
        raise StorageUnavailable("not now")

    monkeypatch.setattr(keeping.pull_store, "add", fail)
    await keeping.pulls.flush()
    monkeypatch.setattr(keeping.pull_store, "add", add)
    keeping.pulls.note(REPOSITORY, "b")
    await keeping.pulls.flush()

    assert set(await keeping.pull_store.read(REPOSITORY)) == {"a", "b"}


async def test_a_damaged_state_begins_anew(services: Services) -> None:
    await push_days(services, "a", "b")
    keeping = Keeping(services, rule(keep_last=1))
    await keeping.retention.sweep()
    services.clock.now += 2 * DAY
    await services.driver.put(keys.RETENTION, b'{"since": "long ago"}')

    assert await keeping.retention.sweep() == 0
    assert await tags(services) == ["a", "b"]
    services.clock.now += 2 * DAY
    assert await keeping.retention.sweep() == 1
