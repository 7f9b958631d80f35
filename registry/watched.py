"""Files that others write while we serve: read again when they have changed, and kept as they were while broken."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

LOOK_SECONDS = 1.0
"""How often it is looked whether a file has changed, at most: a stat(2) by whoever asks next."""

SETTLED_SECONDS = 2.0
"""A file that was written so lately may be written again without a difference in time, size and inode."""

T = TypeVar("T")
Signature = tuple[int, int, int, int]
Stamp = tuple[int, int, int] | None

log = structlog.get_logger(__name__)


class FileProblem(ValueError):
    """A file can't be read: why, in a few words that do not name it."""


class WatchedFile(Generic[T]):
    """What `read` makes of a file. `read` raises ValueError of one line; `what` is what the log calls the file.

    `initial`, if given, is what holds until something was read.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], T],
        *,
        what: str,
        initial: T | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.generation = 0
        """Grows whenever something else was read."""
        self._path = path
        self._read = read
        self._what = what
        self._clock = clock
        self._value = initial
        self._signature: Signature | None = None
        self._is_settled = False
        self._complaint = ""
        self._looked = 0.0

    def load(self) -> T:
        """Read the file now. Raises what `read` raises."""
        self._looked = self._clock()
        self._signature = None
        return self._look()

    def current(self) -> T:
        """What was read last, and now if the file has changed; that is looked for once in LOOK_SECONDS.

        Once something was read it never raises: what is wrong with the file is logged, once for each change.
        """
        now = self._clock()
        if self._value is not None and 0 <= now - self._looked < LOOK_SECONDS:
            return self._value
        self._looked = now
        try:
            return self._look()
        except ValueError as error:
            if self._value is None:
                raise
            self._complain(str(error))
            return self._value

    def _look(self) -> T:
        # Looked at before it is read: if it is replaced in between, the next look finds another one.
        signature, modified = _signature(self._path)
        if self._value is not None and self._is_settled and signature is not None and signature == self._signature:
            return self._value
        is_new = signature is None or signature != self._signature
        self._is_settled = signature is not None and abs(self._clock() - modified) > SETTLED_SECONDS
        self._signature = signature
        try:
            value = self._read(self._path)
        except ValueError:
            # It may be whole, and could not be read for want of descriptors: it is tried again.
            self._is_settled = False
            raise
        self._complaint = ""
        if is_new and self.generation:
            log.info("a file was read again", file=str(self._path), of=self._what, pid=os.getpid())
        if is_new or value != self._value:
            self.generation += 1
        self._value = value
        return value

    def _complain(self, reason: str) -> None:
        told = f"{self._signature} {reason}"
        if told != self._complaint:
            self._complaint = told
            log.error(
                "a file can't be used: what was read before stays in force",
                file=str(self._path),
                of=self._what,
                reason=reason,
            )


def read_regular(path: Path, bytes_max: int) -> bytes:
    """Read a file that has at most `bytes_max` bytes. Raises FileProblem."""
    # Not blocking: a FIFO without a writer would hold up the event loop.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileProblem("it is no file")
            with open(descriptor, "rb", closefd=False) as file:
                body = file.read(bytes_max + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileProblem(f"it can't be read: {error.strerror}") from None
    if len(body) > bytes_max:
        raise FileProblem(f"it is larger than {bytes_max >> 20} MiB")
    return body


def stamp(path: Path) -> Stamp:
    """What changes when a file is replaced or written to; None if it can't be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _signature(path: Path) -> tuple[Signature | None, float]:
    try:
        found = path.stat()
    except OSError:
        return None, 0.0
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino), found.st_mtime
