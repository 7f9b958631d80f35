"""Files are rotated, by writers and by others, while everybody goes on to write and to read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from registry.audit import parts
from registry.audit.chain import Mark, read_line
from registry.audit.parts import Part, read_entries, rotated_parts
from registry.audit.trails import Trail
from registry.audit.verification import Verification
from storage.filesystem import FileSystemDriver
from tests.audit.trails import Written, head_of, opened, push
from tests.audit.victims import ROTATION
from tests.running import ROOT


@pytest.fixture
def trail(tmp_path: Path) -> Written:
    return Written(tmp_path / "audit.log")


async def test_a_file_that_has_its_size_is_rotated_and_the_chain_goes_on(trail: Written) -> None:
    await trail.write(20, bytes_max=1500)

    assert len(trail.files) >= 4
    assert await trail.flaws() == []
    for file in trail.files:
        assert file.stat().st_size < 1500 + 1000
        assert file.name == f"audit.log.{json.loads(file.read_bytes().splitlines()[0])['seq']:012}"
    for file, after in zip(trail.files, [*trail.files[1:], trail.path], strict=True):
        first = json.loads(after.read_bytes().splitlines()[0])
        assert (first["event"], first["detail"]["file"]) == ("rotated", file.name)


async def test_a_rotated_file_is_named_after_its_first_event_also_by_one_that_opened_it_while_it_was_empty(
    trail: Written,
) -> None:
    one, other = [await opened(trail.path, trail.driver, bytes_max=1500) for _ in range(2)]
    await one.write(push(1))
    while not trail.files:
        await other.write(push(2))
    await one.close()
    await other.close()

    assert [file.name for file in trail.files] == ["audit.log.000000000001"]
    assert await trail.flaws() == []


async def test_a_file_that_begins_with_a_torn_line_is_named_after_its_first_event_and_removed_in_its_turn(
    trail: Written,
) -> None:
    trail.path.write_bytes(b'{"seq":1,"prev')
    await trail.write(6, bytes_max=1500)
    assert trail.files[0].name == "audit.log.000000000001"

    await trail.write(20, first=7, bytes_max=1500, keep=2)

    assert len(trail.files) == 2
    assert await trail.flaws() == ["begins-later"]


async def test_a_name_that_is_taken_is_not_written_over(trail: Written) -> None:
    await trail.write(1)
    (trail.path.parent / "audit.log.000000000001").write_text("mine")

    await trail.write(1, first=2, bytes_max=100)

    assert (trail.path.parent / "audit.log.000000000001").read_text() == "mine"
    assert (trail.path.parent / "audit.log.000000000001-1").exists()
    assert await trail.flaws() == []


async def test_only_the_newest_are_kept_if_asked_and_the_chain_says_where_it_begins(trail: Written) -> None:
    await trail.write(40, bytes_max=1500, keep=2)

    assert len(trail.files) == 2
    [found] = await trail.breaks()
    assert found.flaw.slug == "begins-later"
    trail.files[0].unlink()
    assert await trail.flaws() == ["begins-later", "removed"]


async def test_files_that_do_not_follow_each_other_are_not_removed(trail: Written) -> None:
    await trail.write(18, bytes_max=1500)
    count = len(trail.files)
    assert count > 2
    trail.files[-1].write_bytes(b"".join(trail.files[-1].read_bytes().splitlines(keepends=True)[:-1]))

    with capture_logs() as logs:
        await trail.write(18, first=19, bytes_max=1500, keep=2)

    assert len(trail.files) > count
    assert any("kept" in entry["event"] for entry in logs)


async def test_a_file_renamed_by_somebody_else_is_noticed_by_every_writer(trail: Written) -> None:
    one, other = await opened(trail.path, trail.driver), await opened(trail.path, trail.driver)
    await one.write(push(1))
    await other.write(push(2))
    trail.path.rename(trail.path.with_name("audit.log.1"))

    await other.write(push(3))
    await one.write(push(4))
    await one.close()
    await other.close()

    assert [json.loads(line)["event"] for line in trail.lines] == ["rotated", "push", "push"]
    assert await trail.flaws() == []


@pytest.mark.parametrize("with_store", [True, False])
async def test_a_writer_that_was_idle_goes_on_where_one_that_was_killed_in_a_rotation_had_come(
    trail: Written, *, with_store: bool
) -> None:
    driver = trail.driver if with_store else None
    idle = await opened(trail.path, driver)
    await idle.write(push(1))
    other = await opened(trail.path, driver, bytes_max=1500)
    for number in range(2, 22):
        await other.write(push(number))
    await other.close()
    assert len(trail.files) > 2
    # What a rotation leaves that is killed after it has made the new file and before it has written to it.
    trail.path.rename(trail.path.with_name("audit.log.killed"))
    trail.path.touch()

    await idle.write(push(22))
    await idle.close()

    assert await trail.flaws(with_head=with_store) == []
    assert [json.loads(line)["event"] for line in trail.lines] == ["rotated", "push"]


async def test_a_file_renamed_away_and_out_of_sight_is_followed_without_a_store(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    opened_trail = await opened(path)
    await opened_trail.write(push(1))
    (tmp_path / "old").mkdir()
    path.rename(tmp_path / "old" / "audit.log.1")

    await opened_trail.write(push(2))
    await opened_trail.close()

    (tmp_path / "old" / "audit.log.1").rename(tmp_path / "audit.log.1")
    assert list(Verification(path, head=None).run()) == []


async def test_a_file_copied_and_cut_to_nothing_is_followed(trail: Written) -> None:
    opened_trail = await opened(trail.path, trail.driver)
    await opened_trail.write(push(1))
    trail.path.with_name("audit.log.1").write_bytes(trail.path.read_bytes())
    os.truncate(trail.path, 0)

    await opened_trail.write(push(2))
    await opened_trail.close()

    assert await trail.flaws() == []


# Rotation while others read


class Rotating:
    """A trail in which `rotate` does with its files what its writers did then; it stands at the fourth file."""

    def __init__(self, trail: Written) -> None:
        self.path = trail.path
        files = trail.files
        self._names = [file.name for file in files[3:]]
        self._later = [file.rename(file.with_name(f"later.{file.name}")) for file in files[4:]]
        self._later.append(trail.path.rename(trail.path.with_name("later")))
        files[3].rename(self.path)

    @property
    def mark(self) -> Mark:
        """Of the last event."""
        entry = read_line(self.path.read_bytes().splitlines(keepends=True)[-1])
        assert entry is not None
        return entry.mark

    def rotate(self) -> None:
        """Rename the current file, and put the next one in its place."""
        self.path.rename(self.path.with_name(self._names.pop(0)))
        self._later.pop(0).rename(self.path)


@pytest.fixture
async def rotating(trail: Written) -> Rotating:
    await trail.write(60, bytes_max=100)
    return Rotating(trail)


def test_a_trail_that_is_rotated_faster_than_it_can_be_listed_is_whole(
    rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rotated_meanwhile(path: Path) -> list[Part]:
        rotating.rotate()
        rotating.rotate()
        return rotated_parts(path)

    monkeypatch.setattr(parts, "rotated_parts", rotated_meanwhile)
    head = rotating.mark
    verification = Verification(rotating.path, head=head)

    assert list(verification.run()) == []
    assert rotating.mark.seq > verification.seen.events >= head.seq


def test_no_event_is_left_out_for_a_reader_of_a_trail_that_is_rotated(rotating: Rotating) -> None:
    last = rotating.mark.seq
    entries = read_entries(rotating.path)
    seen = [next(entries)]
    for _ in range(3):
        rotating.rotate()
    seen += entries

    assert [entry.mark.seq for _, entry in seen] == list(range(1, last + 1))


# Writers that are killed while they rotate

STEPS = 10
"""At least as many as a rotation takes that removes a file as well: the last victim has its event acknowledged."""

STEPS_MIN = 6
"""Rename, create, list and remove files; make a head record and put it in its place."""

WRITERS = "unwritten", "idle", "near", "fresh"


class Bereaved:
    """A trail whose writer was killed, and others that go on: each knows another state of it.

    `unwritten` has opened it before there was a line, `idle` has written to the first file, `near` to the newest.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "audit.log"
        self.driver = FileSystemDriver(directory / "data")
        self.writers: dict[str, Trail] = {}

    async def start(self) -> None:
        """Write until the next event rotates, and has a file to remove."""
        (self.directory / "data").mkdir(parents=True)
        await self.driver.start()
        for name in WRITERS[:3]:
            self.writers[name] = await opened(self.path, self.driver, **ROTATION)
        await self.writers["idle"].write(push(1))
        while len(rotated_parts(self.path)) < ROTATION["keep"] or self.path.stat().st_size < ROTATION["bytes_max"]:
            await self.writers["near"].write(push(2))

    async def go_on(self, name: str) -> None:
        """Let one of them write, or a `fresh` one."""
        if name == "fresh":
            self.writers[name] = await opened(self.path, self.driver, **ROTATION)
        for number in range(3):
            await self.writers[name].write(push(number))

    async def flaws(self) -> list[str]:
        """What is wrong with the trail."""
        return [each.flaw.slug for each in Verification(self.path, head=await head_of(self.driver)).run()]

    async def close(self) -> None:
        """Let go of the files."""
        for writer in self.writers.values():
            await writer.close()
        await self.driver.close()


@pytest.mark.parametrize("first", WRITERS)
async def test_a_rotation_killed_at_any_step_leaves_a_chain_that_every_other_writer_goes_on_with(
    tmp_path: Path, first: str
) -> None:
    trails = [Bereaved(tmp_path / str(step)) for step in range(STEPS)]
    for each in trails:
        await each.start()
    victims = [f"{step}:{each.directory}" for step, each in enumerate(trails)]
    command = [sys.executable, "-m", "tests.audit.victims", *victims]
    codes = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)

    assert codes[:STEPS_MIN] == [-signal.SIGKILL] * STEPS_MIN
    assert codes[-1] == 0
    for each in trails:
        assert set(await each.flaws()) <= {"begins-later"}
        for name in [first, *(name for name in WRITERS if name != first)]:
            await each.go_on(name)
            assert set(await each.flaws()) <= {"begins-later"}, name
        await each.close()
