"""Bytes that are damaged or missing, and the links to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.documents import Descriptor, read_manifest
from registry.errors import NameInvalid
from registry.findings import Finding, Problem
from registry.names import RepositoryName, parse_name
from registry.repair.fetching import Fetching
from registry.repair.steps import Step, Tools, Unrepaired
from storage import keys
from storage.digest import SHA256, Digest
from storage.errors import NotFound, StorageUnavailable
from storage.links import mend_link, read_link
from storage.places import Kind, Place, read_key
from storage.walk import walk

BAD_BYTES = frozenset({Problem.BLOB_EMPTY, Problem.BLOB_DAMAGED, Problem.MANIFEST_DAMAGED, Problem.UNREADABLE})
"""Findings about the key of a blob, whose bytes have to come from elsewhere."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A repository that holds a blob, or a manifest, and under which digest."""

    repository: RepositoryName
    digest: Digest
    is_manifest: bool


class Contents:
    """Blobs, manifests and links, each by itself."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._fetching = Fetching(tools)
        self._aliases: dict[str, Mapping[Digest, Digest]] = {}

    async def bad_bytes(self, holders: Sequence[Holder]) -> Step | None:
        """Bytes that are damaged, or may not be read: fetched again for a repository that holds them."""
        for holder in holders:
            if holder.is_manifest:
                step = await self._fetching.manifest_bytes(holder.repository, holder.digest)
            else:
                step = await self._fetching.blob(holder.repository, holder.digest)
            if step is not None:
                return step
        return None

    async def missing_bytes(self, place: Place) -> Step | None:
        """A link whose bytes are gone."""
        name, digest = _name(place), place.digest
        if name is None or digest is None:
            return None
        if place.kind is Kind.REVISION:
            return await self._fetching.manifest_bytes(name, digest)
        return await self._fetching.blob(name, digest)

    async def layer_link(self, place: Place) -> Step | None:
        """A layer link that does not say what its key does: written again if the bytes are there, else pushed anew."""
        name, digest = _name(place), place.digest
        if name is None or digest is None:
            return None
        canonical = digest if digest.algorithm == SHA256 else (await self._aliases_of(name, digest)).get(digest)
        if canonical is not None and await self._tools.is_whole(canonical):
            return self._mended(place.key, canonical)
        return await self._fetching.blob(name, digest)

    async def revision_link(self, place: Place) -> Step | None:
        """A revision link that does not say what its key does."""
        name, digest = _name(place), place.digest
        if name is None or digest is None:
            return None
        if digest.algorithm == SHA256 and await self._tools.manifest_body(digest, digest) is not None:
            return self._mended(place.key, digest)
        remotes = await self._fetching.remotes_of(name, digest)
        if not remotes:
            return None

        async def do() -> None:
            fetched = await self._fetching.manifest(remotes, name, digest)
            canonical = await self._tools.stores.manifests.put_bytes(fetched.body)
            await mend_link(self._tools.driver, place.key, canonical)

        return Step(f"fetched from {remotes[0].url}, and the link written again", do)

    async def tag_index_link(self, place: Place) -> Step | None:
        """An entry of a tag's index: it holds the digest of its key."""
        return None if place.digest is None else self._mended(place.key, place.digest)

    async def incomplete(self, place: Place) -> Step | None:
        """A manifest that refers to blobs that can't be served: each of them that can be had."""
        name, digest = _name(place), place.digest
        if name is None or digest is None:
            return None
        steps: list[Step] = []
        for descriptor in await self._missing(name, digest):
            step = await self._reference(name, digest, descriptor)
            if step is not None:
                steps.append(step)
        if not steps:
            return None

        async def do() -> None:
            for step in steps:
                await step.do()

        return Step("; ".join(step.does for step in steps), do)

    async def _reference(self, name: RepositoryName, manifest: Digest, descriptor: Descriptor) -> Step | None:
        tools, digest = self._tools, descriptor.digest
        is_linked = await tools.inspection.link(keys.layer_link(name, digest)) is not None
        # With `sparse`, a manifest may name a blob that its pusher never had: the link would let them read it.
        if not is_linked and not tools.sparse and digest.algorithm == SHA256 and await tools.is_whole(digest):

            async def do() -> None:
                await self._link(name, manifest, digest)

            return Step(f"link to {digest} written again", do)
        if not tools.remotes:
            return None
        step = await self._fetching.blob(name, digest)
        return None if step is None else Step(f"{digest} {step.does}", step.do)

    async def _link(self, name: RepositoryName, manifest: Digest, digest: Digest) -> None:
        """Link a repository to a blob that a manifest of it needs, and see that it holds the manifest still."""
        stores = self._tools.stores
        await stores.blobs.link(name, digest, canonical=digest)
        if not await stores.manifests.exists(name, manifest):
            async with stores.removals.of_blob(name, digest):
                if not await stores.manifests.exists(name, manifest):
                    await stores.blobs.unlink(name, digest)
            raise Unrepaired("the manifest was deleted meanwhile")

    async def _missing(self, name: RepositoryName, digest: Digest) -> Sequence[Descriptor]:
        """What a manifest refers to and the repository can't serve; nothing if the manifest itself is damaged."""
        stores = self._tools.stores
        try:
            canonical = await stores.manifests.resolve(name, digest)
            document = read_manifest((await stores.manifests.read(digest, canonical)).body)
        except (NotFound, StorageUnavailable, ValueError):
            return []
        found = {d.digest: d for d in document.references if not d.is_foreign and not d.is_manifest}
        return [descriptor for descriptor in found.values() if not await self._is_servable(name, descriptor)]

    async def _is_servable(self, name: RepositoryName, descriptor: Descriptor) -> bool:
        try:
            return (await self._tools.stores.blobs.stat(name, descriptor.digest)).size == descriptor.size
        except (NotFound, StorageUnavailable):
            return False

    def _mended(self, key: str, canonical: Digest) -> Step:
        async def do() -> None:
            await mend_link(self._tools.driver, key, canonical)

        return Step("the link was written again", do)

    async def _aliases_of(self, name: RepositoryName, digest: Digest) -> Mapping[Digest, Digest]:
        """Where the bytes lie of the blobs of a repository, by their digest of another algorithm than sha256."""
        if name not in self._aliases:
            found = {}
            async for place in walk(self._tools.driver, keys.layers(name)):
                if place.kind is Kind.LAYER and place.digest is not None and place.digest.algorithm == SHA256:
                    other = await self._tools.other_digest(place.digest, digest.algorithm)
                    if other is not None:
                        found[other] = place.digest
            self._aliases[name] = found
        return self._aliases[name]


async def holders_of(tools: Tools, wanted: set[Digest]) -> Mapping[Digest, list[Holder]]:
    """Who holds some blobs and manifests: one walk over all links, by the digest that the bytes lie under."""
    found: dict[Digest, list[Holder]] = {digest: [] for digest in wanted}
    if not wanted:
        return found
    async for place in walk(tools.driver, keys.REPOSITORIES):
        name = _name(place)
        if place.kind not in {Kind.LAYER, Kind.REVISION} or place.digest is None or name is None:
            continue
        canonical = place.digest
        if canonical.algorithm != SHA256:
            try:
                canonical = await read_link(tools.driver, place.key)
            except (NotFound, StorageUnavailable):
                continue
        if canonical in found:
            found[canonical].append(Holder(name, place.digest, place.kind is Kind.REVISION))
    return found


def bad_blob(finding: Finding) -> Digest | None:
    """The digest of bytes that a finding says are damaged or can't be read."""
    place = read_key(finding.key)
    return place.digest if finding.problem in BAD_BYTES and place.kind is Kind.BLOB else None


def _name(place: Place) -> RepositoryName | None:
    try:
        return parse_name(place.repository)
    except NameInvalid:
        return None
