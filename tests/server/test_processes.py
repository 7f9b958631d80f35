"""Parent and workers: started, watched over, and stopped in stages."""

import contextlib
import http.client
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.running import eventually
from tests.server.services import Service, service_process

READY = re.compile(r"serving (?:http://([^\s,]+)|unix:([^\s,]+)), data in \S+, (\d+) workers?\n")


@dataclass
class PlainService(Service):
    """A service that is asked without TLS."""

    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`host:port`; waits until it is ready."""
        found = eventually(lambda: READY.search(self.output))
        assert found is not None
        return found[1] or found[2]

    def connect(self) -> http.client.HTTPConnection:
        """Open one connection."""
        connection = http.client.HTTPConnection(self.address, timeout=20)
        connection.connect()
        self.connections.append(connection)
        return connection

    def get(self, path: str) -> bytes:
        """Ask on a connection of its own."""
        connection = self.connect()
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()


Start = Callable[..., PlainService]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services; what is left of them ends with the test."""
    services: list[PlainService] = []
    with contextlib.ExitStack() as running:

        def starter(**settings: object) -> PlainService:
            log = tmp_path / f"{len(services)}.log"
            given = {"listen": "127.0.0.1:0", "workers": 1, "data": str(tmp_path), **settings}
            services.append(PlainService(running.enter_context(service_process(given, log)), log))
            return services[-1]

        yield starter
        for service in services:
            for connection in service.connections:
                connection.close()


def test_it_says_one_line_when_all_workers_accept_and_ends_with_0(start: Start) -> None:
    service = start(workers=2)

    assert service.get("/pid").isdigit()
    assert len(service.workers) == 2
    assert [workers for _, _, workers in READY.findall(service.output)] == ["2"]
    service.process.terminate()
    assert service.ended() == 0
    assert "stopped, 0 requests cut" in service.output
    assert service.output.count("closed") == 3  # the proof and two workers


def test_connections_are_spread_over_the_workers(start: Start) -> None:
    service = start(workers=2)
    connections = [service.connect() for _ in range(16)]
    pids = []
    for connection in connections:
        connection.request("GET", "/pid")
        pids.append(connection.getresponse().read())

    assert {pids.count(pid) for pid in set(pids)} <= set(range(2, 15))
    assert len(set(pids)) == 2


def test_a_store_that_cannot_be_used_is_one_line_and_exit_code_1(start: Start) -> None:
    service = start(trouble="storage")

    assert service.ended() == 1
    assert service.output == "pierhead: the data directory is read-only: mount it for writing\n"


def test_a_failure_that_nobody_expected_is_exit_code_1_before_anything_listens(start: Start) -> None:
    service = start(trouble="bug")

    assert service.ended() == 1
    assert "ZeroDivisionError" in service.output
    assert "serving" not in service.output


def test_an_address_that_is_taken_is_one_line_and_exit_code_1(start: Start) -> None:
    first = start()
    second = start(listen=first.address)

    assert second.ended() == 1
    last = second.output.splitlines()[-1]
    assert last == f"pierhead: cannot listen on {first.address}: address already in use"
    assert "Traceback" not in second.output


def test_a_unix_socket_is_served_and_removed_at_the_end(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    service = start(listen=f"unix:{path}")
    assert service.address == str(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"PUT /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc")
        assert client.makefile("rb").read().endswith(b"\r\n\r\nabc")

    service.process.send_signal(signal.SIGINT)
    assert service.ended() == 0
    assert not path.exists()


def test_a_worker_that_dies_is_replaced_and_the_others_serve_meanwhile(start: Start) -> None:
    service = start(workers=2)
    service.get("/pid")
    before = service.workers
    with pytest.raises(ConnectionError):
        service.get("/die")

    for _ in range(20):
        assert int(service.get("/pid")) > 0
    eventually(lambda: len(service.workers) == 2 and service.workers != before)
    assert re.search(r"a worker died.*SIGKILL", service.output)
    service.process.terminate()
    assert service.ended() == 0


def test_workers_that_die_at_once_again_and_again_end_the_service_with_1(start: Start, tmp_path: Path) -> None:
    trouble = tmp_path / "trouble"
    service = start(trouble=str(trouble))
    service.get("/pid")
    trouble.touch()
    with pytest.raises(ConnectionError):
        service.get("/die")

    assert service.ended() == 1
    assert re.search(r"a worker died.*exit code 7", service.output)
    assert "giving up" in service.output


def test_workers_go_with_a_parent_that_is_killed(start: Start) -> None:
    service = start(workers=2)
    idle = service.connect()
    workers = service.workers
    service.process.kill()
    service.ended()

    eventually(lambda: not [pid for pid in workers if _lives(pid)])
    assert idle.sock.recv(1) == b""


def test_a_running_request_is_finished_while_idle_connections_close_and_new_ones_are_refused(
    start: Start, tmp_path: Path
) -> None:
    service = start()
    address = service.address
    idle, running = service.connect(), service.connect()
    idle.request("GET", "/pid")
    idle.getresponse().read()
    running.request("GET", f"/wait?{tmp_path / 'go'}")
    eventually(lambda: "waiting" in service.output)
    service.process.terminate()

    assert idle.sock.recv(1) == b""
    eventually(lambda: _refused(address))
    (tmp_path / "go").touch()
    answer = running.getresponse()
    assert (answer.read(), answer.getheader("connection")) == (b"done", "close")
    assert service.ended() == 0
    assert "stopped, 0 requests cut" in service.output


def test_requests_that_take_too_long_are_cut_and_counted(start: Start, tmp_path: Path) -> None:
    service = start(workers=2, limits={"shutdown_seconds": 0.3})
    running = [service.connect() for _ in range(3)]
    for connection in running:
        connection.request("GET", f"/wait?{tmp_path / 'never'}")
    eventually(lambda: service.output.count("waiting") == 3)
    service.process.terminate()

    for connection in running:
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            connection.getresponse()
    assert service.ended() == 0
    assert "stopped, 3 requests cut" in service.output
    assert service.output.count("closed") == 3


def test_a_second_signal_stops_at_once(start: Start, tmp_path: Path) -> None:
    service = start(limits={"shutdown_seconds": 600})
    running = service.connect()
    running.request("GET", f"/wait?{tmp_path / 'never'}")
    eventually(lambda: "waiting" in service.output)
    service.process.terminate()
    eventually(lambda: "stopping" in service.output)
    service.process.terminate()

    assert service.ended() == 0
    assert "stopped, 1 requests cut" in service.output


def test_a_stop_signal_to_the_whole_group_still_lets_requests_finish(start: Start, tmp_path: Path) -> None:
    """A terminal sends SIGINT to parent and workers alike, and service managers do so with SIGTERM."""
    service = start()
    running = service.connect()
    running.request("GET", f"/wait?{tmp_path / 'go'}")
    eventually(lambda: "waiting" in service.output)
    os.killpg(service.process.pid, signal.SIGTERM)
    eventually(lambda: "stopping" in service.output)
    (tmp_path / "go").touch()

    assert running.getresponse().read() == b"done"
    assert service.ended() == 0


def test_a_hangup_changes_nothing(start: Start) -> None:
    service = start()
    service.get("/pid")
    os.killpg(service.process.pid, signal.SIGHUP)

    assert service.get("/pid")
    assert service.process.poll() is None


def _refused(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
