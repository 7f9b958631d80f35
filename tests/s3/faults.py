"""A proxy between driver and store that counts calls, and lets some of them fail in chosen ways."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from queue import Queue
from urllib.parse import parse_qs, urlsplit


class Fault(Enum):
    """What can become of a call."""

    DROP = "the connection is closed before the store hears of it"
    RESET = "the connection is reset before the store hears of it"
    LOSE = "the store does it, and the answer is lost"
    HANG = "nothing happens for longer than the driver waits"
    ERROR = "500 InternalError, not done"
    DONE_ERROR = "500 InternalError, done"
    SLOW_DOWN = "503 SlowDown, not done"
    CUT = "done, and the answer breaks off in its middle"
    CUT_HEAD = "done, and the answer breaks off in its head"
    DELAY = "the store hears of it after a moment"
    LATE = "the store hears of it once the driver has stopped waiting"
    SHORT = "the store hears of it, but the connection breaks in the middle of the body"
    EXPIRED = "400 ExpiredToken, not done"


DELAY_SECONDS = 0.2
_REFUSALS = {
    Fault.ERROR: ("500 Error", "InternalError"),
    Fault.DONE_ERROR: ("500 Error", "InternalError"),
    Fault.SLOW_DOWN: ("503 Slow Down", "SlowDown"),
    Fault.EXPIRED: ("400 Bad Request", "ExpiredToken"),
}


Plan = Callable[[str, int], Fault | None]
"""From the kind of a call and how many of that kind came before it, to what becomes of it."""


def always(kind: str, fault: Fault) -> Plan:
    """Let every call of a kind fail."""
    return lambda found, _number: fault if found == kind else None


def first(kind: str, fault: Fault, *, count: int = 1) -> Plan:
    """Let the first calls of a kind fail."""
    return lambda found, number: fault if found == kind and number < count else None


@dataclass
class Proxy:
    """A running proxy: `endpoint` instead of the store's, `counts` of what came by, `plan` of what fails.

    `late_seconds` is longer than the driver waits for an answer.
    """

    endpoint: str
    counts: Counter[str] = field(default_factory=Counter)
    plan: Plan | None = None
    faults: Counter[tuple[str, Fault]] = field(default_factory=Counter)
    late_seconds: float = 2.0

    def taken(self) -> dict[str, int]:
        """Return the counts since the last time."""
        counts, self.counts = dict(self.counts), Counter()
        return counts


@contextlib.asynccontextmanager
async def proxying(target: str) -> AsyncIterator[Proxy]:
    """Run a proxy in front of a store, for the length of a block."""
    store = _Store(target)
    proxy = Proxy("")
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await _serve_one(proxy, store, reader, writer):
                    pass
        except asyncio.CancelledError:
            pass
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    proxy.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        store.close()


@contextlib.contextmanager
def proxying_in_a_thread(target: str) -> Iterator[Proxy]:
    """Run a proxy for those who do not run in an event loop, for the length of a block."""
    started: Queue[tuple[Proxy, asyncio.AbstractEventLoop, asyncio.Event]] = Queue()

    async def run() -> None:
        ended = asyncio.Event()
        async with proxying(target) as proxy:
            started.put((proxy, asyncio.get_running_loop(), ended))
            await ended.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    proxy, loop, ended = started.get(timeout=10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)


@dataclass(frozen=True)
class _Message:
    head: bytes
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip().lower(): value.strip() for name, _colon, value in pairs}


async def _serve_one(proxy: Proxy, store: "_Store", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Pass one call on, or let it fail; tells whether the connection goes on."""
    request = await _read_request(reader, writer)
    kind = kind_of(request.head, request.headers)
    fault = proxy.plan(kind, proxy.counts[kind]) if proxy.plan else None
    proxy.counts[kind] += 1
    if fault is not None:
        proxy.faults[kind, fault] += 1
    match fault:
        case Fault.DROP:
            return False
        case Fault.RESET:
            return _reset(writer)
        case Fault.HANG:
            await asyncio.sleep(3600)
        case Fault.ERROR | Fault.SLOW_DOWN | Fault.EXPIRED:
            return await _refuse(writer, request, fault)
        case Fault.SHORT:
            await store.break_off(request)
            return False
        case Fault.DELAY:
            await asyncio.sleep(DELAY_SECONDS)
        case Fault.LATE:
            await asyncio.sleep(proxy.late_seconds)
    return await _answer(writer, request, await store.ask(request), fault)


