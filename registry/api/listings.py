"""Listings over HTTP: tags (end-8), referrers (end-12), the catalog, and which extensions there are."""

from registry.api.extensions import OF_A_REPOSITORY, OF_THE_REGISTRY
from registry.api.paging import next_page, page_size
from registry.api.requests import Request
from registry.api.responses import NOSNIFF, Header, Response, encode_json, header, json_response
from registry.catalog import Catalog
from registry.media_types import INDEX
from registry.names import parse_digest
from registry.referrers import Referrers
from registry.tags import Tags

FILTERED: Header = (b"oci-filters-applied", b"artifactType")
CATALOG_PAGE = 1000
"""What a client gets that does not say how much it wants: two calls to a bucket at most."""

UNCACHED: Header = (b"cache-control", b"private, no-cache")
"""Who asks decides what a listing shows, and it changes."""


class ListingEndpoints:
    """Everything that is read as a list."""

    def __init__(self, tags: Tags, referrers: Referrers, catalog: Catalog) -> None:
        self._tags = tags
        self._referrers = referrers
        self._catalog = catalog

    async def ping(self, _request: Request) -> Response:
        """end-1."""
        return json_response({})

    async def tags(self, request: Request) -> Response:
        """end-8: in byte order."""
        limit, after = page_size(request), request.query.first("last") or ""
        page = await self._tags.list(request.repository, after=after, limit=limit)
        headers: list[Header] = []
        if page.more and page.tags:
            path = f"/v2/{request.repository}/tags/list"
            headers = next_page(request, path, [("n", limit), ("last", page.tags[-1])])
        return json_response({"name": request.repository, "tags": page.tags}, headers=[UNCACHED, *headers])

    async def catalog(self, request: Request) -> Response:
        """Not of OCI: every repository, in byte order."""
        limit, after = page_size(request, unasked=CATALOG_PAGE), request.query.first("last") or ""
        names, more = await self._catalog.list(after=after, limit=limit, shows=request.caller.shows())
        headers: list[Header] = []
        if more and names:
            headers = next_page(request, "/v2/_catalog", [("n", limit), ("last", names[-1])])
        return json_response({"repositories": names}, headers=[UNCACHED, *headers])

    async def referrers(self, request: Request) -> Response:
        """end-12: an index of everything that names the digest as its subject; empty if nothing does.

        Several artifact types are alternatives. A plus sign is itself here, though a query may mean a space by
        it: no media type has a space, and people forget to encode it.
        """
        subject = parse_digest(request.tail)
        types = [text.replace(" ", "+") for text in request.query.all("artifactType") if text]
        last = request.query.first("last")
        page = await self._referrers.list(
            request.repository,
            subject,
            artifact_types=types,
            after=None if last is None else parse_digest(last),
        )
        headers = [header(b"content-type", INDEX), NOSNIFF, UNCACHED]
        if types:
            headers.append(FILTERED)
        if page.after is not None:
            path = f"/v2/{request.repository}/referrers/{subject}"
            filters = [("artifactType", text) for text in types]
            headers += next_page(request, path, [("last", str(page.after)), *filters])
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": page.descriptors}
        return Response(200, headers, encode_json(index))

    async def discover(self, request: Request) -> Response:
        """The extensions API (distribution-spec, extensions/_oci.md), of the registry or of a repository."""
        root, extensions = f"{request.root}/v2/", OF_THE_REGISTRY
        if request.name is not None:
            root, extensions = f"{root}{request.repository}/", OF_A_REPOSITORY
        return json_response({"extensions": [extension.told(root) for extension in extensions]})
