"""Deletions of a whole repository beside pushes to it, in thousands of orders, some of them dying at any call."""

import json
import os
import random
import secrets
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from registry.errors import ManifestBlobUnknown
from registry.names import Tag
from registry.repositories import _Contents
from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities
from storage.places import Kind, read_key
from storage.removals import Recent
from tests.races import test_schedules
from tests.races.schedules import BUCKET, Schedule, ScheduledDriver, finish
from tests.races.test_schedules import BODIES, Operation, begin, surprises
from tests.registry.images import index
from tests.registry.services import REPOSITORY, Services

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 1_500)

INDEX = json.dumps(index(BODIES["one"])).encode()
OPERATIONS: tuple[Operation, ...] = (
    ("delete repository",),
    ("push", "one", "t"),
    ("push", "one", ""),
    ("push", "both", "t"),
    ("move", "two", "u"),
    ("push", "artifact", ""),
    ("push index", "i"),
    ("delete", "one"),
    ("delete blob", "layer"),
    ("push blob", "layer"),
)
BEGINNINGS: tuple[tuple[Operation, ...], ...] = (
    (("push", "one", "t"),),
    (("push", "both", "t"), ("push", "one", "u")),
    (("push", "one", ""), ("push index", "i")),
    (("push", "artifact", "t"), ("push", "one", "")),
)


def work(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """What a client asks of a worker."""
    match operation:
        case ("delete repository",):
            return services.repositories.delete(REPOSITORY)
        case "push index", tag:
            return services.manifests.put(REPOSITORY, Tag(tag), INDEX, media_type=None)
    return test_schedules.work(operation, services)


def lies(schedule: Schedule) -> list[str]:
    """What is not true of the store now that everybody is done, by the objects themselves."""
    there, found = schedule.driver._objects, []
    crashed = [actor.name for actor in schedule.actors if actor.crashed]
    pushed_by_the_dead = any(name.startswith(("push", "move")) for name in crashed)
    # A child of an index may be deleted by its digest, and one that is visible may be withdrawn again by its push, that
    # was never acknowledged: both are other matters.
    refused = [actor.name for actor in schedule.actors if isinstance(actor.outcome, ManifestBlobUnknown)]
    children_go = any(actor.name == "delete one" for actor in schedule.actors) or any("one" in name for name in refused)
    manifests = {place.digest for place in map(read_key, there) if place.kind is Kind.REVISION and place.digest}
    layers = {place.digest for place in map(read_key, there) if place.kind is Kind.LAYER}
    for digest in manifests:
        document = json.loads(there[keys.blob(digest)].body)
        blobs = [*document.get("layers", ()), *filter(None, [document.get("config")])]
        if not {Digest.parse(each["digest"]) for each in blobs} <= layers and not pushed_by_the_dead:
            found.append(f"{digest} lacks a blob")
        lists = {Digest.parse(each["digest"]) for each in document.get("manifests", ())}
        if not lists <= manifests and not pushed_by_the_dead and not children_go:
            found.append(f"{digest} lacks a manifest")
    for key, stored in there.items():
        place = read_key(key)
        target = Digest.parse(stored.body.decode()) if place.kind is Kind.TAG else None
        if target is not None and target not in manifests and not crashed:
            found.append(f"the tag {place.name} leads nowhere")
        if place.kind is Kind.REFERRER and place.digest not in manifests and not crashed:
            found.append("a referrer is left")
    has_entry = keys.catalog_entry(REPOSITORY) in there
    # Who takes the last manifest by its digest, or withdraws it, leaves the entry: asked again, the deletion takes it.
    is_left = bool(refused) or any(actor.name == "delete one" for actor in schedule.actors)
    if (manifests and not has_entry and not crashed) or (has_entry and not manifests and not crashed and not is_left):
        found.append(f"the catalog is wrong about {len(manifests)} manifests")
    return found


def run(chance: random.Random, *, crash: bool = True) -> tuple[Schedule, str]:
    """Run a deletion and some other operations at once, in some order."""
    # Each batch announces itself, and whoever waits for a dead one reads them all again and again.
    driver = ScheduledDriver(BUCKET if chance.random() < 0.5 else Capabilities())
    schedule = Schedule(chance, driver, steps_max=100_000)
    beginning = chance.choice(BEGINNINGS)
    begin(schedule, ())
    for operation in beginning:
        finish(work(operation, schedule.worker()))
    operations = [OPERATIONS[0], *(chance.choice(OPERATIONS) for _ in range(chance.randint(1, 3)))]
    dying = chance.randrange(len(operations)) if crash and chance.random() < 0.3 else None
    for place, operation in enumerate(operations):
        crash_at = chance.randrange(120) if place == dying else None
        schedule.add(" ".join(operation), partial(knowing, operation), crash_at)
    schedule.run()
    return schedule, f"{beginning}, {[(a.name, a.outcome, a.crashed) for a in schedule.actors]}"


def knowing(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """Let the worker have looked at everything before, so that it relies on that where looks cost calls."""
    test_schedules.knowing(("untag", "t"), services).close()
    return work(operation, services)


@pytest.mark.timeout(900)
def test_in_whatever_order_they_come_the_repository_is_whole_or_gone() -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SCHEDULES={SCHEDULES}\n")
    chance = random.Random(SEED)
    gone = kept = 0
    for number in range(SCHEDULES):
        schedule, told = run(chance)

        assert surprises(schedule.actors) == [], f"schedule {number} of {SEED}: {told}"
        assert lies(schedule) == [], f"schedule {number} of {SEED}: {told}"
        is_gone = keys.catalog_entry(REPOSITORY) not in schedule.driver._objects
        gone, kept = gone + is_gone, kept + (not is_gone)
    assert gone > SCHEDULES / 10
    assert kept > SCHEDULES / 10


async def nothing(_contents: _Contents, *_: object) -> set[Digest]:
    return set()


def never(_recent: Recent, _folder: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("owner", "name", "instead"),
    [(_Contents, "needed", nothing), (Recent, "_touches", never)],
    ids=["the deletion does not look", "pushes do not look"],
)
def test_the_scheduler_finds_the_loss_if_one_side_does_not_look(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: object
) -> None:
    monkeypatch.setattr(owner, name, instead)
    chance = random.Random(0)
    for _ in range(4000):
        schedule, _told = run(chance, crash=False)
        if lies(schedule):
            return
    pytest.fail("the loss was never found")
