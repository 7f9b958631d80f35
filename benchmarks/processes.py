"""What a server's processes cost, all of them together, from /proc (Linux, proc_pid_stat(5))."""

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB = 1024


def cpu_seconds(leader: int) -> float:
    """Return user and system time of a process, of its descendants, and of those that have ended."""
    return sum(_ticks(process) for process in family(leader)) / TICKS_PER_SECOND


def resident_bytes(leader: int) -> int:
    """Return the resident memory of a process and its descendants now; pages that they share count each time."""
    return sum(_status_bytes(process, "VmRSS") for process in family(leader))


def reset_peak(leader: int) -> None:
    """Let `peak_bytes` look no further back than to this moment (clear_refs of proc_pid_clear_refs(5))."""
    for process in family(leader):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak_bytes(leader: int) -> int:
    """Return the sum of the peaks of resident memory, which is no less than the peak of the sum."""
    return sum(_status_bytes(process, "VmHWM") for process in family(leader))


def family(leader: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [leader]
    for process in found:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            found.extend(int(child) for child in task.read_text().split())
    return found


def _ticks(process: int) -> int:
    # The name, in parentheses, may hold anything; what follows are fields 3 and on.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[number - 3]) for number in (14, 15, 16, 17))


def _status_bytes(process: int, key: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * KIB
    return 0
