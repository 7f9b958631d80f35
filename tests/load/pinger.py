"""A client that asks `GET /v2/` at a steady rate, each time on a new connection, and notes how long it took.

Run as `python -m tests.load.pinger <host:port>`; it ends when its input does, and then prints the seconds that each
request took, in JSON. A request does not wait for the one before, so that a late answer can't hide others.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence

from tests.running import ROOT

PER_SECOND = 25
REQUEST = b"GET /v2/ HTTP/1.1\r\nhost: load\r\nconnection: close\r\n\r\n"
ANSWER_SECONDS = 30.0


def ping(address: str) -> "subprocess.Popen[str]":
    """Start to ask, in a process of its own; see `seconds_of`."""
    command = [sys.executable, "-m", "tests.load.pinger", address]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def seconds_of(client: "subprocess.Popen[str]") -> list[float]:
    """Tell the client to end, and return how long each request took, in order of time."""
    try:
        output, _ = client.communicate("", timeout=ANSWER_SECONDS + 10)
    finally:
        client.kill()
        client.wait()
    return [float(seconds) for seconds in json.loads(output)]


def percentile(seconds: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def ask(address: str) -> float:
    """Ask once; returns seconds from connecting to the end of the answer. Raises AssertionError unless that is 200."""
    host, _, port = address.rpartition(":")
    start = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(REQUEST)
        answer = await reader.read()
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    return asyncio.get_running_loop().time() - start


async def run(address: str) -> list[float]:
    """Ask again and again until the input ends."""
    loop = asyncio.get_running_loop()
    ended = loop.run_in_executor(None, sys.stdin.read)
    asked: list[asyncio.Task[float]] = []
    due = loop.time()
    while not ended.done():
        asked.append(asyncio.create_task(asyncio.wait_for(ask(address), ANSWER_SECONDS)))
        due += 1 / PER_SECOND
        await asyncio.sleep(max(0.0, due - loop.time()))
    return list(await asyncio.gather(*asked))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(run(sys.argv[1]))))
