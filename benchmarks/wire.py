"""A client that costs little: HTTP/1.1 over one socket, bodies from and into buffers that are made once."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 20
HEAD_BYTES_MAX = 1 << 16

FOUND = (200, 307)
"""How HEAD answers for a blob that is there. The redirect, to a bucket, is not followed."""


class Unexpected(Exception):
    """The server answered with another status than the measurement is about, or not in HTTP."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and headers, by lower-case name, of an answer whose body is still to be read."""

    status: int
    headers: Mapping[str, str]

    @property
    def location(self) -> str:
        """Path and query of the Location, which may be absolute."""
        location = self.headers["location"]
        return location if location.startswith("/") else "/" + location.split("/", 3)[3]


class Connection:
    """One connection that is kept alive. Every answer must have a Content-Length or no body."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        self.headers: Mapping[str, str] = {}
        """What goes out with every request."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        expected: int | tuple[int, ...],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Answer, bytes]:
        """Send a request and return its answer with the whole body. Raises Unexpected."""
        lines = {"Content-Length": str(len(body)), **(headers or {})}
        self._socket.sendall(self._head(method, target, lines) + body)
        answer = self._answer(method, target, expected)
        return answer, b"" if method == "HEAD" else self._read(int(answer.headers.get("content-length", 0)))

    def send_chunked(self, method: str, target: str, frames: Iterable[bytes | bytearray], *, expected: int) -> Answer:
        """Send a body that need never be held whole, with Transfer-Encoding: chunked; `frames` are its chunks."""
        self._socket.sendall(self._head(method, target, {"Transfer-Encoding": "chunked"}))
        for frame in frames:
            self._socket.sendall(frame)
        self._socket.sendall(b"0\r\n\r\n")
        answer = self._answer(method, target, expected)
        self._read(int(answer.headers.get("content-length", 0)))
        return answer

    def receive(self, target: str) -> int:
        """Get something large, drop its bytes, and return how many there were."""
        self._socket.sendall(self._head("GET", target, {}))
        answer = self._answer("GET", target, 200)
        length = int(answer.headers["content-length"])
        missing = length - len(self._rest)
        self._rest = b""
        buffer = bytearray(CHUNK_BYTES)
        while missing:
            count = self._socket.recv_into(buffer, min(missing, CHUNK_BYTES))
            if not count:
                raise Unexpected(f"GET {target} ended {missing} bytes too early")
            missing -= count
        return length

    def _head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        sent = {**self.headers, **headers}
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address}", *(f"{k}: {v}" for k, v in sent.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def _answer(self, method: str, target: str, expected: int | tuple[int, ...]) -> Answer:
        while b"\r\n\r\n" not in self._rest:
            piece = self._socket.recv(HEAD_BYTES_MAX)
            if not piece or len(self._rest) > HEAD_BYTES_MAX:
                raise Unexpected(f"{method} {target}: no answer")
            self._rest += piece
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if status not in (expected if isinstance(expected, tuple) else (expected,)):
            raise Unexpected(f"{method} {target}: {first}, expected {expected}\n{self._rest.decode(errors='replace')}")
        if "transfer-encoding" in headers:
            raise Unexpected(f"{method} {target}: a chunked answer, which this client does not read")
        return Answer(status, headers)

    def _read(self, length: int) -> bytes:
        pieces = [self._rest]
        missing = length - len(self._rest)
        while missing > 0:
            piece = self._socket.recv(min(missing, CHUNK_BYTES))
            if not piece:
                raise Unexpected(f"an answer ended {missing} bytes too early")
            pieces.append(piece)
            missing -= len(piece)
        self._rest = b""
        return b"".join(pieces)


class Content:
    """Bytes that nobody has stored before and that do not compress: random, varied by a counter in each chunk."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._frame = bytearray(framed(os.urandom(CHUNK_BYTES)))
        self._start = self._frame.index(b"\n") + 1
        running = hashlib.sha256()
        for frame in self.framed():
            running.update(memoryview(frame)[self._start : self._start + CHUNK_BYTES])
        self.digest = f"sha256:{running.hexdigest()}"

    @property
    def size_bytes(self) -> int:
        """The length of the whole."""
        return self._chunks * CHUNK_BYTES

    def framed(self) -> Iterator[bytearray]:
        """Yield the chunks, framed: one buffer, changed for each of them."""
        for number in range(self._chunks):
            self._frame[self._start : self._start + 8] = number.to_bytes(8, "big")
            yield self._frame


@contextlib.contextmanager
def connected(address: str) -> Iterator[Connection]:
    """Connect for the length of a `with` block."""
    with Connection(address) as connection:
        yield connection


def framed(chunk: bytes) -> bytes:
    """Return a chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(chunk), chunk)


def push_blob(connection: Connection, repository: str, body: bytes) -> str:
    """Push a small blob by POST and PUT, and return its digest."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    answer, _ = connection.request("POST", f"/v2/{repository}/blobs/uploads/", expected=202)
    connection.request(
        "PUT",
        with_digest(answer.location, digest),
        expected=201,
        body=body,
        headers={"Content-Type": "application/octet-stream"},
    )
    return digest


def push_blob_as_docker(connection: Connection, repository: str, body: bytes) -> str:
    """Push a small blob that is not there by HEAD, POST, a chunked PATCH, PUT and HEAD, and return its digest."""
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    connection.request("HEAD", f"/v2/{repository}/blobs/{digest}", expected=404)
    begun, _ = connection.request("POST", f"/v2/{repository}/blobs/uploads/", expected=202)
    sent = connection.send_chunked("PATCH", begun.location, [framed(body)], expected=202)
    connection.request("PUT", with_digest(sent.location, digest), expected=201)
    connection.request("HEAD", f"/v2/{repository}/blobs/{digest}", expected=FOUND)
    return digest


def with_digest(location: str, digest: str) -> str:
    """Add the digest to the location of a session, which may have a query already."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"
