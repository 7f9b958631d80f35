"""The same things pushed, moved, mounted and deleted by many at once, through two workers."""

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import pytest

from registry.media_types import IMAGE
from storage.digest import Digest
from tests.conftest import Starter
from tests.races.clients import Answer, Client, image_manifest, in_threads
from tests.races.linearizability import Call, Kind, is_linearizable
from tests.races.stores import inconsistencies, verify
from tests.races.workers import one_client_for_each_worker
from tests.running import Server

WORKERS = 2
ROUNDS = 60
REPOSITORY = "races/app"
CONFIG = b"{}"

BLOB_UNKNOWN_TO_MANIFEST = "MANIFEST_BLOB_UNKNOWN"


@pytest.fixture
def server(start_pierhead: Starter) -> Server:
    """Return a server with two workers."""
    return start_pierhead(workers=WORKERS)


@pytest.fixture
def workers(server: Server) -> Iterator[list[Client]]:
    """Return a client of each worker."""
    clients = one_client_for_each_worker(server, WORKERS)
    yield clients
    for client in clients:
        client.close()


# Deletes


@pytest.mark.parametrize("kind", ["tag", "manifest", "blob"])
def test_a_delete_is_visible_to_the_very_next_request_on_every_worker(workers: list[Client], kind: str) -> None:
    for number in range(ROUNDS):
        deleter = workers[number % WORKERS]
        path, related = _pushed(deleter, kind, number)
        for client in workers:  # whatever a worker may remember, it remembers now
            assert [client.send(method, path).status for method in ("GET", "HEAD")] == [200, 200]

        deleted = deleter.send("DELETE", path)
        answers = [client.send(method, path).status for method in ("GET", "HEAD") for client in workers]
        listings = [client.send("GET", f"/v2/{REPOSITORY}/tags/list").body.decode() for client in workers]

        assert deleted.status == 202, deleted
        assert answers == [404] * 2 * WORKERS
        assert [tag for listing in listings for tag in related if f'"{tag}"' in listing] == []


def test_no_reader_sees_a_blob_or_a_manifest_after_its_delete_was_acknowledged(
    server: Server, workers: list[Client]
) -> None:
    paths = {kind: [_pushed(workers[0], kind, number)[0] for number in range(20)] for kind in ("blob", "manifest")}
    order = [path for pair in zip(paths["blob"], paths["manifest"], strict=True) for path in pair]
    gone: dict[str, float] = {}
    too_late: list[str] = []
    seen = [0, 0]

    def work(client: Client, number: int) -> None:
        if number == 0:
            for path in order:
                assert client.send("DELETE", path).status == 202
                gone[path] = time.monotonic()
            return
        while len(gone) < len(order):
            path = order[min(len(gone), len(order) - 1)]
            before = time.monotonic()
            status = client.send(random.choice(["GET", "HEAD"]), path).status
            seen[status == 404] += 1
            if status != 404 and before > gone.get(path, before):
                too_late.append(f"{path}: {status}")

    in_threads(server.address, 8, work)

    assert too_late == []
    assert all(seen), seen


def _pushed(client: Client, kind: str, number: int) -> tuple[str, list[str]]:
    """Push something of a kind: its path, and the tags that go with it."""
    blob = f"{kind} {number}".encode()
    layer = client.push_blob(REPOSITORY, blob)
    if kind == "blob":
        return f"/v2/{REPOSITORY}/blobs/{layer}", []
    config = client.push_blob(REPOSITORY, CONFIG)
    tags = [f"{kind}-{number}-{each}" for each in range(2)]
    digest = ""
    for tag in tags:
        answer = client.put_manifest(REPOSITORY, tag, image_manifest(config, len(CONFIG), [(layer, len(blob))]))
        assert answer.status == 201, answer
        digest = answer.headers["docker-content-digest"]
    if kind == "tag":
        return f"/v2/{REPOSITORY}/manifests/{tags[0]}", tags[:1]
    return f"/v2/{REPOSITORY}/manifests/{digest}", tags


# Two at once


