"""Several processes write one chain, also when some of them are killed and files are renamed meanwhile."""

import asyncio
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from registry.audit.chain import Mark, read_head
from registry.audit.parts import rotated_parts
from registry.audit.verification import Break, Flaw, Verification
from storage import keys
from storage.filesystem import FileSystemDriver
from tests.running import ROOT, eventually

ACKNOWLEDGED_MIN = 40


@dataclass(slots=True)
class Writer:
    process: subprocess.Popen[bytes]
    output: Path

    def acknowledged(self) -> list[str]:
        """The references of the events that it was told are recorded; what a kill may have cut is left out."""
        return self.output.read_text().split("\n")[:-1]


class Fleet:
    """Writers to one trail."""

    def __init__(self, directory: Path, *, bytes_max: int = 0) -> None:
        self.file = directory / "audit.log"
        self.data = directory / "data"
        self.data.mkdir()
        self.writers: list[Writer] = []
        self._directory = directory
        self._bytes_max = bytes_max

    def start(self) -> Writer:
        """Start one more."""
        name = f"w{len(self.writers)}"
        output = self._directory / f"{name}.out"
        arguments = [str(self.file), str(self.data), name, str(self._bytes_max)]
        command = [sys.executable, "-m", "tests.audit.writer", *arguments]
        with output.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out)
        self.writers.append(Writer(process, output))
        return self.writers[-1]

    def stop(self) -> None:
        """Stop those that run."""
        running = [writer for writer in self.writers if writer.process.poll() is None]
        for writer in running:
            writer.process.terminate()
        for writer in running:
            assert writer.process.wait(30) == 0

    def verify(self) -> tuple[list[Break], Verification]:
        """What is wrong with the trail."""
        verification = Verification(self.file, head=asyncio.run(self._head()))
        return list(verification.run()), verification

    def references(self) -> set[str]:
        """The references of all events of the trail."""
        files = [*(part.path for part in rotated_parts(self.file)), self.file]
        lines = itertools.chain.from_iterable(file.read_bytes().splitlines() for file in files)
        return {entry["reference"] for entry in map(json.loads, lines) if "reference" in entry}

    async def _head(self) -> Mark | None:
        driver = FileSystemDriver(self.data)
        body = (await driver.get(keys.audit_head(), bytes_max=512)).body
        await driver.close()
        return read_head(body, None)


@contextmanager
def fleet(directory: Path, *, bytes_max: int = 0) -> Iterator[Fleet]:
    """Writers that are ended at the end in any case."""
    made = Fleet(directory, bytes_max=bytes_max)
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.process.kill()
            writer.process.wait()


def but_torn(found: list[Break]) -> list[Break]:
    """What a kill does not excuse."""
    return [each for each in found if each.flaw is not Flaw.TORN]


def working(writer: Writer, count: int = ACKNOWLEDGED_MIN) -> None:
    """Return when a writer has so many events acknowledged."""
    eventually(lambda: len(writer.acknowledged()) >= count, seconds=30)


@pytest.mark.parametrize("bytes_max", [0, 8000], ids=["one file", "rotated"])
def test_nothing_acknowledged_is_lost_when_writers_are_killed_again_and_again(tmp_path: Path, bytes_max: int) -> None:
    with fleet(tmp_path, bytes_max=bytes_max) as writers:
        survivor = writers.start()
        for _ in range(4):
            victim = writers.start()
            working(victim)
            victim.process.kill()
            victim.process.wait()
            working(survivor, len(survivor.acknowledged()) + 10)
        meanwhile, _ = writers.verify()
        writers.stop()

        afterwards, verification = writers.verify()

        acknowledged = {reference for writer in writers.writers for reference in writer.acknowledged()}
        assert (but_torn(meanwhile), but_torn(afterwards)) == ([], [])
        assert acknowledged <= writers.references()
        assert len(acknowledged) > 4 * ACKNOWLEDGED_MIN
        assert verification.seen.events >= len(acknowledged)
        assert (verification.seen.files > 5) == bool(bytes_max)


def test_all_writers_killed_at_once_leave_a_chain_that_the_next_one_goes_on_with(tmp_path: Path) -> None:
    with fleet(tmp_path) as writers:
        for _ in range(3):
            started = [writers.start(), writers.start()]
            for writer in started:
                working(writer)
            for writer in started:
                writer.process.kill()
        last = writers.start()
        working(last)
        writers.stop()

        found, _ = writers.verify()

        assert but_torn(found) == []
        assert {reference for writer in writers.writers for reference in writer.acknowledged()} <= writers.references()


def test_a_file_renamed_from_outside_is_followed_by_all_writers(tmp_path: Path) -> None:
    with fleet(tmp_path) as writers:
        started = [writers.start(), writers.start()]
        for number in range(6):
            for writer in started:
                working(writer, len(writer.acknowledged()) + 20)
            writers.file.rename(tmp_path / f"audit.log-2026112{number}")
        for writer in started:
            working(writer, len(writer.acknowledged()) + 20)
        writers.stop()

        found, verification = writers.verify()

        assert found == []
        assert verification.seen.files == 7
        assert {reference for writer in writers.writers for reference in writer.acknowledged()} <= writers.references()
