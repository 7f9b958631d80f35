"""Pushes, deletions and tags at the same moment, through both workers: one order of events, and no lie in it."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.hostile import store
from tests.hostile.pushing import IMAGE, begin, finish, image, push_blob, push_image, put_manifest, sha256
from tests.hostile.together import at_once
from tests.hostile.wire import Answer, Wire, call, encoded, request, wires_to_both_workers
from tests.running import Server, start

NAME = "races"


@contextlib.contextmanager
def meanwhile(work: Callable[[int], object]) -> Iterator[None]:
    """Do `work` again and again beside the block; what it raises fails the test."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        number = 0
        try:
            while not stop.is_set():
                work(number)
                number += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    assert not failures, failures


def variants(config: str, count: int) -> list[bytes]:
    return [image(config, annotations={"variant": str(number)}) for number in range(count)]


@pytest.mark.case("H46")
def test_a_blob_that_is_deleted_under_a_push_is_there_or_the_push_is_told(server: Server) -> None:
    """The lost blob: a client has seen it, skips its upload, and it is deleted before the manifest comes."""
    outcomes = set()
    for number in range(24):
        name = f"{NAME}/lost{number}"
        blob = push_blob(server, name, b"{}")
        calls: list[Callable[[], Answer]] = [
            partial(put_manifest, server, name, "latest", image(blob)),
            partial(call, server, "DELETE", f"/v2/{name}/blobs/{blob}"),
        ]
        answers = at_once(calls if number % 2 else calls[::-1])
        pushed, deleted = answers if number % 2 else answers[::-1]

        outcomes.add((pushed.status, deleted.status))
        assert (pushed.status, deleted.status) in {(201, 405), (404, 202), (404, 405)}
        if pushed.status == 201:
            assert call(server, "GET", f"/v2/{name}/blobs/{blob}").body == b"{}"
            assert call(server, "GET", f"/v2/{name}/manifests/latest").status == 200
        else:
            assert pushed.code == "MANIFEST_BLOB_UNKNOWN"
            assert call(server, "HEAD", f"/v2/{name}/manifests/latest").status == 404
            assert call(server, "HEAD", f"/v2/{name}/manifests/{sha256(image(blob))}").status == 404
    assert outcomes


@pytest.mark.case("H46")
def test_a_mount_that_races_with_a_deletion_links_to_bytes_that_are_there(server: Server) -> None:
    for number in range(8):
        body = b"mounted %d" % number
        digest = push_blob(server, f"{NAME}/from", body)
        target = f"/v2/{NAME}/to/blobs/uploads/?mount={encoded(digest)}&from={encoded(f'{NAME}/from')}"
        mounted, deleted = at_once(
            [partial(call, server, "POST", target), partial(call, server, "DELETE", f"/v2/{NAME}/from/blobs/{digest}")]
        )

        assert deleted.status == 202
        assert mounted.status in {201, 202}
        found = call(server, "GET", f"/v2/{NAME}/to/blobs/{digest}")
        assert (found.status, found.body == body) == ((200, True) if mounted.status == 201 else (404, False))


@pytest.mark.case("H47")
def test_a_blob_that_is_deleted_in_one_repository_stays_in_the_others(server: Server) -> None:
    body = b"linked twice"
    digest = push_blob(server, f"{NAME}/a", body)
    push_blob(server, f"{NAME}/b", body)

    assert call(server, "DELETE", f"/v2/{NAME}/a/blobs/{digest}").status == 202

    assert call(server, "HEAD", f"/v2/{NAME}/a/blobs/{digest}").status == 404
    assert call(server, "GET", f"/v2/{NAME}/b/blobs/{digest}").body == body
    assert call(server, "DELETE", f"/v2/{NAME}/a/blobs/{digest}").code == "BLOB_UNKNOWN"


@pytest.mark.case("H47")
def test_a_blob_that_a_manifest_needs_is_not_deleted_from_under_it(server: Server) -> None:
    manifest = push_image(server, f"{NAME}/needed")
    blob = sha256(b"{}")

    answer = call(server, "DELETE", f"/v2/{NAME}/needed/blobs/{blob}")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")

    assert call(server, "DELETE", f"/v2/{NAME}/needed/manifests/{manifest}").status == 202
    assert call(server, "DELETE", f"/v2/{NAME}/needed/blobs/{blob}").status == 202


@pytest.mark.case("H48")
def test_a_manifest_that_is_deleted_while_it_is_tagged_leaves_no_tag_that_leads_nowhere(server: Server) -> None:
    for number in range(12):
        name = f"{NAME}/tagged{number}"
        digest = push_image(server, name, "old")
        body = image(sha256(b"{}"))
        answers = at_once(
            [
                partial(put_manifest, server, name, "new", body),
                partial(call, server, "DELETE", f"/v2/{name}/manifests/{digest}"),
            ]
        )
        assert [answer.status for answer in answers] in ([201, 202], [503, 202])
        listed = call(server, "GET", f"/v2/{name}/tags/list")
        for tag in json.loads(listed.body)["tags"] if listed.status == 200 else []:
            assert call(server, "GET", f"/v2/{name}/manifests/{tag}").body == body


