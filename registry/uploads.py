"""Upload sessions as clients see them: whose they are, where the next byte goes, and when a blob is whole."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from registry.errors import (
    DigestInvalid,
    NameInvalid,
    QuotaExceeded,
    RangeInvalid,
    SizeInvalid,
    TooLarge,
    TooManyRequests,
    UploadUnknown,
)
from registry.names import RepositoryName, parse_name
from registry.quotas import Quotas, Room
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.digest import SHA256, Digest
from storage.errors import Busy, NotFound
from storage.uploads import Upload, UploadStore, UploadWriter

SOURCES_MAX = 1000
"""How many repositories a mount without a source looks through when the hint fails."""
RETRY_SECONDS = 1
NO_LIMIT = Room(None, 0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes on their way in: in lists of pieces as they arrive, with what was announced of them.

    `start` is where a Content-Range says that they go. `length` is the announced length in bytes, None if the
    body comes chunked; `range_length` that of the Content-Range.
    """

    batches: AsyncIterator[Sequence[bytes]]
    length: int | None = None
    start: int | None = None
    range_length: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it was announced that nothing comes."""
        return self.length == 0 and self.start is None


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """`uploads_max` bodies are received at once; `blob_bytes_max` is the largest blob (None: any size)."""

    uploads_max: int
    blob_bytes_max: int | None = None
    idle_seconds: float = 3600
    lifetime_seconds: float = 86400
    ended_seconds: float = 3600


class Uploads:
    """A session belongs to one repository, grows only at its end, and has one writer at a time."""

    def __init__(
        self,
        store: UploadStore,
        blobs: BlobStore,
        catalog: CatalogStore,
        *,
        limits: UploadLimits,
        new_id: Callable[[], str],
        quotas: Quotas | None = None,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._catalog = catalog
        self._limits = limits
        self._new_id = new_id
        self._quotas = quotas
        self._receiving = 0

    async def begin(self, repository: RepositoryName, *, algorithm: str = SHA256) -> Upload:
        """Begin a session (end-4a, end-4c). sha256 is always computed: bytes lie under it. Raises QuotaExceeded."""
        await self._room(repository, 0)
        return await self._begin(repository, algorithm)

    async def _begin(self, repository: RepositoryName, algorithm: str) -> Upload:
        algorithms = [SHA256] if algorithm == SHA256 else [SHA256, algorithm]
        return await self._store.begin(repository, self._new_id(), algorithms=algorithms)

    async def mount(
        self,
        repository: RepositoryName,
        digest: Digest,
        source: RepositoryName | None,
        *,
        shows: Callable[[str], bool] = lambda _repository: True,
    ) -> bool:
        """Link to a blob that `source` holds, or that any repository of those that `shows` does (end-11).

        False if there is none. Raises QuotaExceeded.
        """
        if source is not None:
            return await self._mount_from(source, repository, digest)
        hint = await self._blobs.source(digest)
        with contextlib.suppress(NameInvalid):  # what is stored there may be damaged
            if hint is not None and shows(hint) and await self._mount_from(parse_name(hint), repository, digest):
                return True
        names, _more = await self._catalog.list(limit=SOURCES_MAX)
        for name in names:
            if name != hint and shows(name) and await self._mount_from(RepositoryName(name), repository, digest):
                await self._blobs.remember_source(name, digest)
                return True
        return False

    async def _mount_from(self, source: RepositoryName, repository: RepositoryName, digest: Digest) -> bool:
        quotas = self._quotas
        reserve = None if quotas is None else partial(quotas.reserve, repository)
        try:
            await self._blobs.mount(repository, digest, source=source, reserve=reserve)
        except NotFound:
            return False
        return True

    async def get(self, repository: RepositoryName, upload: str) -> Upload:
        """Look at a session (end-13). Raises UploadUnknown."""
        try:
            return await self._store.find(repository, upload)
        except NotFound as error:
            raise _unknown() from error

    async def append(self, repository: RepositoryName, upload: str, body: Body) -> Upload:
        """Add a chunk or a stream (end-5). Raises UploadUnknown, RangeInvalid, SizeInvalid, TooLarge.

        If the client vanishes, a stream's bytes so far are kept, and a chunk's are taken back. Raises QuotaExceeded
        as well, which ends the session.
        """
        with self._slot():
            async with self._refusable(repository, upload), self._writer(repository, upload) as writer:
                room = await self._room(repository, 0)
                self._check(writer, body, room)
                await self._receive(writer, body, room)
                return Upload(writer.record, writer.size)

    async def finish(self, repository: RepositoryName, upload: str, digest: Digest, body: Body) -> None:
        """Add the last bytes, if any, and make the session a blob (end-6). A repeated finish is fine.

        Raises UploadUnknown, RangeInvalid, SizeInvalid, TooLarge; and DigestInvalid if the bytes are others, or
        QuotaExceeded, both of which end the session.
        """
        try:
            await self._finish(repository, upload, digest, body)
        except UploadUnknown:
            if not await self._has_ended_as(repository, upload, digest):
                raise

    async def put(self, repository: RepositoryName, digest: Digest, body: Body) -> None:
        """Take a whole blob in one request (end-4b). Raises DigestInvalid, TooLarge, QuotaExceeded."""
        self._refuse_too_large(0, body)
        await self._room(repository, body.length or 0)
        begun = await self._begin(repository, digest.algorithm)
        try:
            await self.finish(repository, begun.record.id, digest, body)
        except BaseException:
            # Nobody knows the id, so nobody could go on with it.
            with contextlib.suppress(NotFound):
                await self._store.cancel(repository, begun.record.id)
            raise

    async def cancel(self, repository: RepositoryName, upload: str) -> None:
        """End a session and drop its bytes (end-14). Raises UploadUnknown."""
        await self.get(repository, upload)
        await self._store.cancel(repository, upload)

    async def expire(self) -> int:
        """Drop sessions that nobody uses any more; returns how many."""
        limits = self._limits
        return await self._store.expire(
            idle_seconds=limits.idle_seconds,
            lifetime_seconds=limits.lifetime_seconds,
            ended_seconds=limits.ended_seconds,
        )

    async def _finish(self, repository: RepositoryName, upload: str, digest: Digest, body: Body) -> None:
        with self._slot() if not body.is_empty else contextlib.nullcontext():
            async with self._refusable(repository, upload), self._writer(repository, upload) as writer:
                # Without a body, what counts is whether the blob fits: the commit looks at that.
                room = NO_LIMIT if body.is_empty else await self._room(repository, 0)
                self._check(writer, body, room)
                writer.also_hash(digest.algorithm)
                if not body.is_empty:
                    aimed = writer.size == 0 and self._blobs.aim(writer.staged, digest)
                    await self._receive(writer, body, room, save=False, keep=not aimed)
                await self._commit(repository, writer, digest)

    async def _room(self, repository: RepositoryName, size: int) -> Room:
        """How much may come in. Raises QuotaExceeded if that is less than `size`."""
        return NO_LIMIT if self._quotas is None else await self._quotas.admit(repository, size)

    @asynccontextmanager
    async def _refusable(self, repository: RepositoryName, upload: str) -> AsyncIterator[None]:
        """End the session if its blob does not fit: to go on with it would lead nowhere, and its bytes take space."""
        try:
            yield
        except QuotaExceeded:
            with contextlib.suppress(NotFound):
                await self._store.cancel(repository, upload)
            raise

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        if self._receiving >= self._limits.uploads_max:
            raise TooManyRequests(
                f"{self._receiving} uploads are being received, which is the limit: try again",
                headers=[("retry-after", str(RETRY_SECONDS))],
            )
        self._receiving += 1
        try:
            yield
        finally:
            self._receiving -= 1

    @asynccontextmanager
    async def _writer(self, repository: RepositoryName, upload: str) -> AsyncIterator[UploadWriter]:
        try:
            writer = await self._store.write(repository, upload)
        except Busy as error:
            raise await self._busy(repository, upload) from error
        except NotFound as error:
            raise _unknown() from error
        try:
            yield writer
        except Busy as error:
            raise await self._busy(repository, upload) from error
        except NotFound as error:
            raise UploadUnknown("the upload was cancelled or has ended meanwhile") from error
        finally:
            await writer.close()

    async def _busy(self, repository: RepositoryName, upload: str) -> RangeInvalid:
        current = await self.get(repository, upload)
        return RangeInvalid("another request is adding to this upload", size=current.size)

    def _check(self, writer: UploadWriter, body: Body, room: Room) -> None:
        if body.start is not None and body.start != writer.size:
            raise RangeInvalid(
                f"the chunk begins at {body.start}, the upload ends at {writer.size}: go on there",
                size=writer.size,
            )
        if None not in (body.length, body.range_length) and body.length != body.range_length:
            raise SizeInvalid(f"Content-Range speaks of {body.range_length} bytes, Content-Length of {body.length}")
        self._refuse_too_large(writer.size, body)
        room.check(writer.size + (body.length or 0))

    def _refuse_too_large(self, size: int, body: Body) -> None:
        limit = self._limits.blob_bytes_max
        if limit is not None and size + (body.length or 0) > limit:
            raise TooLarge(f"a blob has at most {limit} bytes here")

    async def _receive(
        self, writer: UploadWriter, body: Body, room: Room, *, save: bool = True, keep: bool = True
    ) -> None:
        """Append a body and make it durable; what is kept when it breaks off is told in `append`.

        Without `keep` nothing is: the bytes go where only a whole blob can be.
        """
        start = writer.size
        try:
            async for pieces in body.batches:
                await writer.append(pieces)
                self._refuse_overrun(writer, start, body)
                room.check(writer.size)
            if body.range_length is not None and writer.size - start != body.range_length:
                raise SizeInvalid(f"Content-Range speaks of {body.range_length} bytes, {writer.size - start} have come")
        except (NotFound, Busy, QuotaExceeded):
            raise
        except BaseException as error:
            if not keep or body.start is not None or isinstance(error, SizeInvalid):
                await writer.roll_back(start)
            await self._store.save(writer)
            raise
        if save:
            await self._store.save(writer)

    def _refuse_overrun(self, writer: UploadWriter, start: int, body: Body) -> None:
        if body.range_length is not None and writer.size - start > body.range_length:
            raise SizeInvalid(f"Content-Range speaks of {body.range_length} bytes, more have come")
        self._refuse_too_large(writer.size, Body(body.batches))

    async def _commit(self, repository: RepositoryName, writer: UploadWriter, digest: Digest) -> None:
        canonical = await writer.digest(SHA256)
        actual = canonical if digest.algorithm == SHA256 else await writer.digest(digest.algorithm)
        if actual != digest:
            await self._store.cancel(repository, writer.record.id)
            raise DigestInvalid(f"the bytes hash to {actual}, not to the digest that was asked for: push them again")
        if self._quotas is not None:
            await self._quotas.reserve(repository, canonical, writer.size)
        ended = self._store.ended(writer, digest)
        await self._blobs.commit(writer.staged, repository, digest, canonical=canonical, record=ended)
        await self._store.finish(writer)

    async def _has_ended_as(self, repository: RepositoryName, upload: str, digest: Digest) -> bool:
        # The answer to the first finish may have been lost; the blob may also have been deleted since.
        try:
            record = await self._store.record(repository, upload)
        except NotFound:
            return False
        return record.digest == str(digest) and await self._blobs.exists(repository, digest)


def _unknown() -> UploadUnknown:
    return UploadUnknown("there is no such upload in this repository: begin a new one")
