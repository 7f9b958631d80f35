"""Staged bytes dropped: on purpose, and where a crash has left some that no record names."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from storage.errors import Corrupt, NotFound
from storage.keys import BLOBS
from storage.s3.client import Bucket
from storage.s3.failures import Refusal, refused
from storage.s3.records import RECORD, RECORD_BYTES_MAX, STAGED, Multipart, StagedRecord, record_key
from storage.s3.staged import Staging, drop_all


async def drop_staged(staging: Staging, key: str) -> None:
    """Drop a staged object. First the record goes, so that its writer can't go on; then what it names."""
    writer = staging.writers.pop(key, None)
    begun = writer.lose() if writer is not None else None
    record = await _read(staging, key)
    if record is None and begun is None:
        return
    await staging.objects.delete(record_key(key))
    calls = [staging.objects.delete(name) for name in _names(record)] if record is not None else []
    uploads = {upload.id: upload for upload in (begun, record and record.upload) if upload}
    calls += [staging.multiparts.abort(upload) for upload in uploads.values()]
    await drop_all(calls, key)


async def sweep_strays(staging: Staging, *, older_than_seconds: float) -> int:
    """Abort multipart uploads and delete staged bytes that are older than that and that no record names.

    Uploads of others, and those of distribution, are left alone. What a record names is left to whoever ends
    its session.
    """
    now = staging.clock()
    named: dict[str, frozenset[str]] = {}
    swept = 0
    async for found in _uploads(staging.bucket):
        ours = found.upload.key.startswith((f"{STAGED}/", BLOBS))
        if not ours or now - found.begun < older_than_seconds:
            continue
        if found.upload.id not in await _named(staging, named, found.upload.key):
            await staging.multiparts.abort(found.upload)
            swept += 1
    async for key, modified in _objects(staging.bucket):
        if key.endswith(f"/{RECORD}") or now - modified < older_than_seconds:
            continue
        if key not in await _named(staging, named, key):
            await staging.objects.delete(key)
            swept += 1
    return swept


@dataclass(frozen=True, slots=True)
class _Begun:
    """A multipart upload that was neither completed nor aborted."""

    upload: Multipart
    begun: float


async def _named(staging: Staging, known: dict[str, frozenset[str]], name: str) -> frozenset[str]:
    """What the record of the folder that a name is in speaks of: names of objects, and of one upload."""
    key = name.removeprefix(f"{STAGED}/").rpartition("/")[0] if name.startswith(f"{STAGED}/") else ""
    if not key:
        return frozenset()
    if key not in known:
        record = await _read(staging, key)
        upload = record.upload if record else None
        known[key] = frozenset([*_names(record), *([upload.id, upload.key] if upload else [])])
    return known[key]


async def _read(staging: Staging, key: str) -> StagedRecord | None:
    with contextlib.suppress(NotFound):
        found = await staging.objects.get(record_key(key), bytes_max=RECORD_BYTES_MAX)
        try:
            return StagedRecord.from_bytes(found.body, key)
        except Corrupt:
            return StagedRecord(0.0)
    return None


def _names(record: StagedRecord | None) -> list[str]:
    if record is None:
        return []
    return [segment.key for segment in record.segments] + ([record.tail.key] if record.tail.key else [])


async def _uploads(bucket: Bucket) -> AsyncIterator[_Begun]:
    markers: dict[str, str] = {}
    while True:
        page = await bucket.ask("list_multipart_uploads", "", Prefix=bucket.full(""), **markers)
        for found in page.get("Uploads", []):
            upload = Multipart(bucket.own(found["Key"]), str(found["UploadId"]))
            yield _Begun(upload, _seconds(found["Initiated"]))
        if not page.get("IsTruncated"):
            return
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}


async def _objects(bucket: Bucket) -> AsyncIterator[tuple[str, float]]:
    parameters: dict[str, str] = {}
    while True:
        try:
            page = await bucket.call("list_objects_v2", Prefix=bucket.full(f"{STAGED}/"), **parameters)
        except Refusal as error:
            raise refused(error, STAGED) from error
        for found in page.get("Contents", []):
            yield bucket.own(found["Key"]), _seconds(found["LastModified"])
        if not page.get("IsTruncated"):
            return
        parameters = {"ContinuationToken": page["NextContinuationToken"]}


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
