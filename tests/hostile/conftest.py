"""Two servers with two workers each for all hostile clients, one of which lets known people in: both survive them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.people import House, open_house
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


@pytest.fixture(scope="session")
def hostile_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Serve an empty directory to those who have a password."""
    with open_house(tmp_path_factory.mktemp("house")) as house:
        yield house


@pytest.fixture(scope="module")
def house(hostile_house: House) -> Iterator[House]:
    """Lend that server to a module, and look afterwards that it is unharmed and has kept its secrets to itself."""
    seen = hostile_house.server.log.stat().st_size
    before = workers(hostile_house.server)
    yield hostile_house
    assert_unharmed(hostile_house.server, hostile_house.basic("alice"), seen=seen)
    assert workers(hostile_house.server) == before
    assert hostile_house.leaked() == []


def assert_unharmed(server: Server, *lines: str, seen: int = 0) -> None:
    """Assert that a server answers, asked with these headers, and that its log from `seen` on tells of no failure."""
    assert call(server, "GET", "/v2/", *lines).status == 200
    log = server.log.read_bytes()[seen:]
    harm = HARM.search(log)
    assert harm is None, log[max(0, harm.start() - 500) : harm.end() + 3000].decode(errors="replace")
