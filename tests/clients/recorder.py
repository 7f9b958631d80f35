"""A loopback proxy that passes every byte on as it is, and notes which requests got which status."""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Self
from urllib.parse import unquote

REQUEST = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/\S*) HTTP/1\.1\r\n")
STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) [^\r\n]*\r\n")
READ_BYTES_MAX = 1 << 16
LINE_BYTES_MAX = 1 << 14


@dataclass(slots=True)
class Exchange:
    """One request, its target with percent-encoding undone, and the status of the answer (0 until there is one)."""

    method: str
    target: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.target} {self.status}"


@dataclass(slots=True)
class _Finder:
    """Finds a line in a stream that comes in pieces; a line may be cut between two of them."""

    pattern: re.Pattern[bytes]
    found: Callable[[re.Match[bytes]], None]
    rest: bytes = b""

    def feed(self, piece: bytes) -> None:
        seen = self.rest + piece
        end = 0
        for match in self.pattern.finditer(seen):
            self.found(match)
            end = match.end()
        self.rest = seen[end:][-LINE_BYTES_MAX:]


@dataclass(slots=True)
class Recorder:
    """Listens on a port of its own and leads each connection to `upstream` (host:port)."""

    upstream: str
    exchanges: list[Exchange] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))
    _threads: list[threading.Thread] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`host:port`, as it stands in an image reference."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def matching(self, method: str, *parts: str) -> list[Exchange]:
        """Return the exchanges so far that have this method and all these parts in their target."""
        return [e for e in self.exchanges if e.method == method and all(part in e.target for part in parts)]

    def clear(self) -> None:
        """Forget what was noted so far."""
        self.exchanges.clear()

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close(2) alone does not wake the accept(2) of a thread
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for one in (self._listener, *self._sockets):
            one.close()

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        host, _, port = self.upstream.rpartition(":")
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection((host, int(port)))
            self._sockets += [client, server]
            waiting: list[Exchange] = []
            self._spawn(self._pass, client, server, _Finder(REQUEST, partial(self._request, waiting)))
            self._spawn(self._pass, server, client, _Finder(STATUS, partial(_answer, waiting)))

    def _request(self, waiting: list[Exchange], match: re.Match[bytes]) -> None:
        exchange = Exchange(match[1].decode(), unquote(match[2].decode()))
        waiting.append(exchange)
        self.exchanges.append(exchange)

    def _pass(self, source: socket.socket, target: socket.socket, finder: _Finder) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(READ_BYTES_MAX):
                finder.feed(piece)
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _answer(waiting: list[Exchange], match: re.Match[bytes]) -> None:
    if waiting:
        waiting.pop(0).status = int(match[1])
