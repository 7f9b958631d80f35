"""What the registry says over plain HTTP about the things that clients pushed."""

import hashlib
from dataclasses import dataclass

import httpx

from tests.clients.layouts import DOCKER_LIST, DOCKER_MANIFEST, INDEX, MANIFEST

ACCEPTED = ", ".join([MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST])


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was served, its digest proven by its bytes."""

    body: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class Contents:
    """The registry at `address` (host:port)."""

    address: str

    def manifest(self, repository: str, reference: str) -> Manifest:
        """Fetch a manifest; what it says about itself must be true."""
        answer = httpx.get(self._url(repository, "manifests", reference), headers={"Accept": ACCEPTED})
        assert answer.status_code == 200, answer.text
        digest = answer.headers["docker-content-digest"]
        algorithm = digest.partition(":")[0]
        assert digest == f"{algorithm}:{hashlib.new(algorithm, answer.content).hexdigest()}"
        assert int(answer.headers["content-length"]) == len(answer.content)
        return Manifest(answer.content, answer.headers["content-type"], digest)

    def has_manifest(self, repository: str, reference: str) -> bool:
        """Whether a tag or digest is there: 200 or 404, nothing else."""
        return self._exists(self._url(repository, "manifests", reference))

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the repository has a blob: 200 or 404, nothing else."""
        return self._exists(self._url(repository, "blobs", digest))

    def blob(self, repository: str, digest: str) -> bytes:
        """Fetch a blob."""
        answer = httpx.get(self._url(repository, "blobs", digest), follow_redirects=True)
        assert answer.status_code == 200, answer.text
        return answer.content

    def tags(self, repository: str) -> list[str]:
        """List the tags."""
        answer = httpx.get(self._url(repository, "tags", "list"))
        assert answer.status_code == 200, answer.text
        tags: list[str] = answer.json()["tags"]
        return tags

    def referrers(self, repository: str, digest: str) -> list[str]:
        """List the digests of the manifests whose subject this is."""
        answer = httpx.get(self._url(repository, "referrers", digest))
        assert answer.status_code == 200, answer.text
        return [manifest["digest"] for manifest in answer.json()["manifests"]]

    def _exists(self, url: str) -> bool:
        answer = httpx.head(url, headers={"Accept": ACCEPTED})
        assert answer.status_code in {200, 404}, answer
        return answer.status_code == 200

    def _url(self, repository: str, kind: str, what: str) -> str:
        return f"http://{self.address}/v2/{repository}/{kind}/{what}"
