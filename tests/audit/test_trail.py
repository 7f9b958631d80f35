"""Events are in the trail when they were awaited: through full disks, torn lines, rotation and other writers."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from registry.audit import AuditUnavailable, Event, EventKind, Trail
from registry.audit.endings import GROUP_MAX
from registry.audit.outputs import Output
from registry.audit.verification import Verification
from storage import keys
from storage.drivers import Driver
from storage.errors import StorageFull
from storage.memory import MemoryDriver
from tests.audit.trails import KEY, Written, head_of, opened, push
from tests.conftest import Mount


@pytest.fixture
def trail(tmp_path: Path) -> Written:
    return Written(tmp_path / "audit.log")


class FullDriver(MemoryDriver):
    """Takes nothing while `is_full`."""

    is_full = False

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        if self.is_full:
            raise StorageFull("no space", key=key)
        return await super().put(key, body, durable=durable)


async def test_an_event_is_in_the_file_and_in_the_head_when_it_was_awaited(trail: Written) -> None:
    opened_trail = await opened(trail.path, trail.driver)
    for number in range(1, 4):
        await opened_trail.write(push(number))

        assert json.loads(trail.lines[-1])["reference"] == f"v{number}"
        assert (await head_of(trail.driver)).seq == number == len(trail.lines)
    await opened_trail.close()
    assert await trail.flaws() == []


async def test_nobody_else_may_read_the_file_or_hold_its_lock(trail: Written) -> None:
    await trail.write(1)

    files = sorted(trail.path.parent.iterdir())
    assert [(file.name, file.stat().st_mode & 0o777) for file in files] == [
        ("audit.log", 0o600),
        ("audit.log.lock", 0o600),
    ]


async def test_events_at_once_are_appended_in_groups_and_none_is_lost(trail: Written) -> None:
    class CountingDriver(MemoryDriver):
        puts = 0

        async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
            self.puts += 1
            return await super().put(key, body, durable=durable)

    driver = trail.driver = CountingDriver()
    opened_trail = await opened(trail.path, driver)
    await asyncio.gather(*(opened_trail.write(push(number)) for number in range(3 * GROUP_MAX)))
    await opened_trail.close()

    assert await trail.flaws() == []
    assert len(trail.lines) == 3 * GROUP_MAX
    assert driver.puts <= 4


async def test_a_caller_that_is_cancelled_leaves_the_others_and_the_chain_alone(trail: Written) -> None:
    opened_trail = await opened(trail.path, trail.driver)
    tasks = [asyncio.create_task(opened_trail.write(push(number))) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await opened_trail.close()

    assert [result for result in results[1::2] if result] == []
    assert len(trail.lines) == 20
    assert await trail.flaws() == []


async def test_closing_appends_what_waits_and_then_nothing_is_taken(trail: Written) -> None:
    opened_trail = await opened(trail.path, trail.driver)
    waiting = [asyncio.create_task(opened_trail.write(push(number))) for number in range(5)]
    await asyncio.sleep(0)

    await opened_trail.close()
    await opened_trail.close()

    await asyncio.gather(*waiting)
    assert len(trail.lines) == 5
    with pytest.raises(AuditUnavailable):
        await opened_trail.write(push(6))


async def test_two_trails_that_take_turns_write_one_chain(trail: Written) -> None:
    one, other = await opened(trail.path, trail.driver), await opened(trail.path, trail.driver)
    for number in range(10):
        await (one, other)[number % 2].write(push(number))
    await one.close()
    await other.close()

    assert await trail.flaws() == []
    assert [json.loads(line)["seq"] for line in trail.lines] == list(range(1, 11))


async def test_a_trail_without_a_store_goes_on_after_a_restart_and_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for first in range(4):
        opened_trail = await opened(path, None, bytes_max=700)
        await opened_trail.write(push(2 * first))
        await opened_trail.write(push(2 * first + 1))
        await opened_trail.close()
    path.rename(tmp_path / "audit.log.1")
    opened_trail = await opened(path)
    await opened_trail.write(push(9))
    await opened_trail.close()

    verification = Verification(path, head=None)
    assert list(verification.run()) == []
    assert verification.seen.files == 5


# Torn lines


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "keyed"])
async def test_a_torn_line_is_healed_and_told_apart_from_a_cut(tmp_path: Path, key: bytes | None) -> None:
    for length in (1, 2, 100, 399):
        trail = Written(tmp_path / f"{length}.log", key=key)
        await trail.write(3)
        with trail.path.open("ab") as file:
            file.write(trail.lines[-1].replace(b'"seq":3', b'"seq":4')[:length])
        assert await trail.flaws() == ["torn"]

        await trail.write(2, first=4)

        [found] = await trail.breaks()
        assert (found.flaw.slug, found.place.line) == ("torn", 4)
        assert "nothing is lost before it" in found.text
        assert [json.loads(line)["event"] for line in trail.lines[4:]] == ["torn-line", "push", "push"]


async def test_zeros_that_a_power_cut_left_are_healed(trail: Written) -> None:
    await trail.write(3)
    with trail.path.open("ab") as file:
        file.write(bytes(20_000))

    await trail.write(2, first=4)

    assert await trail.flaws() == ["torn"]


async def test_a_cut_inside_of_the_last_line_is_no_torn_line_even_after_the_next_event(trail: Written) -> None:
    await trail.write(3)
    trail.path.write_bytes(trail.path.read_bytes()[:-10])

    await trail.write(1, first=4)

    assert sorted(await trail.flaws()) == ["chain-broken", "removed", "torn"]
    assert "event 3" in next(each.text for each in await trail.breaks() if each.flaw.slug == "removed")


async def test_a_missing_newline_is_put_back(trail: Written) -> None:
    await trail.write(3)
    trail.path.write_bytes(trail.path.read_bytes()[:-1])

    await trail.write(1, first=4)

    assert await trail.flaws() == []
    assert len(trail.lines) == 4


async def test_lines_that_a_killed_process_could_not_record_are_taken_over(trail: Written) -> None:
    await trail.write(3)
    before = await trail.driver.get(keys.audit_head(), bytes_max=512)
    await trail.write(GROUP_MAX, first=4)
    await trail.driver.put(keys.audit_head(), before.body)
    assert await trail.flaws() == []

    await trail.write(1, first=99)

    assert await trail.flaws() == []
    assert (await head_of(trail.driver)).seq == GROUP_MAX + 4 == len(trail.lines)


async def test_a_torn_first_line_is_healed(tmp_path: Path) -> None:
    for driver in (None, MemoryDriver()):
        trail = Written(tmp_path / f"{driver is None}.log")
        trail.path.write_bytes(b'{"seq":1,"prev')

        opened_trail = await opened(trail.path, driver)
        await opened_trail.write(push(1))
        await opened_trail.close()

        assert await trail.flaws(with_head=False) == ["torn"]


# Failures


async def is_taken(opened_trail: Trail, number: int) -> bool:
    """Write an event; tells whether it was taken."""
    try:
        await opened_trail.write(push(number))
    except AuditUnavailable:
        return False
    return True


async def test_a_full_disk_is_told_and_leaves_the_chain_whole(mount: Mount) -> None:
    disk = mount(options="size=64k")
    trail = Written(disk / "audit.log")
    opened_trail = await opened(trail.path, trail.driver)
    kept = 0
    with capture_logs() as logs:
        while await is_taken(opened_trail, kept):
            kept += 1
        for _ in range(3):
            with pytest.raises(AuditUnavailable):
                await opened_trail.write(push(0))
    assert [entry["event"] for entry in logs] == ["the audit trail can't be written"]
    assert "No space left" in logs[0]["reason"]
    assert kept > 20
    assert await trail.flaws() == []

    subprocess.run(["mount", "-o", "remount,size=128k", str(disk)], check=True)
    await opened_trail.write(push(kept))
    await opened_trail.close()

    assert await trail.flaws() == []
    assert len(trail.lines) == kept + 1


@pytest.fixture
def short_files() -> Iterator[int]:
    """Let no file grow beyond 10,000 bytes (RLIMIT_FSIZE)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    yield 10_000
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


