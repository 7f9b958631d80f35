"""A query is decoded once and strictly; unknown parameters are nobody's business."""

from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadRequest
from registry.query import PARAMETERS_MAX, Query

texts = st.text(st.characters(codec="utf-8"), max_size=6)
pairs = st.lists(st.tuples(st.sampled_from(["n", "last", "digest", "é", ""]), texts), max_size=8)


@given(pairs, st.sampled_from([quote, quote_plus]))
def test_every_value_comes_back_in_the_order_given_however_it_was_encoded(
    parameters: list[tuple[str, str]], encode: Callable[..., str]
) -> None:
    raw = "&".join(f"{encode(name, safe='')}={encode(value, safe='')}" for name, value in parameters)

    query = Query.parse(raw.encode("ascii"))

    for name in ("n", "last", "digest", "é", "absent"):
        values = [value for known, value in parameters if known == name]
        assert list(query.all(name)) == values
        assert query.first(name) == (values[0] if values else None)


@given(st.binary(max_size=40))
def test_nothing_but_a_bad_request_comes_of_any_bytes(raw: bytes) -> None:
    try:
        query = Query.parse(raw)
    except BadRequest:
        return
    assert all(isinstance(value, str) for value in query.all("n"))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", None),
        (b"digest", ""),
        (b"digest=", ""),
        (b"digest=sha256:ab", "sha256:ab"),
        (b"digest=sha256%3Aab", "sha256:ab"),
        (b"digest=sha256%253Aab", "sha256%3Aab"),
        (b"origin=x&ns=y&digest=a&digest=b", "a"),
        (b"digest=a=b", "a=b"),
        (b"&&digest=a&", "a"),
        (b"digest=a;n=1", "a;n=1"),
        (b"Digest=a", None),
        (b"digest=%zz", "%zz"),
    ],
)
def test_the_first_of_equal_names_counts_and_is_decoded_once(raw: bytes, expected: str | None) -> None:
    assert Query.parse(raw).first("digest") == expected


@pytest.mark.parametrize("raw", [b"n=%ff", b"n=%c0%af", b"%ff=1", b"n=\xc3\xa9", b"n=%ed%a0%80"])
def test_what_is_no_utf_8_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="not percent-encoded UTF-8"):
        Query.parse(raw)


def test_a_flood_of_parameters_is_refused() -> None:
    assert len(Query.parse(b"tag=a&" * (PARAMETERS_MAX - 1) + b"tag=a").all("tag")) == PARAMETERS_MAX
    with pytest.raises(BadRequest, match=str(PARAMETERS_MAX)):
        Query.parse(b"tag=a&" * PARAMETERS_MAX + b"tag=a")
