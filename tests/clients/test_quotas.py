"""What docker says of a push that does not fit into the quota."""

import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.quotas import VIEW_SECONDS
from tests.clients.contents import Contents
from tests.clients.daemon import Docker
from tests.clients.programs import ProgramFailed
from tests.conftest import Starter
from tests.quotas.pushing import MIB, quota

PREFIX = "quota-test"


def layer(path: Path, *, size: int) -> None:
    """Write an archive of one file that can't be compressed."""
    content = path.with_suffix(".bin")
    content.write_bytes(os.urandom(size))
    with tarfile.open(path, "w") as tar:
        tar.add(content, content.name)
    content.unlink()


@pytest.fixture
def images(docker: Docker, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the ids of two images by size: of 1 MiB, and of 8 MiB."""
    built = {}
    for name, size in (("small", MIB), ("large", 8 * MIB)):
        context = tmp_path / name
        context.mkdir()
        layer(context / "a.tar", size=size)
        (context / "Dockerfile").write_text("FROM scratch\nADD a.tar /\nCMD ['/none']\n")
        built[name] = docker("build", "--quiet", "--label", PREFIX, context)
    yield built
    docker("image", "rm", "--force", *built.values())


def test_docker_prints_what_is_used_what_is_left_and_what_helps(
    docker: Docker, images: dict[str, str], start_pierhead: Starter
) -> None:
    server = start_pierhead(workers=2, environment=quota(team=3 * MIB))
    contents = Contents(server.address)
    small, large = (f"{server.address}/team/{name}:v1" for name in images)
    docker("tag", images["small"], small)
    docker("tag", images["large"], large)
    docker("push", "--quiet", small)
    time.sleep(VIEW_SECONDS)  # until then the other worker may tell what was used before

    with pytest.raises(ProgramFailed) as refused:
        docker("push", large)
    docker("tag", images["small"], f"{server.address}/team/small:v2")
    docker("push", "--quiet", f"{server.address}/team/small:v2")

    told = str(refused.value)
    assert "denied: quota of team: 1 MiB of 3 MiB used, 1.9 MiB left, " in told, told
    assert "delete tags, whose space the garbage collector frees, or ask for a larger quota" in told
    assert contents.has_manifest("team/small", "v2")
    assert not contents.has_manifest("team/large", "v1")
