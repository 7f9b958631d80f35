"""Pushes, deletions and garbage collections at once and in thousands of orders, some of them dying at any call."""

import contextlib
import os
import random
import secrets
import sys
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from registry.collector.reports import Report
from registry.collector.rules import Rules
from registry.collector.taking import Taker
from registry.errors import ManifestBlobUnknown, RegistryError
from registry.manifests import Manifests
from storage import keys
from storage.arrivals import Arrivals, State
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Capabilities
from storage.errors import StorageUnavailable
from storage.manifests import ManifestStore
from storage.places import Kind
from storage.runs import Fresh, Run, RunLost
from tests.races.collecting import (
    BLOBS,
    BODIES,
    DIGESTS,
    KINDS,
    NAMES,
    REPOSITORIES,
    TAGS,
    CollectedDriver,
    Collecting,
    Operation,
    Tree,
    work,
)
from tests.races.schedules import BUCKET, Actor
from tests.registry.services import OTHER, REPOSITORY, Services
from tests.stores import Clock, Power

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
SCHEDULES = int(os.environ.get("PIERHEAD_TEST_SCHEDULES") or 1500)

SECONDS = (0.0, 0.0, 5.0, 1000.0)
LONG_SECONDS = 100_000.0


class Watched(Collecting):
    """Looks at tags now and then: those that nobody is about to change must be whole at any time."""

    def between(self) -> None:
        if self.chance.random() < 0.01 and self.driver.capabilities.rare_seconds:
            self.go_on()
        if self.chance.random() < 0.02:
            assert not broken(self), f"in the middle: {broken(self)}"


def beginning(schedule: Collecting) -> dict[tuple[str, str], str | None]:
    """Make a store with things in it that are old by now; returns what its tags point at."""
    services, chance = schedule.worker(), schedule.chance
    for _ in range(chance.randint(0, 5)):
        repository, name = chance.choice(REPOSITORIES), chance.choice(list(BODIES))
        schedule.finish(work(("push", repository, name, chance.choice(("", "", *TAGS)), "put"), schedule, services))
    for _ in range(chance.randint(0, 2)):
        schedule.finish(
            work(
                ("push blob", chance.choice(REPOSITORIES), chance.choice(("layer", "last")), "put"), schedule, services
            )
        )
    if chance.random() < 0.3:
        repository, tag = chance.choice(REPOSITORIES), chance.choice(TAGS)
        with contextlib.suppress(RegistryError):
            schedule.finish(work(("untag", repository, tag), schedule, services))
    schedule.clock.now += 10_000.0
    found = {(repository, tag): target for repository, tag, target in Tree(schedule.driver).tags()}
    return {(repository, tag): found.get((repository, tag)) for repository in REPOSITORIES for tag in TAGS}


def random_operation(chance: random.Random) -> Operation:
    """What somebody does."""
    repository, name, kind = chance.choice(REPOSITORIES), chance.choice(list(BODIES)), chance.choice(KINDS)
    tag = chance.choice(("", *TAGS, *TAGS))
    dice = chance.random()
    if dice < 0.5:
        return ("push", repository, name, tag, kind)
    if dice < 0.7:
        return ("put", repository, name, tag)
    if dice < 0.78:
        return ("delete", repository, name)
    if dice < 0.86:
        return ("untag", repository, chance.choice(TAGS))
    if dice < 0.9:
        return ("delete blob", repository, chance.choice(("layer", "other", "last")))
    return ("push blob", repository, chance.choice(("layer", "last")), kind)


def told(actor: Actor) -> Operation:
    """What an actor does: its name, taken apart."""
    return tuple(actor.name.split("|"))


def broken(schedule: Collecting) -> list[str]:
    """Lines for tags of which something is missing, other than what somebody has deleted or is busy with."""
    operations = [told(actor) for actor in schedule.actors]
    deleted = {operation[1:3] for operation in operations if operation[0] == "delete"}
    busy = {
        (operation[1], operation[3])
        for actor, operation in zip(schedule.actors, operations, strict=True)
        # What a push that was killed has left is mended by the next push.
        if operation[0] in {"push", "put"} and (not actor.done or actor.crashed)
    }
    deleting = any(
        (not actor.done or actor.crashed) and operation[0].startswith(("delete", "untag"))
        for actor, operation in zip(schedule.actors, operations, strict=True)
    )
    crashed = any(actor.crashed for actor in schedule.actors)

    def is_meant(line: str) -> bool:
        # A push that has died may have brought back half of what somebody has deleted.
        return any(line.startswith(f"{each} {name} ") and (crashed or "gone" in line) for each, name in deleted)

    tree, found = Tree(schedule.driver), list[str]()
    for repository, tag, target in tree.tags():
        if (repository, tag) in busy or deleting:
            continue
        found += [f"{tag}: {line}" for line in tree.missing(repository, target) if not is_meant(line)]
    return found


