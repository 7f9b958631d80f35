"""The steps by which a server changes its data directory: counted, recorded, and ended at by force.

`Watch` lives in the server. It stands between the server and the system calls that change something below the
data directory; what the server asks for is done unchanged. `Control` and the trace are files, so that the test
and every worker process share them.
"""

import contextlib
import fcntl
import mmap
import os
import pickle
import re
import signal
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

Real = Callable[..., Any]
Asgi = Callable[..., Awaitable[None]]

STORE = "pierhead-data"
"""The name of every watched data directory."""

REQUEST_HEADER = b"x-crash-request"
LABEL_BYTES_MAX = 2000
_FIELDS = struct.Struct(f"=qqqq{LABEL_BYTES_MAX}s")

Point = tuple[str, int]
"""A step as `label` names it, and how many of that name came before."""


@dataclass(frozen=True, slots=True)
class Step:
    """One change, after it was made; or, if `killed`, the one that the server did not come to make.

    `call` is the kind of system call, or `answer` for the first line of a response. `inode` is that of the file
    or directory concerned, `target` the new name of a link or rename.
    """

    call: str
    path: str
    inode: int = 0
    target: str = ""
    offset: int = 0
    body: bytes = b""
    request: int = 0
    status: int = 0
    killed: bool = False
    half: bool = False


def label(step: Step) -> str:
    """What a step does and where, without what differs between two runs of an operation.

    The data directory is `.`, and that which it lies in `..`.
    """
    if step.call == "answer":
        return step.call
    return " ".join([step.call, *(_shape(path) for path in (step.path, step.target) if path)])


def points(steps: Sequence[Step]) -> list[Point]:
    """Where each step of a run stands in it."""
    seen: Counter[str] = Counter()
    found: list[Point] = []
    for text in map(label, steps):
        found.append((text, seen[text]))
        seen[text] += 1
    return found


def _shape(path: str) -> str:
    path = re.sub(rf"^.*/{STORE}(?=/|$)", ".", path)
    if path.startswith("/"):
        return ".."
    path = re.sub(r"trial-[0-9a-f]+", "trial-*", path)
    path = re.sub(r"[0-9a-f]{32,}", "*", path)
    path = re.sub(r"(sha256|sha512)/[0-9a-f]{2}(?=/|$)", r"\1/**", path)
    path = re.sub(r"locks/\d\d", "locks/**", path)
    path = re.sub(r"(?<=/)\d{16}\.", "*.", path)
    return re.sub(r"(?<=/)\d+-", "*-", path)


