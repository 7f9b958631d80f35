"""`pierhead gc` and `pierhead why` on a directory that is served; and what a server collects by itself."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from storage.digest import Digest
from tests.races.clients import Client, image_manifest
from tests.races.stores import verify
from tests.running import ROOT, Server, eventually, start

CONFIG, LAYER, GARBAGE = b"{}", b"a layer", b"a layer that only garbage needs"
AT_ONCE = {"PIERHEAD_GC_GRACE_SECONDS": "0", "PIERHEAD_HISTORY_KEEP_SECONDS": "0", "PIERHEAD_HISTORY_KEEP_LAST": "0"}


@contextmanager
def serving(data: Path, **arguments: Any) -> Iterator[Server]:
    """Serve until the end of the `with` block."""
    server = start(data, **arguments)
    try:
        yield server
    finally:
        server.stop()


def pierhead(data: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a store."""
    line = [sys.executable, "-m", "registry", *arguments, "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    environment |= AT_ONCE | settings
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False)


def push(client: Client, tag: str, layer: bytes = LAYER) -> Digest:
    """Push an image of one layer."""
    config, digest = client.push_blob("team/app", CONFIG), client.push_blob("team/app", layer)
    body = image_manifest(config, len(CONFIG), [(digest, len(layer))])
    answer = client.put_manifest("team/app", tag or Digest.of(body), body)
    assert answer.status == 201, answer
    return Digest.of(body)


def test_garbage_is_planned_collected_told_of_and_put_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server:
        client = Client(server.url.removeprefix("http://"))
        kept, garbage = push(client, "v1"), push(client, "", GARBAGE)

        planned = pierhead(data, "gc", "plan", "--json")
        assert planned.returncode == 0, planned.stderr
        assert json.loads(planned.stdout.splitlines()[0]) == {"repository": "team/app", "manifests": 1, "layers": 1}
        assert "goes with the next collection" in pierhead(data, "why", str(garbage)).stdout
        assert "tag v1" in pierhead(data, "why", str(kept)).stdout
        assert client.send("GET", f"/v2/team/app/manifests/{garbage}").status == 200

        done = pierhead(data, "gc", "run")
        assert done.returncode == 0, done.stderr
        assert "taken: 1 manifests, 1 links to blobs" in done.stdout
        assert client.send("GET", f"/v2/team/app/manifests/{garbage}").status == 404
        assert client.send("GET", "/v2/team/app/manifests/v1").status == 200
        status = pierhead(data, "gc", "status")
        assert status.returncode == 0
        assert "now: no collection" in status.stdout
        assert f"manifest {garbage}: nothing led to it" in pierhead(data, "gc", "log").stdout
        assert "in the trash until" in pierhead(data, "why", str(garbage)).stdout

        undone = pierhead(data, "gc", "undo", str(garbage), "--json")
        assert json.loads(undone.stdout) == {"manifests": 1, "layers": 1, "gone": 0}
        assert client.send("GET", f"/v2/team/app/manifests/{garbage}").status == 200
        assert client.send("GET", f"/v2/team/app/blobs/{Digest.of(GARBAGE)}").body == GARBAGE
        assert pierhead(data, "gc", "undo", "team/app").returncode == 1

        assert pierhead(data, "gc", "run", PIERHEAD_GC_TRASH_SECONDS="0").returncode == 0
        gone = pierhead(data, "why", str(garbage), PIERHEAD_GC_TRASH_SECONDS="0")
        assert gone.returncode == 1
        assert "for good" in gone.stdout
        client.close()
    assert verify(data) == []


def test_the_history_of_a_tag_is_no_garbage(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server:
        client = Client(server.url.removeprefix("http://"))
        first = push(client, "v1", GARBAGE)
        push(client, "v1")
        client.close()

        assert pierhead(data, "gc", "run", PIERHEAD_HISTORY_KEEP_LAST="10").returncode == 0
        why = pierhead(data, "why", str(first), PIERHEAD_HISTORY_KEEP_LAST="10").stdout
        assert "in the history of a tag" in why
        assert httpx.get(f"{server.url}/v2/team/app/manifests/{first}").status_code == 200
        assert "taken: 1 manifests" in pierhead(data, "gc", "run").stdout
        assert httpx.get(f"{server.url}/v2/team/app/manifests/{first}").status_code == 404


def test_too_much_garbage_stops_a_collection_until_somebody_has_looked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server:
        client = Client(server.url.removeprefix("http://"))
        for number in range(101):
            push(client, "", b"%d" % number)
        client.close()

    stopped = pierhead(data, "gc", "run")

    assert stopped.returncode == 1
    assert "101 of 101 manifests would be taken" in stopped.stdout
    assert "pierhead gc run --no-brake" in stopped.stderr
    assert pierhead(data, "gc", "status").returncode == 1
    assert "taken: 101 manifests" in pierhead(data, "gc", "run", "--no-brake").stdout


@pytest.mark.parametrize("arguments", [("why", "nonsense"), ("gc", "undo"), ("gc", "undo", "sha256:1")])
def test_what_makes_no_sense_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert pierhead(tmp_path, *arguments).returncode == 2


def test_a_server_collects_by_itself(tmp_path: Path) -> None:
    data = tmp_path / "data"
    environment = {**AT_ONCE, "PIERHEAD_GC_INTERVAL_SECONDS": "1s", "PIERHEAD_GC_TRASH_SECONDS": "0"}
    with serving(data, log=tmp_path / "log", workers=2, environment=environment) as server:
        client = Client(server.url.removeprefix("http://"))
        kept, garbage = push(client, "v1"), push(client, "", GARBAGE)
        blob = data / f"docker/registry/v2/blobs/sha256/{garbage.hex[:2]}/{garbage.hex}/data"

        eventually(lambda: not blob.exists(), seconds=30)

        assert client.send("GET", f"/v2/team/app/manifests/{kept}").status == 200
        client.close()
    assert "collected garbage" in (tmp_path / "log").read_text()
    assert verify(data) == []
