"""Listings in byte order of whole keys, from directories that are read one by one as they are needed."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import structlog

from storage.drivers import Entry, Page
from storage.filesystem.failures import reading_failed
from storage.filesystem.objects import LOCK_FILES, TEMPORARY

_HIDDEN = frozenset(name.encode() for name in (LOCK_FILES, TEMPORARY))
_NONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

log = structlog.get_logger(__name__)


def list_page(root: str, prefix: str, *, after: str, limit: int, fold: bool) -> Page:
    """One page of a listing, as Driver.list says. Blocks. Raises StorageUnavailable for `prefix` itself.

    What can't be listed below it is left out, and logged: one scar must not hide everything else.
    """
    start = after.encode("utf-8", "surrogatepass")
    entries = list(islice(_walk(root, prefix, start, fold=fold), max(limit, 0) + 1))
    return Page(entries[: max(limit, 0)], more=len(entries) > max(limit, 0))


def file_sizes(root: str) -> Iterator[tuple[str, int]]:
    """Every file below `root`, those that no listing shows among them: its key, and how many bytes it takes. Blocks."""
    for directory, _directories, names in os.walk(root):
        for name in names:
            path = f"{directory}/{name}"
            try:
                found = os.lstat(path)
            except OSError:
                continue  # deleted meanwhile
            yield path.removeprefix(f"{root}/"), found.st_size


@dataclass(slots=True)
class _Line:
    """One entry of a directory: its key, with a closing slash if it is a directory."""

    key: bytes
    is_directory: bool
    is_link: bool


def _walk(root: str, prefix: str, after: bytes, *, fold: bool) -> Iterator[Entry]:
    base = f"{root}/".encode()
    top = prefix.encode()
    if after > top and not after.startswith(top):
        return
    try:
        pending = [_read(base, top, after)]
    except OSError as error:
        if error.errno in _NONE:
            return
        raise reading_failed(error, prefix) from error
    while pending:
        line = next(pending[-1], None)
        if line is None:
            pending.pop()
        elif not line.is_directory or fold:
            if line.key > after and (text := _text(line.key)) is not None:
                yield Entry(text, is_prefix=line.is_directory)
        elif (lines := _read_below(base, line, after)) is not None:
            pending.append(lines)


def _read(base: bytes, prefix: bytes, after: bytes) -> Iterator[_Line]:
    """The entries of a directory whose keys, or what lies below them, may be greater than `after`.

    `a-b/` sorts before `a/`, since the slash is part of the key: names are sorted with it.
    """
    lines: list[_Line] = []
    with os.scandir(base + prefix) as found:
        for entry in found:
            line = _line(prefix, entry)
            if line is not None and (line.key > after or after.startswith(line.key)):
                lines.append(line)
    lines.sort(key=lambda line: line.key)
    return iter(lines)


def _line(prefix: bytes, entry: os.DirEntry[bytes]) -> _Line | None:
    key = prefix + entry.name
    try:
        if entry.is_dir():
            return None if key in _HIDDEN else _Line(key + b"/", is_directory=True, is_link=entry.is_symlink())
        if entry.is_file():
            return _Line(key, is_directory=False, is_link=False)
    except OSError as error:
        _skip(key, str(reading_failed(error, "")))
    else:
        _skip(key, "it is no file and no directory, or a link that leads nowhere")
    return None


def _read_below(base: bytes, line: _Line, after: bytes) -> Iterator[_Line] | None:
    try:
        if line.is_link and _leads_upwards(base, line.key):
            _skip(line.key, "the link leads to a directory above it")
            return None
        return _read(base, line.key, after)
    except OSError as error:
        if error.errno in _NONE:
            return None  # deleted since its name was read
        _skip(line.key, str(reading_failed(error, "")))
        return None


def _leads_upwards(base: bytes, key: bytes) -> bool:
    """Tell whether a linked directory is one of those above it: following it would never end."""
    target = os.stat(base + key)  # noqa: PTH116  # a name that is not UTF-8 makes no readable Path
    above = key.rstrip(b"/")
    while above:
        above = above.rpartition(b"/")[0]
        if os.path.samestat(target, os.stat(base + above)):  # noqa: PTH116  # as above
            return True
    return False


def _text(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        _skip(key, "its name is not UTF-8")
        return None


def _skip(key: bytes, reason: str) -> None:
    log.warning("left out of a listing", key=key.decode(errors="backslashreplace"), reason=reason, remedy="remove it")
