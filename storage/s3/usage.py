"""What a bucket holds: every object below the prefix, and the parts of uploads that were not completed."""

from collections.abc import AsyncIterator

from storage.drivers import Sized
from storage.errors import NotFound
from storage.s3.client import Bucket
from storage.s3.failures import Refusal, refused
from storage.s3.listing import listed
from storage.s3.strays import uploads


async def all_sizes(bucket: Bucket) -> AsyncIterator[Sized]:
    """Yield everything that takes space; a multipart upload that was not completed as one."""
    async for found in listed(bucket, ""):
        yield Sized(bucket.own(found["Key"]), int(found["Size"]))
    async for begun in uploads(bucket):
        try:
            yield Sized(begun.upload.key, await _parts_size(bucket, begun.upload.key, begun.upload.id), unfinished=True)
        except NotFound:
            continue  # completed or aborted meanwhile


async def _parts_size(bucket: Bucket, key: str, upload: str) -> int:
    total, marker = 0, 0
    while True:
        try:
            page = await bucket.call("list_parts", key, UploadId=upload, PartNumberMarker=marker)
        except Refusal as error:
            if error.is_no_upload:
                raise NotFound("the multipart upload is gone", key=key) from error
            raise refused(error, key) from error
        total += sum(int(part["Size"]) for part in page.get("Parts", []))
        if not page.get("IsTruncated"):
            return total
        marker = int(page["NextPartNumberMarker"])
