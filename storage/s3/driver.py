"""The driver: each method of the contract, and the calls that it consists of."""

import time
from collections.abc import Callable

from storage.drivers import Capabilities, Page, SmallObject, Stat, check_key, check_prefix
from storage.errors import AlreadyExists, Corrupt, NotFound
from storage.s3.client import Bucket
from storage.s3.listing import LOOK_AHEAD, PAGE_MAX, list_from_directories, list_in_byte_order
from storage.s3.memory import MemoryBudget, return_large_blocks
from storage.s3.multiparts import Multiparts
from storage.s3.objects import Objects
from storage.s3.readers import ObjectReader, open_object
from storage.s3.records import MODIFIED, SIZE, StagedRecord, record_key
from storage.s3.settings import S3Settings
from storage.s3.staged import StagedObject, Staging, open_staged
from storage.s3.strays import drop_staged, sweep_strays
from storage.s3.threads import Threads
from storage.s3.trial import try_bucket

RARE_SECONDS = 5.0
CALLS_AT_ONCE = 8


class S3Driver:
    """Objects of one bucket, below one prefix. Any number of processes may use them at the same time.

    Nothing that another process needs is kept in this one. What a small object is replaced or created by is a
    conditional write, so the store decides who wins. Every write is durable when it is acknowledged: that is
    the store's promise.
    """

    def __init__(self, settings: S3Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = Capabilities(
            folders_hold_objects=True,
            durable_at_once=True,
            rare_seconds=RARE_SECONDS,
            page_entries=PAGE_MAX - LOOK_AHEAD,
            calls_at_once=min(CALLS_AT_ONCE, settings.threads_max),
        )
        sending_max = max(1, settings.memory_bytes_max // settings.part_bytes // 2)
        self._threads = Threads(settings.threads_max, sending_max=sending_max)
        self._bucket = Bucket(settings, self._threads)
        self._objects = Objects(self._bucket)
        multiparts = Multiparts(self._bucket, self._objects)
        self.memory = MemoryBudget(settings.memory_bytes_max)
        self._staging = Staging(self._bucket, self._objects, multiparts, self.memory, {}, clock)
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
        await self._threads.close()
        self._bucket.close()

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read a small object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        return await self._objects.get(check_key(key), bytes_max=bytes_max)

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
        await self._objects.delete(check_key(key))

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
        return await self._objects.stat(check_key(key))

    async def open(self, key: str) -> ObjectReader:
        """Open a large object for reading. Raises NotFound."""
        return await open_object(self._objects, check_key(key))

    async def stage(self, key: str) -> None:
        """Begin an empty staged object. Raises AlreadyExists."""
        record = StagedRecord(self._clock())
        try:
            await self._objects.create(record_key(check_key(key)), record.to_bytes(), record.metadata())
        except AlreadyExists as error:
            raise AlreadyExists("there is such a staged object already", key=key) from error

    async def stat_staged(self, key: str) -> Stat:
        """Tell size and time of a staged object. Raises NotFound.

        Of one that another process is writing to, it tells what that has written down last.
        """
        writer = self._staging.writers.get(check_key(key))
        if writer is not None:
            return Stat(writer.size, writer.modified)
        try:
            found = await self._objects.head(record_key(key))
        except NotFound as error:
            raise NotFound("no such staged object", key=key) from error
        try:
            return Stat(int(found["Metadata"][SIZE]), float(found["Metadata"][MODIFIED]))
        except (KeyError, ValueError) as error:
            raise Corrupt("the record of a staged object is damaged: push again", key=key) from error

    async def open_staged(self, key: str) -> StagedObject:
        """Become the writer of a staged object. Raises NotFound, or Busy if it has one already."""
        return await open_staged(self._staging, check_key(key))

    async def discard(self, key: str) -> None:
        """Drop a staged object, also from under its writer; dropping what is absent is fine."""
        await drop_staged(self._staging, check_key(key))

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Abort multipart uploads and delete staged bytes that no record names; returns how many."""
        return await sweep_strays(self._staging, older_than_seconds=older_than_seconds)
