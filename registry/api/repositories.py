"""Whole repositories over HTTP: an extension of this registry."""

from registry.api.auditing import Auditor
from registry.api.requests import Request
from registry.api.responses import Response, json_response
from registry.audit.events import EventKind
from registry.repositories import Deleted, Repositories
from storage.timelines import Cause, Why


class RepositoryEndpoints:
    """DELETE of `/v2/<name>/_pierhead/repository`."""

    def __init__(self, repositories: Repositories, auditor: Auditor) -> None:
        self._repositories = repositories
        self._auditor = auditor

    async def delete(self, request: Request) -> Response:
        """Not of OCI: everything that is in the repository, tags, manifests, links to blobs and open uploads."""
        deleted = Deleted()
        try:
            cause = Cause(str(request.caller.identity), Why.DELETE)
            await self._repositories.delete(request.repository, deleted=deleted, cause=cause)
        finally:
            if deleted.is_gone or any(deleted.counts().values()):
                await self._auditor.record(request, EventKind.REPOSITORY_DELETED, detail=deleted.told())
        return json_response({"name": request.repository, "deleted": deleted.counts(), "gone": deleted.is_gone})
