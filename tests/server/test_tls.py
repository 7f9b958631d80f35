"""HTTPS: who is let in, what is told to whom is not, and that files change while connections go on."""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing
from cryptography import x509

from registry.certificates import ClientCertificate, client_certificate
from registry.config import Limits, Tls
from registry.server.protocol import Connection
from registry.server.serving import Serving
from registry.server.tls import PATIENCE_LOOKS, LiveContext, TlsServing, TlsTransport
from tests.certificates import HOST, Authority, renew, trusting
from tests.running import eventually
from tests.server.edges import Answer, Application, Call, Client, Edge, _look_after, echo, ignore, until
from tests.server.services import Service, service_process

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
READY = re.compile(r"serving (https?)://([^\s,]+), data in \S+, (\d+) workers?\n")


@dataclass
class TlsEdge(Edge):
    """A server inside the test that speaks TLS."""

    shared: TlsServing = field(kw_only=True)
    directory: Path = field(kw_only=True)

    @classmethod
    async def begin(cls, tls: Tls, limits: Limits) -> "TlsEdge":
        """Listen on a port that the kernel chose."""
        application = Application(echo)
        serving = Serving(application, limits, date_line=b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
        shared = TlsServing(serving, LiveContext(tls, lambda: datetime.now(UTC)))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: TlsTransport(shared, Connection(serving)), HOST, 0)
        clock = loop.create_task(_look_after(serving))
        assert tls.certificate is not None
        directory = tls.certificate.parent
        address = server.sockets[0].getsockname()
        return cls(application, serving, address, server, clock, shared=shared, directory=directory)

    async def hello(self, context: ssl.SSLContext | None = None) -> Client:
        """Open a connection and shake hands."""
        context = context or trusting(self.directory)
        client = Client(*await asyncio.open_connection(*self.address, ssl=context))
        self.clients.append(client)
        return client

    async def get(self, context: ssl.SSLContext | None = None) -> Answer:
        """Ask once, on a connection of its own."""
        client = await self.hello(context)
        client.send(GET)
        return await client.answer()

    def blocking(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Shake hands in a thread of its own."""
        context = context or trusting(self.directory)
        with socket.create_connection(self.address) as plain:
            return context.wrap_socket(plain, server_hostname=HOST)

    async def close(self) -> None:
        """End handshakes as well."""
        self.shared.stop()
        await super().close()


StartTls = Callable[..., Any]


@pytest.fixture
async def start_tls(tmp_path: Path) -> AsyncIterator[StartTls]:
    """Start servers with settings of the test's choice; all of them end with the test."""
    edges: list[TlsEdge] = []

    async def starter(*, minimum: str = "1.2", clients: str = "off", ca: Path | None = None, **limits: float) -> Edge:
        settings = {**renew(tmp_path).model_dump(), "minimum": minimum, "client_certificates": clients, "client_ca": ca}
        settings = {name: value for name, value in settings.items() if value is not None}
        edges.append(await TlsEdge.begin(Tls.model_validate(settings), Limits.model_validate(limits)))
        return edges[-1]

    yield starter
    for edge in edges:
        await edge.close()


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """Return the file of a CA that clients of `authority` are verified with."""
    file = tmp_path / "clients.crt"
    file.write_bytes(AUTHORITY.pem)
    return file


AUTHORITY = Authority.new("Clients")


async def test_a_request_over_tls_is_answered_and_the_application_knows(start_tls: StartTls) -> None:
    edge = await start_tls()
    client = await edge.hello()
    client.send(b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")

    assert (await client.answer()).body == b"abc"
    [scope] = edge.application.scopes
    assert scope["scheme"] == "https"
    assert scope["client"][0] == HOST
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304
    assert scope["extensions"]["tls"]["client_cert_name"] is None
    assert client_certificate(scope) is None


async def test_http_1_1_is_what_is_spoken(start_tls: StartTls) -> None:
    edge = await start_tls()
    context = trusting(edge.directory)
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = await edge.hello(context)

    chosen = client.writer.get_extra_info("ssl_object")
    assert chosen.selected_alpn_protocol() == "http/1.1"
    assert chosen.compression() is None
    assert (await edge.get(context)).status == 200


async def test_a_client_that_does_not_know_the_ca_leaves_and_nothing_is_logged(start_tls: StartTls) -> None:
    edge = await start_tls()
    with structlog.testing.capture_logs() as logged:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(edge.blocking, ssl.create_default_context())
        await until(lambda: logged and not edge.shared.handshakes)

    assert [(entry["log_level"], entry["reason"]) for entry in logged] == [("debug", "TLSV1_ALERT_UNKNOWN_CA")]
    assert not edge.serving.connections
    assert (await edge.get()).status == 200


@pytest.mark.parametrize(("minimum", "spoken"), [("1.2", "TLSv1_1"), ("1.3", "TLSv1_2")])
async def test_a_client_that_is_too_old_is_told_so(start_tls: StartTls, minimum: str, spoken: str) -> None:
    edge = await start_tls(minimum=minimum)
    context = trusting(edge.directory)
    with warnings.catch_warnings(action="ignore"):
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion[spoken]

    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await edge.hello(context)


async def test_tls_1_2_is_spoken_unless_it_is_not_wanted(start_tls: StartTls) -> None:
    edge = await start_tls()
    context = trusting(edge.directory)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    assert (await edge.get(context)).status == 200
    assert edge.application.scopes[0]["extensions"]["tls"]["tls_version"] == 0x0303


@pytest.mark.parametrize("clients", ["optional", "required"])
async def test_a_certificate_that_a_client_shows_reaches_the_application(
    start_tls: StartTls, ca: Path, tmp_path: Path, clients: str
) -> None:
    edge = await start_tls(clients=clients, ca=ca)
    shown = AUTHORITY.client(tmp_path, "ci", x509.UniformResourceIdentifier("spiffe://x/ci"))
    client = await edge.hello(trusting(tmp_path, shown))
    for _ in range(2):
        client.send(GET)
        assert (await client.answer()).status == 200

    first, second = edge.application.scopes
    found = client_certificate(first)
    assert isinstance(found, ClientCertificate)
    assert (found.subject, found.common_name, found.uris) == ("CN=ci", "ci", ("spiffe://x/ci",))
    assert client_certificate(second) is found
    assert first["extensions"]["tls"]["client_cert_name"] == "CN=ci"
    assert first["extensions"]["tls"]["client_cert_chain"] == [shown[0].read_text()]


async def test_a_certificate_that_is_optional_may_be_missing(start_tls: StartTls, ca: Path) -> None:
    edge = await start_tls(clients="optional", ca=ca)

    assert (await edge.get()).status == 200
    assert client_certificate(edge.application.scopes[0]) is None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_certificate_that_is_required_and_missing_is_told(start_tls: StartTls, ca: Path, version: str) -> None:
    edge = await start_tls(clients="required", ca=ca)
    context = trusting(edge.directory)
    context.maximum_version = ssl.TLSVersion[version]

    # With TLS 1.3 the client has finished before the server has looked.
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"):
        await edge.get(context)
    assert edge.application.scopes == []


@pytest.mark.parametrize("clients", ["optional", "required"])
async def test_a_certificate_of_another_ca_is_refused(
    start_tls: StartTls, ca: Path, tmp_path: Path, clients: str
) -> None:
    edge = await start_tls(clients=clients, ca=ca)
    shown = Authority.new("Clients").client(tmp_path, "ci")

    with pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|DECRYPT_ERROR"):
        await edge.get(trusting(tmp_path, shown))
    assert edge.application.scopes == []


async def test_a_certificate_that_nobody_asked_for_is_not_looked_at(
    start_tls: StartTls, ca: Path, tmp_path: Path
) -> None:
    edge = await start_tls(clients="off", ca=ca)

    assert (await edge.get(trusting(tmp_path, Authority.new().client(tmp_path, "ci")))).status == 200
    assert client_certificate(edge.application.scopes[0]) is None


async def test_a_certificate_whose_names_are_not_plain_is_refused(
    start_tls: StartTls, ca: Path, tmp_path: Path
) -> None:
    edge = await start_tls(clients="optional", ca=ca)

    with (
        contextlib.suppress(ssl.SSLError, OSError, asyncio.IncompleteReadError),
        structlog.testing.capture_logs() as logged,
    ):
        await edge.get(trusting(tmp_path, AUTHORITY.client(tmp_path, "admin\0.evil")))
    await until(lambda: not edge.shared.handshakes)

    assert "not printable" in logged[0]["reason"]
    assert edge.application.scopes == []


async def test_plain_http_is_told_to_use_https(start_tls: StartTls) -> None:
    edge = await start_tls()
    client = await edge.connect()
    client.send(GET)

    got = await client.answer()

    assert (got.status, got.headers["connection"]) == (400, "close")
    assert b"use https://" in got.body
    assert await client.ended()
    assert edge.application.scopes == []


@pytest.mark.parametrize(
    "sent", [b"\0", b"\x16", b"\x16\x03\x01\0\x05hello", b"\x16\x03\x01\x02\0\x01\0\x01\xfc", b"SSH-2.0-x\r\n"]
)
async def test_what_is_no_handshake_ends_without_a_trace(start_tls: StartTls, sent: bytes) -> None:
    edge = await start_tls(header_seconds=0.2)
    client = await edge.connect()
    with structlog.testing.capture_logs() as logged:
        client.send(sent)
        await asyncio.wait_for(client.reader.read(), 10)
        await until(lambda: not edge.shared.handshakes)

    assert {entry["log_level"] for entry in logged} <= {"debug"}


async def test_a_handshake_that_does_not_come_is_cut(start_tls: StartTls) -> None:
    edge = await start_tls(header_seconds=0.2)
    client = await edge.connect()
    await until(lambda: edge.shared.handshakes)

    assert await client.ended()
    assert not edge.shared.handshakes


async def test_a_handshake_that_trickles_in_is_cut(start_tls: StartTls) -> None:
    edge = await start_tls(header_seconds=0.3)
    hello = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        trusting(edge.directory).wrap_bio(ssl.MemoryBIO(), hello, server_hostname=HOST).do_handshake()
    client = await edge.connect()
    ended = asyncio.create_task(client.ended())
    began = time.monotonic()
    for byte in hello.read():
        client.send(bytes([byte]))
        await asyncio.sleep(0.01)
        if ended.done():
            break

    assert await ended
    assert time.monotonic() - began < 3


async def test_a_client_that_lingers_after_it_was_refused_is_cut(start_tls: StartTls) -> None:
    edge = await start_tls(header_seconds=0.3)
    with socket.create_connection(edge.address) as client:
        client.sendall(b"SSH-2.0-x\r\n")
        await until(lambda: edge.shared.handshakes)
        await until(lambda: not edge.shared.handshakes)


async def test_after_the_handshake_the_limits_are_those_of_http(start_tls: StartTls) -> None:
    edge = await start_tls(header_seconds=0.2)
    client = await edge.hello()

    assert await client.ended()
    await until(lambda: not edge.serving.connections)


async def test_handshakes_above_the_limit_are_cut(start_tls: StartTls) -> None:
    edge = await start_tls(connections_max=1)
    await edge.connect()
    await until(lambda: edge.shared.handshakes)

    assert await (await edge.connect()).ended()
    edge.shared.stop()
    await until(lambda: not edge.shared.handshakes)
    assert (await edge.get()).status == 200


async def test_connections_above_the_limit_are_told(start_tls: StartTls) -> None:
    edge = await start_tls(connections_max=1)
    await edge.hello()
    await until(lambda: edge.serving.connections)

    assert (await edge.get()).error == "UNAVAILABLE"


async def test_large_bodies_go_both_ways_and_stay_whole(start_tls: StartTls) -> None:
    edge = await start_tls()
    body = os.urandom(24 << 20)
    client = await edge.hello()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    assert (await client.answer()).body == body
    client.send(GET)
    assert (await client.answer()).status == 200


async def test_a_client_waits_while_nobody_takes_its_body(start_tls: StartTls) -> None:
    edge = await start_tls()
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await go_on.wait()
        await echo(call)

    edge.application.handle = slow
    body = os.urandom(8 << 20)
    client = await edge.hello()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await until(lambda: edge.serving.connections)
    (connection,) = edge.serving.connections
    await until(lambda: connection._flow.read_paused)
    await asyncio.sleep(0.1)
    assert connection._exchange.held_bytes < 3 << 20
    assert connection._transport._incoming.pending < 1 << 20
    go_on.set()

    assert (await client.answer()).body == body


async def test_a_client_that_still_sends_can_read_why_it_was_refused(start_tls: StartTls) -> None:
    edge = await start_tls()
    edge.application.handle = ignore
    answers = []
    for _ in range(5):
        client = await edge.hello()
        client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (8 << 20) + bytes(8 << 20))
        answers.append((await client.answer()).status)
        assert await client.ended()

    assert answers == [403] * 5


async def test_a_client_that_ended_its_side_still_gets_its_answer(start_tls: StartTls) -> None:
    edge = await start_tls()
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await go_on.wait()
        await echo(call)

    edge.application.handle = slow

    def ask() -> bytes:
        with edge.blocking() as wrapped:
            wrapped.sendall(GET)
            socket.socket.shutdown(wrapped, socket.SHUT_WR)
            got: bytes = wrapped.recv(1 << 16)
            return got

    asked = asyncio.create_task(asyncio.to_thread(ask))
    await until(lambda: [c for c in edge.serving.connections if c._half_closed])
    go_on.set()

    assert (await asked).startswith(b"HTTP/1.1 200")


async def test_a_client_that_does_not_read_its_answer_is_cut(start_tls: StartTls) -> None:
    edge = await start_tls(body_stall_seconds=0.3)
    edge.application.handle = lambda call: call.answer(bytes(16 << 20))

    def stall() -> None:
        with edge.blocking() as wrapped:
            wrapped.sendall(GET)
            done.wait(20)

    done = threading.Event()
    stalled = asyncio.create_task(asyncio.to_thread(stall))
    await until(lambda: edge.application.scopes)
    await until(lambda: not edge.serving.connections and not edge.serving.tasks)
    done.set()
    await stalled


async def test_a_client_that_reads_slowly_is_not_cut(start_tls: StartTls) -> None:
    edge = await start_tls(body_stall_seconds=0.5)
    body = os.urandom(12 << 20)
    edge.application.handle = lambda call: call.answer(body)

    def read() -> bytes:
        with edge.blocking() as wrapped:
            wrapped.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = b""
            while part := wrapped.recv(1 << 16):
                got += part
                time.sleep(0.003)
            return got

    assert (await asyncio.to_thread(read)).endswith(body)


async def test_records_that_are_wrong_end_the_connection_without_a_trace(start_tls: StartTls) -> None:
    edge = await start_tls()

    def spoil() -> bytes:
        with edge.blocking() as wrapped:
            wrapped.sendall(GET)
            wrapped.recv(1 << 16)
            with socket.socket(fileno=os.dup(wrapped.fileno())) as bare:
                bare.sendall(b"\x17\x03\x03\0\x20" + bytes(32))
                bare.settimeout(10)
                got = b""
                with contextlib.suppress(ConnectionError):
                    while part := bare.recv(1 << 16):
                        got += part
                return got

    with structlog.testing.capture_logs() as logged:
        alert = await asyncio.to_thread(spoil)
        await until(lambda: not edge.serving.connections)

    assert alert[:1] == b"\x17"  # an alert, enciphered
    assert [entry["log_level"] for entry in logged] == ["debug"]


# The files


@dataclass
class Clock:
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.now


def replace(file: Path, content: bytes) -> None:
    """Replace a file as tools do that care."""
    temporary = file.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(file)


def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    before = live.context
    live.look()

    assert live.context is before


def test_a_new_pair_is_in_force_at_the_next_look(tmp_path: Path) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    before = live.context
    renew(tmp_path)
    with structlog.testing.capture_logs() as logged:
        live.look()

    assert live.context is not before
    assert [entry["log_level"] for entry in logged] == ["info"]


def test_a_pair_that_is_replaced_one_after_the_other_is_waited_for_in_silence(tmp_path: Path) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    renew(tmp_path / "new")
    before = live.context
    with structlog.testing.capture_logs() as logged:
        replace(tmp_path / "server.crt", (tmp_path / "new" / "server.crt").read_bytes())
        for _ in range(PATIENCE_LOOKS - 1):
            live.look()
        assert (live.context is before, logged) == (True, [])
        replace(tmp_path / "server.key", (tmp_path / "new" / "server.key").read_bytes())
        live.look()

    assert live.context is not before
    assert [entry["log_level"] for entry in logged] == ["info"]


def test_a_pair_that_stays_wrong_is_told_once_and_the_old_one_stays_in_force(tmp_path: Path) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    before, good = live.context, (tmp_path / "server.key").read_bytes()
    renew(tmp_path / "new")
    replace(tmp_path / "server.key", (tmp_path / "new" / "server.key").read_bytes())
    with structlog.testing.capture_logs() as logged:
        for _ in range(3 * PATIENCE_LOOKS):
            live.look()

    assert live.context is before
    [entry] = logged
    assert entry["log_level"] == "error"
    assert entry["problem"] == f"{tmp_path}/server.key: not the key of the certificate in {tmp_path}/server.crt"
    replace(tmp_path / "server.key", good)
    live.look()
    assert live.context is not before


@pytest.mark.parametrize("name", ["server.crt", "server.key"])
def test_a_file_that_is_gone_for_a_while_is_put_up_with(tmp_path: Path, name: str) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    before = live.context
    (tmp_path / name).rename(tmp_path / "away")
    live.look()
    (tmp_path / "away").rename(tmp_path / name)
    with structlog.testing.capture_logs() as logged:
        live.look()

    assert (live.context is before, logged) == (True, [])


def test_a_new_certificate_that_has_expired_is_not_used(tmp_path: Path) -> None:
    live = LiveContext(renew(tmp_path), Clock())
    before = live.context
    certificate, key = Authority.new().issue(HOST, [], since=timedelta(days=-3), until=timedelta(days=-1))
    replace(tmp_path / "server.crt", certificate)
    replace(tmp_path / "server.key", key)
    with structlog.testing.capture_logs() as logged:
        for _ in range(PATIENCE_LOOKS):
            live.look()

    assert live.context is before
    assert "expired on" in logged[0]["problem"]


def test_a_ca_for_clients_is_looked_at_as_well(tmp_path: Path, ca: Path) -> None:
    live = LiveContext(renew(tmp_path).model_copy(update={"client_ca": ca}), Clock())
    before = live.context
    replace(ca, Authority.new("Others").pem)
    live.look()

    assert live.context is not before
    assert [str(entry["subject"]) for entry in live.context.get_ca_certs()] == ["((('commonName', 'Others'),),)"]


def test_the_end_of_a_certificate_is_told_once_a_day(tmp_path: Path) -> None:
    clock = Clock()
    live = LiveContext(renew(tmp_path, days=20), clock)
    told = []
    for _ in range(24 * 10):
        clock.now += timedelta(hours=1)
        with structlog.testing.capture_logs() as logged:
            live.look()
        told += logged

    assert len(told) in {4, 5}
    assert {entry["log_level"] for entry in told} == {"warning"}


# Processes


@dataclass
class SecureService(Service):
    """A service that is asked over TLS, with the CA in a directory."""

    directory: Path

    @property
    def url(self) -> str:
        """Waits until it is ready."""
        found = eventually(lambda: READY.search(self.output))
        assert found is not None
        return f"{found[1]}://{found[2]}"

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.url.partition("://")[2].split(":")
        return host, int(port)

    def connect(self) -> ssl.SSLSocket:
        """Open a connection and shake hands."""
        return trusting(self.directory).wrap_socket(
            socket.create_connection(self.address, timeout=20), server_hostname=HOST
        )

    def serial(self) -> int:
        """Return the number of the certificate that a new connection gets to see."""
        with self.connect() as client:
            return int(str((client.getpeercert() or {})["serialNumber"]), 16)


Start = Callable[..., SecureService]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services with a certificate in the directory; what is left of them ends with the test."""
    services: list[SecureService] = []
    with contextlib.ExitStack() as running:

        def starter(**settings: object) -> SecureService:
            log = tmp_path / f"{len(services)}.log"
            if not services and not (tmp_path / "server.crt").exists():
                renew(tmp_path)
            tls = {"certificate": str(tmp_path / "server.crt"), "key": str(tmp_path / "server.key")}
            given = {"listen": f"{HOST}:0", "workers": 1, "data": str(tmp_path), "tls": tls, **settings}
            services.append(SecureService(running.enter_context(service_process(given, log)), log, tmp_path))
            return services[-1]

        yield starter


def test_it_says_https_and_httpx_is_served(start: Start) -> None:
    service = start(workers=2)
    body = os.urandom(32 << 20)

    assert service.url.startswith(f"https://{HOST}:")
    with httpx.Client(verify=trusting(service.directory), timeout=30) as client:
        assert client.put(f"{service.url}/echo", content=body).content == body
        assert client.get(f"{service.url}/pid").content.isdigit()
    service.process.terminate()
    assert service.ended() == 0
    assert "Traceback" not in service.output


def test_curl_is_served(start: Start, require_tool: Callable[[str], str], tmp_path: Path) -> None:
    service = start()
    (tmp_path / "body").write_bytes(os.urandom(8 << 20))
    command = [require_tool("curl"), "-sS", "--fail", "--cacert", str(tmp_path / "ca.crt")]

    got = subprocess.run(
        [*command, "-T", str(tmp_path / "body"), f"{service.url}/echo"], capture_output=True, check=True, timeout=60
    )
    untrusting = subprocess.run([*command[:3], f"{service.url}/pid"], capture_output=True, check=False, timeout=60)
    plain = subprocess.run(
        [command[0], "-sS", service.url.replace("https", "http")], capture_output=True, check=True, timeout=60
    )

    assert got.stdout == (tmp_path / "body").read_bytes()
    assert untrusting.returncode == 60
    assert b"use https://" in plain.stdout


def test_a_certificate_that_has_expired_is_one_line_and_exit_code_1(start: Start, tmp_path: Path) -> None:
    certificate, key = Authority.new().issue(HOST, [], since=timedelta(days=-3), until=timedelta(days=-1))
    (tmp_path / "server.crt").write_bytes(certificate)
    (tmp_path / "server.key").write_bytes(key)
    service = start()

    assert service.ended() == 1
    assert re.fullmatch(
        rf"pierhead: {tmp_path}/server\.crt: the certificate expired on \d{{4}}-[\d-]+ [\d:]+ UTC: renew it\n",
        service.output,
    )


def test_a_unix_socket_may_speak_tls_as_well(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    service = start(listen=f"unix:{path}")
    eventually(lambda: "serving unix:" in service.output)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        with trusting(tmp_path).wrap_socket(plain, server_hostname=HOST) as client:
            client.sendall(GET)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_files_are_replaced_under_load_and_no_connection_fails(start: Start, tmp_path: Path) -> None:
    service = start(workers=2)
    assert service.url
    stop = threading.Event()
    failures: list[BaseException] = []
    counts: list[int] = []
    body = os.urandom(200_000)

    def work(*, keep: bool) -> None:
        context = trusting(tmp_path)
        count = 0
        while not stop.is_set():
            try:
                with httpx.Client(verify=context, timeout=30) as client:
                    for _ in range(20 if keep else 1):
                        assert client.put(f"{service.url}/echo", content=body).content == body
                        count += 1
            except BaseException as error:
                failures.append(error)
                return
        counts.append(count)

    threads = [threading.Thread(target=work, kwargs={"keep": keep}) for keep in [True] * 4 + [False] * 6]
    for thread in threads:
        thread.start()
    try:
        for round_ in range(1, 5):
            renew(tmp_path)
            replaced = time.monotonic()
            eventually(lambda: service.output.count("are in force") == 2 * round_)  # noqa: B023 - called at once
            assert time.monotonic() - replaced < 4
            assert {service.serial() for _ in range(12)} == {serial_of(tmp_path)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert failures == []
    assert min(counts) > 0
    assert "error" not in service.output
    service.process.terminate()
    assert service.ended() == 0


def serial_of(directory: Path) -> int:
    """Return the number of the certificate in the file."""
    return x509.load_pem_x509_certificate((directory / "server.crt").read_bytes()).serial_number


def test_a_new_certificate_is_in_force_within_two_seconds(start: Start, tmp_path: Path) -> None:
    service = start()
    before = service.serial()
    renew(tmp_path)
    began = time.monotonic()
    eventually(lambda: service.serial() != before)

    assert time.monotonic() - began < 2


def test_a_connection_goes_on_when_the_files_are_replaced(start: Start, tmp_path: Path) -> None:
    service = start()
    with service.connect() as client:
        client.sendall(GET)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")
        renew(tmp_path)
        eventually(lambda: "are in force" in service.output)
        client.sendall(GET)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_worker_that_is_replaced_while_files_are_wrong_begins_with_the_old_ones(start: Start, tmp_path: Path) -> None:
    service = start()
    before, workers = service.serial(), service.workers
    (tmp_path / "server.key").write_bytes(b"")
    with service.connect() as client, contextlib.suppress(OSError):
        client.sendall(b"GET /die HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1)
    eventually(lambda: service.workers and service.workers != workers)

    assert service.serial() == before
    eventually(lambda: "the old ones stay in force" in service.output)
    assert service.serial() == before


def test_a_stop_ends_idle_connections_and_handshakes_and_lets_requests_finish(start: Start, tmp_path: Path) -> None:
    service = start()
    idle, running = service.connect(), service.connect()
    handshake = socket.create_connection(service.address, timeout=20)
    idle.sendall(b"GET /pid HTTP/1.1\r\nHost: x\r\n\r\n")
    assert idle.recv(1 << 16)
    running.sendall(f"GET /wait?{tmp_path / 'go'} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    eventually(lambda: "waiting" in service.output)
    service.process.terminate()

    assert idle.recv(1) == b""  # close_notify: without it this would raise
    with contextlib.suppress(ConnectionResetError):
        assert handshake.recv(1) == b""
    (tmp_path / "go").touch()
    answer = b""
    while part := running.recv(1 << 16):
        answer += part
    assert answer.endswith(b"done")
    assert b"connection: close" in answer
    assert service.ended() == 0
    assert "stopped, 0 requests cut" in service.output
    for client in (idle, running, handshake):
        client.close()


def test_a_second_signal_cuts_connections_at_once(start: Start, tmp_path: Path) -> None:
    service = start(limits={"shutdown_seconds": 600})
    with service.connect() as running:
        running.sendall(f"GET /wait?{tmp_path / 'never'} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        eventually(lambda: "waiting" in service.output)
        service.process.terminate()
        eventually(lambda: "stopping" in service.output)
        service.process.terminate()

        assert service.ended() == 0
    assert "stopped, 1 requests cut" in service.output
    assert "Traceback" not in service.output
