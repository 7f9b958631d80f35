"""Processes that are killed while they rotate a trail: `python -m tests.audit.victims STEP:DIRECTORY...`.

Each is killed with SIGKILL before the STEP-th of the steps, from 0, by which it makes, renames, removes or lists
files. The exit codes are printed as JSON: 0 for one that had its event acknowledged before.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from storage.filesystem import FileSystemDriver
from tests.audit.trails import opened, push

ROTATION = {"bytes_max": 1500, "keep": 2}


class Killer:
    """Counts steps by what Python tells to its audit hooks."""

    def __init__(self, step: int) -> None:
        self._left: int | None = None
        self._step = step
        sys.addaudithook(self._take)

    def start(self) -> None:
        """Count from now on."""
        self._left = self._step

    def _take(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._left is None or not _is_step(event, arguments):
            return
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _is_step(event: str, arguments: tuple[Any, ...]) -> bool:
    match event, arguments:
        case "open", (_, _, int(flags)):
            return bool(flags & os.O_CREAT)
        case (("os.rename" | "os.remove" | "os.listdir"), _):
            return True
    return False


async def rotate(directory: Path, step: int) -> None:
    """Write one event."""
    killer = Killer(step)
    driver = FileSystemDriver(directory / "data")
    await driver.start()
    trail = await opened(directory / "audit.log", driver, **ROTATION)
    killer.start()
    await trail.write(push(0))
    os._exit(0)


def main() -> None:
    """Let one process after the other do so."""
    codes = []
    for argument in sys.argv[1:]:
        step, _, directory = argument.partition(":")
        pid = os.fork()
        if pid == 0:
            asyncio.run(rotate(Path(directory), int(step)))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    sys.stdout.write(json.dumps(codes))


if __name__ == "__main__":
    main()
