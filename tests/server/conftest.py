"""A connection's other side: our protocol on uvloop, inside the test, with an application that obeys it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from registry.config import Limits
from tests.server.edges import Edge, Starter


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the name is the hook's
    item: pytest.Item,  # noqa: ARG001 - the name is the hook's
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the server on the loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def start_edge() -> AsyncIterator[Starter]:
    """Start servers with limits of the test's choice; all of them end with the test."""
    edges: list[Edge] = []

    async def starter(**limits: float) -> Edge:
        edge = await Edge.start(Limits.model_validate(limits))
        edges.append(edge)
        return edge

    yield starter
    for edge in edges:
        await edge.close()


@pytest.fixture
async def edge(start_edge: Starter) -> Edge:
    """One server with the default limits."""
    return await start_edge()
