"""How boto3 is set up: what goes over the wire, and how what comes back is read."""

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.awsrequest import AWSRequest
from botocore.utils import parse_timestamp

from storage.s3.client import Client, make_client, make_session
from storage.s3.settings import PART_BYTES_MIN
from tests.s3.weed import BUCKET, Store


@pytest.fixture
def client(weed: Store) -> Client:
    settings = weed.settings()
    return make_client(make_session(settings), settings, read_timeout_seconds=30)


def test_bytes_go_out_whole_and_unasked(client: Client, prefix: str) -> None:
    sent: list[AWSRequest] = []
    client.meta.events.register("before-send.s3", lambda request, **_given: sent.append(request))
    body = bytes(PART_BYTES_MIN)

    client.put_object(Bucket=BUCKET, Key=f"{prefix}/small", Body=b"1")
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/large")["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=f"{prefix}/large", UploadId=upload, PartNumber=1, Body=body)

    small, _begun, part = sent
    assert small.body == b"1"
    assert part.body is body
    assert not any("Expect" in request.headers for request in sent)


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
