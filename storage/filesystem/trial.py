"""What has to hold before a directory is used as a store, proved by doing it."""

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import time
from pathlib import Path

from storage.errors import StorageError, StorageFull, StorageReadOnly, StorageRefused, StorageUnavailable
from storage.filesystem.failures import writing_failed
from storage.filesystem.objects import FILE_MODE, LOCK_FILES, TEMPORARY, ObjectFiles, write_all

STALE_SECONDS = 86400.0
ROOT_MODE = 0o750
"""Private images are no business of whoever else has an account on the machine."""

# Where distribution, run by somebody else or with other mounts, may have left what we can't use.
_SHARED = ("docker", "docker/registry", "docker/registry/v2")
_CHECKED = ("", *_SHARED, f"{_SHARED[-1]}/blobs", f"{_SHARED[-1]}/blobs/sha256", f"{_SHARED[-1]}/repositories")


def try_store(files: ObjectFiles) -> None:
    """Make the directories of a store and write, sync, link, rename, lock and delete in it.

    Blocks. Raises StorageError whose message names the path and says what to do.
    """
    root = Path(files.root)
    step = root
    try:
        _make_root(root)
        for name in (TEMPORARY, LOCK_FILES):
            step = root / name
            files.directories.make(str(step))
            files.directories.sync(str(step))
        step = root / TEMPORARY
        _try_files(step)
        _try_lock(root / LOCK_FILES)
        device = step.stat().st_dev
        for name in _CHECKED:
            step = root / name
            _check_directory(step, device)
        remove_stale(root / TEMPORARY, STALE_SECONDS)
    except OSError as error:
        raise _explained(error, step) from error


def _make_root(root: Path) -> None:
    missing = [path for path in (root, *root.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another worker starts at the same time
            path.mkdir(ROOT_MODE if path == root else 0o755)
    if not root.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    for path in missing:
        _sync(path.parent)


def _try_files(directory: Path) -> None:
    first, second, third = (directory / f"trial-{secrets.token_hex(8)}" for _ in range(3))
    try:
        descriptor = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            write_all(descriptor, b"trial")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _try_link(first, second)
        first.rename(third)
        _sync(directory)
    finally:
        for path in (first, second, third):
            path.unlink(missing_ok=True)


def _try_link(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        text = "the file system has no hard links (link(2)): put the data directory on ext4, xfs or the like"
        raise StorageUnavailable(f"{name.parent}: {text}") from error


def _try_lock(directory: Path) -> None:
    path = directory / f"trial-{secrets.token_hex(8)}"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with contextlib.ExitStack() as opened:
        first = os.open(path, flags, FILE_MODE)
        opened.callback(path.unlink, missing_ok=True)
        opened.callback(os.close, first)
        second = os.open(path, flags, FILE_MODE)
        opened.callback(os.close, second)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _no_locks(directory) from error
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise _no_locks(directory)


def _no_locks(directory: Path) -> StorageUnavailable:
    text = "the file system has no working file locks (flock(2)): put the data directory on ext4, xfs or the like"
    return StorageUnavailable(f"{directory}: {text}")


def _check_directory(path: Path, device: int) -> None:
    if not path.exists():
        return
    if path.stat().st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def remove_stale(directory: Path, older_than_seconds: float) -> int:
    """Remove what writers that are long dead have left, and count it. A recent file may be another worker's."""
    removed = 0
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < time.time() - older_than_seconds:
                path.unlink()
                removed += 1
    return removed


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, path: Path) -> StorageError:
    there = next(each for each in (path, *path.parents) if os.path.lexists(each))
    if error.errno in {errno.EACCES, errno.EPERM}:
        return StorageRefused(f"{path} can't be used: {_ownership(there)}")
    if error.errno == errno.EROFS:
        return StorageReadOnly(f"{path} can't be used: the file system is read-only: remount it read-write")
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(f"{path} can't be used: {writing_failed(error, '')}")
    if error.errno in {errno.ENOTDIR, errno.EEXIST}:
        return StorageUnavailable(f"{path} can't be used: {there} is no directory: move it away")
    return StorageUnavailable(f"{path} can't be used: {writing_failed(error, '')}")


def _ownership(path: Path) -> str:
    owner, ours = path.lstat(), os.geteuid()
    mode = f"{owner.st_mode & 0o7777:04o}"
    whose = f"{path} belongs to {_user(owner.st_uid)} with mode {mode}, and this process is {_user(ours)}"
    return f"{whose}: chown -R {ours} {path}, or run as the owner"


def _user(number: int) -> str:
    try:
        return f"uid {number} ({pwd.getpwuid(number).pw_name})"
    except KeyError:
        return f"uid {number}"
