"""Pushes over plain HTTP that may be refused, and what a store holds as its files have it."""

import json
import os
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from storage.digest import Digest
from tests.registry.images import CONFIG, encode, image

KIND = {"content-type": str(image()["mediaType"])}
MIB = 1 << 20
REPOSITORIES = Path("docker/registry/v2/repositories")


def quota(**bytes_of: int) -> dict[str, str]:
    """Return the variable of the environment that gives prefixes a quota; `_` stands for each component."""
    tables = [{"repositories": name.replace("_", "*"), "bytes": size} for name, size in bytes_of.items()]
    return {"PIERHEAD_QUOTA": json.dumps(tables)}


def push_blob(client: httpx.Client, repository: str, body: bytes) -> httpx.Response:
    """Push a blob as docker does, without a word about its size, and return the last answer."""
    begun = client.post(f"/v2/{repository}/blobs/uploads/")
    if begun.status_code != 202:
        return begun
    pieces = (body[start : start + MIB] for start in range(0, len(body), MIB))
    sent = client.patch(begun.headers["location"], content=pieces)
    if sent.status_code != 202:
        return sent
    url = httpx.URL(sent.headers["location"]).copy_add_param("digest", str(Digest.of(body)))
    return client.put(url)


def push_image(client: httpx.Client, repository: str, layer: bytes, tag: str) -> httpx.Response:
    """Push an image of one layer, and return the last answer."""
    for body in (CONFIG, layer):
        answer = push_blob(client, repository, body)
        if answer.status_code != 201:
            return answer
    return client.put(f"/v2/{repository}/manifests/{tag}", content=encode(image(layer)), headers=KIND)


def push_at_once(clients: Iterable[httpx.Client], repositories: Iterable[str], *, size: int) -> list[httpx.Response]:
    """Push a blob of its own to each repository, all at once, each through the next of the clients."""
    turns = list(clients)
    works = [(turns[number % len(turns)], name, os.urandom(size)) for number, name in enumerate(repositories)]
    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(lambda work: push_blob(*work), works))


def refusal(answer: httpx.Response) -> str:
    """Return the message of a refusal for want of room."""
    assert answer.status_code == 403, (answer.status_code, answer.text)
    (error,) = answer.json()["errors"]
    assert error["code"] == "DENIED"
    return str(error["message"])


def linked_bytes(data: Path, prefix: str) -> int:
    """Bytes of everything that a prefix links to in a data directory, each blob once."""
    found: set[str] = set()
    for link in (data / REPOSITORIES / prefix).rglob("link"):
        if link.parts[-4] in {"_layers", "revisions"}:
            found.add(link.read_text().removeprefix("sha256:"))
    return sum((data / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data").stat().st_size for name in found)


def told_bytes(data: Path, prefix: str) -> int:
    """Bytes that a data directory tells a prefix to hold, read as docs/reference/storage-format.md describes it."""
    usage = data / "pierhead/usage" / prefix
    size, counted = 0, set[int]()
    if (usage / "_head").exists():
        head = json.loads((usage / "_head").read_bytes())
        numbers = array("Q", (usage / "_counted" / head["counted"]).read_bytes())
        size, counted = int(head["size"]), set(numbers[: len(numbers) // 2])
    added: dict[int, int] = {}
    for addition in usage.glob("_added/*"):
        _time, length, encoded, _id = addition.name.split("-")
        if int(encoded[:16], 16) not in counted:
            added[int(encoded[:16], 16)] = int(length)
    return size + sum(added.values())
