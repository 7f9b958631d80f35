"""A disk that is full, read-only or somebody else's: a clear answer, and nothing half-written to be seen."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from storage.digest import Digest
from tests.conftest import Mount, Starter, tool_or_skip
from tests.running import ROOT, Server


def refusal(*arguments: str, prefix: Sequence[str] = ()) -> str:
    """Run `pierhead serve`, which has to end by itself with an error, and return its one line."""
    command = [*prefix, sys.executable, "-m", "registry", "serve", "--listen", "127.0.0.1:0", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1, ended
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def blobs(server: Server) -> list[Path]:
    """Every blob that lies on the disk."""
    return list(server.data.glob("docker/registry/v2/blobs/*/*/*/data"))


@pytest.mark.parametrize("kind", ["single", "stream", "put"])
def test_a_full_disk_is_told_as_such_and_leaves_nothing_visible(
    start_pierhead: Starter, mount: Mount, kind: str
) -> None:
    server = start_pierhead(data=mount(options="size=8m") / "data")
    body = os.urandom(16 << 20)
    digest = Digest.of(body)
    uploads = f"{server.url}/v2/team/app/blobs/uploads/"

    session = ""
    if kind == "single":
        answer = httpx.post(uploads, params={"digest": str(digest)}, content=body)
    else:
        session = server.url + httpx.post(uploads).headers["location"]
        if kind == "stream":
            answer = httpx.patch(session, content=iter([body]))
        else:
            answer = httpx.put(session, params={"digest": str(digest)}, content=body)

    assert answer.status_code == 507
    assert answer.headers["content-type"] == "application/json"
    [error] = answer.json()["errors"]
    assert error["code"] == "UNAVAILABLE"
    assert "disk is full" in error["message"]
    assert blobs(server) == []
    assert httpx.head(f"{server.url}/v2/team/app/blobs/{digest}").status_code == 404
    if kind == "stream":
        told = httpx.get(session)
        kept = int(told.headers["range"].partition("-")[2]) + 1
        assert 0 < kept <= 8 << 20
        assert httpx.delete(session).status_code == 204


def test_after_a_full_disk_has_room_again_the_same_push_succeeds(start_pierhead: Starter, mount: Mount) -> None:
    disk = mount(options="size=8m")
    server = start_pierhead(data=disk / "data")
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(7 << 20))
    body = os.urandom(2 << 20)
    digest = Digest.of(body)
    uploads = f"{server.url}/v2/team/app/blobs/uploads/"
    assert httpx.post(uploads, params={"digest": str(digest)}, content=body).status_code == 507

    ballast.unlink()
    answer = httpx.post(uploads, params={"digest": str(digest)}, content=body)

    assert answer.status_code == 201
    assert httpx.get(f"{server.url}/v2/team/app/blobs/{digest}").content == body


def test_a_disk_that_became_read_only_still_serves_and_refuses_pushes(start_pierhead: Starter, mount: Mount) -> None:
    disk = mount()
    server = start_pierhead(data=disk / "data")
    digest = Digest.of(b"kept")
    uploads = f"{server.url}/v2/team/app/blobs/uploads/"
    assert httpx.post(uploads, params={"digest": str(digest)}, content=b"kept").status_code == 201
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    refused = httpx.post(uploads)
    served = httpx.get(f"{server.url}/v2/team/app/blobs/{digest}")

    assert refused.status_code == 503
    assert "read-only" in refused.json()["errors"][0]["message"]
    assert refused.headers["retry-after"]
    assert served.content == b"kept"


def test_a_read_only_disk_is_refused_at_start(mount: Mount) -> None:
    disk = mount()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    line = refusal("--data", str(disk / "data"))

    assert "read-only" in line
    assert str(disk) in line


@pytest.mark.usefixtures("as_root")
def test_a_directory_of_another_owner_is_refused_at_start_with_who_owns_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    os.chown(data, 65534, 65534)

    # Root without the capabilities that make root stand above permissions: an ordinary user who may still read
    # the interpreter, wherever it lies.
    line = refusal(
        "--data", str(data), prefix=[tool_or_skip("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
    )

    assert "65534" in line
    assert str(data) in line
