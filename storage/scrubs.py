"""What is known of the scrub: when the blobs of each shard were last read, and how far the present shard is.

A shard holds the blobs whose digests begin with the same byte: 256 of them, of about the same size, since digests are
spread evenly. So one small object tells of a whole store when it was read, however many blobs it has.
"""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace

from storage import keys
from storage.digest import SHA256, Digest
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageRefused, StorageUnavailable, VersionMismatch

SHARDS = tuple(f"{byte:02x}" for byte in range(256))
TOLD_MAX = 20
"""So many unreadable blobs of a shard are named. The rest is counted."""

STORED_BYTES_MAX = 1 << 20
SWAP_ATTEMPTS_MAX = 20
UNREADABLE = ""
"""The version of a record that can't be read, and so is written over."""


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard as it was read last: from when to when (seconds since the epoch), and what was found.

    `damaged` counts the copies that were found damaged then; each of them has a marker. `unreadable` names those that
    could not be read at all, of which nobody knows whether they are whole, at most TOLD_MAX.
    """

    began: float = 0.0
    ended: float = 0.0
    blobs: int = 0
    bytes: int = 0
    damaged: int = 0
    unreadable: tuple[str, ...] = ()
    unreadable_count: int = 0

    def with_unreadable(self, digest: Digest) -> "ShardRecord":
        """The record with one more blob that could not be read."""
        named = self.unreadable if len(self.unreadable) >= TOLD_MAX else (*self.unreadable, digest.hex)
        return replace(self, unreadable=named, unreadable_count=self.unreadable_count + 1)


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a shard is: everything up to the blob `after` was read by `touched`, and what was found so far."""

    shard: str
    after: str = ""
    touched: float = 0.0
    found: ShardRecord = field(default_factory=ShardRecord)

    @property
    def after_digest(self) -> Digest | None:
        """The last blob that was read, if there is one."""
        return Digest(SHA256, self.after) if self.after else None


class ScrubStore:
    """The two records of the scrub. What can't be read of them counts as absent: the blobs are read once more."""

    def __init__(self, driver: Driver, *, clock: Callable[[], float]) -> None:
        self._driver = driver
        self._clock = clock

    async def shards(self) -> Mapping[str, ShardRecord]:
        """Those shards that were read at least once."""
        told, _version = await self._told()
        found = {}
        for shard in SHARDS:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                found[shard] = _shard(told[shard])
        return found

    async def record(self, shard: str, found: ShardRecord) -> None:
        """Write down that a shard was read to its end, whatever another process writes of others meanwhile."""
        for _attempt in range(SWAP_ATTEMPTS_MAX):
            told, version = await self._told()
            text = json.dumps({**told, shard: asdict(found)}, separators=(",", ":")).encode()
            with contextlib.suppress(AlreadyExists, VersionMismatch):
                if version is None:
                    await self._driver.create(keys.SCRUB_SHARDS, text)
                elif version == UNREADABLE:
                    await self._driver.put(keys.SCRUB_SHARDS, text)
                else:
                    await self._driver.replace(keys.SCRUB_SHARDS, text, version=version)
                return
        raise StorageUnavailable("the record of the scrub is written by too many at once", key=keys.SCRUB_SHARDS)

    async def cursor(self) -> Cursor | None:
        """How far the shard is that is being read, or was when its reader was stopped; None if there is none."""
        try:
            told = json.loads((await self._driver.get(keys.SCRUB_CURSOR, bytes_max=STORED_BYTES_MAX)).body)
            cursor = Cursor(str(told["shard"]), str(told["after"]), float(told["touched"]), _shard(told["found"]))
            if cursor.after:
                Digest.parse(f"{SHA256}:{cursor.after}")
        except (NotFound, StorageRefused, ValueError, KeyError, TypeError):
            return None
        return cursor if cursor.shard in SHARDS and cursor.after[:2] in {"", cursor.shard} else None

    async def move(self, cursor: Cursor) -> None:
        """Write down how far the shard is. If it is lost, a part of the shard is read again."""
        text = json.dumps(asdict(replace(cursor, touched=self._clock()))).encode()
        await self._driver.put(keys.SCRUB_CURSOR, text, durable=False)

    async def end(self) -> None:
        """Forget the cursor: its shard is recorded."""
        await self._driver.delete(keys.SCRUB_CURSOR)

    async def _told(self) -> tuple[Mapping[str, object], str | None]:
        """The shards as they are stored, and the version of that; None if there is nothing."""
        try:
            stored = await self._driver.get(keys.SCRUB_SHARDS, bytes_max=STORED_BYTES_MAX)
            told = json.loads(stored.body)
        except (Corrupt, StorageRefused, ValueError):
            return {}, UNREADABLE
        except NotFound:
            return {}, None
        return (told, stored.version) if isinstance(told, dict) else ({}, UNREADABLE)


def _shard(told: object) -> ShardRecord:
    """Read a record. Raises ValueError, KeyError or TypeError if it is none."""
    if not isinstance(told, dict):
        raise TypeError("it is no object")
    record = ShardRecord(**{name: told[name] for name in ShardRecord.__slots__})
    numbers = (record.began, record.ended, record.blobs, record.bytes, record.damaged, record.unreadable_count)
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("a field is no number")
    return replace(record, unreadable=tuple(map(str, record.unreadable)))
