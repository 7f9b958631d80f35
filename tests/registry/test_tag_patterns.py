"""A pattern matches whole tags, as a shell's would, in bounded time; one that matches none is refused."""

import time

import pytest

from registry.names import TAG_BYTES_MAX
from registry.tag_patterns import TagPatternError, TagPatterns


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("v*", ["v", "v1", "v1.2-rc.1"], ["1", "xv1", "V1"]),
        ("[0-9]*", ["1", "1.2", "20261126"], ["v1", "latest", "_1"]),
        ("[!a-z]*", ["1", "V1", "_x"], ["v1", "latest"]),
        ("?.?", ["1.2", "a.b"], ["1.22", "12"]),
        ("*-dev", ["1-dev", "-dev"], ["1-devel", "1-dev2"]),
        ("1.2", ["1.2"], ["1x2", "1.2.3", "11.2"]),
        ("*", ["a", "1"], []),
    ],
)
def test_a_pattern_matches_the_whole_tag(pattern: str, matched: list[str], others: list[str]) -> None:
    patterns = TagPatterns([pattern])

    assert [tag for tag in matched + others if patterns.match(tag)] == matched


def test_one_of_several_is_enough_and_none_matches_nothing() -> None:
    assert TagPatterns(["v*", "[0-9]*"]).match("1.0")
    assert not TagPatterns([]).match("1.0")


@pytest.mark.parametrize(
    "pattern", ["", "v/*", "v:1", "[", "[]", "[!]", "v[1", "[9-0]", "a b", "vé", "a" * (TAG_BYTES_MAX + 1), "^v.$|x"]
)
def test_a_pattern_that_can_match_no_tag_is_refused(pattern: str) -> None:
    with pytest.raises(TagPatternError):
        TagPatterns([pattern])


def test_the_time_to_match_does_not_explode() -> None:
    patterns = TagPatterns(["*a" * 60 + "b"])
    began = time.monotonic()

    assert not patterns.match("a" * TAG_BYTES_MAX)
    assert time.monotonic() - began < 1
