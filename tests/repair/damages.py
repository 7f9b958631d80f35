"""The table of docs/explanation/damage.md: what is done to an image, and what is promised of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.swap.client import Contents, digest_of
from tests.swap.scars import (
    LAYER,
    REVISION,
    TAG,
    Damage,
    Image,
    elsewhere,
    layer_bytes,
    layer_link,
    manifest_bytes,
    removed,
    replaced,
    revision_link,
    rotten,
    tag_link,
    truncated,
    written,
)

CONFIG = "config"


class Mended(Enum):
    """What puts damage right."""

    REPAIR = "verify --repair"
    SOURCE = "verify --repair --from"
    HAND = "a person"


@dataclass(frozen=True, slots=True)
class Case:
    """One damage: what it does, what clients lose by it, what is found, and what mends it.

    A push mends everything but what a person has to remove. `needs_reading` says that only who reads
    the bytes finds out.
    """

    name: str
    damage: Damage
    finding: str
    loses: str
    mended: Mended
    needs_reading: bool = False


def config_of(image: Image, contents: Contents) -> str:
    """The digest of an image's config."""
    found: str = json.loads(contents.manifests[image.digest][1])["config"]["digest"]
    return found


def flipped(key: Callable[[Image], str]) -> Damage:
    """Change one byte of a file, its size staying as it is."""

    def damage(image: Image) -> str:
        path = image.path(key(image))
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        return key(image)

    return damage


def config_bytes(image: Image) -> str:
    """The key of the config, as the manifest that is still whole names it."""
    manifest = json.loads(image.path(manifest_bytes(image)).read_bytes())
    return image.blob(manifest["config"]["digest"])


def locked(key: Callable[[Image], str]) -> Damage:
    """Take the right to read a file."""

    def damage(image: Image) -> str:
        image.path(key(image)).chmod(0)
        return key(image)

    return damage


def forgotten(image: Image) -> str:
    """Damage a tag that has no history, as one that another registry has set."""
    shutil.rmtree(image.data / "pierhead/repositories" / image.repository / "_history")
    image.path(image.tag_link).write_text("")
    return image.tag_link


def torn_between_two(image: Image) -> str:
    """Damage a tag that has no history and has pointed at two manifests."""
    other = digest_of(b"another manifest")
    image.path(f"{image.home}/_manifests/tags/v1/index/{other.replace(':', '/')}/link").write_text(other)
    return forgotten(image)


CASES = [
    Case("layer-byte", rotten, "blob-damaged", LAYER, Mended.SOURCE, needs_reading=True),
    Case("config-byte", flipped(config_bytes), "blob-damaged", CONFIG, Mended.SOURCE, needs_reading=True),
    Case("manifest-byte", flipped(manifest_bytes), "manifest-damaged", REVISION, Mended.SOURCE),
    Case("layer-truncated", truncated(layer_bytes), "blob-damaged", LAYER, Mended.SOURCE, needs_reading=True),
    Case("manifest-truncated", truncated(manifest_bytes), "manifest-damaged", REVISION, Mended.SOURCE),
    Case("layer-empty", written(layer_bytes, ""), "blob-empty", LAYER, Mended.SOURCE),
    Case("config-empty", written(config_bytes, ""), "blob-empty", CONFIG, Mended.SOURCE),
    Case("manifest-empty", written(manifest_bytes, ""), "manifest-damaged", REVISION, Mended.SOURCE),
    Case("layer-gone", removed(layer_bytes, layer_link), "link-dangling", LAYER, Mended.SOURCE),
    Case("manifest-gone", removed(manifest_bytes, revision_link), "manifest-missing", REVISION, Mended.SOURCE),
    Case("layer-link-empty", written(layer_link, ""), "link-empty", LAYER, Mended.REPAIR),
    Case("layer-link-damaged", written(layer_link, "sha256:11"), "link-damaged", LAYER, Mended.REPAIR),
    Case("layer-link-elsewhere", elsewhere, "link-elsewhere", LAYER, Mended.REPAIR),
    Case("revision-link-elsewhere", written(revision_link, digest_of(b"x")), "link-elsewhere", REVISION, Mended.REPAIR),
    Case("revision-link-empty", written(revision_link, ""), "link-empty", REVISION, Mended.REPAIR),
    Case("revision-link-damaged", written(revision_link, "x" * 9000), "link-damaged", REVISION, Mended.REPAIR),
    Case("layer-link-gone", removed(layer_link, revision_link), "manifest-incomplete", LAYER, Mended.REPAIR),
    Case("revision-link-gone", removed(revision_link, tag_link), "tag-dangling", REVISION, Mended.REPAIR),
    Case("tag-empty", written(tag_link, ""), "link-empty", TAG, Mended.REPAIR),
    Case("tag-damaged", written(tag_link, "sha256:22"), "link-damaged", TAG, Mended.REPAIR),
    Case("tag-nowhere", written(tag_link, digest_of(b"nothing")), "tag-dangling", TAG, Mended.REPAIR),
    Case("tag-forgotten", forgotten, "link-empty", TAG, Mended.REPAIR),
    Case("tag-of-two", torn_between_two, "link-empty", TAG, Mended.HAND),
    Case("layer-unreadable", locked(layer_bytes), "unreadable", LAYER, Mended.SOURCE),
    Case("manifest-unreadable", locked(manifest_bytes), "unreadable", REVISION, Mended.SOURCE),
    Case("layer-link-unreadable", locked(layer_link), "unreadable", LAYER, Mended.REPAIR),
    Case("revision-link-unreadable", locked(revision_link), "unreadable", REVISION, Mended.REPAIR),
    Case("layer-directory", replaced(layer_bytes, Path.mkdir), "directory", LAYER, Mended.HAND),
    Case("manifest-directory", replaced(manifest_bytes, Path.mkdir), "directory", REVISION, Mended.HAND),
]
