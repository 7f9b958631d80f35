"""When tags and manifests were pulled, to the hour: records that are written once, of which the latest time counts.

A record holds what one process has counted for a while. Records are merged now and then: first the sum is written, then
what it is the sum of is deleted, so that a crash in between loses nothing.
"""

import json
from collections.abc import Callable, Iterable, Mapping

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused
from storage.walk import walk

HOUR_SECONDS = 3600
RECORD_BYTES_MAX = 32 << 20

log = structlog.get_logger(__name__)

Hours = Mapping[str, int]
"""By tag, or digest as text, the hours since the epoch that had passed when it was last pulled."""


class PullStore:
    """All records of a store. Losing one costs no more than the pulls that it tells of."""

    def __init__(self, driver: Driver, *, new_id: Callable[[], str]) -> None:
        self._driver = driver
        self._new_id = new_id

    async def add(self, repository: str, hours: Hours) -> None:
        """Write down pulls that were counted."""
        await self._driver.put(keys.pulls_record(repository, self._new_id()), _text(hours), durable=False)

    async def read(self, repository: str) -> dict[str, int]:
        """The last pull of everything."""
        hours, _records = await self._read(repository)
        return hours

    async def merge(self, repository: str, *, wanted: Callable[[str], bool]) -> None:
        """Make one record of all, with what is `wanted` of it."""
        hours, records = await self._read(repository)
        kept = {name: hour for name, hour in hours.items() if wanted(name)}
        if len(records) < 2 and len(kept) == len(hours):
            return
        if kept:
            await self.add(repository, kept)
        await self._drop(records)

    async def _read(self, repository: str) -> tuple[dict[str, int], list[str]]:
        hours: dict[str, int] = {}
        records: list[str] = []
        async for place in walk(self._driver, keys.pulls(repository)):
            records.append(place.key)
            try:
                found = json.loads((await self._driver.get(place.key, bytes_max=RECORD_BYTES_MAX)).body)
                for name, hour in found.items():
                    hours[str(name)] = max(int(hour), hours.get(name, 0))
            except (ValueError, AttributeError, TypeError, Corrupt, StorageRefused) as error:
                log.warning(
                    "damaged record of pulls", key=place.key, reason=str(error), remedy="none: it is passed over"
                )
            except NotFound:
                continue  # merged meanwhile
        return hours, records

    async def _drop(self, records: Iterable[str]) -> None:
        for key in records:
            await self._driver.delete(key)


def _text(hours: Hours) -> bytes:
    return json.dumps(dict(hours), separators=(",", ":")).encode()
