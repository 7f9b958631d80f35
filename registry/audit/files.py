"""The file that lines are appended to, by any number of processes at once, one group after the other.

Everything here blocks, and runs in a thread. Each method raises OSError.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from registry.audit.chain import GENESIS, Mark, seal
from registry.audit.endings import Ending, read_ending
from registry.audit.events import Event, EventKind, Fields
from registry.audit.outputs import Output
from registry.audit.parts import LOCK_SUFFIX, READ, Part, are_joined, free_name, read_part, rotated_parts

LOCK_SECONDS_MAX = 10.0
POLL_SECONDS = 0.0005
FILE_MODE = 0o600
"""For the lock as well: whoever may open it can hold it, and so stop all writers."""

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

log = structlog.get_logger(__name__)

Stamped = tuple[float, Fields]
"""When something happened, in seconds since the epoch, and what."""


class TrailFile:
    """Who holds the lock knows where the chain ends, and is the only one to append, rotate or remove.

    The lock is a file of its own beside the trail, for the trail's file is renamed: a process that waited for a
    lock on the renamed one would get it while another already appends to the new one.
    """

    def __init__(
        self,
        path: Path,
        *,
        key: bytes | None,
        clock: Callable[[], float],
        output: Output | None,
        sync: bool,
        bytes_max: int | None,
        keep: int | None,
    ) -> None:
        self.path = path.absolute()
        self._key = key
        self._clock = clock
        self._output = output
        self._sync = sync
        self._bytes_max = bytes_max
        self._keep = keep
        self._lock_path = self.path.with_name(self.path.name + LOCK_SUFFIX)
        self._lock: int | None = None
        self._is_held = False
        self._descriptor: int | None = None
        self._size = 0
        self._known: tuple[tuple[int, int, int], Mark] | None = None
        self._cannot_rotate = False

    def acquire(self) -> None:
        """Take the lock. Raises TimeoutError if somebody holds it for too long."""
        deadline = time.monotonic() + LOCK_SECONDS_MAX
        while True:
            if self._lock is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._lock = os.open(self._lock_path, flags, FILE_MODE)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Polled, for a flock(2) without LOCK_NB could wait for a stopped process for ever.
                if time.monotonic() > deadline:
                    text = f"another process holds the lock for more than {LOCK_SECONDS_MAX:g} s: is it stopped?"
                    raise TimeoutError(errno.ETIMEDOUT, text, str(self._lock_path)) from None
                time.sleep(POLL_SECONDS)
                continue
            if self._is_at(self._lock_path, self._lock):
                self._is_held = True
                return
            os.close(self._lock)  # somebody has removed the lock file: others lock a new one
            self._lock = None

    def acquire_and_append(self, events: Sequence[Stamped]) -> Mark | None:
        """Take the lock, and append if nobody has touched the file since we did: one hop to a thread for both.

        Returns the mark of the last line, or None if `ending` has to tell first where the chain goes on.
        """
        self.acquire()
        try:
            found = os.stat(self.path, follow_symlinks=False)  # noqa: PTH116  # a Path takes longer than the call
        except FileNotFoundError:
            return None
        if self._known and self._known[0] == (found.st_dev, found.st_ino, found.st_size):
            return self.append(self._known[1], (), events, newline=False)
        return None

    def release(self) -> None:
        """Let go of the lock. Safe to call twice."""
        if self._is_held and self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._is_held = False

    def forget(self) -> None:
        """Look at the file again before the next append."""
        self._known = None

    def ending(self, head: Mark | None) -> Ending:
        """Tell from where the chain goes on in the file, which is made if it is not there."""
        self._known = None
        before = self._descriptor
        if before is not None and self._is_at(self.path, before):
            self._measure()
            return self._ending(None, head)
        self._descriptor = None
        try:
            self._open()
            return self._ending(before, head)
        finally:
            if before is not None:
                os.close(before)

    def append(self, after: Mark, notes: Sequence[Event], events: Sequence[Stamped], *, newline: bool) -> Mark:
        """Append what the trail itself has to say, then events, as one group; returns the mark of the last line.

        On failure nothing of it stays in the file, unless even that fails: then the next append finds a torn line.
        """
        removed: Sequence[Part] = ()
        if not newline and self._bytes_max is not None and self._size >= self._bytes_max:
            rotated, removed = self._rotate(after)
            notes = [*rotated, *notes]
        now, lines = self._clock(), []
        for at, fields in [*((now, note.fields()) for note in notes), *events]:
            line, after = seal(fields, after, time=at, key=self._key)
            lines.append(line)
        self._write((b"\n" if newline else b"") + b"".join(lines))
        self._remember(after)
        for part in removed:
            self._remove(part)
        if self._output is not None:
            with contextlib.suppress(OSError):  # told by the output itself; the file has the lines
                self._output.write(lines)
        return after

    def close(self) -> None:
        """Let go of the files."""
        self.release()
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = self._known = None

    # The file

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, _APPEND, FILE_MODE)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise OSError(
                error.errno, "a symbolic link can't be rotated: name the file itself", str(self.path)
            ) from error
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(self._descriptor)
            self._descriptor = None
            raise OSError(
                errno.EINVAL, "it is no regular file: for a pipe or a terminal, use standard output", str(self.path)
            )
        self._measure()
        if not self._size and self._sync:
            self._sync_directory()

    def _measure(self) -> None:
        assert self._descriptor is not None
        self._size = os.fstat(self._descriptor).st_size

    def _ending(self, before: int | None, head: Mark | None) -> Ending:
        assert self._descriptor is not None
        if self._size:
            return read_ending(self._descriptor, self._size, head, self._key)
        return self._begun(before, head)

    def _begun(self, before: int | None, head: Mark | None) -> Ending:
        """Where the chain goes on in a file that is still empty: after the one that had its name before.

        That is the one that we have open, or, if others have rotated since we last appended, the newest on disk.
        """
        sources = [os.dup(before)] if before is not None and os.fstat(before).st_size else []
        try:
            if parts := [part for part in rotated_parts(self.path) if part.path.suffix != ".gz"]:
                sources.append(os.open(parts[-1].path, READ))
            endings = [read_ending(source, os.fstat(source).st_size, head, self._key) for source in sources]
        finally:
            for source in sources:
                os.close(source)
        ending = max(endings, key=lambda each: (not each.is_broken, each.mark.seq), default=Ending(head or GENESIS))
        notes = ending.notes if ending.mark == GENESIS else (Event(EventKind.ROTATED), *ending.notes)
        return Ending(ending.mark, notes, is_ahead=ending.is_ahead)

    def _write(self, data: bytes) -> None:
        assert self._descriptor is not None
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):  # a full disk takes a part first, and then refuses
                written += os.write(self._descriptor, memoryview(data)[written:])
            if self._sync:
                os.fsync(self._descriptor)
        except BaseException:
            self._known = None
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)

    def _remember(self, mark: Mark) -> None:
        assert self._descriptor is not None
        found = os.fstat(self._descriptor)
        self._known = (found.st_dev, found.st_ino, self._size), mark

    # Rotation

    def _rotate(self, after: Mark) -> tuple[Sequence[Event], Sequence[Part]]:
        """Give the file another name and begin a new one; returns what to say of it, and the files to remove then."""
        try:
            # Looked up in the file: others may have written its first line since we have opened it.
            part = read_part(self.path)
            target = free_name(self.path, part.first.mark.seq if part else after.seq)
            self.path.rename(target)
        except OSError as error:
            if not self._cannot_rotate:
                log.error("the audit trail can't be rotated: it grows", file=str(self.path), reason=str(error))
            self._cannot_rotate = True
            return (), ()
        self._cannot_rotate = False
        self._known = None
        before, self._descriptor = self._descriptor, None
        try:
            self._open()
        finally:
            assert before is not None
            os.close(before)
        if self._sync:
            self._sync_directory()
        notes = [Event(EventKind.ROTATED, detail={"file": target.name})]
        removed, kept = self._outdated()
        if removed:
            begins = str(kept[0].first.mark.seq)
            notes.append(Event(EventKind.PRUNED, detail={"begins": begins, "files": str(len(removed))}))
        return notes, removed

    def _outdated(self) -> tuple[list[Part], list[Part]]:
        """The files that are too many, and those that stay: none too many unless all of them follow each other.

        Otherwise a file that somebody has put there could make us remove a true one, and say that it was in order;
        or what shows that one is missing would be removed in the course of time.
        """
        if self._keep is None:
            return [], []
        ours = [part for part in rotated_parts(self.path) if part.named_seq == part.first.mark.seq]
        removed, kept = ours[: -self._keep], ours[-self._keep :]
        if removed and not are_joined(ours):
            log.error("old files of the audit trail are kept: they do not follow each other", file=str(self.path))
            return [], []
        return removed, kept

    def _remove(self, part: Part) -> None:
        try:
            part.path.unlink(missing_ok=True)
        except OSError as error:
            log.error("an old file of the audit trail can't be removed", file=str(part.path), reason=str(error))

    def _sync_directory(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @staticmethod
    def _is_at(path: Path, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116
        except FileNotFoundError:
            return False
