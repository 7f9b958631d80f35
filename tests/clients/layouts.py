"""Images made by hand: an OCI image layout on disk, small, and never twice the same."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

Descriptor = Mapping[str, Any]


class Layout:
    """An OCI image layout (image-spec, "OCI Image Layout Specification") below `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "blobs" / "sha256").mkdir(parents=True)
        (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._tagged: list[Descriptor] = []

    def reference(self, tag: str) -> str:
        """`path:tag`, as skopeo and crane write it after `oci:`."""
        return f"{self.directory}:{tag}"

    def add(self, content: bytes, media_type: str) -> Descriptor:
        """Store a blob."""
        digest = hashlib.sha256(content).hexdigest()
        (self.directory / "blobs" / "sha256" / digest).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    def read(self, digest: str) -> bytes:
        """Return a blob."""
        return (self.directory / "blobs" / digest.replace(":", "/")).read_bytes()

    def image(self, layers: Sequence[bytes], *, architecture: str = "amd64", tag: str | None = None) -> Descriptor:
        """Store an image of tar archives, which get compressed; the descriptor names its platform."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [_sha256(layer) for layer in layers]},
            "config": {},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.add(_json(config), CONFIG),
            "layers": [self.add(gzip.compress(layer, mtime=0), LAYER) for layer in layers],
        }
        stored = {**self.add(_json(manifest), MANIFEST), "platform": {"architecture": architecture, "os": "linux"}}
        return self._tag(stored, tag)

    def index(self, manifests: Sequence[Descriptor], *, tag: str | None = None) -> Descriptor:
        """Store an index."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}
        return self._tag(self.add(_json(index), INDEX), tag)

    def tagged(self) -> list[Descriptor]:
        """Return what index.json lists, as some program may have written it."""
        manifests: list[Descriptor] = json.loads((self.directory / "index.json").read_text())["manifests"]
        return manifests

    def _tag(self, descriptor: Descriptor, tag: str | None) -> Descriptor:
        if tag is not None:
            self._tagged.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": tag}})
            index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self._tagged}
            (self.directory / "index.json").write_bytes(_json(index))
        return descriptor


def fresh_tar(name: str, *, size_bytes: int = 200_000) -> bytes:
    """Return a tar archive that holds one file of random bytes."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size_bytes
        tar.addfile(entry, io.BytesIO(os.urandom(size_bytes)))
    return archive.getvalue()


def blobs_of(manifest: bytes) -> list[str]:
    """Return the digests of config and layers."""
    parsed = json.loads(manifest)
    return [parsed["config"]["digest"], *(layer["digest"] for layer in parsed["layers"])]


def children_of(index: bytes) -> list[str]:
    """Return the digests of the manifests in an index."""
    return [manifest["digest"] for manifest in json.loads(index)["manifests"]]


def _sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
