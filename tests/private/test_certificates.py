"""Clients that show a certificate instead of a password: who they are, what they may, and who is turned away."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from storage.digest import Digest
from tests.certificates import HOST, Authority, named, renew, trusting
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import Server, start

POLICY = """
[[rules]]
who = ["certificate:build-*"]
repositories = ["team/**"]
allow = ["pull", "push"]

[[rules]]
who = ["alice"]
repositories = ["**"]
allow = ["*"]
"""


class Place:
    """A registry over TLS that knows one CA for its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tls = renew(directory / "tls")
        self.authority = Authority.new("clients of the registry")
        (directory / "clients.crt").write_bytes(self.authority.pem)
        (directory / "policy.toml").write_text(POLICY)
        add_user(directory / "users", "alice", hash_password("alice", "correct horse", cost=4))
        self.server: Server = start(
            directory / "data",
            log=directory / "log",
            workers=2,
            listen=f"{HOST}:0",
            environment={
                "PIERHEAD_TLS_CERTIFICATE": str(self.tls.certificate),
                "PIERHEAD_TLS_KEY": str(self.tls.key),
                "PIERHEAD_TLS_CLIENT_CA": str(directory / "clients.crt"),
                "PIERHEAD_AUTH_HTPASSWD": str(directory / "users"),
                "PIERHEAD_AUTH_POLICY": str(directory / "policy.toml"),
                "PIERHEAD_AUDIT_FILE": str(directory / "audit.log"),
            },
        )

    def client(self, subject: x509.Name | str | None = None, authority: Authority | None = None) -> httpx.Client:
        """Return a client that shows a certificate for a subject, or none."""
        pair = None
        if subject is not None:
            pair = (authority or self.authority).client(self.directory, subject)
        return httpx.Client(base_url=self.server.url, verify=trusting(self.directory / "tls", pair), timeout=30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("certificates"))
    yield made
    made.server.stop()


def push(client: httpx.Client, repository: str) -> int:
    """Push an image, and return the status of whatever was refused, else of its manifest."""
    for blob in (CONFIG, LAYER):
        query = {"digest": str(Digest.of(blob))}
        answer = client.post(f"/v2/{repository}/blobs/uploads/", params=query, content=blob)
        if answer.status_code != 201:
            return answer.status_code
    kind = {"content-type": str(image()["mediaType"])}
    return client.put(f"/v2/{repository}/manifests/v1", content=encode(image()), headers=kind).status_code


def test_a_certificate_is_an_identity_that_the_policy_knows(place: Place) -> None:
    with place.client("build-7") as client:
        assert client.get("/v2/").status_code == 200
        assert push(client, "team/app") == 201
        assert push(client, "other/app") == 403
        assert client.get("/v2/_catalog").json()["repositories"] == ["team/app"]
        assert client.delete("/v2/team/app/manifests/v1").status_code == 403
    trail = (place.directory / "audit.log").read_text()
    assert '"actor":"certificate:build-7"' in trail


def test_a_certificate_gets_a_token_as_a_password_does(place: Place) -> None:
    with place.client("build-7") as client:
        query = {"service": "pierhead", "scope": "repository:team/token:pull,push,delete"}
        token = client.get("/token", params=query).json()["token"]
    with place.client() as plain:
        plain.headers["authorization"] = f"Bearer {token}"
        assert push(plain, "team/token") == 201


@pytest.mark.parametrize("subject", ["deploy", x509.Name([*named("build-7"), *named("root")])])
def test_a_certificate_that_the_policy_does_not_name_or_with_two_names_may_nothing(
    place: Place, subject: x509.Name | str
) -> None:
    with place.client(subject) as client:
        assert push(client, "team/app") in {401, 403}


def test_without_a_certificate_passwords_go_on_working(place: Place) -> None:
    with place.client() as client:
        assert client.get("/v2/").status_code == 401
        assert client.get("/v2/", auth=("alice", "correct horse")).status_code == 200


def test_credentials_that_are_sent_count_more_than_the_certificate(place: Place) -> None:
    with place.client("build-7") as client:
        assert client.get("/v2/", auth=("alice", "wrong horse")).status_code == 401
        client.auth = httpx.BasicAuth("alice", "correct horse")
        assert push(client, "other/app") == 201


def test_a_certificate_of_another_ca_does_not_get_through_the_handshake(place: Place) -> None:
    with (
        place.client("build-7", Authority.new("somebody else")) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.get("/v2/")
