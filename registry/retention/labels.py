"""How long an image says that it wants to be kept: an annotation of its manifest, or a label of its configuration."""

import json
from collections import OrderedDict

from registry.names import RepositoryName
from registry.retention.verdicts import parse_label
from registry.strict_json import parse_object
from storage.blobs import BlobStore
from storage.digest import Digest
from storage.errors import Corrupt, NotFound
from storage.manifests import ManifestStore

CONFIG_BYTES_MAX = 1 << 20
CACHED_MAX = 50_000


class Labels:
    """What was read once is remembered: what lies under a digest does not change."""

    def __init__(self, manifests: ManifestStore, blobs: BlobStore) -> None:
        self._manifests = manifests
        self._blobs = blobs
        self._known: OrderedDict[tuple[Digest, str], float | None] = OrderedDict()

    async def lasts(self, repository: RepositoryName, digest: Digest, label: str) -> float | None:
        """The seconds that the label says, None if there is none, or none that can be read."""
        if (digest, label) not in self._known:
            try:
                text = await self._find(repository, digest, label)
            except Corrupt:
                return None  # pushed again, it may say something
            except (NotFound, ValueError):
                text = None
            self._known[digest, label] = None if text is None else parse_label(text)
            if len(self._known) > CACHED_MAX:
                self._known.popitem(last=False)
        return self._known[digest, label]

    async def _find(self, repository: RepositoryName, digest: Digest, label: str) -> str | None:
        canonical = await self._manifests.resolve(repository, digest)
        fields = parse_object((await self._manifests.read(digest, canonical)).body)
        annotations, config = fields.get("annotations"), fields.get("config")
        if isinstance(annotations, dict) and isinstance(annotations.get(label), str):
            return str(annotations[label])
        if not isinstance(config, dict):
            return None
        labels = await self._labels(repository, Digest.parse(str(config.get("digest"))))
        found = labels.get(label)
        return found if isinstance(found, str) else None

    async def _labels(self, repository: RepositoryName, config: Digest) -> dict[str, object]:
        blob = await self._blobs.open(repository, config)
        try:
            if blob.size > CONFIG_BYTES_MAX:
                return {}
            body = b"".join([piece async for piece in blob.verified_pieces()])
        finally:
            await blob.close()
        image: object = json.loads(body)
        inner = image.get("config") if isinstance(image, dict) else None
        labels = inner.get("Labels") if isinstance(inner, dict) else None
        return labels if isinstance(labels, dict) else {}