def lost(schedule: Collecting, before: dict[tuple[str, str], str | None]) -> list[str]:
    """Lines for tags that do not point where any order of what was acknowledged could have left them."""
    found = {(repository, tag): target for repository, tag, target in Tree(schedule.driver).tags()}
    lines = []
    for (repository, tag), first in before.items():
        acknowledged, unsure, untagged = set[str](), set[str](), False
        # What somebody deletes from under a push that has set its tag already, and looks again, makes it fail.
        deleted = any(told(actor)[:2] == ("delete", repository) for actor in schedule.actors)
        may_have_worked = (StorageUnavailable, ManifestBlobUnknown) if deleted else (StorageUnavailable,)
        for actor in schedule.actors:
            match told(actor):
                case (("push" | "put"), name, pushed, onto, *_) if (name, onto) == (repository, tag):
                    if actor.succeeded:
                        acknowledged.add(str(DIGESTS[pushed]))
                    elif actor.crashed or isinstance(actor.outcome, may_have_worked):
                        unsure.add(str(DIGESTS[pushed]))
                case "untag", name, onto if (name, onto) == (repository, tag):
                    untagged = True
                case "delete", name, _ if name == repository:
                    untagged = True  # it takes the tags that it sees, of pushes that came before it
        allowed: set[str | None] = {*acknowledged, *unsure}
        if not acknowledged:
            allowed.add(first)
        if untagged:
            allowed |= {None, first}
        if found.get((repository, tag)) not in allowed:
            target = found.get((repository, tag))
            lines.append(f"{repository}:{tag} points at {NAMES.get(target or '', target)}")
    return lines


def forgotten(schedule: Collecting) -> list[str]:
    """Lines for blobs that were acknowledged within the grace period, and can't be read."""
    operations = [told(actor) for actor in schedule.actors]
    deleted = {operation[1:3] for operation in operations if operation[0] == "delete blob"}
    tree, lines = Tree(schedule.driver), []
    for actor, operation in zip(schedule.actors, operations, strict=True):
        took = schedule.clock() - 1_010_000.0
        if operation[0] != "push blob" or not actor.succeeded or took >= schedule.rules.grace_seconds:
            continue
        digest = Digest.of(BLOBS[operation[2]])
        is_held = tree.has(Kind.LAYER, operation[1], str(digest)) and tree.bytes(str(digest)) is not None
        if not is_held and operation[1:3] not in deleted:
            lines.append(f"{actor.name} is gone")
    return lines


def surprises(schedule: Collecting) -> list[str]:
    """What nobody should be answered."""
    allowed = (RegistryError, Power, StorageUnavailable)
    return [
        f"{actor.name}: {actor.outcome!r}"
        for actor in schedule.actors
        if isinstance(actor.outcome, BaseException) and not isinstance(actor.outcome, allowed)
    ]


def at_rest(schedule: Collecting) -> list[str]:
    """What is left that nothing leads to, after a while and some collections that nobody disturbs."""
    services = schedule.worker()
    rules = Rules(grace_seconds=schedule.rules.grace_seconds, trash_seconds=schedule.rules.trash_seconds)
    kept: dict[str, str] = {}
    for _ in range(4):
        schedule.clock.now += LONG_SECONDS
        schedule.finish(services.uploads.expire())
        schedule.finish(services.manifests.expire_removals())
        report = schedule.finish(schedule.collection(rules).run(brake=False))
        assert isinstance(report, Report)
        kept = report.kept
        assert not broken(schedule), f"at rest: {broken(schedule)}"
    crashed = any(actor.crashed for actor in schedule.actors)
    disturbed = crashed or any(isinstance(actor.outcome, RunLost) for actor in schedule.actors)
    if kept and not crashed:
        return [f"{repository} is kept: {reason}" for repository, reason in kept.items()]
    if kept:
        return []
    # Entries of indexes that a crash has left are found by verify, and dropped by adopt.
    left = Tree(schedule.driver).garbage()
    return [line for line in left if not disturbed or not line.startswith(keys.OUR_REPOSITORIES)]


