"""Manifests as documents: what their bytes say, and what is refused because clients would differ about it.

image-spec, manifest.md and image-index.md; the shapes are those of CVE-2021-41190: a document that is both an
image and an index is refused, whatever it calls itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry import media_types
from registry.strict_json import parse_object
from storage.digest import Digest

DESCRIPTORS_MAX = 10_000
MEDIA_TYPE_CHARACTERS_MAX = 255
SIZE_MAX = (1 << 63) - 1

# A client that ignores case reads these whatever their spelling (Go's encoding/json does).
_MANIFEST_KEYS = (
    "annotations",
    "artifactType",
    "config",
    "fsLayers",
    "layers",
    "manifests",
    "mediaType",
    "schemaVersion",
    "subject",
)
_DESCRIPTOR_KEYS = ("annotations", "artifactType", "data", "digest", "mediaType", "platform", "size", "urls")
_PLATFORM_KEYS = ("architecture", "features", "os", "os.features", "os.version", "variant")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a manifest says of content that it refers to."""

    media_type: str
    digest: Digest
    size: int

    @property
    def is_manifest(self) -> bool:
        """Whether it names a manifest, by its media type."""
        return self.media_type in media_types.MANIFESTS

    @property
    def is_foreign(self) -> bool:
        """Whether it is fetched from elsewhere, so that it need not be here."""
        return self.media_type in media_types.FOREIGN_LAYERS


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest's content, as far as a registry looks at it.

    `references` are config and layers, or the entries of an index; `told_type` is the media type that the
    bytes themselves tell, and `is_named` says whether they tell it by name.
    """

    media_type: str
    told_type: str | None
    is_named: bool = True
    references: Sequence[Descriptor] = ()
    subject: Descriptor | None = None
    artifact_type: str | None = None
    annotations: Mapping[str, str] | None = None


def parse_manifest(body: bytes, media_type: str | None, *, opaque_types: Sequence[str] = ()) -> Document:
    """Read a pushed manifest; `media_type` is that of the request, without parameters and in lower case.

    `opaque_types` are taken without a look at their shape. Raises ValueError with a message for the client.
    """
    fields = parse_object(body)
    _refuse_other_spellings(fields, _MANIFEST_KEYS)
    told = _optional_text(fields, "mediaType") or None
    if told is not None and media_type is not None and told != media_type:
        raise ValueError("Content-Type and the manifest's mediaType differ: send the same in both")
    wanted = media_type or told or _sniff(fields)
    if wanted is not None and wanted in opaque_types:
        return Document(wanted, told_type(fields), is_named=told is not None)
    if wanted in (media_types.DOCKER_SCHEMA_1, media_types.DOCKER_SCHEMA_1_SIGNED):
        raise ValueError("image manifests of schema 1 are not taken: push with a client of this decade")
    if wanted not in media_types.MANIFESTS:
        raise ValueError(
            "the media type is none of a manifest: it has to be an OCI or Docker image manifest or index, "
            "or be allowed by manifest_types in the configuration"
        )
    if fields.get("schemaVersion") != 2 or isinstance(fields["schemaVersion"], bool | float):
        raise ValueError("schemaVersion has to be 2")
    return _image(fields, wanted) if wanted in media_types.IMAGES else _index(fields, wanted)


def read_manifest(body: bytes) -> Document:
    """Read a stored manifest, as leniently as one may who only wants to know what it refers to.

    Raises ValueError if it cannot be told.
    """
    fields = parse_object(body)
    media_type = told_type(fields) or ""
    if isinstance(fields.get("manifests"), list):
        return _index(fields, media_type)
    if isinstance(fields.get("layers"), list):
        return _image(fields, media_type)
    return Document(media_type, media_type or None)


def told_type(fields: Mapping[str, object]) -> str | None:
    """The media type that a manifest's own content tells, as distribution tells it: by name, else by shape."""
    told = fields.get("mediaType")
    return told if isinstance(told, str) and told else _sniff(fields)


