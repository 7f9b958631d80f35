"""A registry that lets only known people in, and what each of them sends."""

import asyncio
import base64
import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from storage.filesystem import FileSystemDriver
from storage.signing_keys import SigningKeyRecord, SigningKeyStore
from tests.auth.issuing import assemble
from tests.hostile.pushing import IMAGE, image, sha256
from tests.hostile.wire import ANSWER_SECONDS, Answer, Wire, call, encoded, request, wires_to_both_workers
from tests.running import Server, start

PASSWORDS = {
    "alice": "may-do-everything",
    "bob": "may-only-pull",
    "carol": "may-do-nothing-at-all",
    "dora": "may-pull-and-push",
    "erin": "may-pull-and-delete",
    "mia": "may-push-to-her-own",
    "zoe": "is-guessed-at-a-lot",
}
POLICY = """
[[rules]]
who = ["alice"]
repositories = ["**"]
allow = ["*"]

[[rules]]
who = ["bob", "dora", "erin", "mia", "zoe"]
repositories = ["team/**"]
allow = ["pull"]

[[rules]]
who = ["dora"]
repositories = ["team/**"]
allow = ["push"]

[[rules]]
who = ["erin"]
repositories = ["team/**"]
allow = ["delete"]

[[rules]]
who = ["mia"]
repositories = ["mine/**"]
allow = ["pull", "push", "overwrite"]

[[rules]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
WRONG = "not-the-password"
"""Every wrong password of these tests begins so: then a log can be searched for all of them."""

FORM = "Content-Type: application/x-www-form-urlencoded"
COST = 4
SECRET_CHARACTERS_MIN = 8
FORMS_OF_SECRETS: Sequence[Callable[[str], str]] = (
    str,
    lambda secret: quote(secret, safe=""),
    # Whole groups only: what a secret is followed by changes the last characters.
    lambda secret: base64.b64encode(secret.encode())[: len(secret.encode()) // 3 * 4].decode(),
)


@dataclass
class House:
    """A server with its files. Everything secret that its people send or are given is noted in `secrets`."""

    server: Server
    htpasswd: Path
    audit: Path
    secrets: set[str] = field(default_factory=lambda: {WRONG, *PASSWORDS.values()})
    _addresses: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def stranger(self) -> str:
        """A source address that nobody has used here: what it does counts against nobody else."""
        number = next(self._addresses)
        return f"127.{100 + (number >> 16)}.{(number >> 8) & 0xFF}.{number & 0xFF}"

    def basic(self, user: str, password: str | None = None) -> str:
        """The header line of somebody who sends a password: their own, unless given."""
        line = basic(user, self.noted(PASSWORDS[user] if password is None else password))
        self.noted(line.rpartition(" ")[2])
        return line

    def bearer(self, token: str) -> str:
        """The header line of somebody who sends a token."""
        return f"Authorization: Bearer {self.noted(token)}"

    def ask_token(self, user: str, *scopes: str, **fields: str) -> Mapping[str, Any]:
        """Ask for a token by GET, as `user` or, if empty, as nobody; returns the answer's JSON."""
        query = urlencode([*(("scope", scope) for scope in scopes), *fields.items()])
        lines = [self.basic(user)] if user else []
        answer = call(self.server, "GET", f"/token?{query}", *lines)
        assert answer.status == 200, answer
        found: Mapping[str, Any] = json.loads(answer.body)
        self.noted(found["token"])
        if "refresh_token" in found:
            self.noted(found["refresh_token"])
        return found

    def token(self, user: str, *scopes: str) -> str:
        """An access token."""
        return str(self.ask_token(user, *scopes)["token"])

    def noted(self, secret: str) -> str:
        """Note something that no log may hold, and return it."""
        if len(secret) >= SECRET_CHARACTERS_MIN:
            self.secrets.add(secret)
        return secret

    def leaked(self) -> list[str]:
        """What of all that is secret stands in the log or in the audit trail, in any spelling."""
        texts = [self.server.log.read_text(errors="replace"), self.audit.read_text(errors="replace")]
        forms = {form(secret) for secret in self.secrets for form in FORMS_OF_SECRETS}
        forms |= {"authorization:", "Authorization:"}
        return [form for form in forms if any(form in text for text in texts)]


