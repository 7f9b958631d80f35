"""Manifests to push: the smallest that are whole, and ways to make them other."""

import json
from collections.abc import Mapping

from registry.media_types import IMAGE, INDEX
from storage.digest import Digest

CONFIG = b"{}"
LAYER = b"a layer"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def descriptor(content: bytes, media_type: str = LAYER_TYPE, *, algorithm: str = "sha256") -> dict[str, object]:
    """Describe content."""
    return {"mediaType": media_type, "digest": str(Digest.of(content, algorithm)), "size": len(content)}


def image(
    *layers: bytes, config: bytes = CONFIG, media_type: str | None = IMAGE, **fields: object
) -> dict[str, object]:
    """Return an image manifest of these layers, by default of LAYER."""
    named = {} if media_type is None else {"mediaType": media_type}
    return {
        "schemaVersion": 2,
        **named,
        "config": descriptor(config, CONFIG_TYPE),
        "layers": [descriptor(layer) for layer in layers or (LAYER,)],
        **fields,
    }


def index(*manifests: bytes, media_type: str | None = INDEX, **fields: object) -> dict[str, object]:
    """Return an index of image manifests."""
    named = {} if media_type is None else {"mediaType": media_type}
    return {"schemaVersion": 2, **named, "manifests": [descriptor(each, IMAGE) for each in manifests], **fields}


def encode(document: Mapping[str, object]) -> bytes:
    """The document's bytes, which are none that a registry would come up with by itself."""
    return json.dumps(document, indent=1).encode()
