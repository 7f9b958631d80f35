"""A docker daemon of our own: no bridge, no iptables, nothing of it outside one directory."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.clients.background import background
from tests.clients.programs import Programs

SECONDS_MAX = 200
"""For one command: on a slow disk, half a gigabyte through vfs takes its time."""


@dataclass(frozen=True, slots=True)
class Docker:
    """The docker command, speaking to our daemon."""

    client: str
    programs: Programs
    socket: Path

    def __call__(self, *arguments: str | Path, seconds: float = SECONDS_MAX) -> str:
        """Return what `docker ARGUMENTS...` prints, without space at the ends. Raises ProgramFailed."""
        # The builder that needs no containers; buildkit runs its frontend in one.
        environment = {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_BUILDKIT": "0"}
        return self.programs.run(self.client, *arguments, seconds=seconds, environment=environment).strip()


@contextlib.contextmanager
def docker_daemon(client: str, program: str, directory: Path) -> Iterator[Docker]:
    """Run a daemon for the length of a `with` block; it ends before its directory goes."""
    programs = Programs(directory / "c")
    socket = directory / "s"
    docker = Docker(client, programs, socket)
    command: list[str | Path] = [
        program,
        *("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"),
        *("--data-root", directory / "d", "--exec-root", directory / "e", "--pidfile", directory / "p"),
        *("--config-file", directory / "none.json", "--host", f"unix://{socket}"),
    ]
    (directory / "none.json").write_text("{}")
    with background(command, programs.environment, directory / "log", ask=partial(docker, "version")):
        yield docker
