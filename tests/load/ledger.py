"""What one client was told to be so in its own repositories, and whether it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from storage.digest import Digest
from tests.load.calls import Caller

JsonObject = dict[str, object]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was pushed. `references` are the digests of what has to be there with it."""

    body: bytes
    media_type: str
    references: frozenset[str]
    subject: str | None = None
    artifact_type: str | None = None


@dataclass(slots=True)
class Repository:
    """What was acknowledged; None where that was a deletion. Keys are digests as text, or tags.

    `sizes` has the length of every blob that was ever pushed. What was asked for and not acknowledged is *unsure*,
    until `settle`: it may be so, or not.
    """

    name: str
    blobs: dict[str, bool] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    manifests: dict[str, Manifest | None] = field(default_factory=dict)
    tags: dict[str, str | None] = field(default_factory=dict)
    unsure_blobs: set[str] = field(default_factory=set)
    unsure_manifests: dict[str, Manifest] = field(default_factory=dict)
    unsure_tags: dict[str, set[str]] = field(default_factory=dict)

    @property
    def held_blobs(self) -> list[str]:
        """Digests of the blobs that are there."""
        return [digest for digest, is_there in self.blobs.items() if is_there]

    @property
    def held_manifests(self) -> dict[str, Manifest]:
        """The manifests that are there."""
        return {digest: manifest for digest, manifest in self.manifests.items() if manifest is not None}

    @property
    def held_tags(self) -> dict[str, str]:
        """The tags that are there, and where they point."""
        return {tag: digest for tag, digest in self.tags.items() if digest is not None}

    def needs(self, digest: str) -> bool:
        """Whether a manifest refers to that blob or manifest."""
        return any(digest in manifest.references for manifest in self.held_manifests.values())

    def begin_blob(self, digest: str, size: int) -> None:
        """A blob is on its way: nobody may see it yet, unless it was there before."""
        self.sizes[digest] = size
        self.blobs.setdefault(digest, False)

    def ask_for_blob(self, digest: str) -> None:
        """The request that ends an upload is sent."""
        if not self.blobs[digest]:
            self.unsure_blobs.add(digest)

    def keep_blob(self, digest: str) -> None:
        """It was acknowledged."""
        self.blobs[digest] = True
        self.unsure_blobs.discard(digest)

    def ask_for_manifest(self, digest: str, manifest: Manifest, tags: Sequence[str] = ()) -> None:
        """A manifest is sent."""
        if self.manifests.setdefault(digest, None) is None:
            self.unsure_manifests[digest] = manifest
        for tag in tags:
            self.tags.setdefault(tag, None)
            self.unsure_tags.setdefault(tag, set()).add(digest)

    def keep_manifest(self, digest: str, manifest: Manifest, tags: Sequence[str] = ()) -> None:
        """It was acknowledged."""
        self.manifests[digest] = manifest
        self.unsure_manifests.pop(digest, None)
        for tag in tags:
            self.tags[tag] = digest
            self.unsure_tags.pop(tag, None)

    def drop_manifest(self, digest: str) -> None:
        """A manifest was deleted, and with it the tags that pointed at it."""
        self.manifests[digest] = None
        for tag in [tag for tag, pointed in self.held_tags.items() if pointed == digest]:
            self.tags[tag] = None

    def referrers(self, subject: str, artifact_type: str | None = None) -> set[str]:
        """The digests of manifests that name a subject."""
        return {
            digest
            for digest, manifest in self.held_manifests.items()
            if manifest.subject == subject and artifact_type in (None, manifest.artifact_type)
        }


