"""Counted blobs are told apart by their fingerprints, and come back from storage as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.counted_blobs import NO_BLOBS, BlobCounter, CountedBlobs, fingerprint
from storage.digest import Digest

NUMBERS = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(NUMBERS, NUMBERS)), NUMBERS)
def test_each_blob_counts_once_with_the_size_told_last(told: list[tuple[int, int]], other: int) -> None:
    counter = BlobCounter()
    for blob, size in told:
        counter.add(blob, size)
    expected = dict(told)

    counted = counter.counted()

    assert list(counted) == sorted(expected.items())
    assert (len(counted), counted.total) == (len(expected), sum(expected.values()))
    assert all(counted.size(blob) == size for blob, size in expected.items())
    assert (other in counted) == (other in expected)
    assert list(CountedBlobs.from_bytes(counted.to_bytes())) == list(counted)


def test_a_list_takes_sixteen_bytes_for_each_blob() -> None:
    counter = BlobCounter()
    for number in range(100):
        counter.add(fingerprint(Digest.of(str(number).encode())), number)

    assert len(counter.counted().to_bytes()) == counter.counted().memory_bytes == 1600
    assert NO_BLOBS.to_bytes() == b""


def test_what_is_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        CountedBlobs.from_bytes(bytes(17))
