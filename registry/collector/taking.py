"""Taking links to what nobody needs: announced, looked at once more, written down, and then gone.

What is about to be taken may be needed by now. Whoever has come to rely on anything since the collection began has
said so (see storage/arrivals.py), so that one listing tells: what is fresh is spared, with all that it leads to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from registry.collector.marking import Marked, Marker, Unclear
from registry.collector.rules import CollectorStores
from registry.collector.sidecars import put_sidecars
from storage import keys
from storage.collected import Pair, Taken
from storage.digest import Digest
from storage.errors import NotFound
from storage.links import link_text
from storage.places import Kind
from storage.removals import Removal
from storage.runs import Fresh, Run
from storage.walk import is_empty, walk

BATCH = 1000
RECORD = 5000
PIECE = 250
"""So many objects are deleted between two looks at the clock."""


@dataclass(slots=True)
class Totals:
    """What a run has taken so far: links, manifests among them, and canonical digests that it has spared after all."""

    layers: int = 0
    manifests: int = 0
    repositories: int = 0
    spared: set[str] = field(default_factory=set)


class Taker:
    """Takes what was marked as garbage, repository by repository."""

    def __init__(self, stores: CollectorStores, marker: Marker, run: Run, *, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._driver = stores.driver
        self._marker = marker
        self._run = run
        self._clock = clock
        self._told: dict[str, list[Taken]] = {}
        self._gone: set[str] = set()
        self.totals = Totals()

    async def write_down(self, marked: Marked) -> None:
        """Write down what is about to be taken from one repository: for all of them, before anything is taken."""
        # Parents first, and what they refer to when they are gone.
        manifests = [(digest, marked.garbage.nodes[digest].canonical) for level in marked.levels for digest in level]
        types, told = await self._types(marked.repository, manifests), list[Taken]()
        for start in range(0, len(manifests), RECORD):
            part = manifests[start : start + RECORD]
            of_part = {digest: types[digest] for digest, _canonical in part if digest in types}
            told.append(Taken(self._run.id, self._clock(), marked.repository, (), part, of_part))
        for start in range(0, len(marked.garbage_layers), RECORD):
            part = marked.garbage_layers[start : start + RECORD]
            told.append(Taken(self._run.id, self._clock(), marked.repository, part))
        self._told[marked.repository] = [await self._stores.collected.add(each) for each in told]

    async def take(self, marked: Marked) -> None:
        """Take the garbage of one repository, which was written down. Raises RunLost."""
        forgotten = False
        for told in self._told.pop(marked.repository, []):
            if told.layers and not forgotten:
                forgotten = await self._forget_tagged(marked.repository)
            gone = await self._recorded(marked, told)
            if len(gone) < len(told.layers) + len(told.manifests):
                layers, manifests = (
                    [pair for pair in pairs if pair in gone] for pairs in (told.layers, told.manifests)
                )
                await self._stores.collected.rewrite(replace(told, layers=layers, manifests=manifests))
        if not forgotten:
            await self._forget_tagged(marked.repository)
        await self.leave_catalog(marked.repository)

    async def _recorded(self, marked: Marked, told: Taken) -> set[Pair]:
        """Take what is not needed by now; returns what is gone."""
        gone: set[Pair] = set()
        level = {digest: place for place, each in enumerate(marked.levels) for digest in each}
        for _place, group in groupby(told.manifests, key=lambda pair: level[pair[0]]):
            pairs = list(group)
            for start in range(0, len(pairs), BATCH):
                gone |= await self._manifests(marked, pairs[start : start + BATCH], told.types)
        self._gone |= {digest for digest, _canonical in gone}
        for start in range(0, len(told.layers), BATCH):
            gone |= await self._layers(marked, told.layers[start : start + BATCH])
        return gone

    async def _manifests(self, marked: Marked, batch: Sequence[Pair], types: dict[str, str]) -> set[Pair]:
        repository, nodes = marked.repository, marked.garbage.nodes
        await self._stores.pace.rest()
        async with self._stores.removals.of_collection(repository, self._run.id) as removal:
            spared = await self._spared(marked)
            pairs = [pair for pair in batch if spared.isdisjoint(pair)]
            links = [keys.revision_link(repository, Digest.parse(digest)) for digest, _canonical in pairs]
            await self._delete(removal, links)
            subjects = [(digest, nodes[digest].subject) for digest, _canonical in pairs]
            extra = [keys.referrer(repository, Digest.parse(s), Digest.parse(d)) for d, s in subjects if s is not None]
            extra += [keys.media_type(repository, Digest.parse(d)) for d, _canonical in pairs if d in types]
            await self._driver.delete_many(extra, durable=False)
            if extra or removal.is_late:
                # As pushes do: whoever comes last sees the other. Links go back only if they may have been missed.
                late = removal.is_late
                fresh = await self._run.fresh()
                needed = await self._needed(marked, fresh) if late else fresh.manifests
                back = {pair for pair in pairs if not needed.isdisjoint(pair)}
                await self._restore(repository, back, types, with_links=late)
        self.totals.spared |= {canonical for _digest, canonical in set(batch).difference(pairs)}
        self.totals.manifests += len(pairs)
        return set(pairs)

    async def _layers(self, marked: Marked, batch: Sequence[Pair]) -> set[Pair]:
        repository = marked.repository
        await self._stores.pace.rest()
        async with self._stores.removals.of_collection(repository, self._run.id) as removal:
            spared = await self._spared(marked)
            pairs = [pair for pair in batch if spared.isdisjoint(pair)]
            links = [keys.layer_link(repository, Digest.parse(digest)) for digest, _canonical in pairs]
            await self._delete(removal, links)
            if removal.is_late:
                needed = await self._spared(marked)
                for digest, canonical in (pair for pair in pairs if not needed.isdisjoint(pair)):
                    link = keys.layer_link(repository, Digest.parse(digest))
                    await self._driver.put(link, link_text(Digest.parse(canonical)))
        self.totals.spared |= {canonical for _digest, canonical in set(batch).difference(pairs)}
        self.totals.layers += len(pairs)
        return set(pairs)

    async def _delete(self, removal: Removal, links: Sequence[str]) -> None:
        for start in range(0, len(links), PIECE):
            removal.check_time()
            await self._driver.delete_many(links[start : start + PIECE], durable=False)

    async def _spared(self, marked: Marked) -> set[str]:
        """Everything that is needed by what has arrived: digests and canonical ones. Raises RunLost."""
        return await self._needed(marked, await self._run.fresh())

    async def _needed(self, marked: Marked, fresh: Fresh) -> set[str]:
        graph = marked.garbage
        known = {node.canonical: node.digest for node in graph.nodes.values()}
        roots, outside = set[str](), set[str]()
        for canonical in fresh.manifests:
            if canonical in known:
                roots.add(known[canonical])
                continue
            try:
                references, _subject = await self._marker.references(canonical)
            except (Unclear, NotFound):
                return {*graph.nodes, *marked.garbage_digests, *(digest for digest, _ in marked.garbage_layers)}
            roots |= references & graph.nodes.keys()
            roots.update(graph.referrers(canonical))
            outside |= references
        reached = graph.reachable(roots)
        needed = {*fresh.blobs, *fresh.manifests, *reached, *graph.needed(reached), *outside}
        return needed | {canonical for digest, canonical in marked.garbage_layers if digest in needed}

    async def _types(self, repository: str, pairs: Iterable[Pair]) -> dict[str, str]:
        """The media types that are stored beside manifests."""
        taken = {digest for digest, _canonical in pairs}
        found: dict[str, str] = {}
        async for place in walk(self._driver, keys.media_types(repository)):
            if place.kind is Kind.MEDIA_TYPE and place.digest is not None and str(place.digest) in taken:
                text = await self._stores.manifests.media_type(repository, place.digest)
                if text is not None:
                    found[str(place.digest)] = text
        return found

    async def _restore(self, repository: str, back: set[Pair], types: dict[str, str], *, with_links: bool) -> None:
        for digest, canonical in back:
            parsed = Digest.parse(digest)
            if not with_links and not await self._stores.manifests.exists(repository, parsed):
                continue  # it was pushed to another repository
            body = (await self._stores.manifests.read(parsed, Digest.parse(canonical))).body
            await put_sidecars(self._stores, repository, parsed, body, kind=types.get(digest, ""))
            if with_links:
                await self._driver.put(keys.revision_link(repository, parsed), link_text(Digest.parse(canonical)))

    async def _forget_tagged(self, repository: str) -> bool:
        """Delete the entries of tags' indexes that lead to manifests that were taken."""
        taken, self._gone = self._gone, set()
        if not taken:
            return False
        entries = [
            place
            async for place in walk(self._driver, keys.tags(repository))
            if place.kind is Kind.TAG_INDEX and str(place.digest) in taken
        ]
        if not entries:
            return True
        async with self._stores.removals.of_collection(repository, self._run.id):
            await self._driver.delete_many([place.key for place in entries], durable=False)
            for place in entries:
                # Set since: that push may have found the entry there.
                current = await self._stores.tags.current(repository, place.name)
                if current is not None and current == place.digest:
                    await self._driver.put(place.key, link_text(current))
        return True

    async def leave_catalog(self, repository: str) -> None:
        """Take a repository of which nothing is left from the catalog."""
        if not await self._is_gone(repository) or not await self._stores.catalog.has(repository):
            return
        async with self._stores.removals.of_entry(repository):
            await self._stores.catalog.remove(repository)
            # A push links its manifest and then looks at the catalog. If it saw the entry, then the manifest is there.
            if not await self._is_gone(repository):
                await self._stores.catalog.add(repository)
            else:
                self.totals.repositories += 1

    async def _is_gone(self, repository: str) -> bool:
        for prefix in (keys.manifests(repository), keys.layers(repository)):
            if not await is_empty(self._driver, prefix):
                return False
        return True
