"""Verification: whether a store keeps its promises, object by object, while it may be in use."""

from functools import partial

from registry.findings import Finding, Problem, Severity
from registry.indexes import Indexes
from registry.inspection import Examined
from registry.names import RepositoryName
from registry.scan import Parts
from storage import keys
from storage.digest import Digest
from storage.errors import Corrupt, LayoutUnknown, NotFound
from storage.layout import LAYOUT
from storage.places import Kind, Place
from storage.walk import is_empty, walk


class Verification:
    """Looks at everything and changes nothing."""

    def __init__(self, parts: Parts) -> None:
        self._driver = parts.driver
        self._inspection = parts.inspection
        self._indexes = Indexes(parts.driver, parts.inspection, parts.removals)
        self._scan = parts.scan
        self._rechecks = parts.rechecks
        self._tally = parts.tally
        self._survey = parts.survey

    async def run(self, *, jobs: int) -> None:
        """Verify the whole store, hashing `jobs` blobs at a time, or none if that is 0.

        Raises StorageUnavailable if it can't be listed, LayoutUnknown if this version can't tell what is right.
        """
        await self._layout()
        await self._scan.repositories(self)
        await self._scan.blobs(jobs=jobs)
        self._tally.enter("indexes")
        async for place in walk(self._driver, f"{keys.OURS}/"):
            await self._in_ours(place)
        await self._rechecks.settle()
        self._tally.enter("files")
        async for finding in self._survey():
            self._rechecks.report(finding)

    async def repository(self, repository: RepositoryName) -> None:
        """Look for it in the catalog."""
        await self._rechecks.check(partial(self._indexes.lacks_repository, repository))

    async def layer(self, repository: RepositoryName, digest: Digest) -> None:
        """A blob whose source is not noted is found by a longer search: that is no finding."""

    async def revision(self, repository: RepositoryName, digest: Digest, examined: Examined) -> None:
        """Look for a manifest with a subject among the referrers."""
        found = await self._indexes.compare_referrer(repository, digest, examined)
        await self._rechecks.check(partial(self._indexes.lacks_referrer, repository, digest), found)

    async def _layout(self) -> None:
        try:
            found = (await self._driver.get(keys.LAYOUT, bytes_max=256)).body
        except Corrupt:
            found = b"?"
        except NotFound:
            # With nothing of ours there, everything that adoption would add is missing: said once.
            if not await is_empty(self._driver, f"{keys.ROOT}/"):
                self._rechecks.report(Finding(Problem.LAYOUT_MISSING, keys.LAYOUT))
            return
        if found != LAYOUT:
            self._rechecks.report(Finding(Problem.LAYOUT_UNKNOWN, keys.LAYOUT, found.decode(errors="replace")))
            raise LayoutUnknown("this version can't tell what is right in a store of another one", key=keys.LAYOUT)

    async def _in_ours(self, place: Place) -> None:
        check = self._rechecks.check
        match place.kind, place.digest:
            case Kind.CATALOG, _:
                await check(partial(self._indexes.catalog, place))
            case Kind.REFERRER, _:
                await check(partial(self._indexes.referrer, place))
            case Kind.SOURCE, _:
                await check(partial(self._indexes.source, place))
            case Kind.HISTORY, _:
                self._tally.counts["changes of tags"] += 1
                await check(partial(self._indexes.history, place))
            case Kind.MEDIA_TYPE, _:
                await check(partial(self._indexes.media_type, place))
            case Kind.DAMAGED, Digest() as digest:
                await check(partial(self._inspection.marker, digest))
            case Kind.UPLOAD_RECORD, _:
                self._tally.counts["uploads"] += 1
                await check(partial(self._inspection.upload_record, place.name))
            case Kind.REMOVAL, _:
                await check(partial(self._indexes.removal, place))
            case Kind.UNADOPTED, _:
                self._rechecks.report(Finding(Problem.UNADOPTED, place.key))
            case Kind.STRAY, _:
                # A later version may know it.
                self._rechecks.report(Finding(Problem.STRAY, place.key, severity_max=Severity.NOTE))
