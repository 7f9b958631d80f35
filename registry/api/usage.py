"""Usage over HTTP: an extension of this registry."""

from registry.api.requests import Request
from registry.api.responses import Header, Response, json_response
from registry.quotas import Quotas

NO_STORE: Header = (b"cache-control", b"private, no-store")


class UsageEndpoints:
    """GET of `/v2/<name>/_pierhead/usage`; without `quotas` there are none."""

    def __init__(self, quotas: Quotas | None) -> None:
        self._quotas = quotas

    async def get(self, request: Request) -> Response:
        """Not of OCI: the quotas that a push into the repository counts against, and how much of them is used."""
        levels = [] if self._quotas is None else await self._quotas.levels(request.repository)
        quotas = [{"prefix": limit.prefix, "bytes": limit.bytes, "used": used} for limit, used in levels]
        return json_response({"name": request.repository, "quotas": quotas}, headers=[NO_STORE])
