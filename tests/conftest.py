"""What every test may ask for: programs of other people, and a Pierhead of its own."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.running import Server, start
from tests.tools import find_tool, how_to_get


class Starter(Protocol):
    """Starts one more server; all of them are stopped when the test ends."""

    def __call__(
        self,
        *,
        workers: int = 1,
        data: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        listen: str = "127.0.0.1:0",
        module: str = "registry",
    ) -> Server:
        """Serve `data` (the test's own directory unless given) and return when it is ready."""
        ...


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Return a function from the name of a program to its path."""
    return tool_or_skip


def tool_or_skip(name: str) -> str:
    """Return the path of a program. Without it the test is skipped, and under CI it fails: see how_to_get."""
    if path := find_tool(name):
        return path
    if os.environ.get("CI") == "true":
        pytest.fail(how_to_get(name), pytrace=False)
    pytest.skip(how_to_get(name))


@pytest.fixture
def start_pierhead(tmp_path: Path) -> Iterator[Starter]:
    """Start any number of `pierhead serve` processes, on one data directory unless told otherwise."""
    servers: list[Server] = []

    def starter(
        *,
        workers: int = 1,
        data: Path | None = None,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        listen: str = "127.0.0.1:0",
        module: str = "registry",
    ) -> Server:
        server = start(
            data or tmp_path / "data",
            log=tmp_path / f"pierhead-{len(servers)}.log",
            workers=workers,
            listen=listen,
            arguments=arguments,
            environment=environment,
            module=module,
        )
        servers.append(server)
        return server

    yield starter
    for server in servers:
        server.stop()


@pytest.fixture
def pierhead(start_pierhead: Starter) -> Server:
    """Return one server with one worker and an empty data directory."""
    return start_pierhead()
