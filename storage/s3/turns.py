"""Whose turn it is to write a staged object.

A turn is a *lease*: the record in the bucket names the writer, who writes it again every RENEW_SECONDS. It has run
out when the record is older than LEASE_SECONDS by the store's own clock. Time only decides when somebody else may
take over; what keeps the old writer from doing harm is that the record changes by compare-and-swap.

A turn is taken when it is worth a call: before the first part is sent, or after RENEW_SECONDS. A writer who is done
before that keeps nobody out, and the first of several to write his record has won.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from storage.errors import Busy, NotFound, StorageError, VersionMismatch
from storage.s3.client import etag_of
from storage.s3.objects import Objects
from storage.s3.records import SIZE, WRITER, StagedRecord, Where
from storage.threads import whole

LEASE_SECONDS = 12.0
RENEW_SECONDS = 4.0
LOST_SECONDS = 10.0
"""After that long without an answer the writer gives up by himself."""

CHECK_SECONDS = 1.0
"""How long the record is taken to be as it was last seen: a commit right after opening needs no further look."""

log = structlog.get_logger(__name__)


class Turn:
    """One writer's hold on the record: `record` is what was read or written last.

    `progress()` is asked, at each renewal, for a record of what needs no further call.
    """

    def __init__(
        self,
        objects: Objects,
        at: Where,
        record: StagedRecord,
        etag: str,
        *,
        progress: Callable[[], StagedRecord],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.record = record
        self.is_lost = False
        self._objects = objects
        self._at = at
        self._etag = etag
        self._me = secrets.token_hex(8)
        self._progress = progress
        self._monotonic = monotonic
        self._seen = monotonic()
        self._saving = asyncio.Lock()
        self._stopped = False
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    @property
    def is_taken(self) -> bool:
        """Whether the record names this writer."""
        return self.record.writer == self._me

    def mine(self, record: StagedRecord) -> StagedRecord:
        """A record that names this writer."""
        return replace(record, writer=self._me)

    async def take(self) -> None:
        """Let the record name this writer."""
        async with self._saving:
            if not self.is_taken:
                await self._write(self.mine(self.record))

    async def save(self, record: StagedRecord) -> None:
        """Write the record over the one that was read or written last.

        Raises NotFound if it is gone, and Busy if another writer came first.
        """
        async with self._saving:
            await self._write(record)

    async def look(self) -> None:
        """Make sure that it is still this writer's turn, unless that was seen a moment ago."""
        async with self._saving:
            seen = self._monotonic()
            if seen - self._seen > CHECK_SECONDS:
                self._etag = await self._still_mine(LookupError())
                self._seen = seen

    async def end(self, text: bytes | None) -> None:
        """Leave nothing of the record but the owner's text, or nothing at all. Others may have done it before."""
        async with self._saving:
            try:
                if text is not None:
                    await self._replace(StagedRecord(self.record.modified, text=text, ended=True), self._etag)
                elif self._objects.deletes_conditionally:
                    await self._objects.delete_version(self._at.record, version=self._etag)
                else:
                    await self._objects.delete(self._at.record)
            except VersionMismatch:
                pass

    def check(self) -> None:
        """Raise NotFound unless it may still be this writer's turn."""
        if self.is_lost:
            raise NotFound("the staged object is gone", key=self._at.key)

    def is_late(self) -> bool:
        """Tell whether others may have taken over: the record was not seen for too long."""
        return self._monotonic() - self._seen > LOST_SECONDS

    def lose(self) -> None:
        """Take note that it is no longer this writer's turn."""
        self.is_lost = True
        self._renewing.cancel()

    def stop(self) -> None:
        """Stop renewing: the writer is done."""
        self._stopped = True
        self._renewing.cancel()

    async def _write(self, record: StagedRecord) -> None:
        self.check()
        seen = self._monotonic()
        try:
            self._etag = await self._replace(record, self._etag)
        except VersionMismatch as error:
            self._etag = await self._still_mine(error)
            self._etag = await self._replace(record, self._etag)
        self.record, self._seen = record, seen

    async def _replace(self, record: StagedRecord, etag: str) -> str:
        body, metadata = record.to_bytes(), record.metadata()
        return await self._objects.replace(self._at.record, body, version=etag, metadata=metadata)

    async def _still_mine(self, error: Exception) -> str:
        """The entity tag of the record, if nobody else has written it since. Raises NotFound or Busy.

        It may be a record of ours whose writing was not acknowledged.
        """
        metadata: dict[str, str] = {}
        with contextlib.suppress(NotFound):
            found = await self._objects.head(self._at.record)
            metadata = found.get("Metadata", {})
            if metadata.get(WRITER) == self._me or etag_of(found) == self._etag:
                return etag_of(found)
        self.lose()
        if SIZE in metadata:
            raise Busy("another writer came first", key=self._at.key) from error
        raise NotFound("the staged object was discarded, or has ended", key=self._at.key) from error

    async def _save_progress(self) -> None:
        async with self._saving:
            # Looked at only now: what was so before the lock was free may be older than what its holder has saved.
            if not self._stopped:
                await self._write(self.mine(self._progress()))

    async def _renew(self) -> None:
        while not self.is_lost:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await whole(self._save_progress())
            except (NotFound, Busy):
                return
            except StorageError as error:
                if self.is_late():
                    log.error("lost the turn to write", key=self._at.key, reason=str(error), remedy="push again")
                    self.lose()
