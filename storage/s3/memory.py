"""Memory for bytes on their way to the bucket: bounded for the whole process, whatever the number of uploads."""

import asyncio
import contextlib
import ctypes
from typing import Protocol

LARGE_BYTES = 1 << 20
_M_MMAP_THRESHOLD = -3


class Holder(Protocol):
    """Somebody who holds bytes that have no part yet."""

    held: int
    """How many bytes; changed only by MemoryBudget."""

    def can_spill(self) -> bool:
        """Tell whether its bytes may be put aside now."""
        ...

    async def spill(self) -> bool:
        """Put its bytes aside, into the bucket, and give their memory back; False if that failed."""
        ...


def return_large_blocks() -> None:
    """Let malloc give every large block back to the system when it is freed (mallopt(3)), where there is such a thing.

    By itself it keeps ever larger ones: 128 MiB of parts took 411 MB of the machine, and take 249 MB like this.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


class MemoryBudget:
    """At most `bytes_max` bytes are held at once.

    Who has to wait is served in order. Where nothing comes free by itself, because everybody waits for clients
    to send the rest of a part, the one that has moved least recently is asked to put its bytes aside: no number
    of slow clients keeps others from uploading, and nobody waits for somebody who waits for him.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._used = 0
        self._holders: dict[Holder, None] = {}
        self._freed = asyncio.Event()
        self._queue = asyncio.Lock()
        self.peak = 0

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def try_take(self, holder: Holder, count: int) -> bool:
        """Count that many bytes more to the holder, unless somebody waits or they are too many."""
        if self._queue.locked() or not self._fits(count):
            return False
        self._count(holder, count)
        return True

    async def take(self, holder: Holder, count: int) -> None:
        """Wait until that many bytes more may be held, and count them to the holder."""
        async with self._queue:
            while not self._fits(count):
                await self._make_room(holder)
            self._count(holder, count)

    def give_back(self, holder: Holder, count: int) -> None:
        """Bytes are held no longer."""
        self._used -= count
        holder.held -= count
        if holder.held <= 0:
            self._holders.pop(holder, None)
        self._freed.set()

    def _count(self, holder: Holder, count: int) -> None:
        self._used += count
        self.peak = max(self.peak, self._used)
        holder.held += count
        self._holders.pop(holder, None)
        self._holders[holder] = None

    def _fits(self, count: int) -> bool:
        return self._used + count <= self._bytes_max

    async def _make_room(self, asking: Holder) -> None:
        self._freed.clear()
        for holder in list(self._holders):
            if holder is not asking and holder.can_spill() and await holder.spill():
                return
        await self._freed.wait()
