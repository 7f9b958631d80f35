"""The collection of a serving process: at intervals, by one process of all that share the store, and gently."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from registry.background import BackgroundWork
from registry.collector.collection import Collection
from registry.collector.reports import Report
from storage.errors import StorageError
from storage.leases import LeaseStore

LEASE = "collect"
LOOK_SECONDS_MAX = 600.0

log = structlog.get_logger(__name__)


class Background(BackgroundWork):
    """Collects again and again. `make` makes each collection, `count` counts afterwards what is left."""

    def __init__(
        self,
        leases: LeaseStore,
        make: Callable[[], Collection],
        *,
        interval_seconds: float,
        count: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self._leases = leases
        self._make = make
        self._count = count
        self._interval_seconds = interval_seconds

    async def _run(self) -> None:
        look_seconds = min(self._interval_seconds, LOOK_SECONDS_MAX)
        while True:
            # Workers that were started together spread out.
            await asyncio.sleep(look_seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret
            try:
                # Somebody looks more often than anybody collects: servers that are started often collect too.
                await self._leases.run(LEASE, self._collect, rest_seconds=self._interval_seconds)
            except StorageError as error:
                log.error("a collection failed", reason=str(error), remedy="none needed: the next one does it")
            except Exception:  # a job that ends at its first error would never run again
                log.exception("a collection failed")

    async def _collect(self) -> None:
        report = await self._make().run()
        tell(report)
        if self._count is not None:
            await self._count()


def tell(report: Report) -> None:
    """Log what a collection has come to."""
    log.info(
        "collected garbage",
        outcome=report.outcome,
        manifests=report.taken_manifests,
        layers=report.taken_layers,
        blobs=report.deleted_blobs,
        bytes=report.deleted_bytes,
        seconds=round(report.ended - report.started, 1),
    )
