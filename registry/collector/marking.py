"""Which manifests and blobs of one repository are needed, and which are not."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from registry.collector.graph import Graph, Node, read_blobs, read_references
from registry.collector.listing import digests_below, is_there
from registry.collector.rules import CollectorStores, Rules
from registry.errors import NameInvalid
from registry.names import parse_name
from storage import keys
from storage.collected import Pair
from storage.digest import SHA256, Digest
from storage.drivers import Stat
from storage.errors import Corrupt, NotFound, StorageRefused
from storage.links import read_link
from storage.removals import PAUSE_SECONDS
from storage.together import together

ATTEMPTS_MAX = 5
READ_MAX = 20_000
"""So many manifests are remembered for other repositories that hold them too."""

_Contents = tuple[frozenset[str], str | None, frozenset[str]]
"""What a manifest refers to, its subject, and the blobs among what it refers to."""


class Unclear(Exception):
    """It can't be told what a repository needs, so all that it holds is kept."""


@dataclass(slots=True)
class Marked:
    """One repository: how much there is, what is garbage (parents before children), and what stays linked.

    `kept` says why everything is kept, if it is; if it `is_hidden`, not even what that is can be told. `roots` are
    manifests that are needed by themselves, and why; `origins` tells of the others from which one they were reached.
    """

    repository: str
    manifests: int = 0
    layers: int = 0
    garbage: Graph = field(default_factory=lambda: Graph(()))
    levels: list[list[str]] = field(default_factory=list)
    garbage_layers: list[Pair] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    kept: str = ""
    is_hidden: bool = False
    graph: Graph = field(default_factory=lambda: Graph(()))
    roots: dict[str, str] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    @property
    def has_garbage(self) -> bool:
        """Whether anything can be taken."""
        return bool(self.levels or self.garbage_layers)

    @property
    def garbage_digests(self) -> Iterable[str]:
        """The canonical digests of everything that can be taken."""
        yield from (node.canonical for node in self.garbage.nodes.values())
        yield from (canonical for _digest, canonical in self.garbage_layers)


