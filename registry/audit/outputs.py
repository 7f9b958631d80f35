"""Standard output as a second place for the lines, such as for a collector of container logs."""

import os
import select
import time
from collections.abc import Sequence

import structlog

STDOUT = 1
PATIENCE_SECONDS = 1.0
"""How long a reader may keep us waiting for each line."""

RETRY_SECONDS = 30.0
"""How long nothing is tried after a failure: each attempt holds up everybody who waits for the trail."""

log = structlog.get_logger(__name__)


class Output:
    """Writes line by line, each in one write(2), so that other writers can't tear one (PIPE_BUF, pipe(7))."""

    def __init__(self, descriptor: int = STDOUT) -> None:
        self._descriptor = descriptor
        self._retry_at: float | None = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Write the lines. Raises OSError, and logs the first failure of a row."""
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            raise OSError("standard output failed a moment ago")
        try:
            for line in lines:
                self._write(line)
        except OSError as error:
            if self._retry_at is None:
                log.error("the audit trail can't be written to standard output", reason=str(error))
            self._retry_at = time.monotonic() + RETRY_SECONDS
            raise
        self._retry_at = None

    def _write(self, line: bytes) -> None:
        while line:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if not poll.poll(PATIENCE_SECONDS * 1000):
                raise TimeoutError(f"nobody has read from it for {PATIENCE_SECONDS:g} s")
            line = line[os.write(self._descriptor, line) :]
