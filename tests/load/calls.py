"""The requests of a client that outlives restarts of the server: what it sends, and how connections may end."""

import contextlib
import http.client
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tests.races.clients import Answer

Body = bytes | list[bytes]
"""Sent with its length, or in chunks."""

CHUNK_BYTES = 32 << 10
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 0.05
DOWN_SECONDS_MAX = 60.0

T = TypeVar("T")


class Lost(Exception):
    """The connection broke before the answer had come whole: nobody knows whether the request was carried out."""


@dataclass(slots=True)
class Outages:
    """When the server, or a worker of it, was made to end: from the signal until it served again."""

    spans: list[tuple[float, float]] = field(default_factory=list)
    _since: float | None = None

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """The server is not there for the length of a `with` block."""
        self._since = time.monotonic()
        yield
        self.spans.append((self._since, time.monotonic()))
        self._since = None

    def excuse(self, start: float, end: float) -> bool:
        """Whether a connection that lived from `start` to `end` may have been cut by one."""
        since = self._since
        return (since is not None and since <= end) or any(a <= end and start <= b for a, b in self.spans)


class Caller:
    """One connection at a time, opened anew when it was lost; `closing` says that each request has its own."""

    def __init__(self, address: str, outages: Outages) -> None:
        self._address = address
        self._outages = outages
        self._connection: http.client.HTTPConnection | None = None
        self._opened = 0.0
        self.retries = 0

    def send(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        expected: Sequence[int] = (),
        closing: bool = False,
    ) -> Answer:
        """Send a request and read the answer whole. Raises Lost; AssertionError for a status not expected."""
        sent = {**(headers or {}), **({"Connection": "close"} if closing else {})}
        with self._losing(f"{method} {path}"):
            connection = self._connect()
            connection.request(method, path, body, sent, encode_chunked=not isinstance(body, bytes | None))
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        if closing:
            self.close()
        assert not expected or answer.status in expected, f"{method} {path}: {answer.status} {answer.body[:500]!r}"
        assert answer.status < 500, f"{method} {path}: {answer.status}"
        return answer

    def break_off(self, method: str, path: str, body: bytes, *, announced: int) -> None:
        """Send less of a body than was announced, and close the connection. Raises Lost."""
        with self._losing(f"{method} {path}"):
            connection = self._connect()
            connection.putrequest(method, path)
            connection.putheader("Content-Length", str(announced))
            connection.endheaders()
            connection.send(body)
        self.close()

    def until_answered(self, work: Callable[[], T]) -> T:
        """Do work again until no connection is lost in it: the server may be starting."""
        deadline = time.monotonic() + DOWN_SECONDS_MAX
        while True:
            try:
                return work()
            except Lost:
                self.retries += 1
                assert time.monotonic() < deadline, "the server has not come back"
                time.sleep(RETRY_SECONDS)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            self._opened = time.monotonic()
            self._connection = http.client.HTTPConnection(self._address, timeout=ANSWER_SECONDS)
        return self._connection

    @contextlib.contextmanager
    def _losing(self, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            opened = self._opened
            self.close()
            if not self._outages.excuse(opened, time.monotonic()):
                raise AssertionError(f"{what}: the connection was lost, and the server was up") from error
            raise Lost(what) from error


def either(chance: random.Random, body: bytes) -> Body:
    """The body with its length, or in chunks."""
    return body if chance.random() < 0.5 else chunks_of(body)


def chunks_of(body: bytes) -> list[bytes]:
    """The body as docker sends it."""
    return [body[start : start + CHUNK_BYTES] for start in range(0, len(body), CHUNK_BYTES)]


def code_of(answer: Answer) -> str:
    """The code of the first error in the envelope."""
    return str(json.loads(answer.body)["errors"][0]["code"])
