"""Hundreds of pushes while calls to the store fail in every way: all that was acknowledged is there, nothing half is.

`PIERHEAD_TEST_PUSHES` is how many: 250 unless it is set. A thousand take two minutes.
"""

import os
import random
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.load import ledger
from tests.load.calls import Caller, Outages
from tests.load.memory import peaks_of
from tests.running import ROOT, Server, start
from tests.s3.faults import Fault
from tests.s3.pushers import MIB, Line, Pusher
from tests.s3.storm import ANY, Chances, Passed, Storm, storming
from tests.s3.weed import BUCKET, Store

PUSHES = int(os.environ.get("PIERHEAD_TEST_PUSHES") or 250)
CLIENTS = 10
LARGE_EVERY = 25
LARGE = (9 * MIB, 13 * MIB)
"""More than one part, and so a multipart upload."""

READ_TIMEOUT_SECONDS = 1.0
MEMORY_BYTES_MAX = 400_000_000
ACKNOWLEDGED_MIN = PUSHES // 2
SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)

COMMON: dict[Fault, float] = {
    Fault.DROP: 0.006,
    Fault.RESET: 0.006,
    Fault.LOSE: 0.01,
    Fault.ERROR: 0.006,
    Fault.DONE_ERROR: 0.006,
    Fault.SLOW_DOWN: 0.006,
    Fault.CUT: 0.006,
    Fault.CUT_HEAD: 0.006,
    Fault.SHORT: 0.004,
    Fault.DELAY: 0.01,
    Fault.LATE: 0.002,
    Fault.HANG: 0.002,
}
OFTEN: dict[Fault, float] = {fault: min(0.08, 8 * chance) for fault, chance in COMMON.items()}
"""For calls that are rare."""

PATIENT: dict[Fault, float] = {**OFTEN, Fault.HANG: 0.0, Fault.LATE: 0.0}
"""For calls that the driver waits for as long as the store moves bytes: five minutes."""

CHANCES: Chances = {
    ANY: OFTEN,
    **dict.fromkeys(["CopyObject", "UploadPartCopy", "CompleteMultipartUpload"], PATIENT),
    **dict.fromkeys(["GetObject", "HeadObject", "PutObject", "DeleteObject"], COMMON),
}
KINDS = {
    "GetObject",
    "HeadObject",
    "PutObject",
    "DeleteObject",
    "ListObjectsV2",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
}
"""What surely comes by in a run; other kinds fail as well when they do."""

BY_SERVER = {"PIERHEAD_S3_REDIRECT": "false"}
"""Blobs come from the server, so that what it reads is looked at as well."""

SETTINGS = {
    **BY_SERVER,
    "PIERHEAD_S3_READ_TIMEOUT_SECONDS": str(READ_TIMEOUT_SECONDS),
    "PIERHEAD_S3_ATTEMPTS_MAX": "2",
    "PIERHEAD_LIMITS_SWEEP_SECONDS": "60",
}
"""So few attempts that many requests fail for the client as well."""


@pytest.fixture
def place() -> str:
    """Return a place in the bucket that no other test uses."""
    return f"s3://{BUCKET}/storm/{secrets.token_hex(8)}"


@pytest.fixture
def storm(weed: Store) -> Iterator[Storm]:
    with storming(weed.endpoint, SEED, late_seconds=READ_TIMEOUT_SECONDS * 2) as running:
        yield running


