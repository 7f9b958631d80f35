"""Our HTTP protocol: one connection, its requests one at a time and in order.

uvicorn's own protocol joins and copies every body and has no limits of time; this one keeps the pieces as they
come and gives each phase of a connection a bound. Bytes of the next request are not parsed before the current
one is answered, so that a refused request can never be followed by one that was hidden in it.
"""

import asyncio
import fcntl
import struct
import termios
from typing import cast

import structlog
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr

from registry.asgi import AnswerBroken
from registry.server import refusals
from registry.server.exchanges import DROPPED_BYTES_MAX, Exchange
from registry.server.framing import END_OF_HEAD, Refused, check_partial_head, parse_head
from registry.server.serving import Serving

WRITE_BUFFER_BYTES_MAX = 1 << 20
"""What may wait for a slow reader, beside what the kernel holds."""

DROP_SECONDS = 5.0
"""How long the unread rest of a body may take, and how long a client may take to see our last answer."""

LINGER_BYTES_MAX = 16 << 20
REFUSED_CONNECTIONS_MAX = 256
"""Connections above the limit that are told so; yet more are cut without a word."""

log = structlog.get_logger(__name__)


class Connection(asyncio.BufferedProtocol):
    """One connection.

    It is idle, or reads a head, or has an exchange, or lingers: then it only waits for the client to read the
    last answer and to go away. `_seconds` counts the time in that phase.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._limits = serving.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._flow: FlowControl = cast("FlowControl", None)
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int | None] | None = None
        self._tls: dict[str, object] | None = None
        self._exchange: Exchange | None = None
        self._held = b""
        self._fresh = True
        self._skipped_line = False
        self._one_too_many = False
        self._half_closed = False
        self._lingering = False
        self._dropped_bytes = 0
        self._seconds = 0.0
        self._window_seconds = 0.0
        self._window_bytes = 0
        self._unsent_bytes = 0
        self._unsent_seconds = 0.0

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        others = len(self._serving.connections)
        self._serving.add(self)
        self._one_too_many = others >= self._limits.connections_max
        if others >= self._limits.connections_max + REFUSED_CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES_MAX)
        self._flow = FlowControl(self._transport)
        self._client = get_remote_addr(self._transport)
        self._server = get_local_addr(self._transport)
        self._tls = self._transport.get_extra_info("tls")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's idea of a size
        """Lend the memory that all connections share: it is read into and emptied without a pause between."""
        return self._serving.view[: self._serving.batch_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._lingering:
            self._drop(nbytes)
        elif self._held:
            held, self._held = self._held, b""
            self._parse(held + self._serving.view[:nbytes], seen=len(held))
        else:
            self._parse(self._serving.memory, nbytes)

    def eof_received(self) -> bool:
        """A client that sent a whole request and shut down its side still gets its answer."""
        exchange = self._exchange
        if self._lingering or exchange is None or exchange.answered or not exchange.body.ended:
            return False
        self._half_closed = True
        exchange.half_close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """See asyncio."""
        self._serving.remove(self)
        if self._exchange is not None:
            self._exchange.leave()
        if self._flow is not None:
            self._flow.resume_writing()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._flow.resume_writing()
        if self._exchange is None and not self._lingering and not self._transport.is_closing():
            self._next()

    # What the exchange asks

    @property
    def date_line(self) -> bytes:
        """The Date header of this second."""
        return self._serving.date_line

    @property
    def batch_bytes(self) -> int:
        """See Line."""
        return self._serving.batch_bytes

    @property
    def closing_soon(self) -> bool:
        """Whether the answer that begins now is the last one on this connection."""
        return self._serving.stopping or self._half_closed

    def write(self, data: bytes) -> None:
        """See Line."""
        if not self._lingering and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """See Line."""
        if self._flow.write_paused:
            await self._flow.drain()

    def read_on(self) -> None:
        """See Line."""
        self._pace()

    def answered(self, *, keep: bool) -> None:
        """See Line."""
        exchange = self._exchange
        assert exchange is not None
        self._seconds = 0.0
        keep = keep and not self._half_closed
        if not exchange.body.ended:
            if keep:
                self._pace()
            else:
                self._linger()
        elif keep:
            self._next()
        else:
            self._transport.close()

    # Reading

    def _parse(self, data: bytes | bytearray, end: int = -1, *, seen: int = 0) -> None:
        """Take heads and bodies off `data[:end]`; what can't be used yet is held for later."""
        end = len(data) if end < 0 else end
        position = 0
        try:
            while position < end and not self._lingering:
                before = position
                position = self._step(data, position, end, seen=seen)
                seen = 0
                if position == before:
                    break
        except Refused as refused:
            self.refuse(refused)
        if position < end and not self._lingering:
            self._held = bytes(memoryview(data)[position:end])
        self._pace()

    def _step(self, data: bytes | bytearray, start: int, end: int, *, seen: int) -> int:
        exchange = self._exchange
        if exchange is None:
            # Who sends requests and reads no answers would fill our memory with them.
            return start if self._flow.write_paused else self._begin(data, start, end, seen=seen)
        if exchange.body.ended:
            return start
        position = exchange.body.feed(data, start, end, exchange.take)
        if exchange.answered:
            self._after_dropping(exchange, position - start)
        else:
            exchange.arrived()
        return position

    def _after_dropping(self, exchange: Exchange, size: int) -> None:
        self._dropped_bytes += size
        if exchange.body.ended:
            self._next(parse=False)
        elif self._dropped_bytes > DROPPED_BYTES_MAX:
            self._linger()

    def _begin(self, data: bytes | bytearray, start: int, end: int, *, seen: int) -> int:
        """Begin an exchange if the head is complete. Raises Refused."""
        if self._one_too_many:
            raise refusals.TOO_MANY_CONNECTIONS
        if data.startswith(b"\r\n", start, end):
            return start + self._skip_line()
        found = data.find(END_OF_HEAD, start, end)
        head_end = end if found < 0 else found + len(END_OF_HEAD)
        if found < 0:
            check_partial_head(data, start, end, checked=seen)
        if head_end - start > self._limits.header_bytes_max:
            raise refusals.HEAD_TOO_LONG
        if found < 0:
            if not seen and not self._fresh:
                self._seconds = 0.0
            return start
        head = parse_head(bytes(memoryview(data)[start:head_end]), fields_max=self._limits.header_count_max)
        exchange = self._exchange = Exchange(head, self)
        self._fresh = self._skipped_line = False
        self._window_seconds = 0.0
        self._window_bytes = self._dropped_bytes = 0
        exchange.task = task = self._loop.create_task(self._run(exchange))
        self._serving.tasks.add(task)
        task.add_done_callback(self._serving.tasks.discard)
        return head_end

    def _skip_line(self) -> int:
        """One empty line before a request is forgiven (RFC 9112 section 2.2)."""
        if self._skipped_line:
            raise Refused(400, "empty lines before the request")
        self._skipped_line = True
        return len(b"\r\n")

    def _pace(self) -> None:
        """Read on, or let the client wait while there is no room for what it sends."""
        exchange = self._exchange
        if exchange is None:
            no_room = self._flow.write_paused
        else:
            no_room = exchange.full or (exchange.body.ended and bool(self._held))
        if no_room and not self._lingering:
            self._flow.pause_reading()
        elif not self._transport.is_closing():
            self._flow.resume_reading()

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > LINGER_BYTES_MAX:
            self._flow.pause_reading()

    # Answering

    async def _run(self, exchange: Exchange) -> None:
        scheme = "http" if self._tls is None else "https"
        scope = exchange.scope(scheme=scheme, client=self._client, server=self._server)
        if self._tls is not None:
            scope["extensions"]["tls"] = self._tls
        try:
            await self._serving.app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            pass
        except AnswerBroken:
            self.refuse(refusals.FAILED)
            return
        except Exception:
            log.exception("the application failed", method=exchange.head.method)
        if exchange.answered or exchange.gone:
            return
        log.error("the application did not answer", method=exchange.head.method)
        self.refuse(refusals.FAILED)

    def _next(self, *, parse: bool = True) -> None:
        """Be ready for another request: it may have come already."""
        self._exchange = None
        self._seconds = 0.0
        if self._serving.stopping and not self._held:
            self._transport.close()
        elif parse and self._held:
            held, self._held = self._held, b""
            self._parse(held)
        else:
            self._pace()

    def refuse(self, refused: Refused) -> None:
        """Answer for the application, or cut an answer that has begun; then close."""
        exchange = self._exchange
        if exchange is not None:
            exchange.leave()
        if exchange is not None and exchange.started and not exchange.answered:
            self._transport.abort()
            return
        if exchange is None or not exchange.answered:
            with_body = exchange is None or exchange.head.method != "HEAD"
            self.write(refusals.render(refused, date_line=self._serving.date_line, with_body=with_body))
        self._linger()

    def _linger(self) -> None:
        """Close so that the client can still read the answer.

        close(2) with unread bytes in the socket's buffer sends a reset, which takes the answer out of the
        client's hands (RFC 9112 section 9.6): so only our side is shut down, and what still comes is dropped.
        """
        self._lingering = True
        self._held = b""
        self._seconds = 0.0
        self._dropped_bytes = 0
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._flow.resume_reading()

    # Limits and the end

    def look_after(self, seconds: float) -> None:
        """Enforce the limits of time, `seconds` after the last call."""
        self._seconds += seconds
        exchange = self._exchange
        if self._reader_is_stuck(seconds):
            self._transport.abort()
        elif self._lingering:
            if self._seconds > DROP_SECONDS and not self._unsent_bytes:
                self._transport.abort()
        elif exchange is None:
            if not self._flow.write_paused:
                self._look_after_idle()
        elif exchange.answered:
            if self._seconds > DROP_SECONDS:
                self._linger()
        elif not (exchange.body.ended or exchange.awaits_continue or self._flow.read_paused):
            self._look_after_body(exchange, seconds)

    def _look_after_idle(self) -> None:
        reads_a_head = self._fresh or bool(self._held)
        if self._seconds <= (self._limits.header_seconds if reads_a_head else self._limits.keep_alive_seconds):
            return
        if self._held:
            self.refuse(refusals.HEAD_TOO_SLOW)
        else:
            self._transport.close()

    def _look_after_body(self, exchange: Exchange, seconds: float) -> None:
        """Refuse a body below the least rate, counted only while we wait for it."""
        self._window_seconds += seconds
        if self._window_seconds < self._limits.body_stall_seconds:
            return
        arrived = exchange.received_bytes - self._window_bytes
        if arrived < self._limits.body_bytes_per_second_min * self._window_seconds:
            self.refuse(refusals.BODY_TOO_SLOW)
        self._window_seconds = 0.0
        self._window_bytes = exchange.received_bytes

    def _reader_is_stuck(self, seconds: float) -> bool:
        """Whether a client took nothing of what waits for it, for too long."""
        waiting = self._transport.get_write_buffer_size()
        if waiting:
            waiting += _unsent(self._transport)
        if waiting and waiting >= self._unsent_bytes > 0:
            self._unsent_seconds += seconds
        else:
            self._unsent_seconds = 0.0
        self._unsent_bytes = waiting
        return self._unsent_seconds > self._limits.body_stall_seconds

    @property
    def busy(self) -> bool:
        """Whether a request is being answered or has begun to come."""
        return bool(self._held) or self._exchange is not None

    def stop(self) -> None:
        """The server stops: close if idle, else after the answer that is being made."""
        if not self.busy and not self._lingering and not self._transport.is_closing():
            self._transport.close()

    def cut(self) -> bool:
        """End the connection now, and tell whether a request was left without its answer."""
        self._transport.abort()
        exchange = self._exchange
        return exchange is not None and not exchange.answered and not self._lingering


def _unsent(transport: asyncio.Transport) -> int:
    """What the kernel holds for the client that it has not acknowledged: SIOCOUTQ of tcp(7) and unix(7).

    A slow reader empties that long before the socket takes more from us.
    """
    connected = transport.get_extra_info("socket")
    answer = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])
