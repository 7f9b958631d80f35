"""Multipart uploads: parts go up side by side, and become an object in one call."""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from typing import TypeVar

from storage.errors import NotFound
from storage.s3.client import Bucket, etag_of, quoted
from storage.s3.failures import Refusal, refused
from storage.s3.objects import NONCE, Objects
from storage.s3.records import Multipart, Part, Segment
from storage.s3.settings import MIB, PART_BYTES_MIN

R = TypeVar("R")

COPIES_MAX = 8
"""How many parts of one object are copied at once."""


class Multiparts:
    """The calls that multipart uploads consist of."""

    def __init__(self, bucket: Bucket, objects: Objects) -> None:
        self._bucket = bucket
        self._objects = objects

    async def begin(self, key: str, nonce: str = "") -> Multipart:
        """CreateMultipartUpload. The nonce tells its object from others that are put at the same key."""
        metadata = {"Metadata": {NONCE: nonce}} if nonce else {}
        begun = await self._bucket.ask("create_multipart_upload", key, **self._bucket.placing(), **metadata)
        return Multipart(key, str(begun["UploadId"]), nonce=nonce)

    async def send(self, upload: Multipart, number: int, body: bytes) -> Part:
        """UploadPart. Raises NotFound if the upload was aborted or completed."""
        async with self._bucket.threads.sending:
            sent = await self._call("upload_part", upload, PartNumber=number, Body=body)
        return Part(number, etag_of(sent), len(body))

    async def complete(self, upload: Multipart, parts: Sequence[Part]) -> Segment:
        """CompleteMultipartUpload. Raises NotFound if the upload was aborted.

        Where the answer to an attempt was lost, or a writer that has died since made the same call, the store
        may say that there is no such upload: then the object is there.
        """
        size = sum(part.size for part in parts)
        listed = [{"PartNumber": part.number, "ETag": quoted(part.etag)} for part in parts]
        try:
            done = await self._bucket.call(
                "complete_multipart_upload", upload.key, UploadId=upload.id, MultipartUpload={"Parts": listed}
            )
            return Segment(upload.key, etag_of(done), size)
        except Refusal as error:
            if not (error.is_no_upload or error.is_absent):
                raise refused(error, upload.key) from error
            found = await self.completed(upload.key, size, upload.nonce)
            if found is None:
                raise NotFound("the multipart upload is gone", key=upload.key) from error
            return found

    async def completed(self, key: str, size: int, nonce: str = "") -> Segment | None:
        """What a completed upload has left: an object of at least that size."""
        try:
            found = await self._objects.head(key)
        except NotFound:
            return None
        if nonce and found.get("Metadata", {}).get(NONCE) != nonce:
            return None
        length = int(found["ContentLength"])
        return Segment(key, etag_of(found), size, whole=length == size) if length >= size else None

    async def abort(self, upload: Multipart) -> None:
        """AbortMultipartUpload; aborting what is gone is fine."""
        try:
            await self._bucket.call("abort_multipart_upload", upload.key, UploadId=upload.id)
        except Refusal as error:
            if not (error.is_no_upload or error.is_absent):
                raise refused(error, upload.key) from error

    async def copy(self, sources: Sequence[Segment], key: str) -> str:
        """Make an object of what lies in others, without fetching it; returns its entity tag.

        Only the last source may be shorter than a part has to be.

        Raises NotFound if a source was deleted or replaced meanwhile.
        """
        settings = self._bucket.settings
        total = sum(source.size for source in sources)
        if len(sources) == 1 and sources[0].whole and total <= settings.copy_part_bytes:
            return await self._copy_whole(sources[0], key)
        upload = await self.begin(key, secrets.token_hex(8))
        try:
            parts = await self._copy_parts(upload, sources)
            return (await self.complete(upload, parts)).etag
        except BaseException:
            await self.abort(upload)
            raise

    async def _copy_whole(self, source: Segment, key: str) -> str:
        """CopyObject."""
        try:
            copied = await self._bucket.call(
                "copy_object",
                key,
                CopySource=self._bucket.source(source.key),
                CopySourceIfMatch=quoted(source.etag),
                MetadataDirective="REPLACE",
                **self._bucket.placing(),
            )
        except Refusal as error:
            raise _source_gone(error, source.key) from error
        return etag_of(copied["CopyObjectResult"])

    async def _copy_parts(self, upload: Multipart, sources: Sequence[Segment]) -> list[Part]:
        total = sum(source.size for source in sources)
        settings = self._bucket.settings
        room = max(1, settings.parts_max - len(sources))
        step = max(settings.copy_part_bytes, -(-total // room // MIB) * MIB + MIB if total > room * MIB else 0)
        turns = asyncio.Semaphore(COPIES_MAX)
        ranges = [(source, start, end) for source in sources for start, end in split(source.size, step)]

        async def copy(number: int, source: Segment, start: int, end: int) -> Part:
            async with turns, self._bucket.threads.copying:
                return await self._copy_part(upload, number, source, start, end)

        return await all_of([copy(number, *each) for number, each in enumerate(ranges, 1)])

    async def _copy_part(self, upload: Multipart, number: int, source: Segment, start: int, end: int) -> Part:
        try:
            copied = await self._bucket.call(
                "upload_part_copy",
                upload.key,
                UploadId=upload.id,
                PartNumber=number,
                CopySource=self._bucket.source(source.key),
                CopySourceIfMatch=quoted(source.etag),
                CopySourceRange=f"bytes={start}-{end - 1}",
            )
        except Refusal as error:
            raise _source_gone(error, source.key) from error
        return Part(number, etag_of(copied["CopyPartResult"]), end - start)

    async def _call(self, operation: str, upload: Multipart, **parameters: object) -> dict[str, object]:
        try:
            return await self._bucket.call(operation, upload.key, UploadId=upload.id, **parameters)
        except Refusal as error:
            if error.is_no_upload:
                raise NotFound("the multipart upload is gone", key=upload.key) from error
            raise refused(error, upload.key) from error


async def all_of(calls: Sequence[Coroutine[object, object, R]]) -> list[R]:
    """Await all; at the first failure cancel the others, and raise it once they have ended."""
    tasks = [asyncio.get_running_loop().create_task(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def split(size: int, step: int) -> list[tuple[int, int]]:
    """The ranges in which `size` bytes are copied: each of `step` bytes but the last, which is not too short."""
    starts = list(range(0, size, step))
    if len(starts) > 1 and size - starts[-1] < PART_BYTES_MIN:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


def _source_gone(refusal: Refusal, key: str) -> Exception:
    if refusal.is_mismatch or refusal.is_absent:
        return NotFound("the staged bytes are gone", key=key)
    return refused(refusal, key)
