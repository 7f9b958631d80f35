"""What many clients that use the same few tags are answered, written down as the history of each tag."""

import json
import random
import time
from collections import defaultdict

from storage.digest import Digest
from tests.races.clients import Client, image_manifest, in_threads
from tests.races.linearizability import Call, Kind

REPOSITORY = "races/app"
CLIENTS = 16
TAGS = 40

History = dict[str, list[Call]]


def record(*addresses: str, calls: int) -> History:
    """Let all clients work on the same few tags, and return what was answered when, by tag."""
    client = Client(*addresses)
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

    in_threads(addresses, CLIENTS, work)
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