@pytest.mark.case("H48")
def test_a_reader_finishes_though_the_blob_is_deleted_and_pushed_anew_under_it(server: Server) -> None:
    body = bytes(range(256)) * 4096 * 12
    digest = push_blob(server, f"{NAME}/read", body)
    with Wire.open(server, receive_bytes=4096) as wire:
        wire.send(request("GET", f"/v2/{NAME}/read/blobs/{digest}"))
        assert wire.speaks(seconds=5)
        assert call(server, "DELETE", f"/v2/{NAME}/read/blobs/{digest}").status == 202
        assert call(server, "HEAD", f"/v2/{NAME}/read/blobs/{digest}").status == 404
        push_blob(server, f"{NAME}/read", body)

        assert wire.answer().body == body


@pytest.mark.case("H49")
def test_a_tag_that_many_set_at_once_is_one_of_theirs_and_all_manifests_stay(server: Server) -> None:
    config = push_blob(server, f"{NAME}/tag", b"{}")
    bodies = variants(config, 16)

    answers = at_once([partial(put_manifest, server, f"{NAME}/tag", "contended", body) for body in bodies])

    assert [answer.status for answer in answers] == [201] * 16
    for body, answer in zip(bodies, answers, strict=True):
        assert answer.headers["docker-content-digest"] == sha256(body)
        assert call(server, "GET", f"/v2/{NAME}/tag/manifests/{sha256(body)}").body == body
    found = {call(server, "GET", f"/v2/{NAME}/tag/manifests/contended").body for _ in range(6)}
    assert len(found) == 1
    assert found <= set(bodies)


@pytest.mark.case("H49")
def test_readers_see_the_old_or_the_new_manifest_and_never_a_mixture_or_nothing(server: Server) -> None:
    name = f"{NAME}/moving"
    bodies = variants(push_blob(server, name, b"{}"), 3)
    by_digest = {sha256(body): body for body in bodies}
    assert put_manifest(server, name, "t", bodies[0]).status == 201

    with meanwhile(lambda number: put_manifest(server, name, "t", bodies[number % 3])):
        for _ in range(120):
            answer = call(server, "GET", f"/v2/{name}/manifests/t")
            assert answer.status == 200
            assert by_digest[answer.headers["docker-content-digest"]] == answer.body
            assert answer.headers["etag"] == f'"{sha256(answer.body)}"'


@pytest.mark.case("H49")
def test_of_many_that_move_a_tag_from_one_state_exactly_one_does(server: Server) -> None:
    name = f"{NAME}/swap"
    bodies = variants(push_blob(server, name, b"{}"), 13)
    assert put_manifest(server, name, "t", bodies[0]).status == 201
    lines = [f"Content-Type: {IMAGE}", f'If-Match: "{sha256(bodies[0])}"']

    answers = at_once(
        [partial(call, server, "PUT", f"/v2/{name}/manifests/t", *lines, body=body) for body in bodies[1:]]
    )

    assert sorted(answer.status for answer in answers) == [201] + [412] * 11
    (winner,) = (body for body, answer in zip(bodies[1:], answers, strict=True) if answer.status == 201)
    assert call(server, "GET", f"/v2/{name}/manifests/t").body == winner


@pytest.mark.case("H50")
def test_of_many_that_set_a_tag_for_the_first_time_exactly_one_does(server: Server) -> None:
    """What an immutable tag will rest on: the question and the change are one step."""
    name = f"{NAME}/first"
    bodies = variants(push_blob(server, name, b"{}"), 12)
    lines = [f"Content-Type: {IMAGE}", "If-None-Match: *"]

    answers = at_once([partial(call, server, "PUT", f"/v2/{name}/manifests/t", *lines, body=body) for body in bodies])

    assert sorted(answer.status for answer in answers) == [201] + [412] * 11
    (winner,) = (body for body, answer in zip(bodies, answers, strict=True) if answer.status == 201)
    assert call(server, "GET", f"/v2/{name}/manifests/t").body == winner
    refused = call(server, "PUT", f"/v2/{name}/manifests/t", *lines, body=bodies[0])
    assert (refused.status, refused.code) == (412, "DENIED")


