"""How several workers take connections off one listening socket, so that each gets its share.

The socket is shared, not one for each worker (SO_REUSEPORT): connections that wait in it belong to whoever
comes first, and none is lost when a worker dies. But whoever comes first is nearly always the same idle
worker. So a worker that has more connections than another lets the others go first for a moment.
"""

import asyncio
import errno
import mmap
import socket
from collections.abc import Callable

import structlog

COURTESY_SECONDS = 0.001
"""How long the others may go first; if they are too busy even for that, the connection is better off here."""

EXHAUSTED_SECONDS = 0.2
"""After accept(2) failed for want of descriptors or memory; trying at once again would only burn time."""

GONE = 0xFFFFFFFF

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger(__name__)


class Loads:
    """How many connections each worker has, in memory that parent and workers share (mmap(2))."""

    def __init__(self, workers: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 4 * workers)).cast("I")
        for slot in range(workers):
            self.leave(slot)

    def set(self, slot: int, connections: int) -> None:
        """Tell the others."""
        self._counts[slot] = connections

    def leave(self, slot: int) -> None:
        """A worker that is gone need not be waited for."""
        self._counts[slot] = GONE

    def is_ahead(self, slot: int) -> bool:
        """Whether another worker has clearly fewer connections.

        Connections that come and go by the thousand each second are spread well enough by themselves.
        """
        least = min(self._counts)
        return self._counts[slot] > least + 1 + least // 4


class Acceptor:
    """Takes connections off `listener`, one at each turn of the loop, until closed."""

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.BaseProtocol],
        is_ahead: Callable[[], bool],
    ) -> None:
        self._listener = listener
        self._connect = connect
        self._is_ahead = is_ahead
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[object]] = set()
        self._watch()

    def close(self) -> None:
        """Accept no more. Connections that wait in the socket are left to the other workers."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _watch(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._arrived)

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        # The socket stays readable meanwhile: watching it would wake us again and again.
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, then)

    def _arrived(self) -> None:
        if self._is_ahead():
            self._wait(COURTESY_SECONDS, self._after_others)
        else:
            self._accept()

    def _after_others(self) -> None:
        self._watch()
        self._accept()

    def _accept(self) -> None:
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client has left
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.error("cannot accept connections", error=error.strerror)
            self._wait(EXHAUSTED_SECONDS, self._watch)
            return
        connected.settimeout(0.0)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._connect, connected))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
