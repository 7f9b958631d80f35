"""Calls made in the event loop mean what boto3's mean: to a real store, and in what is signed and sent."""

import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials

from storage.s3.client import Bucket
from storage.s3.exchanges import BODY_BYTES_MAX
from storage.s3.failures import Refusal
from storage.s3.short_calls import Place, Response, ShortCalls
from storage.s3.threads import Threads
from tests.certificates import HOST
from tests.s3.canned import OK, Last, canned, parse, read, turns
from tests.s3.weed import Store

KEYS = [
    "plain",
    "a b",
    " a ",
    "a+b",
    "100%",
    "a%20b%2Fc",
    "~x!y=z",
    "it's (1)*",
    "ünï/код/漢字/🐳",
    "a/b.c_d-e/f",
    "x" * 255,
    "&?#;:@$,",
    "a..b/.c",
    "[x]{y}|^`<>",
    'quote"d',
]
BODIES = {
    "empty": b"",
    "1 byte": b"1",
    "256 KiB": secrets.token_bytes(256 << 10),
    "the longest": secrets.token_bytes(BODY_BYTES_MAX),
}
METADATA = {"nonce": "0123-abc", "staged-size": "1", "a_b.c": "x=1; y, z~"}
HOLDS, FAILS = "holds", '"00000000000000000000000000000000"'

MOMENT = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def credentials(
    access_key: str = "AKID", secret_key: str = "s/e+c=ret", token: str | None = None
) -> ReadOnlyCredentials:
    return ReadOnlyCredentials(access_key, secret_key, token)


def short_calls(url: str, found: ReadOnlyCredentials | None, tls: ssl.SSLContext | None = None) -> ShortCalls:
    return ShortCalls(
        Place(url, "us-east-1", tls),
        lambda: found,
        calls_max=2,
        connect_seconds=30,
        read_seconds=30,
        now=lambda: MOMENT,
    )


Outcome = Any