def test_a_blob_deleted_while_its_manifest_is_pushed_is_kept_or_the_push_is_refused(workers: list[Client]) -> None:
    outcomes: set[tuple[int, int]] = set()
    config = workers[0].push_blob(REPOSITORY, CONFIG)
    for number in range(ROUNDS):
        body = f"contended {number}".encode()
        layer = workers[0].push_blob(REPOSITORY, body)
        manifest = image_manifest(config, len(CONFIG), [(layer, len(body))])
        blob_path, tag = f"/v2/{REPOSITORY}/blobs/{layer}", f"round-{number}"

        deleted, pushed = _at_once(
            workers,
            _sending("DELETE", blob_path),
            _sending("PUT", f"/v2/{REPOSITORY}/manifests/{tag}", manifest, {"Content-Type": IMAGE}),
            first=number % 3,
        )

        outcomes.add((deleted.status, pushed.status))
        for client in workers:
            found = client.send("GET", blob_path)
            listed = client.send("GET", f"/v2/{REPOSITORY}/manifests/{tag}").status
            if pushed.status == 201:
                assert (deleted.status, found.status, found.body, listed) == (405, 200, body, 200)
            else:
                assert _code(pushed) == BLOB_UNKNOWN_TO_MANIFEST
                assert listed == 404
                # Refused both, each because it saw the other: the blob is there.
                assert (deleted.status, found.status) in {(202, 404), (405, 200)}
    assert {status for _, status in outcomes} == {201, 404}
    assert inconsistencies(workers[0], [REPOSITORY]) == []


def test_a_manifest_deleted_while_it_is_tagged_leaves_no_tag_that_leads_nowhere(
    server: Server, workers: list[Client]
) -> None:
    config = workers[0].push_blob(REPOSITORY, CONFIG)
    for number in range(ROUNDS):
        manifest = image_manifest(config, len(CONFIG), note=str(number))
        assert workers[0].put_manifest(REPOSITORY, f"old-{number}", manifest).status == 201
        digest, tag = Digest.of(manifest), f"new-{number}"

        deleted, pushed = _at_once(
            workers,
            _sending("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}"),
            _sending("PUT", f"/v2/{REPOSITORY}/manifests/{tag}", manifest, {"Content-Type": IMAGE}),
            first=number % 3,
        )

        assert (deleted.status, pushed.status) == (202, 201)
        for client in workers:
            answers = [client.send("GET", f"/v2/{REPOSITORY}/manifests/{each}").status for each in (tag, digest)]
            tags = json.loads(client.send("GET", f"/v2/{REPOSITORY}/tags/list").body)["tags"]
            # The delete or the push came last; old-… was there before both, so it is gone in any case.
            assert answers in ([200, 200], [404, 404])
            assert (tag in tags, f"old-{number}" in tags) == (answers[0] == 200, False)
    assert verify(server.data) == []


def test_an_artifact_deleted_while_it_is_pushed_is_listed_if_and_only_if_it_is_there(
    server: Server, workers: list[Client]
) -> None:
    config = workers[0].push_blob(REPOSITORY, CONFIG)
    subject = {"mediaType": IMAGE, "digest": str(Digest.of(b"no such image")), "size": 13}
    for number in range(2 * ROUNDS):
        fields = json.loads(image_manifest(config, len(CONFIG), note=str(number)))
        artifact = json.dumps({**fields, "subject": subject}).encode()
        digest = str(Digest.of(artifact))
        assert workers[0].put_manifest(REPOSITORY, digest, artifact).status == 201

        deleted, pushed = _at_once(
            workers,
            _sending("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}"),
            _sending("PUT", f"/v2/{REPOSITORY}/manifests/{digest}", artifact, {"Content-Type": IMAGE}),
            first=number % 3,
        )

        assert (deleted.status, pushed.status) == (202, 201)
        is_there = workers[0].send("GET", f"/v2/{REPOSITORY}/manifests/{digest}").status == 200
        listed = json.loads(workers[1].send("GET", f"/v2/{REPOSITORY}/referrers/{subject['digest']}").body)
        assert (digest in [each["digest"] for each in listed["manifests"]]) == is_there
        workers[0].send("DELETE", f"/v2/{REPOSITORY}/manifests/{digest}")
    assert verify(server.data) == []


def test_of_two_deletes_at_once_one_finds_nothing(workers: list[Client]) -> None:
    for number in range(ROUNDS):
        path, _ = _pushed(workers[0], ["tag", "manifest", "blob"][number % 3], number)

        first, second = _at_once(workers, _sending("DELETE", path), _sending("DELETE", path))

        assert {first.status, second.status} == {202, 404}, path


# Many at once


def test_twenty_clients_push_one_blob_into_five_repositories_at_once(server: Server, workers: list[Client]) -> None:
    body = random.Random(7).randbytes(5_000_000)
    digest = Digest.of(body)
    statuses: list[int] = []

    def work(client: Client, number: int) -> None:
        uploads = f"/v2/races/app{number % 5}/blobs/uploads/"
        if number % 2:
            statuses.append(client.send("POST", f"{uploads}?digest={digest}", body).status)
            return
        session = client.send("POST", uploads).headers["location"]
        assert client.send("PATCH", session, body).status == 202
        statuses.append(client.send("PUT", f"{session}?digest={digest}").status)

    in_threads(server.address, 20, work)

    assert statuses == [201] * 20
    for client in workers:
        for number in range(5):
            assert client.send("GET", f"/v2/races/app{number}/blobs/{digest}").body == body
    assert verify(server.data) == []


