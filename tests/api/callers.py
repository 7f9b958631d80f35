"""A registry where everybody has to say who they are, and everybody there is."""

import base64
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from starlette.types import Message

from registry.app import Registry, build
from registry.auth.identities import Action, Grant
from registry.auth.passwords import hash_password
from registry.auth.robots import Robots
from registry.certificates import ClientCertificate
from registry.config import Settings
from storage.memory import MemoryDriver
from storage.robots import RobotStore
from tests.api.client import Answer, Client, check_envelope

PASSWORDS = {"alice": "correct horse", "bob": "battery staple", "carol": "nothing at all", "dora": "push and pull"}
POLICY = """
[[rules]]
name = "alice owns everything"
who = ["alice"]
repositories = ["**"]
allow = ["*"]

[[rules]]
who = ["bob", "certificate:build"]
repositories = ["team/**"]
allow = ["pull"]

[[rules]]
who = ["dora"]
repositories = ["team/**"]
allow = ["pull", "push"]

[[rules]]
who = ["anonymous"]
repositories = ["public/**"]
allow = ["pull"]
"""
CERTIFICATE = ClientCertificate("CN=build", "build", (), (), (), datetime(2100, 1, 1, tzinfo=UTC), "")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it reaches the application."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    certificate: ClientCertificate | None = None
    peer: str = "192.0.2.1"
    scheme: str = "http"


async def send(registry: Registry, asked: Asked) -> Answer:
    """Send a request to an application, with a client certificate if it has one."""
    tls = {} if asked.certificate is None else {"tls": {"client_certificate": asked.certificate}}
    length = {} if asked.method in {"GET", "HEAD", "DELETE"} else {"content-length": str(len(asked.body))}
    headers = {"host": "registry.example", **length, **asked.headers}
    scope = {
        "type": "http",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "client": (asked.peer, 50000),
        "server": ("127.0.0.1", 5000),
        "extensions": tls,
    }
    messages: list[Message] = [{"type": "http.request", "body": asked.body}]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def take(message: Message) -> None:
        sent.append(message)

    await registry(scope, receive, take)
    told = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    if sent[0]["status"] >= 400 and asked.method != "HEAD":
        check_envelope(sent[0]["status"], body)
    return Answer(sent[0]["status"], told, body)


def basic(user: str, password: str) -> Mapping[str, str]:
    """The header of somebody who sends a password."""
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> Mapping[str, str]:
    """The header of somebody who sends a token."""
    return {"authorization": f"Bearer {token}"}


class House:
    """The files and the robot of a registry, and its content before each request: every request finds the same."""

    def __init__(self, directory: Path) -> None:
        self.policy = directory / "policy.toml"
        self.policy.write_text(POLICY)
        self.users = directory / "htpasswd"
        # The lowest cost: what bcrypt costs is no business of these tests.
        lines = [f"{user}:{hash_password(user, password, cost=4)}\n" for user, password in PASSWORDS.items()]
        self.users.write_text("".join(lines))
        self.driver = MemoryDriver()
        self.robot = ""
        self.auth: dict[str, object] = {"htpasswd": str(self.users), "policy": str(self.policy)}

    async def fill(self, *repositories: str) -> None:
        """Push an image to each repository, and make the robot `ci`."""
        registry = build(Settings.model_validate({}), self.driver)
        await registry.start()
        client = Client(registry, self.driver)
        for repository in repositories:
            assert (await client.push_manifest(name=repository)).status_code == 201
        await client.close()
        grants = [Grant(("team/**",), frozenset({Action.PULL, Action.PUSH}))]
        self.robot = (await Robots(RobotStore(self.driver)).create("ci", grants))[0]

    async def open(self, *, auth: bool = True, **settings: object) -> Registry:
        """Start a registry on a copy of the content."""
        given = {"auth": self.auth, **settings} if auth else settings
        registry = build(Settings.model_validate(given), self.copy())
        await registry.start()
        return registry

    def copy(self) -> MemoryDriver:
        """The content, to be changed by one request."""
        return deepcopy(self.driver)

    async def token(self, registry: Registry, headers: Mapping[str, str], *scopes: str) -> str:
        """Ask for an access token."""
        query = "&".join(["service=pierhead", *(f"scope={scope}" for scope in scopes)])
        answer = await send(registry, Asked("GET", "/token", query, headers=headers))
        assert answer.status == 200, answer.body
        return str(answer.json()["token"])
