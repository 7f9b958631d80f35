"""A server inside the test, what its application saw, and clients that send bytes as they are."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry.config import Limits
from registry.server.protocol import Connection
from registry.server.serving import Serving

LOOK_AFTER_SECONDS = 0.02
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Call:
    """One call of the application."""

    scope: Scope
    receive: Receive
    send: Send

    async def pieces(self) -> tuple[list[bytes], bool]:
        """The pieces of the body since the last call, and whether more may follow."""
        batch: tuple[list[bytes], bool] = await self.scope["extensions"]["pierhead.pieces"]()
        return batch

    async def answer(self, body: bytes = b"", *, status: int = 200) -> None:
        """Send a whole answer."""
        headers = [(b"content-length", b"%d" % len(body))] if status not in {204, 304} else []
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


Handle = Callable[[Call], Awaitable[None]]


class Starter(Protocol):
    """Starts one more server with these limits."""

    async def __call__(self, **limits: float) -> "Edge":
        """Return when it accepts connections."""
        ...


@dataclass
class Application:
    """Keeps the scope of every request, and answers through `handle`."""

    handle: Handle
    scopes: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        await self.handle(Call(scope, receive, send))

    @property
    def paths(self) -> list[bytes]:
        """The paths that were asked for, in order."""
        return [scope["raw_path"] for scope in self.scopes]


@dataclass(frozen=True)
class Answer:
    """One answer off the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        """The code of the only error in the envelope."""
        (error,) = json.loads(self.body)["errors"]
        assert error["message"]
        return str(error["code"])


@dataclass
class Edge:
    """One server in the test's own loop."""

    application: Application
    serving: Serving
    address: tuple[str, int]
    server: asyncio.Server
    clock: asyncio.Task[None]
    clients: "list[Client]" = field(default_factory=list)

    @classmethod
    async def start(cls, limits: Limits) -> Self:
        """Listen on a port that the kernel chose."""
        application = Application(echo)
        serving = Serving(application, limits, date_line=b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n")
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Connection(serving), "127.0.0.1", 0)
        clock = loop.create_task(_look_after(serving))
        return cls(application, serving, server.sockets[0].getsockname(), server, clock)

    async def connect(self, *, read_bytes: int = 1 << 16) -> "Client":
        """Open one connection."""
        client = Client(*await asyncio.open_connection(*self.address, limit=read_bytes))
        self.clients.append(client)
        return client

    async def ask(self, request: bytes) -> Answer:
        """Send bytes on a connection of their own and return the first answer."""
        client = await self.connect()
        client.send(request)
        try:
            return await client.answer()
        finally:
            client.writer.close()

    async def close(self) -> None:
        """End everything that belongs to the server."""
        self.server.close()
        self.clock.cancel()
        for client in self.clients:
            client.writer.transport.abort()
        for connection in tuple(self.serving.connections):
            connection.cut()
        for task in tuple(self.serving.tasks):
            task.cancel()
        await asyncio.gather(*self.serving.tasks, return_exceptions=True)
        await until(lambda: not self.serving.connections)


@dataclass
class Client:
    """A connection that sends what it is told, well-formed or not."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next answer that is not a 100. Raises IncompleteReadError if the connection ends before it."""
        async with asyncio.timeout(ANSWER_SECONDS):
            block = await self.reader.readuntil(b"\r\n\r\n")
            while block.startswith(b"HTTP/1.1 100"):
                block = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = block.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            status = int(first.split(" ")[1])
            length = 0 if head_only or status in {204, 304} else int(headers["content-length"])
            return Answer(status, headers, await self.reader.readexactly(length))

    def reset(self) -> None:
        """Leave with a reset, as a client does that died (SO_LINGER of socket(7))."""
        connected = self.writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def ended(self) -> bool:
        """Wait for the server's end of the stream, and tell whether nothing came before it."""
        async with asyncio.timeout(ANSWER_SECONDS):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read() == b""
            return True


async def echo(call: Call) -> None:
    """Answer with the body that came."""
    pieces = []
    with contextlib.suppress(ClientDisconnect):
        more = True
        while more:
            batch, more = await call.pieces()
            pieces += batch
        await call.answer(b"".join(pieces))


async def ignore(call: Call) -> None:
    """Answer without a look at the body."""
    await call.answer(b"no", status=403)


async def until(check: Callable[[], object], *, seconds: float = 10) -> None:
    """Return once `check` is true, letting the loop run meanwhile. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for knows nothing of the test
            await asyncio.sleep(0.005)


async def _look_after(serving: Serving) -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    while True:
        await asyncio.sleep(LOOK_AFTER_SECONDS)
        now = loop.time()
        serving.look_after(now - before)
        before = now
