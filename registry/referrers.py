"""Referrers as clients see them: every manifest of the repository that names a subject."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from registry.documents import Document
from registry.names import RepositoryName
from storage.digest import Digest
from storage.manifests import ManifestStore
from storage.referrers import Referrer, ReferrerStore

PAGE_BYTES_MAX = 4_000_000
"""Below the 4 MiB of a manifest, the envelope included (distribution-spec, "Listing Referrers")."""
PAGE = 200


def describe(digest: Digest, document: Document, *, size: int) -> Referrer:
    """What the listing says of a manifest of `size` bytes (distribution-spec, "Listing Referrers")."""
    descriptor: dict[str, object] = {
        "mediaType": document.media_type,
        "digest": str(digest),
        "size": size,
    }
    if document.annotations:
        descriptor["annotations"] = dict(document.annotations)
    if document.artifact_type is not None:
        descriptor["artifactType"] = document.artifact_type
    return Referrer(digest, document.artifact_type, descriptor)


@dataclass(frozen=True, slots=True)
class ReferrerPage:
    """Descriptors as they are sent; `after` is the digest to go on from, or None at the end."""

    descriptors: list[Mapping[str, object]]
    after: Digest | None


class Referrers:
    """What is listed is held by the repository; the subject itself need not be."""

    def __init__(self, store: ReferrerStore, manifests: ManifestStore) -> None:
        self._store = store
        self._manifests = manifests

    async def list(
        self,
        repository: RepositoryName,
        subject: Digest,
        *,
        artifact_types: Collection[str] = (),
        after: Digest | None = None,
    ) -> ReferrerPage:
        """Descriptors of referrers (end-12), of the given artifact types if there are any."""
        found: list[Mapping[str, object]] = []
        size, last = 0, after
        while True:
            page, more = await self._store.list(repository, subject, after=last, limit=PAGE)
            for referrer in page:
                if await self._is_wanted(repository, referrer, artifact_types):
                    size += len(json.dumps(referrer.descriptor, ensure_ascii=False).encode())
                    if found and size > PAGE_BYTES_MAX:
                        return ReferrerPage(found, last)
                    found.append(referrer.descriptor)
                last = referrer.digest
            if not more:
                return ReferrerPage(found, None)

    async def _is_wanted(self, repository: RepositoryName, referrer: Referrer, artifact_types: Collection[str]) -> bool:
        if artifact_types and referrer.artifact_type not in artifact_types:
            return False
        return await self._manifests.exists(repository, referrer.digest)