class Control:
    """Shared memory: whether steps are taken note of, at which to kill, and whether half-way."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(descriptor, mmap.PAGESIZE)
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        os.close(descriptor)

    def arm(self, point: Point | None = None, *, half: bool = False) -> None:
        """Record, and kill before that step; `half`: when it has written half of its bytes."""
        text, before = point or ("", 0)
        _FIELDS.pack_into(self._memory, 0, True, point is not None, before, half, text.encode())

    def disarm(self) -> None:
        """Let everything pass unrecorded."""
        _FIELDS.pack_into(self._memory, 0, False, False, 0, False, b"")

    @property
    def active(self) -> bool:
        """Whether steps are recorded."""
        return bool(_FIELDS.unpack_from(self._memory)[0])

    def take(self, step: Step) -> tuple[bool, bool]:
        """Tell whether to kill at a step, and whether half-way. Call it while holding the trace."""
        active, armed, before, half, text = _FIELDS.unpack_from(self._memory)
        if not armed or label(step).encode() != text.rstrip(b"\0"):
            return False, False
        _FIELDS.pack_into(self._memory, 0, active, armed, before - 1, half, text)
        return before == 0, bool(half)


class Trace:
    """A file of steps in the order in which they happened, whichever process or thread took them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everybody else from taking a step. The kernel lets go when the process dies."""
        descriptor = _OPEN(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(self, step: Step) -> None:
        """Append a step; call it while holding the trace."""
        descriptor = _OPEN(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        _WRITE(descriptor, pickle.dumps(step))
        os.close(descriptor)

    def read(self) -> list[Step]:
        """Every step so far."""
        steps: list[Step] = []
        with self.hold(), self._path.open("rb") as file, contextlib.suppress(EOFError):
            while True:
                steps.append(pickle.load(file))
        return steps

    def clear(self) -> None:
        """Forget every step."""
        with self.hold():
            os.truncate(self._path, 0)


# Bound before anything is replaced.
_OPEN, _WRITE = os.open, os.write
_PWRITE, _LSTAT, _FSTAT, _STAT = os.pwrite, os.lstat, os.fstat, os.stat


class Watch:
    """Replaces the functions of `os` that change files; install it before the server starts."""

    def __init__(self, root: Path, control: Control, trace: Trace) -> None:
        self._root = str(root)
        self._parent = str(root.parent)
        self._control = control
        self._trace = trace

    def install(self) -> None:
        """Put it between this process, with all that it will fork, and the system."""
        os.open = self._opening(os.open)
        os.write = self._writing(os.write, lambda body: body)
        os.pwrite = self._writing(os.pwrite, lambda body: body)
        os.writev = self._writing(os.writev, b"".join)
        os.pwritev = self._writing(os.pwritev, b"".join)
        os.fsync = self._syncing(os.fsync)
        os.fdatasync = self._syncing(os.fdatasync)
        os.ftruncate = self._truncating(os.ftruncate)
        os.truncate = self._truncating(os.truncate)
        os.mkdir = self._on_name("mkdir", os.mkdir, lambda path: not os.path.lexists(path))
        os.rmdir = self._on_name("rmdir", os.rmdir, _is_empty)
        os.unlink = os.remove = self._on_name("unlink", os.unlink, os.path.lexists)
        os.link = self._on_two("link", os.link, lambda _source, target: not os.path.lexists(target))
        os.rename = os.replace = self._on_two("rename", os.rename, lambda source, _target: os.path.lexists(source))

    def answering(self, application: Asgi) -> Asgi:
        """Make the first line of each response a step."""

        async def watched(owner: object, scope: Any, receive: Any, send: Any) -> None:
            number = int(dict(scope["headers"]).get(REQUEST_HEADER, b"0"))

            async def sending(message: Any) -> None:
                if message["type"] == "http.response.start" and self._control.active:
                    step = Step("answer", scope["path"], request=number, status=message["status"])
                    self._take(step, lambda: None)
                await send(message)

            await application(owner, scope, receive, sending)

        return watched

    def _take(self, step: Step, act: Callable[[], Any], *, half: Callable[[], object] | None = None) -> Any:
        """Take a step, record it; or die at it. `act` returns what the call returns, or raises."""
        with self._trace.hold():
            kill, half_way = self._control.take(step)
            if kill:
                if half_way and half is not None:
                    half()
                self._trace.add(replace(step, killed=True, half=half_way))
                _die()
            result = act()
            self._trace.add(self._completed(step, result))
            return result

    @staticmethod
    def _completed(step: Step, result: Any) -> Step:
        match step.call:
            case "write":
                return replace(step, body=step.body[:result])
            case "create":
                return replace(step, inode=_FSTAT(result).st_ino)
            case "mkdir":
                return replace(step, inode=_LSTAT(step.path).st_ino)
        return step

    def _is_ours(self, path: str) -> bool:
        return path in {self._root, self._parent} or path.startswith(f"{self._root}/")

    def _opening(self, real: Real) -> Real:
        def opening(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
            name = os.fspath(path)
            changes = flags & os.O_CREAT and not os.path.lexists(name)
            assert not flags & os.O_TRUNC, "files are never changed in place"
            if not (changes and self._control.active and self._is_ours(name)):
                return int(real(path, flags, mode, **options))
            return int(self._take(Step("create", name), lambda: real(path, flags, mode, **options)))

        return opening

    def _writing(self, real: Real, join: Callable[[Any], Any]) -> Real:
        def writing(descriptor: int, body: Any, *offset: int) -> int:
            name = self._named(descriptor)
            if not name:
                return int(real(descriptor, body, *offset))
            text = bytes(join(body))
            start = offset[0] if offset else os.lseek(descriptor, 0, os.SEEK_CUR)
            step = Step("write", name, _FSTAT(descriptor).st_ino, offset=start, body=text)
            middle = text[: len(text) // 2]
            return int(
                self._take(
                    step, lambda: real(descriptor, body, *offset), half=lambda: _PWRITE(descriptor, middle, start)
                )
            )

        return writing

    def _syncing(self, real: Real) -> Real:
        def syncing(descriptor: int) -> Any:
            name = self._named(descriptor)
            if not name:
                return real(descriptor)
            return self._take(Step("sync", name, _FSTAT(descriptor).st_ino), lambda: real(descriptor))

        return syncing

    def _truncating(self, real: Real) -> Real:
        def truncating(file: Any, length: int) -> Any:
            name = self._named(file) if isinstance(file, int) else os.fspath(file)
            if not (name and self._control.active and self._is_ours(name)):
                return real(file, length)
            step = Step("truncate", name, _STAT(file).st_ino, offset=length)
            return self._take(step, lambda: real(file, length))

        return truncating

    def _on_name(self, call: str, real: Real, changes: Callable[[str], bool]) -> Real:
        def named(path: Any, *args: Any, **options: Any) -> Any:
            name = os.fspath(path)
            if not (self._control.active and self._is_ours(name) and changes(name)):
                return real(path, *args, **options)
            return self._take(Step(call, name), lambda: real(path, *args, **options))

        return named

    def _on_two(self, call: str, real: Real, changes: Callable[[str, str], bool]) -> Real:
        def named(source: Any, target: Any, **options: Any) -> Any:
            names = os.fspath(source), os.fspath(target)
            if not (self._control.active and self._is_ours(names[1]) and changes(*names)):
                return real(source, target, **options)
            step = Step(call, names[0], _LSTAT(names[0]).st_ino, names[1])
            return self._take(step, lambda: real(source, target, **options))

        return named

    def _named(self, descriptor: int) -> str:
        """The path of an open file below the root, or nothing for any other, or while nothing is counted."""
        if not self._control.active:
            return ""
        name = str(Path(f"/proc/self/fd/{descriptor}").readlink()).removesuffix(" (deleted)")
        return name if self._is_ours(name) else ""


def _is_empty(path: str) -> bool:
    return Path(path).is_dir() and not any(Path(path).iterdir())


def _die() -> NoReturn:
    """End every process of the server, this one included. The others cannot take a step: we hold the trace."""
    os.killpg(os.getpgrp(), signal.SIGKILL)
    while True:
        signal.pause()
