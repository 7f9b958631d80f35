"""Certificate, users and policy are replaced under load: each counts soon in every worker, and nobody notices else."""

import asyncio
import base64
import contextlib
import json
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from registry.auth.htpasswd import add_user, remove_user, set_hash
from registry.auth.passwords import hash_password
from tests.certificates import HOST, Authority, renew, trusting
from tests.hostile.processes import workers
from tests.hostile.pushing import IMAGE, image, sha256
from tests.races.workers import processes_of
from tests.running import ROOT, Server, eventually, start

CLIENTS = 16
IN_FORCE_SECONDS = 2.0
"""Within this time after a change no answer may follow what was before."""

SEEN_SECONDS = 20.0
"""Within this time new connections have reached every worker."""

PAUSE_SECONDS = 0.05
REQUESTS_PER_CONNECTION = 8
COMPLAINT_SECONDS = 15.0
COST = 4
CLIENT, PASSWORD = "load", "the-load-goes-on"
POLICY = """
[[rules]]
who = ["load", "admin"]
repositories = ["**"]
allow = ["*"]

[[rules]]
who = ["guest"]
repositories = ["team/app"]
allow = [{actions}]
"""
BLOB = b"a layer that everybody pulls" * 1000


@dataclass
class Place:
    """A server with TLS, its files, and how clients have fared."""

    server: Server
    tls: Path
    htpasswd: Path
    policy: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return self.server.log.read_text()


@dataclass(frozen=True)
class Seen:
    """What a new connection has come to: which worker, which certificate, which status, and when it was begun."""

    worker: int
    serial: int
    status: int
    began: float


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    tls, htpasswd, policy = tmp_path / "tls", tmp_path / "htpasswd", tmp_path / "policy.toml"
    renew(tls)
    policy.write_text(POLICY.format(actions='"pull"'))
    for user, password in ((CLIENT, PASSWORD), ("admin", "the-admins-password"), ("guest", "the-guests-password")):
        add_user(htpasswd, user, hash_password(user, password, cost=COST))
    environment = {
        "PIERHEAD_AUTH_HTPASSWD": str(htpasswd),
        "PIERHEAD_AUTH_POLICY": str(policy),
        "PIERHEAD_TLS_CERTIFICATE": str(tls / "server.crt"),
        "PIERHEAD_TLS_KEY": str(tls / "server.key"),
        "PIERHEAD_AUDIT_FILE": str(tmp_path / "audit.jsonl"),
    }
    server = start(tmp_path / "data", log=tmp_path / "log", workers=2, environment=environment)
    yield Place(server, tls, htpasswd, policy)
    server.stop()


