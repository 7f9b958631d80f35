"""Staged objects: parts on their way to the bucket, a tail in memory, and one writer at a time.

A writer's turn is a *lease*: the record in the bucket names him, and he writes it again every RENEW_SECONDS. It
has run out when the record is older than LEASE_SECONDS by the store's own clock. Time only decides when somebody
else may take over; what keeps the old writer from doing harm is that the record changes by compare-and-swap.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog

from storage.drivers import PIECE_BYTES, Observer
from storage.errors import Busy, Corrupt, NotFound, StorageError, StorageUnavailable, VersionMismatch
from storage.s3.client import Bucket, etag_of
from storage.s3.memory import MemoryBudget
from storage.s3.multiparts import Multiparts
from storage.s3.objects import Objects, age_seconds, identity_of
from storage.s3.readers import read_range
from storage.s3.records import (
    INLINE_BYTES_MAX,
    RECORD_BYTES_MAX,
    WRITER,
    Multipart,
    Part,
    Segment,
    StagedRecord,
    Tail,
    new_key,
    record_key,
)

LEASE_SECONDS = 12.0
RENEW_SECONDS = 4.0
LOST_SECONDS = 10.0
"""After that long without an answer the writer gives up by himself."""

CHECK_SECONDS = 1.0
"""How long the record is taken to be as it was last seen: a commit right after opening needs no further look."""

NUMBERS_SKIPPED = 16
"""A writer that has died may have parts on their way: his successor uses none of their numbers."""

R = TypeVar("R")
Piece = bytes | memoryview

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Staging:
    """What all writers of a process share."""

    bucket: Bucket
    objects: Objects
    multiparts: Multiparts
    budget: MemoryBudget
    writers: dict[str, "StagedObject | None"]
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


async def open_staged(staging: Staging, key: str) -> "StagedObject":
    """Become the writer of a staged object. Raises NotFound, or Busy if it has one."""
    if key in staging.writers:
        raise Busy("another writer holds the staged object", key=key)
    staging.writers[key] = None
    try:
        return await whole(_take_turn(staging, key))
    finally:
        if staging.writers.get(key) is None:
            staging.writers.pop(key, None)


async def _take_turn(staging: Staging, key: str) -> "StagedObject":
    try:
        response, text = await staging.objects.fetch(record_key(key), bytes_max=RECORD_BYTES_MAX)
    except Corrupt:
        raise
    except NotFound as error:
        raise NotFound("no such staged object", key=key) from error
    record = StagedRecord.from_bytes(text, key)
    if record.writer and age_seconds(response) < LEASE_SECONDS:
        raise Busy("another writer holds the staged object", key=key)
    if record.writer and record.upload is not None:
        record = await _after_a_crash(staging, record, record.upload)
    record = replace(record, writer=secrets.token_hex(8))
    seen = staging.monotonic()
    try:
        etag = await staging.objects.replace(
            record_key(key), record.to_bytes(), version=etag_of(response), metadata=record.metadata()
        )
    except VersionMismatch as error:
        raise Busy("another writer holds the staged object", key=key) from error
    writer = StagedObject(staging, key, record, etag, seen)
    staging.writers[key] = writer
    return writer


async def _after_a_crash(staging: Staging, record: StagedRecord, upload: Multipart) -> StagedRecord:
    """The record of a writer that has died: he may have completed the upload, or sent parts of it."""
    found = await staging.multiparts.completed(upload.key, upload.size)
    if found is not None:
        segments = (*record.segments, found) if upload.size else record.segments
        return replace(record, segments=segments, upload=None)
    return replace(record, upload=replace(upload, next_number=upload.next_number + NUMBERS_SKIPPED))


@dataclass(slots=True)
class _Sending:
    """A part that is not known to be in the bucket: its bytes are kept until it is."""

    number: int
    body: bytes
    task: asyncio.Task[Part] | None = None


class StagedObject:
    """The one writer of a staged object, as long as its lease holds.

    The staged bytes are, in this order: segments, parts that are in the bucket, parts on their way, and the tail,
    which is in memory or put aside in the bucket. `size` counts them all. What the next writer finds is what the
    record says: `flush` and `close` make the two the same.
    """

    def __init__(self, staging: Staging, key: str, record: StagedRecord, etag: str, seen: float) -> None:
        self.size = record.size
        self.modified = record.modified
        self.held = 0
        self._staging = staging
        self._key = key
        self._me = record.writer
        self._record = record
        self._etag = etag
        self._seen = seen
        self._segments = list(record.segments)
        self._upload = record.upload
        self._parts = list(record.upload.parts) if record.upload else []
        self._sending: list[_Sending] = []
        self._aside: Tail | None = record.tail if record.tail.key else None
        self._buffer: list[Piece] = []
        self._buffered = 0
        self._first = record.tail.inline
        self._dirty = False
        self._shortened = False
        self._gone = False
        self._closed = False
        self._pinned = False
        self._spilling: asyncio.Future[None] | None = None
        self._failed = asyncio.Event()
        self._garbage: list[str] = []
        self._turn = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def write(self, pieces: Sequence[bytes], observe: Observer | None = None) -> None:
        """Append the pieces, calling `observe(pieces)` in a thread once they are taken.

        A part that could not be sent is kept and sent again by the next call. Raises NotFound if the staged
        object was discarded, or its lease lost.
        """
        async with self._busy():
            for batch in _batches(pieces):
                await self._append(batch)
            if observe is not None and pieces:
                async with self._staging.bucket.threads.hashing:
                    await self._staging.bucket.threads.run(observe, pieces)
            await self._send_full_parts()

    async def truncate(self, size: int) -> None:
        """Take back everything after the first `size` bytes."""
        async with self._busy():
            if size >= self.size:
                return
            self._dirty = self._shortened = True
            await self._shorten(size)

    async def flush(self) -> None:
        """Return only when a record of the bytes so far is in the bucket."""
        async with self._busy():
            await self._settle()
            if self._dirty:
                await whole(self._keep(writer=self._me))
            else:
                await self._look()

    async def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Read back what was staged.

        The parts of a multipart upload can't be read: it is completed first, and the next part begins another.
        """
        async with self._busy():
            end = min(start + length, self.size)
            if start < end and start < self.size - self._tail_size:
                await self._settle()
                await whole(self._roll())
            sources = list(self._segments)
            if self._aside is not None:
                sources.append(Segment(self._aside.key, self._aside.etag, self._aside.size))
            tail = self._joined() if end > self.size - self._buffered else b""
            tail_at = self.size - self._buffered
        offset = 0
        for source in sources:
            first, last = max(start, offset), min(end, offset + source.size)
            if first < last:
                ranged = read_range(
                    self._staging.objects,
                    (source.key, source.etag),
                    first - offset,
                    last - offset,
                    observe=observe,
                )
                async with contextlib.aclosing(ranged):
                    async for piece in ranged:
                        yield piece
            offset += source.size
        for first in range(max(start, tail_at), end, PIECE_BYTES):
            piece = tail[first - tail_at : min(first + PIECE_BYTES, end) - tail_at]
            if observe is not None:
                await self._staging.bucket.threads.run(observe, [piece])
            yield piece
        if start + length > end:
            raise Corrupt(f"the object ends {start + length - max(end, start)} bytes early", key=self._key)

    async def commit(self, key: str) -> str:
        """Make the bytes the object at `key` and drop the staged object; returns the object's identity."""
        async with self._busy():
            await self._look()
            if self._segments or self._parts or self._sending:
                etag = await whole(self._commit_large(key))
            else:
                etag = await whole(self._commit_small(key))
            # From here on the bytes are the object: whatever fails below, nothing may be appended to them.
            await whole(self._forget())
        return identity_of(key, etag)

    async def close(self) -> None:
        """Give up the turn and keep the bytes. Safe to call twice, and after commit."""
        if self._closed:
            return
        async with self._turn:
            await self._settled_spill()
            await whole(self._close())

    def lose(self) -> Multipart | None:
        """Let the writer know that the staged object is no longer his; returns what upload he had begun."""
        self._gone = True
        self._renewing.cancel()
        return self._upload

    def can_spill(self) -> bool:
        """Tell whether the tail may be put aside: nobody is using it."""
        return bool(self._buffered) and not self._pinned and self._spilling is None and not self._is_over

    async def spill(self) -> bool:
        """Put the tail aside, into an object of its own. False if that failed."""
        self._spilling = asyncio.get_running_loop().create_future()
        try:
            self._aside = await self._put_tail()
            self._drop_buffer()
        except StorageError:
            return False
        finally:
            self._spilling.set_result(None)
            self._spilling = None
        return True

    @property
    def _is_over(self) -> bool:
        return self._gone or self._closed

    @property
    def _tail_size(self) -> int:
        return self._aside.size if self._aside else self._buffered

    @contextlib.asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """One call at a time, and none that spills meanwhile."""
        async with self._turn:
            self._check()
            self._pinned = True
            try:
                await self._settled_spill()
                if self._first:
                    first, self._first = self._first, b""
                    await self._staging.budget.take(self, len(first))
                    self._buffer, self._buffered = [first], len(first)
                yield
            finally:
                self._pinned = False

    def _check(self) -> None:
        if self._is_over:
            raise NotFound("the staged object is gone", key=self._key)

    async def _settled_spill(self) -> None:
        while self._spilling is not None:
            await asyncio.shield(self._spilling)

    async def _append(self, batch: Sequence[Piece]) -> None:
        count = sum(map(len, batch))
        if not count:
            return
        await self._make_room(count)
        self._check()
        self._buffer.extend(batch)
        self._buffered += count
        self.size += count
        self.modified = self._staging.clock()
        self._dirty = True
        if self._buffered > self._part_bytes:
            await self._send_full_parts()

    async def _make_room(self, count: int) -> None:
        """Wait for memory. Meanwhile the tail may be put aside; then it is fetched back, for a part needs it."""
        budget = self._staging.budget
        while True:
            aside = self._aside
            needed = count + (aside.size if aside else 0)
            if not budget.try_take(self, needed):
                await self._wait_for(needed)
            if self._aside is aside and self._spilling is None:
                break
            budget.give_back(self, needed)
            await self._settled_spill()
        if aside is None:
            return
        try:
            body = await self._fetch(aside)
        except BaseException:
            budget.give_back(self, needed)
            raise
        self._buffer, self._buffered, self._aside = [body], len(body), None
        if aside.key != self._record.tail.key:
            self._garbage.append(aside.key)

    async def _wait_for(self, needed: int) -> None:
        """Wait for memory, but not if a part of ours has failed: its bytes may be what everybody waits for."""
        budget = self._staging.budget
        taking = asyncio.get_running_loop().create_task(budget.take(self, needed))
        failing = asyncio.get_running_loop().create_task(self._failed.wait())
        self._pinned = False
        try:
            await asyncio.wait([taking, failing], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pinned = True
            failing.cancel()
            if not taking.done():
                taking.cancel()
                await asyncio.wait([taking])
            if taking.cancelled():
                self._collect()
        if taking.cancelled():
            raise StorageUnavailable("a part could not be sent", key=self._key)

    async def _recall(self) -> None:
        while self._aside is not None:
            await self._make_room(0)

    def _joined(self) -> bytes:
        """The buffer in one piece, and no second time in memory."""
        body = b"".join(self._buffer)
        self._buffer = [body] if body else []
        return body

    async def _fetch(self, tail: Tail) -> bytes:
        found = await self._staging.objects.get(tail.key, bytes_max=tail.size)
        if found.version != tail.etag or len(found.body) != tail.size:
            raise Corrupt("the tail of a staged object is another one", key=tail.key)
        return found.body

    async def _send_full_parts(self) -> None:
        """Begin to send what is longer than one part: the last part stays, for it may be all there is."""
        while self._buffered > self._part_bytes:
            if self._upload is not None and self._upload.next_number > self._staging.bucket.settings.parts_max:
                await self._settle()
                await whole(self._roll())
            if self._upload is None:
                self._upload = await whole(self._staging.multiparts.begin(new_key(self._key, "parts")))
            self._send(self._cut(self._part_bytes))
            while len(self._sending) >= self._parallel_max:
                if running := self._running():
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                self._collect()
        self._collect()

    def _cut(self, size: int) -> bytes:
        """Take that many bytes from the front of the buffer."""
        taken: list[Piece] = []
        rest = size
        for index, piece in enumerate(self._buffer):
            if len(piece) >= rest:
                taken.append(memoryview(piece)[:rest])
                left: list[Piece] = [bytes(memoryview(piece)[rest:])] if len(piece) > rest else []
                self._buffer = left + self._buffer[index + 1 :]
                break
            taken.append(piece)
            rest -= len(piece)
        self._buffered -= size
        return b"".join(taken)

    def _send(self, body: bytes) -> None:
        assert self._upload is not None
        sending = _Sending(self._upload.next_number, body)
        self._upload = replace(self._upload, next_number=sending.number + 1)
        self._sending.append(sending)
        self._start(sending)

    def _start(self, sending: _Sending) -> None:
        assert self._upload is not None
        upload = self._upload

        async def send() -> Part:
            try:
                part = await self._staging.multiparts.send(upload, sending.number, sending.body)
            except BaseException:
                self._failed.set()
                raise
            sending.body = b""
            if not self._is_over:
                self._staging.budget.give_back(self, part.size)
            return part

        sending.task = asyncio.get_running_loop().create_task(send())

    def _running(self) -> list[asyncio.Task[Part]]:
        return [each.task for each in self._sending if each.task is not None and not each.task.done()]

    def _collect(self) -> None:
        """Take note of the parts that have arrived, in order; raise what went wrong with one."""
        failure: BaseException | None = None
        self._failed.clear()
        for each in self._sending:
            if each.task is not None and each.task.done() and not each.task.cancelled():
                failure = failure or each.task.exception()
                if each.task.exception() is not None:
                    each.task = None
        while self._sending and (task := self._sending[0].task) is not None and task.done():
            part = task.result()
            self._sending.pop(0)
            self._parts.append(part)
        if isinstance(failure, NotFound):
            self.lose()
        if failure is not None:
            raise failure

    async def _settle(self) -> None:
        """Return when all parts are in the bucket; what failed before is sent once more."""
        self._check()
        with contextlib.suppress(StorageError):
            self._collect()
        for each in self._sending:
            if each.task is None:
                self._start(each)
        while running := self._running():
            await asyncio.wait(running)
        self._collect()
        self._check()

    async def _shorten(self, size: int) -> None:
        before = self.size - self._tail_size
        if size < before:
            await self._settle()
            await whole(self._shorten_parts(size))
            return
        await self._recall()
        surplus = self.size - size
        self._keep_front(self._buffered - surplus)
        self.size = size

    async def _shorten_parts(self, size: int) -> None:
        """Take back the tail, parts, and segments; what is left of the last of them becomes the tail."""
        self._drop_tail()
        self.size = sum(s.size for s in self._segments) + sum(p.size for p in self._parts)
        while self._parts and self.size - self._parts[-1].size >= size:
            self.size -= self._parts.pop().size
        if self.size > size and self._parts:
            await self._roll()
            self._dirty = self._shortened = True
        while self._segments and self.size > size:
            last = self._segments.pop()
            self.size -= last.size
            left = size - self.size
            kept = left - left % self._part_bytes
            if not kept:
                self._garbage.append(last.key)
            else:
                self._segments.append(replace(last, size=kept, whole=False))
            if left > kept:
                await self._staging.budget.take(self, left - kept)
                ranged = read_range(self._staging.objects, (last.key, last.etag), kept, left)
                self._buffer = [piece async for piece in ranged]
                self._buffered = left - kept
            self.size = size

    def _keep_front(self, size: int) -> None:
        kept: list[Piece] = []
        rest = size
        for piece in self._buffer:
            if rest <= 0:
                break
            kept.append(piece[:rest])
            rest -= len(kept[-1])
        self._staging.budget.give_back(self, self._buffered - size)
        self._buffer, self._buffered = kept, size

    def _drop_buffer(self) -> None:
        self._staging.budget.give_back(self, self._buffered)
        self._buffer, self._buffered = [], 0

    def _drop_tail(self) -> None:
        self._drop_buffer()
        self._aside = None

    async def _roll(self) -> None:
        """Complete the multipart upload: its object is one more segment. All parts are in the bucket."""
        if self._upload is None or not self._parts:
            return
        recorded = self._record.upload.parts if self._record.upload else ()
        if self._shortened or tuple(self._parts[: len(recorded)]) != recorded:
            # What a successor finds completed must begin with the parts that the record names.
            await self._keep(writer=self._me)
        segment = await self._staging.multiparts.complete(self._upload, self._parts)
        self._segments.append(segment)
        self._upload, self._parts = None, []
        await self._save(self._progress())

    async def _keep(self, *, writer: str) -> None:
        """Write down everything, the tail included."""
        size = self._buffered
        if self._aside is not None:
            tail = self._aside
        elif not self._dirty and self._record.tail.size == size:
            tail = self._record.tail
        elif size <= INLINE_BYTES_MAX:
            tail = Tail(self._joined(), size=size)
        else:
            tail = await self._put_tail()
        await self._save(replace(self._current(), tail=tail, writer=writer), is_all=True)

    async def _put_tail(self) -> Tail:
        body = self._joined()
        key = new_key(self._key, "tail")
        async with self._staging.bucket.threads.sending:
            return Tail(key=key, etag=await self._staging.objects.put(key, body), size=len(body))

    def _current(self) -> StagedRecord:
        """A record of everything that is in the bucket, without a tail."""
        upload = replace(self._upload, parts=tuple(self._parts)) if self._upload else None
        return StagedRecord(self.modified, self._me, tuple(self._segments), upload)

    def _progress(self) -> StagedRecord:
        """A record of what needs no further call: what is recorded, or more."""
        current = self._current()
        if self._shortened:
            # Bytes taken back may have to be found again if this writer dies before he has written others.
            return self._record
        if current.size < self._record.size:
            same = current.segments == self._record.segments
            return self._record if same else replace(current, tail=self._record.tail)
        tail = self._record.tail if current.size + self._record.tail.size == self._record.size else Tail()
        return replace(current, tail=tail)

    async def _save(self, record: StagedRecord, *, is_all: bool = False) -> None:
        """Write the record over the one that was read or written last. Raises NotFound if there is another."""
        async with self._saving:
            self._check()
            old, seen = self._record, self._staging.monotonic()
            try:
                self._etag = await self._replace(record, self._etag)
            except VersionMismatch as error:
                self._etag = await self._still_mine(error)
                self._etag = await self._replace(record, self._etag)
            self._record, self._seen = record, seen
            if is_all:
                self._dirty = self._shortened = False
        kept = {record.tail.key, self._aside.key if self._aside else ""}
        if old.tail.key and old.tail.key not in kept:
            self._garbage.append(old.tail.key)
        if not self._shortened:
            garbage, self._garbage = self._garbage, []
            await self._sweep(garbage)

    async def _replace(self, record: StagedRecord, etag: str) -> str:
        return await self._staging.objects.replace(
            record_key(self._key), record.to_bytes(), version=etag, metadata=record.metadata()
        )

    async def _still_mine(self, error: Exception) -> str:
        """The entity tag of a record of ours whose writing was not acknowledged. Raises NotFound."""
        with contextlib.suppress(NotFound):
            found = await self._staging.objects.head(record_key(self._key))
            if found.get("Metadata", {}).get(WRITER) == self._me:
                return etag_of(found)
        self.lose()
        raise NotFound("the staged object was discarded, or taken over", key=self._key) from error

    async def _look(self) -> None:
        """Make sure that it is still this writer's turn, unless that was seen a moment ago."""
        async with self._saving:
            seen = self._staging.monotonic()
            if seen - self._seen > CHECK_SECONDS:
                self._etag = await self._still_mine(LookupError())
                self._seen = seen

    async def _renew(self) -> None:
        while not self._is_over:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await whole(self._save(self._progress()))
            except NotFound:
                return
            except StorageError as error:
                if self._staging.monotonic() - self._seen > LOST_SECONDS:
                    log.error("lost the turn to write", key=self._key, reason=str(error), remedy="push again")
                    self.lose()

    async def _commit_small(self, key: str) -> str:
        await self._recall()
        body = self._joined()
        bucket = self._staging.bucket
        async with bucket.threads.sending:
            return etag_of(await bucket.ask("put_object", key, Body=body, **bucket.placing()))

    async def _commit_large(self, key: str) -> str:
        await self._recall()
        tail = self._joined()
        if self._upload is not None and tail and self._upload.next_number <= self._staging.bucket.settings.parts_max:
            self._dirty = True
            self._send(self._cut(len(tail)))
            tail = b""
        await self._settle()
        segments = list(self._segments)
        if self._upload is not None and self._parts:
            if self._shortened:
                await self._keep(writer=self._me)
            segments.append(await self._staging.multiparts.complete(self._upload, self._parts))
            self._segments, self._parts, self._upload = segments, [], None
        return await self._staging.multiparts.copy(segments, tail, key)

    async def _forget(self) -> None:
        """Drop the staged object. A failure leaves garbage, which `discard` or the sweep removes."""
        self._end()
        objects = self._staging.objects
        async with self._saving:
            try:
                if objects.deletes_conditionally:
                    await objects.delete_version(record_key(self._key), version=self._etag)
                else:
                    await objects.delete(record_key(self._key))
            except VersionMismatch:
                pass
            except StorageError as error:
                log.warning("left staged bytes behind", key=self._key, reason=str(error), remedy="nothing: it is swept")
                return
        names = {segment.key for segment in self._segments}
        names |= {tail.key for tail in (self._record.tail, self._aside) if tail is not None and tail.key}
        await self._sweep([*names, *self._garbage])

    async def _sweep(self, names: Sequence[str]) -> None:
        await drop_all((self._staging.objects.delete(name) for name in names), self._key)

    async def _close(self) -> None:
        if self._closed:
            return
        self._renewing.cancel()
        try:
            if not self._gone:
                await self._release()
        except StorageError as error:
            log.warning("the turn to write runs out by itself", key=self._key, reason=str(error), remedy="wait")
        finally:
            self._end()

    async def _release(self) -> None:
        if self._first:
            await self._save(self._record.released())
            return
        try:
            await self._settle()
        except NotFound:
            raise
        except StorageError:
            await self._save(self._progress().released())
            raise
        await self._keep(writer="")

    def _end(self) -> None:
        self._closed = True
        self._renewing.cancel()
        for each in self._sending:
            if each.task is not None:
                each.task.cancel()
        self._sending, self._buffer, self._buffered = [], [], 0
        self._staging.budget.give_back(self, self.held)
        if self._staging.writers.get(self._key) is self:
            del self._staging.writers[self._key]

    @property
    def _parallel_max(self) -> int:
        settings = self._staging.bucket.settings
        return max(1, min(settings.parallel_parts_max, settings.memory_bytes_max // settings.part_bytes - 2))

    @property
    def _part_bytes(self) -> int:
        return self._staging.bucket.settings.part_bytes


async def drop_all(calls: Iterable[Coroutine[Any, Any, None]], key: str) -> None:
    """Make the calls that drop staged bytes at once; what fails is logged, and left to the sweep."""
    for error in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(error, StorageError):
            log.warning("left staged bytes behind", key=key, reason=str(error), remedy="nothing: they are swept")


async def whole(work: Coroutine[Any, Any, R]) -> R:
    """Await something that must not stop half-way: a cancellation is raised once it has ended."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


def _batches(pieces: Sequence[bytes]) -> list[list[Piece]]:
    """The pieces in groups of about PIECE_BYTES, in which memory is asked for."""
    batches: list[list[Piece]] = [[]]
    count = 0
    for piece in pieces:
        for first in range(0, len(piece), PIECE_BYTES):
            part = piece if len(piece) <= PIECE_BYTES else memoryview(piece)[first : first + PIECE_BYTES]
            batches[-1].append(part)
            count += len(part)
            if count >= PIECE_BYTES:
                batches.append([])
                count = 0
    return batches
