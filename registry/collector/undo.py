"""Putting back what a collection has taken, as long as its bytes are there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from registry.collector.graph import read_references
from registry.collector.listing import is_there
from registry.collector.rules import CollectorStores
from registry.collector.sidecars import put_sidecars
from storage import keys
from storage.blobs import BlobStore
from storage.collected import LINKS, Pair, Taken
from storage.digest import Digest
from storage.errors import Corrupt


@dataclass(slots=True)
class Undone:
    """How many links were put back, and how many could not be, since the bytes are gone or damaged."""

    manifests: int = 0
    layers: int = 0
    gone: int = 0


class Undo:
    """Puts links back: what a manifest needs before it, and young again. Whoever does that holds the lease."""

    def __init__(self, stores: CollectorStores, blobs: BlobStore, *, clock: Callable[[], float]) -> None:
        self._stores = stores
        self._blobs = blobs
        self._clock = clock
        self.undone = Undone()

    async def run(self, is_meant: Callable[[Taken], bool], digest: Digest | None = None) -> Undone:
        """Put back all that is meant, or of that a manifest or blob with all that it needs."""
        records = [
            taken
            async for taken in self._stores.collected.since(0, kind=LINKS)
            if taken is not None and not taken.undone and is_meant(taken)
        ]
        wanted = None if digest is None else await self._needed(records, str(digest))
        # Parents were taken before what they refer to.
        for taken in reversed(records):
            await self._put_back(taken, wanted)
        return self.undone

    async def _needed(self, records: Sequence[Taken], digest: str) -> set[str]:
        """A digest, and everything that it refers to, the canonical digests of aliases too."""
        canonical = {each: other for taken in records for each, other in (*taken.manifests, *taken.layers)}
        manifests = {each for taken in records for each, _other in taken.manifests}
        found, waiting = {digest}, [digest]
        while waiting:
            each = waiting.pop()
            more = {canonical.get(each, each)}
            if each in manifests:
                try:
                    body = (await self._stores.manifests.read(Digest.parse(each), Digest.parse(canonical[each]))).body
                    more |= read_references(body)[0]
                except (Corrupt, ValueError):
                    continue
            waiting += more - found
            found |= more
        return found

    async def _put_back(self, taken: Taken, wanted: set[str] | None) -> None:
        layers, manifests = _meant(taken.layers, wanted), _meant(taken.manifests, wanted)
        left = set[Pair]()
        for pair in layers:
            if not await self._layer(taken.repository, pair):
                left.add(pair)
        for pair in manifests:
            if not await self._manifest(taken, pair):
                left.add(pair)
        if not layers and not manifests:
            return
        if manifests:
            await self._stores.catalog.add(taken.repository)
        rest = replace(
            taken,
            layers=[pair for pair in taken.layers if pair not in layers or pair in left],
            manifests=[pair for pair in taken.manifests if pair not in manifests or pair in left],
        )
        if rest.layers or rest.manifests:
            await self._stores.collected.rewrite(rest)
        else:
            await self._stores.collected.rewrite(replace(taken, undone=self._clock()))

    async def _layer(self, repository: str, pair: Pair) -> bool:
        digest, canonical = map(Digest.parse, pair)
        if not await is_there(self._stores.driver, keys.layer_link(repository, digest)):  # else it was pushed again
            try:
                await self._blobs.link(repository, digest, canonical=canonical, hint=False)
                await self._blobs.stat(repository, digest)
            except Corrupt:
                await self._unlink(repository, digest, canonical)
                self.undone.gone += 1
                return False
        self.undone.layers += 1
        return True

    async def _unlink(self, repository: str, digest: Digest, canonical: Digest) -> None:
        """Take a link back that leads nowhere; that of a push that has come meanwhile does not."""
        async with self._stores.removals.of_blob(repository, digest) as removal:
            if not await is_there(self._stores.driver, keys.blob(canonical)):
                removal.check_time()
                await self._stores.driver.delete(keys.layer_link(repository, digest))

    async def _manifest(self, taken: Taken, pair: Pair) -> bool:
        repository, (digest, canonical) = taken.repository, map(Digest.parse, pair)
        manifests = self._stores.manifests
        try:
            body = (await manifests.read(digest, canonical)).body
        except Corrupt:
            self.undone.gone += 1
            return False
        await put_sidecars(self._stores, repository, digest, body, kind=taken.types.get(pair[0], ""))
        await manifests.link(repository, digest, canonical=canonical, body=body)
        self.undone.manifests += 1
        return True


def _meant(pairs: Iterable[Pair], wanted: set[str] | None) -> list[Pair]:
    return [pair for pair in pairs if wanted is None or not wanted.isdisjoint(pair)]
