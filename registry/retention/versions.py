"""Tags that are versions, as people write them: `1.2.3`, `v1.2.3-rc.1`, `1.2.3-alpine`, and the lines `1.2` and `1`.

A version has three numbers (semver.org, 2.0.0). What follows a hyphen is a pre-release if it begins with a number or
with one of the words in PRE_RELEASES; else it is a variant, whose versions are lines of their own. A tag with one or
two numbers is no version but the name of a line, which moves along with it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

PRE_RELEASES = frozenset(
    {
        "a",
        "alpha",
        "b",
        "beta",
        "c",
        "canary",
        "dev",
        "ea",
        "m",
        "milestone",
        "nightly",
        "pre",
        "preview",
        "rc",
        "snapshot",
    }
)

_VERSION = re.compile(
    r"v?(0|[1-9]\d{0,8})(?:\.(0|[1-9]\d{0,8}))?(?:\.(0|[1-9]\d{0,8}))?(?:-([0-9A-Za-z._-]+))?", re.ASCII
)
_NUMBERED = re.compile(r"([A-Za-z]*)(\d*)(.*)", re.ASCII | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Version:
    """A version, or with fewer than three numbers the name of a line. `variant` is empty for most."""

    numbers: tuple[int, ...]
    pre_release: str = ""
    variant: str = ""

    @property
    def is_line(self) -> bool:
        """Whether it names a line of versions."""
        return len(self.numbers) < 3

    def order(self) -> tuple[object, ...]:
        """What versions of one variant are compared by; a pre-release comes before its release (semver.org, 11)."""
        return (*self.numbers, not self.pre_release, _order(self.pre_release))


def parse_version(tag: str) -> Version | None:
    """Read a tag as a version, or None if it is none."""
    matched = _VERSION.fullmatch(tag)
    if matched is None:
        return None
    numbers = tuple(int(text) for text in matched.groups()[:3] if text is not None)
    suffix = matched[4] or ""
    first = re.split(r"[.\d_-]", suffix, maxsplit=1)[0].lower()
    if suffix and len(numbers) == 3 and (suffix[0].isdigit() or first in PRE_RELEASES):
        return Version(numbers, pre_release=suffix)
    return Version(numbers, variant=suffix)


def newest(tags: Iterable[str], *, majors: int | None, minors: int | None, patches: int | None) -> dict[str, str]:
    """The tags to keep, each with the reason in words: the newest of each line.

    Of each variant the newest `majors` major lines, of each of those the newest `minors` minor lines, and of each of
    those the newest `patches` versions; None is all. Pre-releases count among the versions of their line, and only
    those that are newer than its newest release are kept. The name of a line is kept while anything in the line is.
    """
    versions = {tag: version for tag in tags if (version := parse_version(tag)) is not None}
    lines: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    for tag, version in versions.items():
        if not version.is_line:
            lines[version.variant, version.numbers[0], version.numbers[1]].append(tag)
    kept: dict[str, str] = {}
    for variant in {key[0] for key in lines}:
        of_variant = sorted({key[1] for key in lines if key[0] == variant}, reverse=True)
        for major in of_variant[:majors]:
            of_major = sorted({key[2] for key in lines if key[:2] == (variant, major)}, reverse=True)
            for minor in of_major[:minors]:
                for tag in _newest_of_line(lines[variant, major, minor], versions)[:patches]:
                    kept[tag] = f"among the newest of {_name(variant, major, minor)}"
    for tag, version in versions.items():
        if version.is_line and any(_is_within(versions[other], version) for other in kept if other in versions):
            kept[tag] = "the name of a line that is kept"
    return kept


def _newest_of_line(tags: list[str], versions: dict[str, Version]) -> list[str]:
    ordered = sorted(tags, key=lambda tag: (versions[tag].order(), tag), reverse=True)
    release = next((versions[tag].order() for tag in ordered if not versions[tag].pre_release), ())
    return [tag for tag in ordered if not versions[tag].pre_release or versions[tag].order() > release]


def _is_within(version: Version, line: Version) -> bool:
    is_same = version.variant == line.variant and not version.is_line
    return is_same and version.numbers[: len(line.numbers)] == line.numbers


def _order(pre_release: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers before words, numbers by value; `rc9` before `rc10`, which semver would not say and people mean."""
    found = []
    for part in re.split(r"[._-]", pre_release):
        word, number, rest = _NUMBERED.fullmatch(part).groups()  # type: ignore[union-attr]  # it matches any text
        found.append((int(bool(word)), int(number or 0) if not word else 0, word.lower()))
        if word:
            found.append((0, int(number or 0), rest))
    return tuple(found)


def _name(variant: str, major: int, minor: int) -> str:
    return f"{major}.{minor}-{variant}" if variant else f"{major}.{minor}"
