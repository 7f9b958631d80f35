"""What the rules say of the tags of one repository, and why: nothing here looks at a store."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from registry.auth.globs import Globs
from registry.immutability import REFERRER_TAG
from registry.names import Tag
from registry.retention.versions import newest
from registry.tag_patterns import TagPatterns
from registry.tag_rules import RetentionRule
from storage.digest import Digest

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class TaggedImage:
    """A tag as the rules look at it. Times are seconds since the epoch.

    `pulled` is the latest time at which it may have been pulled, None if that is not known. `lasts` is how many seconds
    the image says that it wants to be kept, None if it does not say.
    """

    tag: Tag
    digest: Digest
    since: float
    pulled: float | None = None
    lasts: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a tag: `rule` decides, in words, or is empty if none covers the tag."""

    image: TaggedImage
    is_kept: bool
    rule: str
    why: str
    forced: bool = False
    """Whether the rule says that it drops immutable tags too."""


class CompiledRule:
    """One rule, with its patterns compiled. `number` counts from 1."""

    def __init__(self, rule: RetentionRule, number: int) -> None:
        self.rule = rule
        self.text = rule.describe("retention", number)
        self._repositories = Globs.of_names(rule.repositories)
        self._tags, self._excepted = TagPatterns(rule.tags), TagPatterns(rule.excepted)
        self._matching = TagPatterns(rule.keep_matching)

    def covers_repository(self, repository: str) -> bool:
        """Whether it is about a repository."""
        return self._repositories.match(repository)

    def covers_tag(self, tag: str) -> bool:
        """Whether it is about a tag of a repository that it is about."""
        return self._tags.match(tag) and not self._excepted.match(tag)

    def judge(self, images: Sequence[TaggedImage], *, now: float) -> list[Verdict]:
        """Decide about all tags of a repository that it covers, in their order."""
        rule = self.rule
        by_time = sorted(images, key=lambda image: (image.since, image.tag), reverse=True)
        last: set[str] = {image.tag for image in by_time[: rule.keep_last or 0]}
        lines: dict[str, str] = {}
        if rule.has_semver:
            lines = newest(
                (image.tag for image in images),
                majors=rule.keep_semver_majors,
                minors=rule.keep_semver_minors,
                patches=rule.keep_semver_patches,
            )
        return [self._judge(image, now, last, lines) for image in images]

    def _judge(self, image: TaggedImage, now: float, last: set[str], lines: dict[str, str]) -> Verdict:
        rule = self.rule

        def verdict(why: str, *, is_kept: bool = True) -> Verdict:
            return Verdict(image, is_kept, self.text, why, rule.immutable)

        if rule.expires_label is not None and image.lasts is not None:
            is_over = now - image.since > image.lasts
            return verdict(f"its label {rule.expires_label} says {format_seconds(image.lasts)}", is_kept=not is_over)
        if not rule.drops:
            return verdict("the rule drops no tags")
        if image.tag in last:
            return verdict(f"keep_last: among the {rule.keep_last} set last")
        if rule.keep_newer_than is not None and now - image.since <= rule.keep_newer_than:
            return verdict(f"keep_newer_than: set within {format_seconds(rule.keep_newer_than)}")
        if rule.keep_pulled_within is not None and (
            image.pulled is None or now - image.pulled <= rule.keep_pulled_within
        ):
            return verdict(f"keep_pulled_within: pulled within {format_seconds(rule.keep_pulled_within)}, or maybe so")
        if self._matching.match(image.tag):
            return verdict("keep_matching")
        if image.tag in lines:
            return verdict(f"keep_semver: {lines[image.tag]}")
        return verdict("nothing keeps it", is_kept=False)


class Rules:
    """All rules: for each tag the first one that covers it decides."""

    def __init__(self, rules: Sequence[RetentionRule]) -> None:
        self.rules = [CompiledRule(rule, number) for number, rule in enumerate(rules, 1)]

    def covers(self, repository: str) -> bool:
        """Whether any rule is about a repository."""
        return any(rule.covers_repository(repository) for rule in self.rules)

    def of_tag(self, repository: str, tag: str) -> CompiledRule | None:
        """The rule that decides about a tag."""
        covering = (rule for rule in self.rules if rule.covers_repository(repository) and rule.covers_tag(tag))
        return next(covering, None)

    def of_untagged(self, repository: str) -> CompiledRule | None:
        """The rule that decides about manifests without a tag."""
        rules = (rule for rule in self.rules if rule.covers_repository(repository))
        return next((rule for rule in rules if rule.rule.untagged_after is not None), None)

    @property
    def counts_any_pulls(self) -> bool:
        """Whether it matters anywhere when tags were pulled."""
        return any(rule.rule.keep_pulled_within is not None for rule in self.rules)

    def counts_pulls(self, repository: str) -> bool:
        """Whether it matters when the tags of a repository were pulled."""
        return any(
            rule.rule.keep_pulled_within is not None and rule.covers_repository(repository) for rule in self.rules
        )

    def judge(
        self,
        repository: str,
        images: Sequence[TaggedImage],
        *,
        now: float,
        immutable: Callable[[str, str], str | None],
        holds: Callable[[Digest], bool],
    ) -> list[Verdict]:
        """Decide about all tags of a repository, in their order.

        `immutable` tells which rule makes a tag immutable; such a tag is dropped only by a rule that says so. `holds`
        tells whether the repository holds a manifest: a tag that signatures or referrers of one are kept under stays
        with it, and counts for nothing.
        """
        by_rule: dict[int, list[TaggedImage]] = {}
        found: dict[str, Verdict] = {}
        for image in images:
            subject = subject_of(image.tag)
            rule = self.of_tag(repository, image.tag)
            if rule is None:
                found[image.tag] = Verdict(image, is_kept=True, rule="", why="no rule covers it")
            elif subject is not None:
                is_kept = holds(subject)
                why = "its subject is there" if is_kept else "its subject is gone"
                found[image.tag] = Verdict(image, is_kept or not rule.rule.drops, rule.text, why)
            else:
                by_rule.setdefault(self.rules.index(rule), []).append(image)
        for place, covered in by_rule.items():
            for verdict in self.rules[place].judge(covered, now=now):
                found[verdict.image.tag] = _spared(verdict, immutable(repository, verdict.image.tag))
        return [found[image.tag] for image in images]


def subject_of(tag: str) -> Digest | None:
    """The manifest whose signatures or referrers clients keep under a tag, if it is such a tag."""
    if not REFERRER_TAG.fullmatch(tag):
        return None
    try:
        return Digest.parse(tag.partition(".")[0].replace("-", ":", 1))
    except ValueError:
        return None  # cut off, as the spec has it for sha512


def format_seconds(seconds: float) -> str:
    """A time in the largest unit that it is a whole number of."""
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:g}s"


def parse_label(text: str) -> float | None:
    """The seconds of an expiry label, such as `72h`, `2w`, `1d12h`; None if it says no time."""
    units = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR, "w": 7 * 24 * HOUR}
    if not re.fullmatch(r"(?:\d{1,9}[smhdw]){1,5}", text, re.ASCII):
        return None
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([smhdw])", text))


def _spared(verdict: Verdict, rule: str | None) -> Verdict:
    if verdict.is_kept or verdict.forced or rule is None:
        return verdict
    return replace(verdict, is_kept=True, why=f"{rule}; retention drops it only with immutable = true")
