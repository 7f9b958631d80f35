"""The registries that are measured: each serves a directory, or a prefix of a bucket, on a loopback port."""

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wire import Unexpected, connected
from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from tests.distribution import V3, serving_distribution
from tests.running import Server, eventually, free_port, start
from tests.s3.weed import BUCKET, Store, find_weed, how_to_get_weed, serving_weed
from tests.tools import find_tool, how_to_get

SUBJECT = "pierhead"
ONE_WORKER = "pierhead-1-worker"
BASELINE = "distribution"
"""What a ratio is a ratio to, unless a scenario says otherwise."""

PRIVATE = "pierhead-private"
"""Pierhead where everybody has to log in."""

USER, PASSWORD = "bench", "a password for the benchmarks"


@dataclass(frozen=True, slots=True)
class Place:
    """An empty directory for one registry; with a store its data goes into a bucket, below the directory's name."""

    directory: Path
    store: Store | None = None


Serving = Callable[[Place], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A registry and the way to start it in an empty place."""

    name: str
    serving: Serving


def pierhead(name: str, workers: int, *, private: bool = False) -> Peer:
    """Return Pierhead with that many workers."""

    @contextlib.contextmanager
    def serving(place: Place) -> Iterator[Server]:
        directory, store = place.directory, place.store
        arguments: list[str] = []
        if private:
            add_user(directory / "users", USER, hash_password(USER, PASSWORD))
            arguments = ["--htpasswd", str(directory / "users")]
        if store is not None:
            arguments += ["--data", f"s3://{BUCKET}/{directory.name}"]
        # Not `with serving`: when a measurement fails, its log is to be seen.
        server = start(
            directory / "data",
            log=directory / "log",
            workers=workers,
            arguments=arguments,
            environment=store.environment() if store else None,
        )
        try:
            yield server
        finally:
            server.stop()

    return Peer(name, serving)


def available() -> tuple[list[Peer], list[str]]:
    """Return the peers of this machine, and a line for each one that is missing.

    Raises Unexpected without the baseline.
    """
    workers = len(os.sched_getaffinity(0))
    distribution = find_tool(V3)
    if distribution is None:
        raise Unexpected(how_to_get(V3))
    peers = [pierhead(SUBJECT, workers), pierhead(PRIVATE, workers, private=True)]
    if workers > 1:
        peers.append(pierhead(ONE_WORKER, 1))
    peers.append(Peer(BASELINE, lambda place: _serving_distribution(distribution, place)))
    zot = find_tool("zot")
    if zot is None:
        return peers, ["zot is left out: there is no program of that name on the PATH"]
    return [*peers, Peer("zot", lambda place: _serving_zot(zot, place.directory))], []


@contextlib.contextmanager
def serving_store(directory: Path) -> Iterator[Store]:
    """Run a store with an empty bucket, for the length of a `with` block. Raises Unexpected if there is no program."""
    program = find_weed()
    if program is None:
        raise Unexpected(how_to_get_weed())
    with serving_weed(program, directory) as store:
        yield store


def _serving_distribution(program: str, place: Place) -> AbstractContextManager[Server]:
    directory, store = place.directory, place.store
    storage = store.for_distribution(directory.name) if store else ""
    return serving_distribution(program, directory / "data", log=directory / "log", storage=storage)


@contextlib.contextmanager
def _serving_zot(program: str, directory: Path) -> Iterator[Server]:
    port = free_port()
    configuration = directory / "zot.json"
    configuration.write_text(
        json.dumps(
            {
                # `commit` is its word for fsync: the same durability for everybody.
                "storage": {"rootDirectory": str(directory / "data"), "commit": True, "gc": False, "dedupe": False},
                "http": {"address": "127.0.0.1", "port": str(port)},
                "log": {"level": "error"},
            }
        )
    )
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", configuration], stdout=output, stderr=output, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}", directory / "data", log)
    try:
        eventually(lambda: _answers(server), seconds=30)
        yield server
    finally:
        server.stop()


def _answers(server: Server) -> bool:
    if server.process.poll() is not None:
        raise Unexpected(server.log.read_text(errors="replace")[-4000:])
    try:
        with connected(server.address) as connection:
            connection.request("GET", "/v2/", expected=200)
    except (OSError, Unexpected):
        return False
    return True
