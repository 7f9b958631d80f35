"""The files that a trail lies in: the current one, and those that were rotated away from it, in the order of events."""

import errno
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from registry.audit.chain import Entry, read_line
from registry.audit.endings import last_entry
from registry.audit.events import LINE_BYTES_MAX

LOCK_SUFFIX = ".lock"
SEQ_DIGITS = 12
FIRST_LINES_MAX = 16
"""How many lines that can't be read may stand at the start of a file that is one of a trail nevertheless."""

ROTATED_TRIES = 20
"""How often the files are listed anew because the current one was rotated meanwhile.

In the second half of them, those that are newer are left out instead: for when rotation is faster than listing.
"""

READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""O_NONBLOCK: opening a named pipe must not wait for somebody who writes into it."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a trail: its path, device and inode, and the first line that can be read.

    `is_whole`: that is the first line of the file as well.
    """

    path: Path
    file: tuple[int, int]
    first: Entry
    is_whole: bool

    @property
    def named_seq(self) -> int | None:
        """The number of the first event as the file's name has it; None for what others have rotated."""
        found = re.fullmatch(rf".+\.(\d{{{SEQ_DIGITS},}})(?:-\d+)?", self.path.name)
        return int(found[1]) if found else None


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a trail as they were at one moment: the open current one, and the rotated ones before it.

    `current` is empty if there is none. `own` is the current one as a part, unless it has no line yet.
    """

    current: BinaryIO
    own: Part | None
    rotated: list[Part]


@contextmanager
def open_files(path: Path) -> Iterator[Files]:
    """Find the files of the trail at `path`, while others rotate it. Raises OSError."""
    for attempt in range(1, ROTATED_TRIES + 1):
        with _open_current(path) as current:
            files = _files(path, current, is_hasty=attempt > ROTATED_TRIES // 2)
            if files is not None:
                yield files
                return
    raise OSError(errno.EBUSY, "it is rotated again and again", str(path))


def rotated_parts(path: Path) -> list[Part]:
    """The rotated files of the trail at `path`, told by their names and their first lines. Raises OSError."""
    found = []
    for each in path.parent.iterdir():
        if each.name.startswith((f"{path.name}.", f"{path.name}-")) and each.name != path.name + LOCK_SUFFIX:
            part = read_part(each)
            if part is not None:
                found.append(part)
    return sorted(found, key=lambda part: (part.first.mark.seq, part.path.name))


def read_part(path: Path) -> Part | None:
    """A file of a trail; None if it is none, or gone."""
    try:
        with open_part(path) as file:
            return _part(path, file)
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error):
        return None


def read_entries(path: Path) -> Iterator[tuple[bytes, Entry]]:
    """Every line of the trail at `path` that can be read, and what it says, oldest first. Raises OSError."""
    with open_files(path) as files:
        if not files.rotated and files.own is None:
            path.stat()  # raises if there is no file at all
        for part in files.rotated:
            with open_part(part.path) as file:
                yield from _entries(file)
        yield from _entries(files.current)


@contextmanager
def open_part(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a trail to read lines; what a tool has compressed with gzip as well. Raises OSError."""
    with open(os.open(path, READ), "rb") as file:
        if path.suffix != ".gz":
            yield file
            return
        with closing(gzip.GzipFile(fileobj=file)) as unpacked:
            yield cast("BinaryIO", unpacked)


def free_name(path: Path, seq: int) -> Path:
    """A name for the file at `path`, whose first event is `seq`, that no file has yet."""
    name = wanted = f"{path.name}.{seq:0{SEQ_DIGITS}}"
    number = 1
    while os.path.lexists(path.with_name(name)):
        name, number = f"{wanted}-{number}", number + 1
    return path.with_name(name)


def are_joined(parts: list[Part]) -> bool:
    """Tell whether each part begins where the one before it ends, by their first and last lines. Raises OSError."""
    before: Entry | None = None
    for part in parts:
        if before is not None and not part.first.follows(before.mark):
            return False
        with open_part(part.path) as file:
            before = last_entry(file.fileno())
        if before is None:
            return False
    return True


def _files(path: Path, current: BinaryIO, *, is_hasty: bool) -> Files | None:
    """List the rotated files; None if `current` was rotated meanwhile: some of them may be newer, with gaps between."""
    known = os.fstat(current.fileno())
    rotated = [part for part in rotated_parts(path) if part.file != (known.st_dev, known.st_ino)]
    own = None
    if stat.S_ISREG(known.st_mode):
        own = _part(path, current)
        current.seek(0)
    if _is_at(path, current):
        return Files(current, own, rotated)
    if is_hasty and own is not None:
        # Whatever is older than it had its name before it was opened, and is listed therefore.
        return Files(current, own, [part for part in rotated if part.first.mark.seq <= own.first.mark.seq])
    return None


def _part(path: Path, file: BinaryIO) -> Part | None:
    known = os.fstat(file.fileno())
    if not stat.S_ISREG(known.st_mode):
        return None
    for number in range(FIRST_LINES_MAX):
        if first := read_line(file.readline(LINE_BYTES_MAX + 1)):
            return Part(path, (known.st_dev, known.st_ino), first, is_whole=number == 0)
    return None


def _entries(file: BinaryIO) -> Iterator[tuple[bytes, Entry]]:
    while line := file.readline(LINE_BYTES_MAX + 1):
        if entry := read_line(line):
            yield line, entry


def _open_current(path: Path) -> BinaryIO:
    try:
        return open(os.open(path, READ), "rb")
    except FileNotFoundError:
        return open(os.devnull, "rb")  # removed, or just being rotated


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Whether a file is still the one at the path, or there is still none."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return os.path.samestat(Path(os.devnull).stat(), os.fstat(file.fileno()))
