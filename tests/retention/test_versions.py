"""Versions as people write them, and the newest of each line."""

import pytest

from registry.retention.versions import Version, newest, parse_version


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("1.2.3", Version((1, 2, 3))),
        ("v1.2.3", Version((1, 2, 3))),
        ("1.2.3-rc.1", Version((1, 2, 3), pre_release="rc.1")),
        ("1.2.3-beta2", Version((1, 2, 3), pre_release="beta2")),
        ("1.2.3-0.3.7", Version((1, 2, 3), pre_release="0.3.7")),
        ("1.2.3-alpine", Version((1, 2, 3), variant="alpine")),
        ("1.2.3-alpine3.20", Version((1, 2, 3), variant="alpine3.20")),
        ("1.2", Version((1, 2))),
        ("1-alpine", Version((1,), variant="alpine")),
        ("latest", None),
        ("1.2.3.4", None),
        ("01.2.3", None),
        ("version1.2.3", None),
        ("1.2.x", None),
    ],
)
def test_a_tag_is_read_as_a_version_or_as_none(tag: str, version: Version | None) -> None:
    assert parse_version(tag) == version


def test_versions_are_in_the_order_of_semver() -> None:
    ordered = [
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc9",
        "1.0.0-rc10",
        "1.0.0",
        "1.0.1",
    ]
    ordered += ["1.2.0", "1.10.0", "2.0.0"]
    found = sorted(ordered, key=lambda tag: parse_version(tag).order())  # type: ignore[union-attr]

    assert found == ordered


TAGS = [
    "1.0.0",
    "1.0.1",
    "1.0.2",
    "1.1.0",
    "1.1.1",
    "2.0.0",
    "2.0.1",
    "2.1.0-rc.1",
    "2.1.0-rc.2",
    "latest",
    "1",
    "1.0",
    "2.1",
]


def kept(
    tags: list[str], majors: int | None = None, minors: int | None = None, patches: int | None = None
) -> list[str]:
    found = newest(tags, majors=majors, minors=minors, patches=patches)
    return [tag for tag in tags if tag in found]


def test_the_newest_patches_of_every_minor_line_are_kept_and_the_names_of_the_lines() -> None:
    assert kept(TAGS, patches=1) == ["1.0.2", "1.1.1", "2.0.1", "2.1.0-rc.2", "1", "1.0", "2.1"]
    assert kept(TAGS, patches=2) == [tag for tag in TAGS if tag not in {"1.0.0", "latest"}]


def test_the_newest_minor_lines_of_each_major_line_are_kept() -> None:
    assert kept(TAGS, minors=1) == ["1.1.0", "1.1.1", "2.1.0-rc.1", "2.1.0-rc.2", "1", "2.1"]
    assert kept(TAGS, majors=1, minors=2, patches=1) == ["2.0.1", "2.1.0-rc.2", "2.1"]


def test_a_pre_release_goes_once_its_release_is_there() -> None:
    assert kept(["1.0.0-rc.1", "1.0.0-rc.2"], patches=2) == ["1.0.0-rc.1", "1.0.0-rc.2"]
    assert kept(["1.0.0-rc.1", "1.0.0", "1.0.1-rc.1"], patches=5) == ["1.0.0", "1.0.1-rc.1"]


def test_variants_have_lines_of_their_own() -> None:
    tags = ["1.0.0", "1.0.1", "1.0.0-alpine", "1.0.0-slim", "1-alpine", "2-alpine"]

    assert kept(tags, patches=1) == ["1.0.1", "1.0.0-alpine", "1.0.0-slim", "1-alpine"]
