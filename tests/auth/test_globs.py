"""A glob matches by component, in bounded time, and one that can match nothing is refused."""

import re
import time
from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.auth.globs import GlobError, Globs, has_wildcards
from registry.errors import NameInvalid
from registry.names import COMPONENT_BYTES_MAX, NAME_BYTES_MAX, NAME_COMPONENTS_MAX, parse_name
from tests.properties import repository_names

SHORT_NAMES = [
    name
    for length in range(1, 6)
    for name in map("".join, product("ab._-/", repeat=length))
    if re.fullmatch(r"[ab]([._/ab-]*[ab])?", name)
]


def is_name(text: str) -> bool:
    try:
        parse_name(text)
    except NameInvalid:
        return False
    return True


NAMES = [name for name in SHORT_NAMES if is_name(name)]


def matches(glob: list[str], text: list[str]) -> bool:
    """What a glob means, said again: slow, and as plain as can be."""
    if not glob or not text:
        return not glob and not text
    if glob[0] == "**":
        return matches(glob[1:], text[1:]) or matches(glob, text[1:])
    return component_matches(glob[0], text[0]) and matches(glob[1:], text[1:])


def component_matches(glob: str, text: str) -> bool:
    if not glob:
        return not text
    if glob[0] == "*":
        return component_matches(glob[1:], text) or (bool(text) and component_matches(glob, text[1:]))
    return bool(text) and glob[0] in ("?", text[0]) and component_matches(glob[1:], text[1:])


component_globs = st.just("**") | st.text("ab?*-.", min_size=1, max_size=5).filter(lambda text: "**" not in text)
globs = st.lists(component_globs, min_size=1, max_size=5).map("/".join)
few_names = st.lists(st.sampled_from(["a", "b", "ab", "ba", "aa", "a-b", "abab"]), min_size=1, max_size=7).map("/".join)


@pytest.mark.parametrize(
    ("glob", "matched", "others"),
    [
        ("team", ["team"], ["team-evil", "team/app", "a/team", "tea"]),
        ("team/*", ["team/app", "team/a-b"], ["team", "team/a/b", "team-evil/app", "steam/app", "team/"]),
        ("team/**", ["team/app", "team/a/b"], ["team", "team-evil", "team-evil/app", "a/team/b", "team/"]),
        ("**", ["a", "a/b", "a/b/c"], [""]),
        ("*", ["a", "team-evil"], ["a/b", ""]),
        ("te*m/app-?", ["tem/app-1", "team/app-x", "te-m/app-2"], ["te/m/app-1", "team/app-", "team/app-12"]),
        ("**/app", ["a/app", "a/b/app", "app/app"], ["app", "a/app/b", "a/xapp", "a/apps"]),
        ("a/**/b", ["a/x/b", "a/x/y/b", "a/b/b"], ["a/b", "a/x/c", "a/x/b/c", "ax/b"]),
        ("**/**", ["a/b", "a/b/c"], ["a"]),
        ("**/a*/**/b", ["x/a/x/b", "x/y/ab/x/b", "a/a/b/b"], ["x/a/b", "x/b/x/b", "a/x/b"]),
        ("*a*b*", ["ab", "xaxbx", "aab"], ["ba", "a/b"]),
        ("a.b", ["a.b"], ["a-b", "axb"]),
        ("*-prod", ["x-prod", "a-b-prod"], ["prod", "x-prod-y", "x-prod/y"]),
    ],
)
def test_a_glob_matches_by_component(glob: str, matched: list[str], others: list[str]) -> None:
    compiled = Globs.of_names([glob])

    assert [name for name in [*matched, *others] if compiled.match(name)] == matched


@given(globs, few_names)
@example("**/a/b/**/a", "a/a/b/b/a")
@example("a*ab/**", "aab/b")
def test_a_glob_matches_just_what_its_meaning_says(glob: str, name: str) -> None:
    try:
        compiled = Globs.of_names([glob])
    except GlobError:
        return
    assert compiled.match(name) == matches(glob.split("/"), name.split("/"))


@given(globs, few_names)
def test_a_glob_over_text_matches_just_what_its_meaning_says(glob: str, text: str) -> None:
    assert Globs.of_texts([glob]).match(text) == matches(glob.split("/"), text.split("/"))


@given(st.text("ab.-_*?/", min_size=1, max_size=4))
def test_a_glob_is_refused_just_if_no_name_matches(glob: str) -> None:
    # A glob of four characters that matches a name matches one of at most five: the names of that length are all tried.
    try:
        Globs.of_names([glob])
    except GlobError:
        assert "**" in glob or not any(matches(glob.split("/"), name.split("/")) for name in NAMES)
    else:
        assert any(matches(glob.split("/"), name.split("/")) for name in NAMES)


