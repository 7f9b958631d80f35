"""Pushes and deletions of the same things, at once and in thousands of orders, some of them dying at any call.

`PIERHEAD_TEST_SCHEDULES` is how many: 4,000 unless it is set. A change of what is tested here wants
200,000 of them once.
"""

import itertools
import json
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from registry.errors import RegistryError
from registry.histories import Target
from registry.names import Tag
from storage import keys
from storage.digest import Digest
from storage.drivers import Capabilities
from storage.errors import StorageUnavailable
from storage.removals import DONE, Recent, RemovalStore
from tests.races.schedules import BUCKET, Actor, Schedule, ScheduledDriver, finish
from tests.registry.images import CONFIG, LAYER, descriptor, encode, image
from tests.registry.services import REPOSITORY, Services
from tests.stores import Power

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 4_000)

OTHER_LAYER = b"another layer"
SUBJECT = descriptor(b"subject", str(image()["mediaType"]))
DOCUMENTS = {
    "one": image(LAYER),
    "two": image(OTHER_LAYER),
    "both": image(LAYER, OTHER_LAYER),
    "artifact": image(LAYER, subject=SUBJECT),
}
BODIES = {name: encode(document) for name, document in DOCUMENTS.items()}
DIGESTS = {name: Digest.of(body) for name, body in BODIES.items()}
NEEDS = {"one": {LAYER}, "two": {OTHER_LAYER}, "both": {LAYER, OTHER_LAYER}, "artifact": {LAYER}}
TAGS = ("t", "u")

Operation = tuple[str, ...]
OPERATIONS: tuple[Operation, ...] = (
    ("push", "one", "t"),
    ("push", "one", "u"),
    ("push", "one", ""),
    ("push", "two", "t"),
    ("push", "both", "t"),
    ("move", "both", "t"),
    ("move", "two", "t"),
    ("push", "artifact", ""),
    ("push", "artifact", "t"),
    ("delete", "one"),
    ("delete", "both"),
    ("delete", "artifact"),
    ("untag", "t"),
    ("rollback", "t"),
    ("rollback", "t"),
    ("restore", "t"),
    ("delete blob", "layer"),
    ("delete blob", "layer"),
    ("delete blob", "other"),
    ("push blob", "layer"),
)
PUSHES = ("push ", "move ")
BLOBS = {"layer": LAYER, "other": OTHER_LAYER}
BEGINNINGS: tuple[tuple[Operation, ...], ...] = (
    (),
    (("push", "one", "t"),),
    (("push", "both", "t"),),
    (("push", "artifact", "t"),),
    (("push", "one", "t"), ("push", "two", "u")),
    (("push", "one", "t"), ("push", "both", "t")),
    (("delete blob", "layer"),),
)


