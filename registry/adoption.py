"""Adoption: what distribution does not write is built for a store that it has written to.

Everything is added as it is found and nothing depends on an earlier step, so that an adoption may be killed at
any instant and started again. Pushes and deletes may go on meanwhile: an entry is written or taken away first, and
then it is looked whether that was right, as pushes and deletes do in turn.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from registry.findings import Problem
from registry.imports import Imports
from registry.indexes import Indexes
from registry.inspection import Examined
from registry.names import RepositoryName
from registry.referrers import describe
from registry.scan import Parts
from storage import keys
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.digest import Digest
from storage.places import Kind, Place
from storage.referrers import ReferrerStore
from storage.walk import walk


@dataclass(slots=True)
class Changes:
    """How many entries were added and removed, by index."""

    added: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)


class Adoption:
    """Completes catalog, histories of tags, referrers and blob sources, and takes from them what is gone."""

    def __init__(self, parts: Parts) -> None:
        self._driver = parts.driver
        self._inspection = parts.inspection
        self._indexes = Indexes(parts.driver, parts.inspection, parts.removals)
        self._scan = parts.scan
        self._removals = parts.removals
        self._rechecks = parts.rechecks
        self._tally = parts.tally
        self._survey = parts.survey
        self._blobs = BlobStore(parts.driver)
        self._catalog = CatalogStore(parts.driver)
        self._referrers = ReferrerStore(parts.driver)
        self._imports = Imports(parts.driver, parts.history)
        self._are_imported = False
        self.changes = Changes()

    async def run(self) -> None:
        """Adopt the whole store. Raises StorageUnavailable if it can't be listed or written to."""
        self._are_imported = await self._imports.are_done()
        await self._scan.repositories(self)
        await self._imports.finish()
        self._tally.enter("indexes")
        async for place in walk(self._driver, keys.CATALOG):
            if place.kind is Kind.CATALOG:
                await self._drop_repository(place)
        async for place in walk(self._driver, keys.OUR_REPOSITORIES):
            if place.kind is Kind.REFERRER:
                await self._drop_referrer(place)
        async for place in walk(self._driver, keys.SOURCES):
            if place.kind is Kind.SOURCE and await self._indexes.source(place):
                await self._driver.delete(place.key)  # a hint: losing one costs a longer search
                self.changes.removed["sources"] += 1
        await self._scan.blobs()
        self._tally.enter("files")
        async for finding in self._survey():
            self._rechecks.report(finding)
        await self._driver.delete(keys.UNADOPTED)

    async def repository(self, repository: RepositoryName) -> None:
        """Enter it into the catalog, and let the histories of its tags begin."""
        if not await self._catalog.has(repository):
            await self._catalog.add(repository)
            self.changes.added["catalog"] += 1
        added = await self._imports.repository(repository, everything=not self._are_imported)
        if added:
            self.changes.added["history"] += added

    async def layer(self, repository: RepositoryName, digest: Digest) -> None:
        """Note where a mount without a source finds the blob."""
        if not await self._indexes.has_source(digest):
            await self._blobs.remember_source(repository, digest)
            self.changes.added["sources"] += 1

    async def revision(self, repository: RepositoryName, digest: Digest, examined: Examined) -> None:
        """Enter a manifest with a subject among the referrers."""
        found = await self._indexes.compare_referrer(repository, digest, examined)
        if any(finding.problem is Problem.UNREADABLE for finding in found):
            await self._rechecks.check(partial(self._indexes.lacks_referrer, repository, digest))
        elif found:
            await self._add_referrer(repository, digest, examined)
            self.changes.added["referrers"] += 1

    async def _add_referrer(self, repository: str, digest: Digest, examined: Examined) -> None:
        document = examined.document
        assert document is not None, "compared with what the document says"
        assert document.subject is not None, "compared with what the document says"
        subject = document.subject.digest
        await self._referrers.put(repository, subject, describe(digest, document, size=examined.size))
        # A delete takes the manifest and then the entry. If it was through before the entry was written, then the
        # manifest is gone by now.
        if await self._inspection.link(keys.revision_link(repository, digest)) is None:
            await self._referrers.delete(repository, subject, digest)

    async def _drop_repository(self, place: Place) -> None:
        if not await self._indexes.catalog(place):
            return
        async with self._removals.of_entry(place.repository):
            await self._driver.delete(place.key)
            # A push links its manifest and then looks at the catalog, or finds no announcement and relies on what it
            # saw earlier. If it saw the entry, then the manifest is there by now.
            if not await self._indexes.catalog(place):
                await self._catalog.add(place.repository)
            else:
                self.changes.removed["catalog"] += 1

    async def _drop_referrer(self, place: Place) -> None:
        if not await self._indexes.referrer(place):
            return
        await self._driver.delete(place.key)
        # As above: a push links the manifest and then looks at its entry.
        if await self._indexes.referrer(place):
            self.changes.removed["referrers"] += 1
        elif place.digest is not None:
            examined = await self._inspection.revision(place.repository, place.digest)
            if examined.document is not None and examined.document.subject is not None:
                await self._add_referrer(place.repository, place.digest, examined)
