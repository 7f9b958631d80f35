"""Staged files: written at the end by one writer, until they become an object in one step."""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from storage.drivers import PIECE_BYTES, Observer, check_key
from storage.errors import Busy, Corrupt, NotFound, StorageUnavailable
from storage.filesystem.failures import reading_failed, writing_failed
from storage.filesystem.files import Descriptor, identity_of
from storage.filesystem.objects import ObjectFiles, writing
from storage.filesystem.writeback import start_writing
from storage.threads import Threads

WRITE_BACK_BYTES = 8 << 20
"""Measured: with this the fsync after 512 MiB takes less than 10 ms instead of 120, and costs nothing."""

BUFFERS_MAX = 1024  # IOV_MAX of Linux

P = ParamSpec("P")
R = TypeVar("R")


def open_staged(files: ObjectFiles, threads: Threads, key: str, *, record_key: str = "") -> "StagedFile":
    """Become the writer of a staged file. Does not block. Raises NotFound, or Busy if it has one."""
    path = files.path(key)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise reading_failed(error, key) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Corrupt("something that is no file lies where the staged object should be", key=key)
        # The lock is the file's own: it moves with it, and the kernel releases it when the process dies.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Committed or discarded between open(2) and flock(2): what we have locked is no longer staged.
        if not _is_at(path, descriptor):
            raise NotFound("the staged object is gone", key=key)
        size = os.fstat(descriptor).st_size
    except BlockingIOError as error:
        os.close(descriptor)
        raise Busy("another writer holds the staged object", key=key) from error
    except OSError as error:
        os.close(descriptor)
        raise writing_failed(error, key) from error
    except BaseException:
        os.close(descriptor)
        raise
    locked = Descriptor(descriptor, threads, key)
    return StagedFile(files, locked, key, size, hashing=threads.hashing, record_key=record_key)


