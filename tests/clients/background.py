"""Daemons that clients need: run for the length of a test, ended before their directory goes."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.clients.programs import ProgramFailed
from tests.running import eventually


@contextlib.contextmanager
def background(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path, *, ask: Callable[[], object]
) -> Iterator[None]:
    """Run a daemon for the length of a `with` block, which begins when `ask` no longer raises ProgramFailed.

    Raises RuntimeError with the end of its log if it ends before that.
    """

    def answers() -> bool:
        try:
            ask()
        except ProgramFailed:
            return False
        return True

    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or answers(), seconds=60)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} ended:\n{log.read_text(errors='replace')[-4000:]}")
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
