"""What the bytes of a store are: used by a repository, on their way, or used by nobody."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

from registry.scan import LinkedDigests, Tally
from storage import keys
from storage.digest import SHA256, Digest
from storage.drivers import Driver, Sized
from storage.errors import NotFound, StorageRefused
from storage.links import read_link
from storage.places import Kind, Place, read_key
from storage.walk import walk


class Use(Enum):
    """What something is kept for."""

    REFERENCED = "blobs and manifests that a repository links to"
    UNREFERENCED = "blobs that no repository links to"
    MOVING = "blobs that are not at their place yet"
    UPLOADS = "uploads that have not ended"
    INDEXES = "links, tags, indexes and records"
    FOREIGN = "what Pierhead does not know"


@dataclass(slots=True)
class Usage:
    """How many objects there are of each use, and how many bytes they have."""

    objects: Counter[Use] = field(default_factory=Counter)
    sizes: Counter[Use] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Bytes of everything."""
        return sum(self.sizes.values())


async def linked_blobs(driver: Driver, prefix: str) -> AsyncIterator[tuple[Place, Digest]]:
    """Yield every link to a blob or a manifest below a prefix of keys, with the digest that the bytes lie under."""
    async for place in walk(driver, prefix):
        if (digest := await canonical_of(driver, place)) is not None:
            yield place, digest


async def canonical_of(driver: Driver, place: Place) -> Digest | None:
    """The digest that the bytes lie under which a link leads to; None for what is no link to bytes."""
    if place.kind not in {Kind.LAYER, Kind.REVISION} or place.digest is None or place.digest.algorithm == SHA256:
        return place.digest if place.kind in {Kind.LAYER, Kind.REVISION} else None
    try:
        return await read_link(driver, place.key)
    except (NotFound, StorageRefused):
        return place.digest


class Measuring:
    """One walk over the links, and one over everything that takes space. Pushes may go on meanwhile."""

    def __init__(self, driver: Driver, tally: Tally) -> None:
        self._driver = driver
        self._tally = tally
        self._linked = LinkedDigests()

    async def run(self) -> Usage:
        """Walk. What is pushed meanwhile may count as unreferenced."""
        self._tally.enter("links")
        async for _place, digest in linked_blobs(self._driver, keys.REPOSITORIES):
            self._tally.counts["links"] += 1
            self._linked.add(digest)
        self._tally.enter("objects")
        usage = Usage()
        async for found in self._driver.sizes():
            use = self._use_of(found)
            usage.objects[use] += 1
            usage.sizes[use] += found.size
            self._tally.counts["objects"] += 1
        return usage

    def _use_of(self, found: Sized) -> Use:
        place = read_key(found.key)
        match place.kind:
            case Kind.BLOB if found.unfinished:
                return Use.UPLOADS
            case Kind.BLOB if place.digest is not None:
                return Use.REFERENCED if place.digest in self._linked else Use.UNREFERENCED
            case Kind.STAGED:
                return Use.UPLOADS if not found.pointed else Use.MOVING
            case Kind.UPLOAD_BYTES | Kind.UPLOAD_STARTED | Kind.UPLOAD_STATE | Kind.UPLOAD_RECORD:
                return Use.UPLOADS
            case Kind.STRAY | Kind.TEMPORARY if not found.key.startswith(f"{keys.OURS}/"):
                return Use.FOREIGN
        return Use.INDEXES
