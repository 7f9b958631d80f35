"""Byte ranges select the very bytes that a plain reading of RFC 9110 selects."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.ranges import RANGES_MAX, ByteRange, Multipart, parse_ranges
from tests.stores import joined

numbers = st.integers(0, 25) | st.just(10**18)
specs = st.one_of(
    st.tuples(numbers, numbers).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    numbers.map(lambda first: f"{first}-"),
    numbers.map(lambda count: f"-{count}"),
)
blanks = st.sampled_from(["", " ", "\t", "  "])
padded_specs = st.tuples(blanks, specs, blanks).map("".join)


def selected(spec: str, size: int) -> list[int]:
    """The places that one range selects, looked at one by one; none if it cannot be satisfied."""
    first, _, last = spec.strip().partition("-")
    if not first:
        return [place for place in range(size) if place >= size - int(last)]
    return [place for place in range(size) if place >= int(first) and (not last or place <= int(last))]


@given(padded_specs, st.integers(0, 20))
def test_one_range_selects_what_it_says(spec: str, size: int) -> None:
    found = parse_ranges(f"bytes={spec}", size)

    assert found is not None
    expected = selected(spec, size)
    assert [list(range(each.start, each.end + 1)) for each in found] == ([expected] if expected else [])
    assert all(str(each) == f"bytes {expected[0]}-{expected[-1]}/{size}" for each in found)


@given(st.lists(padded_specs, min_size=2, max_size=5), st.integers(0, 20))
def test_several_ranges_select_what_each_says_or_the_whole_is_sent(several: list[str], size: int) -> None:
    found = parse_ranges(f"bytes={','.join(several)}", size)

    expected = [places for places in (selected(spec, size) for spec in several) if places]
    if len(expected) == 1 or sum(map(len, expected)) > size:
        assert found is None
    else:
        assert found is not None
        assert [list(range(each.start, each.end + 1)) for each in found] == expected


@given(st.text("bytes=0123456789-, x", max_size=20) | st.text(max_size=12), st.integers(0, 20))
def test_whatever_a_client_sends_lies_inside_of_the_content(text: str, size: int) -> None:
    found = parse_ranges(text, size)

    for each in found or []:
        assert 0 <= each.start <= each.end < size
    assert sum(each.length for each in found or []) <= size


def test_so_many_ranges_are_taken_and_not_one_more() -> None:
    many = ",".join(f"{2 * place}-{2 * place}" for place in range(RANGES_MAX))

    assert len(parse_ranges(f"bytes={many}", 10_000) or []) == RANGES_MAX
    assert parse_ranges(f"bytes={many},9000-9000", 10_000) is None


@pytest.mark.parametrize("text", ["bytes=" + "9" * 20 + "-", "bytes=-" + "9" * 100, "bytes=" + "1" * 60_000])
def test_numbers_longer_than_any_size_are_ignored(text: str) -> None:
    assert parse_ranges(text, 100) is None


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=2, max_size=4))
def test_the_length_of_several_parts_is_known_before_they_are_read(pairs: list[tuple[int, int]]) -> None:
    content = bytes(range(20))
    parts = Multipart([ByteRange(min(pair), max(pair), 20) for pair in pairs], "application/octet-stream")

    async def read(start: int, length: int):  # type: ignore[no-untyped-def]  # an async generator
        for place in range(start, start + length):
            yield content[place : place + 1]

    body = asyncio.run(joined(parts.pieces(read)))

    assert len(body) == parts.length
    contents = [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(f"--{parts.boundary}".encode())[1:-1]]
    assert contents == [content[min(pair) : max(pair) + 1] for pair in pairs]


def test_every_answer_has_a_boundary_of_its_own() -> None:
    boundaries = {Multipart([], "a/b").boundary for _ in range(20)}

    assert len(boundaries) == 20
