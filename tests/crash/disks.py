"""What a power cut may leave of a data directory, worked out from the steps that were taken.

The model is harsher than the file systems: only what was fsynced is sure. The bytes of a file are those of its
last fsync. A name (created, linked, renamed, removed) is sure once its directory was fsynced after that. What
is not sure may have survived or not, each change by itself. One thing is taken for granted, as every file
system with a journal keeps it: rename(2) is never half done, so that a file has its new name or its old one.
"""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.crash.steps import Step

Name = tuple[int, str]
"""A directory, by its number here, and a name in it."""


class Bytes(Enum):
    """What has become of bytes that were not fsynced."""

    OLD = "as they were at the last fsync: none, for a new file"
    ZEROS = "the length has survived and the bytes have not"
    NEW = "all have survived"


@dataclass(slots=True)
class Change:
    """One change of names, which happens whole or not at all; `sure` once one of its directories was fsynced."""

    number: int
    names: dict[Name, int | None]
    sure: bool = False


@dataclass(slots=True)
class File:
    """A file's bytes, now and at its last fsync."""

    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    ever_synced: bool = False

    def survivor(self, fate: Bytes) -> bytes:
        """The bytes after the power cut."""
        if fate is Bytes.NEW:
            return bytes(self.now)
        if fate is Bytes.ZEROS and bytes(self.now) != self.synced:
            return self.synced + bytes(max(0, len(self.now) - len(self.synced)))
        return self.synced


@dataclass(frozen=True, slots=True)
class Tree:
    """What is left: directories, and files by path, those with the same number being links to one file."""

    directories: Sequence[str]
    files: dict[str, tuple[int, bytes]]

    def signature(self) -> bytes:
        """Equal for equal trees. The random names of temporary files do not count."""
        digest = hashlib.sha256()
        for path, (_number, body) in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(body).digest())
        for path in sorted(self.directories):
            digest.update(path.encode() + b"\0")
        return digest.digest()

    def lay_out(self, parent: Path) -> None:
        """Write it below a directory that is empty."""
        for path in sorted(self.directories):
            (parent / path).mkdir()
        first: dict[int, Path] = {}
        for path, (number, body) in self.files.items():
            if number in first:
                os.link(first[number], parent / path)
            else:
                (parent / path).write_bytes(body)
                first[number] = parent / path


class Disk:
    """A directory and everything below it, step by step from when it was empty."""

    def __init__(self, parent: Path) -> None:
        self._parent = str(parent)
        self._directories: dict[int, dict[str, int]] = {0: {}}
        self._files: dict[int, File] = {}
        self._changes: list[Change] = []
        self._numbers: dict[int, int] = {}
        self._count = 0

    def take(self, step: Step) -> None:
        """Take one step."""
        match step.call:
            case "mkdir":
                self._change({self._name(step.path): self._new(step.inode, is_directory=True)})
            case "create":
                self._change({self._name(step.path): self._new(step.inode, is_directory=False)})
            case "write":
                file = self._files[self._numbers[step.inode]]
                end = step.offset + len(step.body)
                file.now.extend(bytes(max(0, end - len(file.now))))
                file.now[step.offset : end] = step.body
            case "truncate":
                file = self._files[self._numbers[step.inode]]
                del file.now[step.offset :]
                file.now.extend(bytes(step.offset - len(file.now)))
            case "sync":
                self._sync(step)
            case "link":
                self._change({self._name(step.target): self._numbers[step.inode]})
            case "rename":
                self._change({self._name(step.path): None, self._name(step.target): self._numbers[step.inode]})
            case "unlink" | "rmdir":
                self._change({self._name(step.path): None})

    def unsure(self, *, since: int = 0) -> list[int]:
        """The changes of names, from one number on, that a power cut might undo."""
        return [change.number for change in self._changes if not change.sure and change.number >= since]

    @property
    def changes(self) -> int:
        """How many changes of names there were."""
        return len(self._changes)

    def after_power_cut(self, survived: Collection[int] = (), *, fate: Bytes = Bytes.OLD) -> Tree:
        """What is left when of all changes that are not sure only those with these numbers have survived."""
        names: dict[int, dict[str, int]] = {}
        chosen = set(survived)
        for change in self._changes:
            if change.sure or change.number in chosen:
                for (directory, name), number in change.names.items():
                    entries = names.setdefault(directory, {})
                    if number is None:
                        entries.pop(name, None)
                    else:
                        entries[name] = number
        directories: list[str] = []
        files: dict[str, tuple[int, bytes]] = {}
        pending = [("", 0)]
        while pending:
            path, directory = pending.pop()
            for name, number in names.get(directory, {}).items():
                if number in self._files:
                    files[path + name] = (number, self._files[number].survivor(fate))
                else:
                    directories.append(path + name)
                    pending.append((f"{path}{name}/", number))
        return Tree(directories, files)

    def _sync(self, step: Step) -> None:
        number = 0 if step.path == self._parent else self._numbers[step.inode]
        if number in self._files:
            self._files[number].synced = bytes(self._files[number].now)
            return
        for change in self._changes:
            if any(directory == number for directory, _name in change.names):
                change.sure = True

    def _new(self, inode: int, *, is_directory: bool) -> int:
        self._count += 1
        self._numbers[inode] = self._count
        if is_directory:
            self._directories[self._count] = {}
        else:
            self._files[self._count] = File()
        return self._count

    def _name(self, path: str) -> Name:
        *above, name = path.removeprefix(f"{self._parent}/").split("/")
        directory = 0
        for part in above:
            directory = self._directories[directory][part]
        return directory, name

    def _change(self, names: dict[Name, int | None]) -> None:
        self._changes.append(Change(len(self._changes), names))
        for (directory, name), number in names.items():
            if number is None:
                self._directories[directory].pop(name, None)
            else:
                self._directories[directory][name] = number
