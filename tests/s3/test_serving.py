"""Several servers over one bucket: a push moves between them, survives the death of one, and both serve the same."""

import os
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from storage.digest import Digest
from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.races.linearizability import is_linearizable
from tests.races.tag_histories import record
from tests.registry.images import CONFIG, encode, image
from tests.running import start
from tests.s3.replicas import Replicas
from tests.s3.weed import BUCKET, Store

LARGE = 20 << 20
REPOSITORY = "team/app"
KIND = {"content-type": str(image()["mediaType"])}


def push_blob(clients: list[httpx.Client], body: bytes, *, chunk: int = 3 << 20) -> Digest:
    """Push a blob in chunks, each request to the next server."""
    turn = 0

    def next_one() -> httpx.Client:
        nonlocal turn
        turn += 1
        return clients[turn % len(clients)]

    location = next_one().post(f"/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
    for start_at in range(0, len(body), chunk):
        part = body[start_at : start_at + chunk]
        headers = {"content-range": f"{start_at}-{start_at + len(part) - 1}"}
        answer = next_one().patch(location, content=part, headers=headers)
        assert answer.status_code == 202, answer.text
        location = answer.headers["location"]
    digest = Digest.of(body)
    answer = next_one().put(httpx.URL(location).copy_add_param("digest", str(digest)))
    assert answer.status_code == 201, answer.text
    return digest


def push_image(clients: list[httpx.Client], layer: bytes, tag: str) -> Digest:
    """Push an image of one layer."""
    for body in (CONFIG, layer):
        push_blob(clients, body)
    manifest = encode(image(layer))
    answer = clients[0].put(f"/v2/{REPOSITORY}/manifests/{tag}", content=manifest, headers=KIND)
    assert answer.status_code == 201, answer.text
    return Digest.of(manifest)


def test_a_push_moves_between_servers_at_every_chunk_and_all_of_them_serve_it(replicas: Replicas) -> None:
    clients = [replicas.add(), replicas.add()]
    layer = os.urandom(LARGE)

    digest = push_image(clients, layer, "v1")

    for client in clients:
        assert client.get(f"/v2/{REPOSITORY}/manifests/v1").headers["docker-content-digest"] == str(digest)
        assert client.get(f"/v2/{REPOSITORY}/blobs/{Digest.of(layer)}").content == layer
        wanted = {"range": f"bytes={LARGE - 5}-"}
        assert client.get(f"/v2/{REPOSITORY}/blobs/{Digest.of(layer)}", headers=wanted).content == layer[-5:]
    assert clients[0].delete(f"/v2/{REPOSITORY}/manifests/v1").status_code == 202
    assert clients[1].get(f"/v2/{REPOSITORY}/manifests/v1").status_code == 404
    verified = replicas.run("verify")
    assert verified.returncode == 0, verified.stdout


def test_a_push_goes_on_at_another_server_when_its_own_was_killed(replicas: Replicas) -> None:
    first, second = replicas.add(), replicas.add()
    body = os.urandom(LARGE)
    location = first.post(f"/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
    half = 7 << 20
    answer = first.patch(location, content=body[:half], headers={"content-range": f"0-{half - 1}"})
    assert answer.status_code == 202

    replicas.servers[0].kill()

    told = second.get(location)
    assert told.headers["range"] == f"0-{half - 1}"
    answer = second.patch(location, content=body[half:], headers={"content-range": f"{half}-{LARGE - 1}"})
    assert answer.status_code == 202, answer.text
    digest = Digest.of(body)
    assert second.put(location, params={"digest": str(digest)}).status_code == 201
    assert second.get(f"/v2/{REPOSITORY}/blobs/{digest}").content == body


@pytest.mark.timeout(300)
def test_tags_are_linearizable_when_sixteen_clients_use_both_servers(replicas: Replicas) -> None:
    replicas.add()
    replicas.add()

    history = record(*(server.address for server in replicas.servers), calls=1600)

    kinds = {call.kind for calls in history.values() for call in calls}
    assert kinds == {"put", "get", "delete", "seen"}
    assert [tag for tag, calls in history.items() if not is_linearizable(calls)] == []
    verified = replicas.run("verify")
    assert verified.returncode == 0, verified.stdout


def test_tokens_of_robots_lie_in_the_bucket_and_are_made_by_the_command(replicas: Replicas) -> None:
    replicas.add()

    made = replicas.run("token", "create", "--name", "ci", "--repo", "team/**", "--allow", "pull")
    listed = replicas.run("token", "list")

    assert made.returncode == 0, made.stderr
    assert "ci" in listed.stdout
    assert made.stdout.strip() not in listed.stdout


def test_a_bucket_that_is_not_there_is_told_in_one_line(weed: Store, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"exit code 1") as failed:
        start(
            tmp_path / "unused",
            log=tmp_path / "log",
            arguments=["--data", "s3://no-such-bucket"],
            environment=weed.environment(),
        )
    assert "Traceback" not in str(failed.value)
    assert "no-such-bucket" in str(failed.value)


def check_images(client: httpx.Client, images: Mapping[str, tuple[Digest, bytes]]) -> None:
    """Read every image back, by tag, and its layer to the byte."""
    for tag, (digest, layer) in images.items():
        found = client.get(f"/v2/{REPOSITORY}/manifests/{tag}", headers={"accept": KIND["content-type"]})
        assert found.headers["docker-content-digest"] == str(digest), tag
        assert Digest.of(found.content) == digest
        assert client.get(f"/v2/{REPOSITORY}/blobs/{Digest.of(layer)}", follow_redirects=True).content == layer


def test_one_bucket_is_served_in_turn_by_us_and_by_distribution(
    replicas: Replicas, weed: Store, tmp_path: Path
) -> None:
    program = tool_or_skip(V3)
    storage = weed.for_distribution(replicas.place.removeprefix(f"s3://{BUCKET}/"))
    images: dict[str, tuple[Digest, bytes]] = {}

    def push(client: httpx.Client, tag: str) -> None:
        layer = os.urandom(LARGE)
        images[tag] = (push_image([client], layer, tag), layer)

    for turn in range(2):
        client = replicas.add()
        check_images(client, images)
        push(client, f"ours{turn}")
        push(client, "moved")
        replicas.servers[-1].stop()
        compacted = replicas.run("storage", "compact")
        assert compacted.returncode == 0, compacted.stdout + compacted.stderr

        with (
            serving_distribution(program, tmp_path, log=tmp_path / f"theirs{turn}", storage=storage) as server,
            httpx.Client(base_url=server.url, timeout=60) as theirs,
        ):
            check_images(theirs, images)
            push(theirs, f"theirs{turn}")
            push(theirs, "moved")
        adopted = replicas.run("adopt")
        assert adopted.returncode == 0, adopted.stdout + adopted.stderr

    check_images(replicas.add(), images)
    verified = replicas.run("verify")
    assert verified.returncode == 0, verified.stdout
