"""Servers that are watched step by step, started fast and ended by kill -9."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.steps import Control, Trace
from tests.running import READY, ROOT, eventually


@dataclass(frozen=True, slots=True)
class Watched:
    """The files by which a test and the watched servers of one data directory speak to each other."""

    data: Path
    control_path: Path
    trace_path: Path
    control: Control
    trace: Trace

    @classmethod
    def beside(cls, data: Path) -> "Watched":
        """Make them in the directory above `data`'s own."""
        stem = data.parent.parent / data.parent.name
        control, trace = stem.with_suffix(".control"), stem.with_suffix(".trace")
        return cls(data, control, trace, Control(control), Trace(trace))


@dataclass(frozen=True, slots=True)
class Instance:
    """A running `pierhead serve` with all its processes."""

    launcher: "Launcher"
    pid: int
    url: str

    def kill(self) -> None:
        """Kill -9 all processes and wait until none is left."""
        self.launcher.ask(do="kill", pid=self.pid)

    def await_death(self) -> None:
        """Wait until the last process, killed from inside, is gone."""
        codes = self.launcher.ask(do="await", pid=self.pid)
        assert isinstance(codes, list)
        assert set(codes) == {-9}, f"not killed, but ended by itself: {codes}"


class Launcher:
    """Starts servers; see tests/crash/launcher.py."""

    def __init__(self, log: Path, *, under: Sequence[str] = ()) -> None:
        self.log = log
        self._process = subprocess.Popen(
            [*under, sys.executable, "-m", "tests.crash.launcher"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def start(self, data: Path, *, workers: int = 1, watched: Watched | None = None) -> Instance:
        """Serve `data`, and return when the server is ready."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        pid = self.spawn(data, workers=workers, watched=watched)

        def ready() -> str:
            written = self.log.read_bytes()[offset:] if self.log.exists() else b""
            found = READY.search(written)
            assert b"can't be used" not in written, written.decode()
            return found[1].decode() if found else ""

        return Instance(self, pid, eventually(ready, seconds=30))

    def spawn(self, data: Path, *, workers: int = 1, watched: Watched | None = None) -> int:
        """Begin to serve `data`, and return at once the number of the process."""
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data", str(data), "--workers", str(workers)]
        pid = self.ask(
            do="start",
            argv=arguments,
            log=str(self.log),
            data=str(data),
            control=str(watched.control_path) if watched else "",
            trace=str(watched.trace_path) if watched else "",
        )
        assert isinstance(pid, int)
        return pid

    def ask(self, **command: object) -> object:
        """Send a command and return the answer."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        answer: object = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """Kill what still runs, and end."""
        assert self._process.stdin
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


@contextlib.contextmanager
def launching(log: Path, *, under: Sequence[str] = ()) -> Iterator[Launcher]:
    """Keep a launcher for the length of a `with` block, run `under` another program if that is given."""
    launcher = Launcher(log, under=under)
    try:
        yield launcher
    finally:
        launcher.close()
