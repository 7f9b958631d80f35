"""Damage in a bucket: found by the scrub and by verification, never served, and repaired, on a real store."""

import json
import os
from pathlib import Path

import pytest

from storage import keys
from storage.digest import Digest
from storage.s3 import S3Driver
from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.registry.images import CONFIG, encode, image
from tests.running import eventually, start
from tests.s3.replicas import Replicas
from tests.s3.test_serving import KIND, REPOSITORY, push_image
from tests.s3.weed import BUCKET, Store
from tests.swap.commands import Outcome

LAYER = os.urandom(100_000)
DIGEST = Digest.of(LAYER)
MANIFEST = Digest.of(encode(image(LAYER)))
DAMAGES = {
    "layer-byte": (keys.blob(DIGEST), b"?" + LAYER[1:], "blob-damaged"),
    "layer-truncated": (keys.blob(DIGEST), LAYER[:-9], "blob-damaged"),
    "layer-empty": (keys.blob(DIGEST), b"", "blob-empty"),
    "layer-gone": (keys.blob(DIGEST), None, "link-dangling"),
    "config-byte": (keys.blob(Digest.of(CONFIG)), b"?" + CONFIG[1:], "blob-damaged"),
    "manifest-byte": (keys.blob(MANIFEST), b"?" + encode(image(LAYER))[1:], "manifest-damaged"),
    "manifest-gone": (keys.blob(MANIFEST), None, "manifest-missing"),
    "layer-link-empty": (keys.layer_link(REPOSITORY, DIGEST), b"", "link-empty"),
    "layer-link-gone": (keys.layer_link(REPOSITORY, DIGEST), None, "manifest-incomplete"),
    "revision-link-empty": (keys.revision_link(REPOSITORY, MANIFEST), b"", "link-empty"),
    "revision-link-gone": (keys.revision_link(REPOSITORY, MANIFEST), None, "tag-dangling"),
    "tag-empty": (keys.tag_link(REPOSITORY, "v1"), b"", "link-empty"),
}
KNOWN = {name for name in DAMAGES if "link" in name or "tag" in name}
"""What is repaired without anybody else's help."""


def prefix_of(replicas: Replicas) -> str:
    return replicas.place.removeprefix(f"s3://{BUCKET}/")


async def damage(weed: Store, replicas: Replicas, key: str, body: bytes | None) -> None:
    """Change an object behind everybody's back."""
    driver = S3Driver(weed.settings(prefix_of(replicas)))
    await driver.start()
    await (driver.delete(key) if body is None else driver.put(key, body))
    await driver.close()


def verify(replicas: Replicas, *arguments: str) -> Outcome:
    """Run `verify`, and read what it found."""
    ended = replicas.run("verify", "--json", *arguments)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    findings = [(line["finding"], line["key"]) for line in lines if "finding" in line]
    return Outcome(ended.returncode, findings, lines[-1] if lines else {}, ended.stderr)


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found_never_served_and_repaired(
    replicas: Replicas, weed: Store, tmp_path: Path, name: str
) -> None:
    key, body, finding = DAMAGES[name]
    with_source = () if name in KNOWN else ("--from", "", "--from-insecure")
    client = replicas.add()
    push_image([client], LAYER, "v1")
    replicas.servers[0].stop()
    await damage(weed, replicas, key, body)

    found = verify(replicas)
    assert (found.code, finding in dict(found.findings)) == (3 if finding != "link-dangling" else found.code, True)
    server = start(tmp_path / "source", log=tmp_path / "source.log")
    try:
        if with_source:
            push_image([replicas.client(server.url)], LAYER, "v1")
            with_source = ("--from", server.url, "--from-insecure")
            assert verify(replicas, "--repair").code == 3
        repaired = verify(replicas, "--repair", *with_source)
    finally:
        server.stop()

    assert (repaired.code, repaired.findings) == (0, []), repaired
    client = replicas.add()
    manifest = client.get(f"/v2/{REPOSITORY}/manifests/v1", headers={"accept": KIND["content-type"]})
    assert Digest.of(manifest.content) == MANIFEST
    assert client.get(f"/v2/{REPOSITORY}/blobs/{DIGEST}").content == LAYER
    assert client.get(f"/v2/{REPOSITORY}/blobs/{Digest.of(CONFIG)}").content == CONFIG


async def test_the_scrub_finds_damage_in_a_bucket_and_a_push_heals_it(
    replicas: Replicas, weed: Store, tmp_path: Path
) -> None:
    program = tool_or_skip(V3)
    replicas.environment["PIERHEAD_SCRUB_ENABLED"] = "false"
    push_image([replicas.add()], LAYER, "v1")
    replicas.servers[0].stop()
    await damage(weed, replicas, keys.blob(DIGEST), b"?" + LAYER[1:])
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
