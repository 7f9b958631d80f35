"""`pierhead storage` on a bucket: what its bytes are, and blobs moved to where distribution finds them."""

import json
import os
from pathlib import Path

import httpx

from storage import keys
from storage.digest import Digest
from storage.s3 import S3Driver
from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.s3.replicas import Replicas
from tests.s3.test_serving import REPOSITORY, push_blob, push_image
from tests.s3.weed import Store
from tests.stores import read_large

LAYER = os.urandom(12 << 20)
BLOB = keys.blob(Digest.of(LAYER))


def prefix_of(replicas: Replicas) -> str:
    return replicas.place.split("/", 3)[3]


def usage(replicas: Replicas) -> dict[str, dict[str, int]]:
    """What `storage check` tells of each use."""
    outcome = replicas.run("storage", "check", "--json")
    assert outcome.returncode == 0, outcome.stderr
    found: dict[str, dict[str, int]] = json.loads(outcome.stdout)["uses"]
    return found


async def leave_at_its_parts(weed: Store, prefix: str, body: bytes) -> None:
    """Push a blob as a server does that is killed before it has moved it."""
    driver = S3Driver(weed.settings(prefix))
    await driver.start()
    driver._mover.schedule = lambda _key: None  # type: ignore[assignment,method-assign]
    await driver.stage("up/1/data", record="pierhead/uploads/1", text=b"{}")
    writer = await driver.open_staged("up/1/data", record="pierhead/uploads/1")
    await writer.write([body])
    await writer.commit(keys.blob(Digest.of(body)))
    await driver.close()


async def test_everything_that_takes_space_is_counted_as_what_it_is(replicas: Replicas, weed: Store) -> None:
    client = replicas.add()
    push_image([client], LAYER[: 1 << 20], "v1")
    before = usage(replicas)
    assert before["unreferenced"]["objects"] == before["moving"]["objects"] == before["uploads"]["objects"] - 2 == 0
    assert before["referenced"]["objects"] == 3
    assert before["referenced"]["bytes"] > 1 << 20

    await leave_at_its_parts(weed, prefix_of(replicas), LAYER)
    driver = S3Driver(weed.settings(prefix_of(replicas)))
    await driver.start()
    await driver.put(keys.blob(Digest.of(b"garbage")), b"garbage")
    await driver.put("somebody/else", b"12345")
    upload = await driver._staging.multiparts.begin("pierhead/staged/pierhead/uploads/9/parts-1")
    await driver._staging.multiparts.send(upload, 1, bytes(6 << 20))
    after = usage(replicas)
    await driver._staging.multiparts.abort(upload)
    await driver.close()

    assert after["moving"] == {"objects": 1, "bytes": len(LAYER), "means": after["moving"]["means"]}
    assert (after["unreferenced"]["objects"], after["unreferenced"]["bytes"]) == (1, 7)
    assert (after["foreign"]["objects"], after["foreign"]["bytes"]) == (1, 5)
    assert after["uploads"]["bytes"] - before["uploads"]["bytes"] >= 6 << 20
    assert after["referenced"] == before["referenced"]
    table = replicas.run("storage", "check").stdout
    assert "blobs that are not at their place yet" in table
    assert "12 MiB" in table


async def test_compact_moves_what_a_killed_server_has_left_and_distribution_serves_it(
    replicas: Replicas, weed: Store, tmp_path: Path
) -> None:
    program = tool_or_skip(V3)
    client = replicas.add()
    push_image([client], LAYER[: 1 << 20], "v1")
    await leave_at_its_parts(weed, prefix_of(replicas), LAYER)
    mounted = client.post(f"/v2/{REPOSITORY}/blobs/uploads/", params={"digest": str(Digest.of(LAYER))}, content=LAYER)
    assert mounted.status_code == 201
    await leave_at_its_parts(weed, prefix_of(replicas), LAYER[1:])
    replicas.close()

    outcome = replicas.run("storage", "compact", "--json")

    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    summary = json.loads(outcome.stdout.splitlines()[-1])
    assert summary["counts"]["blobs"] >= 1
    assert replicas.run("storage", "compact").stdout.strip() == "moved: nothing; 0 failed"
    driver = S3Driver(weed.settings(prefix_of(replicas)))
    await driver.start()
    assert (await driver.list(keys.POINTERS, limit=1)).entries == []
    assert await read_large(driver, keys.blob(Digest.of(LAYER[1:]))) == LAYER[1:]
    await driver.close()
    storage = weed.for_distribution(prefix_of(replicas))
    with serving_distribution(program, tmp_path / "none", log=tmp_path / "theirs", storage=storage) as server:
        found = httpx.get(f"{server.url}/v2/{REPOSITORY}/blobs/{Digest.of(LAYER)}", follow_redirects=True)
        assert found.content == LAYER


def test_compact_has_nothing_to_do_in_a_directory(tmp_path: Path, replicas: Replicas) -> None:
    (tmp_path / "pierhead").mkdir()
    replicas.place = str(tmp_path)

    assert replicas.run("storage", "compact").stdout.strip() == "moved: nothing; 0 failed"
    assert json.loads(replicas.run("storage", "check", "--json").stdout)["uses"]["foreign"]["objects"] == 0


def test_verify_hashes_blobs_that_are_not_at_their_place_yet(replicas: Replicas) -> None:
    client = replicas.add()
    push_blob([client], LAYER)

    assert replicas.run("verify").returncode == 0
