"""Two ways to ask a registry: over HTTP, and in this process."""

import asyncio
import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from registry.app import build
from registry.config import Settings
from tests.crash.steps import REQUEST_HEADER

SECONDS_MAX = 30


class Lost(Exception):
    """The connection broke before the answer had come whole: nobody knows whether the request was carried out."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client(Protocol):
    """Whoever answers requests."""

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, number: int = 0
    ) -> Answer:
        """Send one request and read the answer whole. Raises Lost."""
        ...


class HttpClient:
    """A server at a URL. Each request has a connection of its own, so that any worker may get it."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, number: int = 0
    ) -> Answer:
        connection = http.client.HTTPConnection(self._address, timeout=SECONDS_MAX)
        sent = {**(headers or {}), REQUEST_HEADER.decode(): str(number), "connection": "close"}
        try:
            connection.request(method, target, body, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise Lost(f"{method} {target}") from error
        finally:
            connection.close()


class HereClient:
    """A registry on a data directory that nobody serves, in this process: what a fresh start would answer."""

    def __init__(self, data: Path) -> None:
        self._runner = asyncio.Runner()
        self._registry = build(Settings(data=data))

    def __enter__(self) -> Self:
        try:
            self._runner.run(self._registry.start())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._registry.close())
        self._runner.close()

    def request(
        self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, number: int = 0
    ) -> Answer:
        return self._runner.run(self._request(method, target, body, {**(headers or {}), "x-number": str(number)}))

    async def _request(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        path, _, query = target.partition("?")
        lines = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [*lines, (b"content-length", b"%d" % len(body)), (b"host", b"127.0.0.1")],
            "scheme": "http",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._registry(scope, receive, send)
        start = sent[0]
        got = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], got, b"".join(message.get("body", b"") for message in sent[1:]))
