"""Many uploads at once into a bucket: the memory of a worker stays bounded, and nobody is left waiting."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.load.memory import peaks_of
from tests.load.senders import report_of, send_many
from tests.running import Server, start
from tests.s3.weed import BUCKET, Store

RESIDENT_BYTES_MAX = 400_000_000
"""Of one process, with `s3.memory_bytes_max` as it is by default."""

SECONDS_MAX = 500
MIB = 1 << 20


@pytest.fixture
def server(weed: Store, tmp_path: Path) -> Iterator[Server]:
    """Return a server of one worker, which gets all uploads."""
    started = start(
        tmp_path / "unused",
        log=tmp_path / "log",
        arguments=["--data", f"s3://{BUCKET}/many/{secrets.token_hex(8)}"],
        environment=weed.environment(),
    )
    yield started
    started.stop()


@pytest.mark.timeout(SECONDS_MAX + 60)
@pytest.mark.parametrize(
    ("uploads", "size", "seconds"),
    [
        pytest.param(40, 24 * MIB, 0.0, id="forty-fast-ones-of-three-parts"),
        pytest.param(200, 3 * MIB, 15.0, id="two-hundred-slow-ones-that-fill-the-memory-four-times"),
    ],
)
def test_uploads_at_once_leave_memory_as_it_should_be_and_come_to_an_end(
    server: Server, uploads: int, size: int, seconds: float
) -> None:
    report = report_of(send_many(server.address, uploads, size, seconds=seconds), seconds=SECONDS_MAX)

    assert report.failures == []
    assert len(report.refused) < uploads / 2, set(report.refused)
    peaks = peaks_of(server)
    assert max(peaks.values()) < RESIDENT_BYTES_MAX, peaks
    with httpx.Client(base_url=server.url, timeout=60) as client:
        held = [client.head(f"/v2/load/app{n % 7}/blobs/{digest}") for n, digest in enumerate(report.digests)]
    assert sum(answer.status_code == 200 for answer in held) == uploads - len(report.refused)
    assert {answer.headers["content-length"] for answer in held if answer.status_code == 200} == {str(size)}
