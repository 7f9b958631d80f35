"""A process that writes to a trail until it is told to stop: `python -m tests.audit.writer FILE DATA NAME BYTES_MAX`.

It prints the reference of each event that was acknowledged, a line each. BYTES_MAX is 0 for no rotation.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from registry.audit import Event, EventKind, Trail
from registry.logs import set_up_logs
from storage.filesystem import FileSystemDriver

AT_ONCE = 4


async def main(file: Path, data: Path, name: str, bytes_max: int | None) -> None:
    """Write until SIGTERM."""
    driver = FileSystemDriver(data)
    await driver.start()
    trail = Trail(file, driver=driver, bytes_max=bytes_max)
    await trail.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)

    async def write(lane: int) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            reference = f"{name}-{lane}-{number}"
            await trail.write(Event(EventKind.PUSH, actor=f"user:{name}", repository="team/app", reference=reference))
            os.write(1, reference.encode() + b"\n")

    await asyncio.gather(*(write(lane) for lane in range(AT_ONCE)))
    await trail.close()
    await driver.close()


if __name__ == "__main__":
    set_up_logs(level="info", style="text")
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]) or None))
