"""Clients that hold on to what they were given: connections, sessions, disk. Each holding has a limit with a name."""

import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.hostile import store
from tests.hostile.conftest import HARM, assert_unharmed
from tests.hostile.processes import MIB, bounded, workers
from tests.hostile.pushing import begin, finish, image, offset, push_blob, put_manifest, sha256
from tests.hostile.wire import LAST_CHUNK, Ended, Wire, ask, call, chunk, encoded, head, request
from tests.running import Server, eventually, start

HELLO = b"hello"
NAME = "limits"


def environment(**limits: object) -> dict[str, str]:
    """Limits as variables."""
    return {f"PIERHEAD_LIMITS_{name.upper()}": str(value) for name, value in limits.items()}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that has little time, for anybody."""
    directory: Path = tmp_path_factory.mktemp("strict")
    limits = environment(
        header_seconds=0.4, body_bytes_per_second_min=5000, body_stall_seconds=0.6, keep_alive_seconds=0.5
    )
    server = start(directory / "data", log=directory / "log", workers=2, environment=limits)
    yield server
    assert_unharmed(server)
    server.stop()


class Trickle:
    """Sends bytes one by one until the end of a `with` block, or until the server hangs up."""

    def __init__(self, wire: Wire, data: bytes, *, pause_seconds: float = 0.01) -> None:
        self._wire = wire
        self._data = data
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        for byte in self._data:
            if self._stop.wait(self._pause_seconds):
                return
            try:
                self._wire.socket.sendall(bytes([byte]))
            except OSError:
                return


@pytest.mark.case("H38")
def test_a_head_that_trickles_in_is_cut_off(strict: Server) -> None:
    with Wire.open(strict) as wire, Trickle(wire, b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 5000):
        answer = wire.answer()
        assert (answer.status, answer.code, answer.headers["connection"]) == (408, "UNSUPPORTED", "close")


@pytest.mark.case("H38")
def test_a_connection_that_says_nothing_is_closed(strict: Server) -> None:
    with Wire.open(strict) as silent, Wire.open(strict) as idle:
        idle.send(request("GET", "/v2/"))
        assert idle.answer().status == 200
        assert silent.ended()
        assert idle.ended()


@pytest.mark.case("H38")
@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST", "MANIFEST"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_trickles_in_is_cut_off_and_lets_go_of_its_session(
    strict: Server, method: str, chunked: bool
) -> None:
    location = begin(strict, NAME)
    digest = encoded(sha256(HELLO))
    method, target = {
        "PATCH": ("PATCH", location),
        "PUT": ("PUT", f"{location}?digest={digest}"),
        "POST": ("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}"),
        "MANIFEST": ("PUT", f"/v2/{NAME}/manifests/slow"),
    }[method]
    sent = head(method, target) + b"1\r\na\r\n"
    if not chunked:
        sent = head(method, target, length=100000) + b"a"
    with Wire.open(strict) as wire, Trickle(wire, b"1\r\na\r\n" * 1000 if chunked else b"a" * 5000):
        wire.send(sent)
        answer = wire.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    eventually(lambda: finish(strict, location, sha256(b"!")).status in {201, 400})


@pytest.mark.case("H38")
def test_a_slow_upload_that_keeps_the_least_rate_may_take_its_time(strict: Server) -> None:
    location = begin(strict, NAME)
    size, began = 0, time.monotonic()
    with Wire.open(strict) as wire:
        wire.send(head("PATCH", location))
        while time.monotonic() - began < 1.8:
            wire.send(chunk(bytes(1024)))
            size += 1024
            assert not wire.speaks(seconds=0.02)
        wire.send(LAST_CHUNK)
        assert wire.answer().headers["range"] == f"0-{size - 1}"


@pytest.mark.case("H38")
def test_a_reader_that_does_not_read_is_cut_off(strict: Server) -> None:
    digest = push_blob(strict, NAME, bytes(16 * MIB))
    with Wire.open(strict, receive_bytes=4096) as wire:
        wire.send(request("GET", f"/v2/{NAME}/blobs/{digest}"))
        assert wire.speaks(seconds=5)
        eventually(lambda: descriptors_of(strict, digest) == 0, seconds=15)
        with pytest.raises(Ended):
            wire.answer()


def descriptors_of(server: Server, digest: str) -> int:
    """How often the workers hold a blob open."""
    held = 0
    for pid in workers(server):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                held += str(descriptor.readlink()).endswith(f"{digest[7:]}/data")
            except FileNotFoundError:
                continue
    return held


@pytest.mark.case("H38")
def test_a_client_that_leaves_in_the_middle_of_its_answer_leaves_nothing_open(server: Server) -> None:
    digest = push_blob(server, NAME, bytes(8 * MIB))
    for number in range(20):
        with Wire.open(server, receive_bytes=4096) as wire:
            wire.send(request("GET", f"/v2/{NAME}/blobs/{digest}"))
            assert wire.speaks(seconds=5)
            (wire.vanish if number % 2 else wire.socket.close)()
    eventually(lambda: descriptors_of(server, digest) == 0)


@pytest.mark.case("H38")
def test_readers_that_do_not_read_take_a_bounded_memory_each(server: Server) -> None:
    digest = push_blob(server, NAME, bytes(16 * MIB))
    wires = [Wire.open(server, receive_bytes=4096) for _ in range(30)]
    with bounded(server, growth_mib=30 * 4):
        for wire in wires:
            wire.send(request("GET", f"/v2/{NAME}/blobs/{digest}"))
        assert all(wire.speaks(seconds=5) for wire in wires)
        assert call(server, "GET", "/v2/").status == 200
        for wire in wires:
            wire.vanish()


@pytest.mark.case("H38")
def test_connections_and_uploads_above_their_limits_are_told_to_come_back(start_pierhead: Starter) -> None:
    server = start_pierhead(environment=environment(connections_max=12, uploads_max=3))
    locations = [begin(server, NAME) for _ in range(4)]
    open_ended = [head("PATCH", each) for each in locations]
    uploading = [Wire.open(server) for _ in range(3)]
    for wire, sent, location in zip(uploading, open_ended, locations, strict=False):
        wire.send(sent + chunk(HELLO))
        eventually(lambda location=location: offset(server, location) == 5)  # type: ignore[misc] # bound

    for sent in (
        open_ended[3],
        request("POST", f"/v2/{NAME}/blobs/uploads/?digest={encoded(sha256(HELLO))}", body=HELLO),
    ):
        refused = ask(server, sent)
        assert (refused.status, refused.code) == (429, "TOOMANYREQUESTS")
        assert int(refused.headers["retry-after"]) > 0
    assert put_manifest(server, NAME, "x", image(sha256(b"{}"))).code == "MANIFEST_BLOB_UNKNOWN"

    idle = [Wire.open(server) for _ in range(9)]
    for wire in idle:
        wire.send(request("GET", "/v2/"))
        assert wire.answer().status == 200
    crowded = ask(server, request("GET", "/v2/"))
    assert (crowded.status, crowded.code, crowded.headers["connection"]) == (503, "UNAVAILABLE", "close")
    assert int(crowded.headers["retry-after"]) > 0

    for wire in (*idle, uploading[0]):
        wire.vanish()
    eventually(lambda: ask(server, request("GET", "/v2/")).status == 200)
    eventually(lambda: call(server, "PATCH", locations[3], body=HELLO).status == 202)
    for wire in uploading[1:]:
        wire.send(LAST_CHUNK)
        assert wire.answer().status == 202
        wire.socket.close()
    assert HARM.search(server.log.read_bytes()) is None


@pytest.mark.case("H40")
def test_a_blob_above_its_limit_is_refused_early_or_cut_off_and_taken_back(start_pierhead: Starter) -> None:
    server = start_pierhead(environment=environment(blob_bytes_max=MIB))
    before = store.files(server)
    digest = encoded(sha256(HELLO))
    location = begin(server, NAME)
    assert call(server, "PATCH", location, body=HELLO).status == 202

    for method, target in (
        ("PATCH", location),
        ("PUT", f"{location}?digest={digest}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}"),
    ):
        with Wire.open(server) as wire:  # told: before a byte of it is read
            wire.send(head(method, target, length=MIB + 1))
            assert (wire.answer().status, wire.ended()) == (413, True)
        with Wire.open(server) as wire:  # not told: as soon as there are too many
            wire.send(head(method, target))
            for _ in range(40):
                wire.send(chunk(bytes(1 << 16)))
            answer = wire.answer()
            assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        assert offset(server, location) == 5

    # Piece by piece it does not become longer either, and what is within the limit is taken.
    assert call(server, "PATCH", location, body=bytes(MIB - 5)).status == 202
    assert call(server, "PATCH", location, body=b"!").status == 413
    assert finish(server, location, sha256(HELLO + bytes(MIB - 5))).status == 201
    assert call(server, "DELETE", f"/v2/{NAME}/blobs/{sha256(HELLO + bytes(MIB - 5))}").status == 202
    left = {key for key in store.files(server) - before if "/blobs/" not in key and "/sources/" not in key}
    # Records of what has ended: of the upload, and of the deletion.
    assert all(key.startswith(("pierhead/uploads/", "pierhead/removals/")) for key in left), left


@pytest.mark.case("H40")
def test_a_disk_that_takes_no_more_is_an_answer_and_takes_nothing_that_was_there(start_pierhead: Starter) -> None:
    """A limit on the size of a file stands for the full disk: write(2) fails in the middle of a body."""
    server = start_pierhead(workers=2)
    kept = push_blob(server, NAME, b"kept")
    location = begin(server, NAME)
    assert call(server, "PATCH", location, body=HELLO).status == 202
    for pid in workers(server):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2 * MIB, resource.RLIM_INFINITY))

    body = bytes(8 * MIB)
    for method, target in (("PATCH", location), ("POST", f"/v2/{NAME}/blobs/uploads/?digest={encoded(sha256(body))}")):
        answer = call(server, method, target, body=body)
        assert answer.status in {503, 507}
        assert answer.code == "UNAVAILABLE"
    found = call(server, "GET", f"/v2/{NAME}/blobs/{kept}")
    assert (found.status, found.body) == (200, b"kept")
    size = offset(server, location)
    assert 5 <= size <= 2 * MIB

    for pid in workers(server):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    rest = b"the rest"
    assert call(server, "PATCH", location, body=rest).status == 202
    assert finish(server, location, sha256(HELLO + bytes(size - 5) + rest)).status == 201


@pytest.mark.case("H38")
@pytest.mark.case("H40")
@pytest.mark.case("H42")
def test_sessions_that_nobody_uses_are_dropped_and_those_in_use_are_not(start_pierhead: Starter) -> None:
    limits = environment(upload_idle_seconds=1, upload_ended_seconds=1, sweep_seconds=0.2)
    server = start_pierhead(workers=2, environment=limits)
    empty = store.files(server)
    idle = [begin(server, NAME) for _ in range(20)]
    for location in idle[:10]:
        assert call(server, "PATCH", location, body=HELLO).status == 202
    used = begin(server, NAME)
    with Wire.open(server) as wire:  # in one long request, that brings nothing new for a long while
        wire.send(head("PATCH", used) + chunk(HELLO))

        eventually(lambda: all(call(server, "GET", each).status == 404 for each in idle), seconds=20)

        assert offset(server, used) == 5
        wire.send(LAST_CHUNK)
        assert wire.answer().status == 202
    assert finish(server, used, sha256(HELLO)).status == 201
    eventually(lambda: {key for key in store.files(server) - empty if "upload" in key} == set(), seconds=20)
    assert HARM.search(server.log.read_bytes()) is None


@pytest.mark.case("H38")
@pytest.mark.case("H54")
def test_an_uploads_lifetime_ends_however_busy_it_is(start_pierhead: Starter) -> None:
    server = start_pierhead(environment=environment(upload_lifetime_seconds=1.5, sweep_seconds=0.2))
    location = begin(server, NAME)

    def gone() -> bool:
        return call(server, "PATCH", location, body=b"x").status == 404

    eventually(gone, seconds=20)