def test_sixteen_clients_count_with_one_tag_and_lose_no_step(server: Server, workers: list[Client]) -> None:
    clients, steps = 16, 8
    config = workers[0].push_blob(REPOSITORY, CONFIG)
    path = f"/v2/{REPOSITORY}/manifests/counter"
    workers[0].put_manifest(REPOSITORY, "counter", image_manifest(config, len(CONFIG), note="0"))
    refused = []

    def work(client: Client, number: int) -> None:
        for _ in range(steps):
            while True:
                current = client.send("GET", path)
                count = int(json.loads(current.body)["annotations"]["org.example.note"])
                body = image_manifest(config, len(CONFIG), note=str(count + 1))
                media_type = current.headers["content-type"]
                moved = client.send(
                    "PUT", path, body, {"Content-Type": media_type, "If-Match": current.headers["etag"]}
                )
                if moved.status == 201:
                    break
                assert moved.status == 412, moved
                refused.append(number)

    in_threads(server.address, clients, work)

    for client in workers:
        counter = json.loads(client.send("GET", path).body)
        assert counter["annotations"]["org.example.note"] == str(clients * steps)
    assert refused, "nobody was ever too late: they did not meet"


def test_two_clients_at_one_session_are_taken_in_some_order(workers: list[Client]) -> None:
    outcomes: set[tuple[int, ...]] = set()
    for number in range(ROUNDS):
        bodies = [random.Random(2 * number + each).randbytes(300_000) for each in range(2)]
        session = workers[0].send("POST", f"/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
        # A chunk with its place can be taken once; of two streams, the second may also come after the first.
        headers = {"Content-Range": "0-299999"} if number % 2 else {}

        answers = _at_once(workers, *(_sending("PATCH", session, body, headers) for body in bodies))

        statuses = tuple(answer.status for answer in answers)
        outcomes.add(statuses)
        assert statuses in {(202, 416), (416, 202)} or (statuses == (202, 202) and not headers)
        kept = [body for body, status in zip(bodies, statuses, strict=True) if status == 202]
        told = {client.send("GET", session).headers["range"] for client in workers}
        assert told == {f"0-{300_000 * len(kept) - 1}"}
        if len(kept) == 2 and answers[0].headers["range"] != "0-299999":
            kept.reverse()
        whole = b"".join(kept)
        assert workers[1].send("PUT", f"{session}?digest={Digest.of(whole)}").status == 201
        assert workers[0].send("GET", f"/v2/{REPOSITORY}/blobs/{Digest.of(whole)}").body == whole
    assert {(202, 416), (416, 202)} & outcomes


def test_everything_at_once_is_answered_as_in_some_order_and_leaves_a_sound_store(
    server: Server, workers: list[Client]
) -> None:
    histories: list[dict[str, list[Call]]] = [defaultdict(list) for _ in range(16)]
    repositories = [f"races/app{number}" for number in range(3)]
    for repository in repositories:
        workers[0].push_blob(repository, CONFIG)

    def work(client: Client, number: int) -> None:
        disorder = Disorder(client, random.Random(number), repositories, histories[number])
        for step in range(150):
            disorder.step(step // 5)

    in_threads(server.address, len(histories), work)

    merged: dict[str, list[Call]] = defaultdict(list)
    for history in histories:
        for register, calls in history.items():
            merged[register].extend(calls)
    assert {call.kind for calls in merged.values() for call in calls} == {"put", "get", "delete"}
    assert [register for register, calls in merged.items() if not is_linearizable(_with_repeats(calls))] == []
    for client in workers:
        assert inconsistencies(client, repositories) == []
    assert verify(server.data) == []


def _with_repeats(calls: Sequence[Call]) -> list[Call]:
    """Allow a push to be seen again after each deletion that it meets.

    It looks whether its manifest is still there, and puts it back if not: what took it may have been another push,
    which lacked something that this one found. It is never acknowledged and then gone without a deletion.
    """
    deletes = [call for call in calls if call.kind == "delete" and call.value is not None]
    repeats = [
        replace(put, kind="again")
        for put in calls
        if put.kind == "put"
        for delete in deletes
        if delete.start < put.end and put.start < delete.end
    ]
    return [*calls, *repeats]


class Disorder:
    """One of many clients that do everything with the same few blobs, manifests and tags, which change with time.

    What becomes of a blob or a manifest is written down as the history of a register; tags have a test of their
    own. Each asserts that no answer is a surprise.
    """

    def __init__(
        self,
        client: Client,
        chance: random.Random,
        repositories: list[str],
        history: dict[str, list[Call]],
    ) -> None:
        self._client = client
        self._chance = chance
        self._repositories = repositories
        self._history = history

    def step(self, age: int) -> None:
        """Do something. What is of the same age is done by all clients to the same things."""
        chance = self._chance
        repository = chance.choice(self._repositories)
        layer = f"layer {age} {chance.randrange(2)}".encode()
        manifest = image_manifest(Digest.of(CONFIG), len(CONFIG), note=f"{age} {chance.randrange(2)}")
        contended = image_manifest(Digest.of(CONFIG), len(CONFIG), [(Digest.of(layer), len(layer))])
        tag = f"tag-{age}-{chance.randrange(2)}"
        match chance.randrange(8):
            case 0 | 1:
                self._push_blob(repository, layer)
            case 2:
                self._mount(repository, chance.choice(self._repositories), layer)
            case 3:
                self._delete(f"{repository}/blobs/{Digest.of(layer)}")
            case 4:
                self._push_manifest(repository, chance.choice([tag, str(Digest.of(manifest))]), manifest)
            case 5:
                self._push_contended(repository, chance.choice([tag, str(Digest.of(contended))]), contended)
            case 6:
                self._delete(f"{repository}/manifests/{Digest.of(manifest)}")
                for reference in (tag, Digest.of(contended)):
                    self._try_to_delete(f"{repository}/manifests/{reference}")
            case _:
                self._get(f"{repository}/blobs/{Digest.of(layer)}")
                self._get(f"{repository}/manifests/{Digest.of(manifest)}")

    def _push_blob(self, repository: str, body: bytes) -> None:
        digest, start = Digest.of(body), time.monotonic_ns()
        answer = self._client.send("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", body)
        assert answer.status == 201, answer
        self._note(f"{repository}/blobs/{digest}", "put", "there", start)

    def _mount(self, repository: str, source: str, body: bytes) -> None:
        digest, start = Digest.of(body), time.monotonic_ns()
        answer = self._client.send("POST", f"/v2/{repository}/blobs/uploads/?mount={digest}&from={source}")
        assert answer.status in {201, 202}, answer
        if answer.status == 201:
            self._note(f"{repository}/blobs/{digest}", "put", "there", start)
            return
        self._note(f"{source}/blobs/{digest}", "get", None, start)
        assert self._client.send("DELETE", answer.headers["location"]).status == 204

    def _push_manifest(self, repository: str, reference: str, body: bytes) -> None:
        start = time.monotonic_ns()
        answer = self._client.put_manifest(repository, reference, body)
        assert answer.status == 201, answer
        self._note(f"{repository}/manifests/{Digest.of(body)}", "put", "there", start)

    def _push_contended(self, repository: str, reference: str, body: bytes) -> None:
        # Its layer comes and goes. A push that is refused may be seen for an instant: no history of a register.
        answer = self._client.put_manifest(repository, reference, body)
        assert answer.status == 201 or _code(answer) == BLOB_UNKNOWN_TO_MANIFEST, answer

    def _delete(self, name: str) -> None:
        start = time.monotonic_ns()
        answer = self._client.send("DELETE", f"/v2/{name}")
        assert answer.status in {202, 404} or (answer.status == 405 and "/blobs/" in name), answer
        if answer.status != 405:
            self._note(name, "delete", "deleted" if answer.status == 202 else None, start)

    def _try_to_delete(self, name: str) -> None:
        assert self._client.send("DELETE", f"/v2/{name}").status in {202, 404}

    def _get(self, name: str) -> None:
        start = time.monotonic_ns()
        answer = self._client.send(self._chance.choice(["GET", "HEAD"]), f"/v2/{name}")
        assert answer.status in {200, 404}, answer
        self._note(name, "get", "there" if answer.status == 200 else None, start)

    def _note(self, register: str, kind: Kind, value: str | None, start: int) -> None:
        self._history[register].append(Call(kind, value, start, time.monotonic_ns()))


def _at_once(clients: Sequence[Client], *calls: Callable[[Client], Answer], first: int = 0) -> list[Answer]:
    """Make each call with a client of its own; returns the answers in the order of the calls.

    `first` is 0 for all at the same instant; n lets the n-th be answered before the others begin.
    """
    answers: list[Answer | None] = [None] * len(calls)
    gate = threading.Barrier(len(calls))

    def run(number: int) -> None:
        if not first:
            gate.wait(30)
        answers[number] = calls[number](clients[number])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    if first:
        ahead = threads[first - 1]
        ahead.start()
        ahead.join()
    for thread in threads:
        if not thread.ident:
            thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer is not None]


def _sending(
    method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Callable[[Client], Answer]:
    return lambda client: client.send(method, path, body, headers)


def _code(answer: Answer) -> str:
    """The code of the first error."""
    return str(json.loads(answer.body)["errors"][0]["code"]) if answer.status >= 400 else ""
