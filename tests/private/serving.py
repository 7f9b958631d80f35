"""A registry in its own processes that believes tokens of others, and what those do who bring one.

Run as `python -m tests.private.serving serve ...` it is a Pierhead that asks issuers for their keys every second
instead of every minute.
"""

import base64
import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from registry.auth import key_sources
from registry.media_types import IMAGE
from storage.digest import Digest
from tests.distribution import serving_distribution
from tests.races.clients import Answer, Client
from tests.races.workers import worker_of
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import Server, start

HURRIED = "tests.private.serving"
FORM = "application/x-www-form-urlencoded"
STREAM = "application/octet-stream"
CONNECTIONS_MAX = 200

Config = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Place:
    """A running registry, and a visitor at each of its workers."""

    server: Server
    visitors: "list[Visitor]"

    def guests(self) -> "list[Visitor]":
        """The visitors, with new addresses: what others have guessed wrong does not count against them."""
        for visitor in self.visitors:
            visitor.address = _some_address()
        return self.visitors


@contextlib.contextmanager
def private(
    directory: Path,
    *,
    policy: str | None = None,
    oidc: Sequence[Config] = (),
    issuers: Sequence[Config] = (),
    workers: int = 2,
    module: str = "registry",
) -> Iterator[Place]:
    """Serve `directory` for the length of a `with` block; what is logged goes to `pierhead.log` in it."""
    directory.mkdir(parents=True, exist_ok=True)
    # Everybody comes from 127.0.0.1: the header tells apart who counts as a guesser.
    environment = {"PIERHEAD_TRUSTED_PROXIES": "127.0.0.1"}
    for name, value in (("PIERHEAD_AUTH_OIDC", oidc), ("PIERHEAD_AUTH_ISSUERS", issuers)):
        if value:
            environment[name] = json.dumps(value)
    if policy is not None:
        (directory / "policy.toml").write_text(policy)
        environment["PIERHEAD_AUTH_POLICY"] = str(directory / "policy.toml")
    log = directory / "pierhead.log"
    server = start(directory / "data", log=log, workers=workers, environment=environment, module=module)
    found: list[Visitor] = []
    try:
        found = one_for_each_worker(server, workers)
        yield Place(server, found)
    finally:
        for visitor in found:
            visitor.client.close()
        server.stop()


class Visitor:
    """Somebody with a connection to one worker, who comes from an address that no other visitor has."""

    def __init__(self, server: Server) -> None:
        self.client = Client(server.address, reconnect_after=0)
        self.address = _some_address()

    def send(
        self, method: str, path: str, authorization: str = "", *, body: bytes | None = None, content_type: str = ""
    ) -> Answer:
        """Send a request and read the answer."""
        headers = {"X-Forwarded-For": self.address}
        if authorization:
            headers["Authorization"] = authorization
        if content_type:
            headers["Content-Type"] = content_type
        return self.client.send(method, path, body, headers)

    def push(self, authorization: str, repository: str, tag: str = "latest", *, note: str = "") -> int:
        """Push an image: 201 if all of it was taken, else the status of the first refusal."""
        for content in (LAYER, CONFIG):
            status = self._push_blob(authorization, repository, content)
            if status != 201:
                return status
        body = encode(image(annotations={"note": note}))
        path = f"/v2/{repository}/manifests/{tag}"
        return self.send("PUT", path, authorization, body=body, content_type=IMAGE).status

    def pull(self, authorization: str, repository: str, reference: str = "latest") -> int:
        """Pull an image: 200 if all of it came, else the status of the first refusal."""
        for path in (f"manifests/{reference}", f"blobs/{Digest.of(LAYER)}", f"blobs/{Digest.of(CONFIG)}"):
            answer = self.send("GET", f"/v2/{repository}/{path}", authorization)
            if answer.status != 200:
                return answer.status
        return 200

    def _push_blob(self, authorization: str, repository: str, content: bytes) -> int:
        begun = self.send("POST", f"/v2/{repository}/blobs/uploads/", authorization, body=b"")
        if begun.status != 202:
            return begun.status
        sent = self.send("PATCH", begun.headers["location"], authorization, body=content, content_type=STREAM)
        if sent.status != 202:
            return sent.status
        location = sent.headers["location"]
        joint = "&" if "?" in location else "?"
        return self.send("PUT", f"{location}{joint}digest={Digest.of(content)}", authorization, body=b"").status


