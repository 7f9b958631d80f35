"""Work that lasts as long as something is renewed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

R = TypeVar("R")


async def renewing(work: Awaitable[R], renew: Callable[[], Awaitable[None]], seconds: float) -> R:
    """Await work, and call `renew` every so many seconds meanwhile; if that raises, the work is cancelled.

    The work has ended when this ends, however it ends.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait([task], timeout=seconds))[0]:
            await renew()
        return await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
