"""The watch misses nothing: what it records is what the kernel was asked for."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash.launching import launching
from tests.crash.operations import OPERATIONS, Story
from tests.crash.recordings import record_at_once
from tests.crash.steps import STORE

CALLS = {
    "write": "write",
    "writev": "write",
    "pwrite64": "write",
    "pwritev": "write",
    "pwritev2": "write",
    "fsync": "sync",
    "fdatasync": "sync",
    "ftruncate": "truncate",
    "truncate": "truncate",
    "mkdir": "mkdir",
    "mkdirat": "mkdir",
    "rmdir": "rmdir",
    "unlink": "unlink",
    "unlinkat": "unlink",
    "link": "link",
    "linkat": "link",
    "rename": "rename",
    "renameat": "rename",
    "renameat2": "rename",
}
"""System calls that are known to change a directory or what is below it, and the kind of step that each is."""

OTHERS = (
    "creat", "open", "openat", "openat2", "symlink", "symlinkat", "mknod", "mknodat", "fallocate", "copy_file_range",
    "sendfile", "splice", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "utimensat",
    "setxattr", "fsetxattr", "lsetxattr", "removexattr", "sync", "syncfs", "msync", "io_uring_setup",
)  # fmt: skip
"""System calls that might do so too: none of them may be seen, but for opening."""

LINE = re.compile(r"(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")
PATH = re.compile(rf"[<\"](/[^<>\"]*/{STORE}(?:/[^<>\"]*)?)[>\"]")

Seen = Counter[tuple[str, ...]]


def test_every_system_call_that_changes_the_store_is_a_step(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    def everything(story: Story) -> None:
        for operation in OPERATIONS:
            operation(story, f"crash/{operation.__name__.replace('_', '-')}")()

    calls = ",".join([*CALLS, *OTHERS])
    strace = [require_tool("strace"), "-ff", "-qq", "-y", "-s", "0", "-e", f"trace={calls}", "-e", "signal=none"]
    (tmp_path / "calls").mkdir()

    with launching(tmp_path / "log", under=[*strace, "-o", str(tmp_path / "calls" / "of")]) as launcher:
        recording = record_at_once(launcher, tmp_path / "parent", [everything], workers=2)

    recorded: Seen = Counter()
    for step in recording.steps:
        if step.call != "answer":
            recorded[(step.call, step.path, step.target) if step.target else (step.call, step.path)] += 1
    called: Seen = Counter()
    for file in (tmp_path / "calls").iterdir():
        called.update(changes(file.read_text(errors="replace")))
    for key in called:
        if "/pierhead/locks/" in key[1] and key[0] == "create":
            called[key] = 1  # the file is made once, and opened with O_CREAT by everybody
    parent_syncs = ("sync", str(tmp_path / "parent"))
    del recorded[parent_syncs]

    assert sum(called.values()) > 1000
    assert called == recorded


def changes(text: str) -> Iterator[tuple[str, ...]]:
    """The changes of a store that strace has written down of one thread."""
    for line in text.splitlines():
        found = LINE.match(line)
        if not found or found["result"].startswith("-"):
            continue
        paths = PATH.findall(found["arguments"])
        if not paths:
            continue
        call = found["call"]
        if call in CALLS:
            kind = "rmdir" if "AT_REMOVEDIR" in found["arguments"] else CALLS[call]
            yield (kind, *paths)
        elif not call.startswith("open"):
            yield (call, *paths)
        elif "O_CREAT" in found["arguments"] or "O_TRUNC" in found["arguments"]:
            yield ("create", paths[-1])
