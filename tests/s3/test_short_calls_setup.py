"""How calls in the event loop are set up: from what boto3 is set up with, or left to it; and over TLS."""

import asyncio
import hashlib
import ipaddress
import secrets
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from cryptography import x509

from storage.s3.client import make_client, make_session, make_short_calls
from storage.s3.failures import Answer
from storage.s3.settings import S3Settings
from storage.s3.short_calls import Place, ShortCalls
from tests.certificates import HOST, Authority
from tests.s3.canned import OK, Last, canned, parse, read, turns

BODY = secrets.token_bytes(256 << 10)


def settings_of(endpoint: str, **changes: object) -> S3Settings:
    given: dict[str, object] = {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key": "a",
        "secret_key": "s",
        "path_style": True,
        **changes,
    }
    return S3Settings("bucket", "", **given)  # type: ignore[arg-type]  # checked by the dataclass


def made_for(settings: S3Settings) -> ShortCalls | None:
    session = make_session(settings)
    return make_short_calls(session, make_client(session, settings, read_timeout_seconds=30), settings)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_and_checksums_are_left_to_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, tls = settings_of("http://store.example:9000"), settings_of("https://store.example:9000")
    assert made_for(plain) is not None
    assert made_for(tls) is not None
    assert made_for(replace(plain, checksums="when_supported")) is None

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert made_for(plain) is None
    monkeypatch.setenv("NO_PROXY", "store.example")
    assert made_for(plain) is not None
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    assert made_for(tls) is not None
    monkeypatch.setenv("NO_PROXY", "another.example")
    assert made_for(tls) is None


@pytest.mark.usefixtures("no_proxies")
def test_a_bucket_that_is_signed_for_in_another_way_is_left_to_boto3() -> None:
    assert made_for(replace(settings_of("http://store.example:9000"), bucket="b--use1-az4--x-s3")) is None


@pytest.mark.usefixtures("no_proxies")
def test_the_region_is_the_one_that_boto3_signs_for() -> None:
    settings = replace(settings_of(""), endpoint=None, path_style=None)
    there = replace(settings, bucket="arn:aws:s3:eu-west-1:123456789012:accesspoint/a")

    plain, point = made_for(settings), made_for(there)

    assert plain is not None
    assert point is not None
    assert (plain._place.region, plain._place.url) == ("us-east-1", "https://bucket.s3.amazonaws.com/")
    assert (point._place.region, point._host) == ("eu-west-1", "a-123456789012.s3-accesspoint.eu-west-1.amazonaws.com")


@pytest.mark.usefixtures("no_proxies")
async def test_credentials_that_are_to_be_renewed_are_left_to_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    """To renew them is a call, which would stop the event loop."""

    def renew() -> dict[str, str]:
        raise AssertionError("renewed in the event loop")

    hour = timedelta(hours=1)
    renewable = RefreshableCredentials("a", "s", "t", datetime.now(UTC) + hour, renew, "test")
    async with canned(OK) as server:
        settings = settings_of(f"http://{HOST}:{server.port}")
        session = make_session(settings)
        client = make_client(session, settings, read_timeout_seconds=30)
        monkeypatch.setattr(session, "get_credentials", lambda: renewable)
        short = make_short_calls(session, client, settings)
        assert short is not None
        assert isinstance(await short.call("delete_object", {"Key": "k"}, None), dict)

        renewable._expiry_time = datetime.now(UTC) + timedelta(minutes=5)

        assert await short.call("delete_object", {"Key": "k"}, None) is None
        assert len(server.requests) == 1
        short.close()


