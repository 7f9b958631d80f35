"""One request with its answer: what the application sees of a connection."""

import asyncio
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import unquote

from starlette.requests import ClientDisconnect
from starlette.types import Message, Scope

from registry.asgi import PIECES
from registry.server.framing import Head, body_of
from registry.server.refusals import STATUS_LINES

BATCH_BYTES = 1 << 20
"""A batch of body pieces that is worth a thread hop; above it the socket is no longer read."""

GATHER_SECONDS = 0.002
"""How long a smaller batch waits for more: a fast client fills it in less, a slow one does not notice."""

PIECE_OVERHEAD_BYTES = 64
"""What a piece costs beside its bytes, so that chunks of one byte can't hold a hundred times their size."""

JOINED_BYTES_MAX = 64 << 10
"""Up to here, head and body of an answer go out in one write."""

DROPPED_BYTES_MAX = 1 << 20
"""An unread rest of a body up to this size is read and dropped, so that the connection can go on."""

_BODILESS = frozenset({204, 304})


class Line(Protocol):
    """What an exchange asks of its connection."""

    @property
    def date_line(self) -> bytes:
        """The Date header, as it goes out."""
        ...

    @property
    def closing_soon(self) -> bool:
        """Whether the answer that begins now is the last one on this connection."""
        ...

    @property
    def batch_bytes(self) -> int:
        """How much of a body may wait to be fetched: BATCH_BYTES, or less while many requests share the memory."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes to the client; of no effect once the connection is lost."""
        ...

    async def drain(self) -> None:
        """Return once the client has taken enough of what was written."""
        ...

    def read_on(self) -> None:
        """The exchange has room for body bytes again."""
        ...

    def answered(self, *, keep: bool) -> None:
        """The answer is complete; the connection may carry another request if `keep`."""
        ...


