"""Staged bytes dropped: on purpose, and where a crash has left some that nothing leads to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import structlog

from storage.drivers import Moved
from storage.errors import Corrupt, NotFound, StorageError
from storage.keys import BLOBS
from storage.s3.client import Bucket
from storage.s3.listing import listed
from storage.s3.records import STAGED, STORED_BYTES_MAX, Multipart, Segment, StagedRecord, Where, record_key_of
from storage.s3.staging import Staging, drop_all

IDLE_SECONDS = 60.0
"""A pointer that was written less than that ago is left to the process that has written it."""

WAIT_SECONDS = 1.0

log = structlog.get_logger(__name__)


async def drop_staged(staging: Staging, at: Where) -> None:
    """Drop a staged object. First the record goes, so that its writer can't go on; then what it names."""
    writer = staging.writers.pop(at.record, None)
    begun = writer.lose() if writer is not None else None
    record = await _read(staging, at.record)
    if record is None and begun is None:
        return
    await staging.objects.delete(at.record)
    # What may be an object already is left to the sweep, which looks whether it is.
    names = record.names if record is not None and not record.committing else []
    calls = [staging.objects.delete(name) for name in names]
    uploads = {upload.id: upload for upload in (begun, record and record.upload) if upload}
    calls += [staging.multiparts.abort(upload) for upload in uploads.values()]
    await drop_all(calls, at.key)


async def sweep_strays(staging: Staging, *, older_than_seconds: float) -> int:
    """Abort multipart uploads and delete staged bytes that are older than that and that nothing leads to.

    Uploads of others, and those of distribution, are left alone. What a record names is left to whoever ends
    its session, and what a pointer leads to is moved to its place.
    """
    known: dict[str, StagedRecord | None] = {}
    swept = await _abort_uploads(staging, known, older_than_seconds)
    strays = [name async for name in _unnamed(staging, known, older_than_seconds)]
    if strays:
        # Looked at after the records: a commit writes the pointer before it ends the record.
        pointed = {segment.key async for segment in pointed_segments(staging)}
        strays = [name for name in strays if name not in pointed]
    for name in strays:
        await staging.objects.delete(name)
    return swept + len(strays)


async def move_all(staging: Staging, *, idle_seconds: float = IDLE_SECONDS) -> int:
    """Move objects to their keys that nobody else moves; returns how many. One that can't be moved is logged."""
    moved = 0
    async for key in staging.pointers.all():
        try:
            moved += await staging.pointers.move(key, idle_seconds=idle_seconds) > 0
        except StorageError as error:
            log.warning("a blob stays where it was uploaded", key=key, reason=str(error), remedy="see the reason")
    return moved


async def compact(staging: Staging) -> AsyncIterator[Moved]:
    """Move every object that a pointer stands for now, waiting for those that are being moved."""
    waiting = [key async for key in staging.pointers.all()]
    while waiting:
        left = []
        for key in waiting:
            try:
                if size := await staging.pointers.move(key):
                    yield Moved(key, size)
                elif await staging.pointers.find(key) is not None:
                    left.append(key)
            except StorageError as error:
                yield Moved(key, 0, error)
        waiting = left
        if waiting:
            await asyncio.sleep(WAIT_SECONDS)


@dataclass(frozen=True, slots=True)
class Begun:
    """A multipart upload that was neither completed nor aborted."""

    upload: Multipart
    begun: float


async def _abort_uploads(staging: Staging, known: dict[str, StagedRecord | None], older_than_seconds: float) -> int:
    now, aborted = staging.clock(), 0
    async for found in uploads(staging.bucket):
        ours = found.upload.key.startswith((f"{STAGED}/", BLOBS))
        if not ours or now - found.begun < older_than_seconds:
            continue
        record = await _record_of(staging, known, found.upload.key)
        if record is None or record.upload is None or record.upload.id != found.upload.id:
            await staging.multiparts.abort(found.upload)
            aborted += 1
    return aborted


async def _unnamed(
    staging: Staging, known: dict[str, StagedRecord | None], older_than_seconds: float
) -> AsyncIterator[str]:
    now = staging.clock()
    async for name, modified in _objects(staging.bucket):
        if record_key_of(name) is None or now - modified < older_than_seconds:
            continue
        record = await _record_of(staging, known, name)
        # A writer that has died may have completed the upload: his successor finds the object.
        if record is None or name not in {*record.names, record.upload.key if record.upload else ""}:
            yield name


async def pointed_segments(staging: Staging) -> AsyncIterator[Segment]:
    """Everything that a pointer leads to. Raises Corrupt for a pointer that can't be read."""
    async for key in staging.pointers.all():
        found = await staging.pointers.find(key)
        for segment in found.pointer.segments if found else ():
            yield segment


async def _record_of(staging: Staging, known: dict[str, StagedRecord | None], name: str) -> StagedRecord | None:
    """The record that may name what lies at a name."""
    key = record_key_of(name) if name.startswith(f"{STAGED}/") else None
    if key is None:
        return None
    if key not in known:
        known[key] = await _read(staging, key)
    return known[key]


async def _read(staging: Staging, key: str) -> StagedRecord | None:
    with contextlib.suppress(NotFound):
        found = await staging.objects.get(key, bytes_max=STORED_BYTES_MAX)
        try:
            return StagedRecord.from_bytes(found.body, key)
        except Corrupt:
            return StagedRecord(0.0)
    return None


async def uploads(bucket: Bucket) -> AsyncIterator[Begun]:
    """Every multipart upload below the prefix that was neither completed nor aborted."""
    markers: dict[str, str] = {}
    while True:
        page = await bucket.ask("list_multipart_uploads", "", Prefix=bucket.full(""), **markers)
        for found in page.get("Uploads", []):
            upload = Multipart(bucket.own(found["Key"]), str(found["UploadId"]))
            yield Begun(upload, _seconds(found["Initiated"]))
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


async def _objects(bucket: Bucket) -> AsyncIterator[tuple[str, float]]:
    async for found in listed(bucket, f"{STAGED}/"):
        yield bucket.own(found["Key"]), _seconds(found["LastModified"])


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
