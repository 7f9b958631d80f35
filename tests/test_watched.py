"""A file that others write: what was read last holds while it is broken, and nothing that is not a file holds us up."""

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from registry.watched import LOOK_SECONDS, SETTLED_SECONDS, FileProblem, WatchedFile, read_regular
from tests.stores import Clock


class Number:
    """A file with a number in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.clock, self.reads, self.fails = path, Clock(), 0, False
        self.write("1")
        self.watched = WatchedFile(path, self.read, what="number", clock=self.clock)

    def read(self, path: Path) -> int:
        self.reads += 1
        if self.fails:
            raise FileProblem("too many open files")
        return int(read_regular(path, 100))

    def write(self, text: str) -> None:
        self.path.write_text(text)
        os.utime(self.path, (self.clock.now, self.clock.now))

    def later(self, seconds: float = LOOK_SECONDS) -> int:
        self.clock.now += seconds
        return self.watched.current()


@pytest.fixture
def number(tmp_path: Path) -> Number:
    made = Number(tmp_path / "number")
    made.watched.load()
    return made


def test_a_change_is_read_at_the_next_look_and_counted(number: Number) -> None:
    generation = number.watched.generation
    number.write("2")

    assert number.later(LOOK_SECONDS / 2) == 1
    assert number.later(LOOK_SECONDS / 2) == 2
    assert number.watched.generation == generation + 1


def test_a_settled_file_is_not_read_again(number: Number) -> None:
    number.later(SETTLED_SECONDS + 1)
    reads = number.reads

    for _ in range(5):
        number.later()

    assert number.reads == reads


def test_what_is_written_twice_within_a_tick_is_seen_all_the_same(number: Number) -> None:
    number.write("2")
    assert number.later() == 2
    before = number.path.stat()

    number.path.write_text("3")
    os.utime(number.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert number.later() == 3


def test_while_it_is_broken_what_was_read_before_holds_and_the_log_says_so_once(number: Number) -> None:
    number.later(SETTLED_SECONDS + 1)
    with capture_logs() as logs:
        number.write("none")
        assert [number.later() for _ in range(4)] == [1] * 4
        number.path.unlink()
        assert [number.later() for _ in range(4)] == [1] * 4
        number.write("4")
        assert number.later() == 4

    assert [line["log_level"] for line in logs] == ["error", "error", "info"]


def test_before_anything_was_read_it_is_an_error_unless_something_holds_until_then(tmp_path: Path) -> None:
    absent = tmp_path / "absent"

    def read(path: Path) -> bytes:
        return read_regular(path, 100)

    with pytest.raises(FileProblem):
        WatchedFile(absent, read, what="file").current()
    with pytest.raises(FileProblem):
        WatchedFile(absent, read, what="file", initial=b"").load()
    assert WatchedFile(absent, read, what="file", initial=b"nothing").current() == b"nothing"


@pytest.mark.parametrize("name", ["absent", "fifo", "large", "."])
def test_what_can_not_be_read_is_told_in_a_few_words(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(101))

    with pytest.raises(FileProblem, match=r"can't be read|no file|larger"):
        read_regular(tmp_path / name, 100)


def test_a_read_that_fails_once_is_tried_again_though_the_file_stays_as_it_is(number: Number) -> None:
    number.write("2")
    number.clock.now += SETTLED_SECONDS + 1
    number.fails = True
    assert number.watched.current() == 1

    number.fails = False

    assert number.later() == 2
