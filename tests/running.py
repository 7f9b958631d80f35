"""A real Pierhead in its own processes, on a port that the kernel chose.

Nothing here needs pytest: the conformance runner and the benchmarks start their servers with it too.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).resolve().parent.parent
"""The working tree."""

READY = re.compile(rb"serving (https?://[^\s,]+)")
POLL_SECONDS = 0.02

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Server:
    """A running `pierhead serve`: the leader of its own process group, its output going to `log`."""

    process: subprocess.Popen[bytes]
    url: str
    data: Path
    log: Path

    @property
    def address(self) -> str:
        """`host:port`, as it stands in an image reference."""
        return self.url.partition("://")[2]

    def stop(self, *, seconds: float = 40) -> int:
        """Ask it to end (SIGTERM), end it by force after `seconds`, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._kill_group()

    def kill(self) -> int:
        """End parent and workers at once (SIGKILL), as the out-of-memory killer or a power cut would."""
        self._kill_group()
        return self.process.wait(10)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def start(
    data: Path,
    *,
    log: Path,
    workers: int = 1,
    listen: str = "127.0.0.1:0",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    module: str = "registry",
    ready_seconds: float = 30,
) -> Server:
    """Start `pierhead serve` and return once it says that it serves.

    `environment` is added to a copy of ours from which every PIERHEAD_* was taken. `module` is run in place of
    Pierhead's own: one that changes something and then goes on as it does. Raises RuntimeError with the end of
    the log if the server ends or stays silent.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    command = [sys.executable, "-m", module, "serve", "--listen", listen, "--data", str(data)]
    offset = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--workers", str(workers), *arguments],
            cwd=ROOT,
            env={**inherited, "PYTHONUNBUFFERED": "1", **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, "", data, log)
    try:
        url = eventually(lambda: _ready(process, log, offset), seconds=ready_seconds)
    except BaseException:
        server.kill()
        raise
    return Server(process, url, data, log)


@contextlib.contextmanager
def serving(
    data: Path,
    *,
    log: Path,
    workers: int = 1,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve `data` for the length of a `with` block."""
    server = start(data, log=log, workers=workers, arguments=arguments, environment=environment)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let processes that are started in a `with` block end at SIGINT, wherever the tests were started from.

    A shell without job control starts what is to run in the background with SIGINT ignored, and execve(2) hands that
    on; a handler it sets back to the default. Only for the main thread.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def eventually(check: Callable[[], Answer], *, seconds: float = 10) -> Answer:
    """Return the first true answer of `check`; raises AssertionError when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {check}")
        time.sleep(POLL_SECONDS)
    return answer


def free_port() -> int:
    """Return a loopback port that was free a moment ago, for programs that can't be given port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _ready(process: subprocess.Popen[bytes], log: Path, offset: int) -> str:
    written = log.read_bytes()[offset:]
    if found := READY.search(written):
        return found[1].decode()
    if process.poll() is not None:
        tail = written[-4000:].decode(errors="replace")
        raise RuntimeError(f"pierhead ended with exit code {process.returncode}:\n{tail}")
    return ""
