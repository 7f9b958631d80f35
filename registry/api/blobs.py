"""Blobs over HTTP: end-2, end-10."""

from registry.api.auditing import Auditor
from registry.api.conditions import is_unchanged, wants_range
from registry.api.ranges import Multipart, parse_ranges
from registry.api.requests import Request
from registry.api.responses import NOSNIFF, Header, Response, Stream, header
from registry.audit.events import EventKind
from registry.blobs import Blobs
from registry.errors import RangeUnsatisfiable
from registry.media_types import OCTET_STREAM
from registry.names import parse_digest
from storage.blobs import Blob
from storage.digest import Digest

OCTETS: Header = (b"content-type", OCTET_STREAM.encode())
# A blob that is opened in a browser must not run there, whatever was pushed.
GUARDS: tuple[Header, ...] = (NOSNIFF, (b"content-security-policy", b"sandbox"))
IMMUTABLE: Header = (b"cache-control", b"private, max-age=31536000, immutable")
RANGES: Header = (b"accept-ranges", b"bytes")


class BlobEndpoints:
    """GET, HEAD and DELETE of `/v2/<name>/blobs/<digest>`."""

    def __init__(self, blobs: Blobs, auditor: Auditor) -> None:
        self._blobs = blobs
        self._auditor = auditor

    async def head(self, request: Request) -> Response:
        """end-2: is it here, and how long is it. A Range is ignored (RFC 9110, 14.2)."""
        digest = parse_digest(request.tail)
        found = await self._blobs.stat(request.repository, digest)
        if is_unchanged(request, digest):
            return Response(304, _headers(digest))
        return Response(200, [OCTETS, *_headers(digest)], length=found.size)

    async def get(self, request: Request) -> Response:
        """end-2: the bytes, checked against their digest while they are sent; or some ranges of them."""
        digest = parse_digest(request.tail)
        blob = await self._blobs.open(request.repository, digest)
        try:
            return self._answer(request, digest, blob)
        except BaseException:
            await blob.close()
            raise

    async def delete(self, request: Request) -> Response:
        """end-10: from this repository only."""
        digest = parse_digest(request.tail)
        await self._blobs.delete(request.repository, digest)
        await self._auditor.record(request, EventKind.BLOB_DELETED, reference=str(digest))
        return Response(202)

    def _answer(self, request: Request, digest: Digest, blob: Blob) -> Response:
        headers = _headers(digest)
        if is_unchanged(request, digest):
            return Response(304, headers, Stream(0, blob.pieces(0, 0), blob.close))
        wanted = request.header(b"range")
        ranges = None
        if wanted is not None and wants_range(request, digest):
            ranges = parse_ranges(wanted, blob.size)
        if ranges is None:
            return Response(200, [OCTETS, *headers], Stream(blob.size, blob.verified_pieces(), blob.close))
        if not ranges:
            raise RangeUnsatisfiable(
                f"the range lies outside of the blob, which has {blob.size} bytes",
                headers=[("content-range", f"bytes */{blob.size}")],
            )
        if len(ranges) == 1:
            part = ranges[0]
            body = Stream(part.length, blob.pieces(part.start, part.length), blob.close)
            return Response(206, [OCTETS, header(b"content-range", str(part)), *headers], body)
        parts = Multipart(ranges, OCTET_STREAM)
        body = Stream(parts.length, parts.pieces(blob.pieces), blob.close)
        return Response(206, [header(b"content-type", parts.content_type), *headers], body)


def _headers(digest: Digest) -> list[Header]:
    text = str(digest).encode("ascii")
    return [(b"docker-content-digest", text), (b"etag", b'"%s"' % text), RANGES, IMMUTABLE, *GUARDS]


def blob_location(request: Request, digest: Digest) -> Header:
    """Where a blob of the request's repository can be read."""
    return header(b"location", f"{request.root}/v2/{request.repository}/blobs/{digest}")
