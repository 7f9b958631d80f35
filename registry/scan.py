"""One walk over a whole store: every link, manifest, tag and upload is looked at, then every blob."""

import asyncio
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from registry.errors import NameInvalid
from registry.findings import Finding, Problem, Severity
from registry.inspection import Examined, Inspection
from registry.names import RepositoryName, parse_name
from registry.rechecks import Rechecks
from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageUnavailable
from storage.history import HistoryStore
from storage.places import Kind, Place
from storage.removals import RemovalStore
from storage.walk import walk

TOP_MAX = 1000


@dataclass(slots=True)
class Tally:
    """How far a scan is: `counts` of what was looked at, by name, and the `fraction` of the stage if it is known."""

    stage: str = ""
    fraction: float | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.stage, self.fraction = stage, None


class Visitor(Protocol):
    """What is done with what a scan comes by, beyond looking whether it is whole."""

    async def repository(self, repository: RepositoryName) -> None:
        """A repository holds a manifest or a tag; told once for each."""
        ...

    async def layer(self, repository: RepositoryName, digest: Digest) -> None:
        """A repository links to a blob whose bytes are there."""
        ...

    async def revision(self, repository: RepositoryName, digest: Digest, examined: Examined) -> None:
        """A repository holds a manifest, which may have findings."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What adoption and verification are made of, on one store. `survey` yields what no listing shows."""

    driver: Driver
    inspection: Inspection
    scan: "Scan"
    removals: RemovalStore
    history: HistoryStore
    rechecks: Rechecks
    tally: Tally
    survey: Callable[[], AsyncIterator[Finding]]


class LinkedDigests:
    """Which blobs something links to: eight bytes for each link.

    A digest counts as linked if its first 64 bits are those of one that is: what is garbage may be passed over,
    and what is in use is never taken for garbage.
    """

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(256)]
        self._opened: tuple[int, frozenset[int]] = (-1, frozenset())

    def add(self, digest: Digest) -> None:
        """Take a digest in."""
        self._buckets[int(digest.hex[:2], 16)].append(int(digest.hex[2:18], 16))

    def __contains__(self, digest: Digest) -> bool:
        place = int(digest.hex[:2], 16)
        if self._opened[0] != place:  # asked in the order of digests, this is once for each bucket
            self._opened = (place, frozenset(self._buckets[place]))
        return int(digest.hex[2:18], 16) in self._opened[1]


class Scan:
    """Counts go to `tally` as they arise; what is wrong goes to `rechecks`."""

    def __init__(
        self, driver: Driver, inspection: Inspection, rechecks: Rechecks, tally: Tally, *, clock: Callable[[], float]
    ) -> None:
        self._driver = driver
        self._inspection = inspection
        self._rechecks = rechecks
        self._tally = tally
        self._linked = LinkedDigests()
        self._started = clock()

    async def repositories(self, visitor: Visitor) -> None:
        """Look at everything that lies below repositories."""
        self._tally.enter("repositories")
        await self._top()
        walker = _Repositories(
            self._inspection, self._rechecks, self._tally, self._linked, visitor=visitor, is_there=self._is_there
        )
        async for place in walk(self._driver, keys.REPOSITORIES):
            await walker.visit(place)
        await self._rechecks.settle()

    async def blobs(self, *, jobs: int = 0) -> None:
        """Look at every blob, after all repositories; with `jobs`, that many of them are hashed at a time."""
        self._tally.enter("blobs")
        running: set[asyncio.Task[None]] = set()
        try:
            async for place in self._all_blobs():
                if place.digest is None:
                    await self._rechecks.check(partial(self._is_there, place))
                    continue
                self._tally.counts["blobs"] += 1
                if place.kind is Kind.BLOB:
                    self._tally.fraction = int(place.digest.hex[:4], 16) / 0x10000  # digests are spread evenly
                linked = place.digest in self._linked
                if not linked:
                    await self._garbage(place.digest)
                if not jobs:
                    await self._look(place.digest, linked=linked)
                    continue
                if len(running) == jobs:
                    running = await _one_less(running)
                running.add(asyncio.create_task(self._hash(place.digest, linked=linked)))
            while running:
                running = await _one_less(running)
        finally:
            for task in running:
                task.cancel()
        await self._rechecks.settle()

    async def _all_blobs(self) -> AsyncIterator[Place]:
        # Those that are moved meanwhile come twice, and none is missed.
        for prefix in (keys.POINTERS, keys.BLOBS):
            async for place in walk(self._driver, prefix):
                yield place

    async def _look(self, digest: Digest, *, linked: bool, first: Sequence[Finding] | None = None) -> None:
        async def look() -> Sequence[Finding]:
            return _lowered(await self._inspection.blob(digest), linked=linked)

        await self._rechecks.check(look, first)

    async def _hash(self, digest: Digest, *, linked: bool) -> None:
        # The hasher has looked twice if need be. From then on the inspection knows this copy: to look again is
        # to see whether it still lies there.
        found = await self._inspection.hash(digest)
        if any(finding.problem is Problem.MARKER_WRONG or _was_read(finding) for finding in found):
            self._rechecks.report(found[0])
        else:
            await self._look(digest, linked=linked, first=_lowered(found, linked=linked))

    async def _garbage(self, digest: Digest) -> None:
        key = keys.blob(digest)
        try:
            found = await self._driver.stat(key)
        except (NotFound, StorageUnavailable):
            return
        if found.modified < self._started:  # else its link may have come after its repository was walked
            self._tally.counts["unlinked bytes"] += found.size
            self._rechecks.report(Finding(Problem.BLOB_UNLINKED, key, f"{found.size} bytes"))

    async def _top(self) -> None:
        for entry in (await self._driver.list(f"{keys.ROOT}/", limit=TOP_MAX, fold=True)).entries:
            if entry.key not in {keys.BLOBS, keys.REPOSITORIES}:
                await self._rechecks.check(partial(self._is_there, Place(entry.key, Kind.STRAY)))

    async def _is_there(self, place: Place) -> Sequence[Finding]:
        problem = Problem.TEMPORARY if place.kind is Kind.TEMPORARY else Problem.STRAY
        if place.key.endswith("/"):
            return [Finding(problem, place.key)]
        try:
            await self._driver.stat(place.key)
        except NotFound:
            return []
        except StorageUnavailable:
            pass
        return [Finding(problem, place.key)]


