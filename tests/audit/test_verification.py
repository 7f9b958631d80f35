"""What is done to a trail is found: removal, edits, another order, a missing end, lines of others."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.audit.chain import GENESIS, Mark, seal, write_head
from registry.audit.verification import GAPS_MAX, Flaw
from registry.findings import Severity
from storage import keys
from tests.audit.trails import KEY, Written, head_of, push

COUNT = 8

Lines = list[bytes]


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("registry.audit.verification.UNFINISHED_SECONDS", 0.0)


@pytest.fixture(params=[None, KEY], ids=["plain", "keyed"])
async def trail(request: pytest.FixtureRequest, tmp_path: Path) -> Written:
    written = Written(tmp_path / "audit.log", key=request.param)
    await written.write(COUNT)
    return written


@pytest.fixture
async def rotated(tmp_path: Path) -> Written:
    """A trail in four files of 3 events: two of them, and the line that says where the file before went."""
    written = Written(tmp_path / "audit.log")
    for first in range(4):
        await written.write(2, first=2 * first + 1, bytes_max=700)
    assert len(written.files) == 3
    return written


async def test_a_trail_as_it_was_written_is_whole(trail: Written) -> None:
    assert await trail.breaks() == []
    assert await trail.flaws(with_head=False) == []


@pytest.mark.parametrize("place", range(COUNT))
async def test_a_removed_line_is_found_wherever_it_stood(trail: Written, place: int) -> None:
    trail.rewrite(lambda lines: lines[:place] + lines[place + 1 :])

    last = place == COUNT - 1
    assert await trail.flaws() == ["truncated" if last else "removed"]
    [found] = await trail.breaks()
    assert f"event {place + 1}" in found.text
    assert found.place.line == (place if last else place + 1)


@pytest.mark.parametrize("place", range(COUNT))
async def test_an_edit_of_each_field_is_found_and_where(trail: Written, place: int) -> None:
    original = trail.lines
    for field in json.loads(original[place]):
        changed = json.loads(original[place])
        match changed[field]:
            case int(number):
                changed[field] = number + 100
            case str(text):
                changed[field] = ("1" if text[0] == "0" else "0") + text[1:]
            case other:
                changed[field] = {**other, "agent": "podman"}
        line = json.dumps(changed, separators=(",", ":")).encode() + b"\n"
        trail.path.write_bytes(b"".join([*original[:place], line, *original[place + 1 :]]))

        found = await trail.breaks()

        assert found, field
        assert {each.flaw.severity for each in found} == {Severity.ERROR}
        if field not in {"seq", "previous"}:
            assert {each.flaw for each in found} == {Flaw.EDITED}
            assert {each.place.line for each in found} == {place + 1}


@pytest.mark.parametrize("place", range(COUNT - 1))
async def test_two_lines_that_were_swapped_are_found(trail: Written, place: int) -> None:
    def swap(lines: Lines) -> Lines:
        lines[place], lines[place + 1] = lines[place + 1], lines[place]
        return lines

    trail.rewrite(swap)

    assert await trail.flaws() == ["reordered"]
    assert f"event {place + 1} stands after event {place + 2}" in (await trail.breaks())[0].text


async def test_the_first_and_the_last_line_swapped_are_found(trail: Written) -> None:
    trail.rewrite(lambda lines: [lines[-1], *lines[1:-1], lines[0]])

    assert set(await trail.flaws()) == {"reordered"}


async def test_the_end_cut_off_anywhere_is_found(trail: Written) -> None:
    whole = trail.path.read_bytes()
    last = len(trail.lines[-1])
    ends = {len(whole) - cut for cut in range(2, last + 1)}
    ends |= {sum(map(len, trail.lines[:count])) for count in range(COUNT)}
    for end in ends:
        trail.path.write_bytes(whole[:end])

        found = await trail.flaws()

        assert found == ["truncated"], end


async def test_only_the_last_newline_missing_is_no_loss(trail: Written) -> None:
    trail.path.write_bytes(trail.path.read_bytes()[:-1])

    assert await trail.flaws() == ["torn"]


async def test_a_line_that_is_just_being_written_is_waited_for(trail: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trail.path.read_bytes()
    trail.path.write_bytes(whole[:-50])

    def sleep(_seconds: float) -> None:
        with trail.path.open("ab") as file:
            file.write(whole[trail.path.stat().st_size :][:30])

    monkeypatch.setattr("registry.audit.verification.time.sleep", sleep)

    assert await trail.flaws() == []


async def test_a_missing_end_is_not_found_without_the_head(trail: Written) -> None:
    trail.rewrite(lambda lines: lines[:-1])

    assert await trail.flaws(with_head=False) == []


async def test_a_removed_file_is_found(trail: Written) -> None:
    trail.path.unlink()

    assert await trail.flaws() == ["truncated"]
    assert "events 1 to 8" in (await trail.breaks())[0].text


async def test_a_tail_that_was_written_anew_is_found(tmp_path: Path) -> None:
    trail = Written(tmp_path / "audit.log")
    await trail.write(COUNT)
    mark, lines = GENESIS, []
    for number in range(1, COUNT + 1):
        line, mark = seal(push(number + 100).fields(), mark, time=0, key=None)
        lines.append(line)
    trail.path.write_bytes(b"".join(lines))

    assert await trail.flaws() == ["edited"]
    assert await trail.flaws(with_head=False) == []


async def test_without_the_key_nothing_can_be_written_anew_not_even_with_the_head(tmp_path: Path) -> None:
    trail = Written(tmp_path / "audit.log", key=KEY)
    await trail.write(COUNT)
    for forger in (None, b"another key of thirty-two bytes.."):
        mark, lines = GENESIS, []
        for number in range(1, COUNT + 1):
            line, mark = seal(push(number).fields(), mark, time=0, key=forger)
            lines.append(line)
        trail.path.write_bytes(b"".join(lines))

        assert "edited" in await trail.flaws(with_head=False)
        await trail.driver.put(keys.audit_head(), write_head(mark, forger))
        with pytest.raises(AssertionError):
            await head_of(trail.driver, KEY)


async def test_a_key_may_come_later_but_not_go_again(tmp_path: Path) -> None:
    trail = Written(tmp_path / "audit.log")
    await trail.write(2)
    trail.driver._objects.clear()  # a head without a MAC is none once there is a key
    trail.key = KEY
    await trail.write(2)
    assert await trail.flaws() == []

    entry = json.loads(trail.lines[-1])
    line, mark = seal(push(5).fields(), Mark(entry["seq"], (await head_of(trail.driver)).hash), time=0, key=None)
    trail.rewrite(lambda lines: [*lines, line])
    assert await trail.flaws() == ["edited"]
    assert mark.seq == 5


@pytest.mark.parametrize("line", [b"hello\n", b"\n", b"\xff\0\n", b"x" * 10_000 + b"\n", b'{"seq":3}\n'])
@pytest.mark.parametrize("place", [0, 3, COUNT])
async def test_a_line_of_somebody_else_is_found(trail: Written, line: bytes, place: int) -> None:
    trail.rewrite(lambda lines: [*lines[:place], line, *lines[place:]])

    assert await trail.flaws() == ["foreign-line"]
    assert (await trail.breaks())[0].place.line == place + 1


async def test_a_line_that_stands_there_twice_is_found(trail: Written) -> None:
    trail.rewrite(lambda lines: [*lines[:5], lines[2], *lines[5:]])

    assert await trail.flaws() == ["foreign-line"]


async def test_an_older_copy_in_its_place_is_found(trail: Written, tmp_path: Path) -> None:
    shutil.copy(trail.path, tmp_path / "copy")
    await trail.write(3, first=9)
    shutil.move(tmp_path / "copy", trail.path)

    assert await trail.flaws() == ["truncated"]


async def test_what_a_writer_appends_after_a_cut_does_not_hide_it(trail: Written) -> None:
    trail.rewrite(lambda lines: lines[:5])

    await trail.write(2, first=9)

    assert await trail.flaws() == ["chain-broken", "removed"]
    assert "events 6 to 8" in (await trail.breaks())[-1].text


async def test_what_a_writer_appends_after_an_edit_of_the_last_line_does_not_hide_it(trail: Written) -> None:
    trail.rewrite(lambda lines: [*lines[:-1], lines[-1].replace(b"alice", b"mallory")])

    await trail.write(2, first=9)

    assert {"chain-broken", "edited"} <= set(await trail.flaws())


async def test_what_a_writer_appends_after_a_removed_file_does_not_hide_it(trail: Written) -> None:
    trail.path.unlink()

    await trail.write(2, first=9)

    assert await trail.flaws() == ["removed"]
    assert "events 1 to 8" in (await trail.breaks())[0].text


async def test_a_tail_written_anew_and_longer_is_found_after_the_next_event(tmp_path: Path) -> None:
    trail = Written(tmp_path / "audit.log")
    await trail.write(4)
    mark, lines = GENESIS, []
    for number in range(1, 8):
        line, mark = seal(push(number + 100).fields(), mark, time=0, key=None)
        lines.append(line)
    trail.path.write_bytes(b"".join(lines))
    assert await trail.flaws() == ["edited"]

    await trail.write(1, first=5)

    assert await trail.flaws() == ["chain-broken"]


async def test_a_line_that_was_added_without_the_key_is_not_gone_on_from(tmp_path: Path) -> None:
    trail = Written(tmp_path / "audit.log", key=KEY)
    await trail.write(3)
    head = await head_of(trail.driver)
    forged, _ = seal(push(99).fields(), head, time=0, key=b"x" * 32)
    trail.rewrite(lambda lines: [*lines, forged])
    assert await trail.flaws() == ["edited"]

    await trail.write(1, first=4)

    entry = json.loads(trail.lines[4])
    assert (entry["event"], entry["seq"], entry["previous"]) == ("chain-broken", 4, head.hash)
    assert {"edited", "chain-broken"} <= set(await trail.flaws())


async def test_a_head_that_belongs_to_no_line_is_found(rotated: Written) -> None:
    rotated.files[0].unlink()
    await rotated.driver.put(keys.audit_head(), write_head(Mark(2, "a" * 64), None))

    assert await rotated.flaws(begins=3) == ["begins-later", "edited"]


async def test_a_rotated_trail_is_walked_in_order(rotated: Written) -> None:
    assert await rotated.breaks() == []


@pytest.mark.parametrize("place", range(3))
async def test_a_removed_file_of_many_is_found(rotated: Written, place: int) -> None:
    rotated.files[place].unlink()

    assert await rotated.flaws() == ["removed"]


async def test_the_current_file_removed_is_found(rotated: Written) -> None:
    rotated.path.unlink()

    assert await rotated.flaws() == ["truncated"]


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2), (0, 2)])
async def test_two_swapped_files_are_found(rotated: Written, tmp_path: Path, one: int, other: int) -> None:
    files = rotated.files
    files[one].rename(tmp_path / "away")
    files[other].rename(files[one])
    (tmp_path / "away").rename(files[other])

    assert await rotated.flaws() == ["reordered", "reordered"]


async def test_the_current_file_swapped_with_an_older_one_is_found(rotated: Written, tmp_path: Path) -> None:
    rotated.path.rename(tmp_path / "away")
    rotated.files[1].rename(rotated.path)
    (tmp_path / "away").rename(rotated.path.with_name("audit.log.000000000003"))

    assert "reordered" in await rotated.flaws()


@pytest.mark.parametrize("place", range(3))
async def test_a_file_replaced_by_a_copy_of_another_is_found(rotated: Written, place: int) -> None:
    files = rotated.files
    shutil.copy(files[place - 1], files[place])

    assert {"removed", "foreign-line"} <= set(await rotated.flaws())


async def test_removed_lines_at_each_end_of_a_rotated_file_are_found(rotated: Written) -> None:
    middle = rotated.files[1]
    lines = middle.read_bytes().splitlines(keepends=True)
    for kept in (lines[1:], lines[:-1]):
        middle.write_bytes(b"".join(kept))

        assert "removed" in await rotated.flaws()


async def test_a_file_whose_first_line_is_spoilt_keeps_its_place(rotated: Written) -> None:
    middle = rotated.files[1]
    lines = middle.read_bytes().splitlines(keepends=True)
    middle.write_bytes(b"".join([b"x" + lines[0], *lines[1:]]))

    assert await rotated.flaws() == ["foreign-line", "removed"]


async def test_files_that_others_rotated_and_compressed_are_read(rotated: Written) -> None:
    for place, file in enumerate(rotated.files):
        packed = file.with_name(f"audit.log.{3 - place}.gz")
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()

    assert await rotated.flaws() == []


async def test_the_same_file_under_a_second_name_is_read_once(rotated: Written) -> None:
    (rotated.path.parent / "audit.log-20261126").hardlink_to(rotated.path)

    assert await rotated.flaws() == []


async def test_a_beginning_that_was_removed_on_purpose_may_be_accepted(rotated: Written) -> None:
    rotated.files[0].unlink()

    assert await rotated.flaws(begins=3) == ["begins-later"]
    assert await rotated.flaws(begins=2) == ["begins-later", "removed"]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[::2],
        lambda lines: lines[::-1],
        lambda lines: lines[4:] + lines[:4],
        lambda lines: [lines[3]] * 20,
    ],
    ids=["every second", "backwards", "halves swapped", "one line only"],
)
async def test_larger_damage_is_found_as_well(trail: Written, change: Callable[[Lines], Lines]) -> None:
    trail.rewrite(change)

    assert await trail.flaws()


def test_holes_without_end_take_no_memory_without_end(tmp_path: Path) -> None:
    from registry.audit.verification import Verification

    path = tmp_path / "audit.log"
    with path.open("wb") as file:
        for seq in range(2, 2 * GAPS_MAX + 2000, 2):
            line, _ = seal(push(1).fields(), Mark(seq, "1" * 64), time=0, key=None)
            file.write(line)
    verification = Verification(path, head=None)

    found = sum(1 for each in verification.run() if each.flaw is Flaw.REMOVED)

    assert found == GAPS_MAX + 999
    assert len(verification._walk.gaps) <= GAPS_MAX + 1
