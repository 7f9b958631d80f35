"""How boto3 is set up: what goes over the wire, and how what comes back is read."""

import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest
from botocore.utils import parse_timestamp

from storage.s3.client import SEND_BYTES, Client, make_client, make_session
from storage.s3.settings import MIB, PART_BYTES_MIN, S3Settings
from tests.s3.weed import BUCKET, Store

BUFFERED_BYTES_MAX = 20 * MIB
"""More than the kernel takes before a reader reads (tcp(7), tcp_wmem and tcp_rmem)."""


@pytest.fixture
def client(weed: Store) -> Client:
    settings = weed.settings()
    return make_client(make_session(settings), settings, read_timeout_seconds=30)


def test_bytes_go_out_whole_and_unasked(client: Client, prefix: str) -> None:
    sent: list[AWSRequest] = []
    client.meta.events.register("before-send.s3", lambda request, **_given: sent.append(request))
    body = secrets.token_bytes(PART_BYTES_MIN)

    client.put_object(Bucket=BUCKET, Key=f"{prefix}/small", Body=b"1")
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/large")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=f"{prefix}/large", UploadId=upload, PartNumber=1, Body=body)

    small, _begun, part = sent
    assert small.body == b"1"
    assert b"".join(part.body) == body
    assert not any("Expect" in request.headers for request in sent)


def test_a_slow_store_gets_its_time_as_long_as_it_takes_what_is_sent() -> None:
    body = bytes(BUFFERED_BYTES_MAX)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor(1) as pool:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        took = pool.submit(take_slowly, listening, len(body))
        settings = S3Settings(
            BUCKET,
            endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}",
            access_key="any",
            secret_key="any",
            connect_timeout_seconds=0.4,
        )
        client = make_client(make_session(settings), settings, read_timeout_seconds=30)

        sent = client.upload_part(Bucket=BUCKET, Key="k", UploadId="1", PartNumber=1, Body=body)

    assert sent["ETag"] == '"1"'
    assert took.result() > settings.connect_timeout_seconds


def take_slowly(listening: socket.socket, count: int) -> float:
    """Take one request of so many bytes over a second or more, answer it, and return how many seconds it took."""
    connection, _address = listening.accept()
    with connection, connection.makefile("rb") as request:
        while request.readline().strip():
            pass
        started = time.monotonic()
        while count:
            piece = request.read(min(count, SEND_BYTES))
            assert piece, "the client gave up"
            count -= len(piece)
            time.sleep(0.02)
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        return time.monotonic() - started


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sat, 05 Dec 2026 17:42:17 GMT", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
        ("Tue, 01 Oct 2024 00:00:00 GMT", datetime(2024, 10, 1, tzinfo=UTC)),
        ("2026-12-05T17:42:17Z", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
        ("2026-12-05T17:42:17.250Z", datetime(2026, 12, 5, 17, 42, 17, 250000, tzinfo=UTC)),
        ("2026-12-05T18:42:17+01:00", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
        ("Sat, 05 Dec 2026 17:42:17 -0000", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
        ("20261205T174217Z", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
        ("1796492537", datetime(2026, 12, 5, 17, 42, 17, tzinfo=UTC)),
    ],
)
def test_times_are_read_as_botocore_reads_them(client: Client, text: str, expected: datetime) -> None:
    read = time_reader(client)

    assert read is not parse_timestamp
    assert read(text) == expected == parse_timestamp(text)


def test_what_is_no_time_is_refused_as_botocore_does(client: Client) -> None:
    with pytest.raises(ValueError, match="yesterday"):
        time_reader(client)("yesterday")


def time_reader(client: Any) -> Any:
    """What a client reads times with."""
    parser = client._endpoint._response_parser_factory.create_parser("rest-xml")
    return parser._timestamp_parser
