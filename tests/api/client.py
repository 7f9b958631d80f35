"""A client of one registry over ASGI, which holds every answer to what all answers promise."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from starlette.types import Message

from registry.app import Registry, build
from registry.config import Settings
from registry.media_types import IMAGE
from storage.digest import Digest
from storage.memory import MemoryDriver
from tests.registry.images import CONFIG, LAYER, encode, image

REPOSITORY = "team/app"
OTHER = "team/other"

CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}
"""All codes that distribution-spec has; those of 5xx are distribution's."""
FAULTS = {"UNKNOWN", "UNAVAILABLE"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request that was made without an HTTP library; status 0 if nothing did."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of the first error."""
        return str(json.loads(self.body)["errors"][0]["code"])

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Http(httpx.AsyncClient):
    """Takes paths below `/v2/`, and Locations as they come; checks every answer."""

    def __init__(self, registry: Registry, *, prefix: str = "") -> None:
        super().__init__(
            transport=httpx.ASGITransport(registry),
            base_url="http://registry.example",
            event_hooks={"response": [check_answer]},
        )
        self._below = f"{prefix}/v2/"

    def build_request(self, method: str, url: httpx.URL | str, **arguments: Any) -> httpx.Request:
        """Build a request, see the class."""
        path = str(url)
        return super().build_request(method, path if path.startswith("/") else self._below + path, **arguments)


class Client:
    """Pushes and pulls over `http`, or by `ask` with the very bytes of a request."""

    def __init__(self, registry: Registry, driver: MemoryDriver, *, prefix: str = "") -> None:
        self.registry = registry
        self.driver = driver
        self.prefix = prefix
        self.http = Http(registry, prefix=prefix)

    async def push_blob(self, content: bytes = LAYER, *, name: str = REPOSITORY, algorithm: str = "sha256") -> Digest:
        """Push a blob in one request."""
        digest = Digest.of(content, algorithm)
        answer = await self.http.post(f"{name}/blobs/uploads/", params={"digest": str(digest)}, content=content)
        assert answer.status_code == 201, answer.text
        return digest

    async def push_manifest(
        self,
        document: Mapping[str, object] | bytes | None = None,
        reference: str = "latest",
        *,
        name: str = REPOSITORY,
        media_type: str | None = None,
    ) -> httpx.Response:
        """Push a manifest, by default an image, and the two blobs of images here before it."""
        for content in (CONFIG, LAYER):
            await self.push_blob(content, name=name)
        return await self.put_manifest(document, reference, name=name, media_type=media_type)

    async def put_manifest(
        self,
        document: Mapping[str, object] | bytes | None = None,
        reference: str = "latest",
        *,
        name: str = REPOSITORY,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """PUT a manifest under the type that it names, unless told otherwise."""
        document = image() if document is None else document
        body = document if isinstance(document, bytes) else encode(document)
        if media_type is None:
            media_type = IMAGE if isinstance(document, bytes) else str(document.get("mediaType", IMAGE))
        return await self.http.put(
            f"{name}/manifests/{reference}", content=body, headers={"content-type": media_type, **(headers or {})}
        )

    async def begin(self, *, name: str = REPOSITORY) -> str:
        """Begin a session and return its Location."""
        answer = await self.http.post(f"{name}/blobs/uploads/")
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    async def offset(self, location: str) -> int:
        """The offset that a session tells: 0 and 1 are both told as 0-0, and count as 0 here."""
        answer = await self.http.get(location)
        assert answer.status_code == 204, answer.text
        last = int(answer.headers["range"].removeprefix("0-"))
        return last + 1 if last else 0

    async def ask(
        self,
        method: str,
        path: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        pieces: Sequence[bytes] = (),
        query: bytes = b"",
        vanish: bool = False,
        peer: str = "192.0.2.1",
    ) -> Answer:
        """Send a request with these very bytes as its path; with `vanish` the client goes after its pieces."""
        return await ask(
            self.registry,
            Raw(method, path, query, headers or {}, tuple(pieces), vanish=vanish, peer=peer),
        )

    async def close(self) -> None:
        """Let go of the registry."""
        await self.http.aclose()
        await self.registry.close()


async def open_client(driver: MemoryDriver, **settings: object) -> Client:
    """Build and start a registry on a store, with settings that differ from the defaults."""
    made = Settings.model_validate(settings)
    registry = build(made, driver)
    await registry.start()
    return Client(registry, driver, prefix=made.prefix)


async def check_answer(answer: httpx.Response) -> None:
    """Assert what holds for every answer (protocol conventions and golden rules)."""
    headers = answer.headers
    assert headers["docker-distribution-api-version"] == "registry/2.0"
    assert "content-encoding" not in headers
    assert "transfer-encoding" not in headers
    if answer.status_code in (204, 304):
        assert "content-length" not in headers
    else:
        assert headers["content-length"].isdigit()
    assert all(text.isascii() and text.isprintable() for text in headers.values())
    body = await answer.aread()
    if answer.request.method == "HEAD":
        assert body == b""
    elif answer.status_code not in (204, 304):
        assert int(headers["content-length"]) == len(body)
    if answer.status_code >= 400:
        assert headers["content-type"] == "application/json"
        if answer.request.method != "HEAD":
            check_envelope(answer.status_code, body)


def check_envelope(status: int, body: bytes) -> None:
    """Assert that a refusal is OCI's: known codes, and messages of one line that say something."""
    envelope = json.loads(body)
    assert list(envelope) == ["errors"]
    assert envelope["errors"]
    for error in envelope["errors"]:
        assert set(error) - {"detail"} == {"code", "message"}
        assert error["code"] in (CODES if status < 500 else FAULTS)
        assert len(error["message"]) > 10
        assert error["message"].isprintable()
    assert len({error["code"] for error in envelope["errors"]}) == 1


def code(answer: httpx.Response) -> str:
    """The code of the first error in an answer."""
    return str(answer.json()["errors"][0]["code"])


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return answer.status_code, code(answer)


async def chunked(*pieces: bytes) -> AsyncIterator[bytes]:
    """A body whose length is not announced."""
    for piece in pieces:
        yield piece


@dataclass(frozen=True, slots=True)
class Raw:
    """A request as it stands on the wire."""

    method: str
    path: bytes
    query: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    vanish: bool = False
    peer: str = "192.0.2.1"


async def ask(registry: Registry, request: Raw) -> Answer:
    """Send a request that no HTTP library would."""
    scope = {
        "type": "http",
        "method": request.method,
        "path": request.path.decode("latin-1"),
        "raw_path": request.path,
        "query_string": request.query,
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in request.headers.items()],
        "client": (request.peer, 50000),
        "extensions": {},
    }
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in request.pieces]
    messages.append({"type": "http.disconnect"} if request.vanish else {"type": "http.request", "body": b""})
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await registry(scope, receive, send)
    if not sent:
        return Answer(0, {}, b"")
    headers = {name.decode(): value.decode("latin-1") for name, value in sent[0]["headers"]}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    if sent[0]["status"] >= 400 and request.method != "HEAD":
        check_envelope(sent[0]["status"], body)
    return Answer(sent[0]["status"], headers, body)
