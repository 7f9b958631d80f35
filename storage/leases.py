"""Leases: of all processes that share a store, one at a time does a piece of background work.

A lease is a small object that names its holder and is written again every RENEW_SECONDS, by compare-and-swap. Whoever
finds it held remembers its version; if that is the same LEASE_SECONDS later, by his own clock, the holder is dead and
the lease is free. No two clocks are ever compared.

A holder that was only taken for dead finds at his next renewal that he has lost, and his work is cancelled. What he
has done meanwhile does no harm because of what the work is: a lease saves doing it twice, and guards nothing. Whatever
needs a guard is changed by compare-and-swap itself, with the version that was looked at as its fencing token.
"""

import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, VersionMismatch
from storage.renewing import renewing

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
STORED_BYTES_MAX = 1024

log = structlog.get_logger(__name__)


class _LostError(Exception):
    """Somebody else has taken the lease."""


class LeaseStore:
    """The leases of a store as one process sees them."""

    def __init__(
        self,
        driver: Driver,
        *,
        new_id: Callable[[], str],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._me = new_id()
        self._clock = clock
        self._monotonic = monotonic
        self._seen: dict[str, tuple[str, float]] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[None]], *, rest_seconds: float = 0.0) -> bool:
        """Do the work if nobody else does it now, or has ended it less than `rest_seconds` ago; tells whether it did.

        Work whose lease was lost is cancelled, and counts as not done.
        """
        taken = await self._take(name, rest_seconds)
        if taken is None:
            return False
        version: str = taken

        async def renew() -> None:
            nonlocal version
            version = await self._renew(name, version)

        try:
            await renewing(work(), renew, RENEW_SECONDS)
        except _LostError:
            return False
        except BaseException:
            await self._release(name, version)
            raise
        await self._release(name, version)
        return True

    async def _take(self, name: str, rest_seconds: float) -> str | None:
        """The version of a lease that was free and is held now."""
        key = keys.lease(name)
        with contextlib.suppress(AlreadyExists, VersionMismatch):
            try:
                found = await self._driver.get(key, bytes_max=STORED_BYTES_MAX)
            except NotFound:
                return await self._driver.create(key, self._text(self._me))
            except Corrupt:
                return await self._driver.put(key, self._text(self._me))
            fields = _fields(found.body)
            is_free = not fields.get("holder")
            if is_free and 0 <= self._clock() - _number(fields.get("ended")) < rest_seconds:
                return None
            if is_free or self._is_stale(name, found.version):
                return await self._driver.replace(key, self._text(self._me), version=found.version)
        return None

    async def _renew(self, name: str, version: str) -> str:
        try:
            return await self._driver.replace(keys.lease(name), self._text(self._me), version=version)
        except VersionMismatch as error:
            log.warning("lost a lease", lease=name, reason="it was not renewed in time", remedy="none: another has it")
            raise _LostError from error
        except StorageError:
            return version  # tried again: others see by themselves whether it was too late

    async def _release(self, name: str, version: str) -> None:
        # What stays held if that fails is free after LEASE_SECONDS.
        with contextlib.suppress(StorageError):
            await self._driver.replace(keys.lease(name), self._text("", ended=self._clock()), version=version)

    def _is_stale(self, name: str, version: str) -> bool:
        now = self._monotonic()
        seen, since = self._seen.get(name, ("", now))
        if seen != version:
            self._seen[name] = (version, now)
            return False
        return now - since >= LEASE_SECONDS

    def _text(self, holder: str, *, ended: float = 0.0) -> bytes:
        # The time makes every text another one, and so every version.
        return json.dumps({"holder": holder, "ended": ended, "written": self._clock()}).encode()


def _fields(text: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0.0
