"""Counted blobs: which blobs something holds and a number for each, such as its size, in 16 bytes."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from storage.digest import Digest

BUCKETS = 256
ENTRY_BYTES = 16


def fingerprint(digest: Digest) -> int:
    """The first 64 bits of a digest: two of a billion blobs have the same one with a chance of one to 37."""
    return int(digest.hex[:16], 16)


class CountedBlobs:
    """Distinct blobs by fingerprint, in order, each with its size in bytes. Never changed."""

    def __init__(self, fingerprints: "array[int]", sizes: "array[int]") -> None:
        self._fingerprints = fingerprints
        self._sizes = sizes

    def __len__(self) -> int:
        """How many there are."""
        return len(self._fingerprints)

    def __contains__(self, blob: int) -> bool:
        """Tell whether a blob is among them, by its fingerprint."""
        return self.size(blob) is not None

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield fingerprint and size of each, in order."""
        return zip(self._fingerprints, self._sizes, strict=True)

    def size(self, blob: int) -> int | None:
        """The size of a blob, by its fingerprint; None if it is not among them."""
        place = bisect_left(self._fingerprints, blob)
        if place == len(self._fingerprints) or self._fingerprints[place] != blob:
            return None
        return self._sizes[place]

    @property
    def total(self) -> int:
        """The bytes of all of them."""
        return sum(self._sizes)

    @property
    def memory_bytes(self) -> int:
        """What they take in memory, and as text."""
        return ENTRY_BYTES * len(self)

    def to_bytes(self) -> bytes:
        """All fingerprints, then all sizes: eight bytes each, the lowest first."""
        return b"".join(_swapped(numbers).tobytes() for numbers in (self._fingerprints, self._sizes))

    @classmethod
    def from_bytes(cls, text: bytes) -> "CountedBlobs":
        """Read what `to_bytes` wrote. Raises ValueError if it can't have been that."""
        if len(text) % ENTRY_BYTES:
            raise ValueError(f"{len(text)} is no multiple of {ENTRY_BYTES}")
        numbers: array[int] = array("Q")
        numbers.frombytes(text)
        numbers = _swapped(numbers)
        half = len(numbers) // 2
        return cls(numbers[:half], numbers[half:])


NO_BLOBS = CountedBlobs(array("Q"), array("Q"))


class BlobCounter:
    """Takes blobs in any order, each any number of times: 16 bytes for each time."""

    def __init__(self) -> None:
        self._buckets: Sequence[tuple[array[int], array[int]]] = [(array("Q"), array("Q")) for _ in range(BUCKETS)]

    def add(self, blob: int, size: int) -> None:
        """Take a blob in, by its fingerprint. Of two sizes the one that was told last counts."""
        fingerprints, sizes = self._buckets[blob >> 56]
        fingerprints.append(blob)
        sizes.append(size)

    def counted(self, *, largest: bool = False) -> CountedBlobs:
        """Everything that was taken in, each blob once; with `largest`, the largest of its numbers counts instead."""
        fingerprints: array[int] = array("Q")
        sizes: array[int] = array("Q")
        for bucket in self._buckets:  # one at a time is turned into Python's own numbers
            told = zip(*bucket, strict=True)
            found = dict(sorted(told) if largest else told)
            for blob in sorted(found):
                fingerprints.append(blob)
                sizes.append(found[blob])
        return CountedBlobs(fingerprints, sizes)


def _swapped(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "little":
        return numbers
    numbers = numbers[:]
    numbers.byteswap()
    return numbers
