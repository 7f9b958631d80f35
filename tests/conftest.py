"""What every test may ask for: programs of other people, and a Pierhead of its own."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

import pytest

from tests.clients.daemon import Docker, docker_daemon
from tests.running import Server, start
from tests.s3.weed import Store, find_weed, how_to_get_weed, serving_weed
from tests.tools import NotInstalled, require

Mount = Callable[..., Path]


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
    try:
        return require(name)
    except NotInstalled as missing:
        refuse(str(missing))


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


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Return a directory that every user may enter, as those of tmp_path are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a tmpfs on a directory. Needs root."""
    mounted: list[Path] = []

    def mounter(directory: Path = tmp_path / "disk", *, options: str = "size=1m") -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "pierhead-test", str(directory)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            refuse(f"a tmpfs can't be mounted here ({result.stderr.strip()}): run as root")
        mounted.append(directory)
        return directory

    yield mounter
    for directory in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # also after a failure that left files open


@pytest.fixture
def as_root() -> None:
    """Skip the test unless it may become another user."""
    if os.geteuid() != 0:
        refuse("another user's files need another user: run as root")


def refuse(reason: str) -> NoReturn:
    """Skip the test; under CI, where everything it needs is there, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Return a SeaweedFS that runs until the last test has ended."""
    program = find_weed()
    if program is None:
        refuse(how_to_get_weed())
    with serving_weed(program, tmp_path_factory.mktemp("weed")) as store:
        yield store


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """Return a docker client with a real daemon behind it; both end with the session."""
    if os.geteuid() != 0:
        refuse("dockerd runs as root")
    client, daemon = tool_or_skip("docker"), tool_or_skip("dockerd")
    tool_or_skip("containerd")
    # Not below pytest's own directory: the path of a unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ph-docker-") as place, docker_daemon(client, daemon, Path(place)) as up:
        yield up
