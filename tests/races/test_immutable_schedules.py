"""Immutable tags under pushes and deletions in thousands of orders: what was acknowledged stays."""

import os
import random
import secrets
import sys
from functools import partial

import pytest

from registry.immutability import ImmutableManifests
from registry.names import RepositoryName
from registry.tag_rules import ImmutableTags
from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities
from tests.races.schedules import BUCKET, Schedule, ScheduledDriver
from tests.races.test_schedules import DIGESTS, Operation, begin, knowing, lies, surprises
from tests.registry.services import REPOSITORY

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 2_000)

RULES = [ImmutableTags.model_validate({"repositories": "**", "tags": "t"})]
OPERATIONS: tuple[Operation, ...] = (
    ("push", "one", "t"),
    ("push", "two", "t"),
    ("push", "both", "t"),
    ("push", "one", "u"),
    ("delete", "one"),
    ("delete", "two"),
    ("untag", "t"),
    ("untag", "u"),
)
BEGINNINGS: tuple[tuple[Operation, ...], ...] = ((), (("push", "one", ""),), (("push", "one", "t"),))


def broken_promises(schedule: Schedule, beginning: tuple[Operation, ...]) -> list[str]:
    """What is not as it was acknowledged: the immutable tag points where the one push said that was answered well."""
    link = schedule.driver._objects.get(keys.tag_link(REPOSITORY, "t"))
    target = None if link is None else Digest.parse(link.body.decode())
    set_to = {DIGESTS[name] for verb, name, *tag in beginning if verb == "push" and tag == ["t"]}
    for actor in schedule.actors:
        match actor.name.split():
            case ["push", name, "t"] if actor.succeeded:
                set_to.add(DIGESTS[name])
            case ["untag", "t"] if actor.succeeded:
                return ["an immutable tag was deleted"]
    if len(set_to) > 1:
        return [f"the tag was set to {len(set_to)} manifests"]
    return [] if not set_to or target in set_to else ["what the immutable tag was set to is gone"]


def run(chance: random.Random, *, crash: bool) -> tuple[Schedule, tuple[Operation, ...]]:
    """Run some of the operations at once, in some order."""
    schedule = Schedule(chance, ScheduledDriver(BUCKET if chance.random() < 0.5 else Capabilities()), immutable=RULES)
    beginning = chance.choice(BEGINNINGS)
    begin(schedule, beginning)
    operations = [chance.choice(OPERATIONS) for _ in range(chance.randint(2, 4))]
    dying = chance.randrange(len(operations)) if crash and chance.random() < 0.3 else None
    for place, operation in enumerate(operations):
        crash_at = chance.randrange(45) if place == dying else None
        schedule.add(" ".join(operation), partial(knowing, operation), crash_at)
    schedule.run()
    return schedule, beginning


@pytest.mark.timeout(900)
def test_in_whatever_order_they_come_an_acknowledged_immutable_tag_stays() -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SCHEDULES={SCHEDULES}\n")
    chance = random.Random(SEED)
    for number in range(SCHEDULES):
        schedule, beginning = run(chance, crash=True)

        told = f"schedule {number} of {SEED}: {beginning}, {[(a.name, a.outcome) for a in schedule.actors]}"
        assert surprises(schedule.actors) == [], told
        assert lies(schedule) == [], told
        assert broken_promises(schedule, beginning) == [], told


def test_the_scheduler_finds_the_loss_if_a_deletion_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    look = ImmutableManifests.refuse

    async def only_once(
        self: ImmutableManifests, repository: RepositoryName, digest: Digest, *, seen: set[str]
    ) -> None:
        if "looked" not in seen:
            seen.add("looked")
            await look(self, repository, digest, seen=seen)

    monkeypatch.setattr(ImmutableManifests, "refuse", only_once)
    chance = random.Random(0)
    for _ in range(6000):
        schedule, beginning = run(chance, crash=False)
        if broken_promises(schedule, beginning):
            return
    pytest.fail("the loss was never found")
