"""A turn to write is renewed beside everything else that its holder does, and takes nothing of that back."""

import asyncio
from typing import cast

import pytest

from storage.errors import VersionMismatch
from storage.s3 import turns
from storage.s3.objects import Objects
from storage.s3.records import StagedRecord, Tail, where
from storage.s3.turns import Turn

BEFORE = StagedRecord(1.0)
AFTER = StagedRecord(2.0, tail=Tail(b"acknowledged", size=12))


class OneRecord:
    """A bucket with one object. While `gate` is closed writes take their time."""

    def __init__(self) -> None:
        self.etag = "0"
        self.written: list[StagedRecord] = []
        self.gate = asyncio.Event()

    async def replace(self, key: str, body: bytes, *, version: str, metadata: object) -> str:
        assert metadata
        await self.gate.wait()
        if version != self.etag:
            raise VersionMismatch("changed", key=key)
        self.written.append(StagedRecord.from_bytes(body, key))
        self.etag = str(len(self.written))
        return self.etag


@pytest.fixture
def bucket() -> OneRecord:
    return OneRecord()


@pytest.fixture
async def turn(bucket: OneRecord, monkeypatch: pytest.MonkeyPatch) -> Turn:
    """Return a turn whose holder has nothing to tell beyond what was recorded last."""
    monkeypatch.setattr(turns, "RENEW_SECONDS", 0.01)
    made: list[Turn] = []
    made.append(Turn(cast("Objects", bucket), where("k"), BEFORE, "0", progress=lambda: made[0].record))
    return made[0]


async def test_a_renewal_does_not_write_an_older_record_over_one_that_was_being_saved(
    bucket: OneRecord, turn: Turn
) -> None:
    """A PATCH was acknowledged whose bytes the session had no longer: the record of before was written over it."""
    saving = asyncio.create_task(turn.save(AFTER))
    await asyncio.sleep(0.05)  # a renewal waits meanwhile
    bucket.gate.set()
    await saving
    await asyncio.sleep(0.05)

    assert len(bucket.written) > 1
    assert {record.size for record in bucket.written} == {12}
    turn.stop()


async def test_a_renewal_that_waits_does_not_take_the_turn_again_that_was_given_up(
    bucket: OneRecord, turn: Turn
) -> None:
    saving = asyncio.create_task(turn.save(AFTER))
    await asyncio.sleep(0.05)
    turn.stop()
    bucket.gate.set()
    await saving
    await asyncio.sleep(0.05)

    assert [record.writer for record in bucket.written] == [""]
