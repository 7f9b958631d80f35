"""A registry in memory for each test, and a client that speaks to it."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from storage.memory import MemoryDriver
from tests import properties
from tests.api.client import Client, open_client
from tests.stores import StepDriver

__all__ = ["properties"]

OpenClient = Callable[..., Awaitable[Client]]


@pytest.fixture
def driver() -> StepDriver:
    return StepDriver()


@pytest.fixture
async def open_registry(driver: StepDriver) -> AsyncIterator[OpenClient]:
    """Return a function that starts one more registry, on the test's store unless given another one."""
    clients: list[Client] = []

    async def opener(store: MemoryDriver | None = None, **settings: object) -> Client:
        client = await open_client(store or driver, **settings)
        clients.append(client)
        return client

    yield opener
    for client in clients:
        await client.close()


@pytest.fixture
async def client(open_registry: OpenClient) -> Client:
    return await open_registry()
