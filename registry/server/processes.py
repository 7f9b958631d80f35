"""The life of `pierhead serve`: prove, bind, fork, watch over the workers, stop."""

import asyncio
import contextlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

import structlog

from registry.asgi import CannotStart
from registry.certificates import CertificateProblem
from registry.config import Settings
from registry.server.accepting import Loads
from registry.server.sockets import Listener, ListenError
from registry.server.tls import LiveContext
from registry.server.workers import STOP, STOP_NOW, Application, Worker
from storage.errors import StorageError

EARLY_SECONDS = 10.0
"""A worker that ends earlier than that failed to start."""

EARLY_DEATHS_MAX = 5
"""After so many in a row something is wrong that another start won't mend."""

BACK_OFF_SECONDS = 0.25
"""Doubled with every early death."""

GRACE_SECONDS = 10.0
"""What a worker may take longer than `shutdown_seconds` before it is killed."""

OPEN_FILES = 65536

log = structlog.get_logger(__name__)


def serve(settings: Settings, build: Callable[[], Application], *, refresh: Callable[[], None] = lambda: None) -> int:
    """Serve until SIGTERM or SIGINT; a second one stops at once. SIGHUP is ignored.

    `refresh` is called ahead of each fork, and brings what the workers inherit up to date.

    Returns the exit code: 0 after a stop that was asked for, 1 if serving could not begin or go on.
    """
    _raise_open_files()
    try:
        # Before the fork: a worker that takes the place of another while new files are not in order begins with it.
        tls = LiveContext(settings.tls, lambda: datetime.now(UTC)) if settings.tls.is_on else None
        if not _prove(build):
            return 1
        listener = Listener.bind(settings.listen, tls=tls is not None)
    except (CertificateProblem, ListenError) as error:
        _complain(error)
        return 1
    try:
        return Supervisor(settings, build, listener, Loads(settings.workers), tls, refresh).run()
    finally:
        listener.close()
        listener.remove()


@dataclass(slots=True)
class Child:
    """A worker process as its parent sees it. `reports` is the reading end of a pipe it writes lines to."""

    pid: int
    slot: int
    reports: int
    started: float
    ready: bool = False
    requests_cut: int = 0
    unread: bytes = b""


