"""One server with two workers for all hostile clients: it has to survive each of them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.processes import workers
from tests.hostile.wire import call
from tests.running import Server, start

HARM = re.compile(rb"\[(?:error|critical)|Traceback|traceback|Exception")
"""What stands in the log only if something went wrong inside: every 5xx has a line of the level error."""


@pytest.fixture(scope="session")
def hostile_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an empty directory with the limits that everybody has."""
    directory: Path = tmp_path_factory.mktemp("hostile")
    server = start(directory / "data", log=directory / "pierhead.log", workers=2)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(hostile_server: Server) -> Iterator[Server]:
    """Lend the server to a module, and look afterwards that it is unharmed."""
    seen = hostile_server.log.stat().st_size
    before = workers(hostile_server)
    yield hostile_server
    assert_unharmed(hostile_server, seen=seen)
    assert workers(hostile_server) == before


def assert_unharmed(server: Server, *, seen: int = 0) -> None:
    """Assert that a server answers, and that its log from `seen` on tells of no failure."""
    assert call(server, "GET", "/v2/").status == 200
    log = server.log.read_bytes()[seen:]
    harm = HARM.search(log)
    assert harm is None, log[max(0, harm.start() - 500) : harm.end() + 3000].decode(errors="replace")
