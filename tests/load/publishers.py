"""Clients that push, mount, move, delete and pull all the time, and know what of it a tag still leads to.

Each has repositories of its own. What its tags lead to has to be there, to the byte; what no tag leads to any more may
be collected at any moment, and is pushed again when an image needs it. Layers come from a small pool, so that the bytes
that one client gives up are the bytes that another one needs just then.
"""

import json
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from registry.media_types import IMAGE, INDEX
from storage.digest import Digest
from tests.load.calls import Caller, chunks_of, code_of
from tests.load.shapes import ZEROS
from tests.load.work import CONFIG_TYPE, LAYER_TYPE
from tests.races.clients import Answer

TAGS = [f"v{number}" for number in range(5)]
SHARED = "collected/shared"
SHARED_TAGS = [f"shared{number}" for number in range(3)]
POOL = 16
"""Layers that everybody uses, each of its own content."""

RECENT_MAX = 12
ATTEMPTS_MAX = 40
ARTIFACT_TYPE = "application/vnd.example.signature"


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a config or a layer."""

    digest: str
    body: bytes
    media_type: str = LAYER_TYPE

    @classmethod
    def of(cls, body: bytes, media_type: str = LAYER_TYPE) -> "Content":
        """Take bytes, and hash them."""
        return cls(str(Digest.of(body)), body, media_type)

    def described(self) -> dict[str, object]:
        """The descriptor of it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest or an index, and everything that has to be there with it."""

    digest: str
    body: bytes
    media_type: str
    contents: tuple[Content, ...] = ()
    children: tuple["Image", ...] = ()
    subject: str | None = None

    @classmethod
    def of_contents(
        cls, config: Content, layers: Sequence[Content], *, note: str, subject: "Image | None" = None
    ) -> "Image":
        """Make the manifest of an image; of an artifact, if there is a subject."""
        fields: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": config.described(),
            "layers": [layer.described() for layer in layers],
            "annotations": {"org.example.note": note},
        }
        if subject is not None:
            fields |= {"artifactType": ARTIFACT_TYPE, "subject": subject.described()}
        body = json.dumps(fields).encode()
        return cls(str(Digest.of(body)), body, IMAGE, (config, *layers), (), subject.digest if subject else None)

    @classmethod
    def of_children(cls, children: Sequence["Image"], *, note: str) -> "Image":
        """Make an index."""
        listed = [child.described() for child in children]
        fields = {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed, "annotations": {"note": note}}
        body = json.dumps(fields).encode()
        return cls(str(Digest.of(body)), body, INDEX, (), tuple(children))

    def described(self) -> dict[str, object]:
        """The descriptor of it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}


@dataclass(slots=True)
class Shelf:
    """A repository that one client alone writes to, as it was acknowledged.

    `artifacts` have been there ever since their subject could be reached; `doubtful` ones may have been collected with
    their subject, before it was pushed again.
    """

    name: str
    tags: dict[str, Image] = field(default_factory=dict)
    artifacts: dict[str, Image] = field(default_factory=dict)
    doubtful: dict[str, Image] = field(default_factory=dict)

    def reachable(self, *, doubtful: bool = False) -> dict[str, Image]:
        """Everything that a tag leads to: indexes to what they list, subjects to what refers to them."""
        artifacts = {**self.artifacts, **(self.doubtful if doubtful else {})}
        found: dict[str, Image] = {}
        waiting = list(self.tags.values())
        while waiting:
            image = waiting.pop()
            if image.digest not in found:
                found[image.digest] = image
                waiting += image.children
                waiting += [artifact for artifact in artifacts.values() if artifact.subject == image.digest]
        return found

    def settle(self) -> None:
        """Let go of artifacts whose subject no tag leads to any more."""
        there = self.reachable()
        for digest in [digest for digest in self.artifacts if digest not in there]:
            self.doubtful[digest] = self.artifacts.pop(digest)

    def is_listed(self, digest: str) -> bool:
        """Tell whether an index that can be reached lists it."""
        return any(child.digest == digest for image in self.reachable().values() for child in image.children)


