"""The driver: each method of the contract, and the calls that it consists of."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from storage.drivers import Capabilities, Moved, Page, Reader, Sized, SmallObject, Stat, check_key, check_prefix
from storage.errors import AlreadyExists, Corrupt, NotFound
from storage.s3.client import Bucket
from storage.s3.listing import LOOK_AHEAD, PAGE_MAX, list_from_directories, list_in_byte_order
from storage.s3.memory import MemoryBudget, return_large_blocks
from storage.s3.multiparts import Multiparts
from storage.s3.objects import Objects
from storage.s3.opening import open_staged
from storage.s3.pointers import Mover, Pointer, Pointers, may_point
from storage.s3.presigned import presign_object
from storage.s3.readers import SegmentsReader, open_object
from storage.s3.records import MODIFIED, SIZE, StagedRecord, check_text, where
from storage.s3.settings import S3Settings
from storage.s3.staged import StagedObject
from storage.s3.staging import Staging
from storage.s3.strays import compact, drop_staged, move_all, pointed_segments, sweep_strays
from storage.s3.threads import Threads
from storage.s3.trial import try_bucket
from storage.s3.usage import all_sizes

RARE_SECONDS = 5.0
CALLS_AT_ONCE = 8

Found = TypeVar("Found")


class S3Driver:
    """Objects of one bucket, below one prefix. Any number of processes may use them at the same time.

    Nothing that another process needs is kept in this one. What a small object is replaced or created by is a
    conditional write, so the store decides who wins. Every write is durable when it is acknowledged: that is
    the store's promise.
    """

    def __init__(self, settings: S3Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = Capabilities(
            presigned_urls=True,
            staged_in_place=False,
            folders_hold_objects=True,
            durable_at_once=True,
            looks_cost_calls=True,
            listings_tell_sizes=True,
            rare_seconds=RARE_SECONDS,
            page_entries=PAGE_MAX - LOOK_AHEAD,
            calls_at_once=min(CALLS_AT_ONCE, settings.threads_max),
            writes_at_once=2,
        )
        sending_max = max(1, settings.memory_bytes_max // settings.part_bytes // 2)
        self._threads = Threads(settings.threads_max, sending_max=sending_max)
        self._bucket = Bucket(settings, self._threads)
        self._objects = Objects(self._bucket)
        multiparts = Multiparts(self._bucket, self._objects)
        self.memory = MemoryBudget(settings.memory_bytes_max, part_bytes=settings.part_bytes)
        self._pointers = Pointers(self._bucket, self._objects, multiparts)
        self._mover = Mover(self._pointers)
        self._staging = Staging(
            self._bucket, self._objects, multiparts, self._pointers, self._mover, self.memory, {}, clock
        )
        self._clock = clock
        self._in_byte_order = True

    async def start(self) -> None:
        """Prove that the bucket honours conditional writes; raises StorageError saying what to do if not."""
        return_large_blocks()
        await self._bucket.connect()
        self._in_byte_order = await try_bucket(self._bucket, self._objects)

    async def close(self) -> None:
        """Let go of threads and connections. Leases of writers that were not closed run out by themselves."""
        for writer in list(self._staging.writers.values()):
            if writer is not None:
                writer.lose()
        await self._mover.close()
        await self._threads.close()
        self._bucket.close()

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read a small object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        check_key(key)
        found = await self._follow(key, partial(self._objects.get, key, bytes_max=bytes_max))
        return await self._get_pointed(key, found, bytes_max) if isinstance(found, Pointer) else found

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its version. Raises AlreadyExists."""
        return await self._objects.create(check_key(key), body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        """Write only over `version`, and return the new one. Raises VersionMismatch."""
        return await self._objects.replace(check_key(key), body, version=version)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:  # noqa: ARG002  # it always is
        """Write an object, whatever was there, and return its version."""
        return await self._objects.put(check_key(key), body)

    async def delete(self, key: str) -> None:
        """Delete an object; deleting what is absent is fine."""
        if may_point(check_key(key)):
            await self._pointers.drop(key)
        await self._objects.delete(key)

    async def settle(self) -> None:
        """Everything is durable."""

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:  # noqa: ARG002  # it always is
        """Delete objects, a thousand with each call. One that a pointer stands for takes calls of its own."""
        plain = [check_key(key) for key in keys]
        if any(map(may_point, plain)):
            pointed = {key async for key in self._pointers.all()}
            for key in pointed.intersection(plain):
                await self.delete(key)
            plain = [key for key in plain if key not in pointed]
        await self._objects.delete_many(plain)

    async def delete_version(self, key: str, *, version: str) -> None:
        """Delete only `version`. Raises VersionMismatch."""
        await self._objects.delete_version(check_key(key), version=version)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        """List a page of objects in byte order of their keys."""
        check_prefix(prefix)
        list_page = list_in_byte_order if self._in_byte_order else list_from_directories
        return await list_page(self._bucket, prefix, after=after, limit=limit, fold=fold)

    async def stat(self, key: str) -> Stat:
        """Tell size and time of an object. Raises NotFound."""
        found = await self._follow(check_key(key), partial(self._objects.stat, key))
        return Stat(found.size, found.modified, at_key=False) if isinstance(found, Pointer) else found

    async def open(self, key: str) -> Reader:
        """Open a large object for reading. Raises NotFound."""
        found = await self._follow(check_key(key), partial(open_object, self._objects, key))
        return self._segments(key, found) if isinstance(found, Pointer) else found

    async def presign(self, key: str, *, seconds: int) -> str | None:
        """Make a URL by which whoever has it reads the object for so many seconds, or until the credentials end."""
        return await presign_object(self._bucket, check_key(key), seconds=seconds)

    async def stage(self, key: str, *, record: str = "", text: bytes = b"") -> None:
        """Begin an empty staged object, and its record. Raises AlreadyExists."""
        begun = StagedRecord(self._clock(), text=check_text(text))
        try:
            await self._objects.create(where(check_key(key), record).record, begun.to_bytes(), begun.metadata())
        except AlreadyExists as error:
            raise AlreadyExists("there is such a staged object already", key=key) from error

    async def stat_staged(self, key: str, *, record: str = "") -> Stat:
        """Tell size and time of a staged object. Raises NotFound.

        Of one that another process is writing to, it tells what that has written down last.
        """
        at = where(check_key(key), record)
        writer = self._staging.writers.get(at.record)
        if writer is not None:
            return Stat(writer.size, writer.modified)
        try:
            found = (await self._objects.head(at.record)).get("Metadata", {})
        except NotFound as error:
            raise NotFound("no such staged object", key=key) from error
        if SIZE not in found:
            raise NotFound("the staged object has ended", key=key)
        try:
            return Stat(int(found[SIZE]), float(found[MODIFIED]))
        except (KeyError, ValueError) as error:
            raise Corrupt("the record of a staged object is damaged: push again", key=key) from error

    async def open_staged(self, key: str, *, record: str = "") -> StagedObject:
        """Become the writer of a staged object. Raises NotFound, or Busy if it has one already."""
        return await open_staged(self._staging, where(check_key(key), record))

    async def discard(self, key: str, *, record: str = "") -> None:
        """Drop a staged object and its record, also from under a writer; dropping what is absent is fine."""
        await drop_staged(self._staging, where(check_key(key), record))

    async def tidy(self, prefix: str) -> None:
        """Do nothing: a bucket has no folders."""
        check_prefix(prefix)

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Go on with moves that broke off, and drop what no record and no pointer leads to; returns how many."""
        return await move_all(self._staging) + await sweep_strays(self._staging, older_than_seconds=older_than_seconds)

    async def sizes(self) -> AsyncIterator[Sized]:
        """Yield every object below the prefix, and the uploads that were not completed."""
        pointed = {segment.key async for segment in pointed_segments(self._staging)}
        async for found in all_sizes(self._bucket):
            yield replace(found, pointed=True) if found.key in pointed else found

    async def compact(self) -> AsyncIterator[Moved]:
        """Move every object that a pointer stands for; who is moved by another process is waited for."""
        async for moved in compact(self._staging):
            yield moved

    async def _follow(self, key: str, look: Callable[[], Awaitable[Found]]) -> Found | Pointer:
        """What a look at the key finds, or the pointer that stands for it. Raises NotFound."""
        try:
            return await look()
        except NotFound:
            if not may_point(key):
                raise
        found = await self._pointers.find(key)
        return found.pointer if found else await look()  # it may have been moved between the two looks

    def _segments(self, key: str, pointer: Pointer) -> SegmentsReader:
        return SegmentsReader(self._objects, key, pointer.segments, pointer.modified)

    async def _get_pointed(self, key: str, pointer: Pointer, bytes_max: int) -> SmallObject:
        if pointer.size > bytes_max:
            raise Corrupt(f"the object has {pointer.size} bytes, at most {bytes_max} were expected", key=key)
        reader = self._segments(key, pointer)
        return SmallObject(b"".join([piece async for piece in reader.pieces(0, reader.size)]), reader.identity)
