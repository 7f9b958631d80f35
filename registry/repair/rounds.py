"""Repair in rounds: verify, put right what can be, and verify again, until nothing more can be done.

One repair may uncover the next finding: a manifest that was fetched names layers that are missing as well. What is left
after the last round is what a verification says of the store as it is then.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.adoption import Adoption, Changes
from registry.findings import Finding, Problem
from registry.repair.contents import Contents, Holder, bad_blob, holders_of
from registry.repair.leftovers import Leftovers
from registry.repair.names import Names
from registry.repair.steps import FAILURES, Outcome, Step, Tools, reason
from registry.scan import Parts
from registry.verification import Verification
from storage.digest import Digest
from storage.layout import check_layout
from storage.places import Kind, read_key

ROUNDS_MAX = 8

INDEXES = frozenset(
    {
        Problem.LAYOUT_MISSING,
        Problem.UNADOPTED,
        Problem.CATALOG_MISSING,
        Problem.CATALOG_STALE,
        Problem.REFERRER_MISSING,
        Problem.REFERRER_STALE,
        Problem.REFERRER_LEFTOVER,
        Problem.REFERRER_DAMAGED,
        Problem.SOURCE_STALE,
    }
)
"""What an adoption puts right, all at once."""

LINKS = frozenset({Problem.LINK_EMPTY, Problem.LINK_DAMAGED, Problem.LINK_ELSEWHERE, Problem.UNREADABLE})

# Bytes before links before names, as a push writes them.
_ORDER = {Kind.BLOB: 0, Kind.LAYER: 1, Kind.REVISION: 2, Kind.TAG: 3}


@dataclass(frozen=True, slots=True)
class Making:
    """How to make the parts of one more verification, whose findings go to the given function."""

    parts: Callable[[Callable[[Finding], None]], Parts]
    tools: Callable[[Parts], Tools]


class Rounds:
    """Repairs a store. `told` gets each outcome as it comes; with `dry`, nothing is changed and one round is made."""

    def __init__(
        self,
        making: Making,
        *,
        told: Callable[[Outcome], None],
        dry: bool,
    ) -> None:
        self._making = making
        self._told = told
        self._dry = dry
        self._failed: set[tuple[Problem, str]] = set()
        self._done: set[tuple[Problem, str]] = set()
        self.repaired: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.changes = Changes()

    async def run(self, *, jobs: int) -> Sequence[Finding]:
        """Return what is wrong in the end; with `dry`, what is wrong now.

        Raises StorageUnavailable if the store can't be listed, LayoutUnknown as a verification does.
        """
        findings = await self._verify(jobs)
        for _round in range(ROUNDS_MAX):
            if not await self._round(findings) or self._dry:
                break
            findings = await self._verify(0)  # what was read once need not be read again
        return findings

    async def _verify(self, jobs: int) -> Sequence[Finding]:
        findings: list[Finding] = []
        parts = self._making.parts(findings.append)
        for name in [name for name in parts.tally.counts if not name.startswith("bytes")]:
            del parts.tally.counts[name]  # they are those of the last verification
        await Verification(parts).run(jobs=jobs)
        return list({(finding.problem, finding.key): finding for finding in findings}.values())

    async def _round(self, findings: Sequence[Finding]) -> bool:
        """Repair what can be, and tell whether anything was."""
        parts = self._making.parts(lambda _finding: None)
        tools = self._making.tools(parts)
        parts.tally.enter("repair")
        repairs = _Repairs(tools, await self._holders(tools, findings))
        is_changed = False
        # What did not help the first time will not help another time.
        findings = [finding for finding in findings if (finding.problem, finding.key) not in self._done]
        for finding in sorted(findings, key=_order):
            is_changed |= await self._repair(finding, repairs)
        is_changed |= await self._adopt(findings, parts)
        if not self._dry and any(finding.problem is Problem.REMOVAL_LEFTOVER for finding in findings):
            await tools.manifests.expire_removals()
        return is_changed

    async def _holders(self, tools: Tools, findings: Sequence[Finding]) -> Mapping[Digest, Sequence[Holder]]:
        bad = {digest for finding in findings if (digest := bad_blob(finding)) is not None}
        return await holders_of(tools, bad) if tools.remotes else {}

    async def _repair(self, finding: Finding, repairs: "_Repairs") -> bool:
        try:
            step = await repairs.step(finding)
            if step is None:
                return False
            if not self._dry:
                await step.do()
        except FAILURES as error:
            self._fail(finding, reason(error))
            return False
        self._succeed(finding, step.does)
        return True

    def _succeed(self, finding: Finding, does: str) -> None:
        self._done.add((finding.problem, finding.key))
        self.repaired[finding.problem.slug] += 1
        self._told(Outcome(finding, does, is_done=True))

    def _fail(self, finding: Finding, why: str) -> None:
        if (finding.problem, finding.key) not in self._failed:
            self._failed.add((finding.problem, finding.key))
            self.failed[finding.problem.slug] += 1
            self._told(Outcome(finding, why, is_done=False))

    async def _adopt(self, findings: Sequence[Finding], parts: Parts) -> bool:
        wrong = [finding for finding in findings if finding.problem in INDEXES]
        if not wrong:
            return False
        if not self._dry:
            await check_layout(parts.driver)
            adoption = Adoption(parts)
            await adoption.run()
            self.changes.added.update(adoption.changes.added)
            self.changes.removed.update(adoption.changes.removed)
        for finding in wrong:
            self._succeed(finding, "the index was built again")
        return True


class _Repairs:
    """Finds for each finding what can be done about it."""

    def __init__(self, tools: Tools, holders: Mapping[Digest, Sequence[Holder]]) -> None:
        self._contents = Contents(tools)
        self._names = Names(tools)
        self._leftovers = Leftovers(tools)
        self._holders = holders

    async def step(self, finding: Finding) -> Step | None:
        place = read_key(finding.key)
        if (digest := bad_blob(finding)) is not None:
            return await self._contents.bad_bytes(self._holders.get(digest, ()))
        if finding.problem in LINKS:
            return await self._link(finding)
        match finding.problem:
            case Problem.LINK_DANGLING | Problem.MANIFEST_MISSING:
                return await self._contents.missing_bytes(place)
            case Problem.MANIFEST_INCOMPLETE:
                return await self._contents.incomplete(place)
            case Problem.TAG_DANGLING:
                return await self._names.tag(place)
            case Problem.TAG_LEFTOVER:
                return self._leftovers.tag(finding.key)
            case Problem.MARKER_STALE | Problem.MARKER_WRONG:
                return self._leftovers.marker(place)
            case Problem.TYPE_STALE:
                return self._leftovers.media_type(place)
            case Problem.UPLOAD_DAMAGED:
                return self._leftovers.upload(place)
        return None

    async def _link(self, finding: Finding) -> Step | None:
        place = read_key(finding.key)
        repairs: Mapping[Kind, Callable[[], Awaitable[Step | None]]] = {
            Kind.LAYER: lambda: self._contents.layer_link(place),
            Kind.REVISION: lambda: self._contents.revision_link(place),
            Kind.TAG_INDEX: lambda: self._contents.tag_index_link(place),
            Kind.TAG: lambda: self._names.tag(place),
        }
        repair = repairs.get(place.kind)
        return None if repair is None else await repair()


def _order(finding: Finding) -> tuple[int, str]:
    return _ORDER.get(read_key(finding.key).kind, len(_ORDER)), finding.key