def one_for_each_worker(server: Server, workers: int) -> list[Visitor]:
    """Open connections until each worker has one, and return those. Raises AssertionError if some worker gets none."""
    found: dict[int, Visitor] = {}
    others: list[Visitor] = []
    for _ in range(CONNECTIONS_MAX):
        visitor = Visitor(server)
        assert visitor.send("GET", "/v2/").status == 401
        if found.setdefault(worker_of(server, visitor.client), visitor) is not visitor:
            others.append(visitor)  # open until the end, so that the workers share them
        if len(found) == workers:
            break
    for visitor in others:
        visitor.client.close()
    assert len(found) == workers, f"only {len(found)} of {workers} workers have taken a connection"
    return list(found.values())


def _some_address() -> str:
    return f"10.{random.randrange(256)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def serving_distribution_with(auth: Config, program: str, directory: Path) -> AbstractContextManager[Server]:
    """Serve `directory` with the real distribution for the length of a `with` block; `auth` is its section `auth`.

    Raises RuntimeError with the end of its log if it does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return serving_distribution(program, directory / "data", log=directory / "distribution.log", auth=auth)


# Ways to show a token: each returns the answer to it, and what to send with requests from then on.


def with_basic_at_token(visitor: Visitor, token: str, scope: str) -> tuple[Answer, str]:
    """As docker login does, and all clients that were given user and password."""
    path = f"/token?service=pierhead&scope={quote(scope)}"
    return _issued(visitor.send("GET", path, basic("ci", token)))


def with_form_at_token(visitor: Visitor, token: str, scope: str) -> tuple[Answer, str]:
    """As containerd does (RFC 6749 section 4.3)."""
    fields = {
        "grant_type": "password",
        "username": "oauth2accesstoken",
        "password": token,
        "service": "pierhead",
        "scope": scope,
        "client_id": "test",
    }
    return _issued(visitor.send("POST", "/token", body=urlencode(fields).encode(), content_type=FORM))


def as_bearer(visitor: Visitor, token: str, _scope: str) -> tuple[Answer, str]:
    """As curl may do."""
    return visitor.send("GET", "/v2/", f"Bearer {token}"), f"Bearer {token}"


def as_basic(visitor: Visitor, token: str, _scope: str) -> tuple[Answer, str]:
    """As clients do that never ask for a token."""
    return visitor.send("GET", "/v2/", basic("anybody", token)), basic("anybody", token)


Way = Callable[[Visitor, str, str], tuple[Answer, str]]

WAYS: Mapping[Way, int] = {with_basic_at_token: 401, with_form_at_token: 401, as_bearer: 403, as_basic: 403}
"""Every way, with the status for what the bearer may not do: with an access token of ours clients ask for another."""


def _issued(answer: Answer) -> tuple[Answer, str]:
    return answer, f"Bearer {json.loads(answer.body)['token']}" if answer.status == 200 else ""


def basic(user: str, password: str) -> str:
    """The header of somebody who sends a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def scope_of(*repositories: str, actions: str = "pull,push") -> str:
    """Scopes, as they stand in one parameter."""
    return " ".join(f"repository:{repository}:{actions}" for repository in repositories)


def code_of(answer: Answer) -> str:
    """The code in an error's envelope."""
    return str(json.loads(answer.body)["errors"][0]["code"])


def assert_log_is_silent(server: Server, *tokens: str) -> None:
    """Nothing of the tokens is in the log, and nothing has failed."""
    log = server.log.read_text()
    for token in tokens:
        for part in token.split("."):
            assert len(part) < 16 or part not in log
    for line in log.splitlines():
        assert "request failed" not in line, line
        assert "raceback" not in line, line


if __name__ == "__main__":
    from registry.cli.main import main

    key_sources.FETCH_SECONDS = key_sources.FIRST_FETCH_SECONDS = 1.0
    main()
