"""File system drivers on directories, and disks small enough to fill."""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from storage.filesystem import FileSystemDriver

Mount = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
async def files(root: Path) -> AsyncIterator[FileSystemDriver]:
    """Return a started driver on `root`."""
    driver = FileSystemDriver(root)
    await driver.start()
    yield driver
    await driver.close()


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Return a directory that every user may enter, as those of tmp_path are not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Return a function that mounts a tmpfs on a directory. Needs root."""
    mounted: list[Path] = []

    def mounter(directory: Path = tmp_path / "disk", *, options: str = "size=1m") -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "pierhead-test", str(directory)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            refuse(f"a tmpfs can't be mounted here ({result.stderr.strip()}): run as root")
        mounted.append(directory)
        return directory

    yield mounter
    for directory in reversed(mounted):
        subprocess.run(["umount", "--lazy", str(directory)], check=True)  # also after a failure that left files open


@pytest.fixture
def as_root() -> None:
    """Skip the test unless it may become another user."""
    if os.geteuid() != 0:
        refuse("another user's files need another user: run as root")


def refuse(reason: str) -> None:
    """Skip the test; under CI, where everything it needs is there, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def open_files() -> int:
    """Count the open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))
