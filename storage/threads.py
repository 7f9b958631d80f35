"""Threads for work that waits for a store: bounded, and never left behind by a request that was cancelled."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

HASHING_MAX = 2
"""How many threads may at once write bytes and hash them: more would only take the event loop's turns.

Measured with 50 uploads in each of two workers, on two cores: with all 16 threads hashing, a request that needs no
thread at all took 3 seconds and the uploads twice as long.
"""

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """At most `threads_max` threads. What is awaited here has ended when the await ends, however it ends."""

    def __init__(self, threads_max: int, *, name: str = "storage") -> None:
        self._pool = ThreadPoolExecutor(threads_max, thread_name_prefix=name)
        self.hashing = asyncio.Semaphore(HASHING_MAX)
        """To be held over work that keeps a processor busy."""

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `work` in a thread. When cancelled, take it from the queue or wait until it is done.

        A thread can't be stopped. If the caller went on before it has ended, it would write into a file whose
        lock was released, or through a descriptor number that means another file by then.
        """
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


async def whole(work: Coroutine[Any, Any, R]) -> R:
    """Await something that must not stop half-way: a cancellation is raised once it has ended."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
