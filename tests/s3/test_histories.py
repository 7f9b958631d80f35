"""Histories of tags in a bucket: several servers move one tag, and what they did is told whole and in order."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import httpx

from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.s3.replicas import Replicas

REPOSITORY = "team/app"
KIND = {"content-type": str(image()["mediaType"])}
TAG = f"/v2/{REPOSITORY}/_pierhead/tags/prod"
ROUNDS = 8


def body(text: str) -> bytes:
    return encode({**image(), "annotations": {"text": text}})


def push(client: httpx.Client, text: str) -> None:
    answer = client.put(f"/v2/{REPOSITORY}/manifests/prod", content=body(text), headers=KIND)
    assert answer.status_code == 201, answer.text


def test_servers_that_move_one_tag_at_once_write_one_history_that_any_of_them_goes_back_in(replicas: Replicas) -> None:
    clients = [replicas.add(), replicas.add()]
    for content in (CONFIG, LAYER):
        path = f"/v2/{REPOSITORY}/blobs/uploads/?digest={Digest.of(content)}"
        assert clients[0].post(path, content=content).status_code == 201

    def work(number: int) -> None:
        for step in range(ROUNDS):
            push(clients[number], f"{number} {step}")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(work, range(2)))

    states = clients[0].get(f"{TAG}/history").json()["states"]
    pushed = {str(Digest.of(body(f"{number} {step}"))) for number in range(2) for step in range(ROUNDS)}
    assert [state["why"] for state in states] == ["push"] * 2 * ROUNDS
    assert {state["digest"] for state in states} == pushed
    assert [newer["previous"] for newer in states[:-1]] == [older["digest"] for older in states[1:]]
    assert states[-1]["previous"] is None
    assert clients[1].get(f"{TAG}/history").json()["states"] == states
    for number, client in zip((5, 9), itertools.cycle(clients), strict=False):
        assert client.post(f"{TAG}/rollback", json={"to": states[number]["digest"]}).status_code == 200
        for each in clients:
            found = each.get(f"/v2/{REPOSITORY}/manifests/prod")
            assert str(Digest.of(found.content)) == states[number]["digest"]
    assert clients[0].delete(f"/v2/{REPOSITORY}/manifests/prod").status_code == 202
    assert clients[1].post(f"{TAG}/restore").json()["digest"] == states[9]["digest"]
    earlier = clients[0].get(f"/v2/{REPOSITORY}/manifests/prod.-2")
    assert str(Digest.of(earlier.content)) == states[9]["digest"]
    verified = replicas.run("verify")
    assert verified.returncode == 0, verified.stdout
