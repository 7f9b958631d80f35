"""A hundred large uploads at once, and one very large one: memory and answers stay bounded."""

import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Starter, refuse
from tests.load.memory import Highest, memory_of
from tests.load.pinger import percentile, ping, seconds_of
from tests.load.senders import report_of, send_many
from tests.running import Server, eventually

UPLOADS = 100
UPLOAD_BYTES = 100_000_000
RESIDENT_BYTES_MAX = 300_000_000
ANSWER_SECONDS_MAX = 0.25
SECONDS_MAX = 240

LARGE_BYTES = 1 << 30
PIECE_BYTES = 1 << 20
LARGE_RESIDENT_BYTES_MAX = 150_000_000


@pytest.fixture
def large_directory(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with room for all uploads, which is emptied at once: pytest keeps those of tmp_path."""
    needed = UPLOADS * UPLOAD_BYTES + (2 << 30)
    free = shutil.disk_usage(tmp_path).free
    if free < needed:
        refuse(f"{needed >> 20} MiB of free disk are needed in {tmp_path}, there are {free >> 20}")
    directory = tmp_path / "large"
    yield directory
    shutil.rmtree(directory)


@pytest.mark.timeout(SECONDS_MAX + 60)
def test_a_hundred_uploads_of_100_mb_at_once_leave_memory_and_answers_as_they_should_be(
    start_pierhead: Starter, large_directory: Path
) -> None:
    server = start_pierhead(workers=2, data=large_directory)
    pinger = ping(server.address)

    with Highest(server) as highest:
        report = report_of(send_many(server.address, UPLOADS, UPLOAD_BYTES), seconds=SECONDS_MAX)
    answers = seconds_of(pinger)

    assert report.failures == report.refused == []
    assert len(set(report.digests)) == UPLOADS
    assert max(report.began) < min(report.ended), "they were not all under way at once"
    # The sum over all processes, though they share a good part of it: what `ps` shows is what people add up.
    assert highest.memory.resident < RESIDENT_BYTES_MAX, highest.memory
    assert len(answers) >= 20 * (max(report.ended) - min(report.began)), "too few to tell"
    assert percentile(answers, 0.99) < ANSWER_SECONDS_MAX, sorted(answers)[-20:]
    assert stored_sizes(server) == [UPLOAD_BYTES] * UPLOADS


@pytest.mark.timeout(180)
def test_a_gibibyte_in_one_chunked_patch_needs_little_memory(start_pierhead: Starter, large_directory: Path) -> None:
    server = start_pierhead(workers=2, data=large_directory)
    connection = http.client.HTTPConnection(server.address, timeout=60)
    connection.request("POST", "/v2/load/app/blobs/uploads/")
    begun = connection.getresponse()
    begun.read()
    piece = bytes(PIECE_BYTES)
    idle = memory_of(server)

    with Highest(server) as highest:
        pieces = (piece for _ in range(LARGE_BYTES // PIECE_BYTES))
        connection.request("PATCH", begun.headers["location"], pieces, encode_chunked=True)
        answer = connection.getresponse()
    connection.close()

    assert (answer.status, answer.headers["range"]) == (202, f"0-{LARGE_BYTES - 1}")
    assert highest.memory.resident - idle.resident < LARGE_RESIDENT_BYTES_MAX, (idle, highest.memory)


def stored_sizes(server: Server) -> list[int]:
    """The size of every blob in the store, once no upload is left."""
    root = server.data / "docker/registry/v2"
    eventually(lambda: not list(root.glob("repositories/load/*/_uploads/*/data")))
    return [path.stat().st_size for path in root.glob("blobs/sha256/*/*/data")]