class Publisher:
    """One client. `counts` tells what has happened to it, `acknowledged` what was pushed: repositories and digests."""

    def __init__(self, caller: Caller, number: int, seed: str) -> None:
        self.shelves = [Shelf(f"collected/client{number}/{part}") for part in ("app", "base/image")]
        self.counts: Counter[str] = Counter()
        self.acknowledged: set[tuple[str, str]] = set()
        self._caller = caller
        self._number = number
        self._chance = random.Random(f"{seed} {number}")
        everybody = random.Random(seed)
        self._pool = [Content.of(everybody.randbytes(everybody.choice([300, 5_000, 70_000]))) for _ in range(POOL)]
        self._recent: deque[Image] = deque(maxlen=RECENT_MAX)
        self._work: list[tuple[int, Callable[[Shelf], None]]] = [
            (24, self._push_image),
            (7, self._push_index),
            (10, self._push_artifact),
            (10, self._push_again),
            (6, self._tag_twice),
            (10, self._delete_tag),
            (5, self._delete_manifest),
            (20, self._pull),
            (14, self._share),
        ]

    def step(self) -> None:
        """Do something. Raises AssertionError if an answer is none that a client may get."""
        [(_, work)] = self._chance.choices(self._work, [weight for weight, _ in self._work])
        work(self._chance.choice(self.shelves))
        self.counts["steps"] += 1

    def check(self) -> None:
        """Read everything that a tag leads to, to the byte."""
        for shelf in self.shelves:
            listed = self._caller.send("GET", f"/v2/{shelf.name}/tags/list?n=1000", expected=[200, 404])
            assert listed.status == 200 or not shelf.tags, shelf.name
            assert listed.status == 404 or json.loads(listed.body)["tags"] == sorted(shelf.tags), shelf.name
            for tag, image in shelf.tags.items():
                self._read(shelf.name, tag, image)
            for image in shelf.reachable().values():
                self._read(shelf.name, image.digest, image)
                self._check_referrers(shelf, image)

    # Pushing

    def _push_image(self, shelf: Shelf) -> None:
        self._push_by_tag(shelf, self._new_image())

    def _push_index(self, shelf: Shelf) -> None:
        children = [self._new_image() for _ in range(self._chance.randint(1, 3))]
        self._push_by_tag(shelf, Image.of_children(children, note=self._note()))

    def _push_again(self, shelf: Shelf) -> None:
        """An image of a while ago: of what it needs, and of itself, anything may be there still."""
        if self._recent:
            self._push_by_tag(shelf, self._chance.choice(self._recent))

    def _push_artifact(self, shelf: Shelf) -> None:
        there = [image for image in shelf.reachable().values() if image.subject is None]
        if not there:
            return
        subject = self._chance.choice(there)
        layers = [Content.of(self._chance.randbytes(200))]
        artifact = Image.of_contents(Content.of(b"{}", CONFIG_TYPE), layers, note=self._note(), subject=subject)
        self._push(shelf.name, artifact, artifact.digest)
        shelf.artifacts[artifact.digest] = artifact
        self.counts["artifacts"] += 1

    def _tag_twice(self, shelf: Shelf) -> None:
        """Only the manifest: what it needs is there, for a tag leads to it."""
        if shelf.tags:
            image = self._chance.choice(list(shelf.tags.values()))
            tag = self._chance.choice(TAGS)
            answer = self._put(shelf.name, image, tag)
            assert answer.status == 201, f"{shelf.name}: {image.digest} lacks something: {answer}"
            self._point(shelf, tag, image)

    def _push_by_tag(self, shelf: Shelf, image: Image) -> None:
        tag = self._chance.choice(TAGS)
        self._push(shelf.name, image, tag)
        self._point(shelf, tag, image)
        self._recent.append(image)

    def _point(self, shelf: Shelf, tag: str, image: Image) -> None:
        self.counts["moved"] += tag in shelf.tags
        shelf.tags[tag] = image
        shelf.settle()

    def _push(self, repository: str, image: Image, reference: str) -> None:
        """Push what an image needs and then the image, as clients do that are told that something is missing."""
        for _attempt in range(ATTEMPTS_MAX):
            for child in image.children:
                self._push(repository, child, child.digest)
            for content in image.contents:
                self._push_content(repository, content)
            if self._put(repository, image, reference).status == 201:
                self.acknowledged.add((repository, image.digest))
                self.counts["pushed"] += 1
                return
            self.counts["pushed again"] += 1
        raise AssertionError(f"{repository}: {image.digest} was refused {ATTEMPTS_MAX} times")

    def _put(self, repository: str, image: Image, reference: str) -> Answer:
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._caller.send("PUT", path, image.body, {"Content-Type": image.media_type}, expected=[201, 404])
        if answer.status == 404:
            assert code_of(answer) == "MANIFEST_BLOB_UNKNOWN", answer
        else:
            assert answer.headers["docker-content-digest"] == image.digest, answer
        return answer

    def _push_content(self, repository: str, content: Content) -> None:
        """Rely on what is there already, mount it from elsewhere, or send it."""
        path, uploads = f"/v2/{repository}/blobs/{content.digest}", f"/v2/{repository}/blobs/uploads/"
        way = self._chance.random()
        if way < 0.8:
            found = self._caller.send("HEAD", path, expected=[200, 404])
            if found.status == 200:
                assert found.headers["content-length"] == str(len(content.body)), path
                self.counts["found"] += 1
                return
        if way < 0.4:
            source = self._chance.choice([SHARED, *(shelf.name for shelf in self.shelves)])
            query = f"?mount={content.digest}&from={source}"
            begun = self._caller.send("POST", uploads + query, headers=ZEROS, expected=[201, 202])
            if begun.status == 201:
                self.counts["mounted"] += 1
                return
        elif way > 0.9:
            self._caller.send("POST", f"{uploads}?digest={content.digest}", content.body, expected=[201])
            return
        else:
            begun = self._caller.send("POST", uploads, headers=ZEROS, expected=[202])
        location = begun.headers["location"]
        rest = content.body
        if self._chance.random() < 0.5:
            sent = self._caller.send("PATCH", location, chunks_of(content.body), expected=[202])
            location, rest = sent.headers["location"], b""
        joint = "&" if "?" in location else "?"
        self._caller.send("PUT", f"{location}{joint}digest={content.digest}", rest, expected=[201])
        self.counts["sent"] += 1

    # Deleting

    def _delete_tag(self, shelf: Shelf) -> None:
        if shelf.tags:
            tag = self._chance.choice(list(shelf.tags))
            self._caller.send("DELETE", f"/v2/{shelf.name}/manifests/{tag}", expected=[202])
            del shelf.tags[tag]
            shelf.settle()
            self.counts["deleted"] += 1

    def _delete_manifest(self, shelf: Shelf) -> None:
        known = [image for image in shelf.tags.values() if not shelf.is_listed(image.digest)]
        if known:
            digest = self._chance.choice(known).digest
            self._caller.send("DELETE", f"/v2/{shelf.name}/manifests/{digest}", expected=[202])
            shelf.tags = {tag: image for tag, image in shelf.tags.items() if image.digest != digest}
            shelf.settle()
            self.counts["deleted"] += 1

    # Pulling

    def _pull(self, shelf: Shelf) -> None:
        if shelf.tags:
            tag, image = self._chance.choice(list(shelf.tags.items()))
            self._read(shelf.name, tag, image)
            self._check_referrers(shelf, image)
            self.counts["pulled"] += 1

    def _read(self, repository: str, reference: str, image: Image) -> None:
        path = f"/v2/{repository}/manifests/{reference}"
        answer = self._caller.send("GET", path, expected=[200])
        assert answer.body == image.body, f"{path}: other bytes"
        assert answer.headers["content-type"] == image.media_type, f"{path}: {answer.headers}"
        for content in image.contents:
            blob = self._caller.send("GET", f"/v2/{repository}/blobs/{content.digest}", expected=[200])
            assert blob.body == content.body, f"{repository}: {content.digest} has other bytes"
        for child in image.children:
            self._read(repository, child.digest, child)

    def _check_referrers(self, shelf: Shelf, image: Image) -> None:
        answer = self._caller.send("GET", f"/v2/{shelf.name}/referrers/{image.digest}", expected=[200])
        listed = {str(entry["digest"]) for entry in json.loads(answer.body)["manifests"]}
        expected = {digest for digest, each in shelf.artifacts.items() if each.subject == image.digest}
        assert expected <= listed, f"{shelf.name}: {image.digest} lacks {expected - listed}"

    # What belongs to everybody

    def _share(self, _shelf: Shelf) -> None:
        """Move a tag that everybody moves, and pull another one."""
        self._push(SHARED, self._new_image(), self._chance.choice(SHARED_TAGS))
        tag = self._chance.choice(SHARED_TAGS)
        path = f"/v2/{SHARED}/manifests/{tag}"
        answer = self._caller.send("GET", path, expected=[200, 404])
        if answer.status == 404:
            return  # nobody has pushed it yet
        fields = json.loads(answer.body)
        for descriptor in (fields["config"], *fields["layers"]):
            blob = self._caller.send("GET", f"/v2/{SHARED}/blobs/{descriptor['digest']}", expected=[200, 404])
            if blob.status == 404:
                # Who pulls by tag needs what the tag led to then. No image is pushed there twice.
                now = self._caller.send("GET", path, expected=[200])
                assert now.body != answer.body, f"{path} lacks {descriptor['digest']}"
                self.counts["moved under a pull"] += 1
                return
            assert str(Digest.of(blob.body)) == descriptor["digest"], f"{path}: other bytes"
        self.counts["pulled"] += 1

    # Small parts

    def _new_image(self) -> Image:
        config = Content.of(json.dumps({"note": self._note()}).encode(), CONFIG_TYPE)
        layers = self._chance.sample(self._pool, self._chance.randint(1, 4))
        if self._chance.random() < 0.3:
            layers.append(Content.of(self._chance.randbytes(self._chance.choice([1, 900, 20_000, 400_000]))))
        return Image.of_contents(config, layers, note=self._note())

    def _note(self) -> str:
        return f"{self._number} {self._chance.random()}"
