"""Histories of tags in a data directory that distribution and Pierhead serve in turn."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distribution import V3, serving_distribution
from tests.running import ROOT, serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import run

APP = "team/app"


def tags(command: str, data: Path, *arguments: str) -> list[dict[str, object]]:
    """Run a command of `pierhead tags` on `latest`; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "registry", "tags", command, f"{APP}:latest", *arguments, "--json", "--data", str(data)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_what_distribution_has_set_is_imported_and_gone_back_to_and_distribution_serves_it(
    tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    program, data, ledger = require_tool(V3), tmp_path / "data", Ledger()
    data.mkdir()
    latest: list[str] = []
    with serving_distribution(program, data, log=tmp_path / "1.log") as server, Client(server.url, ledger) as client:
        for _ in range(3):
            latest.insert(0, str(client.push_image(APP, "latest")["digest"]))
    assert run("adopt", data).summary["added"]["history"] == 3
    assert run("adopt", data).summary["added"] == {}

    assert [(state["digest"], state["why"]) for state in tags("history", data)] == [
        (digest, "imported") for digest in latest
    ]
    with serving(data, log=tmp_path / "2.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=True)
        for back in (1, 2):
            [way] = tags("rollback", data, "--to", latest[back])
            assert way["digest"] == latest[back]
            ledger[APP].tags["latest"] = latest[back]
            client.check(pierhead=True)
    with serving_distribution(program, data, log=tmp_path / "3.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)
        newest = str(client.push_image(APP, "latest")["digest"])
        client.check(pierhead=False)
    assert run("adopt", data).summary["added"] == {"history": 1, "sources": pytest.approx(3, abs=3)}

    assert [(state["digest"], state["why"]) for state in tags("history", data)][:3] == [
        (newest, "imported"),
        (latest[2], "rollback"),
        (latest[1], "rollback"),
    ]
    [way] = tags("rollback", data)
    assert way["digest"] == latest[2]
    ledger[APP].tags["latest"] = latest[2]
    with serving_distribution(program, data, log=tmp_path / "4.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)
    assert run("verify", data).code == 0