def basic(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Connection:
    """One connection over TLS that can be asked many times."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, place: Place) -> "Connection":
        host, _, port = place.server.address.rpartition(":")
        # A context of its own: none of the sessions before is resumed.
        reader, writer = await asyncio.open_connection(host, int(port), ssl=trusting(place.tls), server_hostname=HOST)
        return cls(reader, writer)

    async def ask(
        self, method: str, target: str, *lines: str, body: bytes = b""
    ) -> tuple[int, Mapping[str, str], bytes]:
        length = [f"Content-Length: {len(body)}"] if body or method in {"POST", "PUT"} else []
        head = "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {HOST}", *length, *lines, "", ""])
        self.writer.write(head.encode() + body)
        first, *fields = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = dict(each.split(": ", 1) for each in fields)
        status = int(first.split(" ")[1])
        content = b""
        if method != "HEAD" and status != 204:
            content = await self._reader.readexactly(int(headers["content-length"]))
        return status, headers, content

    @property
    def serial(self) -> int:
        der: bytes = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


def worker_of(place: Place, connection: Connection) -> int:
    """The worker at the other end (proc(5)): told by the inode of its socket."""
    local = connection.writer.get_extra_info("sockname")[1]
    remote = int(place.server.address.rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(c[9] for c in lines if c[1].endswith(f":{remote:04X}") and c[2].endswith(f":{local:04X}"))
    for pid in processes_of(place.server):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return pid
    raise LookupError("no worker holds the connection")


# The load: what is asked, and the only status that is right


async def client_loop(place: Place, number: int, stop: asyncio.Event) -> None:
    """Pull and push over and over, by password and by token, on new connections and on used ones."""
    password, tag = basic(CLIENT, PASSWORD), f"client-{number}"
    rounds = 0
    while not stop.is_set():
        connection = await Connection.open(place)
        try:
            token = await connection.ask("GET", "/token?scope=repository:team/app:pull,push", password)
            line = f"Authorization: Bearer {json.loads(token[2])['token']}" if token[0] == 200 else ""
            place.outcomes[f"token {token[0]}"] += 1
            for _ in range(REQUESTS_PER_CONNECTION):
                rounds += 1
                means = password if rounds % 2 else line
                manifest = image(sha256(b"{}"), [sha256(BLOB)], blob_bytes=2, annotations={"n": f"{number}.{rounds}"})
                manifest = manifest.replace(b'"size": 2}]', b'"size": %d}]' % len(BLOB))
                for method, target, body, right in (
                    ("GET", "/v2/team/app/manifests/latest", b"", 200),
                    ("GET", f"/v2/team/app/blobs/{sha256(BLOB)}", b"", 200),
                    ("HEAD", f"/v2/team/app/blobs/{sha256(b'{}')}", b"", 200),
                    ("PUT", f"/v2/team/app/manifests/{tag}", manifest, 201),
                    ("GET", f"/v2/team/app/manifests/{tag}", b"", 200),
                ):
                    lines = [means, f"Content-Type: {IMAGE}"] if method == "PUT" else [means]
                    status, _, content = await connection.ask(method, target, *lines, body=body)
                    place.outcomes[f"{method} {status}"] += 1
                    if status != right:
                        place.failures.append(f"{method} {target}: {status} {content[:200]!r}")
                    await asyncio.sleep(PAUSE_SECONDS)
                if stop.is_set():
                    break
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def load(place: Place) -> AsyncIterator[None]:
    """Keep CLIENTS busy for the length of a `with` block: no connection and no request of theirs may fail."""
    connection = await Connection.open(place)
    for content in (b"{}", BLOB):
        target = f"/v2/team/app/blobs/uploads/?digest={sha256(content)}"
        assert (await connection.ask("POST", target, basic(CLIENT, PASSWORD), body=content))[0] == 201
    lines = [basic(CLIENT, PASSWORD), f"Content-Type: {IMAGE}"]
    put = await connection.ask("PUT", "/v2/team/app/manifests/latest", *lines, body=image(sha256(b"{}")))
    assert put[0] == 201, put
    await connection.close()
    stop = asyncio.Event()
    clients = [asyncio.create_task(client_loop(place, number, stop)) for number in range(CLIENTS)]
    before = set(workers(place.server))
    try:
        yield
    finally:
        stop.set()
        ended = await asyncio.gather(*clients, return_exceptions=True)
    assert [repr(each) for each in ended if each is not None] == []
    assert place.failures == []
    assert set(workers(place.server)) == before
    assert sum(place.outcomes.values()) > 10 * CLIENTS


# What is in force


async def look(place: Place, *lines: str, method: str = "GET", target: str = "/v2/") -> Seen:
    """Ask once, on a new connection."""
    began = time.monotonic()
    connection = await Connection.open(place)
    try:
        status, _, _ = await connection.ask(method, target, *lines)
        return Seen(worker_of(place, connection), connection.serial, status, began)
    finally:
        await connection.close()


async def in_force(
    place: Place, ask: Callable[[], Awaitable[Seen]], is_new: Callable[[Seen], bool], since: float
) -> float:
    """Ask over new connections until each worker was seen to follow a change; the longest that one was seen not to.

    Whoever asks more than IN_FORCE_SECONDS after the change, or again a worker that follows it, has to see the change.
    """
    following: set[int] = set()
    late = 0.0
    while following != set(workers(place.server)):
        seen = await ask()
        if is_new(seen):
            following.add(seen.worker)
        else:
            late = max(late, seen.began - since)
            assert late <= IN_FORCE_SECONDS, f"not in force after {late:.1f} s: {seen}"
            assert seen.worker not in following, f"back to what was before: {seen}"
        assert time.monotonic() - since < SEEN_SECONDS, f"only {following} were reached"
        await asyncio.sleep(0.02)
    return late


def told(place: Place, event: str, count: int = 1) -> bool:
    """Whether the log has so many lines with a text, each of which is an error."""
    found = [line for line in place.log.splitlines() if event in line]
    return len(found) >= count and all("[error" in line for line in found)


@pytest.mark.timeout(240)
async def test_files_that_are_replaced_count_soon_in_every_worker_and_no_client_notices(place: Place) -> None:
    ask_guest = partial(look, place, basic("guest", "the-guests-password"))
    async with load(place):
        for number in range(3):
            # A new certificate: new connections get it, those that are there go on.
            before = (await look(place)).serial
            renew(place.tls)
            await in_force(place, partial(look, place), lambda seen, old=before: seen.serial != old, time.monotonic())  # type: ignore[misc]

            # A user more, with another password, and gone again.
            user, passwords = f"new-{number}", ("the-first-password", "the-second-password")
            first, second = (partial(look, place, basic(user, password)) for password in passwords)
            add_user(place.htpasswd, user, hash_password(user, passwords[0], cost=COST))
            await in_force(place, first, lambda seen: seen.status == 200, time.monotonic())
            set_hash(place.htpasswd, user, hash_password(user, passwords[1], cost=COST))
            changed = time.monotonic()
            await in_force(place, first, lambda seen: seen.status == 401, changed)
            await in_force(place, second, lambda seen: seen.status == 200, changed)
            remove_user(place.htpasswd, user)
            await in_force(place, second, lambda seen: seen.status == 401, time.monotonic())

            # The guest may delete, and may not.
            delete = partial(ask_guest, method="DELETE", target="/v2/team/app/manifests/none")
            replace(place.policy, POLICY.format(actions='"pull", "delete"'))
            await in_force(place, delete, lambda seen: seen.status == 404, time.monotonic())
            place.policy.write_text(POLICY.format(actions='"pull"'))  # in its place, as an editor may do
            await in_force(place, delete, lambda seen: seen.status == 403, time.monotonic())
    assert "[error" not in place.log


@pytest.mark.timeout(240)
async def test_files_that_are_broken_are_told_of_and_change_nothing_until_they_are_mended(place: Place) -> None:
    guest = basic("guest", "the-guests-password")
    ask_guest = partial(look, place, guest)
    both = {"certificate": (place.tls / "server.crt").read_bytes(), "key": (place.tls / "server.key").read_bytes()}
    serial = (await look(place)).serial
    async with load(place):
        good = {place.policy: place.policy.read_bytes(), place.htpasswd: place.htpasswd.read_bytes()}
        for broken in (
            b"[[rules]]\nwho = [",
            b'[[rules]]\nwho = ["x"]\nrepositories = ["**"]\nallow = ["fly"]\n',
            b"\xff",
        ):
            await broken_then_mended(place, place.policy, broken, good[place.policy], what="policy", ask=ask_guest)
        for broken in (b"no colon in it\n", b"\xff\xfe\x00", b"a:b\n" + b":" * 10 + b"\n"):
            await broken_then_mended(place, place.htpasswd, broken, good[place.htpasswd], what="users", ask=ask_guest)
        # A user that comes with the mending counts.
        add_user(place.htpasswd, "late", hash_password("late", "a-late-password", cost=COST))
        late = partial(look, place, basic("late", "a-late-password"))
        await in_force(place, late, lambda seen: seen.status == 200, time.monotonic())

        # A key that is another's, a certificate that has expired, and no certificate at all.
        expired, its_key = Authority.new().issue(HOST, [], since=timedelta(days=-3), until=timedelta(days=-1))
        for certificate, key in ((both["certificate"], its_key), (expired, its_key), (b"none", both["key"])):
            seen = place.log.count("the new certificate files are not used")
            replace(place.tls / "server.key", key)
            replace(place.tls / "server.crt", certificate)
            event = "the new certificate files are not used"
            await asyncio.to_thread(eventually, partial(told, place, event, seen + 2), seconds=COMPLAINT_SECONDS)
            for _ in range(10):
                assert (await ask_guest()).serial == serial
        renew(place.tls)
        await in_force(place, ask_guest, lambda seen: seen.serial != serial, time.monotonic())
    assert "Traceback" not in place.log
    assert not any(password in place.log for password in (PASSWORD, "the-guests-password", "a-late-password"))


async def broken_then_mended(
    place: Place, file: Path, broken: bytes, good: bytes, *, what: str, ask: Callable[[], Awaitable[Seen]]
) -> None:
    """Break a file, see that each worker complains once and goes on as before, and mend it."""
    event = "a file can't be used: what was read before stays in force"

    def complaints() -> list[str]:
        lines = place.log.splitlines()
        return [
            line for line in lines if event in line and f"of='{what}'" in line.replace(f"of={what}", f"of='{what}'")
        ]

    before = len(complaints())
    replace(file, broken)
    deadline = time.monotonic() + COMPLAINT_SECONDS
    while len(complaints()) < before + len(workers(place.server)):
        assert (await ask()).status == 200
        assert time.monotonic() < deadline, f"{what}: nobody complains of {broken!r}"
    assert all("[error" in line for line in complaints())
    for _ in range(5):
        assert (await ask()).status == 200
    replace(file, good)
    mended = time.monotonic()
    while time.monotonic() - mended < IN_FORCE_SECONDS:
        assert (await ask()).status == 200
    assert len(complaints()) == before + len(workers(place.server))


def replace(file: Path, content: bytes | str) -> None:
    """Put a file in its place whole."""
    beside = file.with_name(f".{file.name}.new")
    beside.write_bytes(content if isinstance(content, bytes) else content.encode())
    beside.replace(file)


# Starting with files that are wrong


def serve(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run `pierhead serve` with what can't be served, to its end."""
    command = [sys.executable, "-m", "registry", "serve", "--data", str(directory / "data")]
    listen = [] if "--listen" in arguments else ["--listen", "127.0.0.1:0"]
    return subprocess.run(
        [*command, *listen, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


def assert_refused(ended: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    """One line that says what to do, and an exit code."""
    lines = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == code, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("pierhead: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("kind", ["absent", "directory", "binary", "no colon"])
def test_a_file_of_users_that_can_not_be_read_is_one_line(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "htpasswd"
    match kind:
        case "directory":
            file.mkdir()
        case "binary":
            file.write_bytes(b"\xff\x00")
        case "no colon":
            file.write_text("# users\n\nalice\n")

    ended = serve(tmp_path, "--htpasswd", str(file))

    assert_refused(ended, 1, str(file), *(["line 3"] if kind == "no colon" else []))
    assert not (tmp_path / "data").exists()


def test_a_file_of_users_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    """Root may read everything: a file that ends in a loop of links nobody can."""
    file = tmp_path / "htpasswd"
    file.symlink_to(file)

    assert_refused(serve(tmp_path, "--htpasswd", str(file)), 1, str(file), "can't be read")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('who = ["alice"]\nrepositories = ["**"]\nallow = ["fly"]', ["rule 1", "fly"]),
        ('who = ["alice"]\nrepositories = ["Team/*"]\nallow = ["pull"]', ["rule 1", "Team/*"]),
        ('who = ["alice"]\nrepositories = ["**"]\nalow = ["pull"]', ["rule 1", "alow"]),
        ('who = ["group:none"]\nrepositories = ["**"]\nallow = ["pull"]', ["rule 1", "none"]),
        ("who = [", ["not TOML"]),
    ],
)
def test_a_policy_that_is_wrong_is_one_line(tmp_path: Path, rule: str, words: list[str]) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(f"[[rules]]\n{rule}\n")

    assert_refused(serve(tmp_path, "--policy", str(file)), 1, str(file), *words)


def test_a_policy_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert_refused(serve(tmp_path, "--policy", str(tmp_path / "none.toml")), 1, "none.toml")


def tls(directory: Path, certificate: bytes, key: bytes) -> list[str]:
    """The options for a certificate and a key."""
    files = directory / "server.crt", directory / "server.key"
    for file, content in zip(files, (certificate, key), strict=True):
        file.write_bytes(content)
    return ["--tls-cert", str(files[0]), "--tls-key", str(files[1])]


def test_a_key_that_is_another_s_is_one_line(tmp_path: Path) -> None:
    authority = Authority.new()
    certificate, _ = authority.issue(HOST, [])
    _, key = authority.issue(HOST, [])

    assert_refused(serve(tmp_path, *tls(tmp_path, certificate, key)), 1, str(tmp_path / "server.key"))


def test_a_certificate_that_has_expired_is_one_line(tmp_path: Path) -> None:
    certificate, key = Authority.new().issue(HOST, [], since=timedelta(days=-3), until=timedelta(days=-1))

    assert_refused(serve(tmp_path, *tls(tmp_path, certificate, key)), 1, "expired", "renew")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", ":0"])
def test_to_listen_to_everybody_without_asking_who_they_are_is_refused(tmp_path: Path, listen: str) -> None:
    ended = serve(tmp_path, "--listen", listen)

    assert_refused(ended, 2, "listen", "--allow-anonymous-push", "htpasswd")
    assert not (tmp_path / "data").exists()


def test_it_may_be_asked_for(tmp_path: Path) -> None:
    server = start(tmp_path / "data", log=tmp_path / "log", listen="0.0.0.0:0", arguments=["--allow-anonymous-push"])
    assert server.stop() == 0


def test_with_users_it_need_not_be_asked_for_and_passwords_in_the_clear_are_told_of(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    add_user(file, "alice", hash_password("alice", PASSWORD, cost=COST))
    server = start(tmp_path / "data", log=tmp_path / "log", listen="0.0.0.0:0", arguments=["--htpasswd", str(file)])
    assert server.stop() == 0
    assert "passwords are sent in the clear" in server.log.read_text()
