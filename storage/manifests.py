"""Manifests: small blobs, stored to the byte, that a repository holds by a revision link."""

import contextlib
from dataclasses import dataclass

import structlog

from storage import keys
from storage.arrivals import MANIFESTS, Arrivals, State
from storage.digest import SHA256, Digest
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, StorageRefused, StorageUnavailable, VersionMismatch
from storage.links import LINK_BYTES_MAX, delete_link, link_text, read_link

MEDIA_TYPE_BYTES_MAX = 1024
STORED_BYTES_MAX = 64 << 20
"""No manifest that this or another registry took is larger; what is, is no manifest."""

PEEKED_BYTES_MAX = 4 << 20
"""Anybody who may delete can have any blob looked at."""

LINK_ATTEMPTS_MAX = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """The bytes of a manifest, verified against its digest."""

    digest: Digest
    canonical: Digest
    body: bytes


class ManifestStore:
    """Every revision link in it was written after the bytes that it leads to were durable."""

    def __init__(self, driver: Driver, *, arrivals: Arrivals | None = None) -> None:
        self._driver = driver
        self._arrivals = arrivals or Arrivals(driver)

    async def put_bytes(self, body: bytes) -> Digest:
        """Store the bytes, still invisible, and return the sha256 digest that they lie under."""
        canonical = Digest.of(body, SHA256)
        await self._driver.put(keys.blob(canonical), body)
        return canonical

    async def put_media_type(self, repository: str, digest: Digest, media_type: str, *, told: str | None) -> None:
        """Remember the media type of bytes that do not name it, if it is not the one that they tell (`told`).

        The first one wins: a second pusher must not change what others read under the same digest.
        """
        if await self.exists(repository, digest) and (
            told is not None or await self.media_type(repository, digest) is not None
        ):
            return
        key = keys.media_type(repository, digest)
        if media_type == told:
            await self._driver.delete(key)  # what a push or a deletion has left that broke off
        else:
            await self._driver.put(key, media_type.encode())

    async def state(self) -> State:
        """The state of the garbage collection: for `link`, before the bytes are stored."""
        return await self._arrivals.state()

    async def link(
        self, repository: str, digest: Digest, *, canonical: Digest, body: bytes | None, since: State | None = None
    ) -> bool:
        """Make the manifest visible, whose bytes were stored after `since`; tells whether it was not before.

        `body` is for the case that a collection has deleted them meanwhile. Raises Corrupt if it is needed and None.
        """
        is_new = await self._link(repository, digest, canonical)
        state = await self._arrivals.tell(canonical, MANIFESTS)
        if state.is_on or state != since:
            # A collection may have found the bytes before the link. From now on none takes them.
            try:
                await self._driver.stat(keys.blob(canonical))
            except NotFound as error:
                if body is None:
                    raise Corrupt("the bytes were collected as garbage", key=keys.blob(canonical)) from error
                await self._driver.put(keys.blob(canonical), body)
        return is_new

    async def keep(self, canonical: Digest) -> None:
        """Say that a manifest is relied on, in case that a garbage collection is under way."""
        await self._arrivals.tell(canonical, MANIFESTS)

    async def _link(self, repository: str, digest: Digest, canonical: Digest) -> bool:
        key = keys.revision_link(repository, digest)
        for _attempt in range(LINK_ATTEMPTS_MAX):
            with contextlib.suppress(AlreadyExists):
                await self._driver.create(key, link_text(canonical))
                return True
            # Written again although it is there: the worker that wrote it may not have made it durable
            # yet, and what a crash has left in its place is mended. Only over what is there: if it was deleted
            # meanwhile, then this push makes it anew.
            try:
                found = await self._driver.get(key, bytes_max=LINK_BYTES_MAX)
                if found.body == link_text(canonical) and self._driver.capabilities.durable_at_once:
                    return False
                await self._driver.replace(key, link_text(canonical), version=found.version)
            except (Corrupt, StorageRefused):
                await self._driver.put(key, link_text(canonical))
            except (NotFound, VersionMismatch):
                continue
            return False
        raise StorageUnavailable("the manifest is being pushed and deleted by too many at once", key=key)

    async def withdraw(self, repository: str, digest: Digest) -> None:
        """Take back a manifest that this process has made visible, whoever has pushed it since: they look again."""
        await self._driver.delete(keys.revision_link(repository, digest))
        await self._driver.delete(keys.media_type(repository, digest))

    async def resolve(self, repository: str, digest: Digest) -> Digest:
        """The digest that the bytes of a manifest of this repository lie under. Raises NotFound."""
        key = keys.revision_link(repository, digest)
        canonical = await read_link(self._driver, key)
        if canonical.algorithm != SHA256 or (digest.algorithm == SHA256 and canonical != digest):
            log.error("damaged link", key=key, reason="it leads to another manifest", remedy="push it again")
            raise Corrupt("the link leads to another manifest", key=key)
        return canonical

    async def exists(self, repository: str, digest: Digest) -> bool:
        """Tell whether the repository holds the manifest."""
        try:
            await self.resolve(repository, digest)
        except NotFound:
            return False
        return True

    async def read(self, digest: Digest, canonical: Digest) -> StoredManifest:
        """Read and verify the bytes of a manifest. Raises Corrupt after logging the key."""
        key = keys.blob(canonical)
        try:
            body = (await self._driver.get(key, bytes_max=STORED_BYTES_MAX)).body
        except (NotFound, StorageRefused) as error:
            remedy = "check that the file is there, its owner and its mode; or push the manifest again"
            log.error("unreadable manifest", key=key, reason=str(error), remedy=remedy)
            raise Corrupt("the stored manifest is missing or may not be read", key=key) from error
        if Digest.of(body, canonical.algorithm) != canonical or (
            digest != canonical and Digest.of(body, digest.algorithm) != digest
        ):
            log.error("damaged manifest", key=key, remedy="push the manifest again")
            raise Corrupt("the stored manifest does not hash to its digest", key=key)
        return StoredManifest(digest, canonical, body)

    async def peek(self, canonical: Digest) -> bytes:
        """Read bytes that may be a manifest's, whoever holds it, unverified. Raises NotFound."""
        return (await self._driver.get(keys.blob(canonical), bytes_max=PEEKED_BYTES_MAX)).body

    async def media_type(self, repository: str, digest: Digest) -> str | None:
        """The media type that was stored beside a manifest, if it was: printable ASCII, as a header has it."""
        key = keys.media_type(repository, digest)
        try:
            text = (await self._driver.get(key, bytes_max=MEDIA_TYPE_BYTES_MAX)).body.decode("ascii")
            if not text or not text.isprintable():
                raise ValueError("it is no media type")
        except (ValueError, Corrupt) as error:
            log.error("damaged media type", key=key, reason=str(error), remedy="push the manifest again")
            return None
        except NotFound:
            return None
        return text

    async def unlink(self, repository: str, digest: Digest) -> None:
        """Take the manifest from the repository; its bytes stay for whoever else links to them. Raises NotFound."""
        media_type = await self.media_type(repository, digest)
        await delete_link(self._driver, keys.revision_link(repository, digest))
        await self._driver.delete(keys.media_type(repository, digest))
        if media_type is not None and await self.exists(repository, digest):
            # Pushed again since. Either this finds its link, or that push finds its media type gone.
            await self._driver.put(keys.media_type(repository, digest), media_type.encode())

    async def forget_media_type_if_gone(self, repository: str, digest: Digest) -> None:
        """Take the media type that a deletion has left which was cut off, unless the manifest is there."""
        if await self.exists(repository, digest):
            return
        media_type = await self.media_type(repository, digest)
        await self._driver.delete(keys.media_type(repository, digest))
        if media_type is not None and await self.exists(repository, digest):
            await self._driver.put(keys.media_type(repository, digest), media_type.encode())  # see unlink

    async def list(self, repository: str, *, after: Digest | None = None, limit: int) -> list[Digest]:
        """The manifests of a repository, in the order of their keys."""
        prefix = keys.revisions(repository)
        start = "" if after is None else keys.revision_link(repository, after)
        found: list[Digest] = []
        while len(found) < limit:
            page = await self._driver.list(prefix, after=start, limit=limit)
            for entry in page.entries:
                digest = _digest_of_key(entry.key.removeprefix(prefix))
                if digest is not None:
                    found.append(digest)
            if not page.more:
                break
            start = page.entries[-1].key
        return found[:limit]


def _digest_of_key(rest: str) -> Digest | None:
    algorithm, _, tail = rest.partition("/")
    encoded, _, leaf = tail.partition("/")
    if leaf != "link":
        return None
    try:
        return Digest.parse(f"{algorithm}:{encoded}")
    except ValueError:
        return None
