"""TLS: the context for new connections follows its files, and each connection deciphers and enciphers in memory.

uvloop's own TLS takes as much processor time, but lacks what a connection of ours relies on: it can't end one side
of a connection only, does not tell what waits for a slow reader, and drops the alert that says to a client why it was
refused. It also keeps 2.6 MiB for a connection that has carried 2 MB to and fro; this one keeps 0.2.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from uvicorn.protocols.utils import get_remote_addr

from registry.certificates import CLIENT_CERTIFICATE, CertificateProblem, ClientCertificate, server_context
from registry.config import Tls
from registry.server import refusals
from registry.server.framing import Refused
from registry.server.serving import READ_BYTES, Serving
from registry.watched import Stamp, stamp

PATIENCE_LOOKS = 5
"""Certificate and key are replaced one after the other: for so many looks nothing is said if they do not match."""

WARNING_DAYS = 14
"""From when on the end of a certificate is told, once a day."""

PIECE_BYTES = 64 << 10
"""What is given to OpenSSL at once: a BIO never gives back the memory that it once needed."""

NOT_TLS = Refused(400, "this is an address for HTTPS, and the request came in plain HTTP: use https://")

_NOTHING = memoryview(b"")
_HANDSHAKE_RECORD = 22
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


log = structlog.get_logger(__name__)


class LiveContext:
    """The context for new connections: made of the files as they last were in order.

    Connections that exist keep the one they began with. Raises CertificateProblem if it can't be made at first.
    """

    def __init__(self, tls: Tls, clock: Callable[[], datetime]) -> None:
        self._tls = tls
        self._clock = clock
        # Looked at before the files are read: what is replaced meanwhile is read again at the next look.
        self._stamps = _stamps(tls)
        self._made = server_context(tls, now=clock())
        self._failures = 0
        self._told = ""
        self._warned: datetime | None = None

    @property
    def context(self) -> ssl.SSLContext:
        """For a connection that begins now."""
        return self._made.context

    def look(self) -> None:
        """Make a new context if the files have changed and are in order; called about once a second."""
        self._warn()
        stamps = _stamps(self._tls)
        if stamps == self._stamps:
            self._failures, self._told = 0, ""
            return
        try:
            made = server_context(self._tls, now=self._clock())
        except CertificateProblem as problem:
            self._put_up_with(str(problem))
            return
        self._made, self._stamps = made, stamps
        self._failures, self._told, self._warned = 0, "", None
        log.info("new certificate files are in force", pid=os.getpid(), valid_until=_day(made.not_after))

    def _put_up_with(self, problem: str) -> None:
        self._failures += 1
        if self._failures < PATIENCE_LOOKS or problem == self._told:
            return
        self._told = problem
        log.error("the new certificate files are not used, the old ones stay in force", problem=problem)

    def _warn(self) -> None:
        now, end = self._clock(), self._made.not_after
        if end - now > timedelta(days=WARNING_DAYS):
            return
        if self._warned is None or now - self._warned >= timedelta(days=1):
            self._warned = now
            log.warning("the certificate expires soon, or has expired: renew it", valid_until=_day(end))


@dataclass(slots=True)
class TlsServing:
    """What the TLS of all connections of one worker has in common. They read into the same memory."""

    serving: Serving
    live: LiveContext
    handshakes: "set[TlsTransport]" = field(default_factory=set)
    view: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))

    def stop(self) -> None:
        """Cut the handshakes: none of these connections has sent a request yet."""
        for connection in tuple(self.handshakes):
            connection.abort()


class TlsTransport(asyncio.BufferedProtocol, asyncio.Transport):
    """TLS on one connection: a protocol to the socket's transport, a transport to the protocol above.

    The protocol above learns of the connection once the handshake has succeeded. Until then, and after a failed
    one, `_timer` bounds how long it may take.
    """

    def __init__(self, shared: TlsServing, above: asyncio.BufferedProtocol) -> None:
        super().__init__()
        self._shared = shared
        self._above = above
        self._below: asyncio.Transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls: ssl.SSLObject = cast("ssl.SSLObject", None)
        self._timer: asyncio.TimerHandle | None = None
        self._extension: dict[str, object] = {}
        self._arrived = _NOTHING
        self._begun = False
        self._open = False
        self._refused = False
        self._paused = False
        self._closing = False
        self._input_ended = False
        self._told_end = False
        self._output_ended = False

    # What the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._below = cast("asyncio.Transport", transport)
        serving, handshakes = self._shared.serving, self._shared.handshakes
        # They come on top of the connections that are counted, and none of them can be told why it is cut.
        if serving.stopping or len(handshakes) >= serving.limits.connections_max:
            self.abort()
            return
        handshakes.add(self)
        self._timer = self._loop.call_later(serving.limits.header_seconds, self._give_up)
        self._tls = self._shared.live.context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop's idea of a size
        """Lend the memory that all connections share. What is not wanted yet is kept enciphered: as much, no more."""
        return self._shared.view[: self._shared.serving.batch_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio."""
        if self._refused:
            return
        if not self._begun:
            self._begun = True
            if self._shared.view[0] != _HANDSHAKE_RECORD:
                self._refuse_plain(self._shared.view[0])
                return
        self._arrived = self._shared.view[:nbytes]
        if self._open:
            self._pump()
        else:
            while self._feed() and not self._shake_hands():
                pass
        # The memory is the next connection's.
        self._incoming.write(self._arrived)
        self._arrived = _NOTHING

    def eof_received(self) -> bool:
        """Whether the end came as it should, with an alert, does not matter: HTTP tells where a request ends."""
        if not self._open:
            return False
        self._input_ended = True
        self._pump()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._closing = True
        if self._open:
            self._above.connection_lost(exc)
        elif self._timer is not None and not self._refused:
            log.debug("a TLS handshake was not finished", client=self._client())
        self._end_handshake()

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._open:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._open:
            self._above.resume_writing()

    # What the protocol above asks

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`tls` is the extension for the ASGI scope, everything else is the socket's."""
        return self._extension if name == "tls" else self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._closing or self._below.is_closing()

    def pause_reading(self) -> None:
        """See asyncio."""
        self._paused = True
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio."""
        self._paused = False
        self._below.resume_reading()
        # Not at once: the protocol may be in the middle of what it was given last.
        self._loop.call_soon(self._pump)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """What waits for the socket: nothing waits here."""
        return self._below.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encipher and send."""
        if self._output_ended or self.is_closing():
            return
        view = memoryview(data)
        try:
            for start in range(0, len(view), PIECE_BYTES):
                part = view[start : start + PIECE_BYTES]
                while part:
                    part = part[self._tls.write(part) :]
                self._flush()
        except ssl.SSLError as error:
            self._break(error)

    def can_write_eof(self) -> bool:
        """Whether our side can be ended while the client still sends: yes."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more will come (close_notify), and shut down our side of the socket."""
        if not self.is_closing():
            self._say_the_end()
            self._below.write_eof()

    def close(self) -> None:
        """Say the end and close, once everything is sent; the client's close_notify is not waited for."""
        if not self.is_closing():
            self._say_the_end()
            self._closing = True
            self._below.close()

    def abort(self) -> None:
        """Close now; what waits is dropped."""
        self._closing = True
        self._below.abort()

    # The handshake

    def _shake_hands(self) -> bool:
        """Go on as far as what has come allows, and tell whether the handshake is over, one way or the other."""
        try:
            self._tls.do_handshake()
            self._flush()
            self._extension = self._describe()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()
            self._refuse(error.reason or str(error))
        except CertificateProblem as problem:
            self._refuse(str(problem))
        else:
            self._end_handshake()
            self._open = True
            self._above.connection_made(self)
            self._pump()
        return True

    def _describe(self) -> dict[str, object]:
        """The TLS extension of ASGI, and the client's certificate, parsed. Raises CertificateProblem."""
        der = self._tls.getpeercert(binary_form=True)
        client = None if der is None else ClientCertificate.parse(der)
        return {
            "server_cert": None,
            "client_cert_chain": [] if client is None else [client.pem],
            "client_cert_name": None if client is None else client.subject,
            "client_cert_error": None,
            "tls_version": _VERSIONS.get(self._tls.version() or ""),
            "cipher_suite": None,
            CLIENT_CERTIFICATE: client,
        }

    def _end_handshake(self) -> None:
        self._shared.handshakes.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_plain(self, first: int) -> None:
        if ord("A") <= first <= ord("Z"):
            self._below.write(refusals.render(NOT_TLS, date_line=self._shared.serving.date_line))
        self._refuse("not TLS")

    def _refuse(self, reason: str) -> None:
        """End our side only: with unread bytes a close(2) would reset the connection, and the alert be lost."""
        log.debug("a TLS handshake failed", client=self._client(), reason=reason)
        self._refused = self._output_ended = True
        if not self._below.is_closing():
            self._below.write_eof()

    def _give_up(self) -> None:
        self._timer = None
        if not self._refused:
            log.debug("a TLS handshake took too long", client=self._client())
        self.abort()

    # Bytes

    def _pump(self) -> None:
        """Hand over what can be deciphered, as long as it is wanted; then the end, if it has come."""
        drained = False
        while not (drained or self._paused or self.is_closing()):
            buffer = cast("memoryview", self._above.get_buffer(-1))
            size = self._decipher(buffer)
            drained = size < len(buffer)
            if size and not self.is_closing():
                self._above.buffer_updated(size)
        if not drained or self._paused or self.is_closing():
            return
        self._flush()
        if self._input_ended and not self._told_end:
            self._told_end = True
            if not self._above.eof_received():
                self.close()

    def _decipher(self, buffer: memoryview) -> int:
        """Fill the buffer, one record after the other, as far as there are any."""
        size = 0
        while size < len(buffer):
            try:
                read = cast("int", self._tls.read(len(buffer) - size, buffer[size:]))
            except ssl.SSLWantReadError:
                if self._feed():
                    continue
                break
            except ssl.SSLZeroReturnError:
                read = 0
            except ssl.SSLError as error:
                self._break(error)
                break
            if not read:  # close_notify
                self._input_ended = True
                break
            size += read
        return size

    def _feed(self) -> bool:
        """Pass on a piece of what has arrived, and tell whether there was one."""
        piece = self._arrived[:PIECE_BYTES]
        self._incoming.write(piece)
        self._arrived = self._arrived[PIECE_BYTES:]
        return len(piece) > 0

    def _break(self, error: ssl.SSLError) -> None:
        """End a connection whose records are wrong, with the alert that OpenSSL has made of it."""
        log.debug("a TLS connection broke", client=self._client(), reason=error.reason or str(error))
        self.close()

    def _say_the_end(self) -> None:
        if self._output_ended:
            return
        # It raises because the client's answer is not there yet; ours is on its way nevertheless.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        self._output_ended = True

    def _client(self) -> str:
        found = get_remote_addr(self._below)
        return "unix" if found is None else f"{found[0]}:{found[1]}"

    def _flush(self) -> None:
        if self._outgoing.pending and not self._output_ended and not self._below.is_closing():
            self._below.write(self._outgoing.read())


def _stamps(tls: Tls) -> tuple[Stamp, ...]:
    """What changes when one of the files is replaced or written to."""
    return tuple(stamp(file) for file in (tls.certificate, tls.key, tls.client_ca) if file is not None)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
