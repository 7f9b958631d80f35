"""A real server that carries the rules out while images are pushed and pulled, and the command beside it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx

from registry.media_types import IMAGE
from storage.digest import Digest
from tests.conftest import Starter
from tests.distribution import V3, serving_distribution
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import ROOT, Server, eventually
from tests.swap.commands import run as scan

NAME = "team/app"
CONFIGURATION = """\
[retention]
delay_seconds = "{delay}"
interval_seconds = 1
pull_flush_seconds = 1

[[retention.rules]]
repositories = "team/**"
tags = ["build-*"]
{keep}
"""


def write(path: Path, keep: str, *, delay: str = "0s") -> Path:
    path.write_text(CONFIGURATION.format(delay=delay, keep=keep))
    return path


def body_of(number: int) -> bytes:
    return encode(image(annotations={"number": str(number)}))


def push(server: Server, number: int, tag: str) -> str:
    with httpx.Client(base_url=server.url) as http:
        for content in (CONFIG, LAYER):
            query = {"digest": str(Digest.of(content))}
            assert http.post(f"/v2/{NAME}/blobs/uploads/", params=query, content=content).status_code == 201
        path = f"/v2/{NAME}/manifests/{tag}"
        answer = http.put(path, content=body_of(number), headers={"content-type": IMAGE})
        assert answer.status_code == 201, answer.text
        return answer.headers["docker-content-digest"]


def tags(server: Server) -> list[str]:
    return list(httpx.get(f"{server.url}/v2/{NAME}/tags/list").json()["tags"])


def retention(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `pierhead retention` to its end."""
    environment: Mapping[str, str] = {name: v for name, v in os.environ.items() if not name.startswith("PIERHEAD_")}
    command = [sys.executable, "-m", "registry", "retention", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_server_drops_what_the_rules_drop_and_distribution_serves_the_rest(
    start_pierhead: Starter, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    program = require_tool(V3)
    config = write(tmp_path / "pierhead.toml", 'keep_last = 2\nuntagged_after = "2s"')
    server = start_pierhead(workers=2, arguments=["--config", str(config)])
    digests = [push(server, number, f"build-{number}") for number in range(5)]
    kept = push(server, 9, "v1")

    eventually(lambda: tags(server) == ["build-3", "build-4", "v1"], seconds=30)
    gone = f"{server.url}/v2/{NAME}/manifests/{digests[0]}"
    # The history keeps it, as it keeps every state of the last month.
    assert httpx.get(gone).status_code == 200
    server.stop()
    assert scan("verify", server.data).code == 0
    with serving_distribution(program, server.data, log=tmp_path / "d.log") as served:
        assert sorted(tags(served)) == ["build-3", "build-4", "v1"]
        for reference in ("build-4", "v1", kept, digests[3]):
            answer = httpx.get(f"{served.url}/v2/{NAME}/manifests/{reference}", headers={"accept": IMAGE})
            assert answer.status_code == 200
            assert answer.content in {body_of(number) for number in (3, 4, 9)}


def test_nothing_goes_before_its_time_and_the_command_shows_what_would(start_pierhead: Starter, tmp_path: Path) -> None:
    config = write(tmp_path / "pierhead.toml", "keep_last = 1", delay="1h")
    server = start_pierhead(arguments=["--config", str(config)])
    for number in range(3):
        push(server, number, f"build-{number}")
    push(server, 3, "v1")

    def ran() -> dict[str, object]:
        ended = retention("status", "--json", "--config", config, "--data", server.data)
        assert ended.returncode == 0, ended.stderr
        found: dict[str, object] = json.loads(ended.stdout)["last"]
        return found

    last = eventually(ran, seconds=30)
    eventually(lambda: ran().get("dropped_tags") == 2, seconds=30)
    plan = retention("plan", "--json", "--drops", "--config", config, "--data", server.data)
    shown = retention("plan", "--config", config, "--data", server.data)

    assert last["carried_out"] is False
    assert tags(server) == ["build-0", "build-1", "build-2", "v1"]
    *lines, summary = [json.loads(line) for line in plan.stdout.splitlines()]
    assert [(line["tag"], line["kept"], line["why"]) for line in lines] == [
        ("build-0", False, "nothing keeps it"),
        ("build-1", False, "nothing keeps it"),
    ]
    assert {line["rule"] for line in lines} == {"retention rule 1 (team/** build-*)"}
    assert summary["dropped_tags"] == 2
    assert summary["drops_from"] > summary["rules_since"]
    assert "keep_last: among the 1 set last" in shown.stdout
    assert "drop  build-0" in shown.stdout
    assert "no rule covers it" in shown.stdout

    refused = retention("run", "--config", config, "--data", server.data)
    assert (refused.returncode, tags(server)) == (2, ["build-0", "build-1", "build-2", "v1"])
    ended = retention("run", "--yes", "--config", config, "--data", server.data)
    assert (ended.returncode, tags(server)) == (0, ["build-2", "v1"])
    assert "2 tags and 0 manifests without a tag are dropped" in ended.stdout


def test_a_pull_through_any_worker_keeps_a_tag_and_a_look_does_not(start_pierhead: Starter, tmp_path: Path) -> None:
    config = write(tmp_path / "pierhead.toml", 'keep_pulled_within = "1h"', delay="1h")
    server = start_pierhead(workers=2, arguments=["--config", str(config)])
    digests = [push(server, number, f"build-{number}") for number in range(3)]
    httpx.get(f"{server.url}/v2/{NAME}/manifests/build-0")
    httpx.get(f"{server.url}/v2/{NAME}/manifests/{digests[1]}")
    httpx.head(f"{server.url}/v2/{NAME}/manifests/build-2")

    pulls = server.data / "pierhead" / "repositories" / NAME / "_pulls"

    def counted() -> set[str]:
        return {name for record in pulls.glob("*") for name in json.loads(record.read_bytes())}

    eventually(lambda: counted() == {"build-0", digests[1]}, seconds=30)
    httpx.get(f"{server.url}/v2/{NAME}/manifests/build-2")
    server.stop()  # what was counted and not written yet is written now
    assert counted() == {"build-0", digests[1], "build-2"}
    assert scan("verify", server.data).code == 0


def test_without_rules_the_command_says_where_they_belong(tmp_path: Path) -> None:
    ended = retention("plan", "--data", tmp_path)

    assert ended.returncode == 2
    assert "[[retention.rules]]" in ended.stderr
