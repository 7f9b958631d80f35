"""A page has the size that was asked for, within reason, and its link leads on behind any proxy."""

import re
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.api.paging import PAGE_MAX, next_page, page_size
from registry.api.requests import Request
from registry.errors import BadRequest
from registry.query import Query


def request(*, n: str | None = None, root: str = "") -> Request:
    async def receive() -> dict[str, object]:
        raise AssertionError("nobody asked for a body")

    query = Query({} if n is None else {"n": [n]})
    return Request({"type": "http", "headers": []}, receive, "GET", root, None, "", query)


@given(st.text(max_size=5) | st.text("0123456789+- _.", max_size=25))
@example("\N{SUPERSCRIPT TWO}")
@example("\N{ARABIC-INDIC DIGIT TWO}")
@example("1\n")
def test_a_page_size_is_digits_within_reason_or_a_bad_request(text: str) -> None:
    if re.fullmatch("[0-9]+", text):
        assert page_size(request(n=text)) == min(int(text), PAGE_MAX)
    else:
        with pytest.raises(BadRequest):
            page_size(request(n=text))


def test_without_a_size_a_page_is_as_large_as_can_be() -> None:
    assert page_size(request()) == PAGE_MAX >= 1000


@given(st.text(st.characters(codec="utf-8"), max_size=10), st.sampled_from(["", "/registry"]))
def test_a_link_is_one_line_relative_to_the_root_and_brings_back_what_was_put_in(last: str, root: str) -> None:
    ((name, value),) = next_page(request(root=root), "/v2/a/b/tags/list", [("n", 5), ("last", last)])

    matched = re.fullmatch(r'<([!-;=?-~]+)>; rel="next"', value.decode("ascii"))
    assert (name, bool(matched)) == (b"link", True)
    address = urlsplit(matched[1] if matched else "")
    assert (address.scheme, address.netloc, address.path) == ("", "", f"{root}/v2/a/b/tags/list")
    assert parse_qsl(address.query, keep_blank_values=True) == [("n", "5"), ("last", last)]
