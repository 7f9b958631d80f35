"""Referrers: for each subject, a descriptor of every manifest that names it.

An index: everything in it can be rebuilt from the manifests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused

ENTRY_BYTES_MAX = 8 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest that names a subject, and its descriptor as JSON text."""

    digest: Digest
    artifact_type: str | None
    descriptor: Mapping[str, object]


def entry_text(referrer: Referrer) -> bytes:
    """A referrer as it is stored."""
    return json.dumps(referrer.descriptor, separators=(",", ":"), ensure_ascii=False).encode()


class ReferrerStore:
    """An entry is written before its manifest becomes visible, so whoever lists checks that it is."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def put(self, repository: str, subject: Digest, referrer: Referrer) -> None:
        """Remember a referrer of `subject`, which need not exist."""
        await self._driver.put(keys.referrer(repository, subject, referrer.digest), entry_text(referrer))

    async def has(self, repository: str, subject: Digest, digest: Digest) -> bool:
        """Tell whether a referrer is remembered."""
        try:
            await self._driver.stat(keys.referrer(repository, subject, digest))
        except NotFound:
            return False
        return True

    async def delete(self, repository: str, subject: Digest, digest: Digest) -> None:
        """Forget a referrer."""
        await self._driver.delete(keys.referrer(repository, subject, digest))

    async def list(
        self, repository: str, subject: Digest, *, after: Digest | None = None, limit: int
    ) -> tuple[list[Referrer], bool]:
        """Referrers in the order of their digests, at most `limit`, and whether there are more."""
        prefix = keys.referrers(repository, subject)
        start = "" if after is None else keys.referrer(repository, subject, after)
        while True:
            page = await self._driver.list(prefix, after=start, limit=limit)
            found = [await self._read(entry.key, entry.key.removeprefix(prefix)) for entry in page.entries]
            readable = [referrer for referrer in found if referrer is not None]
            # A page of nothing but damaged entries is passed over: its reader could not say where to go on.
            if readable or not page.more:
                return readable, page.more
            start = page.entries[-1].key

    async def _read(self, key: str, name: str) -> Referrer | None:
        try:
            text = (await self._driver.get(key, bytes_max=ENTRY_BYTES_MAX)).body
            descriptor = json.loads(text)
            digest = Digest.parse(name.replace("-", ":", 1))
            if descriptor.get("digest") != str(digest):
                raise ValueError("it describes another manifest")
            return Referrer(digest, descriptor.get("artifactType"), descriptor)
        except (ValueError, AttributeError, Corrupt, StorageRefused) as error:
            log.error("damaged referrer", key=key, reason=str(error), remedy="push the referring manifest again")
            return None
        except NotFound:
            return None  # deleted since it was listed
