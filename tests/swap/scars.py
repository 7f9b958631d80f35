"""Everything that was seen to be wrong in directories of distribution, each done to an image of its own."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.swap.client import Client, Descriptor, digest_of

ROOT = "docker/registry/v2"
TAG, REVISION, LAYER = "tag", "revision", "layer"
"""What of an image a scar takes away from clients."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image `v1` in a repository of its own, as it lies in a data directory."""

    data: Path
    repository: str
    manifest: Descriptor
    layer: str
    other: str

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return str(self.manifest["digest"])

    @property
    def home(self) -> str:
        """The key of the repository."""
        return f"{ROOT}/repositories/{self.repository}"

    @property
    def tag_link(self) -> str:
        """The key of the tag."""
        return f"{self.home}/_manifests/tags/v1/current/link"

    @property
    def revision_link(self) -> str:
        """The key of the revision link."""
        return f"{self.home}/_manifests/revisions/{self.digest.replace(':', '/')}/link"

    @property
    def layer_link(self) -> str:
        """The key of the link to the first layer."""
        return f"{self.home}/_layers/{self.layer.replace(':', '/')}/link"

    def blob(self, digest: str) -> str:
        """The key of the bytes of a digest."""
        algorithm, _, encoded = digest.partition(":")
        return f"{ROOT}/blobs/{algorithm}/{encoded[:2]}/{encoded}/data"

    def path(self, key: str) -> Path:
        """The file of a key, its directory made."""
        path = self.data / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


Damage = Callable[[Image], str]


@dataclass(frozen=True, slots=True)
class Scar:
    """What is done, what it is called, what clients lose by it, and whether a push of the image mends it.

    `damage` returns the key that has to be reported. `quick` says that it is found without hashing all blobs.
    """

    name: str
    damage: Damage
    finding: str
    loses: str | None = None
    heals: bool = True
    quick: bool = True


def pushed(client: Client, data: Path, repository: str) -> Image:
    """Push an image of its own to a repository."""
    before = set(client.ledger[repository].blobs)
    manifest = client.push_image(repository, "v1")
    layer, other, _config = (digest for digest in client.ledger[repository].blobs if digest not in before)
    return Image(data, repository, manifest, layer, other)


def written(key: Callable[[Image], str], text: str) -> Damage:
    """Write a text over what lies at a key."""

    def damage(image: Image) -> str:
        image.path(key(image)).write_text(text)
        return key(image)

    return damage


def replaced(key: Callable[[Image], str], by: Callable[[Path], object]) -> Damage:
    """Put something else in the place of a file."""

    def damage(image: Image) -> str:
        path = image.path(key(image))
        path.unlink(missing_ok=True)
        by(path)
        return key(image)

    return damage


def removed(key: Callable[[Image], str], told: Callable[[Image], str]) -> Damage:
    """Remove a file; what is told is what led to it."""

    def damage(image: Image) -> str:
        image.path(key(image)).unlink()
        return told(image)

    return damage


def tag_link(image: Image) -> str:
    """The key of the tag."""
    return image.tag_link


def revision_link(image: Image) -> str:
    """The key of the revision link."""
    return image.revision_link


def layer_link(image: Image) -> str:
    """The key of a layer link."""
    return image.layer_link


def layer_bytes(image: Image) -> str:
    """The key of a layer."""
    return image.blob(image.layer)


def manifest_bytes(image: Image) -> str:
    """The key of the manifest's bytes."""
    return image.blob(image.digest)


def below(tail: str) -> Callable[[Image], str]:
    """A key inside of the repository."""
    return lambda image: f"{image.home}/{tail}"


def elsewhere(image: Image) -> str:
    """Let a layer link lead to another layer."""
    image.path(image.layer_link).write_text(image.other)
    return image.layer_link


def truncated(key: Callable[[Image], str]) -> Damage:
    """Cut the end off a file."""

    def damage(image: Image) -> str:
        path = image.path(key(image))
        os.truncate(path, path.stat().st_size - 7)
        return key(image)

    return damage


