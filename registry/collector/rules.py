"""What the garbage collection is told: what counts as young, how long the trash is kept, when to stop."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from registry.scan import Tally
from storage.catalog import CatalogStore
from storage.collected import CollectedStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.manifests import ManifestStore
from storage.referrers import ReferrerStore
from storage.removals import RemovalStore
from storage.tags import TagStore
from storage.uploads import UploadStore

SLICE_SECONDS = 0.002

History = Callable[[str], Awaitable[set[Digest]]]
"""The manifests of a repository that the history of its tags needs."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Seconds, and the share of all manifests or blobs that may be garbage without somebody having a look first."""

    grace_seconds: float = 86400.0
    trash_seconds: float = 7 * 86400.0
    log_seconds: float = 90 * 86400.0
    brake_share: float = 0.5
    brake_floor: int = 100


async def no_history(_repository: str) -> set[Digest]:
    """Need nothing."""
    return set()


class Pace:
    """Works in short slices and rests between them, so that it takes a share of one processor at most."""

    def __init__(self, share: float = 1.0) -> None:
        self._share = share
        self._since = time.monotonic()

    async def rest(self) -> None:
        """Rest, if it is time to."""
        if self._share >= 1:
            return
        busy = time.monotonic() - self._since
        if busy >= SLICE_SECONDS:
            await asyncio.sleep(busy * (1 / self._share - 1))
            self._since = time.monotonic()


@dataclass(frozen=True, slots=True)
class CollectorStores:
    """Everything that a collection reads and writes."""

    driver: Driver
    manifests: ManifestStore
    tags: TagStore
    referrers: ReferrerStore
    catalog: CatalogStore
    uploads: UploadStore
    removals: RemovalStore
    collected: CollectedStore
    history: History = no_history
    pace: Pace = field(default_factory=Pace)
    tally: Tally = field(default_factory=Tally)