@pytest.fixture
def servers(weed: Store, storm: Storm, place: str, tmp_path: Path) -> Iterator[list[Server]]:
    """Return two servers, of two workers and of one, that reach the store through the proxy."""
    environment = {**weed.environment(), **SETTINGS, "AWS_ENDPOINT_URL": storm.endpoint}
    started: list[Server] = []
    try:
        for number, workers in enumerate((2, 1)):
            started.append(_start(tmp_path, place, environment, number=number, workers=workers))
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.mark.timeout(1200)
def test_hundreds_of_pushes_through_a_failing_store_lose_nothing_and_show_nothing_half(
    servers: list[Server], weed: Store, storm: Storm, place: str, tmp_path: Path
) -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_PUSHES={PUSHES}\n")
    pushers, lines = _make([server.address for server in servers])
    _in_threads([pusher.first for pusher in pushers])

    began = time.monotonic()
    storm.blow(CHANCES)
    _in_threads(_share(pushers))
    passed = storm.calm()
    seconds = time.monotonic() - began
    for line in lines:
        line.close()
    time.sleep(READ_TIMEOUT_SECONDS * 2)  # what was held back has reached the store then
    peaks = [peak for server in servers for peak in peaks_of(server).values()]
    outcomes = sum((pusher.outcomes for pusher in pushers), Counter())
    told = sum((line.told for line in lines), Counter())
    sys.stderr.write(
        f"{passed}\n{seconds:.0f} s, {dict(outcomes)}, {dict(told)}\npeaks {[p >> 20 for p in peaks]} MiB\n"
    )

    fresh = _start(tmp_path, place, {**weed.environment(), **BY_SERVER}, number=2, workers=2)
    try:
        _check(pushers, servers[0].address, settle=True)
        _check(pushers, fresh.address)
    finally:
        fresh.stop()
    assert _verify(weed, place) == []
    assert max(peaks) < MEMORY_BYTES_MAX
    assert outcomes.total() == PUSHES
    assert outcomes["acknowledged"] > ACKNOWLEDGED_MIN
    assert outcomes["given up"] > 0, "no fault was ever too much"
    assert _spared(passed) == []
    assert [what for what in told if what.startswith("lost")] == []
    for server in servers:
        assert b"Traceback" not in server.log.read_bytes()


class Heap:
    """Numbers that several threads take, each of them once, until somebody closes it."""

    def __init__(self, count: int) -> None:
        self._numbers = iter(range(count))
        self._taking = threading.Lock()

    def take(self) -> int | None:
        """The next one, None when there are no more."""
        with self._taking:
            return next(self._numbers, None)

    def close(self) -> None:
        """Nobody gets any more."""
        with self._taking:
            self._numbers = iter(range(0))


def _start(directory: Path, place: str, environment: dict[str, str], *, number: int, workers: int) -> Server:
    return start(
        directory / "unused",
        log=directory / f"log{number}",
        workers=workers,
        arguments=["--data", place],
        environment=environment,
    )


def _make(addresses: Sequence[str]) -> tuple[list[Pusher], list[Line]]:
    chances = [random.Random(f"{SEED} {number}") for number in range(CLIENTS)]
    lines = [Line(addresses, chance) for chance in chances]
    made = zip(lines, chances, strict=True)
    return [Pusher(line, number, chance, large=LARGE) for number, (line, chance) in enumerate(made)], lines


def _share(pushers: list[Pusher]) -> list[Callable[[], None]]:
    """The work of each: all of them take their pushes from one heap."""
    numbers = Heap(PUSHES)

    def work(pusher: Pusher) -> None:
        try:
            while (number := numbers.take()) is not None:
                pusher.push(with_large=number % LARGE_EVERY == 0)
        except BaseException:
            numbers.close()
            raise

    return [lambda pusher=pusher: work(pusher) for pusher in pushers]  # type: ignore[misc]


def _check(pushers: list[Pusher], address: str, *, settle: bool = False) -> None:
    """Compare everything with the ledgers, and first look what has become of what nobody knows."""

    def check(pusher: Pusher) -> None:
        caller = Caller(address, Outages())
        for repository in pusher.repositories:
            if settle:
                ledger.settle(caller, repository)
            ledger.check(caller, repository)
        caller.close()

    _in_threads([lambda pusher=pusher: check(pusher) for pusher in pushers])  # type: ignore[misc]


def _in_threads(work: Sequence[Callable[[], None]]) -> None:
    """Do it all at once. Raises what the first that failed has raised."""
    failures: list[BaseException] = []

    def run(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:  # handed on below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _verify(weed: Store, place: str) -> list[str]:
    command = [sys.executable, "-m", "registry", "verify", "--data", place]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    environment = {**inherited, **weed.environment()}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return [] if done.returncode == 0 else [done.stdout[-4000:], done.stderr[-4000:]]


def _spared(passed: Passed) -> list[str]:
    """Kinds of calls, and of faults, that have never met."""
    missing = sorted(kind for kind in KINDS if not passed.faults.get(kind))
    met = {fault for faults in passed.faults.values() for fault in faults}
    return missing + sorted(fault.name for fault in COMMON if fault not in met)
