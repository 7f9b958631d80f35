"""Manifests as clients see them: parsed, checked against what the repository holds, recorded, read back."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from registry import media_types
from registry.documents import Descriptor, Document, parse_manifest, told_type
from registry.errors import (
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    QuotaExceeded,
    Unavailable,
    Unsupported,
)
from registry.immutability import Immutability, ImmutableManifests
from registry.names import Reference, RepositoryName, Tag
from registry.quotas import Quotas
from registry.referrers import describe
from registry.strict_json import parse_object
from storage.arrivals import State
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.digest import SHA256, Digest
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageUnavailable
from storage.manifests import ManifestStore
from storage.referrers import ReferrerStore
from storage.removals import TRUSTED_SECONDS, Recent, RemovalStore
from storage.tags import DELETED, SeenTag, TagStore
from storage.timelines import PUSHED, Cause, Why
from storage.together import together

CACHE_BYTES_MAX = 16 << 20
CACHED_BYTES_MAX = 256 << 10
PUBLISH_ATTEMPTS_MAX = 20
READ_ATTEMPTS_MAX = 20
KNOWN_SECONDS = 0.9 * TRUSTED_SECONDS
OBSERVED = Cause("", Why.OBSERVED)
UNNAMED = "the manifest does not name its mediaType: clients may differ about what it is"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it is served: the digest it was asked by, its media type and its very bytes."""

    digest: Digest
    media_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push has come to: the digest it is held under, its subject if any, and what to warn of."""

    digest: Digest
    subject: Digest | None
    warning: str | None


@dataclass(slots=True)
class Changes:
    """What a push or a deletion has done so far: for whoever has to know it also if it fails then.

    Tags are told with what they pointed at before.
    """

    pushed: Digest | None = None
    deleted: Digest | None = None
    tagged: list[tuple[str, Digest | None]] = field(default_factory=list)
    untagged: list[tuple[str, Digest | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ManifestStores:
    """The stores that a manifest is recorded in."""

    manifests: ManifestStore
    blobs: BlobStore
    tags: TagStore
    referrers: ReferrerStore
    catalog: CatalogStore
    removals: RemovalStore
    calls_at_once: int = 1


@dataclass(frozen=True, slots=True)
class _Push:
    """A push whose manifest is recorded, and whose tags are set next, each with whom to ask first."""

    repository: RepositoryName
    digest: Digest
    document: Document
    body: bytes
    wanted: Mapping[Tag, Callable[[Digest | None], None] | None]
    changes: Changes
    cause: Cause

    @property
    def canonical(self) -> Digest:
        """The digest that the bytes lie under."""
        return Digest.of(self.body)


class Manifests:
    """A manifest is visible only after everything that it refers to was found in its repository."""

    def __init__(
        self,
        stores: ManifestStores,
        *,
        opaque_types: Sequence[str] = (),
        sparse: bool = False,
        delete: bool = True,
        immutability: Immutability | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        self._stores = stores
        self._immutability = immutability or Immutability()
        self._immutable = ImmutableManifests(self._immutability, stores.tags, stores.manifests)
        self._quotas = quotas
        self._opaque_types = opaque_types
        self._sparse = sparse
        self._delete = delete
        self._cache = _Cache()

    async def get(self, repository: RepositoryName, reference: Reference) -> Manifest:
        """Read a manifest by digest or by tag (distribution-spec end-3). Raises ManifestUnknown."""
        try:
            if isinstance(reference, Digest):
                return await self._read(repository, reference)
            return await self._read_tagged(repository, reference)
        except NotFound as error:
            raise _unknown(error) from error

    async def _read_tagged(self, repository: RepositoryName, tag: Tag) -> Manifest:
        digest = await self._stores.tags.get(repository, tag)
        for _attempt in range(READ_ATTEMPTS_MAX):
            try:
                return await self._read(repository, digest)
            except NotFound:
                # It may have been deleted, or collected, after the tag had moved on.
                before, digest = digest, await self._stores.tags.get(repository, tag)
                if digest == before:
                    raise
        raise StorageUnavailable("the tag is being moved by too many at once", key=tag)

    async def _read(self, repository: RepositoryName, digest: Digest) -> Manifest:
        stores = self._stores
        canonical = await stores.manifests.resolve(repository, digest)
        text = self._cache.get(digest)
        if text is None:
            text = _Text.of((await stores.manifests.read(digest, canonical)).body)
            self._cache.add(digest, text)
        media_type = text.named_type
        if media_type is None:
            # Not cached: it is deleted with the manifest, maybe through another worker.
            media_type = await stores.manifests.media_type(repository, digest) or text.told_type
        return Manifest(digest, media_type or media_types.OCTET_STREAM, text.body)

    async def put(
        self,
        repository: RepositoryName,
        reference: Reference,
        body: bytes,
        *,
        media_type: str | None,
        tags: Sequence[Tag] = (),
        allow: Callable[[Digest | None, Digest], None] | None = None,
        changes: Changes | None = None,
        cause: Cause = PUSHED,
    ) -> Pushed:
        """Take a manifest (distribution-spec end-7a, end-7b) and set `tags`, or the tag that `reference` is.

        `allow`, if given, is asked with what each tag points at and will point at, before anything is stored and
        again in the step that moves the tag, and may refuse. `cause` is what the history of the tags is told.

        Raises DigestInvalid, ManifestInvalid, ManifestBlobUnknown, QuotaExceeded, Denied for an immutable tag that
        points elsewhere, and what `allow` raises.
        """
        changes = changes or Changes()
        digest = _digest_of(reference, body)
        try:
            document = parse_manifest(body, media_type, opaque_types=self._opaque_types)
        except ValueError as error:
            raise ManifestInvalid(str(error)) from error
        wanted = tags if isinstance(reference, Digest) else (reference,)
        seen: dict[Tag, SeenTag | None] = {}
        asks = {tag: _both(allow, self._immutability.on_set(repository, tag, digest), digest) for tag in wanted}
        for tag, ask in asks.items():
            if ask is not None:
                found = seen[tag] = await self._stores.tags.see(repository, tag)
                ask(None if found is None else found.digest)
        looked = await self._require(repository, document)
        await self._reserve(repository, digest, body)
        await self._record(repository, digest, document, body, looked)
        changes.pushed = digest
        if wanted:
            await self._tag(_Push(repository, digest, document, body, asks, changes, cause), seen)
        subject = document.subject.digest if document.subject else None
        return Pushed(digest, subject, None if document.is_named else UNNAMED)

    async def _reserve(self, repository: RepositoryName, digest: Digest, body: bytes) -> None:
        if self._quotas is None or not self._quotas.covers(repository):
            return
        try:
            await self._quotas.reserve(repository, Digest.of(body), len(body))
        except QuotaExceeded:
            # What is there needs no room: a tag may go back also where a quota is used up.
            if not await self._stores.manifests.exists(repository, digest):
                raise

    async def _tag(self, push: "_Push", seen: Mapping[Tag, SeenTag | None]) -> None:
        """Set tags, and look whether they or the manifest were deleted meanwhile."""
        stores, repository, digest = self._stores, push.repository, push.digest
        began = stores.removals.now()
        for tag, ask in push.wanted.items():
            before = await stores.tags.set(repository, tag, digest, allow=ask, seen=seen.get(tag), cause=push.cause)
            push.changes.tagged.append((tag, before))
        for attempt in range(PUBLISH_ATTEMPTS_MAX):
            await stores.manifests.keep(push.canonical)
            # A deletion of the manifest may have come between: it takes the tags that it sees, and this push looks
            # whether it has announced itself. One of the two sees the other, and it is as if the deletion had come
            # last. (Recorded once more, the manifest would come back after the deletion was seen to be done.)
            recent = await stores.removals.recent(repository, since=began)
            for tag in push.wanted:
                if recent.touches_tag(tag):
                    await stores.tags.mend(repository, tag, digest)
            if not recent.touches_manifest(digest):
                return
            # The wait is for deletions that are killed in the middle.
            await stores.removals.wait_for_manifest(repository, digest)
            is_there = await stores.manifests.exists(repository, digest)
            is_collected = recent.may_be_collected and await stores.removals.collected_since(repository, began)
            if not is_collected or (is_there and attempt):
                break
            if not is_there and await stores.removals.deleted_since(repository, digest, began):
                break
            # A garbage collection is no deletion: nobody has asked for it, and the push comes after it.
            await self._put_again(push)
        else:
            raise StorageUnavailable("the manifest is collected as garbage again and again", key=str(digest))
        if not is_there:
            async with stores.removals.of_retry(repository):  # a tag may go and come back
                await self._untag_if_gone(repository, digest, push.changes, _deleted_by(push.cause))
        for tag in push.wanted:
            if self._immutability.rule(repository, tag) and await stores.tags.current(repository, tag) != digest:
                # Acknowledged, an immutable tag would be gone at once: the deletion looked before it was set.
                raise Unavailable("the manifest was deleted while it was pushed: push it again")

    async def _put_again(self, push: "_Push") -> None:
        """Record a manifest once more that a garbage collection may have taken before its tags were set.

        Raises ManifestBlobUnknown if something that it refers to was taken too: then the tags point again where they
        did before.
        """
        # A collection takes nothing as long as a tag leads nowhere, nor while this is announced.
        async with self._stores.removals.of_retry(push.repository):
            try:
                looked = await self._require(push.repository, push.document)
                await self._record(push.repository, push.digest, push.document, push.body, looked)
            except ManifestBlobUnknown:
                await self._take_back(push)
                raise

    async def _take_back(self, push: "_Push") -> None:
        """Let tags point where they did before they were set to a manifest that is gone."""
        stores, repository, digest = self._stores, push.repository, push.digest
        for tag, before in tuple(push.changes.tagged):
            if await stores.manifests.exists(repository, digest):
                return  # another push of the same has brought it back
            with contextlib.suppress(NotFound, AlreadyExists):
                await self._move(repository, tag, digest, before)
                push.changes.tagged.remove((tag, before))
                if await stores.manifests.exists(repository, digest):
                    # Brought back just now: its push may have found the tag where it should be.
                    await self._move(repository, tag, before, digest)

    async def _move(self, repository: RepositoryName, tag: str, old: Digest | None, new: Digest | None) -> None:
        """Move a tag that points at `old`. Raises AlreadyExists or NotFound if it does not."""
        tags = self._stores.tags
        if new is None:
            async with self._stores.removals.of_tag(repository, tag):
                await tags.delete(repository, tag, only=old)
            return
        await tags.set(repository, tag, new, allow=partial(_only, old))
        await tags.mend(repository, tag, new)

    async def expire_removals(self) -> int:
        """Forget removals of long ago; returns how many."""
        return await self._stores.removals.expire(self._stores.tags.forget_if_gone)

    async def delete(
        self,
        repository: RepositoryName,
        reference: Reference,
        *,
        force: bool = False,
        changes: Changes | None = None,
        cause: Cause = DELETED,
    ) -> None:
        """Delete a tag, or a manifest with every tag that points at it (distribution-spec end-9).

        `cause` is what the history of the tags is told. Raises ManifestUnknown; Unsupported where deletion is switched
        off; Denied for an immutable tag and what such a tag needs, unless forced.
        """
        if not self._delete and not force:
            raise Unsupported("deletion is switched off: set delete = true in the configuration")
        changes = changes or Changes()
        try:
            if isinstance(reference, Digest):
                await self._delete_manifest(repository, reference, changes, cause, force=force)
            else:
                await self._delete_tag(repository, reference, changes, cause, force=force)
        except NotFound as error:
            raise _unknown(error) from error

    async def _delete_tag(
        self, repository: RepositoryName, tag: Tag, changes: Changes, cause: Cause, *, force: bool
    ) -> None:
        allow = None if force else self._immutability.on_delete(repository, tag)
        if allow is not None:
            # Ahead of the announcement, which pushes would look at for nothing.
            seen = await self._stores.tags.see(repository, tag)
            if seen is None or seen.link is not None:
                allow(None if seen is None else seen.digest)
        async with self._stores.removals.of_tag(repository, tag):
            before = await self._stores.tags.delete(repository, tag, allow=allow, cause=cause)
        changes.untagged.append((tag, before))

    async def untag(
        self, repository: RepositoryName, tag: Tag, *, only: Digest, force: bool = False, cause: Cause
    ) -> None:
        """Delete a tag while it points at that manifest. Raises ManifestUnknown; Denied as in `delete`."""
        allow = None if force else self._immutability.on_delete(repository, tag)
        try:
            async with self._stores.removals.of_tag(repository, tag):
                await self._stores.tags.delete(repository, tag, only=only, allow=allow, cause=cause)
        except NotFound as error:
            raise _unknown(error) from error

    async def _delete_manifest(
        self, repository: RepositoryName, digest: Digest, changes: Changes, cause: Cause, *, force: bool
    ) -> None:
        stores, read = self._stores, set[str]()
        if not force:
            await self._immutable.refuse(repository, digest, seen=read)
        subject: Digest | None = None
        try:
            canonical = await stores.manifests.resolve(repository, digest)
            subject = _subject((await stores.manifests.read(digest, canonical)).body)
        except Corrupt:
            pass  # what is damaged can still be deleted
        except NotFound:
            await self._delete_leftovers(repository, digest, changes, cause)
            raise
        async with stores.removals.of_manifest(repository, digest) as removal:
            if not force and self._immutability.covers_any_of(repository):
                # An immutable tag may have been set since. Either its push finds this announcement, or this finds it.
                await self._immutable.refuse(repository, digest, seen=read)
                removal.check_time()
            await self._untag(repository, digest, changes, cause)
            await self._take(repository, digest, subject, changes, cause)

    async def take(
        self, repository: RepositoryName, digest: Digest, *, changes: Changes, cause: Cause | None = None
    ) -> None:
        """Delete a manifest that no tag points at, under an announcement of the caller. One that is gone is fine.

        With a `cause` it is a deletion, which takes tags that are set meanwhile; without, it is a collection, after
        which a push puts the manifest back.
        """
        subject: Digest | None = None
        with contextlib.suppress(NotFound):
            try:
                canonical = await self._stores.manifests.resolve(repository, digest)
                subject = _subject((await self._stores.manifests.read(digest, canonical)).body)
            except Corrupt:
                pass
            await self._take(repository, digest, subject, changes, cause)

    async def _take(
        self, repository: RepositoryName, digest: Digest, subject: Digest | None, changes: Changes, cause: Cause | None
    ) -> None:
        await self._stores.manifests.unlink(repository, digest)
        changes.deleted = digest
        if subject is not None:
            await self._unlist(repository, subject, digest)
        if cause is not None:
            await self._untag_if_gone(repository, digest, changes, cause)  # what a push has set since, see put

    async def forget_referrer(self, repository: RepositoryName, subject: Digest, digest: Digest) -> None:
        """Delete an entry among the referrers, unless its manifest is there."""
        if not await self._stores.manifests.exists(repository, digest):
            await self._unlist(repository, subject, digest)

    async def _delete_leftovers(
        self, repository: RepositoryName, digest: Digest, changes: Changes, cause: Cause
    ) -> None:
        """Take what a deletion has left that was cut off after the manifest was gone: its client asks again."""
        stores = self._stores
        async with stores.removals.of_manifest(repository, digest):
            await self._untag_if_gone(repository, digest, changes, cause)
            # Where the bytes of others lie was told by the link.
            if digest.algorithm != SHA256 or await stores.manifests.exists(repository, digest):
                return
            with contextlib.suppress(NotFound):
                subject = _subject(await stores.manifests.peek(digest))
                if subject is not None:
                    await self._unlist(repository, subject, digest)

    async def _unlist(self, repository: RepositoryName, subject: Digest, digest: Digest) -> None:
        """Delete a referrer, unless its manifest was pushed again since: that push may have found it listed."""
        # Each change is followed by a look, as with those who push: whoever comes last sees the other.
        for _attempt in range(PUBLISH_ATTEMPTS_MAX):
            await self._stores.referrers.delete(repository, subject, digest)
            try:
                manifest = await self.get(repository, digest)
                document = parse_manifest(manifest.body, manifest.media_type, opaque_types=self._opaque_types)
            except (ManifestUnknown, ValueError):
                return
            await self._stores.referrers.put(repository, subject, describe(digest, document, size=len(manifest.body)))
            if await self._stores.manifests.exists(repository, digest):
                return

    async def _untag_if_gone(self, repository: RepositoryName, digest: Digest, changes: Changes, cause: Cause) -> None:
        if await self._stores.manifests.exists(repository, digest):
            return
        taken = await self._untag(repository, digest, changes, cause)
        if taken and await self._stores.manifests.exists(repository, digest):
            # Pushed again since: these may be the tags of that push, which has found its manifest there.
            for tag in taken:
                with contextlib.suppress(AlreadyExists):
                    await self._stores.tags.set(repository, tag, digest, allow=_nothing, cause=OBSERVED)
                    await self._stores.tags.mend(repository, tag, digest)

    async def _untag(self, repository: RepositoryName, digest: Digest, changes: Changes, cause: Cause) -> list[str]:
        """Delete the tags that point at a manifest, and tell which they were."""
        tags, taken = self._stores.tags, []
        for tag in await tags.names(repository):
            try:
                if await tags.get(repository, tag) != digest:
                    continue
                async with self._stores.removals.of_tag(repository, tag):
                    await tags.delete(repository, tag, only=digest, cause=cause)
            except NotFound:
                continue  # damaged, deleted or moved since: not ours to take
            taken.append(tag)
            changes.untagged.append((tag, digest))
        return taken

    async def _record(
        self, repository: RepositoryName, digest: Digest, document: Document, body: bytes, looked: float
    ) -> None:
        # In the order of docs/reference/storage-format.md: a crash between any two leaves garbage, never a lie.
        stores = self._stores
        since = await stores.manifests.state()
        await stores.manifests.put_bytes(body)
        if document.subject is not None:
            await stores.referrers.put(repository, document.subject.digest, describe(digest, document, size=len(body)))
        recent = await self._publish(repository, digest, document, body, looked, since=since)
        if document.subject is not None and not await stores.referrers.has(repository, document.subject.digest, digest):
            # An adoption, which takes away what no manifest stands behind, came between. It looks again as well.
            await stores.referrers.put(repository, document.subject.digest, describe(digest, document, size=len(body)))
            if not await stores.manifests.exists(repository, digest):
                await self._unlist(repository, document.subject.digest, digest)
        await stores.catalog.add(repository, trust=not recent.touches_entry())

    async def _publish(
        self,
        repository: RepositoryName,
        digest: Digest,
        document: Document,
        body: bytes,
        looked: float,
        *,
        since: State | None,
    ) -> Recent:
        """Make the manifest visible, and see that everything is still there that was found at `looked`.

        Returns what was removed of late, as it was found after the manifest was visible. Raises
        ManifestBlobUnknown, if something was deleted since it was looked up: then it is withdrawn.
        """
        stores, needed = self._stores, {d.digest for d in document.references}
        canonical = Digest.of(body)
        for _attempt in range(PUBLISH_ATTEMPTS_MAX):
            if not document.is_named:
                await stores.manifests.put_media_type(repository, digest, document.media_type, told=document.told_type)
            is_new = await stores.manifests.link(repository, digest, canonical=canonical, body=body, since=since)
            since = None
            if not document.is_named and await stores.manifests.media_type(repository, digest) is None:
                # A deletion of the manifest took it away in between. It looks again as well, see unlink.
                await stores.manifests.put_media_type(repository, digest, document.media_type, told=document.told_type)
            recent = await stores.removals.recent(repository, since=looked)
            if not any(map(recent.touches, {digest, *needed})):
                # Nothing was taken since it was looked up, nor was this manifest, and whoever announces that from now
                # on will find the manifest.
                return recent
            await stores.removals.wait_for_blobs(repository, needed)
            try:
                looked = await self._require(repository, document)
            except ManifestBlobUnknown:
                if not is_new:
                    raise
                await self._withdraw(repository, digest, document)
            # Another push of the same manifest may be withdrawing it, or has just done so, which did not find a blob
            # that this one found. If it was a deletion instead, this push comes after it.
            await stores.removals.wait_for_manifest(repository, digest)
            if await stores.manifests.exists(repository, digest):
                return recent
        raise StorageUnavailable("the manifest is being withdrawn by too many at once", key=str(digest))

    async def _withdraw(self, repository: RepositoryName, digest: Digest, document: Document) -> None:
        """Take back a manifest that lacks something, and raise ManifestBlobUnknown; or find that nothing is missing.

        Others may have pushed both the blob and the manifest meanwhile: they wait while this looks once more.
        """
        async with self._stores.removals.of_manifest(repository, digest) as removal:
            try:
                await self._require(repository, document)
            except ManifestBlobUnknown:
                removal.check_time()
                await self._stores.manifests.withdraw(repository, digest)
                if document.subject is not None:
                    await self._unlist(repository, document.subject.digest, digest)
                # A push that has found the manifest before may have set a tag since.
                await self._untag_if_gone(repository, digest, Changes(), DELETED)
                raise

    async def _require(self, repository: RepositoryName, document: Document) -> float:
        """Look up everything that a manifest refers to, and return when that began. Raises ManifestBlobUnknown."""
        looked = self._stores.removals.now()
        if self._sparse:
            return looked
        wanted = _once(document.references)
        known = await self._known(repository, wanted)
        sought = [descriptor for descriptor in wanted if descriptor not in known]
        held = await together(
            [partial(self._holds, repository, descriptor) for descriptor in sought], self._stores.calls_at_once
        )
        missing = [str(descriptor.digest) for descriptor, is_held in zip(sought, held, strict=True) if not is_held]
        if missing:
            raise ManifestBlobUnknown(missing)
        return looked

    async def _known(self, repository: RepositoryName, wanted: Sequence[Descriptor]) -> set[Descriptor]:
        """Those that this process has found a short while ago, and that nobody has removed since."""
        blobs, removals = self._stores.blobs, self._stores.removals
        since, known, looked = removals.now() - KNOWN_SECONDS, set(), []
        for descriptor in wanted:
            found = await blobs.known(repository, descriptor.digest, since=since)
            if found is not None and found.size == descriptor.size and not descriptor.is_foreign:
                known.add(descriptor)
                looked.append(found.looked)
        if not known:
            return known
        recent = await removals.recent(repository, since=min(looked))
        return {descriptor for descriptor in known if not recent.touches_blob(descriptor.digest)}

    async def _holds(self, repository: RepositoryName, descriptor: Descriptor) -> bool:
        if descriptor.is_foreign:
            return True
        if descriptor.is_manifest and await self._stores.manifests.exists(repository, descriptor.digest):
            return True
        # An index may list blobs: a build cache of buildkit does, with layers as its entries.
        try:
            found = await self._stores.blobs.stat(repository, descriptor.digest)
        except NotFound:
            return False
        if found.size == descriptor.size:
            return True
        # Either the stored copy was truncated, and has to be pushed again, or the manifest is wrong.
        if not await self._stores.blobs.check(repository, descriptor.digest):
            return False
        raise ManifestInvalid(
            f"the manifest says that {descriptor.digest} has {descriptor.size} bytes; it has {found.size}"
        )


@dataclass(frozen=True, slots=True)
class _Text:
    """The bytes of a manifest and the media types that they name and tell; never another's under its digest."""

    body: bytes
    named_type: str | None
    told_type: str | None

    @classmethod
    def of(cls, body: bytes) -> "_Text":
        try:
            fields = parse_object(body)
        except ValueError:
            return cls(body, None, None)
        named, told = fields.get("mediaType"), told_type(fields)
        return cls(
            body,
            named if isinstance(named, str) and _is_header_text(named) else None,
            told if told is not None and _is_header_text(told) else None,
        )


