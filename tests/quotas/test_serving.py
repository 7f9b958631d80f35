"""Two workers over one directory: a quota holds whoever pushes, what is deleted is free, and nothing drifts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage.digest import Digest
from tests.conftest import Starter
from tests.crash.trees import check_tree
from tests.quotas.pushing import MIB, linked_bytes, push_at_once, push_blob, push_image, quota, refusal
from tests.registry.images import CONFIG, encode, image
from tests.running import ROOT, Server, eventually

SWEEPING = {"PIERHEAD_LIMITS_SWEEP_SECONDS": "0.3"}
ALL_TEAMS = [f"team/app-{number}" for number in range(10)]


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Return a client that opens a connection for each request: any worker may get it."""
    with httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0)) as opened:
        yield opened


def at(client: httpx.Client, server: Server) -> httpx.Client:
    client.base_url = httpx.URL(server.url)
    return client


def pierhead(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "registry", *arguments],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def usage(server: Server, *arguments: str, environment: dict[str, str]) -> dict[str, dict[str, object]]:
    """Return what `pierhead usage --json` tells, by prefix."""
    done = pierhead("usage", *arguments, "--json", "--data", str(server.data), environment=environment)
    assert done.returncode == 0, done.stderr
    return {row["prefix"]: row for row in json.loads(done.stdout)["prefixes"]}


def test_of_many_pushes_at_once_no_more_get_in_than_fit(start_pierhead: Starter, client: httpx.Client) -> None:
    limit = 4 * MIB + MIB // 2
    server = start_pierhead(workers=2, environment=quota(team=limit))

    answers = push_at_once([at(client, server)], ALL_TEAMS, size=MIB)

    statuses = [answer.status_code for answer in answers]
    assert statuses.count(201) + statuses.count(403) == len(ALL_TEAMS)
    assert statuses.count(201) <= 4
    assert all("quota of team: " in refusal(answer) for answer in answers if answer.status_code == 403)
    assert linked_bytes(server.data, "team") == MIB * statuses.count(201)
    assert push_blob(client, "elsewhere/app", b"x" * MIB).status_code == 201
    used = {"prefix": "team", "bytes": limit, "used": MIB * statuses.count(201)}
    assert client.get("/v2/team/_pierhead/usage").json() == {"name": "team", "quotas": [used]}
    assert client.get("/v2/elsewhere/app/_pierhead/usage").json()["quotas"] == []
    # What was refused for the sake of others that were refused as well gets in now.
    for repository in ALL_TEAMS:
        push_blob(client, repository, os.urandom(MIB))
    assert linked_bytes(server.data, "team") == 4 * MIB
    assert check_tree(server.data) == []


def test_a_stream_that_does_not_fit_leaves_nothing(start_pierhead: Starter, client: httpx.Client) -> None:
    server = start_pierhead(workers=2, environment=quota(team=4 * MIB))

    answer = push_blob(at(client, server), "team/app", os.urandom(9 * MIB))

    assert refusal(answer).startswith("quota of team: 0 B of 4 MiB used, 4 MiB left, ")
    assert not list(server.data.glob("pierhead/uploads/*"))
    assert linked_bytes(server.data, "team") == 0


def test_what_is_deleted_makes_room_with_the_next_sweep(start_pierhead: Starter, client: httpx.Client) -> None:
    layers = [os.urandom(MIB) for _ in range(2)]
    before = start_pierhead()
    for number, layer in enumerate(layers):
        assert push_image(at(client, before), "team/app", layer, f"v{number}").status_code == 201
    before.stop()
    environment = {**quota(_=2 * MIB + 4096), **SWEEPING}
    server = start_pierhead(workers=2, environment=environment)
    at(client, server)
    more = os.urandom(MIB)
    eventually((server.data / "pierhead/usage/team/_head").exists)
    assert "2 MiB of 2 MiB used" in refusal(push_blob(client, "team/other", more))

    manifest = encode(image(layers[0]))
    assert client.delete(f"/v2/team/app/manifests/{Digest.of(manifest)}").status_code == 202
    assert client.delete(f"/v2/team/app/blobs/{Digest.of(layers[0])}").status_code == 202

    eventually(lambda: push_blob(client, "team/other", more).status_code == 201, seconds=20)
    assert linked_bytes(server.data, "team") <= 2 * MIB + 4096


