"""A worker: one event loop that serves connections from a socket it inherited."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import Callable, Generator
from email.utils import formatdate
from typing import Protocol

import structlog
import uvicorn
from starlette.types import Receive, Scope, Send

from registry.config import Limits
from registry.server.accepting import Acceptor, Loads
from registry.server.protocol import Connection
from registry.server.serving import Serving
from registry.server.tls import LiveContext, TlsServing, TlsTransport

CUT_SECONDS = 2.0
"""How long the tasks of requests that were cut may take to let go of files and locks."""

LOOK_AFTER_SECONDS = 1.0
STOP = signal.SIGTERM
STOP_NOW = signal.SIGQUIT
"""Another signal than the first, since a service manager may send that one to parent and workers alike."""

log = structlog.get_logger(__name__)


class Application(Protocol):
    """What is served."""

    async def prove(self) -> None:
        """Open what it needs and close it again, once ahead of all workers; raises as start does."""
        ...

    async def start(self) -> None:
        """Open what it needs; raises StorageError with a message that says what to do."""
        ...

    async def close(self) -> None:
        """Let go of it."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ...


class Worker(uvicorn.Server):
    """uvicorn's server with our protocol, our way to accept, our limits and our way to stop.

    `ready` is called once connections are accepted. After serve() returned, `requests_cut` tells how many
    requests had not been answered. It stops like on SIGTERM when `lifeline` becomes readable: that is the end
    of a pipe whose other end only the parent holds.
    """

    def __init__(
        self,
        application: Application,
        limits: Limits,
        *,
        loads: Loads,
        slot: int,
        ready: Callable[[], None],
        lifeline: int | None = None,
        tls: LiveContext | None = None,
    ) -> None:
        self._application = application
        self._loads = loads
        self._slot = slot
        self._serving = Serving(application, limits, tell_count=lambda count: loads.set(slot, count))
        self._live = tls
        self._tls = None if tls is None else TlsServing(self._serving, tls)
        self._acceptors: list[Acceptor] = []
        self._shutdown_seconds = limits.shutdown_seconds
        self._ready = ready
        self._lifeline = lifeline
        self._looked_after = 0.0
        self._look_after_seconds = min(LOOK_AFTER_SECONDS, limits.header_seconds / 4, limits.body_stall_seconds / 4)
        self.requests_cut = 0
        super().__init__(
            uvicorn.Config(
                application,
                loop="uvloop",
                lifespan="off",
                ws="none",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept."""
        self._stamp()
        self._look_at_files()
        await self._application.start()
        # What lives now lives as long as the worker: the collector need not walk it again.
        gc.collect()
        gc.freeze()
        self._loads.set(self._slot, 0)
        self._acceptors = [Acceptor(s, self._connect, self._is_ahead) for s in sockets or ()]
        self.started = True
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: the limits of time need no timer for each connection."""
        if counter % 10 == 0:
            self._stamp()
            self._look_at_files()
        now = asyncio.get_running_loop().time()
        if now - self._looked_after >= self._look_after_seconds:
            passed = now - self._looked_after if self._looked_after else 0.0
            self._serving.look_after(passed)
            self._looked_after = now
        return self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - closed already
        """Accept no more, let running requests finish for a while, cut the others, close the application."""
        self._serving.stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
        if self._tls is not None:
            self._tls.stop()
        for connection in tuple(self._serving.connections):
            connection.stop()
        await self._until_answered()
        self.requests_cut = sum([connection.cut() for connection in tuple(self._serving.connections)])
        for task in self._serving.tasks:
            task.cancel()
        if self._serving.tasks:
            await asyncio.wait(self._serving.tasks, timeout=CUT_SECONDS)
        await self._application.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM, at once on SIGQUIT, and when the parent dies. A SIGINT is the parent's business."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(STOP, self._stop)
        loop.add_signal_handler(STOP_NOW, self._stop_now)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline, self._parent_died)
        yield

    async def _until_answered(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._shutdown_seconds
        while (self._serving.connections or self._serving.tasks) and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)
            await self.on_tick(1)

    def _connect(self) -> asyncio.BufferedProtocol:
        connection = Connection(self._serving)
        return connection if self._tls is None else TlsTransport(self._tls, connection)

    def _is_ahead(self) -> bool:
        return self._loads.is_ahead(self._slot)

    def _stop(self) -> None:
        self.should_exit = True

    def _stop_now(self) -> None:
        self.should_exit = self.force_exit = True

    def _parent_died(self) -> None:
        assert self._lifeline is not None
        asyncio.get_running_loop().remove_reader(self._lifeline)
        log.warning("the parent process died: stopping", pid=os.getpid())
        self._stop()

    def _look_at_files(self) -> None:
        if self._live is not None:
            self._live.look()

    def _stamp(self) -> None:
        self._serving.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode("ascii")
