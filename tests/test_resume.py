"""An upload session belongs to the store, not to a process."""

import hashlib
import os
import socket
from pathlib import Path

import httpx
import pytest

from tests.conftest import Starter
from tests.running import Server, eventually

CONTENT = os.urandom(24 << 20)
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
UPLOADS = "/v2/team/app/blobs/uploads/"


def begin(server: Server) -> str:
    """Begin a session and return its path."""
    answer = httpx.post(server.url + UPLOADS)
    assert answer.status_code == 202
    return answer.headers["location"]


def offset(server: Server, session: str) -> int:
    """Ask a server how many bytes a session has."""
    answer = httpx.get(server.url + session)
    assert answer.status_code == 204
    first, last = answer.headers["range"].split("-")
    assert first == "0"
    return int(last) + 1


def test_a_session_goes_through_three_processes_that_share_only_the_directory(
    start_pierhead: Starter, tmp_path: Path
) -> None:
    first, second, third = (start_pierhead(data=tmp_path / "data", workers=1) for _ in range(3))
    session = begin(first)

    for server, start, end in ((second, 0, 5 << 20), (third, 5 << 20, 11 << 20), (first, 11 << 20, len(CONTENT))):
        chunk = CONTENT[start:end]
        answer = httpx.patch(server.url + session, content=chunk, headers={"content-range": f"{start}-{end - 1}"})
        assert answer.status_code == 202
        assert answer.headers["range"] == f"0-{end - 1}"
    finished = httpx.put(second.url + session, params={"digest": DIGEST})

    assert finished.status_code == 201
    assert httpx.get(f"{third.url}/v2/team/app/blobs/{DIGEST}").content == CONTENT


@pytest.mark.parametrize("workers", [1, 2])
def test_a_push_that_lost_its_server_to_kill_9_goes_on_from_the_offset_that_is_reported(
    start_pierhead: Starter, tmp_path: Path, workers: int
) -> None:
    server = start_pierhead(workers=workers)
    session = begin(server)
    acknowledged = 3 << 20
    assert httpx.patch(server.url + session, content=CONTENT[:acknowledged]).status_code == 202
    staged = next(tmp_path.glob("data/docker/registry/v2/repositories/team/app/_uploads/*/data"))
    host, _, port = server.address.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"PATCH {session} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT) - acknowledged}\r\n\r\n"
        connection.sendall(head.encode() + CONTENT[acknowledged : len(CONTENT) // 2])
        eventually(lambda: staged.stat().st_size > acknowledged + (1 << 20))
        server.kill()
    server = start_pierhead(workers=workers)

    kept = offset(server, session)
    rest = httpx.patch(
        server.url + session, content=CONTENT[kept:], headers={"content-range": f"{kept}-{len(CONTENT) - 1}"}
    )
    finished = httpx.put(server.url + session, params={"digest": DIGEST})

    assert acknowledged < kept <= len(CONTENT) // 2
    assert rest.status_code == 202
    assert finished.status_code == 201
    assert finished.headers["docker-content-digest"] == DIGEST
    assert httpx.get(f"{server.url}/v2/team/app/blobs/{DIGEST}").content == CONTENT


def test_a_session_of_a_dead_worker_can_be_written_to_at_once(start_pierhead: Starter) -> None:
    server = start_pierhead()
    session = begin(server)
    host, _, port = server.address.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"PATCH {session} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n12345".encode())
        eventually(lambda: httpx.patch(server.url + session, content=b"x").status_code == 416)
        server.kill()
    server = start_pierhead()

    answer = httpx.patch(server.url + session, content=b"x")

    assert answer.status_code == 202
