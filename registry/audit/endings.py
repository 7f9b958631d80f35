"""How a file of the trail ends, and from where the chain goes on: after other processes, crashes and attackers.

The head record is written after the lines that it counts, and at most one group of lines is ahead of it: whoever
finds a group ahead records it before anything is appended. So three things can be told apart:

- lines that follow the head without a gap were written by a process that died before it could record them;
- bytes without a newline at the end are the start of a line that was never acknowledged;
- anything else is not what was written. The chain then goes on from what was recorded, with a line that says so:
  to go on from what the file holds would make a chain without a gap out of one that has lost lines.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

from registry.audit.chain import GENESIS, Entry, Mark, mac_holds, read_line
from registry.audit.events import LINE_BYTES_MAX, Event, EventKind

BLOCK_BYTES = 4096
GROUP_MAX = 512
"""How many lines are appended at once, at most."""

LOOK_BACK_LINES = GROUP_MAX + 16
"""A group, and what the trail itself adds to it."""


class NoTrail(OSError):
    """The file holds something else than an audit trail."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Where the chain goes on: after `mark`, with these events before any other.

    `is_ahead`: the file holds lines up to `mark` that the head does not count yet. `lacks_newline`: one has to be
    written first.
    """

    mark: Mark
    notes: tuple[Event, ...] = ()
    is_ahead: bool = False
    lacks_newline: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether the file does not end as was recorded."""
        return any(note.kind is EventKind.CHAIN_BROKEN for note in self.notes)


def read_ending(descriptor: int, size: int, head: Mark | None, key: bytes | None) -> Ending:
    """How the first `size` bytes of a file end, given what was recorded. Raises OSError, and NoTrail."""
    whole = _end_of_lines(descriptor, size)
    lines: Iterator[bytes] = lines_backward(descriptor, whole)
    notes: tuple[Event, ...] = ()
    if whole < size:
        length, digest, start = _fragment(descriptor, whole, size)
        if length < LINE_BYTES_MAX and read_line(start + b"\n"):
            lines = chain([start + b"\n"], lines)  # only its newline is missing
        else:
            notes = (Event(EventKind.TORN_LINE, detail={"bytes": str(length), "sha256": digest}),)
    ending = _compared(_entries(lines, key), head) if head else _unanchored(_entries(lines, key), is_empty=whole == 0)
    return replace(ending, notes=notes + ending.notes, lacks_newline=whole < size)


def lines_backward(descriptor: int, end: int) -> Iterator[bytes]:
    """The lines that end at offset `end`, the last one first. Stops at one that is too long to be of a trail."""
    rest = b""
    while end > 0 and len(rest) < 2 * LINE_BYTES_MAX:
        length = min(BLOCK_BYTES, end)
        end -= length
        first, *others = (os.pread(descriptor, length, end) + rest).split(b"\n")[:-1]
        yield from (line + b"\n" for line in reversed(others))
        rest = first + b"\n"
    if end == 0 and rest:
        yield rest


def last_entry(descriptor: int) -> Entry | None:
    """The last whole line of a file, if it is one of a trail."""
    line = next(lines_backward(descriptor, _end_of_lines(descriptor, os.fstat(descriptor).st_size)), b"")
    return read_line(line)


def _entries(lines: Iterator[bytes], key: bytes | None) -> Iterator[tuple[Entry, bool]]:
    """The lines of a trail among these, and whether each is genuine as far as can be told."""
    for line in islice(lines, LOOK_BACK_LINES):
        if entry := read_line(line):
            yield entry, key is None or mac_holds(line, key)


def _unanchored(entries: Iterator[tuple[Entry, bool]], *, is_empty: bool) -> Ending:
    if found := next(entries, None):
        return Ending(found[0].mark, is_ahead=True)
    if is_empty:
        return Ending(GENESIS)
    raise NoTrail("the file does not end as an audit trail does: name another file, or move this one away")


def _compared(entries: Iterator[tuple[Entry, bool]], head: Mark) -> Ending:
    last: Mark | None = None
    above: Entry | None = None
    for entry, is_genuine in entries:
        last = last or entry.mark
        if entry.mark == head and above is None:
            return Ending(head)
        if not is_genuine:
            return Ending(head, (_broken(head, entry.mark),))
        if above and not above.follows(entry.mark):
            break
        if entry.follows(head):
            return Ending(last, is_ahead=True)
        above = entry
    if last is None:
        return Ending(head)  # nothing in this file yet; whether something is missing, the numbers will tell
    return Ending(max(head, last, key=lambda mark: mark.seq), (_broken(head, last),))


def _broken(recorded: Mark, found: Mark) -> Event:
    detail = {"recorded": f"{recorded.seq}:{recorded.hash}", "found": f"{found.seq}:{found.hash}"}
    return Event(EventKind.CHAIN_BROKEN, detail=detail)


def _end_of_lines(descriptor: int, size: int) -> int:
    """The offset after the last newline; 0 if there is none."""
    end = size
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _fragment(descriptor: int, start: int, end: int) -> tuple[int, str, bytes]:
    """Length, SHA-256 and the first bytes of what lies between two offsets."""
    digest, first = hashlib.sha256(), os.pread(descriptor, min(end - start, LINE_BYTES_MAX), start)
    for offset in range(start, end, BLOCK_BYTES):
        digest.update(os.pread(descriptor, min(BLOCK_BYTES, end - offset), offset))
    return end - start, digest.hexdigest(), first
