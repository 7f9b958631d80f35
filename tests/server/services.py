"""Whole services, a parent with its workers, in processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.running import ROOT


@dataclass
class Service:
    """One parent with its workers."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        """Everything it has said."""
        return self.log.read_text()

    @property
    def workers(self) -> set[int]:
        """The processes whose parent it is."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    def ended(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(30)


@contextlib.contextmanager
def service_process(settings: Mapping[str, object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service for the length of a `with` block; what is left of it then is killed."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.application", json.dumps(settings)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
