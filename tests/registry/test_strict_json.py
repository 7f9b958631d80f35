"""JSON is read as every parser reads it, or refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.strict_json import DEPTH_MAX, NODES_MAX, parse_object

sound_texts = st.text(st.characters(codec="utf-8"), max_size=8)
numbers = st.integers(-(10**18), 10**19 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | sound_texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(sound_texts, inner, max_size=4), max_leaves=20
)
objects = st.dictionaries(sound_texts, values, max_size=5)


@given(objects, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_whatever_is_sound_is_read_as_everybody_reads_it(
    content: dict[str, object], escaped: bool, indent: int | str | None
) -> None:
    body = json.dumps(content, ensure_ascii=escaped, indent=indent).encode()

    assert parse_object(body) == content


PUNCTUATION = ["{", "}", "[", "]", ",", ":", '"', "'a'", "//", "\\", "\n", " ", "\ufeff", "\0", "é"]
SCALARS = ['"a"', "1", "-0", "01", "0.5", "1e5", "1e999", "NaN", "Infinity", "null", "true", "1" * 25]
STRANGE = ['"a":', '"\\ud800"', '"\\ud83d\\ude00"']
fragments = st.sampled_from([*PUNCTUATION, *SCALARS, *STRANGE])


@given(st.binary(max_size=30) | st.lists(fragments, max_size=14).map(lambda parts: "".join(parts).encode()))
def test_any_bytes_are_read_as_python_reads_them_or_are_a_value_error(body: bytes) -> None:
    try:
        content = parse_object(body)
    except ValueError:
        return
    assert content == json.loads(body.decode("utf-8"))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"{}x", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": 1,}', "not JSON"),
        (b'{"a": 01}', "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"text"', "not an object"),
        (b"1", "not an object"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), "not JSON"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udc00": 1}', "half of a surrogate pair"),
        (b'{"a": ["\\ude00\\ud83d"]}', "half of a surrogate pair"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": -Infinity}', "not JSON"),
        (b'{"a": 1e999999}', "out of range"),
        (b'{"a": -1e400}', "out of range"),
        (b'{"a": ' + b"1" * 21 + b"}", "out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b'{"b": [{"a": 1, "a": 2}]}', "twice"),
    ],
)
def test_what_parsers_differ_about_is_refused_with_a_reason(body: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        parse_object(body)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_depth_is_bounded(kind: str) -> None:
    def nested(depth: int) -> bytes:
        if kind == "lists":
            return b'{"a":' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b"}"
        return b'{"a":' * depth + b"1" + b"}" * depth

    parse_object(nested(DEPTH_MAX))
    for depth in (DEPTH_MAX + 1, 1000, 100_000):
        with pytest.raises(ValueError, match=f"nested more than {DEPTH_MAX} deep"):
            parse_object(nested(depth))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (4 << 20),
        b'{"a":' * (NODES_MAX + 1),
        b'{"a":[' + b"0," * NODES_MAX + b"0]}",
        b'{"a":[' + b"[]," * NODES_MAX + b"0]}",
        b"{" + b",".join(b'"%x":0' % number for number in range(NODES_MAX + 1)) + b"}",
    ],
    ids=["open lists", "open objects", "numbers", "empty lists", "keys"],
)
def test_the_number_of_parts_is_bounded(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"too many parts|nested more than"):
        parse_object(body)


def test_a_manifest_of_four_mebibytes_is_no_bomb() -> None:
    body = b'{"data":"' + b"A" * ((4 << 20) - 11) + b'"}'

    assert len(body) == 4 << 20
    assert len(str(parse_object(body)["data"])) == (4 << 20) - 11


def test_a_number_of_four_million_digits_is_refused_and_a_fraction_is_not_slow() -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_object(b'{"a":' + b"7" * (4 << 20) + b"}")

    assert parse_object(b'{"a":0.' + b"7" * (4 << 20) + b"}") == {"a": pytest.approx(7 / 9)}
