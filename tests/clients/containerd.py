"""A containerd of our own, which loads no plugin for Kubernetes and runs no container."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.clients.background import background
from tests.clients.programs import Programs

CONFIGURATION = """\
version = 2
root = "{0}/r"
state = "{0}/t"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{0}/s"
[ttrpc]
address = "{0}/s.ttrpc"
"""


@dataclass(frozen=True, slots=True)
class Containerd:
    """The ctr command, speaking to our containerd."""

    client: str
    programs: Programs
    socket: Path

    def __call__(self, *arguments: str | Path) -> str:
        """Return what `ctr ARGUMENTS...` prints. Raises ProgramFailed."""
        return self.programs.run(self.client, "--address", self.socket, "--namespace", "test", *arguments)


@contextlib.contextmanager
def containerd_daemon(client: str, program: str, directory: Path) -> Iterator[Containerd]:
    """Run a containerd for the length of a `with` block. Its directory has a short path: there is a socket in it."""
    ctr = Containerd(client, Programs(directory / "c"), directory / "s")
    configuration, log = directory / "config.toml", directory / "log"
    configuration.write_text(CONFIGURATION.format(directory))
    with background([program, "--config", configuration], ctr.programs.environment, log, ask=partial(ctr, "version")):
        yield ctr
