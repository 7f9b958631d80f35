"""The driver: each method of the contract, and where its work is done.

Looks and small reads are done in the event loop, which was measured to be faster than handing them to a
thread. Whatever fsyncs, waits for a lock, or touches much goes to a bounded set of threads.
"""

import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from storage.drivers import (
    Capabilities,
    Moved,
    Page,
    Sized,
    SmallObject,
    Stat,
    check_key,
    check_prefix,
    nothing_to_move,
    read_record,
)
from storage.errors import Corrupt
from storage.filesystem.failures import reading_failed
from storage.filesystem.files import IN_LOOP_BYTES_MAX, Descriptor, FileReader, open_file, read_whole, stat_file
from storage.filesystem.listing import file_sizes, list_page
from storage.filesystem.locks import apart
from storage.filesystem.objects import TEMPORARY, ObjectFiles, version_of, writing
from storage.filesystem.staged import StagedFile, open_staged
from storage.filesystem.trial import remove_stale, try_store
from storage.filesystem.writeback import sync_file_system
from storage.threads import Threads
from storage.together import together

SIZES_BATCH = 1000
DELETIONS_AT_ONCE = 4


class FileSystemDriver:
    """Objects are files below `root`. Any number of processes may use one root at the same time.

    A file is never changed in place: it is written in `pierhead/tmp/`, fsynced, and put in place by link(2) or
    rename(2). Then its directory is fsynced, and every one above that is not known to be durable.
    """

    def __init__(self, root: Path, *, threads_max: int = 16) -> None:
        self.capabilities = Capabilities(writes_at_once=2)
        self._files = ObjectFiles(str(root.absolute()))
        self._threads = Threads(threads_max)

    async def start(self) -> None:
        """Prove that the directory can be used; raises StorageError saying what to do if not."""
        await self._threads.run(try_store, self._files)

    async def close(self) -> None:
        """Let go of threads and directories."""
        await self._threads.close()
        self._files.directories.close()

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read a small object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        descriptor, found = open_file(self._path(key), key)
        try:
            size = found.st_size
            if size > bytes_max:
                raise Corrupt(f"the object has {size} bytes, at most {bytes_max} were expected", key=key)
            if size <= IN_LOOP_BYTES_MAX:
                return _read_object(descriptor, size)
            return await self._threads.run(_read_object, descriptor, size)
        except OSError as error:
            raise reading_failed(error, key) from error
        finally:
            os.close(descriptor)

    async def create(self, key: str, body: bytes) -> str:
        """Write a new object and return its version. Raises AlreadyExists."""
        return await self._threads.run(self._files.create, check_key(key), body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        """Write only over `version`, and return the new one. Raises VersionMismatch."""
        return await self._threads.run(self._files.replace, check_key(key), body, version)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        """Write an object, whatever was there, and return its version."""
        return await self._threads.run(self._files.put, check_key(key), body, durable=durable)

    async def delete(self, key: str) -> None:
        """Delete an object; deleting what is absent is fine."""
        await self._threads.run(self._files.delete, check_key(key))

    async def settle(self) -> None:
        """Let the kernel write everything that it holds back for this file system: syncfs(2)."""
        with writing(""):
            await self._threads.run(sync_file_system, self._files.root)

    async def delete_many(self, keys: Sequence[str], *, durable: bool = True) -> None:
        """Delete objects, and make that durable once for each directory."""
        # A disk is asked for several at once: most of the time goes into waiting for its journal.
        parts = apart([check_key(key) for key in keys], DELETIONS_AT_ONCE)
        delete = partial(self._files.delete_many, durable=durable)
        await together([partial(self._threads.run, delete, part) for part in parts], DELETIONS_AT_ONCE)

    async def delete_version(self, key: str, *, version: str) -> None:
        """Delete only `version`. Raises VersionMismatch."""
        await self._threads.run(self._files.delete, check_key(key), version)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        """List a page of objects in byte order of their keys."""
        check_prefix(prefix)
        return await self._threads.run(list_page, self._files.root, prefix, after=after, limit=limit, fold=fold)

    async def stat(self, key: str) -> Stat:
        """Tell size and time of an object. Raises NotFound."""
        return stat_file(self._path(key), key)

    async def open(self, key: str) -> FileReader:
        """Open a large object for reading. Raises NotFound."""
        descriptor, found = open_file(self._path(key), key)
        return FileReader(Descriptor(descriptor, self._threads, key), found)

    async def presign(self, key: str, *, seconds: int) -> None:  # noqa: ARG002  # the contract's
        """Give no URL: there is nobody but this driver to read objects from."""
        check_key(key)

    async def stage(self, key: str, *, record: str = "", text: bytes = b"") -> None:
        """Begin an empty staged object, and its record before it. Raises AlreadyExists."""
        check_key(key)
        if record:
            await self.put(record, text, durable=False)
        await self._threads.run(self._files.begin, key)

    async def stat_staged(self, key: str, *, record: str = "") -> Stat:  # noqa: ARG002  # its key is enough
        """Tell size and time of a staged object. Raises NotFound."""
        return stat_file(self._path(key), key)

    async def open_staged(self, key: str, *, record: str = "") -> StagedFile:
        """Become the writer of a staged object. Raises NotFound, or Busy if it has one already."""
        writer = open_staged(self._files, self._threads, check_key(key), record_key=record)
        if record:
            await read_record(self, writer, record)
        return writer

    async def sizes(self) -> AsyncIterator[Sized]:
        """Yield every file below the root."""
        files = file_sizes(self._files.root)
        while batch := await self._threads.run(list, islice(files, SIZES_BATCH)):
            for key, size in batch:
                yield Sized(key, size)

    def compact(self) -> AsyncIterator[Moved]:
        """Yield nothing: every object lies at its key."""
        return nothing_to_move()

    async def discard(self, key: str, *, record: str = "") -> None:
        """Drop a staged object, then its record, also from under a writer; dropping what is absent is fine."""
        await self._threads.run(self._files.delete, check_key(key))
        if record:
            await self.delete(record)

    async def tidy(self, prefix: str) -> None:
        """Remove directories that hold nothing."""
        check_prefix(prefix)
        await self._threads.run(self._files.directories.clear, self._files.path(prefix.removesuffix("/")))

    async def sweep(self, *, older_than_seconds: float) -> int:
        """Remove temporary files that nobody writes any more, and return how many."""
        return await self._threads.run(remove_stale, Path(self._files.path(TEMPORARY)), older_than_seconds)

    def _path(self, key: str) -> str:
        return self._files.path(check_key(key))


def _read_object(descriptor: int, size: int) -> SmallObject:
    body = read_whole(descriptor, size)
    return SmallObject(body, version_of(body))
