"""Plans: what the rules would do to a repository now, tag by tag, and to its manifests without a tag."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from registry.batches import all_manifests, in_time
from registry.immutability import Immutability
from registry.manifests import ManifestStores
from registry.names import RepositoryName, Tag, is_tag
from registry.retention.graphs import Graph, sorted_digests
from registry.retention.labels import Labels
from registry.retention.verdicts import CompiledRule, Rules, TaggedImage, Verdict, format_seconds
from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageRefused
from storage.history import HistoryStore, Mark
from storage.pulls import HOUR_SECONDS, PullStore
from storage.removals import Removal


@dataclass(frozen=True, slots=True)
class Untagged:
    """A manifest without a tag: whether it is kept, and why."""

    digest: Digest
    is_kept: bool
    rule: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of everything in a repository. `problem` says why its manifests without a tag all stay."""

    repository: RepositoryName
    tags: Sequence[Verdict] = ()
    untagged: Sequence[Untagged] = ()
    problem: str = ""

    @property
    def dropped_tags(self) -> list[Verdict]:
        """The tags that go."""
        return [verdict for verdict in self.tags if not verdict.is_kept]

    @property
    def dropped_manifests(self) -> list[Untagged]:
        """The manifests that go."""
        return [untagged for untagged in self.untagged if not untagged.is_kept]


@dataclass(frozen=True, slots=True)
class HistoryWindow:
    """Which past states of tags are kept: those of so many seconds, and in any case the last few."""

    keep_seconds: float
    keep_last: int


@dataclass(slots=True)
class Past:
    """What is known of the past of a repository's tags."""

    marks: Mapping[str, Sequence[Mark]] = field(default_factory=dict)

    def since(self, tag: str, digest: Digest) -> float | None:
        """When a tag was set to what it points at, or None if that is not written down."""
        newest = self.marks[tag][-1] if self.marks.get(tag) else None
        return newest.time / 1e6 if newest is not None and newest.new == digest else None

    def left(self) -> dict[Digest, float]:
        """When a tag last pointed at each manifest that one has pointed at."""
        found: dict[Digest, float] = {}
        for marks in self.marks.values():
            for mark, following in pairwise(marks):
                if mark.new is not None:
                    found[mark.new] = max(following.time / 1e6, found.get(mark.new, 0.0))
        return found


