"""Pointers: a large object is there as soon as its parts are, and is moved to its key afterwards.

A multipart upload makes its object where it was begun, which is before anybody knows the digest. A copy to the
object's own key takes as long as the object is large. So a small object, the pointer, says first where the bytes are,
and readers follow it wherever there is nothing at the key itself. The copy is made in the background.

A pointer is only written for keys whose bytes follow from the key, blobs: a second pointer, a copy, or the object
itself can't be anything else. No two pointers lead to the same segments, so whoever drops one may drop those.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import structlog

from storage import keys
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, VersionMismatch
from storage.renewing import renewing
from storage.s3.client import Bucket, etag_of
from storage.s3.listing import listed
from storage.s3.multiparts import Multiparts
from storage.s3.objects import Objects, age_seconds
from storage.s3.records import Segment
from storage.s3.turns import LEASE_SECONDS, RENEW_SECONDS

STORED_BYTES_MAX = 64 << 10
VERSION = 1

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where the bytes of an object are, and who moves them, if somebody does."""

    segments: tuple[Segment, ...]
    modified: float
    mover: str = ""

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return sum(segment.size for segment in self.segments)

    def to_bytes(self) -> bytes:
        """The pointer as it is stored."""
        fields = {
            "version": VERSION,
            "nonce": secrets.token_hex(8),  # each write has another entity tag
            "segments": [[s.key, s.etag, s.size, s.whole] for s in self.segments],
            "modified": self.modified,
            "mover": self.mover,
        }
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, stored: bytes, key: str) -> "Pointer":
        """Read a stored pointer. Raises Corrupt."""
        try:
            fields = json.loads(stored)
            if fields["version"] != VERSION:
                raise ValueError("of another version")
            segments = tuple(
                Segment(str(k), str(tag), int(size), bool(all_)) for k, tag, size, all_ in fields["segments"]
            )
            if not segments:
                raise ValueError("it leads nowhere")
            return cls(segments, float(fields["modified"]), str(fields["mover"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            log.error("damaged pointer", key=keys.pointer(key), reason=str(error), remedy="push the blob again")
            raise Corrupt("the pointer to a blob is damaged", key=key) from error


@dataclass(frozen=True, slots=True)
class Found:
    """A pointer as it was read, the version to change it by, and how long ago it was written."""

    pointer: Pointer
    version: str
    age: float


def may_point(key: str) -> bool:
    """Tell whether there may be a pointer instead of the object."""
    return key.startswith(keys.BLOBS)


class Pointers:
    """All pointers of a bucket."""

    def __init__(self, bucket: Bucket, objects: Objects, multiparts: Multiparts) -> None:
        self._bucket = bucket
        self._objects = objects
        self._multiparts = multiparts

    async def point(self, key: str, pointer: Pointer) -> bool:
        """Make an object visible; False if it is already, through another pointer."""
        try:
            await self._objects.create(keys.pointer(key), pointer.to_bytes())
        except AlreadyExists:
            found = await self.find(key)
            if found is None or not await self._leads_somewhere(found.pointer):
                await self._objects.put(keys.pointer(key), pointer.to_bytes())
                return True
            return False
        return True

    async def find(self, key: str) -> Found | None:
        """Read the pointer of an object. Raises Corrupt."""
        try:
            response, body = await self._objects.fetch(keys.pointer(key), bytes_max=STORED_BYTES_MAX)
        except NotFound:
            return None
        return Found(Pointer.from_bytes(body, key), etag_of(response), age_seconds(response))

    async def all(self) -> AsyncIterator[str]:
        """The keys of all objects that a pointer stands for."""
        async for found in listed(self._bucket, keys.POINTERS):
            yield self._bucket.own(found["Key"]).removeprefix(keys.POINTERS)

    async def move(self, key: str, *, idle_seconds: float = 0.0) -> int:
        """Copy an object to its key, drop the pointer and what it led to, and return how many bytes it has.

        0 if there is nothing to do here: no pointer, one that somebody moves now, or one that was written less
        than `idle_seconds` ago. Raises NotFound if it leads nowhere.
        """
        found = await self.find(key)
        if found is None or found.age < (LEASE_SECONDS if found.pointer.mover else idle_seconds):
            return 0
        claimed, version = replace(found.pointer, mover=secrets.token_hex(8)), found.version

        async def claim() -> None:
            nonlocal version
            version = await self._objects.replace(keys.pointer(key), claimed.to_bytes(), version=version)

        try:
            await claim()
            await renewing(self._multiparts.copy(claimed.segments, key), claim, RENEW_SECONDS)
            await self._objects.delete_version(keys.pointer(key), version=version)
        except VersionMismatch:
            return 0  # somebody else has taken over, or a new push has written another one
        except NotFound as error:
            if await self.find(key) is None:
                return 0
            log.error("pointer leads nowhere", key=keys.pointer(key), reason=str(error), remedy="push the blob again")
            raise
        for segment in claimed.segments:
            await self._objects.delete(segment.key)
        return claimed.size

    async def drop(self, key: str) -> None:
        """Delete the pointer of an object, and what it leads to."""
        try:
            found = await self.find(key)
        except Corrupt:
            found = None
        await self._objects.delete(keys.pointer(key))
        for segment in found.pointer.segments if found else ():
            await self._objects.delete(segment.key)

    async def _leads_somewhere(self, pointer: Pointer) -> bool:
        try:
            found = [await self._objects.head(segment.key) for segment in pointer.segments]
        except NotFound:
            return False
        return [etag_of(each) for each in found] == [segment.etag for segment in pointer.segments]


class Mover:
    """Moves objects in the background, a few at a time. What it does not come to, the next sweep does."""

    def __init__(self, pointers: Pointers, *, moves_max: int = 2) -> None:
        self._pointers = pointers
        self._turns = asyncio.Semaphore(moves_max)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def schedule(self, key: str) -> None:
        """Move an object soon."""
        if key not in self._tasks:
            task = asyncio.get_running_loop().create_task(self._move(key))
            self._tasks[key] = task
            task.add_done_callback(lambda _task: self._tasks.pop(key, None))

    async def close(self) -> None:
        """Stop. A copy that is under way is given up."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _move(self, key: str) -> None:
        async with self._turns:
            try:
                await self._pointers.move(key)
            except StorageError as error:
                log.warning(
                    "a blob stays where it was uploaded", key=key, reason=str(error), remedy="none: tried again"
                )
