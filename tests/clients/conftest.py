"""A Pierhead with two workers, watched on the wire, and programs that believe they are alone."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.containerd import Containerd, containerd_daemon
from tests.clients.contents import Contents
from tests.clients.layouts import Layout
from tests.clients.programs import Programs
from tests.clients.recorder import Recorder
from tests.conftest import Starter, tool_or_skip


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Return a home for the programs of one test."""
    return Programs(tmp_path / "programs")


@pytest.fixture
def wire(start_pierhead: Starter) -> Iterator[Recorder]:
    """Return the way to a Pierhead with two workers, on which every request is noted."""
    server = start_pierhead(workers=2)
    with Recorder(server.address) as recorder:
        yield recorder


@pytest.fixture
def contents(wire: Recorder) -> Contents:
    """Return that same Pierhead as plain HTTP shows it, past the record."""
    return Contents(wire.upstream)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return an OCI image layout with nothing in it yet."""
    return Layout(tmp_path / "layout")


@pytest.fixture
def as_root() -> None:
    """Skip where we aren't root: what mounts and unpacks file systems wants to be."""
    if os.geteuid() != 0:
        pytest.skip("podman, buildah and dockerd unpack images as root")


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    """Return the ctr command with a containerd of its own behind it; both end with the session."""
    if os.geteuid() != 0:
        pytest.skip("containerd runs as root")
    daemon, client = tool_or_skip("containerd"), tool_or_skip("ctr")
    with tempfile.TemporaryDirectory(prefix="ph-ctr-") as place, containerd_daemon(client, daemon, Path(place)) as up:
        yield up
