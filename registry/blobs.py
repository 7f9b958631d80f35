"""Blobs as clients see them: what a repository may read, and when one may be taken from it."""

from registry.errors import BlobUnknown, Unsupported
from registry.names import RepositoryName
from registry.references import References
from storage.blobs import Blob, BlobStore
from storage.digest import Digest
from storage.drivers import Stat
from storage.errors import Corrupt, NotFound
from storage.removals import RemovalStore


class Blobs:
    """A blob is visible in a repository only through that repository's link to it."""

    def __init__(self, store: BlobStore, removals: RemovalStore, references: References, *, delete: bool) -> None:
        self._store = store
        self._removals = removals
        self._references = references
        self._delete = delete

    async def stat(self, repository: RepositoryName, digest: Digest) -> Stat:
        """Size and time of a blob. Raises BlobUnknown."""
        try:
            return await self._store.stat(repository, digest)
        except NotFound as error:
            raise _unknown(error) from error

    async def locate(self, repository: RepositoryName, digest: Digest, *, seconds: int) -> tuple[Stat, str | None]:
        """Size and time of a blob, and a URL of its bytes for so many seconds, if there is one. Raises BlobUnknown."""
        try:
            return await self._store.locate(repository, digest, seconds=seconds)
        except NotFound as error:
            raise _unknown(error) from error

    async def open(self, repository: RepositoryName, digest: Digest) -> Blob:
        """Open a blob for reading. Raises BlobUnknown."""
        try:
            return await self._store.open(repository, digest)
        except NotFound as error:
            raise _unknown(error) from error

    async def delete(self, repository: RepositoryName, digest: Digest) -> None:
        """Take a blob from the repository (distribution-spec end-10).

        Raises BlobUnknown; Unsupported while a manifest of the repository refers to it, or where deletion is
        switched off.
        """
        if not self._delete:
            raise Unsupported("deletion is switched off: set delete = true in the configuration")
        seen: set[Digest] = set()
        try:
            if await self._canonical(repository, digest) is not None:
                await self._refuse_if_referenced(repository, digest, seen)
            async with self._removals.of_blob(repository, digest) as removal:
                # A manifest may have been pushed since. Either its push finds this announcement, and waits, or
                # this look finds the manifest. Those that were read above are not read again, so it is short.
                canonical = await self._canonical(repository, digest)
                if canonical is not None:  # with a damaged link no manifest can be pulled anyway
                    await self._refuse_if_referenced(repository, digest, seen)
                removal.check_time()
                await self._store.unlink(repository, digest)
                if removal.is_late and canonical is not None:
                    await self._look_again(repository, digest, canonical)
        except NotFound as error:
            raise _unknown(error) from error

    async def _look_again(self, repository: RepositoryName, digest: Digest, canonical: Digest) -> None:
        """Put the link back if a manifest refers to the blob: this process stood still, and a push waited no longer."""
        try:
            await self._refuse_if_referenced(repository, digest, set())
        except Unsupported:
            await self._store.link(repository, digest, canonical=canonical)
            raise

    async def _canonical(self, repository: RepositoryName, digest: Digest) -> Digest | None:
        """The digest that the bytes lie under, None if the link is damaged. Raises NotFound."""
        try:
            return await self._store.resolve(repository, digest)
        except Corrupt:
            return None

    async def _refuse_if_referenced(self, repository: RepositoryName, digest: Digest, seen: set[Digest]) -> None:
        referrer = await self._references.find(repository, digest, seen=seen)
        if referrer is not None:
            raise Unsupported(
                f"the manifest {referrer} refers to this blob: delete that first",
                detail={"manifest": str(referrer)},
            )


def _unknown(error: NotFound) -> BlobUnknown:
    if isinstance(error, Corrupt):
        return BlobUnknown("the stored blob is damaged: push it again")
    return BlobUnknown("this repository holds no such blob")
