"""Damage in a bucket: found by the scrub and by verification, never served, and repaired, on a real store."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from storage import keys
from storage.digest import Digest
from storage.s3 import S3Driver
from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.running import eventually, serving
from tests.s3.replicas import Replicas
from tests.s3.test_serving import REPOSITORY, push_image
from tests.s3.weed import BUCKET, Store
from tests.swap.client import Client, Ledger
from tests.swap.commands import Outcome
from tests.swap.scars import (
    Image,
    layer_bytes,
    layer_link,
    manifest_bytes,
    pushed,
    revision_link,
    tag_link,
    whole,
)

LAYER = os.urandom(100_000)
DIGEST = Digest.of(LAYER)

Change = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class Damage:
    """What is done to one object of an image: its new bytes from the old ones, None to delete it."""

    key: Callable[[Image], str]
    change: Change
    finding: str
    needs_source: bool = True


def flipped(body: bytes) -> bytes:
    return bytes([body[0] ^ 1]) + body[1:]


def cut(body: bytes) -> bytes:
    return body[:-9]


def emptied(_body: bytes) -> bytes:
    return b""


def gone(_body: bytes) -> None:
    return None


DAMAGES = {
    "layer-byte": Damage(layer_bytes, flipped, "blob-damaged"),
    "layer-truncated": Damage(layer_bytes, cut, "blob-damaged"),
    "layer-empty": Damage(layer_bytes, emptied, "blob-empty"),
    "layer-gone": Damage(layer_bytes, gone, "link-dangling"),
    "manifest-byte": Damage(manifest_bytes, flipped, "manifest-damaged"),
    "manifest-gone": Damage(manifest_bytes, gone, "manifest-missing"),
    "layer-link-empty": Damage(layer_link, emptied, "link-empty", needs_source=False),
    "layer-link-gone": Damage(layer_link, gone, "manifest-incomplete", needs_source=False),
    "revision-link-empty": Damage(revision_link, emptied, "link-empty", needs_source=False),
    "revision-link-gone": Damage(revision_link, gone, "tag-dangling", needs_source=False),
    "tag-empty": Damage(tag_link, emptied, "link-empty", needs_source=False),
}


def prefix_of(replicas: Replicas) -> str:
    return replicas.place.removeprefix(f"s3://{BUCKET}/")


async def change(weed: Store, replicas: Replicas, changes: Mapping[str, Change]) -> None:
    """Change objects behind everybody's back."""
    driver = S3Driver(weed.settings(prefix_of(replicas)))
    await driver.start()
    for key, made in changes.items():
        body = made((await driver.get(key, bytes_max=1 << 20)).body)
        await (driver.delete(key) if body is None else driver.put(key, body))
    await driver.close()


def verify(replicas: Replicas, *arguments: str) -> Outcome:
    """Run `verify`, and read what it found."""
    ended = replicas.run("verify", "--json", *arguments)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    findings = [(line["finding"], line["key"]) for line in lines if "finding" in line]
    return Outcome(ended.returncode, findings, lines[-1] if lines else {}, ended.stderr)


def served(client: Client, image: Image) -> bool:
    """Tell whether the image can be pulled; what is sent is never anything else."""
    try:
        whole(client, image)
    except (AssertionError, httpx.TransportError):
        return False
    return True


async def test_damage_is_found_never_served_and_repaired(replicas: Replicas, weed: Store, tmp_path: Path) -> None:
    program = tool_or_skip(V3)
    # From the server itself: what the store sends by presigned URLs nobody but the client can compare.
    replicas.environment["PIERHEAD_S3_REDIRECT"] = "false"
    replicas.add()
    ledger = Ledger()
    with Client(replicas.servers[0].url, ledger) as client:
        images = {name: pushed(client, tmp_path, f"damaged/{name}") for name in DAMAGES}
        with serving(tmp_path / "source", log=tmp_path / "source.log") as server:
            with Client(server.url, Ledger()) as twin:
                for name in DAMAGES:
                    pushed(twin, tmp_path, f"damaged/{name}")  # the same bytes: the generators have one seed
                assert twin.ledger.repositories == ledger.repositories
            await change(weed, replicas, {each.key(images[name]): each.change for name, each in DAMAGES.items()})

            assert [name for name, image in images.items() if served(client, image)] == []
            found = verify(replicas)
            assert found.code == 3
            for name, each in DAMAGES.items():
                keys_told = [key for kind, key in found.findings if kind == each.finding]
                assert any(f"damaged/{name}/" in key or key == each.key(images[name]) for key in keys_told), name
            repaired = verify(replicas, "--repair")
            assert repaired.code == 3
            # What another server has remembered of damage is listed once in five seconds.
            known = {name for name, each in DAMAGES.items() if not each.needs_source}
            eventually(lambda: {name for name in images if served(client, images[name])} == known, seconds=30)
            fetched = verify(replicas, "--repair", "--from", server.url, "--from-insecure")

        assert (fetched.code, fetched.findings) == (0, []), fetched
        eventually(lambda: all(served(client, image) for image in images.values()), seconds=30)
    replicas.close()
    storage = weed.for_distribution(prefix_of(replicas))
    with (
        serving_distribution(program, tmp_path / "none", log=tmp_path / "theirs", storage=storage) as theirs,
        Client(theirs.url, ledger) as client,
    ):
        client.http.follow_redirects = True
        client.check(pierhead=False)


async def test_the_scrub_finds_damage_in_a_bucket_and_a_push_heals_it(
    replicas: Replicas, weed: Store, tmp_path: Path
) -> None:
    program = tool_or_skip(V3)
    replicas.environment["PIERHEAD_SCRUB_ENABLED"] = "false"
    push_image([replicas.add()], LAYER, "v1")
    replicas.servers[0].stop()
    await change(weed, replicas, {keys.blob(DIGEST): flipped})
    replicas.environment |= {"PIERHEAD_SCRUB_ENABLED": "true", "PIERHEAD_SCRUB_PERIOD_SECONDS": "300s"}
    first, second = replicas.add(), replicas.add()

    def status() -> dict[str, object]:
        told: dict[str, object] = json.loads(replicas.run("scrub", "status", "--json").stdout)
        return told

    eventually(lambda: status()["damaged"] == [str(DIGEST)], seconds=90)
    for client in (first, second):
        # Another server hears of it within five seconds, see decision 0005.
        url = f"/v2/{REPOSITORY}/blobs/{DIGEST}"
        eventually(lambda client=client, url=url: client.head(url).status_code == 404, seconds=20)  # type: ignore[misc]
    push_image([second], LAYER, "v1")

    assert second.get(f"/v2/{REPOSITORY}/blobs/{DIGEST}").content == LAYER
    assert status()["damaged"] == []
    replicas.close()
    storage = weed.for_distribution(prefix_of(replicas))
    with serving_distribution(program, tmp_path / "none", log=tmp_path / "theirs", storage=storage) as server:
        found = replicas.client(server.url).get(f"/v2/{REPOSITORY}/blobs/{DIGEST}")
        assert found.content == LAYER
