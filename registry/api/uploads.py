"""Upload sessions over HTTP: end-4a, 4b, 4c, 5, 6, 11, 13 and 14."""

import contextlib
import re
from collections.abc import AsyncIterator

from registry.api.auditing import Auditor
from registry.api.blobs import blob_location
from registry.api.requests import Request
from registry.api.responses import Header, Response, header
from registry.audit.events import EventKind
from registry.auth.identities import Action
from registry.errors import DigestInvalid, NameInvalid, RangeInvalid, UploadUnknown
from registry.names import RepositoryName, is_upload, parse_digest, parse_name
from registry.uploads import Body, Uploads
from storage.digest import ALGORITHMS, SHA256, Digest
from storage.uploads import Upload

_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/(?:\d{1,19}|\*))?", re.ASCII)


class UploadEndpoints:
    """POST on `/v2/<name>/blobs/uploads/`, and every method on a session.

    `chunk_bytes_min` is what the store wants a chunk to have at least, 0 if it does not mind.
    """

    def __init__(self, uploads: Uploads, auditor: Auditor, *, chunk_bytes_min: int = 0) -> None:
        self._uploads = uploads
        self._auditor = auditor
        self._minimum = [header(b"oci-chunk-min-length", str(chunk_bytes_min))] if chunk_bytes_min else []

    async def begin(self, request: Request) -> Response:
        """end-4a, 4b, 4c, 11: a session, a whole blob in one request, or a mount.

        A mount that fails for whatever reason is a session: containerd gives up on anything else.
        """
        mounted = request.query.first("mount")
        if mounted is not None:
            digest = await self._mount(request, mounted)
            if digest is not None:
                await self._auditor.record(request, EventKind.MOUNT, reference=str(digest))
                return _created(request, digest)
        elif (text := request.query.first("digest")) is not None:
            digest = parse_digest(text)
            await self._uploads.put(request.repository, digest, _body(request))
            return _created(request, digest)
        algorithm = request.query.first("digest-algorithm") or SHA256
        if algorithm not in ALGORITHMS:
            raise DigestInvalid(f"digest-algorithm has to be one of {', '.join(ALGORITHMS)}")
        upload = await self._uploads.begin(request.repository, algorithm=algorithm)
        return Response(202, [*self._session(request, upload.record.id, upload.size), *self._minimum])

    async def append(self, request: Request) -> Response:
        """end-5: a chunk with Content-Range, or a stream without."""
        async with self._resumable(request) as upload:
            added = await self._uploads.append(request.repository, upload, await self._ranged_body(request, upload))
        return Response(202, self._session(request, upload, added.size))

    async def finish(self, request: Request) -> Response:
        """end-6: the last bytes, if any, and the digest of all of them."""
        text = request.query.first("digest")
        if text is None:
            raise DigestInvalid("the request that ends an upload names its digest: add ?digest=")
        digest = parse_digest(text)
        async with self._resumable(request) as upload:
            body = await self._ranged_body(request, upload)
            await self._uploads.finish(request.repository, upload, digest, body)
        return _created(request, digest)

    async def get(self, request: Request) -> Response:
        """end-13: where to go on."""
        found = await self._uploads.get(request.repository, _upload(request))
        return Response(204, self._session(request, found.record.id, found.size))

    async def cancel(self, request: Request) -> Response:
        """end-14."""
        await self._uploads.cancel(request.repository, _upload(request))
        return Response(204)

    async def _mount(self, request: Request, text: str) -> Digest | None:
        source: RepositoryName | None = None
        named = request.query.first("from")
        try:
            digest = parse_digest(text)
            if named is not None:
                source = parse_name(named)
        except (DigestInvalid, NameInvalid):
            return None
        if source is not None and not request.caller.may(Action.PULL, source):
            return None  # as if there were no such blob: whether there is one is not theirs to know
        mounted = await self._uploads.mount(request.repository, digest, source, shows=request.caller.pulls())
        return digest if mounted else None

    async def _ranged_body(self, request: Request, upload: str) -> Body:
        text = request.header(b"content-range")
        if text is None:
            return _body(request)
        matched = _CONTENT_RANGE.fullmatch(text)
        if matched is None or int(matched[2]) < int(matched[1]):
            current: Upload = await self._uploads.get(request.repository, upload)
            raise RangeInvalid("Content-Range has to be <first byte>-<last byte>", size=current.size)
        start, end = int(matched[1]), int(matched[2])
        return Body(request.batches(), request.content_length, start, end - start + 1)

    @contextlib.asynccontextmanager
    async def _resumable(self, request: Request) -> AsyncIterator[str]:
        upload = _upload(request)
        try:
            yield upload
        except RangeInvalid as error:
            # With both headers in the refusal, a client may go on at once (regctl does).
            told = self._session(request, upload, error.size)
            error.headers = [(name.decode(), value.decode("latin-1")) for name, value in told]
            raise

    def _session(self, request: Request, upload: str, size: int) -> list[Header]:
        # Docker reads the layer's size from Range, and takes 0-0 for an empty one.
        return [
            header(b"location", f"{request.root}/v2/{request.repository}/blobs/uploads/{upload}"),
            header(b"range", f"0-{max(0, size - 1)}"),
            header(b"docker-upload-uuid", upload),
        ]


def _upload(request: Request) -> str:
    if not is_upload(request.tail):
        raise UploadUnknown("there is no such upload in this repository: begin a new one")
    return request.tail


def _body(request: Request) -> Body:
    return Body(request.batches(), request.content_length)


def _created(request: Request, digest: Digest) -> Response:
    return Response(201, [blob_location(request, digest), header(b"docker-content-digest", str(digest))])