async def test_half_of_a_group_that_was_written_is_taken_back(trail: Written, short_files: int) -> None:
    opened_trail = await opened(trail.path, trail.driver)
    await opened_trail.write(push(1))

    results = await asyncio.gather(*(opened_trail.write(push(n)) for n in range(100)), return_exceptions=True)
    await opened_trail.write(push(2))
    await opened_trail.close()

    assert {type(result) for result in results} == {AuditUnavailable}
    assert trail.path.stat().st_size < short_files
    assert len(trail.lines) == 2
    assert await trail.flaws() == []


async def test_a_store_that_refuses_the_head_is_told_and_at_most_one_group_is_ahead_of_it(trail: Written) -> None:
    driver = trail.driver = FullDriver()
    opened_trail = await opened(trail.path, driver)
    await opened_trail.write(push(1))
    driver.is_full = True
    for number in range(2, 6):
        with pytest.raises(AuditUnavailable):
            await opened_trail.write(push(number))
    assert len(trail.lines) == 2

    driver.is_full = False
    await opened_trail.write(push(6))
    await opened_trail.close()

    assert [json.loads(line)["reference"] for line in trail.lines] == ["v1", "v2", "v6"]
    assert await trail.flaws() == []


async def test_a_path_that_can_not_be_a_trail_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("dear diary\n")
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("notes", "move this one away"),
        ("directory", "directory"),
        ("link", "name the file itself"),
        ("pipe", "standard output"),
        ("missing/audit.log", "No such file"),
    ):
        trail = Trail(tmp_path / name)
        with pytest.raises(OSError, match=reason):
            await trail.start()
        await trail.close()
    assert (tmp_path / "notes").read_text() == "dear diary\n"