@dataclass(slots=True)
class Supervisor:
    """The parent: it serves nothing, runs no loop and has no threads, so that it may fork at any time."""

    settings: Settings
    build: Callable[[], Application]
    listener: Listener
    loads: Loads
    tls: LiveContext | None = None
    refresh: Callable[[], None] = lambda: None
    children: dict[int, Child] = field(default_factory=dict)
    requests_cut: int = 0
    _early_deaths: int = 0
    _start_at: list[tuple[float, int]] = field(default_factory=list)
    _said_ready: bool = False
    _stops: int = 0
    _deadline: float | None = None
    _exit_code: int = 0
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _lifeline: tuple[int, int] = field(default_factory=os.pipe)
    _wake: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)

    def run(self) -> int:
        """Keep the workers alive until told to stop; returns the exit code."""
        self._listen_to_signals()
        for slot in range(self.settings.workers):
            self._start_child(slot)
        while self.children or self._start_at:
            for key, _ in self._selector.select(self._patience()):
                if key.data is None:
                    self._take_signals()
                else:
                    self._take_report(key.data)
            self._bury()
            self._start_due()
            self._kill_late()
        if self._exit_code == 0:
            log.info("stopped, %d requests cut", self.requests_cut)
        return self._exit_code

    # Signals

    def _listen_to_signals(self) -> None:
        for end in self._wake:
            end.settimeout(0.0)
        signal.set_wakeup_fd(self._wake[1].fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._selector.register(self._wake[0], selectors.EVENT_READ)

    def _take_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._wake[0].recv(4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stop(signal.Signals(number).name)

    def _stop(self, why: str) -> None:
        """The first time let requests finish, the second time don't."""
        self._stops += 1
        self._start_at.clear()
        self.listener.close()
        log.info("stopping" if self._stops == 1 else "stopping at once", because=why)
        seconds = self.settings.limits.shutdown_seconds if self._stops == 1 else 0.0
        self._deadline = time.monotonic() + seconds + GRACE_SECONDS
        for pid in self.children:
            os.kill(pid, STOP if self._stops == 1 else STOP_NOW)

    # Children

    def _start_child(self, slot: int) -> None:
        self.refresh()
        reports, writes = os.pipe()
        # A signal to a child that has not put its own handlers in place must not get lost in ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, (STOP, STOP_NOW))
        pid = os.fork()
        if pid == 0:
            self._become_worker(slot, writes)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (STOP, STOP_NOW))
        os.close(writes)
        child = self.children[pid] = Child(pid, slot, reports, time.monotonic())
        self._selector.register(reports, selectors.EVENT_READ, child)

    def _become_worker(self, slot: int, writes: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for number in (STOP, STOP_NOW, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (STOP, STOP_NOW))
            self._selector.close()
            for descriptor in (self._lifeline[1], *(child.reports for child in self.children.values())):
                os.close(descriptor)
            for end in self._wake:
                end.close()
            self._work(slot, writes)
            code = 0
        except (StorageError, CannotStart, OSError) as error:
            _complain(error)
        except Exception:
            log.exception("the worker failed", pid=os.getpid())
        finally:
            # Not sys.exit(): the frames of the parent below us must not run on in the child.
            sys.stderr.flush()
            os._exit(code)

    def _work(self, slot: int, writes: int) -> None:
        worker = Worker(
            self.build(),
            self.settings.limits,
            loads=self.loads,
            slot=slot,
            ready=lambda: _report(writes, b"ready"),
            lifeline=self._lifeline[0],
            tls=self.tls,
        )
        worker.run(sockets=[self.listener.socket])
        _report(writes, b"cut %d" % worker.requests_cut)

    def _take_report(self, child: Child) -> None:
        written = os.read(child.reports, 4096)
        if not written:
            self._selector.unregister(child.reports)
            return
        *lines, child.unread = (child.unread + written).split(b"\n")
        for line in lines:
            if line == b"ready":
                child.ready = True
            elif line.startswith(b"cut "):
                child.requests_cut = int(line[4:])
        self._say_ready()

    def _say_ready(self) -> None:
        ready = [child for child in self.children.values() if child.ready]
        if self._said_ready or self._stops or len(ready) < self.settings.workers:
            return
        self._said_ready = True
        workers = "1 worker" if len(ready) == 1 else f"{len(ready)} workers"
        _say(f"serving {self.listener.url}, data in {self.settings.data}, {workers}")

    def _bury(self) -> None:
        """Take note of the children that ended. Only ours are waited for: a library may have its own."""
        for child in tuple(self.children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._drain_reports(child)
                del self.children[pid]
                self.loads.leave(child.slot)
                self.requests_cut += child.requests_cut
                self._replace(child, os.waitstatus_to_exitcode(status))

    def _drain_reports(self, child: Child) -> None:
        while child.reports in self._selector.get_map():
            self._take_report(child)
        os.close(child.reports)

    def _replace(self, child: Child, code: int) -> None:
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self._stops:
            if code not in (0, -STOP):
                log.error("a worker did not stop cleanly", pid=child.pid, ended=ended)
            return
        lived = time.monotonic() - child.started
        self._early_deaths = self._early_deaths + 1 if lived < EARLY_SECONDS else 0
        log.error("a worker died", pid=child.pid, ended=ended, after_seconds=round(lived, 1))
        if self._early_deaths >= EARLY_DEATHS_MAX:
            self._exit_code = 1
            _say("pierhead: workers die as soon as they start: giving up")
            self._stop("workers keep dying")
            return
        wait = BACK_OFF_SECONDS * (2**self._early_deaths - 1)
        self._start_at.append((time.monotonic() + wait, child.slot))

    def _start_due(self) -> None:
        now = time.monotonic()
        due = [slot for at, slot in self._start_at if at <= now]
        self._start_at = [(at, slot) for at, slot in self._start_at if at > now]
        for slot in due:
            self._start_child(slot)

    def _kill_late(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._deadline = None
            for pid in self.children:
                os.kill(pid, signal.SIGKILL)

    def _patience(self) -> float | None:
        """How long nothing needs to be done."""
        moments = [*(at for at, _ in self._start_at), *([] if self._deadline is None else [self._deadline])]
        return max(0.0, min(moments) - time.monotonic()) if moments else None


def _prove(build: Callable[[], Application]) -> bool:
    """Start and close one application, in a process of its own: threads that it starts must not be forked."""
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        asyncio.run(_prove_application(build))
        code = 0
    except (StorageError, CannotStart, OSError) as error:
        _complain(error)
    except Exception:
        log.exception("the registry cannot start")
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _prove_application(build: Callable[[], Application]) -> None:
    await build().prove()


def _raise_open_files() -> None:
    """Use as many file descriptors as we may have: the soft limit is often 1024 (getrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _report(writes: int, line: bytes) -> None:
    # The parent may have died: then nobody needs to know.
    with contextlib.suppress(OSError):
        os.write(writes, line + b"\n")


def _complain(error: Exception) -> None:
    _say("pierhead: " + " ".join(str(error).split()))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
