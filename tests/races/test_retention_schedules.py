"""Retention beside pushes, in thousands of orders, some of them dying at any call: what is needed is never dropped."""

import json
import os
import random
import secrets
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest
import structlog
import structlog.testing

from registry.names import Tag
from registry.retention import runs
from registry.retention.runs import _Untagged
from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities
from storage.places import Kind, read_key
from storage.removals import Recent
from tests.races import test_schedules
from tests.races.schedules import BUCKET, Schedule, ScheduledDriver, finish
from tests.races.test_schedules import BODIES, DIGESTS, Operation, begin, surprises
from tests.registry.images import index
from tests.registry.services import REPOSITORY, Services
from tests.retention.keeping import Keeping, rule

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 1_500)

INDEX = json.dumps(index(BODIES["one"])).encode()
OPERATIONS: tuple[Operation, ...] = (
    ("retain",),
    ("push", "one", "t"),
    ("push", "one", ""),
    ("push", "both", "t"),
    ("push", "both", "old"),
    ("push index", "i"),
    ("untag", "t"),
)
BEGINNINGS: tuple[tuple[Operation, ...], ...] = (
    (("push", "one", ""),),
    (("push", "one", ""), ("push", "both", "old")),
    (("push", "one", ""), ("push index", "i")),
    (("push", "artifact", ""), ("push", "one", "t"), ("push", "both", "t")),
)


def work(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """What a client asks of a worker, or a run of retention."""
    match operation:
        case ("retain",):
            keeping = Keeping(services, rule(tags="old*", keep_last=0, untagged_after=1), delay_seconds=0)
            return keeping.retention.run_now()
        case "push index", tag:
            return services.manifests.put(REPOSITORY, Tag(tag), INDEX, media_type=None)
    return test_schedules.work(operation, services)


def losses(schedule: Schedule) -> list[str]:
    """What is not true of the store now that everybody is done, by the objects themselves."""
    there, found = schedule.driver._objects, []
    crashed = [actor.name for actor in schedule.actors if actor.crashed]
    manifests = {place.digest for place in map(read_key, there) if place.kind is Kind.REVISION and place.digest}
    for digest in manifests:
        lists = json.loads(there[keys.blob(digest)].body).get("manifests", ())
        if not {Digest.parse(each["digest"]) for each in lists} <= manifests and not crashed:
            found.append(f"{digest} lacks a manifest")
    for key, stored in there.items():
        place = read_key(key)
        if place.kind is Kind.TAG and Digest.parse(stored.body.decode()) not in manifests and not crashed:
            found.append(f"the tag {place.name} leads nowhere")
        if place.kind is Kind.REFERRER and place.digest not in manifests and not crashed:
            found.append("a referrer is left")
    verbs = {tuple(actor.name.split()) for actor in schedule.actors}
    if ("untag", "t") not in verbs and not crashed:
        pushed = [actor for actor in schedule.actors if actor.name in {"push one t", "push both t"} and actor.succeeded]
        if pushed and keys.tag_link(REPOSITORY, "t") not in there:
            found.append("an acknowledged tag is gone")
    return found


def run(chance: random.Random, *, crash: bool = True) -> tuple[Schedule, str]:
    """Run retention and some other operations at once, in some order."""
    driver = ScheduledDriver(BUCKET if chance.random() < 0.5 else Capabilities())
    schedule = Schedule(chance, driver, steps_max=100_000)
    driver._clock = schedule.clock
    beginning = chance.choice(BEGINNINGS)
    begin(schedule, ())
    for operation in beginning:
        finish(work(operation, schedule.worker()))
    schedule.clock.now += 1000
    operations = [OPERATIONS[0], *(chance.choice(OPERATIONS) for _ in range(chance.randint(1, 3)))]
    dying = chance.randrange(len(operations)) if crash and chance.random() < 0.3 else None
    for place, operation in enumerate(operations):
        crash_at = chance.randrange(60) if place == dying else None
        schedule.add(" ".join(operation), partial(work, operation), crash_at)
    schedule.run()
    return schedule, f"{beginning}, {[(a.name, a.outcome, a.crashed) for a in schedule.actors]}"


@pytest.mark.timeout(900)
def test_in_whatever_order_they_come_nothing_that_is_needed_is_dropped() -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SCHEDULES={SCHEDULES}\n")
    chance = random.Random(SEED)
    dropped = kept = 0
    for number in range(SCHEDULES):
        schedule, told = run(chance)

        assert surprises(schedule.actors) == [], f"schedule {number} of {SEED}: {told}"
        assert losses(schedule) == [], f"schedule {number} of {SEED}: {told}"
        is_there = keys.revision_link(REPOSITORY, DIGESTS["one"]) in schedule.driver._objects
        dropped, kept = dropped + (not is_there), kept + is_there
    assert dropped > SCHEDULES / 20
    assert kept > SCHEDULES / 10


async def nothing(_untagged: _Untagged, *_: object) -> set[Digest]:
    return set()


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "log", structlog.wrap_logger(structlog.testing.ReturnLogger()))


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [(_Untagged, "needed", nothing), (Recent, "may_be_collected", property(lambda _recent: False))],
    ids=["retention does not look again", "pushes do not look"],
)
def test_the_scheduler_finds_the_loss_if_one_side_does_not_look(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: object
) -> None:
    monkeypatch.setattr(owner, name, instead)
    chance = random.Random(0)
    for _ in range(4000):
        schedule, _told = run(chance, crash=False)
        if losses(schedule):
            return
    pytest.fail("the loss was never found")