class Exchange:
    """A request in progress.

    Pieces are kept as they came and handed over in batches. `gone` is true once the rest of the body will not
    come or nobody listens any more. After `answered` nothing of the body is kept.
    """

    __slots__ = (
        "_bodiless",
        "_changed",
        "_keep",
        "_left_to_send",
        "_line",
        "_pieces",
        "_read_whole",
        "_start",
        "_stated",
        "_wanted",
        "answered",
        "awaits_continue",
        "body",
        "gone",
        "half_closed",
        "head",
        "held_bytes",
        "received_bytes",
        "started",
        "task",
    )

    def __init__(self, head: Head, line: Line) -> None:
        self.head = head
        self.body = body_of(head)
        self.awaits_continue = head.expects_continue and not self.body.ended
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self.answered = False
        self.gone = False
        self.half_closed = False
        self.held_bytes = 0
        self.received_bytes = 0
        self._line = line
        self._pieces: list[bytes] = []
        self._read_whole = False
        self._wanted = 1
        self._changed: asyncio.Event | None = None
        self._start = b""
        self._stated = False
        self._keep = False
        self._bodiless = False
        self._left_to_send: int | None = None

    def scope(self, *, scheme: str, client: object, server: object) -> Scope:
        """The ASGI scope. `raw_path` is the path as sent, `path` is decoded, for whoever only shows it."""
        head = self.head
        path = head.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "method": head.method,
            "scheme": scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": client,
            "server": server,
            "extensions": {PIECES: self.fetch},
        }

    @property
    def full(self) -> bool:
        """Whether a whole batch waits to be fetched."""
        return self.held_bytes >= self._line.batch_bytes

    def take(self, part: memoryview) -> None:
        """Keep a part of the body: the one copy that is made of it."""
        size = len(part)
        self.received_bytes += size
        if self.answered or self.gone or not size:
            return
        self._pieces.append(bytes(part))
        self.held_bytes += size + PIECE_OVERHEAD_BYTES

    def arrived(self) -> None:
        """Bytes were taken, or the body has ended: wake whoever waits for that."""
        if self._changed is not None and (self.held_bytes >= self._wanted or self.body.ended):
            self._changed.set()

    def half_close(self) -> None:
        """The client has ended its side of the connection: it has left, or it only waits for the answer."""
        self.half_closed = True
        self._wake()

    def leave(self) -> None:
        """The rest of the body will not come, or nobody is there to read the answer."""
        self.gone = True
        self._wake()

    async def fetch(self) -> tuple[list[bytes], bool]:
        """The pieces of the body since the last call, and whether more may follow.

        Waits until there is something, and then shortly for a whole batch. Raises ClientDisconnect when the
        body does not come whole.
        """
        if self.awaits_continue:
            self.awaits_continue = False
            self._line.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._gather(1, seconds=None)
        wanted = self._line.batch_bytes
        if self.held_bytes < wanted and not self.body.ended:
            await self._gather(wanted, seconds=GATHER_SECONDS)
        if self.gone and not self.body.ended:
            raise ClientDisconnect
        pieces, self._pieces = self._pieces, []
        self.held_bytes = 0
        self._line.read_on()
        self._read_whole = self.body.ended
        return pieces, not self.body.ended

    async def receive(self) -> Message:
        """The standard way to the body, at the price of joining the pieces (ASGI, HTTP spec 2.3)."""
        while self._read_whole and not (self.gone or self.answered or self.half_closed):
            await self._wait()
        if self._read_whole or self.answered:
            return {"type": "http.disconnect"}
        try:
            pieces, more = await self.fetch()
        except ClientDisconnect:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"".join(pieces), "more_body": more}

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the answer. What is sent to a client that has left is dropped."""
        if self.gone:
            return
        if message["type"] == "http.response.start" and not self.started:
            self._begin(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self.started and not self.answered:
            await self._continue(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} does not belong here")

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Check the head of the answer; it is held back until the first bytes of the body are there."""
        keep = self.head.keep_alive and not self._line.closing_soon and self._rest_is_short()
        lines = [STATUS_LINES[status], self._line.date_line]
        for name, value in headers:
            lowered = name.lower()
            if lowered == b"content-length":
                self._left_to_send = int(value)
            elif lowered == b"transfer-encoding":
                raise RuntimeError("the server frames the answer, not the application")
            elif lowered == b"connection":
                keep = keep and value.lower() != b"close"
                continue
            lines.append(b"%b: %b\r\n" % (lowered, value))
        block = b"".join(lines)
        # A line break inside a name or a value would begin a header of somebody else's choice.
        if not block.count(b"\n") == block.count(b"\r") == len(lines):
            raise RuntimeError("a line break in a header of the answer")
        self._start = block
        self._keep = keep
        self._bodiless = self.head.method == "HEAD" or status in _BODILESS
        self._stated = status in _BODILESS or self._left_to_send is not None
        self.awaits_continue = False
        self.started = True

    async def _continue(self, body: bytes, *, more: bool) -> None:
        if not self._stated:
            if more:
                raise RuntimeError("an answer that is streamed must state its length")
            self._start += b"content-length: %d\r\n" % len(body)
            self._left_to_send = len(body)
            self._stated = True
        if self._bodiless:
            body = b""
        elif self._left_to_send is not None:
            self._left_to_send -= len(body)
            if self._left_to_send < 0 or (self._left_to_send and not more):
                raise RuntimeError("the body of the answer is not as long as it says")
        self._write(body)
        if more:
            await self._line.drain()
            return
        self.answered = True
        self._pieces = []
        self.held_bytes = 0
        self._wake()
        self._line.answered(keep=self._keep)

    def _write(self, body: bytes) -> None:
        start, self._start = self._start, b""
        if start:
            start += b"\r\n" if self._keep else b"connection: close\r\n\r\n"
            if len(body) <= JOINED_BYTES_MAX:
                self._line.write(start + body)
                return
            self._line.write(start)
        self._line.write(body)

    def _rest_is_short(self) -> bool:
        """Whether what is still to come of the body may be read and dropped to keep the connection.

        A client that was not told to go on (RFC 9110 section 10.1.1) may send its body or not: then nobody can
        know where the next request begins.
        """
        if self.body.ended:
            return True
        return not self.awaits_continue and self.body.left is not None and self.body.left <= DROPPED_BYTES_MAX

    async def _gather(self, size: int, *, seconds: float | None) -> None:
        """Wait until `size` bytes are held or no more will come, at most `seconds`."""
        if self.held_bytes >= size or self.body.ended or self.gone:
            return
        self._wanted = size
        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._wake)
        try:
            await self._wait()
        finally:
            self._wanted = 1
            if timer is not None:
                timer.cancel()

    async def _wait(self) -> None:
        """Wait for the next change that somebody is woken for."""
        if self._changed is None:
            self._changed = asyncio.Event()
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
