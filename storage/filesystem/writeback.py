"""sync_file_range(2): the kernel starts to write early, so that the fsync(2) at the end is short; and syncfs(2)."""

import ctypes
import os
from collections.abc import Callable

_SYNC_FILE_RANGE_WRITE = 2


def _load() -> Callable[[int, int, int], object]:
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):  # a C library without it: the fsync at the end has to do it all
        return lambda _descriptor, _offset, _length: None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    call.restype = ctypes.c_int
    # Its result is not looked at: it promises nothing, and fsync(2) reports what went wrong.
    return lambda descriptor, offset, length: call(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


start_writing = _load()


def sync_file_system(path: str) -> None:
    """Return when everything that was written to the file system of a path is durable. Blocks; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if call is None:
            os.sync()
        elif call(descriptor):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(descriptor)
