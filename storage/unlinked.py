"""Since when bytes lie in a store that no link leads to: what a garbage collection remembers for the next one."""

import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable

import structlog

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused

STORED_BYTES_MAX = 1 << 30

log = structlog.get_logger(__name__)


class Since:
    """Times by digest, 16 bytes each: the first 64 bits of the digest, and whole seconds since the epoch.

    Two digests that begin alike have the later time of both.
    """

    def __init__(self, entries: Iterable[tuple[int, int]] = ()) -> None:
        self._digests, self._times = array("Q"), array("Q")
        for digest, when in sorted(entries):
            self._digests.append(digest)
            self._times.append(when)

    def get(self, digest: Digest) -> int | None:
        """Since when; None if nothing is known of it."""
        wanted, found = _short(digest), None
        place = bisect_left(self._digests, wanted)
        while place < len(self._digests) and self._digests[place] == wanted:
            found, place = self._times[place], place + 1
        return found

    def to_bytes(self) -> bytes:
        """As it is stored: all digests in order, then their times; eight bytes each, the lowest first."""
        return b"".join(_little(numbers).tobytes() for numbers in (self._digests, self._times))

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Since":
        """Read what was stored. Raises ValueError if it is something else."""
        half, rest = divmod(len(stored), 2)
        if rest or half % 8:
            raise ValueError("it has no whole number of entries")
        found = cls()
        found._digests.frombytes(stored[:half])
        found._times.frombytes(stored[half:])
        found._digests, found._times = _little(found._digests), _little(found._times)
        return found


class Noted:
    """Digests with times, in any order, 16 bytes each."""

    def __init__(self) -> None:
        self._digests, self._times = array("Q"), array("Q")

    def add(self, digest: Digest, when: float) -> None:
        """Take a digest in. Times are rounded up, so that nothing counts as older than it is."""
        self._digests.append(_short(digest))
        self._times.append(int(-(-when // 1)))

    def since(self) -> Since:
        """All of them."""
        return Since(zip(self._digests, self._times, strict=True))


class UnlinkedStore:
    """One object, which the collection that is under way reads at its beginning and writes before its end."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def read(self) -> Since:
        """What was written last; nothing if that is damaged, so that all bytes stay for longer."""
        try:
            return Since.from_bytes((await self._driver.get(keys.UNLINKED, bytes_max=STORED_BYTES_MAX)).body)
        except (Corrupt, StorageRefused, ValueError) as error:
            log.error("damaged record of unlinked bytes", key=keys.UNLINKED, reason=str(error), remedy="none needed")
        except NotFound:
            pass
        return Since()

    async def write(self, since: Since) -> None:
        """Remember it."""
        await self._driver.put(keys.UNLINKED, since.to_bytes(), durable=False)


def _short(digest: Digest) -> int:
    return int(digest.hex[:16], 16)


def _little(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "little":
        return numbers
    swapped = array("Q", numbers)
    swapped.byteswap()
    return swapped
