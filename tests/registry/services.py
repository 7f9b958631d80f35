"""The rules of one registry over a store in memory, and pushes in one line."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from registry.blobs import Blobs
from registry.catalog import Catalog
from registry.collector.rules import CollectorStores
from registry.histories import Histories
from registry.immutability import Immutability
from registry.manifests import Manifests, ManifestStores, Pushed
from registry.names import Reference, RepositoryName, Tag
from registry.quota_rules import Quota, QuotaRules
from registry.quotas import Quotas
from registry.references import References
from registry.referrers import Referrers
from registry.repositories import Repositories
from registry.tag_rules import ImmutableTags
from registry.tags import Tags
from registry.uploads import Body, UploadLimits, Uploads
from registry.usage_sweeps import UsageSweep
from storage.arrivals import Arrivals
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.collected import CollectedStore
from storage.digest import Digest
from storage.history import HistoryStore
from storage.manifests import ManifestStore
from storage.memory import MemoryDriver
from storage.referrers import ReferrerStore
from storage.removals import RemovalStore
from storage.repositories import RepositoryStore
from storage.tags import TagStore
from storage.uploads import UploadStore
from storage.usage import UsageStore
from tests.registry.images import CONFIG, LAYER, encode
from tests.stores import Clock, joined

REPOSITORY = RepositoryName("team/app")
OTHER = RepositoryName("team/other")
LATEST = Tag("latest")
LIMITS = UploadLimits(uploads_max=10)

_ids = itertools.count()


class Services:
    """Everything below the edge; several of them on one driver are several workers."""

    def __init__(
        self,
        driver: MemoryDriver | None = None,
        *,
        clock: Clock | None = None,
        limits: UploadLimits = LIMITS,
        delete: bool = True,
        sparse: bool = False,
        opaque_types: Sequence[str] = (),
        immutable: Sequence[ImmutableTags] = (),
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        self.driver = driver or MemoryDriver()
        self.clock = clock or Clock()
        self.arrivals = Arrivals(self.driver, clock=self.clock, monotonic=self.clock)
        self.blob_store = BlobStore(self.driver, clock=self.clock, arrivals=self.arrivals)
        self.manifest_store = ManifestStore(self.driver, arrivals=self.arrivals)
        self.history = HistoryStore(self.driver, self.clock, lambda: f"{next(_ids):032x}")
        self.tag_store = TagStore(self.driver, self.history)
        self.catalog_store = CatalogStore(self.driver, clock=self.clock)
        self.upload_store = UploadStore(self.driver, clock=self.clock)
        self.referrer_store = referrers = ReferrerStore(self.driver)
        self.removals = RemovalStore(self.driver, clock=self.clock, new_id=lambda: f"removal-{next(_ids)}")
        self.usage = UsageStore(self.driver, clock=self.clock, new_id=lambda: f"{next(_ids):x}")
        self.rules = QuotaRules([Quota(repositories=name, bytes=size) for name, size in (quotas or {}).items()])
        self.quotas = Quotas(self.rules, self.usage, monotonic=self.clock)
        self.uploads = Uploads(
            self.upload_store,
            self.blob_store,
            self.catalog_store,
            limits=limits,
            new_id=lambda: f"upload-{next(_ids)}",
            quotas=None if quotas is None else self.quotas,
        )
        self.pause = pause
        self.stores = stores = ManifestStores(
            self.manifest_store, self.blob_store, self.tag_store, referrers, self.catalog_store, self.removals
        )
        self.manifests = Manifests(
            stores,
            opaque_types=opaque_types,
            sparse=sparse,
            delete=delete,
            immutability=Immutability(immutable),
            quotas=None if quotas is None else self.quotas,
        )
        self.histories = Histories(self.history, self.manifests, self.manifest_store)
        self.repositories = Repositories(
            stores,
            self.manifests,
            self.upload_store,
            RepositoryStore(self.driver),
            immutability=Immutability(immutable),
            delete=delete,
            pause=pause,
        )
        self.references = References(self.manifest_store)
        self.blobs = Blobs(self.blob_store, self.removals, self.references, delete=delete)
        self.tags = Tags(self.tag_store, self.removals, self.manifest_store, self.catalog_store)
        self.referrers = Referrers(referrers, self.manifest_store)
        self.catalog = Catalog(self.catalog_store)

    def collector_stores(self) -> CollectorStores:
        """What a garbage collection works on, as this worker sees it."""
        return CollectorStores(
            self.driver,
            self.manifest_store,
            self.tag_store,
            self.referrer_store,
            self.catalog_store,
            self.upload_store,
            self.removals,
            CollectedStore(self.driver),
        )

    def usage_sweep(self, *, recount_seconds: float = 3600, warn_percent: Sequence[int] = (80, 90)) -> UsageSweep:
        """What the server does now and then about prefixes that have a quota."""
        return UsageSweep(
            self.driver,
            self.usage,
            self.catalog_store,
            self.rules,
            recount_seconds=recount_seconds,
            warn_percent=warn_percent,
            clock=self.clock,
        )

    async def used(self, prefix: str) -> int:
        """How many bytes a prefix is known to hold."""
        return (await self.usage.view(prefix)).used

    async def push_blob(self, content: bytes, *, repository: RepositoryName = REPOSITORY) -> Digest:
        """Push a blob in one request."""
        digest = Digest.of(content)
        await self.uploads.put(repository, digest, body(content))
        return digest

    async def push(
        self,
        document: Mapping[str, object],
        reference: Reference = LATEST,
        *,
        repository: RepositoryName = REPOSITORY,
        media_type: str | None = None,
        tags: Sequence[Tag] = (),
    ) -> Pushed:
        """Push a manifest and, before it, the blobs of the images of this package."""
        for content in (CONFIG, LAYER):
            if not await self.blob_store.exists(repository, Digest.of(content)):
                await self.push_blob(content, repository=repository)
        return await self.manifests.put(repository, reference, encode(document), media_type=media_type, tags=tags)

    async def read_blob(self, digest: Digest, *, repository: RepositoryName = REPOSITORY) -> bytes:
        """Read a blob, verified."""
        blob = await self.blobs.open(repository, digest)
        try:
            return await joined(blob.verified_pieces())
        finally:
            await blob.close()


def body(*pieces: bytes, start: int | None = None, length: int | None = None, chunked: bool = True) -> Body:
    """Make a body of pieces that come one by one; with `start` it has a Content-Range, of `length` bytes if given."""

    async def batches() -> AsyncIterator[Sequence[bytes]]:
        for piece in pieces:
            yield [piece]

    total = sum(map(len, pieces))
    made = Body(batches(), None if chunked else total)
    return made if start is None else replace(made, start=start, range_length=total if length is None else length)


def broken(*pieces: bytes, error: BaseException, start: int | None = None, length: int | None = None) -> Body:
    """Make a body that breaks off after its pieces."""

    async def batches() -> AsyncIterator[Sequence[bytes]]:
        for piece in pieces:
            yield [piece]
        raise error

    return Body(batches(), None, start, length)
