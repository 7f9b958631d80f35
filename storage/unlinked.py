"""Since when bytes lie in a store that no link leads to: what a garbage collection remembers for the next one."""

import math

import structlog

from storage import keys
from storage.counted_blobs import NO_BLOBS, BlobCounter, CountedBlobs, fingerprint
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused

STORED_BYTES_MAX = 1 << 30

log = structlog.get_logger(__name__)


class Since:
    """Times by digest, in whole seconds since the epoch. Two digests that begin alike have the later time of both."""

    def __init__(self, times: CountedBlobs = NO_BLOBS) -> None:
        self._times = times

    def get(self, digest: Digest) -> int | None:
        """Since when; None if nothing is known of it."""
        return self._times.size(fingerprint(digest))

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return self._times.to_bytes()

    @classmethod
    def from_bytes(cls, stored: bytes) -> "Since":
        """Read what was stored. Raises ValueError if it is something else."""
        return cls(CountedBlobs.from_bytes(stored))


class Noted:
    """Digests with times, in any order."""

    def __init__(self) -> None:
        self._times = BlobCounter()

    def add(self, digest: Digest, when: float) -> None:
        """Take a digest in. Times are rounded up, so that nothing counts as older than it is."""
        self._times.add(fingerprint(digest), math.ceil(when))

    def since(self) -> Since:
        """All of them."""
        return Since(self._times.counted(largest=True))


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