@pytest.mark.usefixtures("no_proxies")
def test_without_credentials_there_is_nothing_to_sign_with(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("http://store.example:9000")
    session = make_session(settings)
    client = make_client(session, settings, read_timeout_seconds=30)
    monkeypatch.setattr(session, "get_credentials", lambda: None)

    assert make_short_calls(session, client, settings) is None


@pytest.fixture
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
def serving_tls(authority: Authority, tmp_path: Path) -> ssl.SSLContext:
    certificate, key = authority.issue("store", [x509.IPAddress(ipaddress.ip_address(HOST))])
    (tmp_path / "crt").write_bytes(certificate)
    (tmp_path / "key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    return context


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(authority.pem)
    return path


NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
UNTRUSTED = Answer(broken="TLS failed: check the CA bundle")


async def speak_tls(context: ssl.SSLContext, ca_file: Path) -> None:
    """Calls over TLS: without the CA, with it, one connection for several, and one that the store has closed."""
    async with canned(OK, NEXT, NEXT, tls=context) as server:
        settings = settings_of(f"https://{HOST}:{server.port}")
        untrusting, trusting = made_for(settings), made_for(replace(settings, ca_bundle=str(ca_file)))
        assert untrusting is not None
        assert trusting is not None

        assert await untrusting.call("delete_object", {"Key": "k"}, None) == UNTRUSTED
        before = server.connections
        assert isinstance(await trusting.call("put_object", {"Key": "k", "Body": BODY}, None), dict)
        for _ in range(2):
            found = await trusting.call("get_object", {"Key": "k"}, read)
            assert isinstance(found, dict)
            assert found["Body"] == b"next"
        assert server.connections == before + 1
        _line, sent, body = parse(server.requests[0])
        assert body == BODY
        assert sent["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()

        await server.hang_up()
        server.answers.append(NEXT)
        assert isinstance(await trusting.call("get_object", {"Key": "k"}, read), dict)
        server.answers.append(Last(b"HTTP/1.1 200 OK\r\nContent-Le"))
        cut = await trusting.call("delete_object", {"Key": "k"}, None)
        assert cut == Answer(broken="its answer was cut off")
        trusting.close()
        untrusting.close()
        await turns()


@pytest.mark.usefixtures("no_proxies")
async def test_tls_needs_the_ca(serving_tls: ssl.SSLContext, ca_file: Path) -> None:
    await speak_tls(serving_tls, ca_file)


@pytest.mark.usefixtures("no_proxies")
def test_tls_needs_the_ca_in_the_event_loop_of_the_server(serving_tls: ssl.SSLContext, ca_file: Path) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(speak_tls(serving_tls, ca_file))


@pytest.mark.usefixtures("no_proxies")
async def test_the_ca_is_also_found_where_boto3_finds_it(
    serving_tls: ssl.SSLContext, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca_file))
    async with canned(Last(OK), tls=serving_tls) as server:
        short = made_for(settings_of(f"https://{HOST}:{server.port}"))

        assert short is not None
        assert isinstance(await short.call("delete_object", {"Key": "k"}, None), dict)


@pytest.mark.usefixtures("no_proxies")
async def test_another_host_of_the_same_ca_is_refused(authority: Authority, ca_file: Path, tmp_path: Path) -> None:
    certificate, key = authority.issue("store", [x509.DNSName("store.example")])
    (tmp_path / "pem").write_bytes(certificate + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    async with canned(OK, tls=context) as server:
        short = made_for(settings_of(f"https://{HOST}:{server.port}", ca_bundle=str(ca_file)))

        assert short is not None
        assert await short.call("delete_object", {"Key": "k"}, None) == UNTRUSTED
        assert not server.requests


async def test_a_handshake_that_nobody_answers_ends_in_time() -> None:
    server = await asyncio.start_server(lambda _reader, writer: opened.append(writer), HOST, 0)
    opened: list[asyncio.StreamWriter] = []
    short = ShortCalls(
        Place(f"https://{HOST}:{server.sockets[0].getsockname()[1]}/", "us-east-1", ssl.create_default_context()),
        lambda: ReadOnlyCredentials("a", "s", None),
        calls_max=1,
        connect_seconds=0.3,
        read_seconds=30,
    )

    assert await short.call("delete_object", {"Key": "k"}, None) == Answer(broken="no connection in time")

    for writer in opened:
        writer.close()
    server.close()
    await turns()


@pytest.mark.usefixtures("no_proxies")
def test_a_ca_bundle_that_can_not_be_read_is_left_to_boto3_to_tell(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "absent", tmp_path / "empty", tmp_path):
        assert made_for(settings_of("https://store.example", ca_bundle=str(path))) is None