def rotten(image: Image) -> str:
    """Change one byte of a layer, its size staying as it is."""
    path = image.path(image.blob(image.layer))
    body = bytearray(path.read_bytes())
    body[100] ^= 1
    path.write_bytes(body)
    return image.blob(image.layer)


def abandoned(image: Image) -> str:
    """Leave an upload as distribution does when its client vanishes."""
    upload = f"{image.home}/_uploads/0d6f4f3c-2f5c-4b0a-8a52-1c1b1f1f1f1f"
    image.path(f"{upload}/startedat").write_text("2024-02-03T04:05:06Z")
    image.path(f"{upload}/data").write_bytes(b"half a layer")
    image.path(f"{upload}/hashstates/sha256/12").write_bytes(bytes(108))
    return upload


def moved_to_bad_tag(image: Image) -> str:
    """Make a tag whose name no client can ask for."""
    key = f"{image.home}/_manifests/tags/no tag!/current/link"
    image.path(key).write_text(image.digest)
    return key


def index_only(image: Image) -> str:
    """Leave of a tag what a delete that was killed half-way leaves."""
    image.path(f"{image.home}/_manifests/tags/old/index/{image.digest.replace(':', '/')}/link").write_text(image.digest)
    return f"{image.home}/_manifests/tags/old"


def bad_name(name: str) -> Damage:
    """Copy the repository to a name that is none."""

    def damage(image: Image) -> str:
        key = f"{ROOT}/repositories/{name}"
        shutil.copytree(image.data / image.home, image.data / key)
        return key

    return damage


def odd_bytes(image: Image) -> str:
    """Make a directory whose name is not UTF-8."""
    path = os.fsencode(image.data / image.home) + b"/_manifests/tags/\xff\xfe/current"
    os.makedirs(path)  # noqa: PTH103  # such a name makes no Path
    with open(path + b"/link", "w") as link:
        link.write(image.digest)
    return f"{image.home}/_manifests/tags/\\xff\\xfe"


def looped(image: Image) -> str:
    """Make a directory that leads upwards."""
    key = f"{image.home}/loop"
    image.path(key).symlink_to(".")
    return key


def self_looped(path: Path) -> None:
    """Make a link that leads to itself."""
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    """Make a link that leads nowhere."""
    path.symlink_to("nowhere")


def deleted_revision(image: Image) -> str:
    """Delete a manifest and leave its tag."""
    image.path(image.revision_link).unlink()
    return image.tag_link


def stray_tag(image: Image) -> str:
    """Put a file where the directories of tags are."""
    key = f"{image.home}/_manifests/tags/README"
    image.path(key).write_text("hello")
    return key


def stray_in_blobs(image: Image) -> str:
    """Put a blob into the wrong directory."""
    key = f"{ROOT}/blobs/sha256/zz/{'0' * 64}/data"
    image.path(key).write_text("hello")
    return key


NOWHERE = f"sha256:{'1' * 64}"
SHORT = NOWHERE[:20]

