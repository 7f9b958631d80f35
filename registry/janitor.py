"""Background work of a serving process: at intervals, and for as long as the process lives."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from registry.background import BackgroundWork
from storage.errors import StorageError, StorageUnavailable
from storage.leases import LeaseStore

log = structlog.get_logger(__name__)


LEASE = "sweep"


class Janitor(BackgroundWork):
    """Sweeps again and again. Every worker of every server has one, and one of them at a time sweeps.

    What it does is safe to do twice at once. `sweeps` has, by what it drops, a function that drops it and returns how
    many there were.
    """

    def __init__(
        self,
        leases: LeaseStore,
        sweeps: Mapping[str, Callable[[], Awaitable[int]]],
        *,
        sweep_seconds: float,
        lease: str = LEASE,
    ) -> None:
        super().__init__()
        self._lease = lease
        self._leases = leases
        self._sweeps = sweeps
        self._sweep_seconds = sweep_seconds

    async def _run(self) -> None:
        while True:
            # Workers that were started together spread out.
            await asyncio.sleep(self._sweep_seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret
            try:
                await self._leases.run(self._lease, self._sweep_all, rest_seconds=self._sweep_seconds / 4)
            except StorageError as error:
                log.warning("can't tell whether to sweep", reason=str(error), remedy="none: looked again later")

    async def _sweep_all(self) -> None:
        for what, sweep in self._sweeps.items():
            await _sweep(what, sweep)


async def seldom(leases: LeaseStore, lease: str, sweep: Callable[[], Awaitable[int]], *, rest_seconds: float) -> int:
    """Sweep, unless that was done less than `rest_seconds` ago, here or elsewhere; returns what the sweep returns."""
    dropped = 0

    async def work() -> None:
        nonlocal dropped
        dropped = await sweep()

    await leases.run(lease, work, rest_seconds=rest_seconds)
    return dropped


async def _sweep(what: str, sweep: Callable[[], Awaitable[int]]) -> None:
    try:
        dropped = await sweep()
    except StorageUnavailable as error:
        log.error("a sweep failed", of=what, reason=str(error), remedy="none needed: the next one does it")
    except Exception:  # a job that ends at its first error would never run again
        log.exception("a sweep failed", of=what)
    else:
        if dropped:
            log.info("dropped what nobody used", what=what, count=dropped)
