"""Runs: the rules are planned for every repository, and carried out once the plan could be seen for long enough."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from registry.audit.events import Event, EventKind
from registry.batches import Batches, all_manifests, parents_first
from registry.errors import Denied, ManifestUnknown
from registry.manifests import Changes, Manifests, ManifestStores
from registry.names import RepositoryName
from registry.retention.graphs import fingerprint
from registry.retention.plans import HistoryWindow, Needs, Plan, Planner
from registry.retention.verdicts import Rules
from registry.tag_rules import RetentionRule
from storage.digest import Digest
from storage.errors import NotFound, StorageUnavailable
from storage.history import HistoryStore
from storage.pulls import PullStore
from storage.removals import Removal
from storage.retention import RetentionState, RetentionStore
from storage.timelines import Cause, Why

ACTOR = "retention"
CAUSE = Cause(ACTOR, Why.RETENTION)

Record = Callable[[Event], Awaitable[None]]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a run has come to: how many tags and manifests were kept and dropped, or would have been."""

    kept_tags: int = 0
    dropped_tags: int = 0
    kept_untagged: int = 0
    dropped_manifests: int = 0
    repositories: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, plan: Plan, *, tags: int, manifests: int) -> None:
        """Count a repository, of which so many were dropped, or would have been."""
        self.repositories += 1
        self.dropped_tags += tags
        self.dropped_manifests += manifests
        self.kept_tags += len(plan.tags) - tags
        self.kept_untagged += len(plan.untagged) - manifests
        if plan.problem:
            self.problems.append(f"{plan.repository}: {plan.problem}")

    def fields(self) -> dict[str, object]:
        """As it is stored and shown."""
        return {
            "repositories": self.repositories,
            "kept_tags": self.kept_tags,
            "dropped_tags": self.dropped_tags,
            "kept_untagged": self.kept_untagged,
            "dropped_manifests": self.dropped_manifests,
            "problems": self.problems[:100],
        }


