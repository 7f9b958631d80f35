"""Large objects read: streamed, from one version only, and taken up again where a connection broke."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from storage.drivers import PIECE_BYTES, Observer
from storage.errors import Corrupt, NotFound, StorageUnavailable
from storage.s3.client import Body, Bucket, Response, etag_of, quoted
from storage.s3.failures import Refusal, answer_of, refused, unavailable
from storage.s3.objects import Objects, identity_of
from storage.s3.records import Segment

HELD_BYTES_MAX = 1 << 16
"""An object of that size is read whole when it is opened: its connection is free at once."""


class Replaced(StorageUnavailable):
    """The object that is being read was replaced or deleted."""


class ObjectReader:
    """One version of an object. The answer to one GET is held open, and serves who reads from the start.

    Everything else is asked for with If-Match, so that bytes of two versions are never mixed: where the object
    was replaced or deleted, and the connection is lost too, reading fails.
    """

    def __init__(self, objects: Objects, key: str, response: Response) -> None:
        self.size = int(response["ContentLength"])
        self.modified: float = response["LastModified"].timestamp()
        self._etag = etag_of(response)
        self.identity = identity_of(key, self._etag)
        self._objects = objects
        self._key = key
        self._body: Body | None = response["Body"]
        self._held: bytes | None = None
        self._closed = False

    async def hold(self) -> None:
        """Read a small object at once."""
        if self.size <= HELD_BYTES_MAX:
            self._held = b"".join([piece async for piece in self.pieces(0, self.size)])
            await self._drop()

    async def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, in pieces of at most PIECE_BYTES."""
        if self._closed:
            raise NotFound("the object is no longer open", key=self._key)
        end = min(start + length, self.size)
        if self._held is not None:
            source = self._from_held(start, end, observe)
        else:
            body, self._body = (self._body, None) if start == 0 else (None, self._body)
            source = read_range(self._objects, (self._key, self._etag), start, end, body=body, observe=observe)
        async with contextlib.aclosing(source):
            async for piece in source:
                yield piece
        if start + length > self.size:
            raise Corrupt(f"the object ends {start + length - self.size} bytes early", key=self._key)

    def read_once(self) -> None:
        """There is no cache on this side."""

    async def close(self) -> None:
        """Let go of the connection. Safe to call twice."""
        self._closed = True
        await self._drop()

    async def _from_held(self, start: int, end: int, observe: Observer | None) -> AsyncGenerator[bytes, None]:
        assert self._held is not None
        if piece := self._held[start:end]:
            if observe is not None:
                await self._objects.bucket.threads.run(observe, [piece])
            yield piece

    async def _drop(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


class SegmentsReader:
    """An object that does not lie at its key yet, but as segments elsewhere.

    Its bytes are what they are: where a segment is gone the object has been moved to its key, and is read on there.
    """

    def __init__(self, objects: Objects, key: str, segments: Sequence[Segment], modified: float) -> None:
        self.size = sum(segment.size for segment in segments)
        self.modified = modified
        self.identity = identity_of(segments[0].key, segments[0].etag)
        self._objects = objects
        self._key = key
        self._segments = segments

    async def pieces(self, start: int, length: int, observe: Observer | None = None) -> AsyncIterator[bytes]:
        """Yield exactly `length` bytes from offset `start`, in pieces of at most PIECE_BYTES."""
        end = min(start + length, self.size)
        at = start
        try:
            reading = read_segments(self._objects, self._segments, start, end, observe=observe)
            async with contextlib.aclosing(reading):
                async for piece in reading:
                    at += len(piece)
                    yield piece
        except Replaced:
            found = await self._objects.head(self._key)
            if int(found["ContentLength"]) != self.size:
                raise
            version = (self._key, etag_of(found))
            going_on = read_range(self._objects, version, at, end, observe=observe)
            async with contextlib.aclosing(going_on):
                async for piece in going_on:
                    yield piece
        if start + length > self.size:
            raise Corrupt(f"the object ends {start + length - max(start, self.size)} bytes early", key=self._key)

    def read_once(self) -> None:
        """There is no cache on this side."""

    async def close(self) -> None:
        """Nothing to let go of: each segment is asked for when it is read."""


async def read_segments(
    objects: Objects, segments: Sequence[Segment], start: int, end: int, *, observe: Observer | None = None
) -> AsyncGenerator[bytes, None]:
    """Yield bytes of what lies in several objects, one after the other. Raises Replaced."""
    offset = 0
    for segment in segments:
        first, last = max(start, offset), min(end, offset + segment.size)
        if first < last:
            version = (segment.key, segment.etag)
            ranged = read_range(objects, version, first - offset, last - offset, observe=observe)
            async with contextlib.aclosing(ranged):
                async for piece in ranged:
                    yield piece
        offset += segment.size


async def open_object(objects: Objects, key: str) -> ObjectReader:
    """Open an object for reading. Raises NotFound."""
    reader = ObjectReader(objects, key, await objects.begin_reading(key))
    try:
        await reader.hold()
    except BaseException:
        await reader.close()
        raise
    return reader


async def read_range(
    objects: Objects,
    version: tuple[str, str],
    start: int,
    end: int,
    *,
    body: Body | None = None,
    observe: Observer | None = None,
) -> AsyncGenerator[bytes, None]:
    """Yield bytes of one version (key and entity tag) of an object, beginning with those that `body` still has.

    One piece is read ahead. A stream that breaks is asked for again from where it broke.
    """
    bucket = objects.bucket
    key, etag = version
    attempt = 0
    reading: asyncio.Task[bytes] | None = None
    try:
        while start < end:
            try:
                if body is None:
                    body = await _ask(objects, key, etag, start, end)
                piece = await (reading or _read(bucket, body, start, end, observe))
                reading = None
                if not piece:
                    raise Corrupt(f"the object ends {end - start} bytes early", key=key)
            except Exception as error:
                answer = answer_of(error)
                reading = None
                if answer is None:
                    raise
                if body is not None:
                    body.close()
                    body = None
                attempt += 1
                if attempt >= bucket.settings.attempts_max:
                    raise unavailable(answer, key, attempts=attempt) from error
                await bucket.pause(attempt)
                continue
            attempt = 0
            start += len(piece)
            if start < end:
                reading = asyncio.get_running_loop().create_task(_read(bucket, body, start, end, observe))
            yield piece
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.wait([reading])
            if not reading.cancelled():
                reading.exception()
        if body is not None:
            body.close()


async def _ask(objects: Objects, key: str, etag: str, start: int, end: int) -> Body:
    try:
        response = await objects.begin_reading(key, Range=f"bytes={start}-{end - 1}", IfMatch=quoted(etag))
    except (Refusal, NotFound) as error:
        if isinstance(error, NotFound) or error.is_mismatch:
            raise _replaced(key) from error
        raise refused(error, key) from error
    body: Body = response["Body"]
    if etag_of(response) != etag:
        body.close()
        raise _replaced(key)
    return body


def _replaced(key: str) -> Replaced:
    return Replaced("the object was replaced while it was read: read it again", key=key)


async def _read(bucket: Bucket, body: Body, start: int, end: int, observe: Observer | None) -> bytes:
    def read() -> bytes:
        piece = body.read(min(PIECE_BYTES, end - start))
        if observe is not None and piece:
            observe([piece])
        return piece

    return await bucket.threads.run(read)