class _Repositories:
    """The walk over repositories: places come in order, so those of one repository come together."""

    def __init__(
        self,
        inspection: Inspection,
        rechecks: Rechecks,
        tally: Tally,
        linked: LinkedDigests,
        *,
        visitor: Visitor,
        is_there: Callable[[Place], Awaitable[Sequence[Finding]]],
    ) -> None:
        self._inspection = inspection
        self._rechecks = rechecks
        self._counts = tally.counts
        self._linked = linked
        self._visitor = visitor
        self._is_there = is_there
        self._text: str | None = None
        self._name: RepositoryName | None = None
        self._is_told = False
        self._last = ""

    async def visit(self, place: Place) -> None:
        """Look at one object."""
        if place.kind in {Kind.STRAY, Kind.TEMPORARY}:
            await self._rechecks.check(partial(self._is_there, place))
            return
        if place.repository != self._text:
            await self._enter(place.repository)
        name = self._name
        if name is None:
            return
        match place.kind, place.digest:
            case Kind.LAYER, Digest() as digest:
                await self._layer(name, digest)
            case Kind.REVISION, Digest() as digest:
                await self._tell(name)
                await self._revision(name, digest)
            case Kind.TAG, _:
                await self._tell(name)
                self._counts["tags"] += 1
                self._last = keys.tag(name, place.name)
                await self._rechecks.check(partial(self._inspection.tag, name, place.name))
            case Kind.TAG_INDEX, Digest() as digest:
                await self._tag_index(name, place.name, digest)
            case _:
                await self._upload(name, place.name)

    async def _enter(self, text: str) -> None:
        self._text, self._is_told, self._last = text, False, ""
        self._counts["repositories"] += 1
        try:
            self._name = parse_name(text)
        except NameInvalid as error:
            self._name = None
            self._rechecks.report(Finding(Problem.NAME_REFUSED, f"{keys.REPOSITORIES}{text}", error.message))

    async def _tell(self, name: RepositoryName) -> None:
        if not self._is_told:
            self._is_told = True
            await self._visitor.repository(name)

    async def _layer(self, name: RepositoryName, digest: Digest) -> None:
        async def look() -> Sequence[Finding]:
            return (await self._inspection.layer(name, digest))[0]

        self._counts["layer links"] += 1
        found, canonical = await self._inspection.layer(name, digest)
        await self._rechecks.check(look, found)
        self._linked.add(canonical or digest)  # what a damaged link led to is no garbage
        if canonical is not None and not found:
            await self._visitor.layer(name, digest)

    async def _revision(self, name: RepositoryName, digest: Digest) -> None:
        async def look() -> Sequence[Finding]:
            return (await self._inspection.revision(name, digest)).findings

        self._counts["manifests"] += 1
        examined = await self._inspection.revision(name, digest)
        await self._rechecks.check(look, examined.findings)
        self._linked.add(examined.canonical or digest)
        await self._visitor.revision(name, digest, examined)

    async def _tag_index(self, name: RepositoryName, tag: str, digest: Digest) -> None:
        await self._rechecks.check(partial(self._inspection.tag_index, name, tag, digest))
        if self._last != keys.tag(name, tag):
            self._last = keys.tag(name, tag)
            await self._rechecks.check(partial(self._inspection.tag_is_set, name, tag))

    async def _upload(self, name: RepositoryName, upload: str) -> None:
        if self._last != keys.upload(name, upload):
            self._last = keys.upload(name, upload)
            self._counts["uploads"] += 1
            await self._rechecks.check(partial(self._inspection.upload, name, upload))


def _was_read(finding: Finding) -> bool:
    """Tell whether bytes could not be read of what can be opened: to look again would be to read it all again."""
    return finding.problem is Problem.UNREADABLE and bool(finding.detail)


def _lowered(found: Sequence[Finding], *, linked: bool) -> Sequence[Finding]:
    """Damage to what nobody links to has cost nothing."""
    return found if linked else [replace(finding, severity_max=Severity.WARNING) for finding in found]


async def _one_less(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    done, rest = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return rest
