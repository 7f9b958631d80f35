"""What the operating system says, in storage's words and with what to do about it."""

import errno
import os

from storage.errors import (
    Corrupt,
    NotFound,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageRefused,
    StorageUnavailable,
)

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NO_FILE = {
    errno.EISDIR: "a directory lies where the object should be: remove it",
    errno.ELOOP: "a symbolic link that leads nowhere lies where the object should be: remove it",
    errno.ENXIO: "something that is no file lies where the object should be: remove it",
}
_FAILURES: dict[int, tuple[type[StorageUnavailable], str]] = {
    errno.ENOSPC: (StorageFull, "no space left on the file system: free some, or enlarge it"),
    errno.EDQUOT: (StorageFull, "the disk quota is used up: free some, or raise it"),
    errno.EROFS: (StorageReadOnly, "the file system is read-only: remount it read-write"),
    errno.EACCES: (StorageRefused, "permission denied: check owner and mode of the path"),
    errno.EPERM: (StorageRefused, "not permitted: check owner, mode and attributes of the path"),
    errno.ENAMETOOLONG: (StorageRefused, "the name is too long for the file system"),
    errno.EISDIR: (StorageUnavailable, "a directory lies where the object should go: remove it"),
    errno.ENOTDIR: (StorageUnavailable, "a file lies where a directory should be: remove it"),
    errno.EEXIST: (StorageUnavailable, "a file lies where a directory should be: remove it"),
    errno.EXDEV: (StorageUnavailable, "the path lies on another device: the store needs a single file system"),
    errno.EMFILE: (StorageUnavailable, "too many open files: raise the limit (ulimit -n)"),
    errno.ENFILE: (StorageUnavailable, "too many open files on this machine: raise fs.file-max"),
    errno.EIO: (StorageUnavailable, "input/output error: check the disk and the kernel's log"),
}


def reading_failed(error: OSError, key: str) -> StorageError:
    """What a failed read means: NotFound, Corrupt, or StorageUnavailable and its kin."""
    if error.errno in _ABSENT:
        return NotFound("no such object", key=key)
    if text := _NO_FILE.get(error.errno or 0):
        return Corrupt(text, key=key)
    return writing_failed(error, key)


def writing_failed(error: OSError, key: str) -> StorageUnavailable:
    """What a failed change means: StorageUnavailable or one of its kin."""
    number = error.errno or 0
    kind, text = _FAILURES.get(number, (StorageUnavailable, f"{os.strerror(number)}: check the file system"))
    return kind(text, key=key)
