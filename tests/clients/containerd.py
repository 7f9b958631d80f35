"""A containerd of our own, which loads no plugin for Kubernetes and runs no container."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clients.programs import ProgramFailed, Programs
from tests.running import eventually

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
def containerd_daemon(client: str, daemon: str, directory: Path) -> Iterator[Containerd]:
    """Run a containerd for the length of a `with` block. Its directory has a short path: there is a socket in it."""
    ctr = Containerd(client, Programs(directory / "c"), directory / "s")
    configuration, log = directory / "config.toml", directory / "log"
    configuration.write_text(CONFIGURATION.format(directory))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [daemon, "--config", configuration], env=ctr.programs.environment, stdout=output, stderr=output
        )
    try:
        eventually(lambda: process.poll() is not None or _answers(ctr), seconds=60)
        if process.poll() is not None:
            raise RuntimeError(f"containerd ended:\n{log.read_text(errors='replace')[-4000:]}")
        yield ctr
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _answers(ctr: Containerd) -> bool:
    try:
        ctr("version")
    except ProgramFailed:
        return False
    return True