def test_the_log_warns_of_a_quota_that_is_nearly_used_up(start_pierhead: Starter, client: httpx.Client) -> None:
    server = start_pierhead(workers=2, environment={**quota(team=MIB), **SWEEPING})
    assert push_image(at(client, server), "team/app", os.urandom(870_000), "v1").status_code == 201

    eventually(lambda: b"a quota is nearly used up" in server.log.read_bytes(), seconds=20)

    assert b"prefix=team" in server.log.read_bytes()


def test_after_a_kill_a_recount_is_exact_and_the_store_is_whole(start_pierhead: Starter, client: httpx.Client) -> None:
    environment = quota(team=100 * MIB, _=50 * MIB)
    server = start_pierhead(workers=2, environment=environment)
    at(client, server)
    shared = os.urandom(100_000)
    for repository in ("team/a", "team/b", "other/c"):
        assert push_image(client, repository, shared, "v1").status_code == 201
    client.post("/v2/team/a/blobs/uploads/")
    server.kill()

    told = usage(server, "--recount", "--depth", "2", environment=environment)

    own = len(CONFIG) + len(shared) + len(encode(image(shared)))
    assert linked_bytes(server.data, "team") == own
    assert {name: (row["unique_bytes"], row["shared_bytes"]) for name, row in told.items()} == {
        "": (own, 0),
        "other": (0, own),
        "other/c": (0, own),
        "team": (0, own),
        "team/a": (0, own),
        "team/b": (0, own),
    }
    assert {
        name: (row["quota_bytes"], row["quota_used_bytes"]) for name, row in told.items() if row["quota_bytes"]
    } == {
        "team": (100 * MIB, own),
        "other": (50 * MIB, own),
    }
    assert (told["team"]["tags"], told["team"]["manifests"]) == (2, 2)
    assert check_tree(server.data, killed=True) == []
    verified = pierhead("verify", "--notes", "--data", str(server.data), environment={})
    assert "stray" not in verified.stdout, verified.stdout


def test_without_a_quota_usage_counts_once_and_then_tells_of_that(
    start_pierhead: Starter, client: httpx.Client
) -> None:
    server = start_pierhead()
    push_image(at(client, server), "team/app", os.urandom(2000), "v1")

    first = usage(server, environment={})
    push_image(client, "team/app", os.urandom(3000), "v2")
    second, third = usage(server, environment={}), usage(server, "team", "--recount", environment={})
    table = pierhead("usage", "--data", str(server.data), environment={"NO_COLOR": "1"})

    assert first == second
    assert list(third) == ["team", "team/app"]
    assert third["team"]["bytes"] == linked_bytes(server.data, "team")
    assert third["team"]["quota_bytes"] is None
    title, whole, team, counted = [line.rstrip() for line in table.stdout.splitlines()]
    assert title.split() == ["PREFIX", "TAGS", "MANIFESTS", "UNIQUE", "SHARED", "TOTAL", "QUOTA", "USED"]
    assert whole.split()[:3] == ["(everything)", "2", "2"]
    assert team.split()[:2] == ["team", "2"]
    assert counted.startswith("counted 20")
    assert table.stderr == ""


def test_after_each_garbage_collection_everything_is_counted(start_pierhead: Starter, client: httpx.Client) -> None:
    server = start_pierhead(workers=2, environment={"PIERHEAD_GC_INTERVAL_SECONDS": "0.5"})
    push_image(at(client, server), "team/app", os.urandom(2000), "v1")
    expected = linked_bytes(server.data, "team")

    def counted() -> bool:
        report = server.data / "pierhead/usage/_report"
        return report.exists() and "team" in json.loads(report.read_bytes())["held"]

    eventually(counted, seconds=30)

    assert usage(server, environment={})["team"]["unique_bytes"] == expected


@pytest.mark.parametrize("arguments", [["Team"], ["team/"], ["--depth", "-1"]])
def test_a_wrong_prefix_is_told_with_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    done = pierhead("usage", *arguments, "--data", str(tmp_path), environment={})

    assert done.returncode == 2
    assert done.stderr
