"""Blobs over HTTP: end-2, end-10."""

from registry.api.auditing import Auditor
from registry.api.conditions import is_unchanged, wants_range
from registry.api.ranges import ByteRange, Multipart, parse_ranges
from registry.api.redirects import Redirects, redirect
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

    def __init__(self, blobs: Blobs, auditor: Auditor, redirects: Redirects | None = None) -> None:
        self._blobs = blobs
        self._auditor = auditor
        self._redirects = redirects

    async def head(self, request: Request) -> Response:
        """end-2: is it here, and how long is it. A Range is ignored (RFC 9110, 14.2)."""
        digest = parse_digest(request.tail)
        found = await self._blobs.stat(request.repository, digest)
        if is_unchanged(request, digest):
            return Response(304, _headers(digest))
        return Response(200, [OCTETS, *_headers(digest)], length=found.size)

    async def get(self, request: Request) -> Response:
        """end-2: where the bytes are; or the bytes, whole and checked while they are sent, or in ranges."""
        digest = parse_digest(request.tail)
        if self._redirects is not None and self._redirects.include(request):
            answer = await self._redirect(request, digest, seconds=self._redirects.seconds)
            if answer is not None:
                return answer
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

    async def _redirect(self, request: Request, digest: Digest, *, seconds: int) -> Response | None:
        """Send the client to the bytes; None if they can only be had from here."""
        found, url = await self._blobs.locate(request.repository, digest, seconds=seconds)
        if is_unchanged(request, digest):
            return Response(304, _headers(digest))
        _wanted_ranges(request, digest, found.size)
        return None if url is None else redirect(url, digest)

    def _answer(self, request: Request, digest: Digest, blob: Blob) -> Response:
        headers = _headers(digest)
        if is_unchanged(request, digest):
            return Response(304, headers, Stream(0, blob.pieces(0, 0), blob.close))
        ranges = _wanted_ranges(request, digest, blob.size)
        if ranges is None:
            return Response(200, [OCTETS, *headers], Stream(blob.size, blob.verified_pieces(), blob.close))
        if len(ranges) == 1:
            part = ranges[0]
            body = Stream(part.length, blob.pieces(part.start, part.length), blob.close)
            return Response(206, [OCTETS, header(b"content-range", str(part)), *headers], body)
        parts = Multipart(ranges, OCTET_STREAM)
        body = Stream(parts.length, parts.pieces(blob.pieces), blob.close)
        return Response(206, [header(b"content-type", parts.content_type), *headers], body)


def _wanted_ranges(request: Request, digest: Digest, size: int) -> list[ByteRange] | None:
    """The ranges that are asked for, None for everything. Raises RangeUnsatisfiable."""
    wanted = request.header(b"range")
    if wanted is None or not wants_range(request, digest):
        return None
    ranges = parse_ranges(wanted, size)
    if ranges == []:
        raise RangeUnsatisfiable(
            f"the range lies outside of the blob, which has {size} bytes",
            headers=[("content-range", f"bytes */{size}")],
        )
    return ranges


def _headers(digest: Digest) -> list[Header]:
    text = str(digest).encode("ascii")
    return [(b"docker-content-digest", text), (b"etag", b'"%s"' % text), RANGES, IMMUTABLE, *GUARDS]


def blob_location(request: Request, digest: Digest) -> Header:
    """Where a blob of the request's repository can be read."""
    return header(b"location", f"{request.root}/v2/{request.repository}/blobs/{digest}")
