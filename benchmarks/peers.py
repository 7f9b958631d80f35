"""The registries that are measured: each serves a directory, or a prefix of a bucket, on a loopback port."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.wire import Unexpected, connected
from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from tests.distribution import V3, collect_garbage, serving_distribution
from tests.running import ROOT, Server, eventually, free_port, start
from tests.s3.weed import BUCKET, Store, find_weed, how_to_get_weed, serving_weed
from tests.tools import find_tool, how_to_get

SUBJECT = "pierhead"
ONE_WORKER = "pierhead-1-worker"
BASELINE = "distribution"
"""What a ratio is a ratio to, unless a scenario says otherwise."""

PRIVATE = "pierhead-private"
"""Pierhead where everybody has to log in."""

COLLECTED_SECONDS_MAX = 1800

USER, PASSWORD = "bench", "a password for the benchmarks"


@dataclass(frozen=True, slots=True)
class Place:
    """An empty directory for one registry; with a store its data goes into a bucket, below the directory's name."""

    directory: Path
    store: Store | None = None


Serving = Callable[[Place], AbstractContextManager[Server]]


@dataclass(frozen=True, slots=True)
class Collector:
    """The way to remove from a server's directory what nobody needs any more.

    `prepare(server)` lets the registry find a tree that was put there. `run(server, deleted)` collects, all of it at
    once; `deleted` says that manifests that nobody needs were deleted already. Unless `is_online`, nobody may use the
    registry meanwhile.
    """

    prepare: Callable[[Server], None]
    run: Callable[[Server, bool], None]
    is_online: bool


@dataclass(frozen=True, slots=True)
class Peer:
    """A registry and the way to start it in an empty place."""

    name: str
    serving: Serving
    collector: Collector | None = None


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

    return Peer(name, serving, Collector(_adopt, _collect, is_online=True))


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
    collector = Collector(lambda _server: None, partial(_collect_as_distribution, distribution), is_online=False)
    peers.append(Peer(BASELINE, lambda place: _serving_distribution(distribution, place), collector))
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


def _collect_as_distribution(program: str, server: Server, deleted: bool) -> None:
    log = server.log.with_name("collector-log")
    try:
        collect_garbage(
            program, server.data, log=log, delete_untagged=not deleted, quiet=True, seconds_max=COLLECTED_SECONDS_MAX
        )
    except subprocess.CalledProcessError as failure:
        raise Unexpected(f"garbage-collect failed: {failure.output}") from None


def _adopt(server: Server) -> None:
    _command(server, "adopt")


def _collect(server: Server, _deleted: bool) -> None:
    _command(server, "gc", "run", "--no-brake")


def _command(server: Server, *arguments: str) -> None:
    command = [sys.executable, "-m", "registry", *arguments, "--data", str(server.data)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    settings = {"PIERHEAD_GC_GRACE_SECONDS": "0", "PIERHEAD_GC_TRASH_SECONDS": "0"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=COLLECTED_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise Unexpected(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")


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
