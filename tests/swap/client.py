"""A client that pushes, moves and deletes, and remembers what has to be there."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import httpx

OCI_IMAGE = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
ACCEPT = ", ".join((OCI_IMAGE, OCI_INDEX, DOCKER_IMAGE, DOCKER_LIST))

Descriptor = dict[str, object]


def digest_of(body: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of bytes as text."""
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


@dataclass(slots=True)
class Contents:
    """What one repository has to hold, and what was taken from it."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    gone_tags: set[str] = field(default_factory=set)
    gone_manifests: set[str] = field(default_factory=set)

    def referrers(self, subject: str) -> list[str]:
        """Return the digests of manifests that name a subject, sorted."""
        bodies = {digest: json.loads(body) for digest, (_, body) in self.manifests.items()}
        return sorted(d for d, fields in bodies.items() if fields.get("subject", {}).get("digest") == subject)


class Ledger:
    """What a store has to hold, whoever serves it. The bytes of layers come from a seeded generator."""

    def __init__(self, seed: int = 0) -> None:
        self.repositories: dict[str, Contents] = {}
        self.random = random.Random(seed)

    def __getitem__(self, repository: str) -> Contents:
        return self.repositories.setdefault(repository, Contents())


class Client:
    """One registry, spoken to as a client does, and the ledger that is kept of it."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)
        self.ledger = ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def push_blob(self, repository: str, body: bytes, media_type: str, *, algorithm: str = "sha256") -> Descriptor:
        """Push a blob by PATCH and PUT, and return its descriptor."""
        digest = digest_of(body, algorithm)
        location = self._ok(self.http.post(f"/v2/{repository}/blobs/uploads/"), 202).headers["location"]
        stream = {"content-type": "application/octet-stream"}
        location = self._ok(self.http.patch(location, content=body, headers=stream), 202).headers["location"]
        self._ok(self.http.put(httpx.URL(location).copy_add_param("digest", digest)), 201)
        self.ledger[repository].blobs[digest] = body
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def mount(self, repository: str, descriptor: Mapping[str, object], source: str | None) -> Descriptor:
        """Mount a blob from `source`, or from wherever it is."""
        parameters = {"mount": str(descriptor["digest"])} | ({"from": source} if source else {})
        self._ok(self.http.post(f"/v2/{repository}/blobs/uploads/", params=parameters), 201)
        body = next(
            c.blobs[parameters["mount"]] for c in self.ledger.repositories.values() if parameters["mount"] in c.blobs
        )
        self.ledger[repository].blobs[parameters["mount"]] = body
        return dict(descriptor)

    def push_manifest(
        self, repository: str, fields: Mapping[str, object], *, tag: str | None = None, algorithm: str = "sha256"
    ) -> Descriptor:
        """Push a manifest under a tag, or under its digest."""
        body, media_type = json.dumps(fields, indent=1).encode(), str(fields["mediaType"])
        digest = digest_of(body, algorithm)
        url = f"/v2/{repository}/manifests/{tag or digest}"
        self._ok(self.http.put(url, content=body, headers={"content-type": media_type}), 201)
        contents = self.ledger[repository]
        contents.manifests[digest] = (media_type, body)
        contents.gone_manifests.discard(digest)
        if tag:
            contents.tags[tag] = digest
            contents.gone_tags.discard(tag)
        return {"mediaType": media_type, "digest": digest, "size": len(body)}

    def push_image(
        self,
        repository: str,
        tag: str | None,
        *,
        docker: bool = False,
        layers: Sequence[Descriptor] = (),
        algorithm: str = "sha256",
    ) -> Descriptor:
        """Push an image of two layers of its own, and of those given."""
        config, layer, manifest = (
            (DOCKER_CONFIG, DOCKER_LAYER, DOCKER_IMAGE) if docker else (OCI_CONFIG, OCI_LAYER, OCI_IMAGE)
        )
        own = [self.push_blob(repository, self._bytes(), layer, algorithm=algorithm) for _ in range(2)]
        text = json.dumps({"architecture": "amd64", "os": "linux", "id": self._bytes(8).hex()}).encode()
        fields = {
            "schemaVersion": 2,
            "mediaType": manifest,
            "config": self.push_blob(repository, text, config),
            "layers": [*({**each, "mediaType": layer} for each in layers), *own],
        }
        return self.push_manifest(repository, fields, tag=tag)

    def push_index(
        self, repository: str, tag: str, manifests: Sequence[Descriptor], *, docker: bool = False
    ) -> Descriptor:
        """Push an index of images."""
        entries = [
            {**each, "platform": {"os": "linux", "architecture": name}}
            for each, name in zip(manifests, ("amd64", "arm64", "s390x"), strict=False)
        ]
        kind = DOCKER_LIST if docker else OCI_INDEX
        return self.push_manifest(repository, {"schemaVersion": 2, "mediaType": kind, "manifests": entries}, tag=tag)

    def push_artifact(self, repository: str, subject: Descriptor, artifact_type: str) -> Descriptor:
        """Push an artifact that refers to a subject, untagged."""
        fields = {
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE,
            "artifactType": artifact_type,
            "config": self.push_blob(repository, b"{}", OCI_EMPTY),
            "layers": [self.push_blob(repository, self._bytes(), artifact_type)],
            "subject": subject,
            "annotations": {"org.example.number": self._bytes(4).hex()},
        }
        return self.push_manifest(repository, fields)

    def delete_tag(self, repository: str, tag: str) -> None:
        """Delete a tag alone."""
        self._ok(self.http.delete(f"/v2/{repository}/manifests/{tag}"), 202)
        del self.ledger[repository].tags[tag]
        self.ledger[repository].gone_tags.add(tag)

    def delete_manifest(self, repository: str, digest: str) -> None:
        """Delete a manifest and every tag that points at it."""
        self._ok(self.http.delete(f"/v2/{repository}/manifests/{digest}"), 202)
        contents = self.ledger[repository]
        contents.gone_tags |= {tag for tag, target in contents.tags.items() if target == digest}
        contents.tags = {tag: target for tag, target in contents.tags.items() if target != digest}
        contents.gone_manifests.add(digest)
        del contents.manifests[digest]

    def check(self, *, pierhead: bool) -> None:
        """Read everything there has to be, byte by byte, and see that what was deleted stays so."""
        for repository, contents in self.ledger.repositories.items():
            listed = self._ok(self.http.get(f"/v2/{repository}/tags/list"), 200).json()["tags"] or []
            # 2.8 lists in the order of the directory.
            assert (listed if pierhead else sorted(listed)) == sorted(contents.tags)
            for tag, digest in contents.tags.items():
                self._check_manifest(repository, tag, digest, contents)
            for digest in contents.manifests:
                self._check_manifest(repository, digest, digest, contents)
                if pierhead:
                    assert self.referrers(repository, digest) == contents.referrers(digest)
            for reference in contents.gone_manifests | contents.gone_tags:
                assert self.get_manifest(repository, reference).status_code == 404, reference
            for digest, body in contents.blobs.items():
                assert self._ok(self.http.get(f"/v2/{repository}/blobs/{digest}"), 200).content == body
                assert self.http.head(f"/v2/{repository}/blobs/{digest}").headers["content-length"] == str(len(body))
        named = {name for name, contents in self.ledger.repositories.items() if contents.manifests}
        assert named <= set(self.catalog())
        if pierhead:
            assert self.catalog() == sorted(self.catalog())

    def catalog(self) -> list[str]:
        """Return the names of all repositories."""
        names: list[str] = self._ok(self.http.get("/v2/_catalog", params={"n": 1000}), 200).json()["repositories"]
        return names

    def referrers(self, repository: str, subject: str) -> list[str]:
        """Return the digests of the referrers of a subject, sorted."""
        index = self._ok(self.http.get(f"/v2/{repository}/referrers/{subject}"), 200).json()
        return sorted(entry["digest"] for entry in index["manifests"])

    def get_manifest(self, repository: str, reference: str) -> httpx.Response:
        """Ask for a manifest as a client does that takes every type."""
        return self.http.get(f"/v2/{repository}/manifests/{reference}", headers={"accept": ACCEPT})

    def _check_manifest(self, repository: str, reference: str, digest: str, contents: Contents) -> None:
        media_type, body = contents.manifests[digest]
        answer = self._ok(self.get_manifest(repository, reference), 200)
        assert answer.content == body, reference
        assert answer.headers["content-type"] == media_type
        assert answer.headers["docker-content-digest"] in {digest, digest_of(body)}

    def _bytes(self, count: int = 3000) -> bytes:
        return self.ledger.random.randbytes(count)

    def _ok(self, answer: httpx.Response, status: int) -> httpx.Response:
        assert answer.status_code == status, f"{answer.request.method} {answer.url}: {answer.status_code} {answer.text}"
        return answer