def work(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """What a client asks of a worker."""
    match operation:
        case "push", name, tag:
            reference = Tag(tag) if tag else DIGESTS[name]
            kind = str(DOCUMENTS[name]["mediaType"])
            return services.manifests.put(REPOSITORY, reference, BODIES[name], media_type=kind)
        case "move", name, tag:
            kind = str(DOCUMENTS[name]["mediaType"])
            return services.manifests.put(REPOSITORY, Tag(tag), BODIES[name], media_type=kind, allow=anything)
        case "delete", name:
            return services.manifests.delete(REPOSITORY, DIGESTS[name])
        case "untag", tag:
            return services.manifests.delete(REPOSITORY, Tag(tag))
        case "rollback", tag:
            return services.histories.rollback(REPOSITORY, Tag(tag), Target(), who="operator")
        case "restore", tag:
            return services.histories.restore(REPOSITORY, Tag(tag), who="operator")
        case "delete blob", name:
            return services.blobs.delete(REPOSITORY, Digest.of(BLOBS[name]))
        case "push blob", name:
            digest = Digest.of(BLOBS[name])
            return services.blob_store.link(REPOSITORY, digest, canonical=digest)
    raise AssertionError(operation)


def anything(_current: Digest | None, _new: Digest) -> None:
    """Refuse nothing, but be told."""


def begin(schedule: Schedule, beginning: tuple[Operation, ...]) -> None:
    """Put everything there that the operations are about."""
    services = schedule.worker()
    for body in (CONFIG, LAYER, OTHER_LAYER):
        digest = Digest.of(body)
        finish(schedule.driver.put(keys.blob(digest), body))
        finish(services.blob_store.link(REPOSITORY, digest, canonical=digest))
    for operation in beginning:
        finish(work(operation, services))


def knowing(operation: Operation, services: Services) -> Coroutine[Any, Any, object]:
    """Let the worker have looked at everything before, so that it relies on that where looks cost calls."""
    for body in (CONFIG, LAYER, OTHER_LAYER):
        finish(services.blob_store.exists(REPOSITORY, Digest.of(body)))
    if finish(services.catalog_store.has(REPOSITORY)):
        finish(services.catalog_store.add(REPOSITORY))
    return work(operation, services)


def lies(schedule: Schedule) -> list[str]:
    """What is not true of the store now that everybody is done, by the objects themselves."""
    there = set(schedule.driver._objects)
    manifests = {name for name, digest in DIGESTS.items() if keys.revision_link(REPOSITORY, digest) in there}
    blobs = {body for body in BLOBS.values() if keys.layer_link(REPOSITORY, Digest.of(body)) in there}
    crashed = [actor for actor in schedule.actors if actor.crashed]
    pushed = {actor.name.split()[1] for actor in schedule.actors if actor.name.startswith(PUSHES) and actor.succeeded}
    deleted = {actor.name.removeprefix("delete ") for actor in schedule.actors}
    # A push that has died, and was never acknowledged, may leave its manifest without what is deleted just then.
    owed = {name for name in manifests if not crashed or (name in pushed and name not in deleted)}
    found = [f"{name} lacks a blob" for name in owed if not NEEDS[name] <= blobs]
    for tag in TAGS:
        link = schedule.driver._objects.get(keys.tag_link(REPOSITORY, tag))
        target = None if link is None else Digest.parse(link.body.decode())
        if target is not None and not crashed and target not in {DIGESTS[name] for name in manifests}:
            found.append(f"the tag {tag} leads nowhere")
        index = [key for key in there if key.startswith(keys.tag_index(REPOSITORY, tag))]
        lists_current = not schedule.driver.capabilities.looks_cost_calls and not crashed
        if lists_current and target is not None and keys.tag_index_link(REPOSITORY, tag, target) not in index:
            found.append(f"the index of the tag {tag} lacks where it points")
        if target is None and index and not crashed:
            found.append(f"the tag {tag} is gone, and has an index")
    entry = keys.referrer(REPOSITORY, Digest.parse(str(SUBJECT["digest"])), DIGESTS["artifact"])
    if "artifact" in owed and entry not in there:
        found.append("the referrers lack what is there")
    announced = {key for key in there if key.startswith(keys.REMOVALS)}
    if not crashed and any(not schedule.driver._objects[key].body.endswith(DONE) for key in announced):
        found.append("an announcement is left")
    return found


def mistold(schedule: Schedule) -> list[str]:
    """Where the histories of tags differ from what has happened."""
    found = []
    for tag in TAGS:
        link = schedule.driver._objects.get(keys.tag_link(REPOSITORY, tag))
        target = None if link is None else Digest.parse(link.body.decode())
        folder, objects = keys.history(REPOSITORY, tag), schedule.driver._objects
        reasons = [json.loads(each.body)["why"] for key, each in objects.items() if key.startswith(folder)]
        changes = finish(schedule.worker().history.entries(REPOSITORY, tag, write=False))
        assert isinstance(changes, list)
        if (changes[0].new if changes else None) != target:
            found.append(f"the history of {tag} says that it points at {changes and changes[0].new}")
        if any(newer.old != older.new for newer, older in itertools.pairwise(changes)):
            found.append(f"the history of {tag} has a gap: {changes}")
        told = Counter(change.cause.why.value for change in changes)
        # What is just being written down is observed at times, and then told by its record.
        if told - Counter(observed=told["observed"]) != Counter(reasons) - Counter(observed=len(reasons)):
            found.append(f"the history of {tag} tells {told} by records of {reasons}")
    return found


def surprises(actors: list[Actor]) -> list[str]:
    """What no client should be answered."""
    allowed = (RegistryError, Power, StorageUnavailable)
    return [
        f"{actor.name}: {actor.outcome!r}"
        for actor in actors
        if isinstance(actor.outcome, BaseException) and not isinstance(actor.outcome, allowed)
    ]


@pytest.mark.timeout(900)
def test_in_whatever_order_they_come_nothing_that_was_acknowledged_is_lost() -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SCHEDULES={SCHEDULES}\n")
    chance = random.Random(SEED)
    crashes = waits = 0
    for number in range(SCHEDULES):
        skew_seconds = chance.choice([0.0, 5.0])
        driver = ScheduledDriver(BUCKET if chance.random() < 0.5 else Capabilities())
        schedule = Schedule(chance, driver, skew_seconds=skew_seconds)
        beginning = chance.choice(BEGINNINGS)
        begin(schedule, beginning)
        operations = [chance.choice(OPERATIONS) for _ in range(chance.randint(2, 4))]
        dying = chance.randrange(len(operations)) if chance.random() < 0.3 else None
        for place, operation in enumerate(operations):
            crash_at = chance.randrange(45) if place == dying else None
            schedule.add(" ".join(operation), partial(knowing, operation), crash_at)
        schedule.run()

        told = f"schedule {number} of {SEED}: {beginning}, {[(a.name, a.outcome) for a in schedule.actors]}"
        assert surprises(schedule.actors) == [], told
        assert lies(schedule) == [], told
        assert mistold(schedule) == [], told
        crashes += any(actor.crashed for actor in schedule.actors)
        waits += schedule.clock.now > 1_000_000.0

    assert crashes > SCHEDULES / 20
    assert waits, "nobody ever waited for anybody"


async def recent_is_empty(_store: RemovalStore, repository: str, *, since: float) -> Recent:  # noqa: ARG001
    return Recent(repository, frozenset(), is_complete=True)


async def at_once(*_: object) -> None:
    return


async def forgotten(store: RemovalStore, repository: str, *, since: float) -> Recent:
    """What removals would tell that left nothing behind when they are through."""
    real = await RECENT(store, repository, since=since)
    under_way = set()
    for folder in real.folders:
        for entry in (await store._driver.list(folder, limit=100)).entries:
            if not (await store._driver.get(entry.key, bytes_max=64)).body.endswith(DONE):
                under_way.add(folder)
    return Recent(repository, frozenset(under_way), real.is_complete)


RECENT = RemovalStore.recent


@pytest.mark.parametrize(
    ("name", "instead", "operations"),
    [
        ("recent", recent_is_empty, [("push", "one", "t"), ("delete blob", "layer")]),
        ("recent", recent_is_empty, [("push", "one", "t"), ("delete", "one")]),
        ("recent", recent_is_empty, [("push", "one", "t"), ("untag", "t")]),
        ("recent", forgotten, [("push", "one", "t"), ("delete blob", "layer")]),
        ("wait_for_blobs", at_once, [("push", "one", "t"), ("delete blob", "layer")]),
    ],
    ids=["blobs", "manifests", "tags", "what is done", "no wait"],
)
@pytest.mark.parametrize("capabilities", [Capabilities(), BUCKET], ids=["directory", "bucket"])
async def test_the_scheduler_finds_the_loss_if_a_push_does_not_look(
    monkeypatch: pytest.MonkeyPatch, capabilities: Capabilities, name: str, instead: object, operations: list[Operation]
) -> None:
    monkeypatch.setattr(RemovalStore, name, instead)
    chance = random.Random(0)
    for _ in range(3000):
        schedule = Schedule(chance, ScheduledDriver(capabilities))
        begin(schedule, (("push", "two", "t"),) if operations[1][0] == "untag" else ())
        for operation in operations:
            schedule.add(" ".join(operation), partial(knowing, operation), None)
        schedule.run()
        if lies(schedule):
            return
    pytest.fail("the loss was never found")
