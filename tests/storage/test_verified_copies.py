"""A copy that was hashed is taken at its word for a while: unless anybody has written to it since."""

import os
from pathlib import Path

import pytest

from storage import keys
from storage.blobs import VERIFIED_MAX, VERIFIED_SECONDS, BlobStore, VerifiedCopies
from storage.digest import Digest
from storage.errors import Corrupt
from storage.filesystem import FileSystemDriver
from tests.stores import REPOSITORY, Clock, joined

BODY = bytes(range(256)) * 8192
DIGEST = Digest.of(BODY)
COPY = ("identity", DIGEST)


async def read(store: BlobStore) -> bytes:
    """Read the blob as a GET does."""
    blob = await store.open(REPOSITORY, DIGEST)
    try:
        return await joined(blob.verified_pieces())
    finally:
        await blob.close()


async def test_a_write_in_place_is_found_out_though_size_and_time_are_as_before(
    files: FileSystemDriver, root: Path
) -> None:
    store = BlobStore(files)
    await files.put(keys.blob(DIGEST), BODY)
    await store.link(REPOSITORY, DIGEST, canonical=DIGEST)
    assert await read(store) == BODY
    path = root / keys.blob(DIGEST)
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(Corrupt):
        await read(store)


def test_a_copy_is_taken_at_its_word_until_the_time_is_over() -> None:
    clock = Clock()
    verified = VerifiedCopies(clock=clock)
    assert not verified.has(COPY)

    verified.add(COPY)
    clock.now += VERIFIED_SECONDS - 1
    assert verified.has(COPY)
    assert not verified.has(("another", DIGEST))
    assert not verified.has(("identity", Digest.of(b"another")))
    clock.now += 2

    assert not verified.has(COPY)


def test_only_so_many_copies_are_remembered_the_oldest_are_forgotten() -> None:
    verified = VerifiedCopies(clock=Clock())

    for number in range(VERIFIED_MAX + 1):
        verified.add((str(number), DIGEST))

    assert not verified.has(("0", DIGEST))
    assert verified.has(("1", DIGEST))
    assert verified.has((str(VERIFIED_MAX), DIGEST))
