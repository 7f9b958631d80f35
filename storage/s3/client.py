"""Calls to the bucket: in threads, repeated within limits, and answered in storage's words."""

import asyncio
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

import boto3
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.handlers import convert_body_to_file_like_object
from botocore.httpsession import get_cert_path
from botocore.session import Session
from botocore.utils import get_environ_proxies

from storage.errors import StorageUnavailable
from storage.s3.connections import require_whole_answers
from storage.s3.failures import Answer, Refusal, answer_of, refused, unavailable, unusable
from storage.s3.settings import S3Settings
from storage.s3.short_calls import Place, ShortCalls
from storage.s3.threads import Threads
from storage.s3.timestamps import read_timestamp

BACKOFF_SECONDS = 0.1
_ANY_KEY = "any-key"
RENEW_SECONDS = 10.0
"""How often credentials are read again, at most, while the store refuses them."""

SEND_BYTES = 1 << 18
"""What a connection has to take within the time limit for connecting: by default about 50 KiB a second."""

Response = dict[str, Any]

PATIENT = frozenset({"copy_object", "upload_part_copy", "complete_multipart_upload"})
"""Calls in which the store moves bytes before it answers."""


class Body(Protocol):
    """The bytes of an object as they arrive. Blocks."""

    def read(self, amt: int | None = None) -> bytes:
        """Read that many bytes at most, or all that follow."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class Client(Protocol):
    """What is used of boto3's client: its operations are attributes made at run time."""

    meta: Any

    def __getattr__(self, name: str) -> Callable[..., Response]: ...


def make_session(settings: S3Settings) -> boto3.session.Session:
    """Make what finds the credentials: those given, else by every means that boto3 knows."""
    core = Session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_timestamp)
    return boto3.session.Session(
        botocore_session=core,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        aws_session_token=settings.session_token,
        profile_name=settings.profile,
    )


def make_client(session: boto3.session.Session, settings: S3Settings, *, read_timeout_seconds: float) -> Client:
    """Make boto3's client, which never repeats a call by itself."""
    style = {True: "path", False: "virtual", None: "auto"}[settings.path_style]
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": style},
        connect_timeout=settings.connect_timeout_seconds,
        read_timeout=read_timeout_seconds,
        retries={"total_max_attempts": 1},
        max_pool_connections=settings.threads_max,
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
        user_agent_extra="pierhead",
    )
    client: Client = session.client(
        "s3",
        region_name=settings.region or session.region_name or "us-east-1",
        endpoint_url=settings.endpoint,
        verify=settings.ca_bundle,
        config=config,
    )
    for operation in ("PutObject", "UploadPart"):
        # Bytes would be sent as a file: in pieces of 16 KiB, each of which takes the interpreter's turn, and only
        # after one more round trip that asks whether they are wanted (Expect: RFC 9110, 10.1.1).
        client.meta.events.unregister(f"before-parameter-build.s3.{operation}", convert_body_to_file_like_object)
        client.meta.events.register(f"before-send.s3.{operation}", _send_in_pieces)
    return client


def _send_in_pieces(request: Any, **_given: object) -> None:  # botocore's, without types
    """Send a large body piece by piece: the time limit is one for each piece, and would be one for the whole."""
    body = request.body
    if isinstance(body, bytes) and len(body) > SEND_BYTES:
        view = memoryview(body)
        request.body = [view[start : start + SEND_BYTES] for start in range(0, len(body), SEND_BYTES)]


