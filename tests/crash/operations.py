"""What clients do to a registry, request by request, each with what it promises when it is acknowledged."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from registry import media_types
from tests.crash.clients import Answer, Client
from tests.crash.promises import (
    GONE,
    THERE,
    Blob,
    Effects,
    Item,
    Kept,
    Ledger,
    Manifest,
    Outcome,
    Referrer,
    Tag,
    Upload,
    hash_of,
)

SMALL = 3000
LARGE = 2_500_000

_random = random.Random(0)


def bytes_of(size: int) -> bytes:
    """Bytes that nobody had before."""
    return _random.randbytes(size)


@dataclass(slots=True)
class Story:
    """One client after another, and the ledger of what they were told.

    Each request has a number; `told` has what was acknowledged to it, `meanwhile` what may be seen before it is
    answered, beyond the old and the new. `durable_begin` says that a session must
    be there once its POST was answered; a power cut may lose it until its first bytes are acknowledged.
    """

    client: Client
    ledger: Ledger
    durable_begin: bool = True
    told: dict[int, Effects] = field(default_factory=dict)
    meanwhile: dict[int, Effects] = field(default_factory=dict)
    number: int = 0

    def ask(
        self,
        effects: Effects,
        method: str,
        target: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        expect: tuple[int, ...] = (201,),
        meanwhile: Effects | None = None,
    ) -> Answer:
        """Send one request whose effects are known. Raises Lost."""
        self.number += 1
        number = self.number
        self.told[number] = effects
        self.meanwhile[number] = meanwhile or {}
        self.ledger.begin(self.meanwhile[number])
        self.ledger.begin(effects)
        answer = self.client.request(method, target, body, headers, number=number)
        assert answer.status in expect, f"{method} {target}: {answer.status} {answer.body!r}"
        self.ledger.acknowledge(effects)
        return answer

    def begin(self, repository: str, query: str = "") -> Upload:
        """POST: a session."""
        answer = self.ask({}, "POST", f"/v2/{repository}/blobs/uploads/{query}", expect=(202,))
        upload = Upload(repository, answer.headers["docker-upload-uuid"])
        self.ledger.sent[upload] = b""
        if self.durable_begin:
            self.told[self.number] = {upload: Kept(0, 0)}
            self.ledger.acknowledge(self.told[self.number])
        return upload

    def append(self, upload: Upload, body: bytes, *, ranged: bool = False) -> None:
        """PATCH: a chunk, or a stream."""
        start = len(self.ledger.sent[upload])
        self.ledger.sent[upload] += body
        headers = {"content-range": f"{start}-{start + len(body) - 1}"} if ranged else {}
        effects: Effects = {upload: Kept(start, start + len(body))}
        self.ask(effects, "PATCH", _at(upload), body, headers, expect=(202,))

    def finish(self, upload: Upload, body: bytes = b"", *, algorithm: str = "sha256") -> Blob:
        """PUT: the last bytes and the digest."""
        self.ledger.sent[upload] += body
        whole = self.ledger.sent[upload]
        blob = Blob(upload.repository, self._known(whole, algorithm))
        effects: Effects = {blob: THERE, upload: GONE}
        # Its bytes may have been kept before they were a blob.
        meanwhile: Effects = {upload: Kept(len(whole) - len(body), len(whole))} if body else {}
        self.ask(effects, "PUT", f"{_at(upload)}?digest={blob.digest}", body, meanwhile=meanwhile)
        return blob

    def post(self, repository: str, body: bytes) -> Blob:
        """POST: a blob in one request."""
        blob = Blob(repository, self._known(body))
        self.ask({blob: THERE}, "POST", f"/v2/{repository}/blobs/uploads/?digest={blob.digest}", body)
        return blob

    def mount(self, repository: str, blob: Blob, *, named: bool) -> Blob:
        """POST: a blob that another repository has."""
        mounted = Blob(repository, blob.digest)
        source = f"&from={blob.repository}" if named else ""
        self.ask({mounted: THERE}, "POST", f"/v2/{repository}/blobs/uploads/?mount={blob.digest}{source}")
        return mounted

    def manifest(self, repository: str, content: Mapping[str, object], *, media_type: str, algorithm: str) -> Manifest:
        """Write down a manifest, without pushing it."""
        body = json.dumps(content).encode()
        manifest = Manifest(repository, self._known(body, algorithm))
        self.ledger.media_types[manifest.digest] = media_type
        return manifest

    def put(self, manifest: Manifest, *tags: str, by_digest: bool = False, subject: str = "") -> None:
        """PUT: a manifest under a tag, or under its digest with tags or without."""
        repository, digest = manifest.repository, manifest.digest
        effects: dict[Item, Outcome] = {manifest: THERE}
        effects |= {Tag(repository, tag): digest for tag in tags}
        if subject:
            effects[Referrer(repository, subject, digest)] = THERE
        reference = digest if by_digest else tags[0]
        query = f"?{'&'.join(f'tag={tag}' for tag in tags)}" if by_digest and tags else ""
        headers = {"content-type": self.ledger.media_types[digest]}
        target = f"/v2/{repository}/manifests/{reference}{query}"
        self.ask(effects, "PUT", target, self.ledger.contents[digest], headers)

    def delete_tag(self, repository: str, tag: str) -> None:
        """DELETE of a tag; one that is gone already is as good."""
        effects: Effects = {Tag(repository, tag): GONE}
        self.ask(effects, "DELETE", f"/v2/{repository}/manifests/{tag}", expect=(202, 404))

    def delete_manifest(self, manifest: Manifest, *tags: str, subject: str = "") -> None:
        """DELETE of a manifest, which takes `tags` with it."""
        effects: dict[Item, Outcome] = {manifest: GONE}
        effects |= {Tag(manifest.repository, tag): GONE for tag in tags}
        if subject:
            effects[Referrer(manifest.repository, subject, manifest.digest)] = GONE
        target = f"/v2/{manifest.repository}/manifests/{manifest.digest}"
        self.ask(effects, "DELETE", target, expect=(202, 404))

    def delete_blob(self, blob: Blob) -> None:
        """DELETE of a blob."""
        self.ask({blob: GONE}, "DELETE", f"/v2/{blob.repository}/blobs/{blob.digest}", expect=(202, 404))

    def cancel(self, upload: Upload) -> None:
        """DELETE of a session."""
        self.ask({upload: GONE}, "DELETE", _at(upload), expect=(204, 404))

    def image(
        self, repository: str, *, media_type: str = media_types.IMAGE, named: bool = True, algorithm: str = "sha256"
    ) -> Manifest:
        """Push a config and a layer, and write down the manifest of them."""
        config, layer = self.post(repository, bytes_of(SMALL)), self.post(repository, bytes_of(SMALL))
        content = {
            "schemaVersion": 2,
            **({"mediaType": media_type} if named else {}),
            "config": self.descriptor(config.digest, "application/vnd.oci.image.config.v1+json"),
            "layers": [self.descriptor(layer.digest, "application/vnd.oci.image.layer.v1.tar")],
        }
        return self.manifest(repository, content, media_type=media_type, algorithm=algorithm)

    def index(self, *manifests: Manifest) -> Manifest:
        """Write down an index of manifests."""
        listed = [self.descriptor(each.digest, self.ledger.media_types[each.digest]) for each in manifests]
        content = {"schemaVersion": 2, "mediaType": media_types.INDEX, "manifests": listed}
        return self.manifest(manifests[0].repository, content, media_type=media_types.INDEX, algorithm="sha256")

    def referrer(self, subject: Manifest) -> Manifest:
        """Push a config and write down a manifest that refers to a subject."""
        config = self.post(subject.repository, bytes_of(SMALL))
        content = {
            "schemaVersion": 2,
            "mediaType": media_types.IMAGE,
            "artifactType": "application/vnd.example.signature",
            "config": self.descriptor(config.digest, "application/vnd.oci.empty.v1+json"),
            "layers": [],
            "subject": self.descriptor(subject.digest, self.ledger.media_types[subject.digest]),
        }
        return self.manifest(subject.repository, content, media_type=media_types.IMAGE, algorithm="sha256")

    def descriptor(self, digest: str, media_type: str) -> Mapping[str, object]:
        """What refers to content."""
        return {"mediaType": media_type, "digest": digest, "size": len(self.ledger.contents[digest])}

    def _known(self, body: bytes, algorithm: str = "sha256") -> str:
        digest = hash_of(body, algorithm)
        self.ledger.contents[digest] = body
        return digest


Run = Callable[[], None]
Operation = Callable[[Story, str], Run]
"""Prepares in a repository, and returns what is to be interrupted. That can be run again."""


def stream(story: Story, repository: str) -> Run:
    body = bytes_of(SMALL)

    def run() -> None:
        upload = story.begin(repository)
        story.append(upload, body)
        story.finish(upload)

    return run


def large_stream(story: Story, repository: str) -> Run:
    body = bytes_of(LARGE)

    def run() -> None:
        upload = story.begin(repository)
        story.append(upload, body)
        story.finish(upload)

    return run


def chunks(story: Story, repository: str) -> Run:
    first, second, third = (bytes_of(SMALL) for _ in range(3))

    def run() -> None:
        upload = story.begin(repository)
        story.append(upload, first, ranged=True)
        story.append(upload, second, ranged=True)
        story.finish(upload, third)

    return run


def whole_put(story: Story, repository: str) -> Run:
    body = bytes_of(SMALL)
    return lambda: void(story.finish(story.begin(repository), body))


def whole_post(story: Story, repository: str) -> Run:
    body = bytes_of(SMALL)
    return lambda: void(story.post(repository, body))


def post_again(story: Story, repository: str) -> Run:
    body = bytes_of(SMALL)
    story.post(repository, body)
    return lambda: void(story.post(repository, body))


def sha512_stream(story: Story, repository: str) -> Run:
    body = bytes_of(SMALL)

    def run() -> None:
        upload = story.begin(repository, "?digest-algorithm=sha512")
        story.append(upload, body)
        story.finish(upload, algorithm="sha512")

    return run


def mount(story: Story, repository: str) -> Run:
    blob = story.post(f"{repository}-source", bytes_of(SMALL))
    return lambda: void(story.mount(repository, blob, named=True))


def mount_from_anywhere(story: Story, repository: str) -> Run:
    blob = story.post(f"{repository}-source", bytes_of(SMALL))
    return lambda: void(story.mount(repository, blob, named=False))


def first_manifest(story: Story, repository: str) -> Run:
    manifest = story.image(repository)
    return lambda: story.put(manifest, "latest")


def manifest_with_tags(story: Story, repository: str) -> Run:
    manifest = story.image(repository)
    return lambda: story.put(manifest, "1", "1.2", by_digest=True)


def unnamed_manifest(story: Story, repository: str) -> Run:
    manifest = story.image(repository, media_type=media_types.DOCKER_IMAGE, named=False)
    return lambda: story.put(manifest, "latest")


def sha512_manifest(story: Story, repository: str) -> Run:
    manifest = story.image(repository, algorithm="sha512")
    return lambda: story.put(manifest, "latest", by_digest=True)


def tag_move(story: Story, repository: str) -> Run:
    story.put(story.image(repository), "latest")
    manifest = story.image(repository)
    return lambda: story.put(manifest, "latest")


def index(story: Story, repository: str) -> Run:
    images = [story.image(repository) for _ in range(2)]
    for image in images:
        story.put(image, by_digest=True)
    manifest = story.index(*images)
    return lambda: story.put(manifest, "multi")


def referrer(story: Story, repository: str) -> Run:
    subject = story.image(repository)
    story.put(subject, "latest")
    manifest = story.referrer(subject)
    return lambda: story.put(manifest, by_digest=True, subject=subject.digest)


def tag_deletion(story: Story, repository: str) -> Run:
    story.put(story.image(repository), "old", "kept", by_digest=True)
    return lambda: story.delete_tag(repository, "old")


def manifest_deletion(story: Story, repository: str) -> Run:
    story.put(story.image(repository), "kept")
    manifest = story.image(repository)
    story.put(manifest, "1", "2", by_digest=True)
    return lambda: story.delete_manifest(manifest, "1", "2")


def unnamed_manifest_deletion(story: Story, repository: str) -> Run:
    manifest = story.image(repository, media_type=media_types.DOCKER_IMAGE, named=False)
    story.put(manifest, "latest")
    return lambda: story.delete_manifest(manifest, "latest")


def referrer_deletion(story: Story, repository: str) -> Run:
    subject = story.image(repository)
    story.put(subject, "latest")
    manifest = story.referrer(subject)
    story.put(manifest, by_digest=True, subject=subject.digest)
    return lambda: story.delete_manifest(manifest, subject=subject.digest)


def blob_deletion(story: Story, repository: str) -> Run:
    story.post(repository, bytes_of(SMALL))
    blob = story.post(repository, bytes_of(SMALL))
    return lambda: story.delete_blob(blob)


def cancellation(story: Story, repository: str) -> Run:
    upload = story.begin(repository)
    story.append(upload, bytes_of(SMALL))
    return lambda: story.cancel(upload)


OPERATIONS: tuple[Operation, ...] = (
    stream, large_stream, chunks, whole_put, whole_post, post_again, sha512_stream, mount, mount_from_anywhere,
    first_manifest, manifest_with_tags, unnamed_manifest, sha512_manifest, tag_move, index, referrer,
    tag_deletion, manifest_deletion, unnamed_manifest_deletion, referrer_deletion, blob_deletion, cancellation,
)  # fmt: skip


def void(_result: object) -> None:
    """Nothing, whatever it was."""


def _at(upload: Upload) -> str:
    return f"/v2/{upload.repository}/blobs/uploads/{upload.id}"