class Planner:
    """Looks, and changes nothing. `slack_seconds` is how much later than written down a tag may have been pulled."""

    def __init__(
        self,
        driver: Driver,
        stores: ManifestStores,
        history: HistoryStore,
        pulls: PullStore,
        *,
        rules: Rules,
        immutability: Immutability,
        window: HistoryWindow,
        slack_seconds: float,
    ) -> None:
        self._driver = driver
        self._stores = stores
        self._history = history
        self._pulls = pulls
        self._rules = rules
        self._immutability = immutability
        self._window = window
        self._slack_seconds = slack_seconds
        self._labels = Labels(stores.manifests, stores.blobs)

    async def plan(
        self, repository: RepositoryName, *, now: float, pulls_since: float, uncovered: bool = False
    ) -> Plan:
        """What would become of a repository at `now`. Pulls are known of since `pulls_since`.

        Tags that no rule covers, and that therefore stay, are in it only if those are asked for.
        """
        past = Past(await self._history.all_marks(repository))
        images = await self._images(repository, past, pulls_since, uncovered=uncovered)
        present = set(await all_manifests(self._stores.manifests, repository))
        verdicts = self._rules.judge(
            repository, images, now=now, immutable=self._immutability.rule, holds=present.__contains__
        )
        rule = self._rules.of_untagged(repository)
        if rule is None:
            return Plan(repository, verdicts)
        untagged, problem = await self._untagged(repository, rule, past, present, now)
        return Plan(repository, verdicts, untagged, problem)

    async def _images(
        self, repository: RepositoryName, past: Past, pulls_since: float, *, uncovered: bool
    ) -> list[TaggedImage]:
        counts = self._rules.counts_pulls(repository)
        pulled = await self._pulls.read(repository) if counts else {}
        found = []
        for tag in await self._stores.tags.names(repository):
            rule = self._rules.of_tag(repository, tag) if is_tag(tag) else None
            if rule is None and not uncovered:
                continue
            try:
                digest = await self._stores.tags.get(repository, tag)
                since = past.since(tag, digest)
                if since is None:
                    since = (await self._driver.stat(keys.tag_link(repository, tag))).modified
            except NotFound:
                continue  # damaged, or deleted since
            last: float | None = None
            if counts:
                hour = max(pulled.get(tag, -1), pulled.get(str(digest), -1))
                last = max((hour + 1) * HOUR_SECONDS + self._slack_seconds, since, pulls_since)
            label = None if rule is None else rule.rule.expires_label
            lasts = None if label is None else await self._labels.lasts(repository, digest, label)
            found.append(TaggedImage(Tag(tag), digest, since, last, lasts))
        return found

    async def _untagged(
        self, repository: RepositoryName, rule: CompiledRule, past: Past, present: Collection[Digest], now: float
    ) -> tuple[list[Untagged], str]:
        """Every manifest that no tag points at, and why all of them stay if they do."""
        needs = Needs(self._stores, self._history, repository, self._window)
        grace = rule.rule.untagged_after or 0.0
        tagged, kept, problem = await needs.look(present, now)
        left, found = past.left(), list[Untagged]()
        young = {digest for digest in present if await self._age(repository, digest, left, now) <= grace}
        kept_too = needs.graph.needed([*kept, *young], present)
        for digest in sorted_digests(set(present) - tagged):
            if problem:
                why = problem
            elif digest in kept:
                why = "a tag, an index, a subject, a referrer or the history needs it"
            elif digest in young:
                why = f"it was pushed or tagged within {format_seconds(grace)}"
            elif digest in kept_too:
                why = "one that is kept for now needs it"
            else:
                found.append(Untagged(digest, is_kept=False, rule=rule.text, why="untagged_after"))
                continue
            found.append(Untagged(digest, is_kept=True, rule=rule.text, why=why))
        return found, problem

    async def _age(self, repository: RepositoryName, digest: Digest, left: Mapping[Digest, float], now: float) -> float:
        """Seconds since a manifest was pushed, or a tag last pointed at it."""
        try:
            pushed = (await self._driver.stat(keys.revision_link(repository, digest))).modified
        except (NotFound, StorageRefused):
            return 0.0
        return now - max(pushed, left.get(digest, 0.0))


class Needs:
    """Which manifests of a repository are needed, whatever their age."""

    def __init__(
        self, stores: ManifestStores, history: HistoryStore, repository: RepositoryName, window: HistoryWindow
    ) -> None:
        self._stores = stores
        self._history = history
        self._repository = repository
        self._window = window
        self.graph = Graph(stores.manifests, repository, calls_at_once=stores.calls_at_once)

    async def look(
        self, present: Collection[Digest], now: float, removal: Removal | None = None
    ) -> tuple[set[Digest], set[Digest], str]:
        """Those that tags point at, those that are needed, and why all of them are if it can't be told."""
        unreadable = await self.graph.read(present, removal)
        tagged, problem = set[Digest](), ""
        if unreadable:
            problem = f"the manifest {unreadable[0]} can't be read: it may need any of them"
        for tag in await self._stores.tags.names(self._repository):
            await in_time(removal)
            try:
                tagged.add(await self._stores.tags.get(self._repository, tag))
            except NotFound:
                if await self._is_damaged(tag):
                    problem = f"the tag {tag} can't be read: it may point at any of them"
        since = now - self._window.keep_seconds
        states = await self._history.kept(self._repository, since=since, last=self._window.keep_last)
        roots = {*tagged, *(digest for digests in states.values() for digest in digests)}
        return tagged, self.graph.needed(roots, present), problem

    async def _is_damaged(self, tag: str) -> bool:
        seen = await self._stores.tags.see(self._repository, tag)
        return seen is None or (seen.link is not None and seen.digest is None)