async def test_a_damaged_head_is_not_written_over(trail: Written) -> None:
    await trail.write(2)
    opened_trail = await opened(trail.path, trail.driver)
    await trail.driver.put(keys.audit_head(), b"{}")

    with pytest.raises(AuditUnavailable):
        await opened_trail.write(push(3))
    await opened_trail.close()

    assert (await trail.driver.get(keys.audit_head(), bytes_max=512)).body == b"{}"


async def test_a_removed_lock_file_is_noticed(trail: Written) -> None:
    one = await opened(trail.path, trail.driver)
    await one.write(push(1))
    trail.path.with_name("audit.log.lock").unlink()
    other = await opened(trail.path, trail.driver)

    async def write(each: Trail) -> None:
        for number in range(100):
            await each.write(push(number))

    await asyncio.gather(write(one), write(other))
    await one.close()
    await other.close()

    assert await trail.flaws() == []
    assert len(trail.lines) == 201


# Standard output


class Pipe:
    """A pipe that stands for standard output."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()

    def lines(self) -> list[bytes]:
        """What was written so far."""
        os.set_blocking(self.reads, False)
        try:
            return os.read(self.reads, 1 << 20).splitlines(keepends=True)
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self.reads)
        os.close(self.writes)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def printing(path: Path | None, pipe: Pipe, driver: Driver | None = None) -> Trail:
    trail = Trail(path, stdout=True, driver=driver)
    output = Output(pipe.writes)
    trail._output = output
    if trail._file is not None:
        trail._file._output = output
    return trail


async def test_standard_output_gets_the_lines_of_the_file(trail: Written, pipe: Pipe) -> None:
    opened_trail = printing(trail.path, pipe, trail.driver)
    await opened_trail.start()
    await opened_trail.write(push(1))
    await opened_trail.write(push(2))
    await opened_trail.close()

    assert pipe.lines() == trail.lines


async def test_a_reader_that_is_stuck_does_not_stop_the_file(
    trail: Written, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.audit.outputs.PATIENCE_SECONDS", 0.01)
    opened_trail = printing(trail.path, pipe, trail.driver)
    await opened_trail.start()
    with capture_logs() as logs:
        await asyncio.gather(*(opened_trail.write(push(number)) for number in range(GROUP_MAX)))
        await opened_trail.write(push(1))
    await opened_trail.close()

    assert [entry["event"] for entry in logs] == ["the audit trail can't be written to standard output"]
    assert len(trail.lines) == GROUP_MAX + 1
    assert await trail.flaws() == []


async def test_without_a_file_each_process_has_a_chain_of_its_own(pipe: Pipe) -> None:
    for _ in range(2):
        opened_trail = printing(None, pipe)
        await opened_trail.start()
        await opened_trail.write(push(1))
        await opened_trail.write(Event(EventKind.STARTED))
        await opened_trail.close()

    lines = [json.loads(line) for line in pipe.lines()]
    assert [line["seq"] for line in lines] == [1, 2, 1, 2]
    assert len({line["chain"] for line in lines}) == 2


async def test_without_a_file_an_output_that_fails_is_told(pipe: Pipe) -> None:
    opened_trail = printing(None, pipe)
    await opened_trail.start()
    os.close(pipe.reads)
    pipe.reads = os.open("/dev/null", os.O_RDONLY)

    with pytest.raises(AuditUnavailable):
        await opened_trail.write(push(1))
    await opened_trail.close()


def test_the_trail_can_be_imported_without_the_edge() -> None:
    code = "import sys, registry.audit; sys.exit('starlette' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