class Marker:
    """Marks repositories, one after the other. `sessions` tells since when uploads are open, by repository."""

    def __init__(self, stores: CollectorStores, rules: Rules, *, now: float, sessions: Mapping[str, float]) -> None:
        self._stores = stores
        self._driver = stores.driver
        self._rules = rules
        self._now = now
        self._sessions = sessions
        self._read: dict[str, _Contents] = {}

    async def mark(self, repository: str) -> Marked:
        """Look what a repository needs.

        If manifests are deleted meanwhile, which may take tags away and put them back, it is looked again.
        """
        removals = self._stores.removals
        for _attempt in range(ATTEMPTS_MAX):
            before = await removals.of_manifests(repository)
            if not any(before.values()):
                try:
                    parse_name(repository)
                    marked = await self._mark(repository)
                except NameInvalid:
                    return await self._whole(repository, "no repository can have this name")
                except (Unclear, StorageRefused) as reason:
                    marked = await self._whole(repository, str(reason))
                if await removals.of_manifests(repository) == before:
                    return marked
            await self._stores.removals.rest(PAUSE_SECONDS)
        return await self._whole(repository, "manifests are being deleted all the time")

    async def references(self, canonical: str) -> tuple[frozenset[str], str | None]:
        """What a manifest refers to, and its subject. Raises Unclear if it can't be read, NotFound if it is gone."""
        references, subject, _blobs = await self._contents(canonical)
        return references, subject

    async def _contents(self, canonical: str) -> _Contents:
        if (known := self._read.get(canonical)) is not None:
            return known
        digest = Digest.parse(canonical)
        try:
            body = (await self._stores.manifests.read(digest, digest)).body
            found = (*read_references(body), read_blobs(body))
        except Corrupt as error:
            raise Unclear(f"the manifest {canonical} can't be read") from error
        except ValueError as error:
            raise Unclear(f"the manifest {canonical} is none: {error}") from error
        if len(self._read) >= READ_MAX:
            self._read.clear()
        self._read[canonical] = found
        return found

    async def _mark(self, repository: str) -> Marked:
        roots = await self._roots(repository)
        revisions = [each async for page in digests_below(self._driver, keys.revisions(repository)) for each in page]
        graph = Graph(await self._nodes(repository, revisions))
        for digest, why in roots.items():
            if digest not in graph.nodes and why.startswith("tag "):
                raise Unclear(f"the {why} leads to {digest}, which is not there")
        marked = Marked(repository, manifests=len(graph.nodes), graph=graph)
        marked.roots = {digest: why for digest, why in roots.items() if digest in graph.nodes}
        reachable = graph.reachable(marked.roots, marked.origins)
        unreached = graph.nodes.keys() - reachable
        spare = [each for each in revisions if str(each[0]) in unreached]
        for revision, found in spare:
            await self._stores.pace.rest()
            if await self._is_young(keys.revision_link(repository, revision), found, self._now) is not False:
                marked.roots[str(revision)] = "young"
        reachable = graph.reachable(marked.roots, marked.origins)
        garbage = graph.nodes.keys() - reachable
        marked.garbage = Graph(graph.nodes[digest] for digest in garbage)
        marked.levels = marked.garbage.levels(set(garbage))
        marked.linked = [graph.nodes[digest].canonical for digest in reachable]
        needed = graph.needed(reachable)
        await self._layers(marked, needed)
        # Also of blobs that lack a link: as long as the bytes are there, a repair can write that again.
        blobs = {each for digest in reachable for each in graph.nodes[digest].blobs}
        parsed = map(Digest.parse, blobs.difference(marked.linked))
        marked.linked += [str(digest) for digest in parsed if digest.algorithm == SHA256]
        return marked

    async def _roots(self, repository: str) -> dict[str, str]:
        """The digests that tags point at, or have pointed at of late."""
        tags = self._stores.tags

        async def look(tag: str) -> Digest | None:
            await self._stores.pace.rest()
            try:
                return await tags.get(repository, tag)
            except (Corrupt, StorageRefused) as error:
                raise Unclear(f"the tag {tag} can't be read") from error
            except NotFound:
                return None

        names = await tags.names(repository)
        found = await together([partial(look, name) for name in names], self._driver.capabilities.calls_at_once)
        kept = await self._stores.history(repository)
        roots = {str(digest): "history" for digest in kept}
        return roots | {str(digest): f"tag {name}" for name, digest in zip(names, found, strict=True) if digest}

    async def _nodes(self, repository: str, revisions: list[tuple[Digest, Stat | None]]) -> list[Node]:
        async def look(digest: Digest) -> Node | None:
            await self._stores.pace.rest()
            self._stores.tally.counts["manifests"] += 1
            try:
                canonical = digest
                if digest.algorithm != SHA256:
                    canonical = await self._stores.manifests.resolve(repository, digest)
                references, subject, blobs = await self._contents(str(canonical))
            except (Unclear, Corrupt) as error:
                if not await is_there(self._driver, keys.revision_link(repository, digest)):
                    return None  # deleted meanwhile, or a folder that was left
                if isinstance(error, Unclear):
                    raise
                raise Unclear(f"the link to the manifest {digest} can't be read") from error
            except NotFound:
                return None
            return Node(str(digest), str(canonical), references, subject, blobs)

        looks = [partial(look, digest) for digest, _found in revisions]
        return [node for node in await together(looks, self._driver.capabilities.calls_at_once) if node is not None]

    async def _layers(self, marked: Marked, needed: set[str]) -> None:
        """Tell the links to blobs that are needed from the others."""
        repository, spare = marked.repository, list[tuple[Digest, Stat | None]]()
        since = min(self._now, self._sessions.get(repository, self._now))
        async for page in digests_below(self._driver, keys.layers(repository)):
            await self._stores.pace.rest()
            for digest, found in page:
                marked.layers += 1
                if str(digest) not in needed:
                    spare.append((digest, found))
                    continue
                canonical = str(await self._canonical(repository, digest))
                marked.linked.append(canonical)
                needed.add(canonical)  # distribution looks for that link behind every other one
        # By now the canonical ones of all are known that are needed by another name.
        for digest, found in sorted(spare, key=lambda each: each[0].algorithm == SHA256):
            text, canonical = str(digest), str(await self._canonical(repository, digest))
            if text in needed:
                marked.linked.append(canonical)
                continue
            await self._stores.pace.rest()
            young = await self._is_young(keys.layer_link(repository, digest), found, since)
            if young is None:
                marked.layers -= 1
            elif young:
                marked.linked.append(canonical)
                needed.add(canonical)
            else:
                marked.garbage_layers.append((text, canonical))

    async def _canonical(self, repository: str, digest: Digest) -> Digest:
        if digest.algorithm == SHA256:
            return digest
        try:
            return await read_link(self._driver, keys.layer_link(repository, digest))
        except (Corrupt, StorageRefused) as error:
            raise Unclear(f"the link to the blob {digest} can't be read") from error
        except NotFound:
            return digest

    async def _is_young(self, key: str, found: Stat | None, since: float) -> bool | None:
        """Whether an object is younger than the grace period was at `since`; None if there is none."""
        try:
            found = found or await self._driver.stat(key)
        except Corrupt:
            return True
        except NotFound:
            return None
        # One from the future comes from a clock that has been set back.
        return found.modified > since - self._rules.grace_seconds or found.modified > self._now

    async def _whole(self, repository: str, reason: str) -> Marked:
        """Keep all that a repository holds."""
        marked = Marked(repository, kept=reason)
        try:
            await self._list_all(marked)
        except StorageRefused as error:
            return Marked(repository, kept=f"it can't be listed: {error}", is_hidden=True)
        return marked

    async def _list_all(self, marked: Marked) -> None:
        repository = marked.repository
        for prefix in (keys.revisions(repository), keys.layers(repository)):
            async for page in digests_below(self._driver, prefix):
                for digest, _found in page:
                    if prefix == keys.layers(repository):
                        marked.layers += 1
                    else:
                        marked.manifests += 1
                    if (canonical := await self._told(repository, prefix, digest)) is not None:
                        marked.linked.append(str(canonical))

    async def _told(self, repository: str, prefix: str, digest: Digest) -> Digest | None:
        """Where the bytes of a link lie; None if another link says so. Raises StorageRefused if nobody can tell."""
        if digest.algorithm == SHA256:
            return digest
        if prefix == keys.layers(repository):
            return None  # behind that of a blob there is always one by its canonical digest
        key = keys.revision_link(repository, digest)
        try:
            return await read_link(self._driver, key)
        except Corrupt as error:
            raise StorageRefused(f"the link to the manifest {digest} can't be read", key=key) from error
        except NotFound:
            return None