def make_short_calls(session: boto3.session.Session, client: Client, settings: S3Settings) -> ShortCalls | None:
    """Make what does the short calls; None where boto3 has to do them.

    That is where it adds checksums, speaks to a proxy, or signs in another way (S3 Express, Outposts, some of the
    access points).
    """
    credentials = session.get_credentials()
    if settings.checksums != "when_required" or credentials is None or settings.bucket.endswith("--x-s3"):
        return None
    signed = client.generate_presigned_url("head_object", Params={"Bucket": settings.bucket, "Key": _ANY_KEY})
    url, _mark, query = str(signed).partition("?")
    scope = dict(parse_qsl(query)).get("X-Amz-Credential", "").split("/")
    if scope[-2:] != ["s3", "aws4_request"] or "X-Amz-Region-Set" in query or get_environ_proxies(url):
        return None
    tls = None
    if url.startswith("https:"):
        known = session._session.get_config_variable("ca_bundle")  # noqa: SLF001  # boto3 has no other way
        try:
            tls = ssl.create_default_context(cafile=settings.ca_bundle or known or get_cert_path(verify=True))
        except OSError:
            return None  # boto3 says what is wrong with the file

    def current() -> ReadOnlyCredentials | None:
        # To renew them takes a call, which is none for the event loop.
        if isinstance(credentials, RefreshableCredentials) and credentials.refresh_needed():
            return None
        found: ReadOnlyCredentials = credentials.get_frozen_credentials()
        return found

    return ShortCalls(
        Place(url.removesuffix(_ANY_KEY), scope[-3], tls),
        current,
        calls_max=settings.threads_max,
        connect_seconds=settings.connect_timeout_seconds,
        read_seconds=settings.read_timeout_seconds,
    )


