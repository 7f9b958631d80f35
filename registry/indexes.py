"""What can be told from the rest of the store and is kept for speed, compared with what it is told from."""

from registry.findings import Finding, Problem, Severity
from registry.inspection import Examined, Inspection
from registry.referrers import describe
from storage import keys
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused
from storage.history import RECORD_BYTES_MAX, mark_of, parse_record
from storage.places import Place
from storage.referrers import ENTRY_BYTES_MAX, entry_text
from storage.removals import RemovalStore
from storage.walk import is_empty


class Indexes:
    """Looks at catalog, referrers, blob sources and media types, without changing anything."""

    def __init__(self, driver: Driver, inspection: Inspection, removals: RemovalStore) -> None:
        self._driver = driver
        self._inspection = inspection
        self._removals = removals
        self._blobs = BlobStore(driver)
        self._catalog = CatalogStore(driver)

    async def lacks_repository(self, repository: str) -> list[Finding]:
        """Look whether the catalog has a repository that holds something."""
        if await self._catalog.has(repository) or await self._is_gone(repository, keys.manifests(repository)):
            return []
        return [Finding(Problem.CATALOG_MISSING, keys.catalog_entry(repository), repository)]

    async def catalog(self, place: Place) -> list[Finding]:
        """Look whether anything is left of a repository in the catalog: a manifest, a tag or a blob."""
        name = place.repository
        if await self._is_gone(name, keys.manifests(name), keys.layers(name)):
            return [Finding(Problem.CATALOG_STALE, place.key, name)]
        return []

    async def lacks_referrer(self, repository: str, digest: Digest) -> list[Finding]:
        """Look whether a manifest with a subject is among the subject's referrers, and described rightly."""
        return await self.compare_referrer(repository, digest, await self._inspection.revision(repository, digest))

    async def compare_referrer(self, repository: str, digest: Digest, examined: Examined) -> list[Finding]:
        """Compare the entry among the referrers with what the manifest says."""
        document = examined.document
        if document is None or document.subject is None:
            return []
        key = keys.referrer(repository, document.subject.digest, digest)
        try:
            text = (await self._driver.get(key, bytes_max=ENTRY_BYTES_MAX)).body
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, key)]
        except Corrupt:
            return [Finding(Problem.REFERRER_DAMAGED, key)]
        except NotFound:
            return [Finding(Problem.REFERRER_MISSING, key)]
        if text != entry_text(describe(digest, document, size=examined.size)):
            return [Finding(Problem.REFERRER_DAMAGED, key)]
        return []

    async def referrer(self, place: Place) -> list[Finding]:
        """Look whether the manifest of an entry is held by the repository, and names the subject."""
        assert place.digest is not None, "a referrer's key holds two digests"
        if await self._inspection.link(keys.revision_link(place.repository, place.digest)) is None:
            return [Finding(Problem.REFERRER_LEFTOVER, place.key)]
        document = (await self._inspection.revision(place.repository, place.digest)).document
        if document is None:
            return []  # damaged, which is told of the manifest; or taken opaquely
        if document.subject is None or document.subject.digest != place.subject:
            return [Finding(Problem.REFERRER_STALE, place.key)]
        return []

    async def source(self, place: Place) -> list[Finding]:
        """Look whether the repository that is said to link to a blob does."""
        assert place.digest is not None, "a source's key holds a digest"
        if await self.has_source(place.digest):
            return []
        return [Finding(Problem.SOURCE_STALE, place.key)]

    async def has_source(self, digest: Digest) -> bool:
        """Tell whether a mount that names no source would find the blob at once."""
        hint = await self._blobs.source(digest)
        try:
            return hint is not None and await self._is_object(keys.layer_link(hint, digest))
        except ValueError:
            return False  # what is written there can be no repository's name

    async def media_type(self, place: Place) -> list[Finding]:
        """Look whether the manifest of a stored media type is held by the repository."""
        assert place.digest is not None, "a media type's key holds a digest"
        if await self._is_object(keys.revision_link(place.repository, place.digest)):
            return []
        return [Finding(Problem.TYPE_STALE, place.key)]

    async def history(self, place: Place) -> list[Finding]:
        """Look whether a record of a tag's history can be read."""
        try:
            text = (await self._driver.get(place.key, bytes_max=RECORD_BYTES_MAX)).body
            parse_record(text, mark_of(place))
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, place.key, severity_max=Severity.WARNING)]
        except (Corrupt, ValueError):
            return [Finding(Problem.HISTORY_DAMAGED, place.key)]
        except NotFound:
            pass
        return []

    async def removal(self, place: Place) -> list[Finding]:
        """Look whether a removal was announced by a process that has died since."""
        return [Finding(Problem.REMOVAL_LEFTOVER, place.key)] if await self._removals.has_died(place.key) else []

    async def _is_object(self, key: str) -> bool:
        try:
            await self._driver.stat(key)
        except StorageRefused:
            return True
        except NotFound:
            return False
        return True

    async def _is_gone(self, repository: str, *prefixes: str) -> bool:
        try:
            for prefix in prefixes:
                if not await is_empty(self._driver, prefix):
                    return False
        except StorageRefused:
            return False  # it can't be told
        except ValueError:
            return True  # no key, so no repository
        return bool(repository)
