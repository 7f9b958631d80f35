"""Background work of a serving process: at intervals, and for as long as the process lives."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)


class Janitor:
    """Sweeps again and again. Every worker has one: what it does is safe to do twice at once."""

    def __init__(self, sweep: Callable[[], Awaitable[int]], *, sweep_seconds: float) -> None:
        self._sweep = sweep
        self._sweep_seconds = sweep_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to sweep, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            # Workers that were started together spread out.
            await asyncio.sleep(self._sweep_seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret
            try:
                dropped = await self._sweep()
            except Exception:  # a job that ends at its first error would never run again
                log.exception("the sweep of upload sessions failed")
            else:
                if dropped:
                    log.info("dropped upload sessions that nobody used", sessions=dropped)
