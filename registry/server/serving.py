"""What the connections of one worker have in common."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from registry.config import Limits
from registry.server.exchanges import BATCH_BYTES

if TYPE_CHECKING:
    from registry.server.protocol import Connection

READ_BYTES = 256 << 10
"""One read of a socket. All connections of a worker read into the same memory, one after the other."""

HELD_BYTES_MAX = 8 << 20
"""What all requests together may hold of bodies that were not fetched yet. With 100 uploads at once in two workers
each fetches batches of 160 KiB, which takes no longer than batches of 1 MiB and a third of the memory."""

BATCH_BYTES_MIN = 64 << 10
"""A request may hold this much, however many there are."""


@dataclass(slots=True)
class Serving:
    """What all connections of one worker share."""

    app: ASGIApp
    limits: Limits
    tell_count: Callable[[int], None] = lambda _: None
    """Called with the number of connections whenever it changes."""
    date_line: bytes = b""
    stopping: bool = False
    connections: "set[Connection]" = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    memory: bytearray = field(default_factory=lambda: bytearray(READ_BYTES))
    view: memoryview = field(init=False)

    def __post_init__(self) -> None:
        self.view = memoryview(self.memory)

    @property
    def batch_bytes(self) -> int:
        """A request's share of HELD_BYTES_MAX, at most a batch."""
        share = HELD_BYTES_MAX // max(1, len(self.tasks))
        return min(BATCH_BYTES, max(BATCH_BYTES_MIN, share))

    def add(self, connection: "Connection") -> None:
        """A connection begins."""
        self.connections.add(connection)
        self.tell_count(len(self.connections))

    def remove(self, connection: "Connection") -> None:
        """A connection is lost."""
        self.connections.discard(connection)
        self.tell_count(len(self.connections))

    def look_after(self, seconds: float) -> None:
        """Enforce every limit of time; called again and again, `seconds` after the last time."""
        for connection in tuple(self.connections):
            connection.look_after(seconds)