def run_one(chance: random.Random, capabilities: Capabilities, operations: list[Operation] | None = None) -> Collecting:
    """Make a store, let everybody loose on it, and see that nothing is lost and nothing is left."""
    clock = Clock()
    rules = Rules(grace_seconds=chance.choice(SECONDS), trash_seconds=chance.choice(SECONDS))
    schedule = Watched(chance, CollectedDriver(capabilities, clock), clock, rules=rules)
    if operations is not None and operations[0] == MOUNT:
        # Something to mount whose bytes are about to go, which is rare by chance.
        schedule.rules = Rules(grace_seconds=5.0, trash_seconds=0.0)
        schedule.finish(work(("push blob", OTHER, "layer", "put"), schedule, schedule.worker()))
        schedule.clock.now += 10_000.0
        before: dict[tuple[str, str], str | None] = {}
    else:
        before = beginning(schedule)
    if operations is None:
        operations = [random_operation(chance) for _ in range(chance.randint(1, 4))]
        operations += [("collect",)] * chance.choice((1, 1, 1, 2))
        chance.shuffle(operations)
    dying = chance.randrange(len(operations)) if chance.random() < 0.25 else None
    for place, operation in enumerate(operations):
        crash_at = chance.randrange(120) if place == dying else None
        schedule.add("|".join(operation), partial(start, operation, schedule), crash_at)
    text = f"{before}, {rules}, {[(a.name, a.outcome) for a in schedule.actors]}"
    try:
        schedule.run()
        text = f"{before}, {rules}, {[(a.name, a.crashed, a.outcome) for a in schedule.actors]}"
        assert surprises(schedule) == []
        assert broken(schedule) == []
        assert lost(schedule, before) == []
        assert forgotten(schedule) == []
        assert at_rest(schedule) == []
    except AssertionError as error:
        raise AssertionError(f"{error}\nin {text}") from error
    return schedule


def start(operation: Operation, schedule: Collecting, services: Services) -> Coroutine[Any, Any, object]:
    """What an actor does."""
    return work(operation, schedule, services)


@pytest.mark.timeout(20_000)
def test_in_whatever_order_they_come_nothing_that_is_needed_is_collected() -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SCHEDULES={SCHEDULES}\n")
    seen: Counter[str] = Counter()
    for number in range(SCHEDULES):
        chance = random.Random(f"{SEED}-{number}")
        try:
            schedule = run_one(chance, BUCKET if chance.random() < 0.4 else Capabilities())
        except AssertionError as error:
            raise AssertionError(f"schedule {number} of {SEED}: {error}") from error
        seen["crashed"] += any(actor.crashed for actor in schedule.actors)
        for actor in schedule.actors:
            seen[told(actor)[0]] += 1
            seen["refused"] += isinstance(actor.outcome, RegistryError)
            if isinstance(actor.outcome, Report):
                seen["manifests"] += actor.outcome.taken_manifests
                seen["layers"] += actor.outcome.taken_layers
                seen["bytes"] += actor.outcome.deleted_blobs

    sys.stderr.write(f"{dict(seen)}\n")
    assert seen["crashed"] > SCHEDULES / 20
    for what in ("manifests", "layers", "bytes"):
        assert seen[what] > SCHEDULES / 20, what


async def nothing(arrivals: Arrivals, *_given: object) -> State:
    return await arrivals.state()


async def nothing_is_on(_arrivals: Arrivals) -> State:
    return State()


async def nothing_is_fresh(run: Run) -> Fresh:
    await run.check()
    return Fresh()


async def nothing_is_spared(_taker: Taker, _marked: object) -> set[str]:
    return set()


async def at_once(*_given: object) -> None:
    return


PUSH = ("push", REPOSITORY, "one", "t", "put")
BLOB = ("push blob", REPOSITORY, "layer", "put")
MOUNT = ("push blob", REPOSITORY, "layer", "mount")
PUT = ("put", REPOSITORY, "one", "t")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("owner", "name", "instead", "operation"),
    [
        (Arrivals, "tell", nothing, PUSH),
        (Arrivals, "wait_for_links", at_once, BLOB),
        (BlobStore, "_check_bytes", at_once, MOUNT),
        (Arrivals, "state", nothing_is_on, BLOB),
        (ManifestStore, "keep", at_once, PUT),
        (Manifests, "_put_again", at_once, PUT),
        (Taker, "_spared", nothing_is_spared, PUSH),
        (Run, "fresh", nothing_is_fresh, PUSH),
    ],
    ids=[
        "nobody tells",
        "no wait for links",
        "no look at bytes",
        "no look at the marker",
        "tags untold",
        "no retry",
        "no second look",
        "no fresh",
    ],
)
def test_the_scheduler_finds_the_loss_without(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, instead: object, operation: Operation
) -> None:
    monkeypatch.setattr(owner, name, instead)
    for number in range(20_000):
        chance = random.Random(f"loss-{number}")
        try:
            run_one(chance, Capabilities(), [operation, ("collect",)])
        except AssertionError as error:
            if "gone" in str(error) or "lacks" in str(error) or "points at" in str(error):
                return
    pytest.fail("the loss was never found")
