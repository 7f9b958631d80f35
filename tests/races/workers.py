"""Which worker a connection has reached: told by the kernel, which knows whose socket the other end is."""

import contextlib
import os
from pathlib import Path

from tests.races.clients import Client
from tests.running import Server

CONNECTIONS_MAX = 200


def processes_of(server: Server) -> list[int]:
    """The parent and its workers: everything in the process group that the server leads."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(int(entry.name)) == server.process.pid:
                    found.append(int(entry.name))
    return found


def one_client_for_each_worker(server: Server, workers: int) -> list[Client]:
    """Open connections until each worker has one, and return those: they stay with their workers.

    Raises AssertionError if some worker gets none of CONNECTIONS_MAX.
    """
    found: dict[int, Client] = {}
    others: list[Client] = []
    for _ in range(CONNECTIONS_MAX):
        client = Client(server.address, reconnect_after=0)
        assert client.send("GET", "/v2/").status == 200
        worker = worker_of(server, client)
        if worker in found:
            others.append(client)  # open until the end, so that the workers share them
        else:
            found[worker] = client
        if len(found) == workers:
            break
    for client in others:
        client.close()
    assert len(found) == workers, f"only {len(found)} of {workers} workers have taken a connection"
    return list(found.values())


def worker_of(server: Server, client: Client) -> int:
    """The process that holds the other end of the client's connection (proc(5): /proc/net/tcp, /proc/<pid>/fd)."""
    link = f"socket:[{_inode(int(server.address.rpartition(':')[2]), client.port)}]"
    for pid in processes_of(server):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if str(descriptor.readlink()) == link:
                        return pid
    raise AssertionError(f"no process of the server has {link}")


def _inode(local_port: int, remote_port: int) -> str:
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{local_port:04X}") and fields[2].endswith(f":{remote_port:04X}"):
            return fields[9]
    raise AssertionError(f"there is no connection from port {remote_port} to port {local_port}")