async def _answer(writer: asyncio.StreamWriter, request: "_Message", answer: "_Message", fault: Fault | None) -> bool:
    match fault:
        case Fault.LATE:
            return False
        case Fault.LOSE:
            return _reset(writer)
        case Fault.DONE_ERROR:
            return await _refuse(writer, request, fault)
        case Fault.CUT:
            writer.write(answer.head + answer.body[: len(answer.body) // 2])
        case Fault.CUT_HEAD:
            writer.write(answer.head[: len(answer.head) // 2])
        case _:
            writer.write(answer.head)
            writer.write(answer.body)
    await writer.drain()
    if fault in {Fault.CUT, Fault.CUT_HEAD}:
        return False
    return answer.headers.get("connection", "").lower() != "close"


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Message:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = _Message(head, b"").headers
    if headers.get("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return _Message(head, await reader.readexactly(int(headers.get("content-length", "0"))))


class _Store:
    """Connections to the store, which are used again and again."""

    def __init__(self, endpoint: str) -> None:
        self._host, _colon, self._port = endpoint.rpartition("/")[2].partition(":")
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: _Message) -> _Message:
        """Pass a request on and read the answer whole."""
        reader, writer = await self._connect()
        try:
            writer.write(_without_expect(request.head))
            writer.write(request.body)
            answer = await _read_answer(request, reader)
        except BaseException:
            writer.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return answer

    async def break_off(self, request: _Message) -> None:
        """Pass on half of the body, and close the connection; of a request without one, half of the head."""
        _reader, writer = await asyncio.open_connection(self._host, int(self._port))
        if request.body:
            writer.write(_without_expect(request.head))
            writer.write(request.body[: len(request.body) // 2])
        else:
            writer.write(request.head[: len(request.head) // 2])
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()

    def close(self) -> None:
        """Close all connections."""
        for _reader, writer in self._idle:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, int(self._port), limit=1 << 20)


def _without_expect(head: bytes) -> bytes:
    return b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))


async def _read_answer(request: _Message, reader: asyncio.StreamReader) -> _Message:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = _Message(head, b"").headers
    if request.head.startswith(b"HEAD") or head.split(b" ", 2)[1] in {b"204", b"304"}:
        return _Message(head, b"")
    if headers.get("transfer-encoding") == "chunked":
        return await _read_chunked(head, reader)
    return _Message(head, await reader.readexactly(int(headers.get("content-length", "0"))))


async def _read_chunked(head: bytes, reader: asyncio.StreamReader) -> _Message:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    lines = [line for line in head.rstrip().split(b"\r\n") if not line.lower().startswith(b"transfer-encoding:")]
    return _Message(b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]), body)


def _reset(writer: asyncio.StreamWriter) -> bool:
    """Close with a RST: what SO_LINGER with a time of 0 does."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _refuse(writer: asyncio.StreamWriter, request: _Message, fault: Fault) -> bool:
    status, code = _REFUSALS[fault]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>test</Message></Error>".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + (b"" if request.head.startswith(b"HEAD") else body))
    await writer.drain()
    return True


def kind_of(head: bytes, headers: dict[str, str]) -> str:
    """Return the name of a call, as the store's manual has it."""
    method, target, _version = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    is_bucket = url.path.strip("/").count("/") == 0
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    if "uploadId" in query and method == "GET":
        return "ListParts"
    if "uploadId" in query:
        copied = "x-amz-copy-source" in headers
        part = "UploadPartCopy" if copied else "UploadPart"
        return {"PUT": part, "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if method == "PUT":
        return "CopyObject" if "x-amz-copy-source" in headers else "PutObject"
    if is_bucket:
        return {"HEAD": "HeadBucket", "GET": "ListObjectsV2"}.get(method, method)
    return {"GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, method)
