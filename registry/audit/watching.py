"""Changes of the files that decide who may do what, for the audit trail: each is written down once.

Every worker looks. Which state of a file was written down last stands in the store, so that of several workers one
writes, and a change that was made while no server ran is found at the next start.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

import structlog

from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable, Trail
from registry.watched import FileProblem, Stamp, read_regular, stamp
from storage import keys
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, VersionMismatch

LOOK_SECONDS = 1.0
HASH_BYTES_MAX = 256
FILE_BYTES_MAX = 16 << 20
ABSENT = "absent"

log = structlog.get_logger(__name__)


class FileWatch:
    """Watches files, each with the kind of event that its change is."""

    def __init__(self, trail: Trail, driver: Driver, files: Mapping[Path, EventKind]) -> None:
        self._trail = trail
        self._driver = driver
        self._files = files
        self._seen: dict[Path, Stamp] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write down what has changed since the last time, and go on looking."""
        await self._look()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        for path, kind in self._files.items():
            # A stat(2) each second, and a file of some KiB when it has changed: no thread is worth it.
            found = stamp(path)
            if path in self._seen and self._seen[path] == found:
                continue
            try:
                await self._compare(path, kind)
            except (StorageError, AuditUnavailable) as error:
                log.error("a change of a file can't be written down", file=str(path), reason=str(error))
            else:
                self._seen[path] = found

    async def _compare(self, path: Path, kind: EventKind) -> None:
        key, now = keys.audited_file(_name(path)), _hash(path)
        try:
            before = await self._driver.get(key, bytes_max=HASH_BYTES_MAX)
        except Corrupt:
            await self._driver.put(key, now.encode())
            await self._tell(path, kind, "", now)
            return
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                await self._driver.create(key, now.encode())
                try:
                    await self._tell(path, kind, "", now)
                except AuditUnavailable:
                    await self._driver.delete(key)
                    raise
            return
        if before.body == now.encode():
            return
        with contextlib.suppress(VersionMismatch):  # another worker was first
            version = await self._driver.replace(key, now.encode(), version=before.version)
            try:
                await self._tell(path, kind, before.body.decode("ascii", "replace"), now)
            except AuditUnavailable:
                # As if it had not been seen: it is tried again.
                await self._driver.replace(key, before.body, version=version)
                raise

    async def _tell(self, path: Path, kind: EventKind, before: str, now: str) -> None:
        detail = {"file": str(path), **({"before": before} if before else {}), "now": now}
        await self._trail.write(Event(kind, actor="operator", detail=detail))


def _name(path: Path) -> str:
    return hashlib.sha256(str(path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()


def _hash(path: Path) -> str:
    try:
        return f"sha256:{hashlib.sha256(read_regular(path, FILE_BYTES_MAX)).hexdigest()}"
    except FileProblem as problem:
        return ABSENT if not path.exists() else str(problem)[:HASH_BYTES_MAX]
