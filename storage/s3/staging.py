"""What all writers of staged objects share, within one process."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from storage.errors import StorageError
from storage.s3.client import Bucket
from storage.s3.memory import MemoryBudget
from storage.s3.multiparts import Multiparts
from storage.s3.objects import Objects
from storage.s3.pointers import Mover, Pointers

if TYPE_CHECKING:
    from storage.s3.staged import StagedObject

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Staging:
    """What all writers of a process share. `writers` has them by the key of their record."""

    bucket: Bucket
    objects: Objects
    multiparts: Multiparts
    pointers: Pointers
    mover: Mover
    budget: MemoryBudget
    writers: dict[str, "StagedObject | None"]
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


async def drop_all(calls: Iterable[Coroutine[Any, Any, None]], key: str) -> None:
    """Make the calls that drop staged bytes at once; what fails is logged, and left to the sweep."""
    for error in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(error, StorageError):
            log.warning("left staged bytes behind", key=key, reason=str(error), remedy="nothing: they are swept")
