"""Two servers over one bucket behind nginx: a push is spread over both, and goes on when one of them dies."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import cpu_seconds
from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from tests import nginx
from tests.certificates import renew
from tests.clients.contents import Contents
from tests.clients.layouts import Layout, blobs_of, fresh_tar
from tests.clients.programs import Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip
from tests.running import Server, eventually
from tests.s3.replicas import Replicas

MIB = 1 << 20
UPLOADS = "/v2/team/app/blobs/uploads/"
BUSY_SECONDS = 0.08
LEASE_SECONDS_MAX = 40.0
"""How long the death of a writer may keep others from going on."""


@pytest.fixture
def pair(replicas: Replicas) -> Replicas:
    """Return two servers."""
    replicas.add()
    replicas.add()
    return replicas


def digest_of(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def last_byte(answer: httpx.Response) -> int:
    return int(answer.headers["range"].removeprefix("0-"))


def test_successive_requests_of_one_push_reach_different_servers(pair: Replicas) -> None:
    proxy = pair.behind_nginx(tool_or_skip(nginx.PROGRAM))
    client, body = pair.client(proxy.url), os.urandom(20 * MIB + 1)
    digest, chunk = digest_of(body), 3 * MIB

    answers = [client.post(UPLOADS)]
    for start in range(0, len(body), chunk):
        piece = body[start : start + chunk]
        told = {"content-range": f"{start}-{start + len(piece) - 1}"}
        answers.append(client.patch(answers[-1].headers["location"], content=piece, headers=told))
    answers.append(client.put(answers[-1].headers["location"], params={"digest": digest}))

    assert [answer.status_code for answer in answers] == [202] * (len(answers) - 1) + [201]
    taken = [answer.headers["x-replica"] for answer in answers]
    assert taken == (pair.addresses * len(taken))[: len(taken)]
    passed = proxy.passed()
    assert [one.replica for one in passed] == taken
    assert len({one.upload for one in passed}) == 1
    for _ in pair.servers:
        assert client.get(f"/v2/team/app/blobs/{digest}").content == body


def test_a_push_goes_on_when_its_server_is_killed_in_the_middle_of_a_request(pair: Replicas) -> None:
    proxy = pair.behind_nginx(tool_or_skip(nginx.PROGRAM))
    client, body, half = pair.client(proxy.url), os.urandom(24 * MIB), 14 * MIB
    begun = client.post(UPLOADS)
    victim = next(server for server in pair.servers if server.address != begun.headers["x-replica"])
    location = begun.headers["location"]

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), MIB):
            if start == half:
                victim.kill()
            yield body[start : start + MIB]

    with pytest.raises((httpx.TransportError, httpx.HTTPStatusError)):
        client.patch(location, content=pieces()).raise_for_status()
    found = insist(204, lambda: client.get(location))
    kept = insist(202, lambda: client.patch(location, content=b""), seconds=LEASE_SECONDS_MAX)
    size = last_byte(kept) + 1 if last_byte(kept) else 0
    rest = {"content-range": f"{size}-{len(body) - 1}"}
    insist(202, lambda: client.patch(location, content=body[size:], headers=rest))
    insist(201, lambda: client.put(location, params={"digest": digest_of(body)}))

    sent = [one for one in proxy.passed() if (one.replica, one.method) == (victim.address, "PATCH")]
    assert all(one.status == 502 for one in sent)
    assert 4 * MIB < max(one.sent_bytes for one in sent) < len(body)
    assert last_byte(found) <= last_byte(kept) < half
    assert insist(200, lambda: client.get(f"/v2/team/app/blobs/{digest_of(body)}")).content == body


def insist(status: int, call: Callable[[], httpx.Response], *, seconds: float = 10) -> httpx.Response:
    """Repeat a call until it is answered so: every second one goes to the server that is dead."""

    def tried() -> httpx.Response | None:
        answer = call()
        assert answer.status_code in {status, 502, 416}, answer.text
        return answer if answer.status_code == status else None

    answer = eventually(tried, seconds=seconds)
    assert answer is not None
    return answer


def test_crane_comes_through_with_the_example_of_a_configuration_when_a_server_is_killed(
    pair: Replicas, tmp_path: Path
) -> None:
    program, crane = tool_or_skip(nginx.PROGRAM), Programs(tmp_path / "crane").program(tool_or_skip("crane"))
    layout = Layout(tmp_path / "layout")
    image = layout.image([fresh_tar("a", size_bytes=100 * MIB)], tag="v1")

    with nginx.example(program, pair.addresses, tmp_path / "nginx") as proxy, Recorder(proxy.address) as wire:
        killing = threading.Thread(target=kill_who_gets_the_layer, args=(wire, pair.servers))
        killing.start()
        crane("push", layout.directory, f"{wire.address}/team/app:v1")
        killing.join()

        statuses = [exchange.status for exchange in wire.matching("PATCH")]
        assert 502 in statuses
        assert statuses[-1] == 202
        assert len([server for server in pair.servers if server.process.poll() is None]) == 1
        assert Contents(proxy.address).manifest("team/app", "v1").digest == image["digest"]
        crane("validate", "--remote", f"{wire.address}/team/app:v1")


def kill_who_gets_the_layer(wire: Recorder, servers: list[Server]) -> None:
    """Kill the server that is busy with a large body, which the other one is not."""
    eventually(lambda: wire.matching("PATCH"), seconds=60)
    before = {server.address: cpu_seconds(server.process.pid) for server in servers}

    def busy() -> list[Server]:
        return [server for server in servers if cpu_seconds(server.process.pid) - before[server.address] > BUSY_SECONDS]

    eventually(busy, seconds=30)[0].kill()


def test_crane_logs_in_and_pushes_over_tls_with_the_example_of_a_configuration(
    replicas: Replicas, tmp_path: Path
) -> None:
    program, crane = tool_or_skip(nginx.PROGRAM), Programs(tmp_path / "crane").program(tool_or_skip("crane"))
    tls = renew(tmp_path / "tls")
    crane.programs.environment["SSL_CERT_FILE"] = str(tmp_path / "tls" / "ca.crt")
    add_user(tmp_path / "users", "alice", hash_password("alice", "correct horse", cost=4))
    replicas.environment |= {
        "PIERHEAD_AUTH_HTPASSWD": str(tmp_path / "users"),
        "PIERHEAD_TRUSTED_PROXIES": '["127.0.0.1"]',
    }
    replicas.add()
    replicas.add()
    layout = Layout(tmp_path / "layout")
    image = layout.image([fresh_tar("a"), fresh_tar("b", size_bytes=9 * MIB)], tag="v1")

    with nginx.example(
        program, replicas.addresses, tmp_path / "nginx", certificate=tls.certificate, key=tls.key
    ) as proxy:
        name = f"{proxy.address}/team/app:v1"
        assert "401 Unauthorized" in crane.fail("push", layout.directory, name)
        crane("auth", "login", proxy.address, "--username", "alice", "--password", "correct horse")
        crane("push", layout.directory, name)
        crane("pull", "--format=oci", name, tmp_path / "back")

    for digest in (image["digest"], *blobs_of(layout.read(image["digest"]))):
        assert (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)
