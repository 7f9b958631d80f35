"""URLs by which clients read objects at the store itself (AWS Signature Version 4, in the query)."""

from storage.s3.client import Bucket

# A browser that is sent to the store must not run there what was pushed: the store's own headers are not ours.
HARMLESS = {"ResponseContentType": "application/octet-stream", "ResponseContentDisposition": "attachment"}


async def presign_object(bucket: Bucket, key: str, *, seconds: int) -> str:
    """Sign a GET of an object, for the endpoint that clients are sent to. Raises StorageUnavailable.

    Of the headers Host alone is signed, so that clients may add Range and others. Nothing is asked of the store. The
    URL ends with the credentials that it was signed with, if those end earlier.
    """
    return await bucket.sign("get_object", key, seconds=seconds, **HARMLESS)