def _sniff(fields: Mapping[str, object]) -> str | None:
    version = fields.get("schemaVersion")
    if version == 1:
        signed = "signatures" in fields
        return media_types.DOCKER_SCHEMA_1_SIGNED if signed else media_types.DOCKER_SCHEMA_1
    if version != 2:
        return None
    if "manifests" in fields:
        return media_types.INDEX
    return media_types.IMAGE if "config" in fields or "layers" in fields else None


def _image(fields: Mapping[str, object], media_type: str) -> Document:
    if "manifests" in fields or "fsLayers" in fields:
        raise ValueError("an image manifest has neither manifests nor fsLayers")
    config = _descriptor(fields.get("config"), "config")
    layers = _descriptors(fields, "layers")
    artifact_type = _optional_text(fields, "artifactType") or config.media_type
    return _document(fields, media_type, [config, *layers], artifact_type)


def _index(fields: Mapping[str, object], media_type: str) -> Document:
    if "config" in fields or "layers" in fields or "fsLayers" in fields:
        raise ValueError("an index has neither config nor layers nor fsLayers")
    return _document(fields, media_type, _descriptors(fields, "manifests"), _optional_text(fields, "artifactType"))


def _document(
    fields: Mapping[str, object], media_type: str, references: list[Descriptor], artifact_type: str | None
) -> Document:
    subject = fields.get("subject")
    return Document(
        media_type,
        told_type(fields),
        bool(fields.get("mediaType")),
        references,
        None if subject is None else _descriptor(subject, "subject"),
        artifact_type or None,
        _annotations(fields.get("annotations")),
    )


def _descriptors(fields: Mapping[str, object], key: str) -> list[Descriptor]:
    found = fields.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{key} has to be a list")
    if len(found) > DESCRIPTORS_MAX:
        raise ValueError(f"{key} has more than {DESCRIPTORS_MAX} entries")
    return [_descriptor(entry, f"{key}[{place}]") for place, entry in enumerate(found)]


def _descriptor(found: object, where: str) -> Descriptor:
    if not isinstance(found, dict):
        raise ValueError(f"{where} has to be a descriptor")
    _refuse_other_spellings(found, _DESCRIPTOR_KEYS)
    media_type, digest, size = found.get("mediaType"), found.get("digest"), found.get("size")
    if not isinstance(media_type, str) or len(media_type) > MEDIA_TYPE_CHARACTERS_MAX:
        raise ValueError(f"{where} needs a mediaType of at most {MEDIA_TYPE_CHARACTERS_MAX} characters")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_MAX:
        raise ValueError(f"{where} needs a size that is a whole number, not negative, of at most 63 bits")
    if not isinstance(digest, str):
        raise ValueError(f"{where} needs a digest")
    _annotations(found.get("annotations"))
    if isinstance(platform := found.get("platform"), dict):
        _refuse_other_spellings(platform, _PLATFORM_KEYS)
    try:
        return Descriptor(media_type, Digest.parse(digest), size)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _annotations(found: object) -> Mapping[str, str] | None:
    if found is None:
        return None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ValueError("annotations have to be an object whose values are texts")
    return found


def _optional_text(fields: Mapping[str, object], key: str) -> str | None:
    found = fields.get(key)
    if found is None:
        return None
    if not isinstance(found, str) or len(found) > MEDIA_TYPE_CHARACTERS_MAX:
        raise ValueError(f"{key} has to be a text of at most {MEDIA_TYPE_CHARACTERS_MAX} characters")
    return found


def _refuse_other_spellings(fields: Mapping[str, object], known: Sequence[str]) -> None:
    for key in fields:
        if key not in known and key.casefold() in _FOLDED:
            for name in known:
                if key.casefold() == name.casefold():
                    raise ValueError(f"a key is spelled like {name} but for its case: clients would differ about it")


_FOLDED = frozenset(name.casefold() for name in (*_MANIFEST_KEYS, *_DESCRIPTOR_KEYS, *_PLATFORM_KEYS))
