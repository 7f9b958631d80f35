"""Advisory locks: what makes compare-and-swap hold across threads and processes."""

import contextlib
import fcntl
import os
import time
import zlib
from collections.abc import Iterable, Iterator

from storage.errors import StorageUnavailable

LOCKS = 64
LOCK_SECONDS_MAX = 30.0
POLL_SECONDS = 0.0005
TOGETHER_MAX = 32
FILE_MODE = 0o600
"""Whoever may open a lock file can hold it, and so stop everybody."""


class Locks:
    """A fixed set of lock files; a key has always the same one, in every process.

    flock(2) belongs to the open file description: each holder opens the file for itself, so that threads of
    one process exclude each other too, and the kernel releases the lock when a process dies. A lock is held
    for a look and a rename(2), never over an fsync(2).
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    @contextlib.contextmanager
    def hold(self, *keys: str) -> Iterator[None]:
        """Hold the locks of all keys. Blocks; raises OSError, or StorageUnavailable after LOCK_SECONDS_MAX."""
        with contextlib.ExitStack() as held:
            # One order for everybody: two holders of two locks would wait for each other for ever.
            for slot in sorted(set(map(_slot, keys))):
                descriptor = os.open(f"{self._directory}/{slot:02}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
                held.callback(os.close, descriptor)
                _lock(descriptor, keys[0])
            yield

    def together(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Split keys into lists of which each has one lock, and short enough to hold it over all of them."""
        slots: dict[int, list[str]] = {}
        for key in keys:
            slots.setdefault(_slot(key), []).append(key)
        for slot in slots.values():
            for start in range(0, len(slot), TOGETHER_MAX):
                yield slot[start : start + TOGETHER_MAX]


def apart(keys: Iterable[str], parts: int) -> list[list[str]]:
    """Split keys into so many lists at most, of which no two have a lock in common."""
    found: list[list[str]] = [[] for _ in range(parts)]
    for key in keys:
        found[_slot(key) % parts].append(key)
    return [part for part in found if part]


def _slot(key: str) -> int:
    return zlib.crc32(key.encode()) % LOCKS


def _lock(descriptor: int, key: str) -> None:
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # Polled, for a flock(2) without LOCK_NB could wait for a stopped process for ever.
            if time.monotonic() > deadline:
                text = f"another process holds the lock for more than {LOCK_SECONDS_MAX:g} s: is it stopped?"
                raise StorageUnavailable(text, key=key) from error
            time.sleep(POLL_SECONDS)
        else:
            return
