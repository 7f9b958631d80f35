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
LISTED_BYTES_MAX = 4 << 20
"""What a page of a listing may take, except for its last entry."""

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
        """Referrers in the order of their digests, at most `limit`, and whether there are more.

        Fewer are given where they are large: an annotation may fill a manifest, and a page is held in memory.
        """
        prefix = keys.referrers(repository, subject)
        start = "" if after is None else keys.referrer(repository, subject, after)
        found: list[Referrer] = []
        while True:
            page = await self._driver.list(prefix, after=start, limit=limit)
            size = 0
            for entry in page.entries:
                referrer, text_bytes = await self._read(entry.key, entry.key.removeprefix(prefix))
                if referrer is not None:
                    found.append(referrer)
                size += text_bytes
                if size > LISTED_BYTES_MAX and found and entry is not page.entries[-1]:
                    return found, True
            # A page of nothing but damaged entries is passed over: its reader could not say where to go on.
            if found or not page.more:
                return found, page.more
            start = page.entries[-1].key

    async def _read(self, key: str, name: str) -> tuple[Referrer | None, int]:
        """A referrer, None if it is gone or damaged, and the length of its text."""
        try:
            text = (await self._driver.get(key, bytes_max=ENTRY_BYTES_MAX)).body
            descriptor = json.loads(text)
            digest = Digest.parse(name.replace("-", ":", 1))
            if descriptor.get("digest") != str(digest):
                raise ValueError("it describes another manifest")
            return Referrer(digest, descriptor.get("artifactType"), descriptor), len(text)
        except (ValueError, AttributeError, Corrupt, StorageRefused) as error:
            log.error("damaged referrer", key=key, reason=str(error), remedy="push the referring manifest again")
            return None, 0
        except NotFound:
            return None, 0  # deleted since it was listed
