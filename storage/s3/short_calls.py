"""The calls that most requests consist of, made in the event loop: GET, HEAD, PUT and DELETE of a small object.

boto3 takes about 0.8 ms of a processor for each of them, and a thread; this takes a fifth of that. It knows what these
four need and nothing else: where the bucket is, who signs and with which CAs is asked of boto3 once, and whatever is
out of the ordinary (an unknown parameter, a long body, a redirect, a proxy) is left to boto3.

Signatures: AWS Signature Version 4, in the Authorization header.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import ssl
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.credentials import ReadOnlyCredentials

from storage.s3.exchanges import BODY_BYTES_MAX, Connection, Received, TooLong
from storage.s3.failures import Answer
from storage.s3.timestamps import read_timestamp
from storage.threads import whole

Response = dict[str, Any]

IDLE_SECONDS = 15.0
"""Less than stores, and what stands before them, keep a connection that nobody uses."""

_METHODS = {"get_object": "GET", "head_object": "HEAD", "put_object": "PUT", "delete_object": "DELETE"}
_HEADERS = {
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "StorageClass": "x-amz-storage-class",
}
_META = "x-amz-meta-"
_NAME = re.compile(r"[a-z0-9_.-]+")
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
        port = 443 if place.tls else 80
        self._address = (found.hostname or "", found.port or port)
        self._host = found.netloc.rpartition("@")[2].removesuffix(f":{port}")  # as http.client has it
        self._path = found.path
        self._turns = asyncio.Semaphore(calls_max)
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._now = now
        self._idle: deque[Connection] = deque()
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
        path = f"{self._path}{quote(str(parameters['Key']), safe='/~')}"
        async with self._turns:
            credentials = self._credentials()
            if credentials is None or not _can_be_sent(credentials.access_key, credentials.token or ""):
                return None
            return await whole(self._attempt(_Request(method, path, headers, body), credentials, finish))

    def close(self) -> None:
        """Close all connections; those in use once their calls have ended."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    async def _attempt(
        self, request: _Request, credentials: ReadOnlyCredentials, finish: Callable[[Response], object] | None
    ) -> Response | Answer | None:
        try:
            connection = await self._connection()
        except OSError as error:
            return Answer(broken=_how(error, "no connection", "no connection in time"))
        except ValueError:
            return None  # no name of a host
        try:
            async with asyncio.timeout(self._read_seconds):
                answer = await connection.exchange(request.method, self._signed(request, credentials))
        except (OSError, EOFError, ValueError) as error:
            if isinstance(error, TooLong) and request.method == "GET":
                return None  # what writes is not done a second time without a word
            return Answer(broken=_how(error, "the connection was closed", "no answer in time"))
        finally:
            self._put_back(connection)
        if answer.status >= 300:
            refusal = _refusal(answer)
            return None if refusal.status in _CORRECTED or refusal.code in _CORRECTED else refusal
        try:
            response = _response(answer)
        except (ValueError, KeyError):
            return Answer(broken="its answer was cut off")
        if finish is not None:
            finish(response)
        return response

    def _signed(self, request: _Request, credentials: ReadOnlyCredentials) -> bytes:
        """A request as it is sent. What a proxy may change is not signed."""
        headers = {**request.headers, "host": self._host}
        digest = hashlib.sha256(request.body).hexdigest() if request.body else _NO_BODY
        authorization = sign(
            request.method,
            request.path,
            headers,
            digest,
            credentials=credentials,
            region=self._place.region,
            moment=self._now(),
        )
        lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        lines += [f"authorization: {authorization}", "accept-encoding: identity", "user-agent: pierhead"]
        if request.method == "PUT":
            lines.append(f"content-length: {len(request.body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body

    async def _connection(self) -> Connection:
        self._drop_old()
        while self._idle:
            found = self._idle.pop()
            if found.is_reusable:
                return found
            found.abort()
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_seconds):
            _transport, connection = await loop.create_connection(Connection, *self._address, ssl=self._place.tls)
        return connection

    def _put_back(self, connection: Connection) -> None:
        self._drop_old()
        if connection.is_reusable and not self._closed:
            connection.used_at = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()

    def _drop_old(self) -> None:
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle and self._idle[0].used_at <= oldest:
            self._idle.popleft().abort()


def sign(
    method: str,
    path: str,
    headers: dict[str, str],
    digest: str,
    *,
    credentials: ReadOnlyCredentials,
    region: str,
    moment: datetime,
) -> str:
    """Add date, hash and token to the headers, and return what Authorization says. Every header is signed.

    Names are in small letters, values without spaces to trim. `digest` is that of the body: SHA-256, in hex. It is
    signed over TLS too: policies of buckets can demand it.
    """
    time = moment.strftime("%Y%m%dT%H%M%SZ")
    headers |= {"x-amz-content-sha256": digest, "x-amz-date": time}
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token
    names = sorted(headers)
    signed = ";".join(names)
    listed = "".join(f"{name}:{headers[name]}\n" for name in names)
    canonical = f"{method}\n{path}\n\n{listed}\n{signed}\n{digest}"
    scope = f"{time[:8]}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(credentials.secret_key, time[:8], region), text.encode(), "sha256").hex()
    return (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, SignedHeaders={signed}, Signature={signature}"
    )


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _headers(parameters: Mapping[str, object]) -> dict[str, str] | None:
    """The headers that parameters of boto3 stand for; None if one is not known, or can't be sent as it is."""
    headers: dict[str, str] = {}
    for name, value in parameters.items():
        if name in {"Key", "Body"}:
            continue
        if name == "Metadata" and isinstance(value, Mapping):
            if not all(isinstance(key, str) and _NAME.fullmatch(key) for key in value):
                return None
            headers |= {f"{_META}{key}": str(each) for key, each in value.items()}
        elif name in _HEADERS:
            headers[_HEADERS[name]] = str(value)
        else:
            return None
    return headers if _can_be_sent(*headers.values()) else None


def _can_be_sent(*values: str) -> bool:
    """Tell whether they can be values of headers: one line, and no spaces that the signature would leave out."""
    return all(
        value.isascii() and value.isprintable() and value == value.strip() and "  " not in value for value in values
    )


def _response(answer: Received) -> Response:
    """An answer as boto3 gives it, as far as anybody here looks. Raises KeyError and ValueError."""
    headers = answer.headers
    found: Response = {
        "ResponseMetadata": {"HTTPStatusCode": answer.status, "HTTPHeaders": headers},
        "Metadata": {name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)},
        "Body": ShortBody(answer.body),
    }
    if answer.status != 204:
        found["ContentLength"] = int(headers["content-length"])
    if "etag" in headers:
        found["ETag"] = headers["etag"]
    if "last-modified" in headers:
        found["LastModified"] = read_timestamp(headers["last-modified"])
    return found


def _refusal(answer: Received) -> Answer:
    """What an error says. The answer to a HEAD has no body, and then the status is the code."""
    code = ""
    if answer.body:
        with contextlib.suppress(ET.ParseError, ValueError, LookupError):
            code = ET.fromstring(answer.body).findtext("{*}Code") or ""  # noqa: S314  # of the store that we trust
    wait = answer.headers.get("retry-after", "")
    seconds = float(wait) if wait.isdecimal() else 0.0
    return Answer(code or str(answer.status), answer.status, retry_after=seconds)


def _how(error: Exception, closed: str, late: str) -> str:
    if isinstance(error, ssl.SSLError):
        return "TLS failed: check the CA bundle"
    if isinstance(error, TimeoutError):
        return late
    return closed if isinstance(error, OSError) else "its answer was cut off"