def settle(caller: Caller, repository: Repository) -> None:
    """Look what has become of what is unsure; then the ledger says what `check` has to find. Raises AssertionError."""
    path = f"/v2/{repository.name}"
    for digest in repository.unsure_blobs:
        repository.blobs[digest] = caller.send("HEAD", f"{path}/blobs/{digest}", expected=[200, 404]).status == 200
    for digest, manifest in repository.unsure_manifests.items():
        found = caller.send("HEAD", f"{path}/manifests/{digest}", expected=[200, 404])
        repository.manifests[digest] = manifest if found.status == 200 else None
    for tag, digests in repository.unsure_tags.items():
        found = caller.send("HEAD", f"{path}/manifests/{tag}", expected=[200, 404])
        pointed = found.headers["docker-content-digest"] if found.status == 200 else None
        known = {*digests, repository.tags[tag]}
        assert pointed in known, f"{path}/manifests/{tag}: {pointed} and none of {known}"
        repository.tags[tag] = pointed
    repository.unsure_blobs, repository.unsure_manifests, repository.unsure_tags = set(), {}, {}


def check(caller: Caller, repository: Repository) -> None:
    """Read everything back to the byte, and see that what was deleted is gone. Raises AssertionError, Lost."""
    for digest in repository.blobs:
        check_blob(caller, repository, digest)
    for digest in repository.manifests:
        check_manifest(caller, repository, digest)
    for tag in repository.tags:
        check_manifest(caller, repository, tag)
    check_tags(caller, repository, page=1000)
    subjects = {manifest.subject for manifest in repository.manifests.values() if manifest and manifest.subject}
    for subject in subjects:
        check_referrers(caller, repository, subject)


def check_blob(caller: Caller, repository: Repository, digest: str) -> None:
    """Read a blob, or find it gone."""
    path = f"/v2/{repository.name}/blobs/{digest}"
    if not repository.blobs[digest]:
        caller.send("HEAD", path, expected=[404])
        caller.send("GET", path, expected=[404])
        return
    head = caller.send("HEAD", path, expected=[200])
    assert head.headers["content-length"] == str(repository.sizes[digest])
    body = caller.send("GET", path, expected=[200]).body
    assert str(Digest.of(body, Digest.parse(digest).algorithm)) == digest, f"{path}: other bytes"


def check_manifest(caller: Caller, repository: Repository, reference: str) -> None:
    """Read a manifest by its digest or a tag, or find it gone."""
    path = f"/v2/{repository.name}/manifests/{reference}"
    digest = reference if ":" in reference else repository.tags[reference]
    manifest = None if digest is None else repository.manifests[digest]
    if manifest is None:
        caller.send("HEAD", path, expected=[404])
        caller.send("GET", path, expected=[404])
        return
    answer = caller.send("GET", path, expected=[200])
    assert answer.body == manifest.body, f"{path}: other bytes"
    assert answer.headers["docker-content-digest"] == digest, f"{path}: {answer.headers}"
    assert answer.headers["content-type"] == manifest.media_type, f"{path}: {answer.headers}"
    unchanged = caller.send("GET", path, headers={"If-None-Match": f'"{digest}"'}, expected=[304])
    assert unchanged.body == b""


def check_tags(caller: Caller, repository: Repository, *, page: int) -> None:
    """List all tags, so many at a time."""
    expected = sorted(repository.held_tags)
    if not expected and not repository.manifests:
        return
    listed = list(pages(caller, f"/v2/{repository.name}/tags/list?n={page}", "tags"))
    assert listed == expected, f"{repository.name}: {listed} and not {expected}"


def check_referrers(caller: Caller, repository: Repository, subject: str, artifact_type: str | None = None) -> None:
    """List what refers to a subject, of one type if that is given."""
    query = "" if artifact_type is None else f"?artifactType={artifact_type}"
    answer = caller.send("GET", f"/v2/{repository.name}/referrers/{subject}{query}", expected=[200])
    listed: list[Mapping[str, object]] = json.loads(answer.body)["manifests"]
    digests = [str(entry["digest"]) for entry in listed]
    assert len(digests) == len(set(digests)), digests
    assert set(digests) == repository.referrers(subject, artifact_type), f"{repository.name}: {subject}: {digests}"
    for entry in listed:
        assert entry["size"] == len(repository.held_manifests[str(entry["digest"])].body)


def pages(caller: Caller, path: str, name: str) -> Iterator[str]:
    """Every entry of a listing, along its Link headers."""
    while path:
        answer = caller.send("GET", path, expected=[200])
        yield from json.loads(answer.body)[name]
        path = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
