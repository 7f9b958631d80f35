"""File system drivers on directories."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.filesystem import FileSystemDriver


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


def open_files() -> int:
    """Count the open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))
