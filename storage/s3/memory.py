"""Memory for bytes on their way to the bucket: bounded for the whole process, whatever the number of uploads."""

import asyncio
import contextlib
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LARGE_BYTES = 16 << 10
OVERTAKEN_SECONDS = 5.0
SENDING_SECONDS = 1.0
"""How long is waited for parts on their way before anybody is asked to put bytes aside."""

LOOK_AGAIN_SECONDS = 0.05
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


@dataclass(eq=False, slots=True)
class _Waiter:
    """Somebody who needs `count` bytes more, since when, and what wakes him."""

    holder: Holder
    count: int
    since: float
    woken: asyncio.Event


class MemoryBudget:
    """At most `bytes_max` bytes are held at once.

    Who has to wait and is nearest to a whole part comes first: when that is sent, most comes free. Were they served
    in turns, all would hold the beginnings of parts, and none could be completed. Nobody waits for longer than
    OVERTAKEN_SECONDS while others overtake him.

    Where nothing comes free by itself, because everybody waits for clients to send the rest of a part, or for
    memory, somebody is asked to put his bytes aside: no number of slow clients keeps others from uploading, and nobody
    waits for somebody who waits for him.
    """

    def __init__(self, bytes_max: int, *, part_bytes: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bytes_max = bytes_max
        self._part_bytes = part_bytes
        self._monotonic = monotonic
        self._used = 0
        self._holders: dict[Holder, None] = {}
        self._waiters: list[_Waiter] = []
        self.peak = 0

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    def try_take(self, holder: Holder, count: int) -> bool:
        """Count that many bytes more to the holder, unless somebody waits or they are too many."""
        if self._waiters or not self._fits(count):
            return False
        self._count(holder, count)
        return True

    async def take(self, holder: Holder, count: int) -> None:
        """Wait until that many bytes more may be held, and count them to the holder."""
        waiter = _Waiter(holder, count, self._monotonic(), asyncio.Event())
        self._waiters.append(waiter)
        try:
            await self._turn(waiter)
            self._count(holder, count)
        finally:
            self._waiters.remove(waiter)
            self._wake()

    def give_back(self, holder: Holder, count: int) -> None:
        """Bytes are held no longer."""
        self._used -= count
        holder.held -= count
        if holder.held <= 0:
            self._holders.pop(holder, None)
        self._wake()

    def _count(self, holder: Holder, count: int) -> None:
        self._used += count
        self.peak = max(self.peak, self._used)
        holder.held += count
        self._holders.pop(holder, None)
        self._holders[holder] = None

    def _fits(self, count: int) -> bool:
        return self._used + count <= self._bytes_max

    async def _turn(self, waiter: _Waiter) -> None:
        """Return when the memory is there, and nobody else comes first."""
        while True:
            waiter.woken.clear()
            if self._first() is not waiter:
                self._wake()
                await waiter.woken.wait()
            elif self._fits(waiter.count):
                return
            else:
                await self._make_room(waiter)

    def _first(self) -> _Waiter:
        return min(self._waiters, key=self._rank)

    def _rank(self, waiter: _Waiter) -> tuple[bool, float, float]:
        """The lowest comes first: who has waited too long, else who holds the most of a part, else who came first."""
        is_late = self._monotonic() - waiter.since > OVERTAKEN_SECONDS
        return (not is_late, 0 if is_late else -(waiter.holder.held % self._part_bytes), waiter.since)

    def _wake(self) -> None:
        if self._waiters:
            self._first().woken.set()

    async def _make_room(self, waiter: _Waiter) -> None:
        """Wait for what is being sent, or have somebody put his bytes aside."""
        is_sending = any(holder.held > self._part_bytes for holder in self._holders)
        if is_sending and await self._comes_free(waiter, SENDING_SECONDS):
            return
        for holder in self._idle(waiter.holder):
            if holder.can_spill() and await holder.spill():
                return
        # All are in the middle of something, which does not take long; nobody tells when it is over.
        await self._comes_free(waiter, LOOK_AGAIN_SECONDS)

    async def _comes_free(self, waiter: _Waiter, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await waiter.woken.wait()
        return waiter.woken.is_set()

    def _idle(self, asking: Holder) -> list[Holder]:
        """Who may put bytes aside: who waits for his client, for the longest first; then who comes last here."""
        waiting = {waiter.holder: self._rank(waiter) for waiter in self._waiters}
        idle = [holder for holder in self._holders if holder not in waiting]
        last = sorted(waiting, key=waiting.__getitem__, reverse=True)
        return [holder for holder in (*idle, *last) if holder is not asking and holder.held]
