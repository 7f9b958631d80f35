"""What has to hold before a bucket is used as a store, proved by doing it."""

import contextlib
import secrets

import structlog

from storage.errors import AlreadyExists, NotFound, StorageError, StorageRefused, StorageUnavailable, VersionMismatch
from storage.keys import OURS
from storage.s3.client import Bucket, quoted
from storage.s3.failures import Refusal, refused
from storage.s3.listing import lists_in_byte_order
from storage.s3.objects import Objects

TRIAL = "/".join((OURS, "trial"))

_REMEDY = "use a store with conditional writes (AWS S3, SeaweedFS 4, Ceph 20, MinIO, R2), or a data directory"

log = structlog.get_logger(__name__)


async def try_bucket(bucket: Bucket, objects: Objects) -> bool:
    """Write, replace, list and delete below `pierhead/trial/`; returns whether listings are in byte order.

    Raises StorageError that says what to do.
    """
    settings = bucket.settings
    where = f"s3://{settings.bucket}" + (f" at {settings.endpoint}" if settings.endpoint else "")
    folder = f"{TRIAL}/{secrets.token_hex(8)}/"
    try:
        await _try_reach(bucket)
        await _try_conditions(objects, f"{folder}k")
        objects.deletes_conditionally = await _try_delete(bucket, objects, f"{folder}k")
        if not objects.deletes_conditionally:
            log.warning(
                "the bucket has no conditional deletes",
                bucket=settings.bucket,
                reason="DELETE with If-Match deletes whatever is there",
                remedy="none needed: such objects are marked before they are deleted",
            )
        return await _try_order(bucket, objects, folder)
    except (StorageRefused, StorageUnavailable) as error:
        raise type(error)(f"{where} can't be used: {error}") from error


async def _try_reach(bucket: Bucket) -> None:
    try:
        await bucket.call("head_bucket")
    except Refusal as error:
        if error.status == 404:
            name = bucket.settings.bucket
            raise StorageRefused(f"there is no such bucket: create it (aws s3 mb s3://{name})") from error
        if error.status in {301, 307, 400}:
            raise StorageRefused("the bucket is in another region, or the endpoint is wrong: check both") from error
        raise refused(error, "") from error


async def _try_conditions(objects: Objects, key: str) -> None:
    """Each condition must hold where it should, and be refused where it should not."""
    first = await objects.create(key, b"1")
    with contextlib.suppress(AlreadyExists):
        await objects.create(key, b"2")
        raise await _without(objects, key, "If-None-Match")
    second = await objects.replace(key, b"3", version=first)
    with contextlib.suppress(VersionMismatch):
        await objects.replace(key, b"4", version=first)
        raise await _without(objects, key, "If-Match")
    found = await objects.get(key, bytes_max=16)
    if found.body != b"3" or found.version != second:
        await objects.delete(key)
        raise StorageUnavailable(f"the bucket does not give back what was just written to it: {_REMEDY}")
    with contextlib.suppress(VersionMismatch):
        await objects.replace(f"{key}-absent", b"5", version=first)
        raise await _without(objects, f"{key}-absent", "If-Match")


async def _without(objects: Objects, key: str, condition: str) -> StorageError:
    await objects.delete(key)
    return StorageRefused(
        f"the bucket ignores {condition} on PUT, so two writers would overwrite each other: {_REMEDY}"
    )


async def _try_delete(bucket: Bucket, objects: Objects, key: str) -> bool:
    """Tell whether DELETE honours If-Match; the object is gone afterwards."""
    try:
        await bucket.call("delete_object", key, IfMatch=quoted("0" * 32))
    except Refusal as error:
        honoured = error.is_mismatch
    else:
        honoured = False
    await objects.delete(key)
    with contextlib.suppress(NotFound):
        await objects.head(key)
        raise StorageUnavailable("the bucket still shows what was just deleted: use a store that is consistent")
    return honoured


async def _try_order(bucket: Bucket, objects: Objects, folder: str) -> bool:
    names = [f"{folder}a-b/x", f"{folder}a/x", f"{folder}a0/x"]
    for name in names:
        await objects.put(name, b"")
    try:
        return await lists_in_byte_order(bucket, folder, names)
    finally:
        for name in names:
            await objects.delete(name)
