"""A tree as a registry leaves it in a directory, written straight into the layout: half of it is garbage."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storage import keys
from storage.digest import Digest

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE, LAYER_TYPE = "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar"
BLOB_BYTES = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """How many there are of everything. Each manifest has blobs of its own, the first of which is its config.

    Half of each repository's manifests have a tag: there has to be an even number of them. The others are garbage, and
    so are their blobs. With `deleted` their own links are gone already, as they are when a client has deleted them by
    digest; the links of their blobs are there.
    """

    manifests: int
    blobs: int
    repositories: int
    deleted: bool = False

    @property
    def blobs_each(self) -> int:
        """Blobs that belong to one manifest."""
        return self.blobs // self.manifests

    @property
    def kept(self) -> int:
        """Objects with bytes that are no garbage, manifests among them."""
        return self.manifests // 2 * (1 + self.blobs_each)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A manifest that stays."""

    repository: str
    tag: str

    @property
    def path(self) -> str:
        """Where it is got by its tag."""
        return f"/v2/{self.repository}/manifests/{self.tag}"


def write_tree(data: Path, shape: Shape, *, seed: int = 0) -> Sequence[Tagged]:
    """Write a tree below an empty directory, not durably, and return what has a tag. Equal seeds give equal trees."""
    chance, files, tagged = random.Random(seed), _Files(data), []
    for number in range(shape.manifests):
        repository = f"bench/part{number % shape.repositories:03}/app"
        bodies = [chance.randbytes(BLOB_BYTES) for _ in range(shape.blobs_each)]
        digests = [Digest.of(body) for body in bodies]
        for digest, body in zip(digests, bodies, strict=True):
            files.write(keys.blob(digest), body)
            files.link(keys.layer_link(repository, digest), digest)
        manifest = _manifest(digests)
        digest = Digest.of(manifest)
        files.write(keys.blob(digest), manifest)
        is_tagged = number // shape.repositories % 2 == 0
        if is_tagged or not shape.deleted:
            files.link(keys.revision_link(repository, digest), digest)
        if is_tagged:
            tag = f"v{number}"
            files.link(keys.tag_link(repository, tag), digest)
            files.link(keys.tag_index_link(repository, tag, digest), digest)
            tagged.append(Tagged(repository, tag))
    os.sync()  # what is still to be written is not to slow down what is measured
    return tagged


def count_bytes(data: Path) -> int:
    """Count the objects with bytes: blobs and manifests."""
    return sum(1 for _ in (data / keys.BLOBS).glob("*/*/*/data"))


class _Files:
    """Writes files, each in a directory that may have to be made: `Path.mkdir` would ask for every one of them."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._made: set[str] = set()

    def link(self, key: str, digest: Digest) -> None:
        """Write a link."""
        self.write(key, str(digest).encode())

    def write(self, key: str, body: bytes) -> None:
        """Write a file."""
        path = f"{self._root}/{key}"
        self._make(os.path.dirname(path))  # noqa: PTH120  # three times as fast
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.write(descriptor, body)
        os.close(descriptor)

    def _make(self, directory: str) -> None:
        if directory in self._made:
            return
        if directory != self._root:
            self._make(os.path.dirname(directory))  # noqa: PTH120
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103
        self._made.add(directory)


def _manifest(digests: Sequence[Digest]) -> bytes:
    config, *layers = [{"mediaType": LAYER_TYPE, "digest": str(digest), "size": BLOB_BYTES} for digest in digests]
    fields = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {**config, "mediaType": CONFIG_TYPE},
        "layers": layers,
    }
    return json.dumps(fields).encode()
