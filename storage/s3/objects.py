"""Small objects: written whole, and changed only by conditional writes.

The version of an object is its entity tag, which changes whenever the bytes do.
"""

import secrets
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

from storage.drivers import SmallObject, Stat
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageError, StorageUnavailable, VersionMismatch
from storage.s3.client import Body, Bucket, Response, etag_of, quoted
from storage.s3.failures import Refusal, is_too_long, refused

NONCE = "pierhead-write"
"""The metadata that tells whose write an object comes from, where the answer to the write was lost."""

GONE = "pierhead-gone"
"""The metadata of what is about to be deleted, in a store that deletes only unconditionally."""

DELETED_MAX = 1000
_ABSENT = frozenset({"NoSuchKey", "NotFound"})


class Objects:
    """Objects of a bucket, each call about one of them."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.deletes_conditionally = True
        """Whether the store honours If-Match on DELETE: the trial at start finds out."""

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        """Read an object whole. Raises NotFound, or Corrupt if it is longer than `bytes_max`."""
        response, body = await self.fetch(key, bytes_max=bytes_max)
        return SmallObject(body, etag_of(response))

    async def fetch(self, key: str, *, bytes_max: int) -> tuple[Response, bytes]:
        """Read an object whole, and what the store says of it. Raises NotFound or Corrupt."""

        def read(response: Response) -> None:
            response["Body"] = _read_whole(response, bytes_max, key)

        try:
            response = await self.bucket.request("get_object", key, {"Key": self.bucket.full(key)}, finish=read)
        except Refusal as error:
            raise _reading(error, key) from error
        if GONE in response.get("Metadata", {}):
            raise NotFound("no such object", key=key)
        return response, response["Body"]

    async def begin_reading(self, key: str, **parameters: object) -> Response:
        """GET: the answer's body is still to be read. Raises NotFound, Refusal if a condition fails."""
        try:
            response = await self.bucket.call("get_object", key, **parameters)
        except Refusal as error:
            if error.is_mismatch or error.status == 416:
                raise
            raise _reading(error, key) from error
        if GONE in response.get("Metadata", {}):
            response["Body"].close()
            raise NotFound("no such object", key=key)
        return response

    async def head(self, key: str) -> Response:
        """Tell what the store says of an object. Raises NotFound."""
        try:
            response = await self.bucket.call("head_object", key)
        except Refusal as error:
            raise _reading(error, key) from error
        if GONE in response.get("Metadata", {}):
            raise NotFound("no such object", key=key)
        return response

    async def stat(self, key: str) -> Stat:
        """Tell size and time of an object. Raises NotFound."""
        response = await self.head(key)
        return Stat(int(response["ContentLength"]), response["LastModified"].timestamp())

    async def create(self, key: str, body: bytes, metadata: Mapping[str, str] | None = None) -> str:
        """PUT with If-None-Match: * (RFC 9110, 13.1.2). Raises AlreadyExists."""
        try:
            return await self._put_if(key, body, metadata, IfNoneMatch="*")
        except VersionMismatch as error:
            if (gone := await self._find_gone(key)) is not None:
                return await self.replace(key, body, version=gone, metadata=metadata)
            raise AlreadyExists("there is such an object already", key=key) from error

    async def replace(self, key: str, body: bytes, *, version: str, metadata: Mapping[str, str] | None = None) -> str:
        """PUT with If-Match (RFC 9110, 13.1.1). Raises VersionMismatch, also when it is gone."""
        return await self._put_if(key, body, metadata, IfMatch=quoted(version))

    async def put(self, key: str, body: bytes) -> str:
        """PUT, whatever was there."""
        return etag_of(await self.bucket.ask("put_object", key, Body=body, **self.bucket.encryption()))

    async def delete(self, key: str) -> None:
        """DELETE, whatever is there."""
        try:
            await self.bucket.call("delete_object", key)
        except Refusal as error:
            if not error.is_absent and not is_too_long(key):
                raise refused(error, key) from error

    async def delete_many(self, keys: Sequence[str]) -> None:
        """DELETE of many, whatever is there; one by one where the store has no such call."""
        for start in range(0, len(keys), DELETED_MAX):
            names = [{"Key": self.bucket.full(key)} for key in keys[start : start + DELETED_MAX]]
            try:
                response = await self.bucket.call("delete_objects", "", Delete={"Objects": names, "Quiet": True})
            except Refusal as error:
                if error.code not in {"NotImplemented", "MethodNotAllowed"}:
                    raise refused(error, keys[start]) from error
                for key in keys[start : start + DELETED_MAX]:
                    await self.delete(key)
                continue
            failed = [each for each in response.get("Errors", []) if each.get("Code") not in _ABSENT]
            if failed:
                text = f"{len(failed)} of {len(names)} objects could not be deleted: {failed[0].get('Message', '')}"
                raise StorageUnavailable(text, key=self.bucket.own(failed[0]["Key"]))

    async def delete_version(self, key: str, *, version: str) -> None:
        """Delete only `version`. Raises VersionMismatch.

        Without conditional deletes the object is first replaced, conditionally, by one that says it is gone;
        readers take it for absent, `create` writes over it, and it is deleted at once. Nobody else's
        conditional write can be lost by that; a `put` that falls between the two calls can.
        """
        if not self.deletes_conditionally:
            await self.replace(key, b"", version=version, metadata={GONE: "1"})
            await self.delete(key)
            return
        try:
            await self.bucket.call("delete_object", key, IfMatch=quoted(version))
        except Refusal as error:
            if not (error.is_mismatch or error.is_absent):
                raise refused(error, key) from error
            if error.unsure and await self._is_absent(key):
                return
            raise VersionMismatch("the object has changed or is gone", key=key) from error

    async def _put_if(self, key: str, body: bytes, metadata: Mapping[str, str] | None, **condition: str) -> str:
        nonce = secrets.token_hex(8)
        parameters = {**self.bucket.encryption(), **condition, "Metadata": {**(metadata or {}), NONCE: nonce}}
        try:
            return etag_of(await self.bucket.call("put_object", key, Body=body, **parameters))
        except Refusal as error:
            if not (error.is_mismatch or error.is_absent):
                raise refused(error, key) from error
            if error.unsure and (etag := await self._written(key, nonce)) is not None:
                return etag
            raise VersionMismatch("the object has changed or is gone", key=key) from error

    async def _written(self, key: str, nonce: str) -> str | None:
        """The entity tag of what a write has left whose answer was lost; None if it was not that write."""
        try:
            found = await self.bucket.call("head_object", key)
        except Refusal as error:
            if error.is_absent:
                return None
            raise StorageUnavailable("the outcome of a write is not known", key=key) from error
        return etag_of(found) if found.get("Metadata", {}).get(NONCE) == nonce else None

    async def _find_gone(self, key: str) -> str | None:
        if self.deletes_conditionally:
            return None
        found = await self.bucket.ask("head_object", key)
        return etag_of(found) if GONE in found.get("Metadata", {}) else None

    async def _is_absent(self, key: str) -> bool:
        try:
            await self.head(key)
        except NotFound:
            return True
        return False


def age_seconds(response: Mapping[str, Any]) -> float:
    """How long ago an object was written, by the clock of the store alone."""
    date = response["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return 0.0
    age: float = parsedate_to_datetime(date).timestamp() - response["LastModified"].timestamp()
    return age


def identity_of(key: str, etag: str) -> str:
    """What changes with every write of other bytes."""
    return f"{key}@{etag}"


def _read_whole(response: Response, bytes_max: int, key: str) -> bytes:
    body: Body = response["Body"]
    size = int(response["ContentLength"])
    if size > bytes_max:
        body.close()
        raise Corrupt(f"the object has {size} bytes, at most {bytes_max} were expected", key=key)
    return body.read()


def _reading(refusal: Refusal, key: str) -> StorageError:
    if refusal.status == 400 and is_too_long(key):
        return NotFound("no such object", key=key)
    return refused(refusal, key)