class Retention:
    """Carries the rules out. Two at once do no harm: a tag is dropped only while it points where the plan saw it."""

    def __init__(
        self,
        planner: Planner,
        stores: ManifestStores,
        manifests: Manifests,
        *,
        history: HistoryStore,
        pulls: PullStore,
        states: RetentionStore,
        rules: Sequence[RetentionRule],
        window: HistoryWindow,
        delay_seconds: float,
        record: Record,
        new_id: Callable[[], str],
        clock: Callable[[], float] = time.time,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._planner = planner
        self._stores = stores
        self._manifests = manifests
        self._history = history
        self._pulls = pulls
        self._states = states
        self._rules = Rules(rules)
        self._window = window
        self._delay_seconds = delay_seconds
        self._record = record
        self._new_id = new_id
        self._clock = clock
        self._pause = pause
        self._fingerprint = fingerprint([rule.model_dump() for rule in rules])
        counting = [rule.repositories for rule in rules if rule.keep_pulled_within is not None]
        self._counting = fingerprint(counting) if counting else ""

    @property
    def has_rules(self) -> bool:
        """Whether there is anything to carry out."""
        return bool(self._rules.rules)

    async def state(self) -> RetentionState:
        """What is known of the last run, under the rules as they are now: nothing is written."""
        state, _version = await self._states.read()
        return state.under(self._fingerprint, self._counting, now=self._clock())

    def waits_seconds(self, state: RetentionState) -> float:
        """How long it takes until something may be dropped: the rules have to hold for that long unchanged."""
        return max(0.0, state.since + self._delay_seconds - self._clock())

    async def sweep(self) -> int:
        """Run as a server does: drop what the rules drop, once they were known for long enough; returns how much."""
        before, version = await self._states.read()
        state = before.under(self._fingerprint, self._counting, now=self._clock())
        if not self._rules.rules:
            if version is not None and state != before:  # whatever rules come next are new
                await self._states.write(state, version)
            return 0
        is_due = self.waits_seconds(state) == 0
        if not is_due and not await self._states.write(state, version):
            return 0  # somebody else has begun
        if not is_due:
            state, version = await self._states.read()
        outcome = await self.run(state, carry_out=is_due)
        if not is_due:
            log.info("retention has planned", **outcome.fields(), waits_seconds=round(self.waits_seconds(state)))
        last = {"at": self._clock(), "carried_out": is_due, **outcome.fields()}
        await self._states.write(replace(state, last=last), version)
        return outcome.dropped_tags + outcome.dropped_manifests if is_due else 0

    async def run_now(self) -> Outcome:
        """Run as the operator does, who has seen the plan."""
        state, version = await self._states.read()
        state = state.under(self._fingerprint, self._counting, now=self._clock())
        outcome = await self.run(state, carry_out=True)
        last = {"at": self._clock(), "carried_out": True, **outcome.fields()}
        await self._states.write(replace(state, last=last), version)
        return outcome

    async def run(self, state: RetentionState, *, carry_out: bool) -> Outcome:
        """Plan every repository and, if so told, carry the plans out."""
        outcome = Outcome()
        async for plan in self.plans(state):
            tags, manifests = len(plan.dropped_tags), len(plan.dropped_manifests)
            if carry_out:
                try:
                    tags, manifests = await self._carry_out(plan)
                except StorageUnavailable as error:
                    outcome.problems.append(f"{plan.repository}: {error}")
                    tags, manifests = 0, 0
            outcome.add(plan, tags=tags, manifests=manifests)
        return outcome

    async def plans(
        self,
        state: RetentionState,
        *,
        wanted: Callable[[str], bool] = lambda _repository: True,
        uncovered: bool = False,
    ) -> AsyncIterator[Plan]:
        """The plan of every repository that a rule is about, in byte order; with tags that none covers if asked."""
        async for name in self._stores.catalog.names():
            if self._rules.covers(name) and wanted(name):
                yield await self._planner.plan(
                    RepositoryName(name), now=self._clock(), pulls_since=state.pulls_since, uncovered=uncovered
                )

    async def _carry_out(self, plan: Plan) -> tuple[int, int]:
        tags = 0
        for verdict in plan.dropped_tags:
            image = verdict.image
            try:
                await self._manifests.untag(
                    plan.repository, image.tag, only=image.digest, force=verdict.forced, cause=CAUSE
                )
            except (ManifestUnknown, Denied):
                continue  # it has moved or gone since, or is immutable by now
            tags += 1
            await self._tell(plan, EventKind.TAG_DELETED, image.tag, verdict.rule, old=str(image.digest))
        taken = await self._take_untagged(plan)
        if self._rules.counts_pulls(plan.repository):
            kept = {verdict.image.tag for verdict in plan.tags} | {str(v.image.digest) for v in plan.tags}
            await self._pulls.merge(plan.repository, wanted=kept.__contains__)
        return tags, taken

    async def _take_untagged(self, plan: Plan) -> int:
        doomed = [untagged.digest for untagged in plan.dropped_manifests]
        if not doomed:
            return 0
        needs = Needs(self._stores, self._history, plan.repository, self._window)
        await needs.graph.read(doomed)
        taking = _Untagged(self._stores, self._manifests, needs, plan, self._clock)
        announced = partial(self._stores.removals.of_collection, plan.repository, self._new_id())
        batches = Batches(announced, calls_at_once=self._stores.calls_at_once, pause=self._pause)
        nodes = needs.graph.nodes
        for level in parents_first({digest: nodes[digest].references for digest in doomed if digest in nodes}):
            await batches.take(level, taking)
        rules = {untagged.digest: untagged.rule for untagged in plan.dropped_manifests}
        for digest in taking.taken:
            await self._tell(plan, EventKind.MANIFEST_DELETED, str(digest), rules[digest])
        return len(taking.taken)

    async def _tell(self, plan: Plan, kind: EventKind, reference: str, rule: str, *, old: str = "") -> None:
        detail = {"rule": rule}
        log.info("retention has dropped", repository=plan.repository, reference=reference, rule=rule)
        await self._record(
            Event(kind, actor=ACTOR, repository=plan.repository, reference=reference, old=old, detail=detail)
        )


class _Untagged:
    """Manifests without a tag, as what is taken: what anything needs by then stays."""

    def __init__(
        self, stores: ManifestStores, manifests: Manifests, needs: Needs, plan: Plan, clock: Callable[[], float]
    ) -> None:
        self._stores = stores
        self._manifests = manifests
        self._needs = needs
        self._repository = plan.repository
        self._doomed = {untagged.digest for untagged in plan.dropped_manifests}
        self._clock = clock
        self.taken: set[Digest] = set()

    async def needed(self, doomed: Collection[Digest], removal: Removal) -> set[Digest]:  # noqa: ARG002  # the whole plan
        """What tags and the history need by now, and what was not in the plan: it has come since."""
        removals = self._stores.removals
        before = await removals.of_manifests(self._repository)
        present = set(await all_manifests(self._stores.manifests, self._repository, removal))
        tagged, needed, problem = await self._needs.look(present, self._clock(), removal)
        # A tag that leads nowhere is just being put right, and a deletion may take tags away and put them back.
        is_clear = not problem and tagged <= present and not any(before.values())
        if not is_clear or await removals.of_manifests(self._repository) != before:
            return present
        return needed | self._needs.graph.needed(present - self._doomed, present)

    async def take(self, digest: Digest) -> Digest | None:
        try:
            canonical = await self._stores.manifests.resolve(self._repository, digest)
        except NotFound:
            return None
        changes = Changes()
        await self._manifests.take(self._repository, digest, changes=changes)
        if changes.deleted is not None:
            self.taken.add(digest)
        return canonical

    async def restore(self, digest: Digest, canonical: Digest) -> None:
        await self._stores.manifests.link(self._repository, digest, canonical=canonical, body=None)
        self.taken.discard(digest)
