"""Credentials that the store refuses in the middle: clients are told to come back, and go on once there are others."""

import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from storage.digest import Digest
from storage.errors import StorageRefused, StorageUnavailable
from storage.s3 import S3Driver
from storage.s3.client import RENEW_SECONDS
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import Server, eventually, start
from tests.s3.faults import Fault, Proxy, always, first
from tests.s3.storm import ANY, Storm, storming
from tests.s3.weed import ACCESS_KEY, BUCKET, SECRET_KEY, Store

UPLOADS = "/v2/team/app/blobs/uploads/"
LEASE_SECONDS_MAX = 20
EXPIRED = {ANY: {Fault.EXPIRED: 1.0}}


@pytest.fixture
def storm(weed: Store) -> Iterator[Storm]:
    with storming(weed.endpoint, "", late_seconds=1) as running:
        yield running


@pytest.fixture
def server(weed: Store, storm: Storm, tmp_path: Path) -> Iterator[Server]:
    started = start(
        tmp_path / "unused",
        log=tmp_path / "log",
        workers=2,
        arguments=["--data", f"s3://{BUCKET}/credentials/{secrets.token_hex(8)}"],
        environment={
            **weed.environment(),
            "AWS_ENDPOINT_URL": storm.endpoint,
            "PIERHEAD_S3_REDIRECT": "false",
        },
    )
    yield started
    started.stop()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def push(client: httpx.Client, body: bytes) -> str:
    digest = str(Digest.of(body))
    assert client.post(UPLOADS, params={"digest": digest}, content=body).status_code == 201
    return digest


def test_with_expired_credentials_everything_is_answered_with_503_and_a_session_goes_on_afterwards(
    client: httpx.Client, storm: Storm, server: Server
) -> None:
    config, layer = push(client, CONFIG), push(client, LAYER)
    manifest, kind = encode(image()), {"content-type": str(image()["mediaType"])}
    assert client.put("/v2/team/app/manifests/v1", content=manifest, headers=kind).status_code == 201
    body = os.urandom(300_000)
    half = len(body) // 2
    session = client.post(UPLOADS).headers["location"]
    assert client.patch(session, content=body[:half]).status_code == 202

    storm.blow(EXPIRED)
    told = [
        client.patch(session, content=body[half:]),
        client.get(session),
        client.post(UPLOADS),
        client.post(UPLOADS, params={"mount": layer, "from": "team/app"}),
        client.head(f"/v2/team/app/blobs/{layer}"),
        client.get(f"/v2/team/app/blobs/{config}"),
        client.get("/v2/team/app/manifests/v1"),
        client.get(f"/v2/team/app/manifests/{Digest.of(manifest)}"),
        client.put("/v2/team/app/manifests/v2", content=manifest, headers=kind),
        client.delete("/v2/team/app/manifests/v1"),
        client.get("/v2/team/app/tags/list"),
    ]
    storm.calm()

    for answer in told:
        assert answer.status_code == 503, (answer.request.method, answer.request.url, answer.text)
        assert int(answer.headers["retry-after"]) > 0
        assert answer.request.method == "HEAD" or answer.json()["errors"][0]["code"] == "UNAVAILABLE"
    assert b"Traceback" not in server.log.read_bytes()
    assert b"the credentials have expired: renew them" in server.log.read_bytes()
    assert client.get("/v2/team/app/manifests/v1").content == manifest
    kept = int(client.get(session).headers["range"].removeprefix("0-")) + 1
    assert kept >= half

    def finish() -> bool:
        """The turn of a writer that could not give it up runs out by itself."""
        headers = {"content-range": f"{kept}-{len(body) - 1}"} if kept < len(body) else {}
        digest = {"digest": str(Digest.of(body))}
        answer = client.put(session, content=body[kept:], params=digest, headers=headers)
        assert answer.status_code in {201, 416}, answer.text
        return answer.status_code == 201

    eventually(finish, seconds=LEASE_SECONDS_MAX)
    assert client.get(f"/v2/team/app/blobs/{Digest.of(body)}").content == body


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where boto3 looks for credentials, and finds none anywhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


@pytest.fixture
def credentials(file: Path) -> Path:
    """Return a file that boto3 reads credentials from."""
    write(file, ACCESS_KEY)
    return file