class _Cache:
    """Verified manifests by digest, the most recently used of them, at most CACHE_BYTES_MAX bytes."""

    def __init__(self) -> None:
        self._texts: OrderedDict[Digest, _Text] = OrderedDict()
        self._bytes = 0

    def get(self, digest: Digest) -> _Text | None:
        text = self._texts.get(digest)
        if text is not None:
            self._texts.move_to_end(digest)
        return text

    def add(self, digest: Digest, text: _Text) -> None:
        if digest in self._texts or len(text.body) > CACHED_BYTES_MAX:
            return
        self._texts[digest] = text
        self._bytes += len(text.body)
        while self._bytes > CACHE_BYTES_MAX:
            _digest, dropped = self._texts.popitem(last=False)
            self._bytes -= len(dropped.body)


def _digest_of(reference: Reference, body: bytes) -> Digest:
    if not isinstance(reference, Digest):
        return Digest.of(body)
    if Digest.of(body, reference.algorithm) != reference:
        raise DigestInvalid("the manifest does not hash to the digest it was pushed under: send the exact bytes")
    return reference


def _once(descriptors: Sequence[Descriptor]) -> list[Descriptor]:
    # 10,000 times the same layer is one look-up. One digest with two sizes stays two: one of them is wrong.
    return list({(d.digest, d.size): d for d in descriptors}.values())


