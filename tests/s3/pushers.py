"""A client that pushes images through a storm as real ones do: it tries again, resumes, starts over, or gives up."""

import contextlib
import http.client
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from registry.media_types import IMAGE
from storage.digest import Digest
from tests.load.calls import Body, chunks_of, code_of
from tests.load.ledger import JsonObject, Manifest, Repository
from tests.load.work import CONFIG_TYPE, LAYER_TYPE
from tests.races.clients import Answer

ANSWER_SECONDS = 60.0
WAIT_SECONDS = 0.1
"""What a client waits at most, where it is told to wait for seconds."""

TRIES = 3
"""How often a request or an upload is tried."""

RESUMES_MAX = 3
TAGS = [f"v{number}" for number in range(6)]
TINY_BYTES_MAX = 3000
MIB = 1 << 20


class Failed(Exception):
    """The server could not do it for now, and has said so; or the connection was lost."""


class Gone(Exception):
    """The session is unknown."""


class Line:
    """Connections to servers that share a bucket, one at a time and each in turn; what is no clean answer fails."""

    def __init__(self, addresses: Sequence[str], chance: random.Random) -> None:
        self._connections = [http.client.HTTPConnection(address, timeout=ANSWER_SECONDS) for address in addresses]
        self._chance = chance
        self.told: Counter[str] = Counter()

    def send(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
        *,
        expected: Sequence[int],
    ) -> Answer:
        """Send a request and read the answer whole. Raises Failed; AssertionError for what should not be said."""
        connection = self._chance.choice(self._connections)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer may be there all the same
                chunked = not isinstance(body, bytes | None)
                connection.request(method, path, body, headers or {}, encode_chunked=chunked)
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.told[f"lost {method} {type(error).__name__}"] += 1
            raise Failed from error
        what = f"{method} {path}: {answer.status} {answer.body[:500]!r}"
        if answer.status in {429, 503}:
            assert int(answer.headers["retry-after"]) > 0, what
            assert method == "HEAD" or code_of(answer) in {"UNAVAILABLE", "TOOMANYREQUESTS"}, what
            self.told[str(answer.status)] += 1
            raise Failed
        assert answer.status in expected, what
        return answer

    def insist(self, method: str, path: str, *, expected: Sequence[int]) -> Answer:
        """Send a request without a body until it is answered, at most TRIES times."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(Failed):
                return self.send(method, path, expected=expected)
            self.wait()
        return self.send(method, path, expected=expected)

    def wait(self) -> None:
        """Wait before another try."""
        time.sleep(self._chance.uniform(0, WAIT_SECONDS))

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


class Pusher:
    """Pushes images into repositories of its own, and reads them; `outcomes` counts what has come of that."""

    def __init__(self, line: Line, number: int, chance: random.Random, *, large: tuple[int, int]) -> None:
        self.repositories = [Repository(f"storm/client{number}/{part}") for part in ("app", "base/image")]
        self.outcomes: Counter[str] = Counter()
        self._line = line
        self._chance = chance
        self._large = large

    def first(self) -> None:
        """Push an image into each repository, while everything works."""
        for repository in self.repositories:
            assert self._push_image(repository, self._small(repository, 2))

    def push(self, *, with_large: bool) -> None:
        """Push an image, and sometimes read, list or leave something unfinished as well."""
        chance = self._chance
        repository = chance.choice(self.repositories)
        if chance.random() < 0.04:
            self._leave_unfinished(repository)
        if chance.random() < 0.15:
            self._read(repository)
        layers = self._small(repository, chance.choice([0, 1, 1, 2]))
        if with_large:
            layers.append(chance.randbytes(chance.randint(*self._large)))
        done = self._push_image(repository, layers)
        self.outcomes["acknowledged" if done else "given up"] += 1

    def _small(self, repository: Repository, count: int) -> list[bytes | str]:
        """Layers: bytes that are new, or the digest of one that a repository of ours holds."""
        chance = self._chance
        layers: list[bytes | str] = []
        for _ in range(count):
            held = chance.choice([repository, *self.repositories]).held_blobs
            if held and chance.random() < 0.3:
                layers.append(chance.choice(held))
            else:
                layers.append(chance.randbytes(chance.choice([0, 1, 100, TINY_BYTES_MAX, 80_000, 300_000])))
        return layers

    # Blobs

    def _push_image(self, repository: Repository, layers: Sequence[bytes | str]) -> bool:
        config = json.dumps({"note": self._chance.random()}).encode()
        digests: list[str] = []
        whole = True
        for content in (config, *layers):
            digest = content if isinstance(content, str) else str(Digest.of(content))
            digests.append(digest)
            whole = self._give(repository, digest, content) and whole
        return self._push_manifest(repository, digests) and whole

    def _give(self, repository: Repository, digest: str, content: bytes | str) -> bool:
        """See to it that the repository holds a blob; tells whether that was acknowledged."""
        try:
            if isinstance(content, bytes):
                return self._upload(repository, digest, content)
            if repository.blobs.get(digest):
                self._line.insist("HEAD", f"/v2/{repository.name}/blobs/{digest}", expected=[200])
                return True
            return self._mount(repository, digest)
        except Failed:
            return bool(repository.blobs.get(digest))

    def _mount(self, repository: Repository, digest: str) -> bool:
        source = next(each for each in self.repositories if each.blobs.get(digest))
        repository.begin_blob(digest, source.sizes[digest])
        repository.ask_for_blob(digest)
        path = f"/v2/{repository.name}/blobs/uploads/?mount={digest}&from={source.name}"
        self._line.insist("POST", path, expected=[201])
        repository.keep_blob(digest)
        return True

    def _upload(self, repository: Repository, digest: str, content: bytes) -> bool:
        repository.begin_blob(digest, len(content))
        way = self._chance.choice([self._in_one_request, self._in_a_session, self._in_a_session, self._in_a_session])
        for _ in range(TRIES):
            with contextlib.suppress(Failed, Gone):
                way(repository, digest, content)
                return True
            self._line.wait()
        return bool(repository.blobs[digest])

    def _in_one_request(self, repository: Repository, digest: str, content: bytes) -> None:
        repository.ask_for_blob(digest)
        path = f"/v2/{repository.name}/blobs/uploads/?digest={digest}"
        self._line.send("POST", path, self._either(content), expected=[201])
        repository.keep_blob(digest)

    def _in_a_session(self, repository: Repository, digest: str, content: bytes) -> None:
        """By a stream, by chunks, or with everything in the last request. Raises Failed, Gone."""
        session = self._begin(repository)
        size = len(content)
        step = self._chance.choice([size, size // 2 + 1, size // 3 + 1])
        last = self._chance.choice([0, 0, size, size // 2])
        sent, asked, failures = 0, False, 0
        while True:
            try:
                if sent < size - last and not asked:
                    sent = self._patch(session, content, sent, min(step, size - last - sent))
                else:
                    repository.ask_for_blob(digest)
                    asked = True
                    self._finish(session, digest, content[sent:])
                    repository.keep_blob(digest)
                    return
            except Failed:
                failures += 1
                if failures > RESUMES_MAX:
                    raise
                self._line.wait()
                sent = self._kept(session, sent, size, asked=asked)

    def _begin(self, repository: Repository) -> str:
        begun = self._line.insist("POST", f"/v2/{repository.name}/blobs/uploads/", expected=[202])
        return begun.headers["location"]

    def _patch(self, session: str, content: bytes, start: int, count: int) -> int:
        """Add bytes, and return how many there are then. Raises Failed, Gone."""
        piece = content[start : start + count]
        headers = {"Content-Range": f"{start}-{start + count - 1}"} if self._chance.random() < 0.5 else {}
        body = piece if headers else self._either(piece)
        answer = self._of_session("PATCH", session, body, headers, expected=[202, 404, 416])
        assert answer.headers["range"] == f"0-{max(0, start + count - 1)}", answer
        return start + count

    def _finish(self, session: str, digest: str, rest: bytes) -> None:
        answer = self._of_session("PUT", f"{session}?digest={digest}", rest, expected=[201, 404, 416])
        assert answer.headers["docker-content-digest"] == digest, answer

    def _kept(self, session: str, sent: int, size: int, *, asked: bool) -> int:
        """Ask where to go on: whatever was acknowledged must be there. Raises Failed, Gone."""
        answer = self._line.insist("GET", session, expected=[204, 404])
        if answer.status == 404:
            self._line.told["session gone" if asked else "session lost"] += 1
            raise Gone
        last = int(answer.headers["range"].removeprefix("0-"))
        if last == 0 and size == 1 and not sent:
            raise Gone  # 0-0 stands for none as well
        kept = last + 1 if last else min(sent, 1)
        assert sent <= kept <= size, f"{session}: {sent} bytes were acknowledged, {kept} of {size} are there"
        return kept

    def _of_session(
        self,
        method: str,
        path: str,
        body: Body,
        headers: dict[str, str] | None = None,
        *,
        expected: Sequence[int],
    ) -> Answer:
        answer = self._line.send(method, path, body, headers, expected=expected)
        if answer.status == 404:
            assert code_of(answer) == "BLOB_UPLOAD_UNKNOWN", answer
            self._line.told[f"session unknown to {method}"] += 1
            raise Gone
        if answer.status == 416:
            # The request before is still under way, or its server could not say that its turn has ended.
            self._line.told[f"other writer or offset for {method}"] += 1
            raise Failed
        return answer

    def _leave_unfinished(self, repository: Repository) -> None:
        """Nobody ever asks for this blob: nobody may see it."""
        content = self._chance.randbytes(TINY_BYTES_MAX)
        repository.begin_blob(str(Digest.of(content)), len(content))
        with contextlib.suppress(Failed, Gone):
            session = self._begin(repository)
            self._patch(session, content, 0, len(content) - self._chance.choice([0, 1]))
            if self._chance.random() < 0.5:
                self._line.send("DELETE", session, expected=[204, 404])

    # Manifests

    def _push_manifest(self, repository: Repository, digests: Sequence[str]) -> bool:
        chance = self._chance
        body = self._image(repository, digests)
        manifest = Manifest(body, IMAGE, frozenset(digests))
        digest = str(Digest.of(body))
        tags = chance.sample(TAGS, chance.choice([0, 1, 1, 1, 3]))
        reference = f"{digest}?{'&'.join(f'tag={tag}' for tag in tags)}"
        if len(tags) == 1 and chance.random() < 0.8:
            reference = tags[0]
        repository.ask_for_manifest(digest, manifest, tags)
        path, kind = f"/v2/{repository.name}/manifests/{reference}", {"Content-Type": IMAGE}
        for _ in range(TRIES):
            try:
                answer = self._line.send("PUT", path, body, kind, expected=[201, 404])
            except Failed:
                self._line.wait()
                continue
            if answer.status == 404:
                assert code_of(answer) == "MANIFEST_BLOB_UNKNOWN", answer
                assert not all(repository.blobs[each] for each in digests), f"{path}: {answer.body!r}"
                return False
            self._believe(repository, digests)
            repository.keep_manifest(digest, manifest, tags)
            return True
        return False

    def _believe(self, repository: Repository, digests: Sequence[str]) -> None:
        """The server has found every blob: none of them may be one that nobody has asked for."""
        for digest in digests:
            assert repository.blobs[digest] or digest in repository.unsure_blobs, f"{digest} is not there"
            repository.keep_blob(digest)

    def _image(self, repository: Repository, digests: Sequence[str]) -> bytes:
        def describe(media_type: str, digest: str) -> JsonObject:
            return {"mediaType": media_type, "digest": digest, "size": repository.sizes[digest]}

        config, *layers = digests
        fields = {
            "schemaVersion": 2,
            "mediaType": IMAGE,
            "config": describe(CONFIG_TYPE, config),
            "layers": [describe(LAYER_TYPE, digest) for digest in layers],
        }
        return json.dumps(fields).encode()

    # Reading

    def _read(self, repository: Repository) -> None:
        """What was acknowledged is never said to be missing, and never given as something else."""
        looks: list[Callable[[Repository], None]] = [self._read_blob, self._read_tag, self._list]
        with contextlib.suppress(Failed):
            self._chance.choice(looks)(repository)

    def _read_blob(self, repository: Repository) -> None:
        digest = self._chance.choice(repository.held_blobs)
        body = self._line.send("GET", f"/v2/{repository.name}/blobs/{digest}", expected=[200]).body
        assert str(Digest.of(body)) == digest, f"{digest}: other bytes"

    def _read_tag(self, repository: Repository) -> None:
        if not repository.held_tags:
            return
        tag = self._chance.choice(sorted(repository.held_tags))
        known = {repository.tags[tag], *repository.unsure_tags.get(tag, ())}
        answer = self._line.send("GET", f"/v2/{repository.name}/manifests/{tag}", expected=[200])
        assert str(Digest.of(answer.body)) == answer.headers["docker-content-digest"], f"{tag}: other bytes"
        assert answer.headers["docker-content-digest"] in known, f"{tag}: none of {known}"

    def _list(self, repository: Repository) -> None:
        answer = self._line.send("GET", f"/v2/{repository.name}/tags/list", expected=[200])
        listed = set(json.loads(answer.body)["tags"])
        held = set(repository.held_tags)
        assert held <= listed <= held | repository.unsure_tags.keys(), f"{repository.name}: {listed}"

    def _either(self, body: bytes) -> Body:
        return body if self._chance.random() < 0.5 else chunks_of(body)
