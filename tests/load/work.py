"""A client that does everything there is to do, in an order that its seed decides, in repositories of its own."""

import json
import random
from collections.abc import Callable
from functools import partial

from registry.media_types import DOCKER_IMAGE, DOCKER_LIST, IMAGE, INDEX
from storage.digest import SHA256, SHA512, Digest
from tests.load import ledger
from tests.load.calls import Body, Caller, code_of, either
from tests.load.ledger import Manifest, Repository
from tests.load.shapes import SHAPES, Blob
from tests.races.clients import Answer

TAGS = [f"v{number}" for number in range(12)]
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
ARTIFACT_TYPES = ["application/vnd.example.signature", "application/vnd.example.sbom"]
BLOBS_MAX = 120
"""Blobs that a repository may have before more are deleted than pushed."""

SHARED = "work/shared"


class Worker:
    """Does one thing after the other. What goes on at its own repositories is told by its ledgers to the byte."""

    def __init__(self, caller: Caller, number: int, seed: str) -> None:
        self.repositories = [Repository(f"work/client{number}/{part}") for part in ("app", "base/image")]
        self.steps = 0
        self._caller = caller
        self._number = number
        self._chance = random.Random(f"{seed} {number}")
        self._work: list[tuple[int, Callable[[Repository], None]]] = [
            (24, self._push_blob),
            (14, self._push_image),
            (4, self._push_index),
            (7, self._push_artifact),
            (6, self._move_tag),
            (6, self._mount),
            (5, self._delete_tag),
            (4, self._delete_manifest),
            (5, self._delete_blob),
            (9, self._read_blob),
            (9, self._read_manifest),
            (5, self._read_range),
            (6, self._list),
            (6, self._share),
        ]

    def step(self) -> None:
        """Do something. Raises AssertionError if an answer is not what the ledgers say that it must be."""
        weights = [weight for weight, _ in self._work]
        repository = self._chance.choice(self.repositories)
        _, work = self._chance.choices(self._work, weights)[0]
        if len(repository.held_blobs) > BLOBS_MAX and work == self._push_blob:
            work = self._delete_blob
        work(repository)
        self.steps += 1

    def check(self) -> None:
        """Compare everything with the ledgers."""
        for repository in self.repositories:
            self._caller.until_answered(partial(ledger.check, self._caller, repository))

    # Blobs

    def _push_blob(self, repository: Repository) -> None:
        self._new_blob(repository)

    def _new_blob(self, repository: Repository) -> str:
        chance = self._chance
        size = chance.choice([0, 1, 2, 700, 5000, 65_536, 70_000, 300_000, 1 << 20, 5_000_000])
        algorithm = chance.choice([SHA256] * 4 + [SHA512])
        return self._upload(repository, chance.randbytes(size), algorithm)

    def _upload(self, repository: Repository, content: bytes, algorithm: str = SHA256) -> str:
        digest, shape, seed = Digest.of(content, algorithm), self._chance.choice(SHAPES), self._chance.random()
        blob = Blob(repository.name, digest, content)
        self._caller.until_answered(lambda: shape(self._caller, blob, random.Random(seed)))
        repository.blobs[str(digest)] = True
        repository.sizes[str(digest)] = len(content)
        if not repository.blobs.get(str(Digest.of(content))):
            # Pushed under sha512 it can be read under sha256 as well, unless it was there and the client saw that.
            repository.blobs.pop(str(Digest.of(content)), None)
        return str(digest)

    def _mount(self, repository: Repository) -> None:
        source = self._chance.choice(self.repositories)
        known = [digest for digest in source.blobs if digest.startswith(SHA256)]
        if not known:
            return
        digest = self._chance.choice(known)
        hint = self._chance.choice([f"&from={source.name}", f"&from={source.name}", "&from=work/nowhere", ""])
        path = f"/v2/{repository.name}/blobs/uploads/?mount={digest}{hint}"
        mounted = self._answer("POST", path, expected=[201, 202])
        if mounted.status == 202:
            assert not (source.blobs[digest] and source.name in hint), f"{path}: it is there"
            self._delete(mounted.headers["location"], status=204)
            return
        assert hint != "&from=work/nowhere", path
        if source.name in hint:
            assert source.blobs[digest], f"{path}: it is gone"
        repository.blobs[digest] = True
        repository.sizes[digest] = source.sizes[digest]

    def _delete_blob(self, repository: Repository) -> None:
        if not repository.blobs:
            return
        digest = self._chance.choice(list(repository.blobs))
        path = f"/v2/{repository.name}/blobs/{digest}"
        if not repository.blobs[digest]:
            self._answer("DELETE", path, expected=[404])
        elif repository.needs(digest):
            refused = self._answer("DELETE", path, expected=[405])
            assert code_of(refused) == "UNSUPPORTED"
        else:
            self._delete(path)
            repository.blobs[digest] = False

    def _read_blob(self, repository: Repository) -> None:
        if repository.blobs:
            digest = self._chance.choice(list(repository.blobs))
            self._caller.until_answered(lambda: ledger.check_blob(self._caller, repository, digest))

    def _read_range(self, repository: Repository) -> None:
        held = [digest for digest in repository.held_blobs if repository.sizes[digest] > 1]
        if not held:
            return
        digest = self._chance.choice(held)
        path, size = f"/v2/{repository.name}/blobs/{digest}", repository.sizes[digest]
        start = self._chance.randrange(size)
        end = self._chance.randrange(start, size)
        whole = self._answer("GET", path, expected=[200]).body
        for text, part in (
            (f"{start}-{end}", whole[start : end + 1]),
            (f"{start}-", whole[start:]),
            (f"-{size - start}", whole[start:]),
        ):
            headers = {"Range": f"bytes={text}", "If-Range": f'"{digest}"'}
            answer = self._answer("GET", path, headers=headers, expected=[206])
            assert answer.body == part, (path, text)
            assert answer.headers["content-range"].endswith(f"/{size}"), answer.headers
        self._answer("GET", path, headers={"Range": f"bytes={size}-"}, expected=[416])
        self._answer("GET", path, headers={"If-None-Match": f'"{digest}"'}, expected=[304])

    # Manifests

    def _push_image(self, repository: Repository) -> None:
        config = self._upload(repository, json.dumps({"note": self._chance.random()}).encode())
        layers = [self._any_blob(repository) for _ in range(self._chance.randrange(4))]
        media_type = self._chance.choice([IMAGE, DOCKER_IMAGE])
        fields = self._image(repository, config, layers)
        self._put(repository, {**fields, "mediaType": media_type}, frozenset([config, *layers]))

    def _push_index(self, repository: Repository) -> None:
        held = repository.held_manifests
        children = self._chance.sample(sorted(held), min(len(held), self._chance.randrange(4)))
        entries = [
            {"mediaType": held[digest].media_type, "digest": digest, "size": len(held[digest].body)}
            for digest in children
        ]
        media_type = self._chance.choice([INDEX, DOCKER_LIST])
        fields = {"schemaVersion": 2, "mediaType": media_type, "manifests": entries, "annotations": self._note()}
        if media_type == DOCKER_LIST:
            del fields["annotations"]
        self._put(repository, fields, frozenset(children))

    def _push_artifact(self, repository: Repository) -> None:
        held = repository.held_manifests
        digest = self._chance.choice([*sorted(held), str(Digest.of(b"nowhere"))])
        size = len(held[digest].body) if digest in held else 7
        subject = {"mediaType": IMAGE, "digest": digest, "size": size}
        config = self._upload(repository, b"{}")
        artifact_type = self._chance.choice(ARTIFACT_TYPES)
        fields = self._image(repository, config, [])
        fields |= {"mediaType": IMAGE, "artifactType": artifact_type, "subject": subject}
        self._put(repository, fields, frozenset([config]), subject=digest, artifact_type=artifact_type)

    def _move_tag(self, repository: Repository) -> None:
        held = repository.held_manifests
        if held:
            digest = self._chance.choice(sorted(held))
            self._send_manifest(repository, digest, held[digest])

    def _put(
        self,
        repository: Repository,
        fields: ledger.JsonObject,
        references: frozenset[str],
        *,
        subject: str | None = None,
        artifact_type: str | None = None,
    ) -> None:
        body = json.dumps(fields, indent=self._chance.choice([None, 3])).encode()
        algorithm = self._chance.choice([SHA256] * 6 + [SHA512])
        manifest = Manifest(body, str(fields["mediaType"]), references, subject, artifact_type)
        self._send_manifest(repository, str(Digest.of(body, algorithm)), manifest)

    def _send_manifest(self, repository: Repository, digest: str, manifest: Manifest) -> None:
        """Push by a tag, by digest, or by digest with tags."""
        chance = self._chance
        tags = chance.sample(TAGS, chance.choice([0, 1, 1, 2, 5]))
        reference = digest
        if len(tags) == 1 and digest.startswith(SHA256) and chance.random() < 0.8:
            reference = tags[0]
        elif tags:
            reference = f"{digest}?{'&'.join(f'tag={tag}' for tag in tags)}"
        path = f"/v2/{repository.name}/manifests/{reference}"
        body = either(chance, manifest.body)
        pushed = self._answer("PUT", path, body, {"Content-Type": manifest.media_type}, expected=[201])
        assert pushed.headers["docker-content-digest"] == digest, pushed
        assert pushed.headers.get("oci-subject") == manifest.subject, pushed
        repository.manifests[digest] = manifest
        for tag in tags:
            repository.tags[tag] = digest

    def _delete_tag(self, repository: Repository) -> None:
        tag = self._chance.choice(TAGS)
        path = f"/v2/{repository.name}/manifests/{tag}"
        if repository.tags.get(tag) is None:
            self._answer("DELETE", path, expected=[404])
        else:
            self._delete(path)
            repository.tags[tag] = None

    def _delete_manifest(self, repository: Repository) -> None:
        # What an index lists is kept: the index could still be read, but not pulled.
        known = [digest for digest in repository.manifests if not repository.needs(digest)]
        if not known:
            return
        digest = self._chance.choice(known)
        path = f"/v2/{repository.name}/manifests/{digest}"
        if repository.manifests[digest] is None:
            self._answer("DELETE", path, expected=[404])
        else:
            self._delete(path)
            repository.drop_manifest(digest)

    def _read_manifest(self, repository: Repository) -> None:
        for known in (list(repository.manifests), list(repository.tags)):
            if known:
                reference = self._chance.choice(known)
                self._caller.until_answered(partial(ledger.check_manifest, self._caller, repository, reference))

    # Listings, and what belongs to everybody

    def _list(self, repository: Repository) -> None:
        page = self._chance.choice([1, 2, 5, 1000])
        subjects = sorted({m.subject for m in repository.held_manifests.values() if m.subject is not None})

        def look() -> None:
            ledger.check_tags(self._caller, repository, page=page)
            for subject in subjects:
                for artifact_type in (None, *ARTIFACT_TYPES):
                    ledger.check_referrers(self._caller, repository, subject, artifact_type)
            names = list(ledger.pages(self._caller, "/v2/_catalog?n=7", "repositories"))
            assert names == sorted(set(names)), names
            assert (repository.name in names) == bool(repository.manifests), (repository.name, names)

        self._caller.until_answered(look)

    def _share(self, repository: Repository) -> None:
        """Move a tag that all clients move, and read another one: some client's image, whole."""
        del repository
        body = json.dumps({"client": self._number, "step": self.steps}).encode()
        shared = Repository(SHARED)
        config = self._upload(shared, body)
        fields = {**self._image(shared, config, []), "mediaType": IMAGE}
        tag = f"shared{self._chance.randrange(4)}"
        headers = {"Content-Type": IMAGE}
        self._answer("PUT", f"/v2/{SHARED}/manifests/{tag}", json.dumps(fields).encode(), headers, expected=[201])
        self._caller.until_answered(lambda: pull_shared(self._caller, tag))

    # Small parts

    def _image(self, repository: Repository, config: str, layers: list[str]) -> ledger.JsonObject:
        def describe(media_type: str, digest: str) -> ledger.JsonObject:
            return {"mediaType": media_type, "digest": digest, "size": repository.sizes[digest]}

        return {
            "schemaVersion": 2,
            "config": describe(CONFIG_TYPE, config),
            "layers": [describe(LAYER_TYPE, digest) for digest in layers],
            "annotations": self._note(),
        }

    def _note(self) -> dict[str, str]:
        return {"org.example.note": str(self._chance.random())}

    def _any_blob(self, repository: Repository) -> str:
        held = repository.held_blobs
        if held and self._chance.random() < 0.7:
            return self._chance.choice(held)
        return self._new_blob(repository)

    def _answer(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
        *,
        expected: list[int],
    ) -> Answer:
        return self._caller.until_answered(lambda: self._caller.send(method, path, body, headers, expected=expected))

    def _delete(self, path: str, *, status: int = 202) -> None:
        """Delete what is there. After a lost answer it may be gone already."""
        retries = self._caller.retries
        answer = self._answer("DELETE", path, expected=[status, 404])
        assert answer.status == status or self._caller.retries > retries, f"{path}: it was there"


def pull_shared(caller: Caller, tag: str) -> None:
    """Read an image of the shared repository: whoever pushed it, it is whole."""
    answer = caller.send("GET", f"/v2/{SHARED}/manifests/{tag}", expected=[200])
    assert str(Digest.of(answer.body)) == answer.headers["docker-content-digest"], tag
    config = json.loads(answer.body)["config"]
    blob = caller.send("GET", f"/v2/{SHARED}/blobs/{config['digest']}", expected=[200])
    assert str(Digest.of(blob.body)) == config["digest"], tag