@contextlib.contextmanager
def open_house(directory: Path, *, workers: int = 2, cost: int = COST, **variables: str) -> Iterator[House]:
    """Serve an empty directory to the people above, and log all that is ever logged."""
    htpasswd, policy, audit = directory / "htpasswd", directory / "policy.toml", directory / "audit.jsonl"
    policy.write_text(POLICY)
    for user, password in PASSWORDS.items():
        add_user(htpasswd, user, hash_password(user, password, cost=cost))
    environment = {
        "PIERHEAD_AUTH_HTPASSWD": str(htpasswd),
        "PIERHEAD_AUTH_POLICY": str(policy),
        "PIERHEAD_AUDIT_FILE": str(audit),
        "PIERHEAD_LOG_LEVEL": "debug",
        **variables,
    }
    server = start(directory / "data", log=directory / "pierhead.log", workers=workers, environment=environment)
    try:
        yield House(server, htpasswd, audit)
    finally:
        server.stop()


def basic(user: str, password: str) -> str:
    """The header line for a user and a password."""
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def connect(server: Server, address: str) -> Wire:
    """Connect from another source address: all of 127.0.0.0/8 is this machine."""
    host, _, port = server.address.rpartition(":")
    connection = socket.create_connection((host, int(port)), ANSWER_SECONDS, (address, 0))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Wire(connection)


def call_from(address: str, server: Server, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
    """One request from a source address."""
    with connect(server, address) as wire:
        wire.send(request(method, target, *lines, body=body))
        return wire.answer(method=method)


def both_workers(server: Server, address: str) -> AbstractContextManager[tuple[Wire, Wire]]:
    """Two connections from one source address that different workers have accepted."""
    return wires_to_both_workers(server, lambda to: connect(to, address))


def post_token(server: Server, fields: Mapping[str, str], *lines: str) -> Answer:
    """Ask for a token by POST."""
    return call(server, "POST", "/token", FORM, *lines, body=urlencode(fields).encode())


def claims_of(token: str) -> dict[str, Any]:
    """What stands in a token, unverified."""
    return dict(_part(token, 1))


def header_of(token: str) -> dict[str, Any]:
    """The header of a token."""
    return dict(_part(token, 0))


def access_in(token: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """How far a token reaches, as it says: type, name and actions."""
    return [(one["type"], one["name"], tuple(one["actions"])) for one in claims_of(token)["access"]]


def signing_key(server: Server) -> SigningKeyRecord:
    """The key that a server signs with: whoever may read the data directory has it."""

    async def read() -> SigningKeyRecord:
        driver = FileSystemDriver(server.data)
        await driver.start()
        try:
            return (await SigningKeyStore(driver).list())[0].record
        finally:
            await driver.close()

    return asyncio.run(read())


def sign(record: SigningKeyRecord, header: object, claims: object) -> str:
    """A token whose signature is right, whatever it says."""
    key = load_pem_private_key(record.private_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return assemble(header, claims, key, "ES256")


def put_blob(server: Server, name: str, body: bytes, *lines: str) -> str:
    """Push a blob in one request, as somebody, and return its digest."""
    digest = sha256(body)
    answer = call(server, "POST", f"/v2/{name}/blobs/uploads/?digest={encoded(digest)}", *lines, body=body)
    assert answer.status == 201, answer
    return digest


def put_image(server: Server, name: str, reference: str, *lines: str, **further: Any) -> str:
    """Push a config and an image manifest, as somebody, and return the manifest's digest."""
    body = image(put_blob(server, name, b"{}", *lines), **further)
    answer = call(server, "PUT", f"/v2/{name}/manifests/{reference}", f"Content-Type: {IMAGE}", *lines, body=body)
    assert answer.status == 201, answer
    return answer.headers["docker-content-digest"]


def challenge_of(answer: Answer) -> dict[str, str]:
    """The parameters of the challenge of a 401, which no cache may keep."""
    assert answer.status == 401, answer
    assert answer.headers["cache-control"] == "no-store"
    scheme, _, rest = answer.headers["www-authenticate"].partition(" ")
    assert scheme == "Bearer"
    found: dict[str, str] = {}
    while rest:
        name, equals, rest = rest.partition('="')
        value, end, rest = rest.partition('"')
        assert equals
        assert end
        assert value
        assert name not in found
        found[name] = value
        assert not rest or rest.startswith(",")
        rest = rest.removeprefix(",")
    return found


def error_of(answer: Answer) -> str:
    """The reason in the challenge of a 401, empty if there is none."""
    return challenge_of(answer).get("error", "")


def _part(token: str, number: int) -> Mapping[str, Any]:
    text = token.split(".")[number]
    found: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found