class Bucket:
    """The bucket below a prefix. Every call is one request to the store, unless it is repeated.

    A repetition is not harmless for a conditional write: the first attempt may have worked, and then the
    second is refused. A Refusal says so, and its caller has to look.
    """

    def __init__(
        self,
        settings: S3Settings,
        threads: Threads,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[float, float], float] = random.uniform,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.threads = threads
        self._prefix = f"{settings.prefix}/" if settings.prefix else ""
        self._client: Client | None = None
        self._patient: Client | None = None
        self._signing: Client | None = None
        self._short: ShortCalls | None = None
        self._connected = 0.0
        self._connecting = asyncio.Lock()
        self._sleep = sleep
        self._jitter = jitter
        self._monotonic = monotonic

    async def connect(self) -> None:
        """Make the clients. Raises StorageUnavailable."""
        await self.threads.run(self._connect)

    def close(self) -> None:
        """Close all connections."""
        if self._short is not None:
            self._short.close()
        for client in (self._client, self._patient, self._signing):
            if client is not None:
                client.close()

    async def call(self, operation: str, key: str = "", /, **parameters: object) -> Response:
        """Make one call about an object. Raises Refusal, and StorageUnavailable when all attempts have failed."""
        if key:
            parameters["Key"] = self.full(key)
        return await self.request(operation, key, parameters)

    async def ask(self, operation: str, key: str, /, **parameters: object) -> Response:
        """Make one call about an object whose refusal nobody expects. Raises StorageError."""
        try:
            return await self.call(operation, key, **parameters)
        except Refusal as error:
            raise refused(error, key) from error

    async def request(
        self,
        operation: str,
        key: str,
        parameters: Mapping[str, object],
        *,
        finish: Callable[[Response], object] | None = None,
    ) -> Response:
        """Make one call, repeating it while that may help.

        `finish` is called with the answer where the call was made, and belongs to the attempt.
        """
        unsure = False
        attempts = self.settings.attempts_max
        for attempt in range(1, attempts + 1):
            began = self._monotonic()
            outcome = await self._short.call(operation, parameters, finish) if self._short is not None else None
            if outcome is None:
                outcome = await self.threads.run(self._call, operation, parameters, finish)
            if not isinstance(outcome, Answer):
                return outcome
            if outcome.is_denied and attempt < attempts and await self._renew(began):
                continue
            if outcome.unusable is not None:
                raise outcome.unusable
            if not outcome.may_pass:
                raise Refusal(outcome.code, outcome.status, unsure=unsure)
            unsure = unsure or outcome.may_have_worked
            if attempt == attempts:
                raise unavailable(outcome, key, attempts=attempts)
            await self.pause(attempt, outcome.retry_after)
        raise AssertionError("there is at least one attempt")

    async def sign(self, operation: str, key: str, /, *, seconds: int, **parameters: object) -> str:
        """Make a URL for one call about an object, at the endpoint of clients. Raises StorageUnavailable."""
        # In a thread: credentials that are about to end are renewed first, by a call to whoever gives them.
        return await self.threads.run(self._sign, operation, {"Key": self.full(key), **parameters}, seconds)

    async def _renew(self, began: float) -> bool:
        """Make new clients, which read the credentials again: they may lie in a file that somebody has renewed.

        boto3 itself looks again only where it was told when they expire. False if that was done a moment ago, but
        before the call that has failed began.
        """
        if self.settings.access_key is not None:
            return False
        async with self._connecting:
            if self._connected < began:
                if self._monotonic() - self._connected < RENEW_SECONDS:
                    return False
                before = self._short
                await self.threads.run(self._connect)
                if before is not None:
                    before.close()
            return True

    async def pause(self, attempt: int, retry_after: float = 0.0) -> None:
        """Wait before the next attempt: longer each time, and differently for each caller."""
        longest = min(self.settings.backoff_seconds_max, BACKOFF_SECONDS * 2.0**attempt)
        least = min(retry_after, self.settings.backoff_seconds_max)
        await self._sleep(max(least, self._jitter(0.0, longest)))

    def full(self, key: str) -> str:
        """The name of a key in the bucket."""
        return self._prefix + key

    def own(self, name: str) -> str:
        """The key of a name in the bucket."""
        return name.removeprefix(self._prefix)

    def source(self, key: str) -> dict[str, str]:
        """A key as the source of a copy."""
        return {"Bucket": self.settings.bucket, "Key": self.full(key)}

    def encryption(self) -> dict[str, str]:
        """What every call that makes an object says of encryption."""
        settings = self.settings
        parameters: dict[str, str] = {}
        if settings.sse is not None:
            parameters["ServerSideEncryption"] = settings.sse
        if settings.kms_key is not None:
            parameters["SSEKMSKeyId"] = settings.kms_key
        return parameters

    def placing(self) -> dict[str, str]:
        """What every call that makes a committed object says of encryption and storage class."""
        parameters = self.encryption()
        if self.settings.storage_class is not None:
            parameters["StorageClass"] = self.settings.storage_class
        return parameters

    def _connect(self) -> None:
        settings = self.settings
        require_whole_answers()
        self._connected = self._monotonic()
        try:
            session = make_session(settings)
            self._client = make_client(session, settings, read_timeout_seconds=settings.read_timeout_seconds)
            self._patient = make_client(session, settings, read_timeout_seconds=settings.copy_timeout_seconds)
            self._signing = self._client
            if settings.redirect_endpoint is not None:
                # The name of the host is signed, so another one can't be put in afterwards.
                outside = replace(settings, endpoint=settings.redirect_endpoint)
                self._signing = make_client(session, outside, read_timeout_seconds=settings.read_timeout_seconds)
            self._short = make_short_calls(session, self._client, settings)
        except Exception as error:
            if (explained := unusable(error)) or isinstance(error, ValueError):
                raise explained or StorageUnavailable(
                    f"no endpoint that can be called ({error}): give http://host:port"
                ) from error
            raise

    def _call(
        self, operation: str, parameters: Mapping[str, object], finish: Callable[[Response], object] | None
    ) -> Response | Answer:
        client = self._patient if operation in PATIENT else self._client
        assert client is not None, "the driver was not started"
        try:
            response: Response = getattr(client, operation)(Bucket=self.settings.bucket, **parameters)
            if finish is not None:
                finish(response)
        except Exception as error:
            if (answer := answer_of(error)) is not None:
                return answer
            if explained := unusable(error):
                return Answer(unusable=explained)
            raise
        return response

    def _sign(self, operation: str, parameters: Mapping[str, object], seconds: int) -> str:
        assert self._signing is not None, "the driver was not started"
        try:
            url = self._signing.generate_presigned_url(
                operation, Params={"Bucket": self.settings.bucket, **parameters}, ExpiresIn=seconds
            )
        except Exception as error:
            if explained := unusable(error):
                raise explained from error
            raise
        return str(url)


def etag_of(response: Mapping[str, Any]) -> str:
    """The entity tag of an answer, without quotes."""
    return str(response["ETag"]).strip('"')


def quoted(etag: str) -> str:
    """An entity tag as headers have it."""
    return f'"{etag}"'
