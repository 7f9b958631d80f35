"""What an honest client does: blobs and manifests by the shortest way."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.hostile.wire import Answer, call, encoded
from tests.running import Server

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

Fields = Mapping[str, Any]


def sha256(body: bytes) -> str:
    """The digest of bytes."""
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def push_blob(server: Server, name: str, body: bytes) -> str:
    """Push a blob in one request and return its digest."""
    digest = sha256(body)
    answer = call(server, "POST", f"/v2/{name}/blobs/uploads/?digest={encoded(digest)}", body=body)
    assert answer.status == 201, answer
    return digest


def begin(server: Server, name: str) -> str:
    """Begin an upload session and return its location."""
    answer = call(server, "POST", f"/v2/{name}/blobs/uploads/")
    assert answer.status == 202, answer
    return answer.headers["location"]


def finish(server: Server, location: str, digest: str, body: bytes = b"") -> Answer:
    """End an upload session."""
    return call(server, "PUT", f"{location}?digest={encoded(digest)}", body=body)


def offset(server: Server, location: str) -> int:
    """How many bytes the session says it holds (0-0 is read as none)."""
    answer = call(server, "GET", location)
    assert answer.status == 204, answer
    end = int(answer.headers["range"].removeprefix("0-"))
    return end + 1 if end else 0


def image(config: str, layers: Sequence[str] = (), /, *, blob_bytes: int = 2, **further: object) -> bytes:
    """The bytes of an image manifest whose blobs all have `blob_bytes` bytes; `further` fields replace others."""
    fields = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": CONFIG, "digest": config, "size": blob_bytes},
        "layers": [{"mediaType": LAYER, "digest": layer, "size": blob_bytes} for layer in layers],
    }
    return json.dumps({**fields, **further}).encode()


def index(*manifests: Fields, **further: object) -> bytes:
    """The bytes of an index."""
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, **further}).encode()


def put_manifest(server: Server, name: str, reference: str, body: bytes, media_type: str = IMAGE) -> Answer:
    """Push a manifest."""
    return call(server, "PUT", f"/v2/{name}/manifests/{reference}", f"Content-Type: {media_type}", body=body)


def push_image(server: Server, name: str, reference: str = "latest", **further: Any) -> str:
    """Push a config and an image manifest, and return the manifest's digest."""
    body = image(push_blob(server, name, b"{}"), **further)
    answer = put_manifest(server, name, reference, body)
    assert answer.status == 201, answer
    return answer.headers["docker-content-digest"]
