"""Staged objects: parts on their way to the bucket, a tail in memory, and one writer at a time."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from storage.drivers import PIECE_BYTES, Observer, check_key
from storage.errors import Busy, Corrupt, NotFound, StorageError, StorageUnavailable
from storage.s3.buffers import Buffer, Piece, batches
from storage.s3.client import etag_of
from storage.s3.objects import identity_of
from storage.s3.outgoing import Outgoing
from storage.s3.pointers import Pointer, may_point
from storage.s3.readers import read_range, read_segments
from storage.s3.records import (
    INLINE_BYTES_MAX,
    Multipart,
    Segment,
    StagedRecord,
    Tail,
    Where,
    check_text,
)
from storage.s3.settings import S3Settings
from storage.s3.staging import Staging, drop_all
from storage.s3.turns import Turn
from storage.threads import whole

log = structlog.get_logger(__name__)


class StagedObject:
    """The one writer of a staged object, as long as its turn lasts.

    The staged bytes are, in this order: segments, parts that are in the bucket, parts on their way, and the tail,
    which is in memory or put aside in the bucket. `size` counts them all. What the next writer finds is what the
    record says: `flush` and `close` make the two the same.

    With an aim the parts belong to an upload of the object itself, which is not seen before it is completed. The
    record knows nothing of them then.
    """

    def __init__(self, staging: Staging, at: Where, record: StagedRecord, etag: str) -> None:
        self.size = record.size
        self.modified = record.modified
        self.record = record.text
        self.held = 0
        self._staging = staging
        self._at = at
        self._segments = list(record.segments)
        self._outgoing = Outgoing(staging.multiparts, record.upload, on_sent=self._let_go)
        self._aside: Tail | None = record.tail if record.tail.key else None
        self._buffer = Buffer()
        self._first = record.tail.inline
        self._aim = ""
        self._dirty = False
        self._shortened = False
        self._closed = False
        self._pinned = False
        self._spilling: asyncio.Future[None] | None = None
        self._garbage: list[str] = []
        self._one_call = asyncio.Lock()
        self._turn = Turn(staging.objects, at, record, etag, progress=self._progress, monotonic=staging.monotonic)

    def aim(self, key: str) -> bool:
        """Let the first part begin an upload of the object at `key`. Not if there are bytes already."""
        check_key(key)
        if self.size == 0 and self._turn.record.size == 0 and self._outgoing.is_empty:
            self._aim = key
        return bool(self._aim)

    async def write(self, pieces: Sequence[bytes], observe: Observer | None = None) -> None:
        """Append the pieces, calling `observe(pieces)` in a thread once they are taken.

        A part that could not be sent is kept and sent again by the next call. Raises NotFound if the staged
        object was discarded, or its lease lost.
        """
        async with self._busy():
            for batch in batches(pieces):
                await self._append(batch)
            if observe is not None and pieces:
                async with self._staging.bucket.threads.hashing:
                    await self._staging.bucket.threads.run(observe, pieces)
            await self._send_full_parts()

    async def truncate(self, size: int) -> None:
        """Take back everything after the first `size` bytes; of an aimed upload only everything."""
        async with self._busy():
            if size >= self.size and not self._aim:
                return
            if self._aim:
                if size:
                    raise ValueError("an aimed upload is kept as a whole or not at all")
                await whole(self._drop_aim())
                return
            self._dirty = self._shortened = True
            await self._shorten(size)

    async def flush(self, record: bytes | None = None) -> None:
        """Return only when a record of the bytes so far is in the bucket, and the owner's line with them."""
        async with self._busy():
            if self._aim and self.size:
                raise ValueError("nothing of an aimed upload is kept before its commit")
            await self._settle()
            if self._dirty or record not in {None, self._turn.record.text}:
                await whole(self._keep(self._turn.record.text if record is None else check_text(record)))
            else:
                await self._turn.look()

    async def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Read back what was staged.

        The parts of a multipart upload can't be read: it is completed first, and the next part begins another.
        """
        async with self._busy():
            end = min(start + length, self.size)
            if start < end and start < self.size - self._tail_size:
                if self._aim:
                    raise ValueError("the parts of an aimed upload can't be read")
                await self._settle()
                await whole(self._roll())
            sources = list(self._segments)
            if self._aside is not None:
                sources.append(Segment(self._aside.key, self._aside.etag, self._aside.size))
            tail = self._buffer.joined() if end > self.size - self._buffer.size else b""
            tail_at = self.size - self._buffer.size
        reading = read_segments(self._staging.objects, sources, start, min(end, tail_at), observe=observe)
        async with contextlib.aclosing(reading):
            async for piece in reading:
                yield piece
        for first in range(max(start, tail_at), end, PIECE_BYTES):
            piece = tail[first - tail_at : min(first + PIECE_BYTES, end) - tail_at]
            if observe is not None:
                await self._staging.bucket.threads.run(observe, [piece])
            yield piece
        if start + length > end:
            raise Corrupt(f"the object ends {start + length - max(end, start)} bytes early", key=self._at.key)

    async def commit(self, key: str, record: bytes | None = None) -> str:
        """Make the bytes the object at `key` and drop the staged object; returns the object's identity."""
        check_key(key)
        check_text(record or b"")
        async with self._busy():
            if self._aim not in {"", key}:
                raise ValueError(f"aimed at {self._aim}")
            await self._turn.look()
            identity = await whole(self._commit(key))
            # From here on the bytes are the object: whatever fails below, nothing may be appended to them.
            await whole(self._forget(record))
        return identity

    async def close(self) -> None:
        """Give up the turn and keep the bytes. Safe to call twice, and after commit."""
        if self._closed:
            return
        async with self._one_call:
            await self._settled_spill()
            await whole(self._close())

    async def take_turn(self) -> None:
        """Keep everybody else out."""
        await self._turn.take()

    def lose(self) -> Multipart | None:
        """Let the writer know that the staged object is no longer his; returns what upload he had begun."""
        self._turn.lose()
        return self._outgoing.upload

    def can_spill(self) -> bool:
        """Tell whether the tail may be put aside: nobody is using it."""
        return bool(self._buffer.size) and not self._pinned and self._spilling is None and not self._is_over

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
        return self._turn.is_lost or self._closed

    @property
    def _tail_size(self) -> int:
        return self._aside.size if self._aside else self._buffer.size

    @property
    def _settings(self) -> S3Settings:
        return self._staging.bucket.settings

    @contextlib.asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """One call at a time, and none that spills meanwhile."""
        async with self._one_call:
            self._check()
            self._pinned = True
            try:
                await self._settled_spill()
                if self._first:
                    first, self._first = self._first, b""
                    await self._staging.budget.take(self, len(first))
                    self._buffer.add([first])
                yield
            finally:
                self._pinned = False

    def _check(self) -> None:
        if self._is_over:
            raise NotFound("the staged object is gone", key=self._at.key)

    async def _settled_spill(self) -> None:
        while self._spilling is not None:
            await asyncio.shield(self._spilling)

    async def _append(self, batch: Sequence[Piece]) -> None:
        count = sum(map(len, batch))
        if not count:
            return
        await self._make_room(count)
        self._check()
        self._buffer.add(batch)
        self.size += count
        self.modified = self._staging.clock()
        self._dirty = True
        if self._buffer.size > self._part_bytes:
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
        self._buffer.add([body])
        self._aside = None
        if aside.key != self._turn.record.tail.key:
            self._garbage.append(aside.key)

    async def _wait_for(self, needed: int) -> None:
        """Wait for memory, but not if a part of ours has failed: its bytes may be what everybody waits for."""
        budget = self._staging.budget
        taking = asyncio.get_running_loop().create_task(budget.take(self, needed))
        failing = asyncio.get_running_loop().create_task(self._outgoing.failed.wait())
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
            raise StorageUnavailable("a part could not be sent", key=self._at.key)

    async def _recall(self) -> None:
        while self._aside is not None:
            await self._make_room(0)

    async def _fetch(self, tail: Tail) -> bytes:
        found = await self._staging.objects.get(tail.key, bytes_max=tail.size)
        if found.version != tail.etag or len(found.body) != tail.size:
            raise Corrupt("the tail of a staged object is another one", key=tail.key)
        return found.body

    async def _send_full_parts(self) -> None:
        """Begin to send what is longer than one part: the last part stays, for it may be all there is."""
        while self._buffer.size > self._part_bytes:
            if self._outgoing.next_number > self._settings.parts_max:
                await self._settle()
                await whole(self._roll())
            if self._outgoing.upload is None:
                await whole(self._begin_upload())
            self._outgoing.send(self._buffer.cut(self._part_bytes))
            while self._outgoing.under_way >= self._parallel_max:
                await self._guarded(self._outgoing.wait_for_one())
        self._collect()

    async def _begin_upload(self) -> None:
        await self._turn.take()
        if self._aim:
            await self._outgoing.begin(self._aim, nonce=secrets.token_hex(8))
        else:
            await self._outgoing.begin(self._at.new_key("parts"))

    def _let_go(self, size: int) -> None:
        if not self._is_over:
            self._staging.budget.give_back(self, size)

    def _collect(self) -> None:
        try:
            self._outgoing.collect()
        except NotFound:
            self.lose()
            raise

    async def _settle(self) -> None:
        """Return when all parts are in the bucket; what failed before is sent once more."""
        self._check()
        await self._guarded(self._outgoing.settle())
        self._check()

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Await something about the upload: where that is gone, so is the turn."""
        try:
            await work
        except NotFound:
            self.lose()
            raise

    async def _shorten(self, size: int) -> None:
        before = self.size - self._tail_size
        if size < before:
            await self._settle()
            await whole(self._shorten_parts(size))
            return
        await self._recall()
        surplus = self.size - size
        self._staging.budget.give_back(self, self._buffer.shorten(self._buffer.size - surplus))
        self.size = size

    async def _shorten_parts(self, size: int) -> None:
        """Take back the tail, parts, and segments; what is left of the last of them becomes the tail."""
        self._drop_tail()
        sent = self._outgoing.sent
        self.size = sum(s.size for s in self._segments) + sum(p.size for p in sent)
        while sent and self.size - sent[-1].size >= size:
            self.size -= sent.pop().size
        if self.size > size and sent:
            await self._roll()
            self._dirty = self._shortened = True
        while self._segments and self.size > size:
            last = self._segments.pop()
            self.size -= last.size
            left = size - self.size
            kept = left - left % self._settings.part_bytes
            if not kept:
                self._garbage.append(last.key)
            else:
                self._segments.append(replace(last, size=kept, whole=False))
            if left > kept:
                await self._staging.budget.take(self, left - kept)
                ranged = read_range(self._staging.objects, (last.key, last.etag), kept, left)
                self._buffer.add([piece async for piece in ranged])
            self.size = size

    def _drop_buffer(self) -> None:
        self._staging.budget.give_back(self, self._buffer.clear())

    def _drop_tail(self) -> None:
        self._drop_buffer()
        self._aside = None

    async def _drop_aim(self) -> None:
        """Take back everything of an aimed upload, and the aim."""
        self._aim = ""
        if self._aside is not None:
            self._garbage.append(self._aside.key)
        self._drop_tail()
        self.size, self._dirty = 0, False
        await self._outgoing.abort()
        # Parts that were on their way have not let go of their memory.
        self._staging.budget.give_back(self, self.held)

    async def _roll(self) -> None:
        """Complete the multipart upload: its object is one more segment. All parts are in the bucket."""
        if self._aim:
            raise StorageUnavailable("the blob has more parts than an upload may have: push it in chunks")
        if self._outgoing.upload is None or not self._outgoing.sent:
            return
        recorded = self._turn.record.upload.parts if self._turn.record.upload else ()
        if self._shortened or tuple(self._outgoing.sent[: len(recorded)]) != recorded:
            # What a successor finds completed must begin with the parts that the record names.
            await self._keep(self._turn.record.text)
        self._segments.append(await self._outgoing.complete())
        await self._save(self._progress())

    async def _keep(self, text: bytes, *, released: bool = False) -> None:
        """Write down everything, the tail included. Who has not taken his turn needs none for that."""
        size = self._buffer.size
        recorded = self._turn.record.tail
        if self._aside is not None:
            tail = self._aside
        elif not self._dirty and recorded.size == size:
            tail = recorded
        elif size <= INLINE_BYTES_MAX:
            tail = Tail(self._buffer.joined(), size=size)
        else:
            tail = await self._put_tail()
        record = replace(self._current(), tail=tail, text=text)
        await self._save(self._turn.mine(record) if self._turn.is_taken and not released else record, is_all=True)
        self.record = text

    async def _put_tail(self) -> Tail:
        body = self._buffer.joined()
        key = self._at.new_key("tail")
        async with self._staging.bucket.threads.sending:
            return Tail(key=key, etag=await self._staging.objects.put(key, body), size=len(body))

    def _current(self) -> StagedRecord:
        """A record of everything that is in the bucket, without a tail and a writer."""
        text = self._turn.record.text
        return StagedRecord(self.modified, segments=tuple(self._segments), upload=self._outgoing.recorded(), text=text)

    def _progress(self) -> StagedRecord:
        """A record of what needs no further call: what is recorded, or more."""
        recorded = self._turn.record
        if self._shortened or self._aim:
            # Bytes taken back may have to be found again if this writer dies before he has written others.
            return recorded
        current = replace(self._current(), writer=recorded.writer)
        if current.size < recorded.size:
            same = current.segments == recorded.segments
            return recorded if same else replace(current, tail=recorded.tail)
        tail = recorded.tail if current.size + recorded.tail.size == recorded.size else Tail()
        return replace(current, tail=tail)

    async def _save(self, record: StagedRecord, *, is_all: bool = False) -> None:
        """Write the record, and drop what it no longer names."""
        old = self._turn.record
        self._check()
        await self._turn.save(record)
        if is_all:
            self._dirty = self._shortened = False
        kept = {record.tail.key, self._aside.key if self._aside else ""}
        if old.tail.key and old.tail.key not in kept:
            self._garbage.append(old.tail.key)
        if not self._shortened:
            garbage, self._garbage = self._garbage, []
            await self._sweep(garbage)

    async def _commit(self, key: str) -> str:
        await self._recall()
        if self._aim and not self._outgoing.is_empty:
            return await self._commit_aimed()
        if self._segments or not self._outgoing.is_empty:
            return await self._commit_parts(key)
        bucket = self._staging.bucket
        async with bucket.threads.sending:
            etag = etag_of(await bucket.ask("put_object", key, Body=self._buffer.joined(), **bucket.placing()))
        return identity_of(key, etag)

    async def _commit_aimed(self) -> str:
        if self._buffer.size:
            self._outgoing.send(self._buffer.cut(self._buffer.size))
        await self._settle()
        segment = await self._outgoing.complete()
        return identity_of(segment.key, segment.etag)

    async def _commit_parts(self, key: str) -> str:
        await self._gather()
        if self._settings.commit == "copy" or not may_point(key) or await self._has_other_size(key):
            etag = await self._staging.multiparts.copy(self._segments, key)
            self._garbage += [segment.key for segment in self._segments]
            return identity_of(key, etag)
        if tail := self._turn.record.tail.key:
            self._garbage.append(tail)
        # From here on nobody may go on with these bytes: they may be the object's at any moment.
        await self._turn.save(self._turn.mine(replace(self._current(), committing=key)))
        self.lose()
        if self._turn.is_late():
            raise StorageUnavailable("the bucket answers too slowly: push again", key=key)
        if not await self._staging.pointers.point(key, Pointer(tuple(self._segments), self.modified)):
            self._garbage += [segment.key for segment in self._segments]
        self._staging.mover.schedule(key)
        return identity_of(self._segments[0].key, self._segments[0].etag)

    async def _gather(self) -> None:
        """Make segments of everything."""
        if size := self._buffer.size:
            self._dirty = True
            if self._outgoing.upload is not None and self._outgoing.next_number <= self._settings.parts_max:
                self._outgoing.send(self._buffer.cut(size))
        await self._settle()
        if self._outgoing.sent:
            if self._shortened:
                await self._keep(self._turn.record.text)
            self._segments.append(await self._outgoing.complete())
        if self._buffer.size:
            tail = await self._put_tail()
            self._drop_buffer()
            self._segments.append(Segment(tail.key, tail.etag, tail.size))

    async def _has_other_size(self, key: str) -> bool:
        """Tell whether an object of another size lies at the key: readers would find that one."""
        try:
            return int((await self._staging.objects.head(key))["ContentLength"]) != self.size
        except NotFound:
            return False

    async def _forget(self, text: bytes | None) -> None:
        """Drop the staged object. A failure leaves garbage, which `discard` or the sweep removes."""
        segments = {segment.key for segment in self._segments} - set(self._garbage)
        self._end()
        try:
            await self._turn.end(text)
        except StorageError as error:
            remedy = "nothing: it is swept"
            log.warning("left staged bytes behind", key=self._at.key, reason=str(error), remedy=remedy)
            return
        tails = [tail.key for tail in (self._turn.record.tail, self._aside) if tail is not None and tail.key]
        await self._sweep(sorted({*tails, *self._garbage} - segments))

    async def _sweep(self, names: Sequence[str]) -> None:
        await drop_all((self._staging.objects.delete(name) for name in names), self._at.key)

    async def _close(self) -> None:
        if self._closed:
            return
        self._turn.stop()
        try:
            if not self._turn.is_lost:
                await self._release()
        except (StorageError, Busy) as error:
            log.warning("the turn to write runs out by itself", key=self._at.key, reason=str(error), remedy="wait")
        finally:
            self._end()

    async def _release(self) -> None:
        if self._aim:
            await self._drop_aim()
        if self._first or (not self._dirty and not self._garbage):
            if self._turn.is_taken:
                await self._save(self._progress().released())
            return
        try:
            await self._settle()
        except NotFound:
            raise
        except StorageError:
            await self._save(self._progress().released())
            raise
        await self._keep(self._turn.record.text, released=True)

    def _end(self) -> None:
        self._closed = True
        self._turn.stop()
        self._outgoing.cancel()
        self._buffer.clear()
        self._staging.budget.give_back(self, self.held)
        if self._staging.writers.get(self._at.record) is self:
            del self._staging.writers[self._at.record]

    @property
    def _parallel_max(self) -> int:
        return max(1, min(self._settings.parallel_parts_max, self._settings.memory_bytes_max // self._part_bytes - 2))

    @property
    def _part_bytes(self) -> int:
        return self._settings.part_bytes_at(self._outgoing.next_number)