@pytest.mark.case("H49")
def test_a_listing_shows_no_tag_whose_manifest_cannot_be_read(server: Server) -> None:
    name = f"{NAME}/listed"
    body = image(push_blob(server, name, b"{}"))
    assert put_manifest(server, name, "t", body).status == 201

    def push_and_delete(number: int) -> None:
        put_manifest(server, name, f"v{number}", image(sha256(b"{}"), annotations={"n": str(number)}))

    with meanwhile(push_and_delete):
        for _ in range(30):
            for tag in json.loads(call(server, "GET", f"/v2/{name}/tags/list").body)["tags"]:
                assert call(server, "HEAD", f"/v2/{name}/manifests/{tag}").status == 200


@pytest.mark.case("H51")
def test_what_one_worker_changes_the_other_one_sees_at_once(server: Server) -> None:
    name = f"{NAME}/seen"
    bodies = variants(push_blob(server, name, b"{}"), 4)

    def ask(wire: Wire, method: str, target: str, body: bytes = b"") -> Answer:
        wire.send(request(method, target, f"Content-Type: {IMAGE}", body=body))
        return wire.answer(method=method)

    with wires_to_both_workers(server) as (first, second):
        for writer, reader in ((first, second), (second, first)) * 4:
            for body in bodies:
                tag, digest = f"/v2/{name}/manifests/t", f"/v2/{name}/manifests/{sha256(body)}"
                assert ask(reader, "HEAD", digest).status == 404
                assert ask(writer, "PUT", tag, body).status == 201
                assert ask(reader, "HEAD", digest).status == 200
                assert ask(reader, "GET", tag).body == body
                assert ask(writer, "DELETE", digest).status == 202
                assert ask(reader, "GET", digest).status == 404
                assert ask(reader, "GET", tag).status == 404
            blob = sha256(b"seen")
            assert ask(reader, "HEAD", f"/v2/{name}/blobs/{blob}").status == 404
            assert ask(writer, "POST", f"/v2/{name}/blobs/uploads/?digest={encoded(blob)}", b"seen").status == 201
            assert ask(reader, "HEAD", f"/v2/{name}/blobs/{blob}").status == 200
            assert ask(writer, "DELETE", f"/v2/{name}/blobs/{blob}").status == 202
            assert ask(reader, "HEAD", f"/v2/{name}/blobs/{blob}").status == 404


@pytest.mark.case("H53")
def test_a_repository_cannot_be_deleted_as_a_whole(server: Server) -> None:
    push_image(server, f"{NAME}/whole")

    for target in (f"/v2/{NAME}/whole", f"/v2/{NAME}/whole/", f"/v2/{NAME}/whole/tags/list", f"/v2/{NAME}/whole/blobs"):
        assert call(server, "DELETE", target).status in {400, 404, 405}
    assert call(server, "GET", f"/v2/{NAME}/whole/manifests/latest").status == 200


@pytest.mark.case("H53")
def test_a_session_of_a_repository_whose_directory_an_operator_removed_is_gone(server: Server) -> None:
    name = f"{NAME}/removed"
    push_image(server, name)
    location = begin(server, name)
    assert call(server, "PATCH", location, body=b"hello").status == 202

    shutil.rmtree(server.data / store.REPOSITORIES / name)

    assert call(server, "GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert call(server, "PATCH", location, body=b"!").code == "BLOB_UPLOAD_UNKNOWN"
    assert finish(server, location, sha256(b"hello")).code == "BLOB_UPLOAD_UNKNOWN"
    assert call(server, "GET", f"/v2/{name}/manifests/latest").code == "MANIFEST_UNKNOWN"
    assert call(server, "GET", f"/v2/{name}/blobs/{sha256(b'{}')}").code == "BLOB_UNKNOWN"
    push_image(server, name)
    assert call(server, "GET", location).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.case("H3")
@pytest.mark.case("H54")
def test_locations_mean_the_same_after_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("restart")
    server = start(directory / "data", log=directory / "log", workers=2)
    try:
        open_one, ended, cancelled = (begin(server, NAME) for _ in range(3))
        assert call(server, "PATCH", open_one, body=b"hello").status == 202
        assert finish(server, ended, sha256(b"ended"), b"ended").status == 201
        assert call(server, "DELETE", cancelled).status == 204
    finally:
        server.kill()
    server = start(directory / "data", log=directory / "log", workers=2)
    try:
        assert call(server, "GET", open_one).headers["range"] == "0-4"
        assert finish(server, open_one.replace(NAME, "other"), sha256(b"hello")).code == "BLOB_UPLOAD_UNKNOWN"
        assert finish(server, open_one, sha256(b"hello")).status == 201
        for location in (ended, cancelled):
            assert call(server, "PATCH", location, body=b"!").code == "BLOB_UPLOAD_UNKNOWN"
        assert finish(server, ended, sha256(b"ended")).status == 201
        assert finish(server, cancelled, sha256(b"")).code == "BLOB_UPLOAD_UNKNOWN"
    finally:
        assert server.stop() == 0
