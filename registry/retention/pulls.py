"""Pulls as they are counted: in memory, and written down now and then; no request ever waits for that."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable

import structlog

from registry.background import BackgroundWork
from registry.retention.verdicts import Rules
from storage.errors import StorageError
from storage.pulls import HOUR_SECONDS, PullStore

COUNTED_MAX = 100_000
"""So many tags and manifests are held in memory; then they are written down ahead of time."""

log = structlog.get_logger(__name__)


class Pulls(BackgroundWork):
    """Counts in those repositories that a rule with `keep_pulled_within` is about, and nowhere else.

    A process that dies loses what it has counted since the last time that it wrote.
    """

    def __init__(
        self, store: PullStore, rules: Rules, *, flush_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._store = store
        self._rules = rules
        self._flush_seconds = flush_seconds
        self._clock = clock
        self._counted: dict[str, dict[str, int]] = defaultdict(dict)
        self._count = 0
        self._is_full = asyncio.Event()

    def note(self, repository: str, reference: str) -> None:
        """Count a pull of a tag, or of a manifest by its digest as text."""
        if not self._rules.counts_pulls(repository):
            return
        counted = self._counted[repository]
        if reference not in counted:
            if self._count >= 2 * COUNTED_MAX:
                return  # the store fails for long: what is lost is told when it is written
            self._count += 1
            if self._count >= COUNTED_MAX:
                self._is_full.set()
        counted[reference] = int(self._clock()) // HOUR_SECONDS

    async def close(self) -> None:
        """Stop, and write down what was counted."""
        was_started = self._task is not None
        await super().close()
        if was_started:
            await self.flush()

    async def flush(self) -> None:
        """Write down what was counted since the last time. What fails is kept for the next time."""
        counted, self._counted = self._counted, defaultdict(dict)
        count, self._count = self._count, 0
        self._is_full.clear()
        if count >= 2 * COUNTED_MAX:
            log.warning("pulls were not counted", reason="the store failed for too long", remedy="none")
        for repository, hours in counted.items():
            try:
                await self._store.add(repository, hours)
            except StorageError as error:
                log.warning("pulls are not written down yet", reason=str(error), remedy="none: tried again later")
                self._put_back(repository, hours)

    def _put_back(self, repository: str, hours: dict[str, int]) -> None:
        since = self._counted[repository]
        self._count += len(hours.keys() - since.keys())
        self._counted[repository] = {**hours, **since}

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_full.wait(), self._flush_seconds)
            await self.flush()
