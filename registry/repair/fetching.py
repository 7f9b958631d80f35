"""Blobs and manifests fetched from other registries: what comes is what the digest says, or it is not kept."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from registry.errors import DigestInvalid
from registry.names import RepositoryName
from registry.repair.remotes import FetchedManifest, Remote, RemoteFailed
from registry.repair.steps import Step, Tools, Unrepaired, reason
from registry.uploads import Body
from storage.digest import Digest


class Fetching:
    """Asks every registry that says it has something, until one gives it."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def blob(self, repository: RepositoryName, digest: Digest) -> Step | None:
        """How to get a blob into a repository, its link included; None if nobody has it. Raises RemoteFailed."""
        remotes = await self._tools.remotes.find(repository, "blobs", digest)

        async def do() -> None:
            await _first(remotes, lambda remote: self._take_blob(remote, repository, digest))

        return Step(f"fetched from {_told(remotes)}", do) if remotes else None

    async def manifest_bytes(self, repository: RepositoryName, digest: Digest) -> Step | None:
        """How to get the bytes of a manifest that it holds; None if nobody has them. Raises RemoteFailed."""
        remotes = await self._tools.remotes.find(repository, "manifests", digest)

        async def do() -> None:
            await self._tools.stores.manifests.put_bytes((await self.manifest(remotes, repository, digest)).body)

        return Step(f"fetched from {_told(remotes)}", do) if remotes else None

    async def remotes_of(self, repository: RepositoryName, digest: Digest) -> list[Remote]:
        """Registries that say they have a manifest. Raises RemoteFailed."""
        return await self._tools.remotes.find(repository, "manifests", digest)

    async def manifest(self, remotes: Sequence[Remote], repository: RepositoryName, digest: Digest) -> FetchedManifest:
        """Read a manifest from the first that gives the very bytes. Raises Unrepaired."""
        failed = []
        for remote in remotes:
            try:
                found = await remote.manifest(repository, digest)
            except RemoteFailed as error:
                failed.append(str(error))
                continue
            if Digest.of(found.body, digest.algorithm) == digest:
                self._tools.tally.counts["bytes fetched"] += len(found.body)
                return found
            failed.append(f"{remote.url}: what it gives does not hash to {digest}")
        raise Unrepaired("; ".join(failed))

    async def _take_blob(self, remote: Remote, repository: RepositoryName, digest: Digest) -> None:
        counts = self._tools.tally.counts

        async def batches(pieces: AsyncIterator[bytes]) -> AsyncIterator[Sequence[bytes]]:
            async for piece in pieces:
                counts["bytes fetched"] += len(piece)
                yield [piece]

        async with remote.blob(repository, digest) as pieces:
            try:
                await self._tools.uploads.put(repository, digest, Body(batches(pieces)))
            except DigestInvalid as error:
                raise RemoteFailed(f"{remote.url}: what it gives does not hash to {digest}") from error


async def _first(remotes: Sequence[Remote], take: Callable[[Remote], Awaitable[None]]) -> None:
    failed = []
    for remote in remotes:
        try:
            await take(remote)
        except RemoteFailed as error:
            failed.append(reason(error))
        else:
            return
    raise Unrepaired("; ".join(failed))


def _told(remotes: Sequence[Remote]) -> str:
    return remotes[0].url