def _subject(body: bytes) -> Digest | None:
    try:
        subject = parse_object(body).get("subject")
        return Digest.parse(str(subject["digest"])) if isinstance(subject, dict) else None
    except (ValueError, KeyError):
        return None


def _both(
    allow: Callable[[Digest | None, Digest], None] | None,
    rule: Callable[[Digest | None], None] | None,
    new: Digest,
) -> Callable[[Digest | None], None] | None:
    """Ask what the request's caller may, and then what a rule says of the tag; None if there is nothing to ask."""
    if allow is None:
        return rule

    def ask(current: Digest | None) -> None:
        allow(current, new)
        if rule is not None:
            rule(current)

    return ask


def _deleted_by(cause: Cause) -> Cause:
    """Who takes a tag back because a deletion of the manifest came in between."""
    return Cause(cause.who, Why.DELETE)


def _nothing(current: Digest | None) -> None:
    """Refuse to move a tag that points anywhere."""
    if current is not None:
        raise AlreadyExists("the tag has been set meanwhile")


def _only(wanted: Digest | None, current: Digest | None) -> None:
    """Refuse to move a tag that points elsewhere."""
    if current != wanted:
        raise AlreadyExists("the tag has been set meanwhile")


def _is_header_text(text: str) -> bool:
    return bool(text) and text.isascii() and text.isprintable()


def _unknown(error: NotFound) -> ManifestUnknown:
    if isinstance(error, Corrupt):
        return ManifestUnknown("the stored manifest is damaged: push it again")
    return ManifestUnknown("this repository holds no such manifest or tag")
