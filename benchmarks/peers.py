"""The registries that are measured: each serves a directory of its own on a loopback port."""

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
from tests.tools import find_tool, how_to_get

Serving = Callable[[Path], AbstractContextManager[Server]]

SUBJECT = "pierhead"
BASELINE = "distribution"
"""What a ratio is a ratio to, unless a scenario says otherwise."""

PRIVATE = "pierhead-private"
"""Pierhead where everybody has to log in."""

USER, PASSWORD = "bench", "a password for the benchmarks"


@dataclass(frozen=True, slots=True)
class Peer:
    """A registry and the way to start it on an empty directory."""

    name: str
    serving: Serving


def pierhead(name: str, workers: int, *, private: bool = False) -> Peer:
    """Return Pierhead with that many workers."""

    @contextlib.contextmanager
    def serving(directory: Path) -> Iterator[Server]:
        arguments: list[str] = []
        if private:
            add_user(directory / "users", USER, hash_password(USER, PASSWORD))
            arguments = ["--htpasswd", str(directory / "users")]
        # Not `with serving`: when a measurement fails, its log is to be seen.
        server = start(directory / "data", log=directory / "log", workers=workers, arguments=arguments)
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
        peers.append(pierhead(f"{SUBJECT}-1-worker", 1))
    peers.append(
        Peer(BASELINE, lambda at: serving_distribution(distribution, at / "data", log=at / "log")),
    )
    zot = find_tool("zot")
    if zot is None:
        return peers, ["zot is left out: there is no program of that name on the PATH"]
    return [*peers, Peer("zot", lambda at: _serving_zot(zot, at))], []


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
