"""What of a file the kernel holds in memory, and how to let go of it."""

import ctypes
import mmap
import os

_LIBC = ctypes.CDLL(None, use_errno=True)


def is_cached(number: int) -> bool:
    """Tell whether the first page of an open file is in memory (mincore(2)); also where that can't be told.

    A read with RWF_NOWAIT would tell as well, and would have the kernel read ahead.
    """
    try:
        # A private mapping may be writable though the file is not, and only then ctypes tells its address.
        page = mmap.mmap(number, 1, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError):
        return True
    found = ctypes.c_ubyte(1)
    start = ctypes.c_char.from_buffer(page)
    try:
        failed = _LIBC.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(1), ctypes.byref(found))
    finally:
        del start  # else the mapping can't be closed
        page.close()
    return bool(failed or found.value & 1)


def forget(number: int, start: int, length: int) -> None:
    """Drop pages that were read from memory: whole ones only, and none that waits to be written (posix_fadvise(2))."""
    os.posix_fadvise(number, start, length, os.POSIX_FADV_DONTNEED)
