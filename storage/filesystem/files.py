"""Files read: small ones at once, large ones piece by piece."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from storage.drivers import PIECE_BYTES, Observer, Stat
from storage.errors import Corrupt, NotFound
from storage.filesystem.failures import reading_failed
from storage.filesystem.page_cache import forget, is_cached
from storage.threads import Threads

IN_LOOP_BYTES_MAX = 1 << 16
"""What is read in the event loop: copying that much takes less time than handing it to a thread."""

FORGET_BYTES = 8 << 20
"""So much is read ahead of telling the kernel that its pages are not needed."""

# O_NONBLOCK: opening a named pipe must not wait for somebody who writes into it.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

P = ParamSpec("P")
R = TypeVar("R")


def open_file(path: str, key: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading, through symbolic links. Raises NotFound or Corrupt."""
    try:
        descriptor = os.open(path, READ)
    except OSError as error:
        raise reading_failed(error, key) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise Corrupt("something that is no file lies where the object should be: remove it", key=key)
    return descriptor, found


def stat_file(path: str, key: str) -> Stat:
    """Tell size and time of a regular file, through symbolic links. Raises NotFound or Corrupt."""
    try:
        found = os.stat(path)  # noqa: PTH116  # building a Path takes longer than the system call
    except OSError as error:
        raise reading_failed(error, key) from error
    if not stat.S_ISREG(found.st_mode):
        raise Corrupt("something that is no file lies where the object should be: remove it", key=key)
    # What may not be read is not there for a GET, so it must not be there for a HEAD: clients would not push it
    # again. The mode tells the common case without another system call.
    is_ours = found.st_uid == os.geteuid() and found.st_mode & stat.S_IRUSR
    if not is_ours and not os.access(path, os.R_OK, effective_ids=True):
        raise reading_failed(PermissionError(errno.EACCES, os.strerror(errno.EACCES)), key)
    return Stat(found.st_size, found.st_mtime)


def identity_of(found: os.stat_result) -> str:
    """What changes with every write to a file, and with every file that takes its place."""
    # The time of the last change of the inode tells apart what a copy with the old time would hide.
    parts = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    return "-".join(f"{part:x}" for part in parts)


def read_whole(descriptor: int, size: int) -> bytes:
    """Read a file of that size from its start. A shorter result says that it has become shorter."""
    body = os.pread(descriptor, size, 0)
    if len(body) == size:
        return body
    parts, offset = [body], len(body)
    while parts[-1] and offset < size:
        parts.append(os.pread(descriptor, size - offset, offset))
        offset += len(parts[-1])
    return b"".join(parts)


class Descriptor:
    """A file descriptor that is closed only when no thread uses it: its number may soon be another file's."""

    def __init__(self, number: int, threads: Threads, key: str) -> None:
        self.key = key
        self._number = number
        self._threads = threads
        self._users = 0
        self._closing = False

    @property
    def number(self) -> int:
        """The descriptor. Raises NotFound when it was closed."""
        if self._closing:
            raise NotFound("the object is no longer open", key=self.key)
        return self._number

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `work` in a thread while the descriptor stays open."""
        self._users += 1
        try:
            return await self._threads.run(work, *args, **kwargs)
        finally:
            self._users -= 1
            if self._closing and not self._users:
                os.close(self._number)

    async def close(self) -> None:
        """Close as soon as no thread uses it. Safe to call twice."""
        if self._closing:
            return
        if os.fstat(self._number).st_nlink == 0 and not self._users:
            # The last one out frees the blocks of a deleted file, and for a large one that takes a while.
            self._closing = True
            await self._threads.run(os.close, self._number)
        else:
            self.close_now()

    def close_now(self) -> None:
        """Close, or let the last thread do so."""
        if not self._closing:
            self._closing = True
            if not self._users:
                os.close(self._number)

    async def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, as Reader.pieces says.

        One piece is read ahead: the disk and the hash work while the piece before is sent.
        """
        end = start + length
        if length <= IN_LOOP_BYTES_MAX:
            while start < end:
                piece = self._read(self.number, start, end, observe)
                yield piece
                start += len(piece)
            return
        reading = self._read_ahead(start, end, observe)
        try:
            while reading is not None:
                piece = await reading
                start += len(piece)
                reading = self._read_ahead(start, end, observe)
                yield piece
        finally:
            if reading is not None:
                reading.cancel()
                # Its failure is nobody's any more; that it has ended matters.
                await asyncio.wait([reading])

    def _read_ahead(self, start: int, end: int, observe: Observer | None) -> asyncio.Task[bytes] | None:
        if start >= end:
            return None
        return asyncio.get_running_loop().create_task(self.run(self._read, self.number, start, end, observe))

    def _read(self, number: int, start: int, end: int, observe: Observer | None) -> bytes:
        try:
            piece = os.pread(number, min(PIECE_BYTES, end - start), start)
        except OSError as error:
            raise reading_failed(error, self.key) from error
        if not piece:
            raise Corrupt(f"the object ends {end - start} bytes early", key=self.key)
        if observe is not None:
            observe([piece])
        return piece


class FileReader:
    """A file held open: rename(2) and unlink(2) do not change what it reads."""

    def __init__(self, descriptor: Descriptor, found: os.stat_result) -> None:
        self.size = found.st_size
        self.modified = found.st_mtime
        self.identity = identity_of(found)
        self._descriptor = descriptor
        self._once = False
        if found.st_size > PIECE_BYTES:
            os.posix_fadvise(descriptor.number, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, in pieces of at most PIECE_BYTES."""
        pieces = self._descriptor.pieces(start, length, observe)
        return self._forgotten(pieces, start) if self._once else pieces

    def read_once(self) -> None:
        """Leave the page cache as it is: what is not in it now is dropped after it was read."""
        self._once = self.size > 0 and not is_cached(self._descriptor.number)

    async def _forgotten(self, pieces: AsyncIterator[bytes], start: int) -> AsyncIterator[bytes]:
        read = 0
        async for piece in pieces:
            read += len(piece)
            yield piece
            if read >= FORGET_BYTES or start + read == self.size:
                forget(self._descriptor.number, start, read)
                start, read = start + read, 0

    async def close(self) -> None:
        """Let go of the file."""
        await self._descriptor.close()
