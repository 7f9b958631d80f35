"""Walk over a whole trail, line by line: is everything there that was written, as it was written, in its order."""

import hashlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, unique
from pathlib import Path
from typing import BinaryIO

from registry.audit.chain import GENESIS, Entry, Mark, mac_holds, read_line
from registry.audit.events import LINE_BYTES_MAX, EventKind
from registry.audit.parts import Part, open_files, open_part
from registry.findings import Severity
from registry.scan import Tally

UNFINISHED_TRIES = 10
UNFINISHED_SECONDS = 0.05
"""How often, and after what time each, an unfinished last line is looked at again: it may just be being written."""

GAPS_MAX = 10_000
"""How many holes are remembered at once, for lines that may turn up later."""

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")


@unique
class Flaw(Enum):
    """What may be wrong with a trail: how bad it is, and what it means."""

    EDITED = (Severity.ERROR, "the line is not as it was written")
    REMOVED = (Severity.ERROR, "events are missing")
    REORDERED = (Severity.ERROR, "it stands in the wrong place")
    TRUNCATED = (Severity.ERROR, "the end of the trail is missing")
    FOREIGN_LINE = (Severity.ERROR, "the line was not written by the trail")
    CHAIN_BROKEN = (Severity.ERROR, "the registry found that the trail did not end as it had been recorded")
    HEAD_MISSING = (
        Severity.ERROR,
        "the store holds no head record that can be read: what is missing at the end is unknown",
    )
    TORN = (Severity.WARNING, "a line that was never finished, and never acknowledged; nothing is lost before it")
    BEGINS_LATER = (Severity.WARNING, "older files were removed by rotation")

    def __init__(self, severity: Severity, meaning: str) -> None:
        self.severity = severity
        self.meaning = meaning

    @property
    def slug(self) -> str:
        """The kind as it is printed and documented."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, from 1; 0 is the file itself."""

    file: Path
    line: int


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that is wrong, and where."""

    flaw: Flaw
    place: Place
    detail: str = ""

    @property
    def text(self) -> str:
        """What is wrong, in one line."""
        return f"{self.flaw.meaning}: {self.detail}" if self.detail else self.flaw.meaning


@dataclass(slots=True)
class Seen:
    """What was verified: how many events, in how many files, and the times of the first and the last."""

    events: int = 0
    files: int = 0
    first: str = ""
    last: str = ""
    macs: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """A line as read: `body` with its newline, unless it has none or is too long to be of a trail."""

    place: Place
    body: bytes
    length: int
    sha256: str
    is_ended: bool


@dataclass(slots=True)
class _Gap:
    first: int
    last: int
    place: Place


@dataclass(slots=True)
class _Walk:
    """How far the walk is: the furthest line in order, and what waits for an explanation."""

    last: Mark | None = None
    last_place: Place | None = None
    is_last_suspect: bool = False
    head_seen: bool = False
    has_mac: bool = False
    begins: int = 1
    gaps: list[_Gap] = field(default_factory=list)
    fragment: _Line | None = None


class Verification:
    """Memory does not grow with the trail. Lines may be appended and files rotated meanwhile.

    `head` has to be read before: what was written since is then read as well, and what was recorded must be there.
    Without one the end is not checked. `begins`: the event with which the trail may begin, at the latest.
    """

    def __init__(
        self, path: Path, *, head: Mark | None, key: bytes | None = None, begins: int = 1, tally: Tally | None = None
    ) -> None:
        self.seen = Seen()
        self._path = path.absolute()
        self._head = head
        self._key = key
        self._tally = tally or Tally()
        self._walk = _Walk(begins=begins)

    def run(self) -> Iterator[Break]:
        """Walk over all files of the trail. Raises OSError if one can't be read."""
        self._tally.enter("reading")
        with open_files(self._path) as files:
            sizes = [part.path.stat().st_size for part in files.rotated]
            total = sum(sizes) + os.fstat(files.current.fileno()).st_size or 1
            read = 0
            for part, size in zip(files.rotated, sizes, strict=True):
                is_late = files.own is not None and part.first.mark.seq > files.own.first.mark.seq
                yield from self._check_name(part, is_late=is_late)
                with open_part(part.path) as file:
                    yield from self._read(part.path, file)
                read += size
                self._tally.fraction = read / total
            yield from self._read(self._path, files.current)
        yield from self._end()

    def _check_name(self, part: Part, *, is_late: bool) -> Iterator[Break]:
        seq = part.first.mark.seq
        if part.named_seq is not None and part.is_whole and part.named_seq != seq:
            detail = f"the name says that it begins with event {part.named_seq}, and it begins with {seq}"
            yield Break(Flaw.REORDERED, Place(part.path, 0), detail)
        if is_late:
            yield Break(Flaw.REORDERED, Place(part.path, 0), f"it begins later than {self._path.name}")

    def _read(self, path: Path, file: BinaryIO) -> Iterator[Break]:
        for line in _lines(path, file):
            self.seen.files += line.place.line == 1
            yield from self._take(line)

    def _take(self, line: _Line) -> Iterator[Break]:
        entry = read_line(line.body)
        if entry is None and not line.is_ended:
            entry = read_line(line.body + b"\n")
            if entry is not None:
                yield Break(Flaw.TORN, line.place, "only its newline is missing")
        fragment, self._walk.fragment = self._walk.fragment, None
        if entry is None:
            if fragment:
                yield Break(Flaw.FOREIGN_LINE, fragment.place)
            self._walk.fragment = line
            return
        if fragment and entry.event == EventKind.ROTATED.value:
            self._walk.fragment = fragment  # the next line may explain it
        elif fragment:
            explained = entry.event == EventKind.TORN_LINE.value and entry.detail == {
                "bytes": str(fragment.length),
                "sha256": fragment.sha256,
            }
            yield Break(Flaw.TORN if explained else Flaw.FOREIGN_LINE, fragment.place)
        self._count(entry)
        yield from self._check(entry, line)

    def _count(self, entry: Entry) -> None:
        self.seen.events += 1
        self.seen.first = self.seen.first or entry.time
        self.seen.last = entry.time
        self.seen.macs += entry.has_mac
        self._tally.counts["events"] += 1

    def _check(self, entry: Entry, line: _Line) -> Iterator[Break]:
        is_suspect = False
        if self._key is not None and (entry.has_mac or self._walk.has_mac):
            self._walk.has_mac = True
            if not mac_holds(line.body if line.is_ended else line.body + b"\n", self._key):
                is_suspect = True
                yield Break(Flaw.EDITED, line.place, "its MAC is not one of the key")
        place = self._in_order(entry, line.place)
        if isinstance(place, Break):
            yield place
        if self._walk.last == entry.mark:
            self._walk.is_last_suspect = is_suspect
            if self._head and entry.mark.seq == self._head.seq:
                self._walk.head_seen = True
                if entry.mark != self._head and not is_suspect:
                    yield Break(Flaw.EDITED, line.place, "it is not the line that the store has recorded")
        yield from self._check_notes(entry, line.place)
        while len(self._walk.gaps) > GAPS_MAX:
            yield _removed(self._walk.gaps.pop(1))

    def _in_order(self, entry: Entry, place: Place) -> Break | None:
        """Find the line's place in the chain, and what is wrong with it."""
        walk = self._walk
        last, last_place, mark = walk.last or GENESIS, walk.last_place or place, entry.mark
        if mark.seq <= last.seq and entry.previous != last.hash:
            if self._fill(mark.seq):
                return Break(Flaw.REORDERED, place, f"event {mark.seq} stands after event {last.seq}")
            return Break(Flaw.FOREIGN_LINE, place, f"there is an event {mark.seq} already")
        found = None
        if entry.previous == last.hash:
            if mark.seq != last.seq + 1:
                found = Break(Flaw.EDITED, place, f"event {last.seq + 1} has the number {mark.seq}")
                mark = Mark(last.seq + 1, mark.hash)
        elif mark.seq > last.seq + 1:
            walk.gaps.append(_Gap(last.seq + 1, mark.seq - 1, place))
        elif not walk.is_last_suspect:
            detail = f"event {mark.seq} was written after another event {last.seq} than this" if last.seq else ""
            found = Break(Flaw.EDITED, last_place, detail)
        walk.last, walk.last_place, walk.is_last_suspect = mark, place, False
        return found

    def _fill(self, seq: int) -> bool:
        """Take an event that turned up late out of the holes; False if it was not missing."""
        gaps = self._walk.gaps
        for index, gap in enumerate(gaps):
            if gap.first <= seq <= gap.last:
                halves = [_Gap(gap.first, seq - 1, gap.place), _Gap(seq + 1, gap.last, gap.place)]
                gaps[index : index + 1] = [half for half in halves if half.first <= half.last]
                return True
        return False

    def _check_notes(self, entry: Entry, place: Place) -> Iterator[Break]:
        if entry.event == EventKind.CHAIN_BROKEN.value:
            yield Break(Flaw.CHAIN_BROKEN, place)
        if entry.event == EventKind.PRUNED.value:
            begins = str(entry.detail.get("begins"))
            if _NUMBER.fullmatch(begins) and int(begins) <= entry.mark.seq:
                self._walk.begins = max(self._walk.begins, int(begins))

    def _end(self) -> Iterator[Break]:
        walk = self._walk
        last, place = walk.last or GENESIS, walk.last_place or Place(self._path, 0)
        for gap in walk.gaps:
            if gap.first == 1 and walk.begins > 1:
                yield Break(Flaw.BEGINS_LATER, gap.place, f"the trail begins with event {gap.last + 1}")
                gap.first = walk.begins
            if gap.first <= gap.last:
                yield _removed(gap)
        is_short = self._head is not None and self._head.seq > last.seq
        if self._head and is_short:
            yield Break(Flaw.TRUNCATED, place, f"{_events(last.seq + 1, self._head.seq)} recorded in the store")
        elif self._head and not walk.head_seen:
            yield Break(Flaw.EDITED, place, f"event {self._head.seq}, which the store has recorded, is not among them")
        if fragment := walk.fragment:
            if fragment.is_ended:
                yield Break(Flaw.FOREIGN_LINE, fragment.place)
            elif not is_short:
                yield Break(Flaw.TORN, fragment.place, "the next event will be written after it")
        if self._key is not None and last.seq and not walk.has_mac:
            yield Break(Flaw.EDITED, place, "no line carries a MAC, and a key was given")


def _removed(gap: _Gap) -> Break:
    return Break(Flaw.REMOVED, gap.place, f"{_events(gap.first, gap.last)} should stand before this line")


def _events(first: int, last: int) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"


def _lines(path: Path, file: BinaryIO) -> Iterator[_Line]:
    number = 0
    while piece := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        body, length = piece, len(piece)
        digest = hashlib.sha256(piece.removesuffix(b"\n"))
        while len(piece) > LINE_BYTES_MAX and not piece.endswith(b"\n"):
            body = b""
            piece = file.readline(LINE_BYTES_MAX + 1)
            length += len(piece)
            digest.update(piece.removesuffix(b"\n"))
        for _ in range(UNFINISHED_TRIES):
            if piece.endswith(b"\n") or not body:
                break
            time.sleep(UNFINISHED_SECONDS)
            piece = file.readline(LINE_BYTES_MAX + 1)
            body, length = body + piece, length + len(piece)
            digest.update(piece.removesuffix(b"\n"))
        is_ended = piece.endswith(b"\n")
        yield _Line(Place(path, number), body, length - is_ended, digest.hexdigest(), is_ended)
