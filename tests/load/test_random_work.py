"""Everything that clients do, at random and at once, while the server is restarted, killed, and loses workers.

`PIERHEAD_TEST_SECONDS` is how long: 30 unless it is set, at most 600.
"""

import itertools
import os
import random
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.load.calls import Caller, Outages
from tests.load.work import Worker, pull_shared
from tests.races.stores import verify
from tests.races.workers import processes_of
from tests.running import Server, eventually, free_port, start

CLIENTS = 12
WORKERS = 2
SECONDS = 30.0
SECONDS_MAX = 600.0
OUTAGES_AT_LEAST = 6
STEPS_PER_SECOND_MIN = 5

LIMITS = {"UPLOAD_IDLE_SECONDS": 20, "UPLOAD_ENDED_SECONDS": 20, "SWEEP_SECONDS": 3}
"""What was abandoned by clients, or by a server that was killed, is swept away in the middle of it all."""

SWEPT_SECONDS_MAX = 60

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
WANTED_SECONDS = min(SECONDS_MAX, float(os.environ.get("PIERHEAD_TEST_SECONDS") or SECONDS))


class Restarted:
    """A server on one port and one directory that is made to end again and again, each time in another way."""

    def __init__(self, data: Path, log: Path, outages: Outages) -> None:
        self._data = data
        self._log = log
        self._outages = outages
        self._listen = f"127.0.0.1:{free_port()}"
        self.server = self._start()

    def next(self, way: str) -> None:
        """Let it end, and be there again."""
        with self._outages.one():
            match way:
                case "terminated":
                    assert self.server.stop() == 0
                    self.server = self._start()
                case "killed":
                    self.server.kill()
                    self.server = self._start()
                case "a worker killed":
                    self._kill_a_worker()

    def _start(self) -> Server:
        environment = {f"PIERHEAD_LIMITS_{name}": str(value) for name, value in LIMITS.items()}
        return start(self._data, log=self._log, workers=WORKERS, listen=self._listen, environment=environment)

    def _kill_a_worker(self) -> None:
        workers = set(processes_of(self.server)) - {self.server.process.pid}
        victim = max(workers)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(set(processes_of(self.server)) - {self.server.process.pid, victim}) == WORKERS)


@contextmanager
def restarted(data: Path, log: Path, outages: Outages) -> Iterator[Restarted]:
    """Stop the server at the end, whatever happens."""
    running = Restarted(data, log, outages)
    try:
        yield running
    finally:
        running.server.stop()


@pytest.mark.timeout(2 * WANTED_SECONDS + 240)
def test_whatever_was_acknowledged_is_so_after_random_work_and_restarts(tmp_path: Path) -> None:
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_SECONDS={WANTED_SECONDS:g}\n")
    outages, over = Outages(), threading.Event()
    failures: list[str] = []
    with restarted(tmp_path / "data", tmp_path / "log", outages) as running:
        callers = [Caller(running.server.address, outages) for _ in range(CLIENTS)]
        workers = [Worker(caller, number, SEED) for number, caller in enumerate(callers)]

        def work(worker: Worker) -> None:
            while not over.is_set():
                worker.step()

        with _threads([partial(work, worker) for worker in workers], failures, over):
            _disturb(running, over)
        assert failures == []
        with _threads([worker.check for worker in workers], failures, over):
            pass
        assert failures == []
        for number in range(4):
            pull_shared(callers[0], f"shared{number}")
        for caller in callers:
            caller.close()
        sessions = tmp_path / "data/pierhead/uploads"
        eventually(lambda: not any(sessions.iterdir()), seconds=SWEPT_SECONDS_MAX)
        assert running.server.stop() == 0

    steps = [worker.steps for worker in workers]
    sys.stderr.write(f"{sum(steps)} steps, {len(outages.spans)} outages\n")
    assert len(outages.spans) >= OUTAGES_AT_LEAST
    assert sum(steps) >= STEPS_PER_SECOND_MIN * WANTED_SECONDS, steps
    assert sum(caller.retries for caller in callers) > 0, "no restart ever met a request"
    assert verify(tmp_path / "data") == []
    shutil.rmtree(tmp_path / "data")  # after a failure it stays to be looked at


def _disturb(running: Restarted, over: threading.Event) -> None:
    """Let the server end at times that are a matter of chance, for as long as the work goes on."""
    chance = random.Random(SEED)
    deadline = time.monotonic() + WANTED_SECONDS
    pause = WANTED_SECONDS / (OUTAGES_AT_LEAST + 2)
    for way in itertools.cycle(["terminated", "killed", "a worker killed"]):
        if over.wait(min(chance.uniform(0.5, 1) * pause, max(0.0, deadline - time.monotonic()))):
            return  # a client has failed
        if time.monotonic() >= deadline:
            return
        running.next(way)


@contextmanager
def _threads(work: list[Callable[[], None]], failures: list[str], over: threading.Event) -> Iterator[None]:
    """Run each in a thread beside the `with` block; `failures` takes what they raise, and sets `over`."""

    def run(each: Callable[[], None]) -> None:
        try:
            each()
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")
            over.set()

    threads = [threading.Thread(target=run, args=(each,)) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
