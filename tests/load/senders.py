"""A client that sends many large uploads at once and does little else: the machine is left to the server.

Run as `python -m tests.load.senders <host:port> <uploads> <bytes of each> <seconds>`: each upload has bytes of its
own, since a few of them at its end are, and the rest is one buffer that all share. They are sent as fast as they are
taken, or dribbled for at least so many seconds. The last line it prints is a Report in JSON.
"""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.running import ROOT

SLICE_BYTES = 256 << 10
CHUNK_BYTES = 32 << 10
"""What docker puts into one chunk of a body whose length it does not know."""

AT_ONCE_BYTES = 2 << 20
"""So much of each upload is sent before any other sends more."""

DRIBBLE_BYTES = 64 << 10
TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. Each list has an entry for each upload; times are seconds on the monotonic clock.

    `began`: the body has begun to flow; `ended`: the last answer is there. `refused` says which uploads were told to
    come back later, `failures` what else went wrong.
    """

    digests: list[str]
    began: list[float]
    ended: list[float]
    refused: list[str]
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Content:
    """The same bytes, plain and framed as chunks (RFC 9112 section 7.1), without the tail and the last chunk."""

    plain: memoryview
    chunked: memoryview


class Refused(Exception):
    """The server has no room at the moment: 429 or 503, and when to come back."""


def send_many(address: str, uploads: int, size: int, *, seconds: float = 0.0) -> "subprocess.Popen[str]":
    """Start the client in a process of its own; see `report_of`."""
    command = [sys.executable, "-m", "tests.load.senders", address, str(uploads), str(size), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def report_of(client: "subprocess.Popen[str]", *, seconds: float) -> Report:
    """Wait for the client to end, and return its report."""
    try:
        output, _ = client.communicate(timeout=seconds)
    finally:
        client.kill()
        client.wait()
    return Report(**json.loads(output.splitlines()[-1]))


class Connection:
    """One connection, one request at a time; bodies are written straight from the buffer they lie in."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket()
        self._socket.setblocking(False)

    async def open(self) -> None:
        """Connect."""
        await self._loop.sock_connect(self._socket, self._address)

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send bytes."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), SLICE_BYTES):
                await self._loop.sock_sendall(self._socket, view[start : start + SLICE_BYTES])

    async def head(self, method: str, target: str, *headers: str) -> None:
        """Send the head of a request."""
        lines = [f"{method} {target} HTTP/1.1", "host: load", *headers, "", ""]
        await self.send("\r\n".join(lines).encode())

    async def answer(self) -> tuple[int, dict[str, str]]:
        """Read an answer whose body nobody wants."""
        received = b""
        while b"\r\n\r\n" not in received:
            more = await self._loop.sock_recv(self._socket, 65536)
            if not more:
                raise ConnectionError("closed before the answer")
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await self._loop.sock_recv(self._socket, 65536)
        status = int(first.split()[1])
        if status in {429, 503} and int(headers["retry-after"]) > 0:
            raise Refused(f"{status}: {body.decode(errors='replace')}")
        if status >= 400:
            raise AssertionError(f"{status}: {body.decode(errors='replace')}")
        return status, headers

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class Upload:
    """One upload of `content` and a tail of its own, into a repository that few others push to."""

    def __init__(
        self, number: int, content: Content, prefix: "hashlib._Hash", all_begun: asyncio.Barrier, seconds: float
    ) -> None:
        self._seconds = seconds
        self._number = number
        self._content = content
        self._tail = hashlib.sha512(f"upload {number}".encode()).digest()
        self._all_begun = all_begun
        hashed = prefix.copy()
        hashed.update(self._tail)
        self.digest = f"sha256:{hashed.hexdigest()}"
        self.began = self.ended = 0.0

    async def run(self, address: str) -> None:
        """Send it. Raises Refused; AssertionError or OSError if it does not succeed otherwise."""
        connection = Connection(address)
        try:
            await connection.open()
            uploads = f"/v2/load/app{self._number % 7}/blobs/uploads/"
            await (self._as_docker, self._as_containerd, self._in_one)[self._number % 3](connection, uploads)
            self.ended = time.monotonic()
        finally:
            connection.close()
            if not self.began:
                self.began = time.monotonic()
                await self._all_begun.wait()  # the others wait for everybody

    async def _as_docker(self, connection: Connection, uploads: str) -> None:
        location = await self._begin(connection, uploads)
        await connection.head("PATCH", location, "transfer-encoding: chunked")
        await self._body(connection, self._content.chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (TAIL_BYTES, self._tail))
        status, headers = await connection.answer()
        assert (status, headers["range"]) == (202, f"0-{len(self._content.plain) + TAIL_BYTES - 1}")
        await connection.head("PUT", f"{location}?digest={self.digest}", "content-length: 0")
        await self._created(connection)

    async def _as_containerd(self, connection: Connection, uploads: str) -> None:
        location = await self._begin(connection, uploads)
        await self._whole(connection, "PUT", f"{location}?digest={self.digest}")

    async def _in_one(self, connection: Connection, uploads: str) -> None:
        await self._whole(connection, "POST", f"{uploads}?digest={self.digest}")

    async def _begin(self, connection: Connection, uploads: str) -> str:
        await connection.head("POST", uploads, "content-length: 0")
        status, headers = await connection.answer()
        assert status == 202, status
        return headers["location"]

    async def _whole(self, connection: Connection, method: str, target: str) -> None:
        length = len(self._content.plain) + TAIL_BYTES
        await connection.head(method, target, f"content-length: {length}")
        await self._body(connection, self._content.plain, self._tail)
        await self._created(connection)

    async def _body(self, connection: Connection, body: memoryview, end: bytes) -> None:
        try:
            await connection.send(body[:AT_ONCE_BYTES])
            self.began = time.monotonic()
            await self._all_begun.wait()
            await self._dribble(connection, body[AT_ONCE_BYTES:])
            await connection.send(end)
        except OSError:
            await connection.answer()  # it may have come before the connection was closed
            raise

    async def _dribble(self, connection: Connection, body: memoryview) -> None:
        if not self._seconds:
            await connection.send(body)
            return
        pause = self._seconds * DRIBBLE_BYTES / max(1, len(body))
        for start in range(0, len(body), DRIBBLE_BYTES):
            await asyncio.sleep(pause)
            await connection.send(body[start : start + DRIBBLE_BYTES])

    async def _created(self, connection: Connection) -> None:
        status, headers = await connection.answer()
        assert (status, headers["docker-content-digest"]) == (201, self.digest)


def make_content(size: int) -> Content:
    """Bytes that nothing can compress, `size` of them with the tail."""
    plain = os.urandom(size - TAIL_BYTES)
    pieces = (plain[start : start + CHUNK_BYTES] for start in range(0, len(plain), CHUNK_BYTES))
    chunked = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return Content(memoryview(plain), memoryview(chunked))


async def run(address: str, count: int, size: int, seconds: float) -> Report:
    """Send `count` uploads at once; every one is in the middle of its body when the first goes on to its end."""
    content = make_content(size)
    prefix = hashlib.sha256(content.plain)
    all_begun = asyncio.Barrier(count)
    uploads = [Upload(number, content, prefix, all_begun, seconds) for number in range(count)]
    results: Sequence[BaseException | None] = await asyncio.gather(
        *(upload.run(address) for upload in uploads), return_exceptions=True
    )
    return Report(
        [upload.digest for upload in uploads],
        [upload.began for upload in uploads],
        [upload.ended for upload in uploads],
        [str(result) for result in results if isinstance(result, Refused)],
        [repr(result) for result in results if result is not None and not isinstance(result, Refused)],
    )


if __name__ == "__main__":
    report = asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
    sys.stdout.write(json.dumps(asdict(report)) + "\n")
