"""What is read once is not kept in the page cache, unless others had it there."""

import os
from pathlib import Path

import pytest

from storage.drivers import PIECE_BYTES
from storage.filesystem import FileSystemDriver
from storage.filesystem.files import FORGET_BYTES
from storage.filesystem.page_cache import is_cached
from tests.conftest import refuse

SIZE = 3 * FORGET_BYTES + PIECE_BYTES // 2


def cached(path: Path) -> bool:
    """Tell whether the start of a file is in the page cache."""
    with path.open("rb") as opened:
        return is_cached(opened.fileno())


@pytest.fixture
def large(root: Path) -> Path:
    """Return a file that is not in the page cache."""
    path = root / "large"
    root.mkdir()
    path.write_bytes(os.urandom(SIZE))
    assert cached(path)
    with path.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached(path):
        refuse("this file system keeps everything in memory")
    return path


async def read(driver: FileSystemDriver, *, once: bool) -> bytes:
    """Read the file to its end."""
    reader = await driver.open("large")
    if once:
        reader.read_once()
    body = b"".join([piece async for piece in reader.pieces(0, reader.size)])
    await reader.close()
    return body


async def test_what_was_not_in_the_cache_is_not_there_afterwards(root: Path, large: Path) -> None:
    driver = FileSystemDriver(root)

    body = await read(driver, once=True)

    assert not cached(large)
    assert body == large.read_bytes()
    await driver.close()


async def test_what_others_read_stays_in_the_cache(root: Path, large: Path) -> None:
    driver = FileSystemDriver(root)
    await read(driver, once=False)
    assert cached(large)

    await read(driver, once=True)

    assert cached(large)
    await driver.close()
