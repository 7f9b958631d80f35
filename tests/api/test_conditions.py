"""Conditions name digests, quoted or bare, weak or strong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.conditions import is_unchanged, tag_condition, wants_range
from registry.api.requests import Request
from registry.errors import PreconditionFailed
from registry.query import NO_QUERY
from storage.digest import Digest

DIGEST, OTHER = Digest.of(b"one"), Digest.of(b"two")
spellings = st.sampled_from(['"{}"', "{}", 'W/"{}"', ' "{}" '])
digests = st.sampled_from([DIGEST, OTHER])
members = st.tuples(spellings, digests)


def request(**headers: str) -> Request:
    """Return a request with these headers; those with several lines are split at semicolons."""
    raw = [
        (name.replace("_", "-").encode(), line.encode("latin-1"))
        for name, text in headers.items()
        for line in text.split(";")
    ]

    async def receive() -> dict[str, object]:
        raise AssertionError("nobody asked for a body")

    return Request({"type": "http", "headers": raw}, receive, "GET", "", None, "", NO_QUERY)


def refuses(made: Request, current: Digest | None) -> bool:
    allow = tag_condition(made)
    if allow is None:
        return False
    try:
        allow(current)
    except PreconditionFailed as error:
        return error.status == 412
    return False


@given(st.lists(members, min_size=1, max_size=4), st.sampled_from([",", ", ", ";"]))
def test_a_list_of_entity_tags_matches_just_its_members(listed: list[tuple[str, Digest]], separator: str) -> None:
    text = separator.join(spelling.format(digest) for spelling, digest in listed)
    named = {digest for _spelling, digest in listed}

    for digest in (DIGEST, OTHER):
        assert is_unchanged(request(if_none_match=text), digest) == (digest in named)
        assert refuses(request(if_match=text), digest) == (digest not in named)
        assert refuses(request(if_none_match=text), digest) == (digest in named)
    assert refuses(request(if_match=text), None)
    assert not refuses(request(if_none_match=text), None)


@given(st.text(st.characters(codec="latin-1", exclude_characters=";"), max_size=40))
def test_any_text_is_a_condition_of_some_kind(text: str) -> None:
    is_unchanged(request(if_none_match=text), DIGEST)
    wants_range(request(if_range=text), DIGEST)
    refuses(request(if_match=text), DIGEST)


def test_a_star_is_whatever_there_is() -> None:
    assert is_unchanged(request(if_none_match="*"), DIGEST)
    assert not refuses(request(if_match="*"), DIGEST)
    assert refuses(request(if_match="*"), None)
    assert refuses(request(if_none_match="*"), DIGEST)
    assert not refuses(request(if_none_match="*"), None)


@pytest.mark.parametrize("current", [DIGEST, None])
def test_without_a_condition_nothing_is_asked(current: Digest | None) -> None:
    assert tag_condition(request()) is None
    assert not is_unchanged(request(), DIGEST)
    assert wants_range(request(), DIGEST)
    assert not refuses(request(), current)


@pytest.mark.parametrize(
    ("text", "expected"), [('"{}"', True), ("{}", False), ('W/"{}"', False), ("*", False), ('"x"', False), ("", False)]
)
def test_a_range_is_wanted_only_of_the_very_content(text: str, expected: bool) -> None:
    assert wants_range(request(if_range=text.format(DIGEST)), DIGEST) == expected
