"""Recounts: what every repository, and every prefix of repositories, holds; counted from the links, exactly."""

import json
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from registry.scan import Tally
from registry.usage import canonical_of
from storage import keys
from storage.counted_blobs import BUCKETS, NO_BLOBS, BlobCounter, CountedBlobs, fingerprint
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageRefused
from storage.places import Kind, read_key
from storage.usage import UsageStore
from storage.walk import walk

VERSION = 1
REST_EACH = 500


@dataclass(slots=True)
class Held:
    """What the repositories at and below one prefix hold together.

    `unique` bytes are of blobs that no repository elsewhere links to, `shared` bytes of those that some do; a blob that
    several of these repositories link to counts once.
    """

    tags: int = 0
    manifests: int = 0
    unique: int = 0
    shared: int = 0

    @property
    def total(self) -> int:
        """Bytes of everything that is held."""
        return self.unique + self.shared


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What every prefix held when the count began, in seconds since the epoch. The whole store has the prefix ""."""

    began: float
    held: Mapping[str, Held] = field(default_factory=dict)

    def below(self, prefix: str, *, depth: int) -> Iterator[tuple[str, Held]]:
        """Yield what lies below a prefix, at most so many components deep; the largest first."""
        start, least = (f"{prefix}/", prefix.count("/") + 1) if prefix else ("", 0)
        rows = [
            (name, held)
            for name, held in self.held.items()
            if name and name.startswith(start) and name.count("/") < least + depth
        ]
        yield from sorted(rows, key=lambda row: (-row[1].total, row[0]))

    def to_json(self) -> bytes:
        """The report as it is stored."""
        rows = {name: [held.tags, held.manifests, held.unique, held.shared] for name, held in self.held.items()}
        return json.dumps({"version": VERSION, "began": self.began, "held": rows}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "UsageReport":
        """Read a stored report. Raises ValueError if it is none that this version knows."""
        try:
            stored = json.loads(text)
            if stored["version"] != VERSION:
                raise ValueError(f"version {stored['version']!r} is not known")
            rows = {str(name): Held(*(int(count) for count in row)) for name, row in stored["held"].items()}
            return cls(float(stored["began"]), rows)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error


class Recount:
    """Is told of everything that repositories link to, and how large it is, in any order; then makes the report.

    Holds 12 bytes for each link and 16 for each blob. Whoever walks over a store can tell it what he comes by: `tag`,
    `link` and `size` take no time to speak of. Sizes may also be `known` from the beginning.
    """

    def __init__(self, known: CountedBlobs = NO_BLOBS) -> None:
        self._known = known
        self._names: dict[str, int] = {}
        self._tags: Counter[str] = Counter()
        self._manifests: Counter[str] = Counter()
        self._links: Sequence[tuple[array[int], array[int]]] = [(array("Q"), array("I")) for _ in range(BUCKETS)]
        self._sizes = BlobCounter()

    def tag(self, repository: str) -> None:
        """A repository has a tag."""
        self._number(repository)
        self._tags[repository] += 1

    def link(self, repository: str, canonical: Digest, *, is_manifest: bool) -> None:
        """A repository links to a blob, or holds a manifest, whose bytes lie under this sha256 digest."""
        blob = fingerprint(canonical)
        blobs, repositories = self._links[blob >> 56]
        blobs.append(blob)
        repositories.append(self._number(repository))
        self._manifests[repository] += is_manifest

    def size(self, canonical: Digest, size: int) -> None:
        """The bytes of a blob, whether anybody links to it or not."""
        self._sizes.add(fingerprint(canonical), size)

    def report(self, began: float) -> UsageReport:
        """Add everything up."""
        held: dict[str, Held] = {"": Held()}
        above = [_prefixes(name) for name in self._names]
        for name in self._names:
            for prefix in _prefixes(name):
                found = held.setdefault(prefix, Held())
                found.tags += self._tags[name]
                found.manifests += self._manifests[name]
        told = self._sizes.counted()
        for blobs, repositories in self._links:
            links = sorted(zip(blobs, repositories, strict=True))
            for blob, group in groupby(links, key=lambda link: link[0]):
                size = told.size(blob) or self._known.size(blob) or 0
                _add(held, [above[number] for _blob, number in group], size)
        return UsageReport(began, held)

    def _number(self, repository: str) -> int:
        return self._names.setdefault(repository, len(self._names))


class Recounting:
    """One walk over all links and one over everything that takes space. Pushes may go on meanwhile.

    `rest` is awaited now and then: work in the background gives way there.
    """

    def __init__(self, driver: Driver, tally: Tally, *, rest: Callable[[], Awaitable[None]] | None = None) -> None:
        self._driver = driver
        self._tally = tally
        self._rest = rest

    async def run(self, began: float) -> UsageReport:
        """Count. What is pushed or deleted meanwhile may or may not count."""
        self._tally.enter("sizes")
        sizes = BlobCounter()
        async for found in self._driver.sizes():
            place = read_key(found.key)
            if place.kind is Kind.BLOB and place.digest is not None and not found.unfinished:
                sizes.add(fingerprint(place.digest), found.size)
            await self._count("objects")
        known = sizes.counted()
        recount = Recount(known)
        self._tally.enter("links")
        async for place in walk(self._driver, keys.REPOSITORIES):
            if place.kind is Kind.TAG:
                recount.tag(place.repository)
            digest = await canonical_of(self._driver, place)
            if digest is None:
                continue
            await self._count("links")
            recount.link(place.repository, digest, is_manifest=place.kind is Kind.REVISION)
            if fingerprint(digest) not in known:
                # Pushed since; or in a bucket, and not at its key yet.
                recount.size(digest, await self._size(digest))
        return recount.report(began)

    async def run_and_store(self, store: UsageStore, *, clock: Callable[[], float]) -> UsageReport:
        """Count, and keep the report for `pierhead usage`: after a garbage collection, say."""
        report = await self.run(clock())
        await store.put_report(report.to_json())
        return report

    async def _count(self, what: str) -> None:
        self._tally.counts[what] += 1
        if self._rest is not None and self._tally.counts[what] % REST_EACH == 0:
            await self._rest()

    async def _size(self, digest: Digest) -> int:
        try:
            return (await self._driver.stat(keys.blob(digest))).size
        except (NotFound, StorageRefused):
            return 0  # a link to what is gone takes no space


def _prefixes(name: str) -> list[str]:
    """Every prefix of a repository's name, from the whole store down to the name itself."""
    components = name.split("/")
    return ["", *("/".join(components[:end]) for end in range(1, len(components) + 1))]


def _add(held: Mapping[str, Held], paths: Iterable[Sequence[str]], size: int) -> None:
    """Count a blob that the repositories at the ends of these paths link to.

    Above where the paths part, nobody elsewhere links to it.
    """
    distinct = {path[-1]: path for path in paths}
    if len(distinct) == 1:
        for prefix in next(iter(distinct.values())):
            held[prefix].unique += size
        return
    common = set.intersection(*(set(path) for path in distinct.values()))
    for prefix in set().union(*distinct.values()):
        if prefix in common:
            held[prefix].unique += size
        else:
            held[prefix].shared += size
