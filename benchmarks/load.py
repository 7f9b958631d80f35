"""Requests for small things by the thousand: wrk for reading, a few threads for writing."""

import re
import subprocess
from collections.abc import Callable, Sequence
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
