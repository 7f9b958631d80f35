"""Directories: made on the way to an object, made durable with it, removed when nothing is left in them."""

import contextlib
import errno
import os
import resource
import stat
import threading
from collections import OrderedDict
from pathlib import Path

MODE = 0o755
PINNED_MAX = 256

LASTING = frozenset(
    {"blobs", "repositories", "_layers", "_manifests", "_uploads", "revisions", "tags", "catalog", "uploads"}
)
"""Directories that stay when they are empty: they are soon used again, or distribution expects them."""


class Directories:
    """Knows which directories survive a power cut together with everything on the way to them.

    A directory that exists is not trusted to be durable: another process may have made it an instant ago and
    not fsynced it yet. Each one is fsynced into its parent once by this process, and then *pinned*: held
    open. While it is open its inode number can't be given to another directory, so the same number at the
    same path proves that it is the same one and was never removed; and what was never removed can't have lost
    a directory above it. So one fstat(2) stands for the whole way up.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._pinned_max = min(PINNED_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)
        self._pinned: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._guard = threading.Lock()

    def make(self, path: str) -> None:
        """Make a directory below the root, and those above it. Raises FileNotFoundError without a root."""
        missing = [path]
        while missing:
            try:
                Path(missing[-1]).mkdir(MODE)
            except FileNotFoundError:
                if missing[-1] == self._root:
                    raise
                missing.append(_parent(missing[-1]))
                continue
            except FileExistsError:
                if _has_vanished(missing[-1]):
                    continue
            missing.pop()

    def sync(self, path: str) -> None:
        """Make the entries of a directory durable, and the way to it. One that is gone is fine."""
        climbed: list[tuple[str, int]] = []
        try:
            while not self._sync_one(path, climbed):
                path = _parent(path)
            # Only now: the entry of each is durable, and so is everything above it.
            while climbed:
                self._pin(*climbed.pop())
        finally:
            for _path, descriptor in climbed:
                os.close(descriptor)

    def clear(self, path: str) -> None:
        """Remove every directory below and at a path that holds nothing, lasting ones too, and so upwards. See tidy."""
        for directory, _directories, _files in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()
                self._unpin(directory)
        self.sync(self.tidy(_parent(path)))

    def sync_entries(self, path: str) -> None:
        """Make it durable what is gone from a directory. The way to it does not matter to that; nor if it is gone."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def remove(self, path: str) -> str:
        """Remove a directory if it is empty; returns the one above it then, or if it was gone, else itself."""
        if path == self._root or path.rpartition("/")[2] in LASTING:
            return path
        try:
            os.rmdir(path)  # noqa: PTH106  # building a Path takes as long
        except FileNotFoundError:
            pass
        except OSError:
            return path
        self._unpin(path)
        return _parent(path)

    def tidy(self, path: str) -> str:
        """Remove a directory if it is empty, and so upwards; returns the first that stays.

        rmdir(2) fails on one that somebody has just written into. A writer whose directory goes away before
        its rename(2) makes it again.
        """
        while path != self._root and path.rpartition("/")[2] not in LASTING:
            try:
                Path(path).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            self._unpin(path)
            path = _parent(path)
        return path

    def close(self) -> None:
        """Let go of all directories."""
        with self._guard:
            while self._pinned:
                os.close(self._pinned.popitem()[1][0])

    def _sync_one(self, path: str, climbed: list[tuple[str, int]]) -> bool:
        """Make the entries of one directory durable; tells whether the way to it is known to be."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if path == self._root:
                raise
            self._unpin(path)
            return False  # removed since: what has to survive is that it is gone
        try:
            os.fsync(descriptor)
            known = path == self._root or self._is_pinned(path, descriptor)
            if not known and len(climbed) < self._pinned_max:
                climbed.append((path, os.dup(descriptor)))
        finally:
            os.close(descriptor)
        return known

    def _is_pinned(self, path: str, descriptor: int) -> bool:
        found = os.fstat(descriptor)
        with self._guard:
            pinned = self._pinned.get(path)
            if pinned is None or pinned[1:] != (found.st_dev, found.st_ino):
                return False
            self._pinned.move_to_end(path)
            return True

    def _pin(self, path: str, descriptor: int) -> None:
        found = os.fstat(descriptor)
        with self._guard:
            old = [self._pinned.pop(path)] if path in self._pinned else []
            self._pinned[path] = (descriptor, found.st_dev, found.st_ino)
            if len(self._pinned) > self._pinned_max:
                old.append(self._pinned.popitem(last=False)[1])
        for entry in old:
            os.close(entry[0])

    def _unpin(self, path: str) -> None:
        with self._guard:
            if pinned := self._pinned.pop(path, None):
                os.close(pinned[0])


def _has_vanished(path: str) -> bool:
    """Tell whether what was in the way of mkdir(2) is gone by now; raises FileExistsError if it stays there."""
    try:
        mode = Path(path).lstat().st_mode
    except FileNotFoundError:
        return True
    if stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and Path(path).is_dir()):
        return False
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def open_making(directories: Directories, path: str, flags: int, mode: int) -> int:
    """open(2), making the directory that it goes into if need be."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, flags, mode)
    directories.make(_parent(path))
    return os.open(path, flags, mode)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
