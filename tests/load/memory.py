"""How much memory the processes of a server take."""

import contextlib
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.races.workers import processes_of
from tests.running import Server

SAMPLE_SECONDS = 0.1

_FIELD = re.compile(r"^(Rss|Pss): +(\d+) kB$", re.MULTILINE)
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of a server together, in bytes.

    `resident` counts a page that several processes share once for each of them, `proportional` once in all: it is
    what the machine would have free if the server were not there.
    """

    resident: int
    proportional: int


def memory_of(server: Server) -> Memory:
    """Look at every process of the server's group. Needs /proc/<pid>/smaps_rollup (Linux 4.14)."""
    resident = proportional = 0
    for pid in processes_of(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = dict(_FIELD.findall(Path(f"/proc/{pid}/smaps_rollup").read_text()))
            resident += int(fields["Rss"]) << 10
            proportional += int(fields["Pss"]) << 10
    return Memory(resident, proportional)


class Highest:
    """Watches a server for the length of a `with` block; `memory` is the most that was seen of each kind."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.memory = memory_of(server)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            now = memory_of(self._server)
            self.memory = Memory(
                max(self.memory.resident, now.resident), max(self.memory.proportional, now.proportional)
            )


def peaks_of(server: Server) -> dict[int, int]:
    """The most that each process of the server's group has ever held resident, in bytes, by its id (proc(5): VmHWM)."""
    peaks: dict[int, int] = {}
    for pid in processes_of(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if found := _PEAK.search(Path(f"/proc/{pid}/status").read_text()):
                peaks[pid] = int(found[1]) << 10
    return peaks
