"""What lies in a data directory that no listing shows: what can't be read, leads nowhere or is no file."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from storage.filesystem.objects import LOCK_FILES, TEMPORARY
from storage.keys import OURS, ROOT

_LEFT_OUT = frozenset(name.encode() for name in (LOCK_FILES, TEMPORARY))


class Oddity(Enum):
    """Why an entry of a directory can't be used as it stands."""

    UNREADABLE = "may not be read"
    UNWRITABLE = "may not be written to"
    DIRECTORY = "a directory where a file should be"
    SYMLINK = "a symbolic link, which is followed"
    SYMLINK_DANGLING = "a symbolic link that leads nowhere"
    SYMLINK_LOOP = "a symbolic link that leads to itself or to a directory above it"
    SPECIAL_FILE = "no file and no directory"
    NAME_BYTES = "a name that is not UTF-8"


@dataclass(frozen=True, slots=True)
class Odd:
    """One such entry. `key` is its path below the data directory; bytes that are not UTF-8 are escaped."""

    oddity: Oddity
    key: str


def survey(root: str, *, is_object: Callable[[str], bool]) -> Iterator[Odd]:
    """Walk through both trees of a store. Blocks; holds the directories above the current one.

    `is_object` tells of a key whether a file should lie there. Symbolic links are followed, as they are when
    objects are read, but never upwards.
    """
    walker = _Survey(root.encode(), is_object)
    for top in (ROOT, OURS):
        if os.path.isdir(f"{root}/{top}"):  # noqa: PTH112  # paths here are bytes, which make no Path
            yield from walker.walk(top.encode())


class _Survey:
    def __init__(self, root: bytes, is_object: Callable[[str], bool]) -> None:
        self._root = root
        self._is_object = is_object
        self._pending: list[tuple[bytes, frozenset[tuple[int, int]]]] = []
        # On a snapshot that is mounted read-only no directory is writable, and that is no oddity.
        self._writes = not os.statvfs(root).f_flag & os.ST_RDONLY

    def walk(self, top: bytes) -> Iterator[Odd]:
        self._pending = [(top, frozenset())]
        while self._pending:
            yield from self._directory(*self._pending.pop())

    def _directory(self, key: bytes, above: frozenset[tuple[int, int]]) -> Iterator[Odd]:
        path = self._path(key)
        try:
            found = os.stat(path)  # noqa: PTH116
            names = os.listdir(path)  # noqa: PTH208
        except FileNotFoundError:
            return  # deleted since its name was read
        except OSError:
            yield Odd(Oddity.UNREADABLE, _text(key))
            return
        if not self._may(path, os.R_OK | os.X_OK):
            yield Odd(Oddity.UNREADABLE, _text(key))
            return
        if self._writes and not self._may(path, os.W_OK):
            yield Odd(Oddity.UNWRITABLE, _text(key))
        inside = above | {(found.st_dev, found.st_ino)}
        for name in sorted(names, reverse=True):
            child = key + b"/" + name
            if child not in _LEFT_OUT:
                yield from self._entry(child, inside)

    def _entry(self, key: bytes, above: frozenset[tuple[int, int]]) -> Iterator[Odd]:
        try:
            text = key.decode()
            found = os.lstat(self._path(key))
        except UnicodeDecodeError:
            yield Odd(Oddity.NAME_BYTES, _text(key))
            return
        except OSError:
            return  # deleted since its name was read
        if stat.S_ISLNK(found.st_mode):
            target = self._target(key, above)
            yield Odd(target if isinstance(target, Oddity) else Oddity.SYMLINK, text)
            if isinstance(target, Oddity):
                return
            found = target
        if stat.S_ISDIR(found.st_mode):
            if self._is_object(text):
                yield Odd(Oddity.DIRECTORY, text)
            else:
                self._pending.append((key, above))
        elif not stat.S_ISREG(found.st_mode):
            yield Odd(Oddity.SPECIAL_FILE, text)
        elif not self._may(self._path(key), os.R_OK):
            yield Odd(Oddity.UNREADABLE, text)

    def _target(self, key: bytes, above: frozenset[tuple[int, int]]) -> os.stat_result | Oddity:
        """What a symbolic link leads to."""
        try:
            found = os.stat(self._path(key))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return Oddity.SYMLINK_DANGLING
        except PermissionError:
            return Oddity.UNREADABLE
        except OSError:
            return Oddity.SYMLINK_LOOP
        return Oddity.SYMLINK_LOOP if (found.st_dev, found.st_ino) in above else found

    def _may(self, path: bytes, mode: int) -> bool:
        return os.access(path, mode, effective_ids=True) or not os.path.lexists(path)

    def _path(self, key: bytes) -> bytes:
        return self._root + b"/" + key


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
