"""One repair: what it would do, in words, and how to do it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from registry.errors import RegistryError
from registry.findings import Finding
from registry.hashing import Hasher
from registry.immutability import Immutability
from registry.inspection import Inspection
from registry.manifests import Manifests, ManifestStores
from registry.repair.remotes import RemoteFailed, Remotes
from registry.scan import Tally
from registry.uploads import Uploads
from storage import keys
from storage.digest import Digest, RunningHash
from storage.drivers import Driver
from storage.errors import NotFound, StorageError, StorageUnavailable
from storage.history import HistoryStore


class Unrepaired(Exception):
    """A finding could not be put right; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about a finding, as `does` says, by calling `do`; that raises if it does not succeed."""

    does: str
    do: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of a finding: what was done (or would be), or why it was not."""

    finding: Finding
    text: str
    is_done: bool


FAILURES = (Unrepaired, RemoteFailed, RegistryError, StorageError, OSError)
"""What a step may raise: this one is not done, and others go on."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What repairs are made with: the stores and rules that pushes go through, and other registries."""

    driver: Driver
    stores: ManifestStores
    manifests: Manifests
    uploads: Uploads
    history: HistoryStore
    inspection: Inspection
    hasher: Hasher
    remotes: Remotes
    tally: Tally
    sparse: bool
    immutability: Immutability = field(default_factory=Immutability)

    async def is_whole(self, canonical: Digest) -> bool:
        """Hash stored bytes, and tell whether they are there and what their digest says."""
        try:
            hashed = await self.hasher.check(canonical)
        except StorageUnavailable:
            return False
        return hashed is not None and hashed.is_whole

    async def other_digest(self, canonical: Digest, algorithm: str) -> Digest | None:
        """The digest of whole stored bytes by another algorithm; None if they are damaged, missing or can't be read."""
        running = {name: RunningHash(name) for name in (canonical.algorithm, algorithm)}
        try:
            reader = await self.driver.open(keys.blob(canonical))
            try:
                async for piece in reader.pieces(0, reader.size):
                    for each in running.values():
                        each.update(piece)
            finally:
                await reader.close()
        except (NotFound, StorageUnavailable):
            return None
        return running[algorithm].digest() if running[canonical.algorithm].digest() == canonical else None

    async def manifest_body(self, digest: Digest, canonical: Digest) -> bytes | None:
        """The bytes of a manifest, verified; None if they are damaged, missing or can't be read."""
        try:
            return (await self.stores.manifests.read(digest, canonical)).body
        except (NotFound, StorageUnavailable):
            return None


def reason(error: Exception) -> str:
    """Why a step failed, for people."""
    return error.message if isinstance(error, RegistryError) else str(error)
