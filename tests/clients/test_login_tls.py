"""Each client over TLS: it trusts the CA that `pierhead tls init` made, in its own way, and no other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.logins import KINDS, Client, client_of
from tests.clients.private import ROBOT, Private, make_certificates, private_registry
from tests.clients.programs import ProgramFailed

HOST = "127.0.0.2"
"""Of the clients only docker takes it for an address at which certificates need not be checked."""

CHECKING = [kind for kind in KINDS if kind != "docker"]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    """Return a registry that speaks HTTPS."""
    with private_registry(tmp_path_factory.mktemp("private"), host=HOST, tls=True) as up:
        yield up


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, private: Private) -> Client:
    """Return each client in turn; it trusts the registry's CA."""
    assert private.ca is not None
    return client_of(request.param, private.address, private.ca, request)


@pytest.fixture(params=CHECKING)
def stranger(request: pytest.FixtureRequest, private: Private, tmp_path: Path) -> Client:
    """Return each client in turn; it trusts another CA, which has signed another certificate for the same address."""
    return client_of(request.param, private.address, make_certificates(tmp_path / "other", HOST), request)


@pytest.mark.parametrize("somebody", ["alice", ROBOT])
def test_a_client_that_trusts_the_ca_logs_in_pushes_and_pulls(client: Client, private: Private, somebody: str) -> None:
    repository = f"team/{somebody}/{client.kind}"

    client.login(somebody, private.password(somebody))
    content = client.push(repository)

    assert client.pull(repository) == content


def test_a_client_that_trusts_another_ca_goes_no_further(stranger: Client, private: Private) -> None:
    def log_in_and_push() -> None:
        stranger.login("alice", private.password("alice"))
        stranger.push(f"team/stranger/{stranger.kind}")  # crane and ctr have not asked the registry yet

    with pytest.raises(ProgramFailed, match=r"x509: certificate signed by unknown authority"):
        log_in_and_push()
