"""A tag is a linearizable register, whatever worker a request reaches."""

import json
import random
import time
from collections import defaultdict

import pytest

from storage.digest import Digest
from tests.conftest import Starter
from tests.races.clients import Client, image_manifest, in_threads
from tests.races.linearizability import Call, Kind, is_linearizable

REPOSITORY = "races/app"
CLIENTS = 16
TAGS = 40
CALLS = 20_800

History = dict[str, list[Call]]


def test_the_checker_takes_a_history_with_overlapping_calls() -> None:
    history = [Call("put", "a", 0, 10), Call("get", None, 1, 3), Call("get", "a", 2, 12), Call("delete", "x", 11, 14)]

    assert is_linearizable(history)


@pytest.mark.parametrize("answer", ["a", None])
def test_the_checker_takes_both_ends_of_a_call_that_may_not_have_happened(answer: str | None) -> None:
    assert is_linearizable([Call("again", "a", 0, 1), Call("get", answer, 2, 3)])


@pytest.mark.parametrize(
    "history",
    [
        [Call("put", "a", 0, 1), Call("get", None, 2, 3)],
        [Call("put", "a", 0, 1), Call("put", "b", 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 9), Call("get", "a", 1, 2), Call("get", None, 3, 4)],
        [Call("put", "a", 0, 1), Call("delete", "x", 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 1), Call("delete", None, 2, 3)],
        [Call("again", "a", 0, 1), Call("get", None, 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 1), Call("seen", None, 2, 3)],
        [Call("seen", "present", 0, 1)],
    ],
)
def test_the_checker_refuses_what_no_register_can_have_answered(history: list[Call]) -> None:
    assert not is_linearizable(history)


@pytest.mark.timeout(300)
def test_twenty_thousand_calls_by_sixteen_clients_on_two_workers_are_linearizable(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2)

    history = record(server.address, CALLS)

    assert sum(map(len, history.values())) >= 20_000
    assert [tag for tag, calls in history.items() if not is_linearizable(calls)] == []


@pytest.mark.timeout(120)
def test_a_server_that_remembers_tags_for_a_moment_is_found_out(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2, module="tests.races.stale")

    history = record(server.address, 3000)

    assert any(not is_linearizable(calls) for calls in history.values())


def record(address: str, calls: int) -> History:
    """Let all clients work on the same few tags, and return what was answered when, by tag."""
    client = Client(address)
    config = client.push_blob(REPOSITORY, b"{}")
    client.put_manifest(REPOSITORY, "unrelated", image_manifest(config, 2))
    client.close()
    histories: list[History] = [defaultdict(list) for _ in range(CLIENTS)]

    def work(client: Client, number: int) -> None:
        chance = random.Random(number)
        for step in range(calls // CLIENTS):
            # All clients meet at the same few tags, which move on with time: histories stay short.
            tag = f"t{(step * TAGS // (calls // CLIENTS)):02}-{chance.randrange(2)}"
            one_call(client, chance, tag, f"{number}-{step}", config_digest=str(config), history=histories[number])

    in_threads(address, CLIENTS, work)
    merged: History = defaultdict(list)
    for history in histories:
        for tag, answered in history.items():
            merged[tag].extend(answered)
    return merged


def one_call(
    client: Client, chance: random.Random, tag: str, note: str, *, config_digest: str, history: History
) -> None:
    """Make one call on a tag and write down what was answered."""
    path = f"/v2/{REPOSITORY}/manifests/{tag}"
    kind: Kind
    value: str | None
    start = time.monotonic_ns()
    draw = chance.random()
    if draw < 0.3:
        answer = client.put_manifest(REPOSITORY, tag, image_manifest(Digest.parse(config_digest), 2, note=note))
        assert answer.status == 201, answer
        kind, value = "put", answer.headers["docker-content-digest"]
    elif draw < 0.45:
        answer = client.send("DELETE", path)
        assert answer.status in (202, 404), answer
        kind, value = "delete", "deleted" if answer.status == 202 else None
    elif draw < 0.95:
        answer = client.send(chance.choice(["GET", "HEAD"]), path)
        assert answer.status in (200, 404), answer
        kind, value = "get", answer.headers["docker-content-digest"] if answer.status == 200 else None
    else:
        answer = client.send("GET", f"/v2/{REPOSITORY}/tags/list")
        assert answer.status == 200, answer
        kind, value = "seen", "present" if tag in json.loads(answer.body)["tags"] else None
    history[tag].append(Call(kind, value, start, time.monotonic_ns()))
