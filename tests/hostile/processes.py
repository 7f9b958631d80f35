"""The processes of a server from outside: which worker holds a connection, and how much memory they took."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from tests.running import Server

MIB = 1 << 20
PROC = Path("/proc")
RESET_PEAK = "5"
ESTABLISHED = "01"


def workers(server: Server) -> list[int]:
    """The process ids of the workers."""
    parent = server.process.pid
    children = PROC / str(parent) / "task" / str(parent) / "children"
    return [int(pid) for pid in children.read_text().split()]


def owner_of(server: Server, client: socket.socket) -> int:
    """The worker that has accepted a connection (proc(5), /proc/net/tcp)."""
    host, port = client.getsockname()
    remote = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    inode = next(
        columns[9]
        for columns in map(str.split, (PROC / "net" / "tcp").read_text().splitlines()[1:])
        if columns[2] == remote and columns[3] == ESTABLISHED
    )
    for pid in workers(server):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return pid
    raise LookupError("no worker holds the connection")


@contextlib.contextmanager
def bounded(server: Server, *, growth_mib: int, cpu_seconds: float = 10.0) -> Iterator[None]:
    """Assert what no worker may take: more memory than before, not even for an instant, and processor time.

    Time is that of the processor, since a busy machine must not make a test fail.
    """
    before = {pid: _memory_bytes(pid, "VmRSS") for pid in workers(server)}
    spent = {pid: cpu_spent(pid) for pid in before}
    for pid in before:
        (PROC / str(pid) / "clear_refs").write_text(RESET_PEAK)  # VmHWM begins at VmRSS again
    yield
    assert workers(server) == list(before), "a worker was replaced"
    grown = {pid: (_memory_bytes(pid, "VmHWM") - size) / MIB for pid, size in before.items()}
    assert max(grown.values()) < growth_mib, f"MiB by worker: {grown}"
    took = {pid: cpu_spent(pid) - seconds for pid, seconds in spent.items()}
    assert max(took.values()) < cpu_seconds, f"seconds by worker: {took}"


def cpu_spent(pid: int) -> float:
    """Seconds of processor time that a process has taken (proc(5), /proc/pid/stat)."""
    columns = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
    return (int(columns[11]) + int(columns[12])) / os.sysconf("SC_CLK_TCK")


def _memory_bytes(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", (PROC / str(pid) / "status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