SCARS = [
    Scar("tag-empty", written(tag_link, ""), "link-empty", TAG),
    Scar("tag-short", written(tag_link, SHORT), "link-damaged", TAG),
    Scar("tag-long", written(tag_link, "x" * 9000), "link-damaged", TAG),
    Scar("tag-nowhere", written(tag_link, NOWHERE), "tag-dangling", TAG),
    Scar("tag-deleted-revision", deleted_revision, "tag-dangling", TAG),
    Scar("tag-dangling-symlink", replaced(tag_link, dangling), "symlink-dangling", TAG),
    Scar("tag-looping-symlink", replaced(tag_link, self_looped), "symlink-loop", TAG),
    Scar("tag-directory", replaced(tag_link, Path.mkdir), "directory", TAG, heals=False),
    Scar("tag-refused", moved_to_bad_tag, "tag-refused"),
    Scar("tag-leftover", index_only, "tag-leftover"),
    Scar("tag-odd-bytes", odd_bytes, "name-bytes"),
    Scar("tag-stray-file", stray_tag, "stray"),
    Scar("revision-empty", written(revision_link, ""), "link-empty", REVISION),
    Scar("revision-short", written(revision_link, SHORT), "link-damaged", REVISION),
    Scar("revision-elsewhere", written(revision_link, NOWHERE), "link-elsewhere", REVISION),
    Scar("revision-symlink", replaced(revision_link, dangling), "symlink-dangling", REVISION),
    Scar("revision-directory", replaced(revision_link, Path.mkdir), "directory", REVISION, heals=False),
    Scar("manifest-gone", removed(manifest_bytes, revision_link), "manifest-missing", REVISION),
    Scar("manifest-empty", written(manifest_bytes, ""), "manifest-damaged", REVISION),
    Scar("manifest-short", truncated(manifest_bytes), "manifest-damaged", REVISION),
    Scar("layer-link-empty", written(layer_link, ""), "link-empty", LAYER),
    Scar("layer-link-short", written(layer_link, SHORT), "link-damaged", LAYER),
    Scar("layer-link-elsewhere", elsewhere, "link-elsewhere", LAYER),
    Scar("layer-link-gone", removed(layer_link, revision_link), "manifest-incomplete", LAYER),
    Scar("layer-gone", removed(layer_bytes, layer_link), "link-dangling", LAYER),
    Scar("layer-empty", written(layer_bytes, ""), "blob-empty", LAYER),
    Scar("layer-short", truncated(layer_bytes), "blob-damaged", LAYER),
    Scar("layer-rotten", rotten, "blob-damaged", LAYER, quick=False),
    Scar("layer-symlink", replaced(layer_bytes, dangling), "symlink-dangling", LAYER),
    Scar("layer-looping-symlink", replaced(layer_bytes, self_looped), "symlink-loop", LAYER),
    Scar("layer-directory", replaced(layer_bytes, Path.mkdir), "directory", LAYER, heals=False),
    Scar("layer-pipe", replaced(layer_bytes, os.mkfifo), "special-file", LAYER),
    Scar("blob-stray", stray_in_blobs, "stray"),
    Scar("upload-abandoned", abandoned, "upload-abandoned"),
    Scar("temporary", written(below(f"_layers/sha256/{'0' * 64}/link.1b4e28ba.tmp"), "sha"), "temporary"),
    Scar("other-algorithm", written(below("_layers/sha384/00/link"), NOWHERE), "stray"),
    Scar("loop", looped, "symlink-loop"),
    Scar("stray-file", written(below("notes.txt"), "hello"), "stray"),
    Scar("name-upper-case", bad_name("scars/UPPER"), "name-refused"),
    Scar("name-space", bad_name("scars/with space"), "name-refused"),
    Scar("name-escape", bad_name("scars/\x1b[31m"), "name-refused"),
]


def lost(image: Image, loses: str | None) -> list[str]:
    """The addresses that have to answer 404."""
    manifests, blobs = f"/v2/{image.repository}/manifests", f"/v2/{image.repository}/blobs"
    by_digest = f"{manifests}/{image.digest}"
    return {TAG: [f"{manifests}/v1"], REVISION: [by_digest, f"{manifests}/v1"], LAYER: [f"{blobs}/{image.layer}"]}.get(
        loses or "", []
    )


def whole(client: Client, image: Image) -> None:
    """Read the image by its tag, and every byte of it."""
    answer = client.get_manifest(image.repository, "v1")
    assert (answer.status_code, digest_of(answer.content)) == (200, image.digest)
    assert client.get_manifest(image.repository, image.digest).content == answer.content
    for digest, body in client.ledger[image.repository].blobs.items():
        assert client.http.get(f"/v2/{image.repository}/blobs/{digest}").content == body