@pytest.fixture
async def driver(weed: Store, prefix: str, proxy: Proxy, credentials: Path) -> AsyncIterator[S3Driver]:
    """Return a driver that finds its credentials by itself."""
    assert credentials.exists()
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint, access_key=None, secret_key=None))
    await driver.start()
    proxy.taken()
    yield driver
    await driver.close()


def write(path: Path, access_key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {SECRET_KEY}\n")


def pass_seconds(driver: S3Driver, seconds: float) -> None:
    before = driver._bucket._monotonic
    driver._bucket._monotonic = lambda: before() + seconds


async def test_refused_credentials_are_read_again_from_their_file(
    driver: S3Driver, proxy: Proxy, credentials: Path
) -> None:
    await driver.put("k", b"1")
    pass_seconds(driver, RENEW_SECONDS)
    write(credentials, "unknown")
    proxy.plan = first("GetObject", Fault.EXPIRED)
    with pytest.raises(StorageUnavailable, match="access key is unknown"):
        await driver.get("k", bytes_max=9)

    write(credentials, ACCESS_KEY)
    pass_seconds(driver, RENEW_SECONDS)

    assert (await driver.get("k", bytes_max=9)).body == b"1"


async def test_refused_credentials_are_not_read_again_at_every_call(driver: S3Driver, proxy: Proxy) -> None:
    await driver.put("k", b"1")
    pass_seconds(driver, RENEW_SECONDS)
    proxy.plan = always("GetObject", Fault.EXPIRED)
    proxy.taken()

    for _ in range(5):
        with pytest.raises(StorageUnavailable, match="expired"):
            await driver.get("k", bytes_max=9)

    assert proxy.counts["GetObject"] == 5 + 1


async def test_a_file_without_credentials_is_told_and_read_again(
    driver: S3Driver, proxy: Proxy, credentials: Path
) -> None:
    await driver.put("k", b"1")
    pass_seconds(driver, RENEW_SECONDS)
    credentials.write_text("")
    proxy.plan = first("GetObject", Fault.EXPIRED)
    with pytest.raises(StorageUnavailable, match="no usable credentials"):
        await driver.get("k", bytes_max=9)

    write(credentials, ACCESS_KEY)
    pass_seconds(driver, RENEW_SECONDS)

    assert (await driver.get("k", bytes_max=9)).body == b"1"


@pytest.mark.usefixtures("file")
async def test_a_process_that_gives_credentials_is_asked_again_when_they_are_refused_before_their_time(
    weed: Store, prefix: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (
        "import json, pathlib\n"
        f"with open({str(tmp_path / 'asked')!r}, 'a') as asked: asked.write('.')\n"
        f"print(json.dumps(dict(Version=1, AccessKeyId={ACCESS_KEY!r}, SecretAccessKey={SECRET_KEY!r}, "
        "Expiration='2099-01-01T00:00:00Z')))\n"
    )
    (tmp_path / "give.py").write_text(given)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} {tmp_path / 'give.py'}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint, access_key=None, secret_key=None))
    await driver.start()
    await driver.put("k", b"1")
    asked = len((tmp_path / "asked").read_text())
    pass_seconds(driver, RENEW_SECONDS)
    proxy.taken()
    proxy.plan = first("GetObject", Fault.EXPIRED)

    assert (await driver.get("k", bytes_max=9)).body == b"1"

    assert len((tmp_path / "asked").read_text()) > asked
    await driver.close()


@pytest.mark.parametrize("kind", ["HeadObject", "GetObject", "PutObject", "DeleteObject", "ListObjectsV2"])
async def test_refused_credentials_do_not_make_an_object_unreadable(driver: S3Driver, proxy: Proxy, kind: str) -> None:
    """Taken for that, a blob was told to be unknown, a tag to point nowhere, and so to be free to be moved."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "HeadObject": lambda: driver.stat("k"),
        "GetObject": lambda: driver.get("k", bytes_max=9),
        "PutObject": lambda: driver.put("k", b"2"),
        "DeleteObject": lambda: driver.delete("k"),
        "ListObjectsV2": lambda: driver.list("", limit=9),
    }
    await driver.put("k", b"1")
    proxy.plan = always(kind, Fault.EXPIRED)

    with pytest.raises(StorageUnavailable) as caught:
        await calls[kind]()

    assert not isinstance(caught.value, StorageRefused)
