"""The scrub of a real server, and `pierhead scrub status`."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT, eventually, serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import command
from tests.swap.scars import Image, pushed, rotten

# Due again after a minute, so looked at every 0.6 seconds.
OFF = {"PIERHEAD_SCRUB_ENABLED": "false"}
QUICK = {"PIERHEAD_SCRUB_PERIOD_SECONDS": "60s", "PIERHEAD_SCRUB_RATE": "200 MiB/s"}


def status(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `pierhead scrub status`."""
    line = [*command("scrub", data)[:4], "status", "--data", str(data), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")} | QUICK
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def told(data: Path) -> dict[str, Any]:
    """What it says, as JSON."""
    found: dict[str, Any] = json.loads(status(data, "--json").stdout)
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_served_store_is_read_and_damage_is_found_before_anybody_asks(tmp_path: Path, workers: int) -> None:
    data, trail, ledger = tmp_path / "data", tmp_path / "trail", Ledger()
    with (
        serving(data, log=tmp_path / "pushed", environment=OFF) as server,
        Client(server.url, ledger) as client,
    ):
        image, other = pushed(client, data, "team/app"), pushed(client, data, "team/other")
    rotten(image)

    environment = {**QUICK, "PIERHEAD_AUDIT_FILE": str(trail)}
    with (
        serving(data, log=tmp_path / "log", workers=workers, environment=environment) as server,
        Client(server.url, ledger) as client,
    ):
        url = f"/v2/team/app/blobs/{image.layer}"

        eventually(lambda: told(data)["parts_verified"] == 256, seconds=180)

        found = told(data)
        assert (found["blobs"], found["damaged"], found["unreadable_count"]) == (8, [image.layer], 0)
        assert client.http.get(url).status_code == client.http.head(url).status_code == 404
        assert client.http.get(f"/v2/team/other/blobs/{other.layer}").status_code == 200
        log = server.log.read_text()
        assert log.count("damaged blob") == 1
        assert "remedy='push the blob again'" in log
        [line] = [json.loads(line) for line in trail.read_text().splitlines() if '"blob-damaged"' in line]
        assert (line["actor"], line["detail"]) == ("scrub", {"digest": image.layer})
        shown = status(data)
        assert shown.returncode == 3
        assert "256 of 256 parts" in shown.stdout
        assert f"    {image.layer}\n" in shown.stdout

        body = client.ledger["team/app"].blobs[image.layer]
        begun = client.http.post("/v2/team/app/blobs/uploads/", params={"digest": image.layer}, content=body)
        assert begun.status_code == 201
        assert client.http.get(url).content == body
        assert (told(data)["damaged"], status(data).returncode) == ([], 0)
        assert server.stop() == 0


def test_a_store_that_was_never_scrubbed_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log", environment=OFF) as server, Client(server.url, Ledger()) as client:
        image: Image = pushed(client, data, "team/app")
    before = sorted(path for path in data.rglob("*") if path.is_file())

    shown = status(data)

    assert shown.returncode == 0
    assert "0 of 256 parts" in shown.stdout
    assert "never" in shown.stdout
    assert image.data == data
    assert sorted(path for path in data.rglob("*") if path.is_file()) == before
