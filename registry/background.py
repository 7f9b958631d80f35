"""What a serving process does beside answering requests."""

import asyncio
import contextlib
from abc import ABC, abstractmethod


class BackgroundWork(ABC):
    """Goes on from `start` to `close`, in the event loop that it was started in."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop, wherever it is. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @abstractmethod
    async def _run(self) -> None:
        """Go on until cancelled."""
