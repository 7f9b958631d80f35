"""Connections are shared out, and a process that can take no more does not spin."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest

from registry.server import accepting
from registry.server.accepting import Acceptor, Loads
from tests.server.edges import until


@pytest.fixture
async def listener() -> AsyncIterator[socket.socket]:
    """A listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.0)
        yield listening


class Exhausted(socket.socket):
    """A socket whose process may open no more descriptors, until `relieved`."""

    attempts = 0
    relieved = False

    def accept(self) -> tuple[socket.socket, object]:
        """Fail until there is relief."""
        self.attempts += 1
        if not self.relieved:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_a_worker_that_is_ahead_lets_others_go_first_but_leaves_nobody_waiting(listener: socket.socket) -> None:
    asked: list[bool] = []

    def ahead() -> bool:
        asked.append(True)
        return True

    accepted: list[Greeting] = []
    with contextlib.closing(Acceptor(listener, lambda: Greeting(accepted), ahead)):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        await until(lambda: accepted)

    assert asked
    writer.close()
    accepted[0].transport.abort()


async def test_a_process_out_of_descriptors_waits_and_then_accepts(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accepting, "EXHAUSTED_SECONDS", 0.05)
    exhausted = Exhausted(fileno=os.dup(listener.fileno()))
    exhausted.settimeout(0.0)
    accepted: list[Greeting] = []
    with contextlib.closing(Acceptor(exhausted, lambda: Greeting(accepted), lambda: False)):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        await until(lambda: exhausted.attempts >= 3)
        assert exhausted.attempts < 20
        exhausted.relieved = True
        await until(lambda: accepted)

    writer.close()
    accepted[0].transport.abort()


def test_a_worker_is_ahead_of_the_least_loaded_that_lives() -> None:
    loads = Loads(3)
    assert not loads.is_ahead(0)
    for slot, count in enumerate((3, 1, 9)):
        loads.set(slot, count)
    assert [loads.is_ahead(slot) for slot in range(3)] == [True, False, True]

    loads.leave(1)
    assert [loads.is_ahead(slot) for slot in (0, 2)] == [False, True]


class Greeting(asyncio.Protocol):
    """Remembers that a connection was made."""

    def __init__(self, made: "list[Greeting]") -> None:
        self._made = made
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)
        self._made.append(self)
