"""Small objects written: beside, made durable, and then put in place in one step.

Everything here blocks, and runs in a thread. Each function raises StorageUnavailable and its kin, never OSError.
"""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from storage.errors import AlreadyExists, NotFound, StorageUnavailable, VersionMismatch
from storage.filesystem.directories import Directories, open_making
from storage.filesystem.failures import writing_failed
from storage.filesystem.files import open_file
from storage.filesystem.locks import Locks
from storage.keys import OURS, PRIVATE

TEMPORARY = "/".join((OURS, "tmp"))
LOCK_FILES = "/".join((OURS, "locks"))
FILE_MODE = 0o644
PRIVATE_FILE_MODE = 0o600
PLACE_ATTEMPTS_MAX = 100

_NEVER_THERE = frozenset({errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP})


def version_of(body: bytes) -> str:
    """The version of an object: the hash of its bytes.

    Inode numbers are given out again at once and clocks stand still between two ticks, so that no mixture of
    them tells two quick writes apart. The bytes do; and who swaps a body that is equal to the one he read has
    missed nothing.
    """
    return hashlib.sha256(body, usedforsecurity=False).hexdigest()


class ObjectFiles:
    """The files of one store. Whatever changes one by its name holds the lock of its key.

    The exception is `create`: link(2) fails by itself if the name is taken.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.directories = Directories(root)
        self.locks = Locks(f"{root}/{LOCK_FILES}")

    def path(self, key: str) -> str:
        """The file of a key."""
        return f"{self.root}/{key}"

    def create(self, key: str, body: bytes) -> str:
        """Write a new object durably and return its version. Raises AlreadyExists."""
        with writing(key), self._temporary(key, body, durable=True) as temporary:
            try:
                self.place(key, lambda path: os.link(temporary, path))
            except FileExistsError as error:
                if not self._drop_dangling(key):
                    raise AlreadyExists("there is such an object already", key=key) from error
                return self.create(key, body)
            self.sync(key)
        return version_of(body)

    def put(self, key: str, body: bytes, *, durable: bool) -> str:
        """Write an object over whatever was there and return its version."""
        with writing(key), self._temporary(key, body, durable=durable) as temporary:
            with self.locks.hold(key):
                self.place(key, lambda path: Path(temporary).rename(path))
            if durable:
                self.sync(key)
        return version_of(body)

    def replace(self, key: str, body: bytes, version: str) -> str:
        """Write an object durably over `version` and return the new one. Raises VersionMismatch."""
        with writing(key), self._temporary(key, body, durable=True) as temporary:
            with self.locks.hold(key):
                self._check(key, version)
                self.place(key, lambda path: Path(temporary).rename(path))
            self.sync(key)
        return version_of(body)

    def delete(self, key: str, version: str | None = None) -> None:
        """Delete an object, or only that version of it. Raises VersionMismatch."""
        with writing(key):
            with self.locks.hold(key):
                if version is not None:
                    self._check(key, version)
                try:
                    Path(self.path(key)).unlink(missing_ok=True)
                except OSError as error:
                    if error.errno in _NEVER_THERE:
                        return
                    raise
            # Also when it was absent: who deleted it an instant ago may not have made that durable yet.
            self.tidy(key)

    def delete_many(self, keys: Sequence[str], *, durable: bool) -> None:
        """Delete objects, fsyncing each directory that stays only once, if at all."""
        left: set[str] = set()
        for group in self.locks.together(keys):
            with writing(group[0]):
                with self.locks.hold(group[0]):
                    for key in group:
                        try:
                            os.unlink(self.path(key))  # noqa: PTH108  # building a Path takes as long
                        except OSError as error:
                            if error.errno not in _NEVER_THERE and error.errno != errno.ENOENT:
                                raise
                left.update(self.directories.remove(self.path(key).rpartition("/")[0]) for key in group)
        for path in left:
            with writing(keys[0]):
                stays = self.directories.tidy(path)
                if durable:
                    self.directories.sync_entries(stays)

    def begin(self, key: str) -> None:
        """Make an empty file. Raises AlreadyExists."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with writing(key):
            try:
                self.place(key, lambda path: os.close(os.open(path, flags, FILE_MODE)))
            except FileExistsError as error:
                raise AlreadyExists("there is such a staged object already", key=key) from error

    def place(self, key: str, put_at: Callable[[str], object]) -> None:
        """Call `put_at(path)`, making the directories that it needs. Raises OSError."""
        path = self.path(key)
        for _attempt in range(PLACE_ATTEMPTS_MAX):
            try:
                put_at(path)
            except FileNotFoundError:
                # Made and tried again, as often as a deletion next to it takes the empty directories away.
                with contextlib.suppress(FileNotFoundError):
                    self._make_parent(path)
            else:
                return
        raise StorageUnavailable("the directories on the way to it keep vanishing", key=key)

    def sync(self, key: str) -> None:
        """Make an object's name durable, and the way to it. Raises OSError."""
        self.directories.sync(self.path(key).rpartition("/")[0])

    def tidy(self, key: str) -> None:
        """Remove the directories that a deletion has left empty, and make the deletion durable."""
        self.directories.sync(self.directories.tidy(self.path(key).rpartition("/")[0]))

    def _drop_dangling(self, key: str) -> bool:
        """Remove a symbolic link that leads nowhere: it takes the name of an object that is not there."""
        path = Path(self.path(key))
        with self.locks.hold(key):
            if not path.is_symlink() or path.exists():
                return False
            path.unlink()
            return True

    def _make_parent(self, path: str) -> None:
        try:
            self.directories.make(path.rpartition("/")[0])
        except FileExistsError as error:
            raise NotADirectoryError(error.errno, "a file lies where a directory should be") from error

    @contextlib.contextmanager
    def _temporary(self, key: str, body: bytes, *, durable: bool) -> Iterator[str]:
        """A new file with the bytes of an object, fsynced if `durable`; gone at the end unless renamed."""
        path = f"{self.root}/{TEMPORARY}/{secrets.token_hex(16)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        mode = PRIVATE_FILE_MODE if key.startswith(PRIVATE) else FILE_MODE
        descriptor = open_making(self.directories, path, flags, mode)
        try:
            try:
                write_all(descriptor, body)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield path
        finally:
            with contextlib.suppress(OSError):
                Path(path).unlink()

    def _check(self, key: str, version: str) -> None:
        try:
            descriptor, _found = open_file(self.path(key), key)
        except NotFound as error:
            raise VersionMismatch("the object is gone", key=key) from error
        with open(descriptor, "rb", buffering=0) as file:
            current = hashlib.file_digest(file, "sha256").hexdigest()
        if current != version:
            raise VersionMismatch("the object has changed", key=key)


def write_all(descriptor: int, body: bytes) -> None:
    """write(2) until everything is written: it may take less than it is given."""
    written = os.write(descriptor, body)
    while written < len(body):
        written += os.write(descriptor, memoryview(body)[written:])


@contextlib.contextmanager
def writing(key: str) -> Iterator[None]:
    """Turn OSError into StorageUnavailable and its kin."""
    try:
        yield
    except OSError as error:
        raise writing_failed(error, key) from error
