"""The file of users and passwords that people have: htpasswd with bcrypt, as Apache and distribution read it.

A line is `user:hash`. Blank lines and lines that begin with # are passed over. As in distribution, white space around a
line counts for nothing, and of two lines for one user the last one holds (Apache takes the first).
"""

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import structlog

from registry.auth.basic import USER_BYTES_MAX
from registry.watched import FileProblem, WatchedFile, read_regular

FILE_BYTES_MAX = 8 << 20
COST_MIN, COST_MAX = 4, 16
"""What a hash may cost to compare, as a power of two. At 16 it takes seconds, beyond it would hold up everybody."""

COST = 12
"""What new hashes cost, and a comparison for a user that there is not while nobody has a password."""

PROBLEMS_LOGGED_MAX = 10

_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

log = structlog.get_logger(__name__)


class HtpasswdError(ValueError):
    """The file is none of htpasswd, or can't be read or written. One line that holds no secret."""


class BadUser(HtpasswdError):
    """No user can have that name."""


class NoSuchUser(HtpasswdError):
    """The file has no such user."""


class UserExists(HtpasswdError):
    """The file has that user already."""


@dataclass(frozen=True, slots=True)
class Table:
    """Hashes by user: those that can be compared. `problems` are lines of the file that are not used, and why."""

    hashes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    problems: tuple[str, ...] = ()
    cost: int = COST
    """What most of the hashes cost."""

    def fingerprint(self, user: str) -> str | None:
        """A text that changes when the user's line does, None without one. It tells nothing of the password."""
        stored = self.hashes.get(user)
        return None if stored is None else hashlib.sha256(stored.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Line:
    """One line that names a user, numbered from 1."""

    number: int
    user: str
    stored: str = field(repr=False)


def check_user(user: str) -> str:
    """Return the name if a user may have it. Raises BadUser: the rules are those of Basic (RFC 7617) and more."""
    try:
        encoded = user.encode()
    except UnicodeEncodeError:
        raise BadUser("a user's name is Unicode text") from None
    if not user:
        raise BadUser("a user's name is not empty")
    if len(encoded) > USER_BYTES_MAX:
        raise BadUser(f"a user's name has at most {USER_BYTES_MAX} bytes")
    if ":" in user or _CONTROL.search(user):
        raise BadUser("a user's name holds no colon and no control character")
    if user != user.strip() or user.startswith("#"):
        raise BadUser("a user's name neither begins with # nor begins or ends with white space")
    return user


def parse(text: bytes, *, name: str = "htpasswd") -> Table:
    """Read a file. Raises HtpasswdError, with `name` and the number of the line, for what is no htpasswd at all.

    A line that is well-formed and can't be used, such as one with an MD5 hash, is among the problems, and its user
    can't log in.
    """
    hashes: dict[str, str] = {}
    problems: list[str] = []
    costs: Counter[int] = Counter()
    for line in _lines(text, name):
        where = f"{name}, line {line.number}"
        if line.user in hashes:
            problems.append(f"{where}: the user stands in an earlier line as well, which is not used")
        hashes.pop(line.user, None)
        if reason := _why_unusable(line.stored):
            problems.append(f"{where}: {reason}")
        else:
            hashes[line.user] = line.stored
    costs.update(cost_of(stored) for stored in hashes.values())
    # Of costs that are equally many, the one of the earlier line.
    cost = costs.most_common(1)[0][0] if costs else COST
    return Table(MappingProxyType(hashes), tuple(problems), cost)


def cost_of(stored: str) -> int:
    """The cost of a bcrypt hash: it takes 2**cost rounds."""
    return int(stored[4:6])


def _lines(text: bytes, name: str) -> Iterator[Line]:
    for number, raw in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise HtpasswdError(f"{name}, line {number}: it is not UTF-8: write it anew") from None
        if not line or line.startswith("#"):
            continue
        user, colon, stored = line.partition(":")
        if not colon:
            raise HtpasswdError(f"{name}, line {number}: expected user:hash, as htpasswd -B writes it")
        try:
            yield Line(number, check_user(user), stored)
        except BadUser as error:
            raise HtpasswdError(f"{name}, line {number}: {error}") from None


def _why_unusable(stored: str) -> str:
    matched = _BCRYPT.fullmatch(stored)
    if matched is None:
        if stored.startswith(("$2a$", "$2b$", "$2y$")):
            return "the bcrypt hash is cut or damaged, so the user can't log in: set the password again"
        return "the hash is not bcrypt, so the user can't log in: set the password again, such as with htpasswd -B"
    if not COST_MIN <= int(matched[1]) <= COST_MAX:
        return f"the cost of the hash is not from {COST_MIN} to {COST_MAX}, so the user can't log in: use {COST}"
    return ""


class HtpasswdFile:
    """The table of a file that other programs write meanwhile. While the file is broken, the last table holds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._told: tuple[str, ...] = ()
        self._file = WatchedFile(path, self._read, what="users", initial=Table(), clock=clock)

    def load(self) -> Table:
        """Read the file now. Raises HtpasswdError."""
        return self._file.load()

    def current(self) -> Table:
        """The table, read again when the file has changed. Never raises: what is wrong with the file is logged."""
        return self._file.current()

    def _read(self, path: Path) -> Table:
        table = parse(_read_file(path), name=str(path))
        if table.problems and table.problems != self._told:
            log.warning(
                "lines of the file of users are not used",
                file=str(path),
                lines=len(table.problems),
                problems="; ".join(table.problems[:PROBLEMS_LOGGED_MAX]),
            )
        self._told = table.problems
        return table


def _read_file(path: Path) -> bytes:
    try:
        return read_regular(path, FILE_BYTES_MAX)
    except FileProblem as error:
        raise HtpasswdError(f"{path}: {error}") from None


def users(path: Path) -> list[tuple[str, str]]:
    """Every user of a file in order, and why one can't log in (empty: nothing). Raises HtpasswdError."""
    found: dict[str, str] = {}
    for line in _lines(_text_of(path, must_exist=True), str(path)):
        found[line.user] = _why_unusable(line.stored)
    return list(found.items())


def add_user(path: Path, user: str, stored: str) -> None:
    """Add a user; without a file, make one that its owner alone may read. Raises BadUser, UserExists, HtpasswdError."""
    check_user(user)

    def change(text: bytes) -> bytes:
        if _numbers(text, user, path):
            raise UserExists(f"{path}: there is a user {user} already: pierhead user passwd sets the password")
        newline = b"\r\n" if b"\r\n" in text else b"\n"
        start = newline if text and not text.endswith(b"\n") else b""
        return text + start + f"{user}:{stored}".encode() + newline

    _edit(path, change, must_exist=False)


def set_hash(path: Path, user: str, stored: str) -> None:
    """Give a user another hash. Raises HtpasswdError, NoSuchUser."""
    _edit(path, lambda text: _replaced(text, user, path, f"{user}:{stored}".encode()), must_exist=True)


def remove_user(path: Path, user: str) -> None:
    """Remove a user. Raises HtpasswdError, NoSuchUser."""
    _edit(path, lambda text: _replaced(text, user, path, None), must_exist=True)


def _replaced(text: bytes, user: str, path: Path, by: bytes | None) -> bytes:
    """The text with the user's last line replaced, and the others of the same user removed."""
    numbers = _numbers(text, user, path)
    if not numbers:
        raise NoSuchUser(f"{path}: there is no user {user}")
    kept: list[bytes] = []
    for number, raw in enumerate(text.split(b"\n"), 1):
        if number not in numbers:
            kept.append(raw)
        elif by is not None and number == numbers[-1]:
            kept.append(by + (b"\r" if raw.endswith(b"\r") else b""))
    return b"\n".join(kept)


def _numbers(text: bytes, user: str, path: Path) -> list[int]:
    return [line.number for line in _lines(text, str(path)) if line.user == user]


def _text_of(path: Path, *, must_exist: bool) -> bytes:
    if path.exists():
        return _read_file(path)
    if must_exist:
        raise HtpasswdError(f"{path}: there is no such file")
    return b""


def _edit(path: Path, change: Callable[[bytes], bytes], *, must_exist: bool) -> None:
    """Replace the file by what `change` makes of it, in one step; another editor waits, and sees what was written."""
    # Through a symbolic link: rename(2) would put a file in its place.
    path = Path(os.path.realpath(path))
    try:
        with _locked(path.parent):
            _replace(path, change(_text_of(path, must_exist=must_exist)))
    except OSError as error:
        raise HtpasswdError(f"{path}: the file can't be replaced: {error.strerror}") from None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    # The directory, not the file: that is another one after each change.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, text: bytes) -> None:
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                before = path.stat()
                # First the owner: chown(2) takes some bits of the mode away.
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
