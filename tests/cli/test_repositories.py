"""`pierhead repo` as an operator runs it, on the store of a server that runs meanwhile."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from registry.cli.repositories import parse_target
from registry.errors import RegistryError
from storage.digest import Digest
from tests.conftest import Starter
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import ROOT, Server, eventually
from tests.swap.commands import run as scan

COMMAND = [sys.executable, "-c", "from registry.cli.repositories import app; app(prog_name='pierhead repo')"]
DIGEST = Digest.of(encode(image()))


def repo(*arguments: str | Path, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `pierhead repo` to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    more: list[str | Path] = [] if config is None else ["--config", config]
    return subprocess.run(
        [*COMMAND, *arguments, *more],
        cwd=ROOT,
        env=inherited,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def push(server: Server, name: str, *tags: str) -> None:
    with httpx.Client(base_url=server.url) as http:
        for content in (CONFIG, LAYER):
            query = {"digest": str(Digest.of(content))}
            assert http.post(f"/v2/{name}/blobs/uploads/", params=query, content=content).status_code == 201
        kind = {"content-type": str(image()["mediaType"])}
        for tag in tags:
            path = f"/v2/{name}/manifests/{tag}"
            assert http.put(path, content=encode(image()), headers=kind).status_code == 201


def catalog(server: Server) -> list[str]:
    return list(httpx.get(f"{server.url}/v2/_catalog").json()["repositories"])


def test_a_repository_is_deleted_beside_the_server_and_no_other(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2)
    push(server, "team/app", "v1", "v2")
    push(server, "team/app/inside", "v1")

    listed = repo("list", "--json", "--data", server.data)
    ended = repo("delete", "team/app", "--yes", "--data", server.data)
    again = repo("delete", "team/app", "--yes", "--data", server.data)

    assert [json.loads(line) for line in listed.stdout.splitlines()] == [
        {"name": "team/app", "tags": 2, "manifests": 1},
        {"name": "team/app/inside", "tags": 1, "manifests": 1},
    ]
    assert (ended.returncode, ended.stdout) == (0, "deleted team/app: 2 tags, 1 manifests, 2 blobs, 0 uploads\n")
    assert (again.returncode, again.stdout) == (1, "")
    assert "no such repository" in again.stderr
    assert catalog(server) == ["team/app/inside"]
    push(server, "team/app", "v3")
    assert catalog(server) == ["team/app", "team/app/inside"]


def test_what_is_immutable_is_deleted_by_force_only(start_pierhead: Starter, tmp_path: Path) -> None:
    server = start_pierhead()
    config = tmp_path / "pierhead.toml"
    config.write_text(
        f'data = "{server.data}"\n[[immutable]]\nrepositories = "team/**"\ntags = "v*"\n'
        f'[audit]\nfile = "{tmp_path / "audit.log"}"\n'
    )
    push(server, "team/app", "v1", "latest")

    refused = [repo("delete", target, "--yes", config=config) for target in ("team/app", "team/app:v1")]
    tag = repo("delete", "team/app:latest", "--yes", config=config)
    forced = repo("delete", f"team/app@{DIGEST}", "--yes", "--force", config=config)
    rest = repo("delete", "team/app", "--yes", "--force", config=config)

    assert [ended.returncode for ended in (*refused, tag, forced, rest)] == [1, 1, 0, 0, 0]
    assert all("immutable rule 1 (team/** v*)" in ended.stderr for ended in refused)
    assert f"deleted the tag team/app:latest, which pointed at {DIGEST}\n" == tag.stdout
    assert f"deleted the manifest team/app@{DIGEST}\n" in forced.stdout
    assert catalog(server) == []
    events = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    told = [(event["event"], event.get("reference", ""), event["repository"]) for event in events]
    assert told == [
        ("tag-deleted", "latest", "team/app"),
        ("tag-deleted", "v1", "team/app"),
        ("manifest-deleted", str(DIGEST), "team/app"),
        ("repository-deleted", "", "team/app"),
    ]
    assert events[-1]["detail"] == {
        "tags": "0", "manifests": "0", "blobs": "2", "uploads": "0", "gone": "yes", "forced": "yes",
    }  # fmt: skip


def test_nothing_is_deleted_without_a_yes(start_pierhead: Starter) -> None:
    server = start_pierhead()
    push(server, "team/app", "v1")

    ended = repo("delete", "team/app", "--data", server.data)

    assert ended.returncode == 2
    assert "say --yes" in ended.stderr
    assert catalog(server) == ["team/app"]


def test_a_target_is_a_repository_a_tag_or_a_manifest() -> None:
    assert parse_target("team/app") == ("team/app", None)
    assert parse_target("team/app:v1") == ("team/app", "v1")
    assert parse_target(f"team/app@{DIGEST}") == ("team/app", DIGEST)
    for wrong in ("", "team/app:", "team/app@v1", "registry.example:5000/team/app", f"Team@{DIGEST}"):
        with pytest.raises(RegistryError):
            parse_target(wrong)


def test_a_wrong_target_is_a_usage_error(tmp_path: Path) -> None:
    assert repo("delete", "Team/App", "--yes", "--data", tmp_path).returncode == 2


def test_a_deletion_that_is_killed_again_and_again_is_ended_by_the_next(start_pierhead: Starter) -> None:
    server = start_pierhead()
    with httpx.Client(base_url=server.url) as http:
        push(server, "team/app", "first")
        push(server, "team/app/inside", "v1")
        for number in range(150):
            body, kind = encode(image(annotations={"n": str(number)})), {"content-type": str(image()["mediaType"])}
            assert http.put(f"/v2/team/app/manifests/t{number}", content=body, headers=kind).status_code == 201
    revisions = server.data / "docker/registry/v2/repositories/team/app/_manifests/revisions"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    command = [*COMMAND, "delete", "team/app", "--yes", "--data", str(server.data)]

    def left() -> int:
        return sum("link" in files for _path, _folders, files in os.walk(revisions))

    killed = 0
    for most in (140, 90, 30):
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            eventually(lambda: process.poll() is not None or left() <= most, seconds=60)  # noqa: B023  # within the round
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        assert scan("verify", server.data).code in {0, 1}  # no error: what is left is whole
    ended = repo("delete", "team/app", "--yes", "--data", server.data)

    assert killed >= 2
    assert ended.returncode == 0, ended.stderr
    assert catalog(server) == ["team/app/inside"]
    assert not revisions.parent.parent.joinpath("_layers").exists()
    assert scan("verify", server.data).code == 0
