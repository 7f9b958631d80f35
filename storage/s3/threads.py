"""Threads for calls to the bucket: bounded, and never left behind by a request that was cancelled."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

HASHING_MAX = 2
"""How many threads may hash at once: more would only take the event loop's turns."""

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """At most `threads_max` threads. What is awaited here has ended when the await ends, however it ends."""

    def __init__(self, threads_max: int, *, sending_max: int = 8) -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix="s3")
        self.hashing = asyncio.Semaphore(HASHING_MAX)
        sending = min(sending_max, max(1, threads_max // 4))
        self.sending = asyncio.Semaphore(sending)
        """To be held over calls that send many bytes: each has its body in memory once more."""
        self.copying = asyncio.Semaphore(max(1, threads_max // 2))
        """To be held over calls that let the store copy: some threads are always left for the short ones."""

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `work` in a thread. When cancelled, take it from the queue or wait until it is done."""
        task = self._pool.submit(work, *args, **kwargs)
        try:
            return await asyncio.wrap_future(task)
        except asyncio.CancelledError:
            await _ended(task)
            raise

    async def close(self) -> None:
        """Wait for the threads to end."""
        await asyncio.to_thread(self._pool.shutdown)


async def _ended(task: Future[R]) -> None:
    while not task.done():
        waiting = asyncio.wrap_future(task)
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError:
            continue  # told already; the first cancellation is raised once the thread has ended
        finally:
            waiting.add_done_callback(_retrieve)


def _retrieve(waiting: asyncio.Future[R]) -> None:
    if not waiting.cancelled():
        waiting.exception()  # nobody else will ask for it, and asyncio would complain
