"""Drivers and servers on a real SeaweedFS."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from storage.s3 import S3Driver
from tests.s3.faults import Proxy, proxying
from tests.s3.replicas import Replicas
from tests.s3.weed import Store

OpenDriver = Callable[..., Awaitable[S3Driver]]


@pytest.fixture
def prefix() -> str:
    """Return a prefix that no other test uses."""
    return f"tests/{secrets.token_hex(8)}"


@pytest.fixture
async def open_driver(weed: Store, prefix: str) -> AsyncIterator[OpenDriver]:
    """Return a function that gives one more started driver on the same prefix; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def opener(**changes: object) -> S3Driver:
            driver = S3Driver(weed.settings(prefix, **changes))
            await driver.start()
            opened.push_async_callback(driver.close)
            return driver

        yield opener


@pytest.fixture
async def driver(open_driver: OpenDriver) -> S3Driver:
    """Return one started driver."""
    return await open_driver()


@pytest.fixture
async def proxy(weed: Store) -> AsyncIterator[Proxy]:
    """Return a proxy in front of the store that counts calls and makes trouble."""
    async with proxying(weed.endpoint) as running:
        yield running


@pytest.fixture
def replicas(weed: Store, tmp_path: Path) -> Iterator[Replicas]:
    """Return a way to start servers over one bucket."""
    made = Replicas(weed, tmp_path)
    yield made
    made.close()
