"""Each object of a store looked at by itself: what is wrong with it, without changing anything.

Every look reads from the name towards the bytes, the other way round than writers write, so that what it misses
was deleted or never finished. It may be repeated as often as one likes.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from registry import media_types
from registry.documents import Descriptor, Document, read_manifest
from registry.findings import Finding, Problem, Severity
from registry.hashing import Hasher
from registry.names import is_tag
from storage import keys
from storage.blobs import EMPTY, BlobStore
from storage.digest import SHA256, Digest
from storage.drivers import Driver, Stat
from storage.errors import Corrupt, NotFound, StorageRefused, StorageUnavailable
from storage.links import LINK_BYTES_MAX
from storage.manifests import STORED_BYTES_MAX, ManifestStore
from storage.uploads import RECORD_STORED_BYTES_MAX, UploadRecord

DIGESTS_TOLD_MAX = 3
STARTED_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Examined:
    """A manifest that was looked at. `document` is None if it can't be read, or is taken opaquely."""

    findings: list[Finding] = field(default_factory=list)
    canonical: Digest | None = None
    document: Document | None = None
    size: int = 0


class Inspection:
    """Looks at links, manifests, blobs and uploads.

    A blob whose size contradicts a manifest is hashed, once; `condemn` is told of each copy that was found
    damaged.
    """

    def __init__(
        self,
        driver: Driver,
        hasher: Hasher,
        *,
        clock: Callable[[], float],
        condemn: Callable[[Digest, Stat], Awaitable[None]] | None,
    ) -> None:
        self._driver = driver
        self._blobs = BlobStore(driver)
        self._manifests = ManifestStore(driver)
        self._hasher = hasher
        self._clock = clock
        self._condemn = condemn
        self._hashed: dict[Digest, tuple[Stat, bool]] = {}

    async def link(self, key: str) -> Digest | Finding | None:
        """What a link leads to, what is wrong with it, or None if it is gone."""
        try:
            text = (await self._driver.get(key, bytes_max=LINK_BYTES_MAX)).body.strip()
            return Digest.parse(text.decode("ascii")) if text else Finding(Problem.LINK_EMPTY, key)
        except StorageRefused:
            return Finding(Problem.UNREADABLE, key)
        except Corrupt:
            return Finding(Problem.LINK_DAMAGED, key, "it is too long, or no file")
        except NotFound:
            return None
        except ValueError as error:
            return Finding(Problem.LINK_DAMAGED, key, str(error))

    async def layer(self, repository: str, digest: Digest) -> tuple[list[Finding], Digest | None]:
        """Look at a layer link; gives where the bytes lie as well."""
        key = keys.layer_link(repository, digest)
        canonical = await self._canonical(key, digest)
        if not isinstance(canonical, Digest):
            return [canonical] if canonical else [], None
        try:
            await self._driver.stat(keys.blob(canonical))
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, keys.blob(canonical))], canonical
        except NotFound:
            return [Finding(Problem.LINK_DANGLING, key)], canonical
        return [], canonical

    async def tag(self, repository: str, tag: str) -> list[Finding]:
        """Look at a tag and whether it leads to a manifest of the repository."""
        key = keys.tag_link(repository, tag)
        digest = await self.link(key)
        if digest is None:
            return []
        found = [] if is_tag(tag) else [Finding(Problem.TAG_REFUSED, key)]
        if isinstance(digest, Finding):
            return [*found, digest]
        if await self.link(keys.revision_link(repository, digest)) is None:
            found.append(Finding(Problem.TAG_DANGLING, key, str(digest)))
        return found

    async def tag_index(self, repository: str, tag: str, digest: Digest) -> list[Finding]:
        """Look at an entry of a tag's index, which only distribution reads."""
        key = keys.tag_index_link(repository, tag, digest)
        found = await self.link(key)
        if isinstance(found, Digest) and found != digest:  # unlike other links, it holds a sha512 digest as it is
            found = Finding(Problem.LINK_ELSEWHERE, key, str(found))
        return [replace(found, severity_max=Severity.WARNING)] if isinstance(found, Finding) else []

    async def tag_is_set(self, repository: str, tag: str) -> list[Finding]:
        """Look whether a tag that has an index points at anything."""
        try:
            await self._driver.stat(keys.tag_link(repository, tag))
        except StorageRefused:
            pass
        except NotFound:
            return [Finding(Problem.TAG_LEFTOVER, keys.tag(repository, tag))]
        return []

    async def revision(self, repository: str, digest: Digest) -> Examined:
        """Look at a manifest, and at everything it refers to."""
        key = keys.revision_link(repository, digest)
        canonical = await self._canonical(key, digest)
        if not isinstance(canonical, Digest):
            return Examined([canonical] if canonical else [])
        body = await self._manifest(key, digest, canonical)
        if isinstance(body, Finding):
            return Examined([body], canonical)
        try:
            document = read_manifest(body)
        except ValueError as error:
            return Examined([Finding(Problem.MANIFEST_SHAPE, key, str(error))], canonical)
        if not document.is_named:
            stored = await self._manifests.media_type(repository, digest)
            document = replace(document, media_type=stored or document.media_type)
        if document.media_type not in media_types.MANIFESTS:
            return Examined(canonical=canonical)
        return Examined(await self._references(repository, key, document), canonical, document, len(body))

    async def blob(self, canonical: Digest) -> list[Finding]:
        """Look at stored bytes without reading them."""
        key = keys.blob(canonical)
        try:
            found = await self._driver.stat(key)
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, key)]
        except NotFound:
            return []
        if found.size == 0 and canonical != EMPTY:
            return [Finding(Problem.BLOB_EMPTY, key)]
        if await self.is_damaged(canonical, found):
            return [Finding(Problem.BLOB_DAMAGED, key, f"it has {found.size} bytes")]
        return []

    async def hash(self, canonical: Digest) -> list[Finding]:
        """Read a blob and look whether it hashes to its digest."""
        key = keys.blob(canonical)
        if found := [finding for finding in await self.blob(canonical) if finding.problem != Problem.BLOB_DAMAGED]:
            return found
        try:
            hashed = await self._hasher.check(canonical)
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, key)]
        except StorageUnavailable as error:  # a bad sector is one blob, and not the end of the verification
            return [Finding(Problem.UNREADABLE, key, str(error))]
        if hashed is None:
            return []
        if not hashed.is_whole:
            await self._remember_damage(canonical, hashed.found)
            return [Finding(Problem.BLOB_DAMAGED, key, f"it has {hashed.found.size} bytes")]
        if await self._blobs.is_condemned(canonical, hashed.found):
            return [Finding(Problem.MARKER_WRONG, keys.damaged(canonical))]
        return []

    async def is_damaged(self, canonical: Digest, found: Stat) -> bool:
        """Tell whether this copy was found damaged, now or earlier."""
        return self._hashed.get(canonical) == (found, False) or await self._blobs.is_condemned(canonical, found)

    async def marker(self, canonical: Digest) -> list[Finding]:
        """Look whether a damaged marker speaks of the copy that lies there."""
        try:
            found = await self._driver.stat(keys.blob(canonical))
        except StorageRefused:
            return []
        except NotFound:
            return [Finding(Problem.MARKER_STALE, keys.damaged(canonical))]
        if await self._blobs.is_condemned(canonical, found):
            return []
        return [Finding(Problem.MARKER_STALE, keys.damaged(canonical))]

    async def upload(self, repository: str, upload: str) -> list[Finding]:
        """Look whether bytes of an upload belong to a session of Pierhead."""
        record = await self._record(upload)
        if isinstance(record, Finding) or (record is not None and record.repository == repository):
            return []
        return await self._abandoned(repository, upload)

    async def upload_record(self, upload: str) -> list[Finding]:
        """Look at the record of a session of Pierhead, and whether its bytes are there."""
        record = await self._record(upload)
        if not isinstance(record, UploadRecord):
            return [record] if record else []
        key = keys.upload_record(upload)
        if record.digest is not None:
            return []
        try:
            staged = await self._driver.stat_staged(keys.upload_bytes(record.repository, upload), record=key)
        except StorageRefused:
            return [Finding(Problem.UNREADABLE, keys.upload_bytes(record.repository, upload))]
        except NotFound:
            return [Finding(Problem.UPLOAD_BYTES_GONE, key)]
        if staged.size < record.hashed:
            return [Finding(Problem.UPLOAD_SHORT, key, f"{staged.size} of {record.hashed}")]
        return []

    async def _canonical(self, key: str, digest: Digest) -> Digest | Finding | None:
        canonical = await self.link(key)
        if isinstance(canonical, Digest) and (
            canonical.algorithm != SHA256 or (digest.algorithm == SHA256 and canonical != digest)
        ):
            return Finding(Problem.LINK_ELSEWHERE, key, str(canonical))
        return canonical

    async def _manifest(self, key: str, digest: Digest, canonical: Digest) -> bytes | Finding:
        bytes_key = keys.blob(canonical)
        try:
            body = (await self._driver.get(bytes_key, bytes_max=STORED_BYTES_MAX)).body
        except StorageRefused:
            return Finding(Problem.UNREADABLE, bytes_key)
        except StorageUnavailable as error:
            return Finding(Problem.UNREADABLE, bytes_key, str(error))
        except Corrupt:
            return Finding(Problem.MANIFEST_DAMAGED, bytes_key, f"manifest of {key}")
        except NotFound:
            return Finding(Problem.MANIFEST_MISSING, key, bytes_key)
        if Digest.of(body) != canonical or (digest != canonical and Digest.of(body, digest.algorithm) != digest):
            return Finding(Problem.MANIFEST_DAMAGED, bytes_key, f"manifest of {key}")
        return body

    async def _references(self, repository: str, key: str, document: Document) -> list[Finding]:
        missing: dict[Problem, list[str]] = {}
        for descriptor in {(d.digest, d.size): d for d in document.references}.values():
            problem = await self._reference(repository, descriptor)
            if problem is not None:
                missing.setdefault(problem, []).append(str(descriptor.digest))
        return [Finding(problem, key, _some(digests)) for problem, digests in missing.items()]

    async def _reference(self, repository: str, descriptor: Descriptor) -> Problem | None:
        if descriptor.is_foreign:
            return None
        if descriptor.is_manifest:
            link = await self._canonical(keys.revision_link(repository, descriptor.digest), descriptor.digest)
            if isinstance(link, Digest):
                # Whether it can be read is looked at by itself.
                size = await self._servable(link)
                return None if size is None else await self._sized(link, size, descriptor)
        link = await self._canonical(keys.layer_link(repository, descriptor.digest), descriptor.digest)
        size = await self._servable(link) if isinstance(link, Digest) else None
        if size is None or not isinstance(link, Digest):
            return Problem.INDEX_INCOMPLETE if descriptor.is_manifest else Problem.MANIFEST_INCOMPLETE
        return await self._sized(link, size, descriptor)

    async def _sized(self, link: Digest, size: int, descriptor: Descriptor) -> Problem | None:
        if size == descriptor.size:
            return None
        return Problem.MANIFEST_SIZE if await self._is_whole(link) else Problem.MANIFEST_INCOMPLETE

    async def _servable(self, canonical: Digest) -> int | None:
        """The size of a blob that would be served, else None."""
        try:
            found = await self._driver.stat(keys.blob(canonical))
        except (NotFound, StorageRefused):
            return None
        if (found.size == 0 and canonical != EMPTY) or await self.is_damaged(canonical, found):
            return None
        return found.size

    async def _is_whole(self, canonical: Digest) -> bool:
        """Hash a blob whose size contradicts a manifest: one of the two is wrong."""
        try:
            found = await self._driver.stat(keys.blob(canonical))
            known = self._hashed.get(canonical)
            if known is not None and known[0] == found:
                return known[1]
            hashed = await self._hasher.check(canonical)
        except (NotFound, StorageRefused):
            return False
        if hashed is None:
            return False
        if hashed.is_whole:
            self._hashed[canonical] = (hashed.found, True)
        else:
            await self._remember_damage(canonical, hashed.found)
        return hashed.is_whole

    async def _remember_damage(self, canonical: Digest, found: Stat) -> None:
        self._hashed[canonical] = (found, False)
        if self._condemn is not None and not await self._blobs.is_condemned(canonical, found):
            await self._condemn(canonical, found)

    async def _record(self, upload: str) -> UploadRecord | Finding | None:
        key = keys.upload_record(upload)
        try:
            record = UploadRecord.from_json((await self._driver.get(key, bytes_max=RECORD_STORED_BYTES_MAX)).body)
        except StorageRefused:
            return Finding(Problem.UNREADABLE, key)
        except (Corrupt, ValueError):
            return Finding(Problem.UPLOAD_DAMAGED, key)
        except NotFound:
            return None
        return record if record.id == upload else Finding(Problem.UPLOAD_DAMAGED, key)

    async def _abandoned(self, repository: str, upload: str) -> list[Finding]:
        key = keys.upload(repository, upload)
        page = await self._driver.list(f"{key}/", limit=1)
        if not page.entries:
            return []
        details = []
        begun = await self._begun(repository, upload)
        if begun is not None:
            details.append(f"begun {max(self._clock() - begun, 0) / 86400:.1f} days ago")
        try:
            staged = await self._driver.stat_staged(keys.upload_bytes(repository, upload))
            details.append(f"{staged.size} bytes")
        except (NotFound, StorageRefused):
            details.append("no bytes")
        return [Finding(Problem.UPLOAD_ABANDONED, key, ", ".join(details))]

    async def _begun(self, repository: str, upload: str) -> float | None:
        key = keys.upload_started(repository, upload)
        try:
            text = (await self._driver.get(key, bytes_max=STARTED_BYTES_MAX)).body.decode("ascii")
            begun = datetime.fromisoformat(text.strip())
        except (NotFound, StorageRefused, ValueError):
            return None
        return (begun if begun.tzinfo else begun.replace(tzinfo=UTC)).timestamp()


def _some(digests: list[str]) -> str:
    told = ", ".join(digests[:DIGESTS_TOLD_MAX])
    return told if len(digests) <= DIGESTS_TOLD_MAX else f"{told} and {len(digests) - DIGESTS_TOLD_MAX} more"
