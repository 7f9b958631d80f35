"""Names, tags, digests, references and upload ids follow their grammars to the letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import DigestInvalid, ManifestInvalid, NameInvalid
from registry.names import (
    COMPONENT_BYTES_MAX,
    NAME_BYTES_MAX,
    NAME_COMPONENTS_MAX,
    is_tag,
    is_upload,
    parse_digest,
    parse_name,
    parse_reference,
    parse_tag,
)
from storage.digest import Digest
from tests.properties import NAME_GRAMMAR, TAG_GRAMMAR, digest_texts, repository_names, tags

HOSTILE = ["é", "ａ", "а", "İ", "ß", "\n", "\r", "\0", "\x1b", " ", "%", "\\", ";", "\u202e", "\ud800"]  # noqa: RUF001  # look-alikes


@given(repository_names)
def test_a_well_formed_name_comes_back_as_it_was(text: str) -> None:
    assert parse_name(text) == text


@given(st.text("a0._-/A", max_size=12))
def test_a_text_is_a_name_just_if_the_grammar_of_the_specification_says_so(text: str) -> None:
    try:
        parse_name(text)
    except NameInvalid:
        assert not NAME_GRAMMAR.fullmatch(text)
    else:
        assert NAME_GRAMMAR.fullmatch(text)


@given(repository_names, st.characters(codec="utf-8"), st.data())
def test_no_character_outside_of_the_grammar_gets_into_a_name(text: str, added: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    changed = text[:place] + added + text[place:]

    if not NAME_GRAMMAR.fullmatch(changed):
        with pytest.raises(NameInvalid):
            parse_name(changed)


@pytest.mark.parametrize("text", ["a", "0", "a__b", "a---b", "a.b-c_d", "library/alpine", "0/1/2", "a/blobs/uploads"])
def test_legal_oddities_are_names(text: str) -> None:
    assert parse_name(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", "_a", "a_", "-a", "a-", ".a", "a.", "a..b", "a___b"]
    + ["a._b", "A", "a/B", "a:b", "a@b", "a\n", "\na", "a b", "a?b", "a#b", "a%2fb", "_uploads", "a/_layers"]
    + [f"a{character}b" for character in HOSTILE]
    + HOSTILE,
)
def test_everything_else_is_refused_with_what_a_name_looks_like(text: str) -> None:
    with pytest.raises(NameInvalid, match="a repository name"):
        parse_name(text)


def test_a_name_has_its_limits_and_reaches_them() -> None:
    longest = "/".join(["a" * COMPONENT_BYTES_MAX, "b" * (NAME_BYTES_MAX - COMPONENT_BYTES_MAX - 1)])
    deepest = "/".join(["a"] * NAME_COMPONENTS_MAX)

    assert (parse_name(longest), parse_name(deepest)) == (longest, deepest)
    for refused in (longest + "b", deepest + "/a", "a" * (COMPONENT_BYTES_MAX + 1)):
        with pytest.raises(NameInvalid, match="at most"):
            parse_name(refused)


@pytest.mark.parametrize("text", ["a" * 254 + "!", "a-" * 127, "-" * 255, "a__" * 85, "a/" * 127, "a" * 10_000_000])
def test_no_name_is_slow_to_refuse(text: str) -> None:
    # The published expression backtracks exponentially on some of these.
    with pytest.raises(NameInvalid):
        parse_name(text)


@given(tags)
def test_a_well_formed_tag_comes_back_as_it_was(text: str) -> None:
    assert parse_tag(text) == parse_reference(text) == text


@given(st.text(max_size=6) | st.text("aA0_.-:\n", max_size=6))
def test_a_text_is_a_tag_just_if_the_grammar_of_the_specification_says_so(text: str) -> None:
    assert is_tag(text) == bool(TAG_GRAMMAR.fullmatch(text))


@pytest.mark.parametrize("text", ["", ".a", "-a", "a/b", "a b", "a\n", "a" * 129, "a+b", "v1\n", *HOSTILE])
def test_a_text_that_is_no_tag_is_refused_with_what_a_tag_looks_like(text: str) -> None:
    with pytest.raises(ManifestInvalid, match="a tag has at most 128") as raised:
        parse_tag(text)
    # docker tells its user something about schema 1 when it reads these words.
    assert "tag invalid" not in raised.value.message


def test_a_tag_is_as_long_as_it_may_be() -> None:
    assert parse_tag("a" * 128) == "a" * 128


@given(digest_texts)
def test_a_digest_is_a_reference(text: str) -> None:
    assert parse_digest(text) == parse_reference(text) == Digest.parse(text)


@given(st.text(max_size=80))
def test_a_reference_is_a_digest_a_tag_or_refused_and_comes_back_as_it_was(text: str) -> None:
    try:
        reference = parse_reference(text)
    except DigestInvalid:
        assert ":" in text
    except ManifestInvalid:
        assert ":" not in text
    else:
        assert str(reference) == text


@given(st.text("aZ0_-./=\n%é", max_size=70))
def test_an_upload_id_is_up_to_64_letters_digits_underscores_and_hyphens(text: str) -> None:
    expected = 1 <= len(text) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-") for c in text)

    assert is_upload(text) == expected


@pytest.mark.parametrize("text", ["a" * 65, "..", "a/b", "a\n", "٣"])
def test_no_other_upload_id_is_taken(text: str) -> None:
    assert is_upload("a" * 64)
    assert not is_upload(text)
