"""A client that sends bytes as they are, well-formed or not, and reads strictly what comes back."""

import contextlib
import json
import re
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote

from tests.hostile.processes import owner_of
from tests.running import Server

ANSWER_SECONDS = 20.0
LAST_CHUNK = b"0\r\n\r\n"
WORKER_ATTEMPTS_MAX = 500
STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*")
FIELD_LINE = re.compile(rb"([a-z0-9-]+): ([ -~]*)")


class Ended(Exception):
    """The server closed the connection before an answer, or in the middle of one."""


@dataclass(frozen=True)
class Answer:
    """One answer off the wire; header names are lower case, as the server sends them."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of the first error in the envelope. Every one of its errors must have a message."""
        errors = json.loads(self.body)["errors"]
        assert errors
        assert all(error["message"] for error in errors)
        return str(errors[0]["code"])


@dataclass
class Wire:
    """One connection."""

    socket: socket.socket
    _received: bytearray = field(default_factory=bytearray)

    @classmethod
    def open(cls, server: Server, *, receive_bytes: int | None = None) -> Self:
        """Connect; `receive_bytes` bounds what the kernel takes for a client that does not read."""
        host, _, port = server.address.rpartition(":")
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(ANSWER_SECONDS)
        connection.connect((host, int(port)))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it. That the server has closed meanwhile is its good right: what it said is read later."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def vanish(self) -> None:
        """Reset the connection, as a client that was killed behind a firewall does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.socket.close()

    def hang_up(self) -> None:
        """Say that nothing more will be sent; answers can still be read."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self, *, method: str = "GET") -> Answer:
        """The next answer that is not a 100; asserts that it is well-formed. Raises Ended."""
        while True:
            found = self._answer(method)
            if found.status != 100:
                return found

    def told_to_go_on(self) -> bool:
        """Whether the next thing that comes is a 100 Continue."""
        return self._answer("GET").status == 100

    def speaks(self, *, seconds: float) -> bool:
        """Whether the server sends something, or ends the connection, within `seconds`."""
        return bool(self._received or select.select([self.socket], [], [], seconds)[0])

    def ended(self) -> bool:
        """Wait until the server ends the connection, and tell whether nothing came before that."""
        with contextlib.suppress(Ended):
            while not self._received:
                self._receive()
        return not self._received

    def answers(self) -> list[Answer]:
        """Every answer up to the end of the connection."""
        found = []
        while not self.ended():
            found.append(self.answer())
        return found

    def _answer(self, method: str) -> Answer:
        while b"\r\n\r\n" not in self._received:
            self._receive()
        end = self._received.index(b"\r\n\r\n")
        first, *lines = self._take(end + 4)[:-4].split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(first)
        assert status_line is not None, first
        status = int(status_line[1])
        fields = [FIELD_LINE.fullmatch(line) for line in lines]
        assert all(fields), lines
        headers = {found[1].decode(): found[2].decode() for found in fields if found is not None}
        assert len(headers) == len(lines), f"a header stands twice: {lines}"
        if method == "HEAD" or status in {100, 204, 304}:
            return Answer(status, headers, b"")
        length = int(headers["content-length"])
        while len(self._received) < length:
            self._receive()
        return Answer(status, headers, self._take(length))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _receive(self) -> None:
        try:
            received = self.socket.recv(1 << 20)
        except ConnectionResetError:
            received = b""
        if not received:
            raise Ended
        self._received += received


def request(method: str, target: str, *lines: str, body: bytes = b"", chunked: bool = False) -> bytes:
    """The bytes of a request: `lines` are further headers; a body is framed by its length or as one chunk."""
    if chunked:
        return head(method, target, *lines) + (chunk(body) if body else b"") + LAST_CHUNK
    if body or method in {"POST", "PUT", "PATCH"}:
        return head(method, target, *lines, length=len(body)) + body
    return _head(method, target, lines)


def head(method: str, target: str, *lines: str, length: int | None = None) -> bytes:
    """The head of a request whose body is yet to come: `length` bytes of it, or chunks."""
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return _head(method, target, [*lines, framing])


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _head(method: str, target: str, lines: Sequence[str]) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: pierhead", *lines, "", ""]).encode("latin-1")


def ask(server: Server, sent: bytes, *, method: str = "GET") -> Answer:
    """Send bytes on a connection of their own and return the first answer. Raises Ended."""
    with Wire.open(server) as wire:
        wire.send(sent)
        return wire.answer(method=method)


def call(server: Server, method: str, target: str, *lines: str, body: bytes = b"", chunked: bool = False) -> Answer:
    """One well-formed request on a connection of its own."""
    return ask(server, request(method, target, *lines, body=body, chunked=chunked), method=method)


@contextlib.contextmanager
def wires_to_both_workers(server: Server, connect: Callable[[Server], Wire] = Wire.open) -> Iterator[tuple[Wire, Wire]]:
    """Two connections that different worker processes of the server have accepted."""
    found: dict[int, Wire] = {}
    wires = []
    try:
        for _ in range(WORKER_ATTEMPTS_MAX):
            wire = connect(server)
            wires.append(wire)
            wire.send(request("GET", "/v2/"))
            wire.answer()
            found.setdefault(owner_of(server, wire.socket), wire)
            if len(found) == 2:
                break
        first, second = found.values()
        yield first, second
    finally:
        for wire in wires:
            wire.socket.close()


def encoded(digest: str) -> str:
    """A digest as clients put it into a query."""
    return quote(digest, safe="")
