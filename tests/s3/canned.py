"""A server whose answers are given: what no real store can be made to say."""

import asyncio
import contextlib
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from storage.s3.short_calls import Response

TURNS = 20
"""Of the event loop: after so many, what is ready has happened."""


@dataclass(frozen=True, slots=True)
class Last:
    """An answer after which the server closes the connection."""

    text: bytes


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HANG = None
"""No answer at all."""

Said = bytes | Last | None


@dataclass
class Canned:
    """A running server. Answers are given in turn, whichever connection asks; without one it hangs.

    `requests` are those that have arrived whole, `waiting_max` is how many were there at once without an answer.
    A request is answered once `open` is set.
    """

    answers: deque[Said]
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    waiting: int = 0
    waiting_max: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    async def hang_up(self) -> None:
        """Close the connections that are open."""
        for writer in list(self._writers):
            writer.close()
        await turns()

    async def say(self, text: bytes) -> None:
        """Say something unasked."""
        for writer in list(self._writers):
            writer.write(text)
        await turns()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.connections += 1
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._serve_one(reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        self.requests.append(head + body)
        self.waiting += 1
        self.waiting_max = max(self.waiting_max, self.waiting)
        self.arrived.set()
        await self.open.wait()
        await turns()
        self.waiting -= 1
        answer = self.answers.popleft() if self.answers else HANG
        if answer is HANG:
            await reader.read()
            return False
        writer.write(answer.text if isinstance(answer, Last) else answer)
        await writer.drain()
        if isinstance(answer, Last):
            writer.close()
            return False
        return True


@contextlib.asynccontextmanager
async def canned(*answers: Said, tls: ssl.SSLContext | None = None, held: bool = False) -> AsyncIterator[Canned]:
    """Serve for the length of a block; `held` until `open` is set."""
    served = Canned(deque(answers))
    if not held:
        served.open.set()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        await served.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns()


async def turns() -> None:
    """Let the event loop turn until what is ready has happened."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def parse(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the first line, the headers and the body of a request."""
    head, _end, body = request.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    return line, dict(each.split(": ", 1) for each in lines), body


def read(response: Response) -> None:
    """End a call by reading the body."""
    body = response.get("Body")
    response["Body"] = body.read() if body is not None else b""
