"""The composition root: connects everything, and is the only file that knows what is connected to what."""

import secrets
import time
from collections.abc import Callable

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry.api.blobs import BlobEndpoints
from registry.api.errors import render
from registry.api.forwarding import client_address, forwarded_prefix
from registry.api.listings import ListingEndpoints
from registry.api.manifests import ManifestEndpoints
from registry.api.requests import Request
from registry.api.responses import Response
from registry.api.routes import Router, parse_path, routes
from registry.api.uploads import UploadEndpoints
from registry.asgi import AnswerBroken
from registry.blobs import Blobs
from registry.catalog import Catalog
from registry.config import Settings
from registry.errors import NotThere
from registry.janitor import Janitor
from registry.manifests import Manifests, ManifestStores
from registry.query import Query
from registry.references import References
from registry.referrers import Referrers
from registry.tags import Tags
from registry.uploads import UploadLimits, Uploads
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.drivers import Driver
from storage.errors import Corrupt
from storage.filesystem import FileSystemDriver
from storage.layout import check_layout, is_unadopted
from storage.manifests import ManifestStore
from storage.referrers import ReferrerStore
from storage.removals import RemovalStore
from storage.tags import TagStore
from storage.uploads import UploadStore

log = structlog.get_logger(__name__)


class Registry:
    """One registry as an ASGI application. Two of them may live in one process."""

    def __init__(
        self,
        driver: Driver,
        router: Router,
        janitor: Janitor,
        *,
        prefix: str,
        is_trusted: Callable[[str], bool],
    ) -> None:
        self._driver = driver
        self._router = router
        self._janitor = janitor
        self._prefix = prefix
        self._is_trusted = is_trusted
        self._api = f"{prefix}/v2/"

    async def start(self) -> None:
        """Open the store. Raises StorageError saying what to do if it can't be used."""
        await self._driver.start()
        await check_layout(self._driver)
        if await is_unadopted(self._driver):
            log.warning(
                "the catalog and the referrers lack what another registry has written",
                remedy="run pierhead adopt on the data directory; serving may go on",
            )
        self._janitor.start()

    async def close(self) -> None:
        """End background work and let go of the store."""
        await self._janitor.close()
        await self._driver.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        assert scope["type"] == "http", "only HTTP is served"
        try:
            response = await self._answer(scope, receive)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:  # the one place that turns whatever happened into an answer
            client = client_address(scope, self._is_trusted)
            response = render(error, method=scope["method"], path=_path(scope), client=client)
        if scope["method"] == "HEAD":
            response = await response.without_body()
        try:
            await response.send(send)
        except Corrupt as error:
            raise AnswerBroken from error

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        path = _path(scope)
        if not path.startswith(self._api) and path != self._api[:-1]:
            raise NotThere(f"there is nothing at this address: the API is below {self._api}")
        target = parse_path(path[len(self._api) :])
        route = self._router.find(scope["method"], target)
        request = Request(
            scope,
            receive,
            scope["method"],
            forwarded_prefix(scope, self._is_trusted) + self._prefix,
            target.name,
            target.tail,
            Query.parse(scope["query_string"]),
        )
        return await route.endpoint(request)


def build(settings: Settings, driver: Driver | None = None) -> Registry:
    """Connect a registry to the store that the settings name, or to the given one."""
    limits = settings.limits
    driver = driver or FileSystemDriver(settings.data)
    blob_store, manifest_store, catalog_store = BlobStore(driver), ManifestStore(driver), CatalogStore(driver)
    removals = RemovalStore(driver, clock=time.time, new_id=_new_id)
    stores = ManifestStores(
        manifest_store, blob_store, TagStore(driver), ReferrerStore(driver), catalog_store, removals
    )
    uploads = Uploads(
        UploadStore(driver, clock=time.time),
        blob_store,
        catalog_store,
        limits=UploadLimits(
            limits.uploads_max,
            limits.blob_bytes_max,
            limits.upload_idle_seconds,
            limits.upload_lifetime_seconds,
            limits.upload_ended_seconds,
        ),
        new_id=_new_id,
    )
    manifests = Manifests(stores, opaque_types=settings.manifest_types, sparse=settings.sparse, delete=settings.delete)
    table = routes(
        ListingEndpoints(
            Tags(stores.tags, manifest_store, catalog_store),
            Referrers(stores.referrers, manifest_store),
            Catalog(catalog_store),
        ),
        BlobEndpoints(Blobs(blob_store, removals, References(manifest_store), delete=settings.delete)),
        UploadEndpoints(uploads, chunk_bytes_min=driver.capabilities.append_bytes_min),
        ManifestEndpoints(manifests, manifest_bytes_max=limits.manifest_bytes_max, tags_max=limits.tag_parameters_max),
    )
    sweeps = {"uploads": uploads.expire, "removals": removals.expire}
    janitor = Janitor(sweeps, sweep_seconds=limits.sweep_seconds)
    return Registry(driver, Router(table), janitor, prefix=settings.prefix, is_trusted=settings.trusts)


def _new_id() -> str:
    return secrets.token_hex(16)


def _path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    return str(scope["path"]) if raw is None else bytes(raw).decode("latin-1")