class Both:
    """The same calls made in both ways. Those in the event loop are known not to have been left to boto3."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        assert bucket._short is not None
        self._short = bucket._short

    def full(self, key: str) -> dict[str, object]:
        return {"Key": self.bucket.full(key)}

    async def short(self, operation: str, key: str, **parameters: object) -> Outcome:
        self.bucket._short = self._short
        client, self.bucket._client = self.bucket._client, None  # whoever asked boto3 would fail
        try:
            return await self._outcome(operation, key, parameters)
        finally:
            self.bucket._client = client

    async def boto3(self, operation: str, key: str, **parameters: object) -> Outcome:
        self.bucket._short = None
        return await self._outcome(operation, key, parameters)

    async def _outcome(self, operation: str, key: str, parameters: Mapping[str, object]) -> Outcome:
        try:
            found = await self.bucket.request(operation, key, {**self.full(key), **parameters}, finish=read)
        except Refusal as error:
            return error.code, error.status, error.is_absent, error.is_mismatch
        return facts(found)


def facts(found: Response) -> dict[str, object]:
    names = ("ETag", "LastModified", "Body")
    status = found["ResponseMetadata"]["HTTPStatusCode"]
    # boto3 gives the length of what PUT and DELETE answer only where its model of the operation has one.
    length = found.get("ContentLength") or 0
    return {"status": status, "length": length, "meta": found.get("Metadata", {}), **{n: found.get(n) for n in names}}


@pytest.fixture
async def both(weed: Store, prefix: str) -> AsyncIterator[Both]:
    threads = Threads(2, sending_max=1)
    bucket = Bucket(weed.settings(prefix, attempts_max=1), threads)
    await bucket.connect()
    both = Both(bucket)
    yield both
    bucket._short = both._short
    await threads.close()
    bucket.close()
    await turns()


@pytest.mark.parametrize("key", KEYS)
async def test_any_key_means_the_same_object_in_both_ways(both: Both, key: str) -> None:
    for write, look in ((both.short, both.boto3), (both.boto3, both.short)):
        body = secrets.token_bytes(9)
        await write("put_object", key, Body=body, Metadata={"nonce": "1"})

        assert (await look("get_object", key))["Body"] == body
        assert await both.short("get_object", key) == await both.boto3("get_object", key)
        assert await both.short("head_object", key) == await both.boto3("head_object", key)

        await write("delete_object", key)
        assert (await look("head_object", key))[2] is True


@pytest.mark.parametrize("name", BODIES)
async def test_any_body_is_the_same_in_both_ways(both: Both, name: str) -> None:
    body = BODIES[name]
    made = {}
    for way, put in (("short", both.short), ("boto3", both.boto3)):
        made[way] = await put("put_object", way, Body=body, Metadata=METADATA)
        got = await both.boto3("get_object", way)
        assert (got["Body"], got["meta"], got["length"]) == (body, METADATA, len(body))
        assert await both.short("head_object", way) == await both.boto3("head_object", way)
        assert await both.short("get_object", way) == got

    assert made["short"] == made["boto3"]
    assert made["short"]["ETag"].startswith('"')


async def test_longer_bodies_are_left_to_boto3(both: Both) -> None:
    body = secrets.token_bytes(BODY_BYTES_MAX + 1)
    both.bucket._short = both._short
    assert await both._short.call("put_object", {**both.full("k"), "Body": body}, None) is None
    await both.bucket.call("put_object", "k", Body=body)

    assert await both._short.call("get_object", both.full("k"), read) is None
    found = await both.bucket.request("get_object", "k", both.full("k"), finish=read)
    assert found["Body"] == body


@pytest.mark.parametrize(
    ("operation", "condition"),
    [
        ("get_object", "IfMatch"),
        ("get_object", "IfNoneMatch"),
        ("head_object", "IfMatch"),
        ("head_object", "IfNoneMatch"),
        ("put_object", "IfMatch"),
        ("put_object", "IfNoneMatch"),
        ("delete_object", "IfMatch"),
    ],
)
@pytest.mark.parametrize("value", [HOLDS, FAILS, "*"])
@pytest.mark.parametrize("there", [True, False])
async def test_a_condition_holds_or_fails_in_both_ways(
    both: Both, operation: str, condition: str, value: str, there: bool
) -> None:
    outcomes = []
    for way in (both.short, both.boto3):
        etag = (await both.boto3("put_object", "k", Body=b"1"))["ETag"]
        if not there:
            await both.boto3("delete_object", "k")
        parameters = {condition: etag if value == HOLDS else value}
        if operation == "put_object":
            parameters["Body"] = b"2"
        outcome = await way(operation, "k", **parameters)
        after = await both.boto3("get_object", "k")
        for found in (outcome, after):
            if isinstance(found, dict):
                found.pop("LastModified")
        outcomes.append((outcome, after))

    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("operation", ["get_object", "head_object", "delete_object"])
async def test_what_is_absent_is_absent_in_both_ways(both: Both, operation: str) -> None:
    assert await both.short(operation, "absent") == await both.boto3(operation, "absent")


async def test_wrong_credentials_are_refused_in_both_ways(weed: Store, prefix: str) -> None:
    threads = Threads(1, sending_max=1)
    bucket = Bucket(weed.settings(prefix, secret_key="wrong"), threads)
    await bucket.connect()
    both = Both(bucket)

    for operation in ("get_object", "head_object", "delete_object"):
        assert await both.short(operation, "k") == await both.boto3(operation, "k")

    both._short.close()
    await threads.close()
    bucket.close()


@pytest.mark.parametrize(
    "parameters",
    [
        {"Range": "bytes=0-1"},
        {"Metadata": {"a": "1\r\nx-amz-acl: public-read"}},
        {"Metadata": {"a\r\nx-amz-acl": "public-read"}},
        {"Metadata": {"a: b": "1"}},
        {"Metadata": {"A": "1"}},
        {"Metadata": {"": "1"}},
        {"Metadata": {"a": "two  spaces"}},
        {"Metadata": {"a": " 1"}},
        {"Metadata": {"a": "ü"}},
        {"Metadata": {"a": "\x00"}},
        {"IfMatch": "1\n"},
        {"IfMatch": "1\r\n\r\nDELETE /bucket/k HTTP/1.1"},
        {"StorageClass": "STANDARD\r\n"},
        {"Body": bytearray(b"1")},
    ],
)
async def test_what_can_not_be_sent_as_it_is_is_left_to_boto3(parameters: dict[str, object]) -> None:
    async with canned() as server:
        short = short_calls(f"http://{HOST}:{server.port}/b/", credentials())

        assert await short.call("put_object", {"Key": "k", "Body": b"1", **parameters}, None) is None
        assert server.connections == 0


@pytest.mark.parametrize("name", ["access_key", "token"])
async def test_credentials_that_are_no_values_of_headers_are_left_to_boto3(name: str) -> None:
    async with canned() as server:
        wrong = credentials(**{name: "x\r\nx-amz-acl: public-read"})

        assert (
            await short_calls(f"http://{HOST}:{server.port}/b/", wrong).call("head_object", {"Key": "k"}, None) is None
        )
        assert server.connections == 0


async def test_what_is_in_a_key_stays_in_the_path() -> None:
    async with canned(Last(OK)) as server:
        key = "a b?x=1#y HTTP/1.1\r\nx: y\r\n\r\n"

        assert isinstance(
            await short_calls(f"http://{HOST}:{server.port}/b/", credentials()).call(
                "delete_object", {"Key": key}, None
            ),
            dict,
        )
        line, *_ = server.requests[0].split(b"\r\n")
        assert line == b"DELETE /b/a%20b%3Fx%3D1%23y%20HTTP/1.1%0D%0Ax%3A%20y%0D%0A%0D%0A HTTP/1.1"


@pytest.mark.parametrize("token", [None, "se/ss+ion=="])
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_a_request_is_signed_as_botocore_signs_it(
    key: str, token: str | None, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: MOMENT)
    parameters = {
        "Metadata": {"b": "1", "a.c": "x=1, y", "a": ""},
        "StorageClass": "STANDARD_IA",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:aws:kms:us-east-1:1:key/2",
        "IfNoneMatch": "*",
    }
    async with canned(Last(OK)) as server:
        short = short_calls(f"http://{HOST}:{server.port}/bucket/", credentials(token=token))
        await short.call("put_object", {"Key": key, "Body": body, **parameters}, None)
        line, sent, taken = parse(server.requests[0])

    own = {name: value for name, value in sent.items() if name.startswith("x-amz-") or name == "if-none-match"}
    for name in ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token"):
        own.pop(name, None)
    url = f"http://{HOST}:{server.port}{line.split()[1]}"
    expected = AWSRequest("PUT", url, data=body, headers=own)
    S3SigV4Auth(Credentials("AKID", "s/e+c=ret", token), "s3", "us-east-1").add_auth(expected)
    assert taken == body
    for name, value in expected.headers.items():
        assert sent[name.lower()] == value, name


@pytest.mark.parametrize(
    ("url", "host", "address"),
    [
        ("https://b.s3.eu-west-1.amazonaws.com/", "b.s3.eu-west-1.amazonaws.com", 443),
        ("https://store:443/b/", "store", 443),
        ("https://store:80/b/", "store:80", 80),
        ("http://store:80/b/", "store", 80),
        ("http://store:9000/b/", "store:9000", 9000),
        ("http://[::1]:9000/b/", "[::1]:9000", 9000),
    ],
)
def test_the_host_is_named_as_boto3_names_it(url: str, host: str, address: int) -> None:
    short = short_calls(url, credentials(), ssl.create_default_context() if url.startswith("https") else None)

    assert (short._host, short._address[1]) == (host, address)