@given(repository_names)
def test_a_name_is_a_glob_that_matches_itself_and_nothing_longer(name: str) -> None:
    compiled = Globs.of_names([name])

    assert not has_wildcards(name)
    assert compiled.match(name)
    assert not any(compiled.match(other) for other in (name + "x", name + "/x", "x" + name, "x/" + name, name + "\n"))
    assert Globs.of_names(["**"]).match(name)


@given(st.lists(globs, max_size=3), few_names)
def test_several_globs_match_what_one_of_them_matches(texts: list[str], name: str) -> None:
    together = Globs.of_texts(texts)

    assert together.match(name) == any(Globs.of_texts([text]).match(name) for text in texts)


def test_no_globs_match_nothing() -> None:
    assert not any(Globs.of_names([]).match(text) for text in ("", "a", "a/b"))


@pytest.mark.parametrize(
    ("glob", "says"),
    [
        ("", "empty glob: write **"),
        ("Team/*", "'T' stands in no repository's name"),
        ("team/[ab]", "'[' stands in no repository's name"),
        ("host:5000/*", "':' stands in no repository's name"),
        ("team/*\n", r"'\n' stands in no repository's name"),
        ("/team", "no slash at its ends"),
        ("team/", "no slash at its ends"),
        ("a//b", "no two in a row"),
        ("team**", "write * within 'team**'"),
        ("a/***", "write * within '***'"),
        ("a/-b", "can match '-b'"),
        ("_*", "can match '_*'"),
        ("a..b", "can match 'a..b'"),
        ("*/a.-?", "can match 'a.-?'"),
        ("*.", "can match '*.'"),
        ("..", "can match '..'"),
        ("a" * (COMPONENT_BYTES_MAX + 1), f"at most {COMPONENT_BYTES_MAX} characters"),
        ("/".join(["**"] * (NAME_COMPONENTS_MAX + 1)), f"at most {NAME_COMPONENTS_MAX} components"),
        ("/".join(["?" * 90] * 3), f"at most {NAME_BYTES_MAX} characters"),
        ("a" * 100_000, "longer than any glob"),
    ],
)
def test_a_glob_that_can_match_no_name_is_refused_in_one_line_that_says_why(glob: str, says: str) -> None:
    with pytest.raises(GlobError) as raised:
        Globs.of_names(["**", glob])

    assert says in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "glob", ["a" * COMPONENT_BYTES_MAX, "*-*", "a*-b", "?*?", "a__b", "a---b", "?.?", "_".join("?" * 64), "a-*-*"]
)
def test_a_glob_that_matches_some_name_is_taken_however_odd(glob: str) -> None:
    assert Globs.of_names([glob]).texts == (glob,)


@pytest.mark.parametrize(
    ("glob", "matched", "others"),
    [
        ("acme/*", ["acme/app", "acme/"], ["acme", "acme/app/x", "evil/acme/app", "acme-evil/app"]),
        ("refs/heads/**", ["refs/heads/a", "refs/heads/a/b"], ["refs/heads", "refs/tags/a"]),
        ("https://*.example/**", ["https://ci.example/a"], ["http://ci.example/a", "https://ci.example.evil/a"]),
        ("repo:acme/*:ref:refs/heads/main", ["repo:acme/app:ref:refs/heads/main"], ["repo:acme/app:ref:refs/heads/x"]),
        ("**", ["", "a", "a/b", "a\nb"], []),
        ("*", ["", "a", "A.B*"], ["a/b"]),
        ("a.c", ["a.c"], ["abc", "A.C", "a.c\n"]),
    ],
)
def test_a_glob_over_text_keeps_to_components_too(glob: str, matched: list[str], others: list[str]) -> None:
    compiled = Globs.of_texts([glob])

    assert [text for text in [*matched, *others] if compiled.match(text)] == matched


@pytest.mark.parametrize("glob", ["", "a**", "x/**b"])
def test_a_malformed_glob_over_text_is_refused(glob: str) -> None:
    with pytest.raises(GlobError):
        Globs.of_texts([glob])


@pytest.mark.parametrize(
    ("glob", "text"),
    [
        ("*a" * 120 + "b", "a" * NAME_BYTES_MAX),
        ("*a" * 60 + "*b", "a" * COMPONENT_BYTES_MAX + "/" + "a" * 120),
        ("**/a/" * 12 + "b", "/".join(["a"] * NAME_COMPONENTS_MAX)),
        ("**/*a*a*a*b/" * 8 + "**", "/".join(["a" * 7] * NAME_COMPONENTS_MAX)),
        ("?*" * 100 + "-b", "a" * NAME_BYTES_MAX),
    ],
)
def test_no_glob_is_slow_to_match(glob: str, text: str) -> None:
    # With ordinary quantifiers each of these takes longer than the universe has been there.
    compiled = Globs.of_texts([glob])
    longer = text * 20
    began = time.process_time()

    assert not compiled.match(text)
    assert not compiled.match(longer)
    assert time.process_time() - began < 1


def test_a_glob_is_shown_in_its_repr() -> None:
    assert repr(Globs.of_names(["team/*", "**"])) == "Globs(team/*, **)"