class StagedFile:
    """The one writer of a staged file, as long as it is open.

    `size` is where the next write goes and what a reader of the file finds. Each call runs in one thread, one
    call at a time.
    """

    def __init__(
        self,
        files: ObjectFiles,
        descriptor: Descriptor,
        key: str,
        size: int,
        *,
        hashing: asyncio.Semaphore,
        record_key: str,
    ) -> None:
        self.size = size
        self.record = b""
        self._record_key = record_key
        self._hashing = hashing
        self._files = files
        self._descriptor = descriptor
        self._key = key
        self._path = files.path(key)
        self._durable = False
        self._name_durable = False
        self._written_back = size
        self._turn = asyncio.Lock()

    def aim(self, key: str) -> bool:
        """Make no use of it: a rename(2) at the end costs next to nothing, and until then every byte is kept."""
        check_key(key)
        return False

    async def write(self, pieces: Sequence[bytes], observe: Observer | None = None) -> None:
        """Append the pieces, and call `observe` with each about 1 MiB of them once that is kept.

        On failure everything observed is kept, and nothing else. Raises StorageFull and its kin, or NotFound
        if the staged object was discarded.
        """
        async with self._hashing:
            await self._in_thread(StagedFile._write, pieces, observe)

    async def truncate(self, size: int) -> None:
        """Take back everything after the first `size` bytes."""
        await self._in_thread(StagedFile._truncate, size)

    async def flush(self, record: bytes | None = None) -> None:
        """Make the bytes so far durable, and the way to them; then the record. Raises NotFound if discarded."""
        await self._in_thread(StagedFile._flush, record)

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Read back what was staged."""
        return self._descriptor.pieces(start, length, observe)

    async def commit(self, key: str, record: bytes | None = None) -> str:
        """Make the file the object at `key`, durably, close the writer, and return the object's identity."""
        return await self._in_thread(StagedFile._commit, key, record)

    async def close(self) -> None:
        """Release the lock and keep the bytes. Safe to call twice, and after commit."""
        await self._descriptor.close()

    async def _in_thread(
        self, work: Callable[Concatenate["StagedFile", int, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        async with self._turn:
            number = self._descriptor.number
            return await self._descriptor.run(work, self, number, *args, **kwargs)

    def _write(self, number: int, pieces: Sequence[bytes], observe: Observer | None) -> None:
        with writing(self._key):
            self._check(number)
            self._durable = False
            for batch in _batches(pieces):
                self._append(number, batch)
                if observe is not None:
                    observe(batch)
            if self.size - self._written_back >= WRITE_BACK_BYTES:
                start_writing(number, self._written_back, self.size - self._written_back)
                self._written_back = self.size

    def _append(self, number: int, batch: Sequence[bytes]) -> None:
        end = self.size
        try:
            for buffers in _vectors(batch):
                end += _write_vector(number, buffers, end)
        except OSError:
            # Half of the batch is in the file, and nobody has observed it: take it back.
            with contextlib.suppress(OSError):
                os.ftruncate(number, self.size)
            self.size = os.fstat(number).st_size
            raise
        self.size = end

    def _truncate(self, number: int, size: int) -> None:
        with writing(self._key):
            self._check(number)
            self._durable = False
            os.ftruncate(number, min(size, self.size))
            self.size = min(size, self.size)
            self._written_back = min(self._written_back, self.size)

    def _flush(self, number: int, record: bytes | None) -> None:
        with writing(self._key):
            self._check(number)
            self._sync_bytes(number)
            if not self._name_durable:
                self._files.sync(self._key)
                self._name_durable = True
            self._check(number)
        if record is not None:
            self._files.put(self._record_key, record, durable=True)

    def _commit(self, number: int, key: str, record: bytes | None) -> str:
        with writing(self._key):
            self._check(number)
            self._sync_bytes(number)
            # Under the lock of the staged key nobody can discard it, and begin another one in its place,
            # between the look and the rename(2).
            with self._files.locks.hold(self._key, key):
                self._check(number)
                self._files.place(key, lambda path: Path(self._path).rename(path))
                identity = identity_of(os.fstat(number))  # as it is after the rename(2), which changes a time
                # From here on the file is the object: whatever fails below, nothing may be appended to it.
                self._descriptor.close_now()
            self._files.sync(key)
            self._files.directories.tidy(self._path.rpartition("/")[0])
        self._end_record(record)
        return identity

    def _end_record(self, record: bytes | None) -> None:
        if record is not None:
            self._files.put(self._record_key, record, durable=False)
        elif self._record_key:
            self._files.delete(self._record_key)

    def _sync_bytes(self, number: int) -> None:
        if self._durable:
            return
        try:
            os.fdatasync(number)  # the size counts as data, the times do not
        except OSError:
            # The kernel has dropped what it could not write and will not say so twice: the bytes in the
            # file are not those that were written. Nobody may go on from them.
            with contextlib.suppress(StorageUnavailable):
                self._files.delete(self._key)
            raise
        self._durable = True

    def _check(self, number: int) -> None:
        if not _is_at(self._path, number):
            raise NotFound("the staged object was discarded", key=self._key)


def _is_at(path: str, descriptor: int) -> bool:
    """Tell whether the path still names the open file; it may have other names, of a backup say."""
    try:
        named = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return os.path.samestat(named, os.fstat(descriptor))


def _batches(pieces: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """The pieces in groups of about PIECE_BYTES: what was just written is hashed while it is in the cache."""
    first, count = 0, 0
    for index, piece in enumerate(pieces):
        count += len(piece)
        if count >= PIECE_BYTES:
            yield pieces[first : index + 1]
            first, count = index + 1, 0
    if first < len(pieces):
        yield pieces[first:]


def _vectors(batch: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(batch), BUFFERS_MAX):
        yield batch[first : first + BUFFERS_MAX]


def _write_vector(number: int, buffers: Sequence[bytes], offset: int) -> int:
    """pwritev(2) until everything is written; returns how much that was. It may take less than given."""
    total = sum(map(len, buffers))
    written = os.pwritev(number, buffers, offset)
    if written < total:
        rest = memoryview(b"".join(buffers))
        while written < total:
            step = os.pwrite(number, rest[written:], offset + written)
            if not step:
                raise OSError(errno.EIO, "write(2) takes nothing")
            written += step
    return written
