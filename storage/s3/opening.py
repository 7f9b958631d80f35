"""Becoming the writer of a staged object: also after one that has died."""

from dataclasses import replace

from storage.errors import Busy, NotFound
from storage.s3.client import etag_of
from storage.s3.objects import age_seconds
from storage.s3.records import STORED_BYTES_MAX, Multipart, StagedRecord, Where
from storage.s3.staged import StagedObject
from storage.s3.staging import Staging
from storage.s3.turns import LEASE_SECONDS
from storage.threads import whole

NUMBERS_SKIPPED = 16
"""A writer that has died may have parts on their way: his successor uses none of their numbers."""


async def open_staged(staging: Staging, at: Where) -> StagedObject:
    """Become the writer of a staged object. Raises NotFound, or Busy if it has one."""
    if at.record in staging.writers:
        raise Busy("another writer holds the staged object", key=at.key)
    staging.writers[at.record] = None
    try:
        return await whole(_open(staging, at))
    finally:
        if staging.writers.get(at.record) is None:
            staging.writers.pop(at.record, None)


async def _open(staging: Staging, at: Where) -> StagedObject:
    try:
        response, text = await staging.objects.fetch(at.record, bytes_max=STORED_BYTES_MAX)
    except NotFound as error:
        raise NotFound("no such staged object", key=at.key) from error
    record = StagedRecord.from_bytes(text, at.key)
    if record.ended or record.committing:
        raise NotFound("the staged object has ended", key=at.key)
    if record.writer and age_seconds(response) < LEASE_SECONDS:
        raise Busy("another writer holds the staged object", key=at.key)
    has_died = bool(record.writer)
    if has_died and record.upload is not None:
        record = await _after_a_crash(staging, record, record.upload)
    writer = StagedObject(staging, at, record, etag_of(response))
    staging.writers[at.record] = writer
    if has_died:
        try:
            await writer.take_turn()
        except BaseException:
            writer.lose()
            await writer.close()
            raise
    return writer


async def _after_a_crash(staging: Staging, record: StagedRecord, upload: Multipart) -> StagedRecord:
    """The record of a writer that has died: he may have completed the upload, or sent parts of it."""
    found = await staging.multiparts.completed(upload.key, upload.size)
    if found is not None:
        segments = (*record.segments, found) if upload.size else record.segments
        return replace(record, segments=segments, upload=None)
    return replace(record, upload=replace(upload, next_number=upload.next_number + NUMBERS_SKIPPED))
