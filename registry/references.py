"""What the manifests of a repository refer to."""

import asyncio

import structlog

from registry.documents import read_manifest
from registry.names import RepositoryName
from storage.digest import Digest
from storage.errors import NotFound
from storage.manifests import ManifestStore

PAGE = 500

log = structlog.get_logger(__name__)


class References:
    """Reads every manifest of a repository: for what is asked rarely."""

    def __init__(self, manifests: ManifestStore) -> None:
        self._manifests = manifests

    async def find(self, repository: RepositoryName, digest: Digest, *, seen: set[Digest]) -> Digest | None:
        """A manifest that refers to `digest`, or None; those in `seen` are passed over, those read are added.

        A manifest that cannot be read counts as one that refers to nothing: it cannot be pulled either.
        """
        after: Digest | None = None
        while True:
            page = await self._manifests.list(repository, after=after, limit=PAGE)
            for revision in page:
                if revision in seen:
                    continue
                references = await self.read(repository, revision)
                if references is not None:
                    if digest in references:
                        return revision
                    # Not one that could not be read: it may be pushed again before the next look.
                    seen.add(revision)
                await asyncio.sleep(0)  # small reads do not leave the loop by themselves
            if len(page) < PAGE:
                return None
            after = page[-1]

    async def of(self, repository: RepositoryName, revision: Digest) -> set[Digest]:
        """Everything but the subject that a manifest refers to; nothing for one that can't be read."""
        return await self.read(repository, revision) or set()

    async def read(self, repository: RepositoryName, revision: Digest) -> set[Digest] | None:
        """Everything but the subject that a manifest refers to, None for one that can't be read."""
        try:
            canonical = await self._manifests.resolve(repository, revision)
            stored = await self._manifests.read(revision, canonical)
            return {reference.digest for reference in read_manifest(stored.body).references}
        except NotFound:
            return None
        except ValueError as error:
            log.warning("manifest of no known shape", repository=repository, digest=str(revision), reason=str(error))
            return None
