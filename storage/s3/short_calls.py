"""The calls that most requests consist of, made in the event loop: GET, HEAD, PUT and DELETE of a small object.

boto3 takes about 0.8 ms of a processor for each of them, and a thread; this takes a fifth of that. It knows what these
four need and nothing else: where the bucket is, who signs and with which CAs is asked of boto3 once, and whatever is
out of the ordinary (an unknown parameter, a long body, a redirect, a proxy) is left to boto3.

Signatures: AWS Signature Version 4, in the Authorization header. Messages: RFC 9112.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ssl
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.credentials import ReadOnlyCredentials

from storage.s3.failures import Answer
from storage.threads import whole

Response = dict[str, Any]

BODY_BYTES_MAX = 1 << 20
"""Longer bodies are read and hashed in threads."""

IDLE_SECONDS = 15.0
HEAD_BYTES_MAX = 64 << 10

_METHODS = {"get_object": "GET", "head_object": "HEAD", "put_object": "PUT", "delete_object": "DELETE"}
_HEADERS = {
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "StorageClass": "x-amz-storage-class",
}
_META = "x-amz-meta-"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_NO_BODY = hashlib.sha256(b"").hexdigest()
_CORRECTED = frozenset({301, 302, 303, 307, 308, "RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "400"})
"""Statuses and codes after which boto3 tries again: at another place, at another time, in another region."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bucket is: its URL without a key, as boto3 makes it, and how TLS is spoken to it."""

    url: str
    region: str
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def to_bytes(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in self.headers.items())]
        if self.method == "PUT":
            lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(eq=False, slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float = 0.0


class ShortBody:
    """The body of an answer that was read already."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self, amt: int | None = None) -> bytes:
        """Read that many bytes at most, or all that follow."""
        taken = self._body if amt is None else self._body[:amt]
        self._body = self._body[len(taken) :]
        return taken

    def close(self) -> None:
        """Let go of nothing."""


class ShortCalls:
    """One bucket, as long as the credentials are the same. Connections are kept for the next call."""

    def __init__(
        self,
        place: Place,
        credentials: Callable[[], ReadOnlyCredentials | None],
        *,
        calls_max: int,
        connect_seconds: float,
        read_seconds: float,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        found = urlsplit(place.url)
        self._place = place
        self._credentials = credentials
        self._host = found.netloc
        self._address = (found.hostname or "", found.port or (443 if place.tls else 80))
        self._path = found.path
        self._turns = asyncio.Semaphore(calls_max)
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._now = now
        self._idle: deque[_Connection] = deque()
        self._closed = False

    async def call(
        self, operation: str, parameters: Mapping[str, object], finish: Callable[[Response], object] | None
    ) -> Response | Answer | None:
        """Make a call; None if it is one for boto3. What was begun is ended before a cancellation is raised."""
        method = _METHODS.get(operation)
        headers = _headers(parameters)
        body = parameters.get("Body", b"")
        if method is None or headers is None or not isinstance(body, bytes) or len(body) > BODY_BYTES_MAX:
            return None
        if method == "GET" and finish is None:
            return None  # its body is to be read later
        credentials = self._credentials()
        if credentials is None:
            return None
        async with self._turns:
            path = f"{self._path}{quote(str(parameters['Key']), safe='/~')}"
            request = _Request(method, path, headers, body)
            self._sign(request, credentials)
            return await whole(self._attempt(request, finish))

    def close(self) -> None:
        """Close all connections; those in use once their calls have ended."""
        self._closed = True
        while self._idle:
            connection = self._idle.pop()
            connection.writer.transport.abort()

    async def _attempt(
        self, request: "_Request", finish: Callable[[Response], object] | None
    ) -> Response | Answer | None:
        try:
            connection = await self._connection()
        except (OSError, TimeoutError) as error:
            return Answer(broken=_how(error, "no connection", "no connection in time"))
        kept = False
        try:
            async with asyncio.timeout(self._read_seconds):
                connection.writer.write(request.to_bytes())
                answer = await _read(connection.reader, request.method)
            if answer is None:
                return None
            kept = answer.keeps_open
        except (OSError, TimeoutError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            return Answer(broken=_how(error, "the connection was closed", "no answer in time"))
        finally:
            self._put_back(connection, keep=kept)
        if answer.status >= 300:
            refusal = answer.refusal()
            return None if refusal.status in _CORRECTED or refusal.code in _CORRECTED else refusal
        try:
            response = answer.response()
        except (ValueError, KeyError):
            return Answer(broken="its answer was cut off")
        if finish is not None:
            finish(response)
        return response

    def _sign(self, request: "_Request", credentials: ReadOnlyCredentials) -> None:
        """Add Host, date, hash and signature. Every header that the request has so far is signed."""
        headers, body = request.headers, request.body
        moment = self._now().strftime("%Y%m%dT%H%M%SZ")
        digest = _NO_BODY if not body else hashlib.sha256(body).hexdigest() if self._place.tls is None else _UNSIGNED
        headers |= {"host": self._host, "x-amz-content-sha256": digest, "x-amz-date": moment}
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        names = sorted(headers)
        signed = ";".join(names)
        listed = "".join(f"{name}:{headers[name]}\n" for name in names)
        canonical = f"{request.method}\n{request.path}\n\n{listed}\n{signed}\n{digest}"
        scope = f"{moment[:8]}/{self._place.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _signing_key(credentials.secret_key, moment[:8], self._place.region)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},SignedHeaders={signed},Signature={signature}"
        )

    async def _connection(self) -> _Connection:
        now = asyncio.get_running_loop().time()
        while self._idle:
            found = self._idle.pop()
            if now - found.used < IDLE_SECONDS and not found.reader.at_eof() and not found.writer.is_closing():
                return found
            found.writer.transport.abort()
        async with asyncio.timeout(self._connect_seconds):
            reader, writer = await asyncio.open_connection(*self._address, ssl=self._place.tls, limit=HEAD_BYTES_MAX)
        return _Connection(reader, writer)

    def _put_back(self, connection: _Connection, *, keep: bool) -> None:
        if keep and not self._closed:
            connection.used = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.writer.transport.abort()


@dataclass(frozen=True, slots=True)
class _Read:
    """An answer as it came: headers by their names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def keeps_open(self) -> bool:
        return "close" not in self.headers.get("connection", "").lower()

    def response(self) -> Response:
        """The answer as boto3 gives it, as far as anybody here looks. Raises KeyError and ValueError."""
        headers = self.headers
        found: Response = {
            "ResponseMetadata": {"HTTPStatusCode": self.status, "HTTPHeaders": headers},
            "Metadata": {n.removeprefix(_META): value for n, value in headers.items() if n.startswith(_META)},
            "Body": ShortBody(self.body),
        }
        if self.status != 204:
            found["ContentLength"] = int(headers["content-length"])
        if "etag" in headers:
            found["ETag"] = headers["etag"]
        if "last-modified" in headers:
            found["LastModified"] = parsedate_to_datetime(headers["last-modified"])
        return found

    def refusal(self) -> Answer:
        """What an error says. The answer to a HEAD has no body, and then the status is the code."""
        code = ""
        if self.body:
            with contextlib.suppress(ET.ParseError):
                code = ET.fromstring(self.body).findtext("Code") or ""  # noqa: S314  # of the store that we trust
        wait = self.headers.get("retry-after", "")
        seconds = float(wait) if wait.isdigit() else 0.0
        return Answer(code or str(self.status), self.status, retry_after=seconds)


async def _read(reader: asyncio.StreamReader, method: str) -> _Read | None:
    """Read an answer; None if its body is too long for here. Raises EOFError, ValueError, LimitOverrunError."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        status, headers = _parse_head(head)
        if status >= 200:
            break
    if method == "HEAD" or status in {204, 304}:
        return _Read(status, headers, b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
        return None if body is None else _Read(status, headers | {"content-length": str(len(body))}, body)
    length = int(headers["content-length"]) if "content-length" in headers else -1
    if length < 0:
        raise ValueError("an answer of unknown length")
    if length > BODY_BYTES_MAX:
        return None
    return _Read(status, headers, await reader.readexactly(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes | None:
    chunks: list[bytes] = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        if size + sum(map(len, chunks)) > BODY_BYTES_MAX:
            return None
        chunks.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # a trailer
    return b"".join(chunks)


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    version, _space, rest = first.partition(" ")
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise ValueError("no answer of HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("no header")
        headers[name.lower()] = value.strip()
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    return int(rest[:3]), headers


def _headers(parameters: Mapping[str, object]) -> dict[str, str] | None:
    """The headers that parameters of boto3 stand for; None if one is not known."""
    headers: dict[str, str] = {}
    for name, value in parameters.items():
        if name in {"Key", "Body"}:
            continue
        if name == "Metadata" and isinstance(value, Mapping):
            headers |= {f"{_META}{key}": str(each) for key, each in value.items()}
        elif name in _HEADERS:
            headers[_HEADERS[name]] = str(value)
        else:
            return None
    if all(value.isascii() and value.isprintable() and value == value.strip() for value in headers.values()):
        return headers
    return None


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _how(error: Exception, closed: str, late: str) -> str:
    if isinstance(error, ssl.SSLError):
        return "TLS failed: check the CA bundle"
    if isinstance(error, TimeoutError):
        return late
    return closed if isinstance(error, OSError) else "its answer was cut off"
