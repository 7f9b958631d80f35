"""Each client pulls from a bucket: the registry sends it to the store for every blob, and the store believes it."""

from collections.abc import Iterator

import pytest

from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from tests.clients.logins import KINDS, Client, client_of
from tests.clients.recorder import Recorder
from tests.running import start
from tests.s3.weed import BUCKET, Store

USER, PASSWORD = "alice", "correct horse"


@pytest.fixture(scope="module")
def registry(weed: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a Pierhead on a bucket, where everybody has to log in."""
    directory = tmp_path_factory.mktemp("redirects")
    users = directory / "users"
    add_user(users, USER, hash_password(USER, PASSWORD, cost=4))
    server = start(
        directory / "unused",
        log=directory / "log",
        workers=2,
        arguments=["--data", f"s3://{BUCKET}/redirects", "--htpasswd", str(users)],
        environment=weed.environment(),
    )
    yield server.address
    server.stop()


@pytest.fixture
def to_registry(registry: str) -> Iterator[Recorder]:
    """Return the way to it, on which every request is noted."""
    with Recorder(registry) as recorder:
        yield recorder


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, to_registry: Recorder) -> Client:
    """Return each client in turn."""
    return client_of(request.param, to_registry.address, None, request)


def test_every_blob_of_a_pull_comes_from_the_store(client: Client, to_registry: Recorder) -> None:
    client.login(USER, PASSWORD)
    content = client.push(f"team/{client.kind}")
    to_registry.clear()

    assert client.pull(f"team/{client.kind}") == content

    got = [exchange for exchange in to_registry.matching("GET", "/blobs/") if exchange.status != 401]
    assert got
    assert {exchange.status for exchange in got} == {307}
