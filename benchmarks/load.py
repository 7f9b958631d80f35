"""Requests for small things by the thousand: wrk for reading, a few threads for writing."""

import contextlib
import random
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.wire import Connection, Unexpected, connected
from tests.running import Server
from tests.tools import find_tool, how_to_get

REQUESTS = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
RATE = re.compile(r"^Requests/sec:\s+([\d.]+)", re.MULTILINE)
TROUBLE = re.compile(r"^\s*(Non-2xx or 3xx responses|Socket errors):.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Readings:
    """What wrk counted."""

    requests: int
    per_second: float


def read_often(server: Server, target: str, *, connections: int, seconds: int, accept: str = "*/*") -> Readings:
    """Get one thing again and again (wrk, one thread). Raises Unexpected if an answer is not a success."""
    program = find_tool("wrk")
    if program is None:
        raise Unexpected(how_to_get("wrk"))
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Accept: {accept}", server.url + target]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    requests, rate, trouble = REQUESTS.search(printed), RATE.search(printed), TROUBLE.search(printed)
    if trouble or not requests or not rate:
        raise Unexpected(f"wrk, {target}: {trouble[0].strip() if trouble else printed}")
    return Readings(int(requests[1]), float(rate[1]))


@contextlib.contextmanager
def reading(
    server: Server, targets: Sequence[str], *, per_second: float, connections: int, accept: str
) -> Iterator[list[float]]:
    """Get things at a steady rate beside a `with` block; the list takes how many seconds each took.

    What is late, because the one before it took too long, counts from when it was due. Raises Unexpected at the end if
    an answer was not a success.
    """
    seconds: list[float] = []
    over = threading.Event()

    def client(number: int) -> None:
        chance = random.Random(number)
        pause = connections / per_second
        with connected(server.address) as connection:
            due = time.perf_counter() + pause * number / connections
            while not over.wait(max(0.0, due - time.perf_counter())):
                connection.request("GET", chance.choice(targets), expected=200, headers={"Accept": accept})
                seconds.append(time.perf_counter() - due)
                due += pause

    with ThreadPoolExecutor(connections) as pool:
        clients = [pool.submit(client, number) for number in range(connections)]
        try:
            yield seconds
        finally:
            over.set()
        for each in clients:
            each.result()


def write_by_many(
    address: str, work: Callable[[Connection, bytes], object], items: Sequence[bytes], *, clients: int
) -> None:
    """Do `work` for each of the items, by so many clients at once, each on a connection of its own."""

    def client(number: int) -> None:
        with connected(address) as connection:
            for item in items[number::clients]:
                work(connection, item)

    with ThreadPoolExecutor(clients) as pool:
        for future in [pool.submit(client, number) for number in range(clients)]:
            future.result()
