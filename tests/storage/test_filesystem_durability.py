"""What a power cut would leave: each fsync is recorded, and only what was fsynced counts."""

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from storage.errors import NotFound, StorageUnavailable
from storage.filesystem import FileSystemDriver
from tests.storage.conftest import open_files


class PowerCut:
    """Knows what is on the disk for sure: directories and files as they were when they were last fsynced.

    Every inode that was seen stays open, so that no number stands for two of them.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.syncs: list[str] = []
        self._directories: dict[int, dict[str, int]] = {}
        self._files: dict[int, bytes] = {}
        self._open: list[int] = []
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._recorded(getattr(os, name)))
        patch.setattr(os, "link", self._checked(os.link))
        patch.setattr(os, "rename", self._checked(os.rename))
        self.careless = False

    def survives(self, key: str, body: bytes) -> bool:
        """Tell whether a power cut now would leave the object at its key, with those bytes."""
        inode = self._durable_inode(key)
        return inode is not None and self._files.get(inode) == body

    def survives_deleted(self, key: str) -> bool:
        """Tell whether a power cut now would leave nothing at that key."""
        return self._durable_inode(key) is None

    def close(self) -> None:
        for descriptor in self._open:
            os.close(descriptor)

    def _durable_inode(self, key: str) -> int | None:
        inode: int | None = self.root.stat().st_ino
        for name in key.split("/"):
            inode = self._directories.get(inode or 0, {}).get(name)
        return inode

    def _recorded(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            real(descriptor)
            found = os.fstat(descriptor)
            self._open.append(os.dup(descriptor))
            self.syncs.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            if stat.S_ISDIR(found.st_mode):
                with os.scandir(descriptor) as entries:
                    self._directories[found.st_ino] = {entry.name: entry.inode() for entry in entries}
            else:
                with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                    self._files[found.st_ino] = file.read()

        return sync

    def _checked(self, real: Callable[..., None]) -> Callable[..., None]:
        def place(source: str | Path, target: str | Path) -> None:
            path = Path(source)
            if not self.careless and "trial" not in path.name:
                assert self._files.get(path.stat().st_ino) == path.read_bytes(), f"{target}: not fsynced yet"
            real(source, target)

        return place


@pytest.fixture
def power(
    files: FileSystemDriver,  # noqa: ARG001  # started before anything is recorded
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[PowerCut]:
    recorder = PowerCut(root, monkeypatch)
    recorder.syncs.clear()
    yield recorder
    recorder.close()


async def test_what_is_written_survives_with_every_new_directory(files: FileSystemDriver, power: PowerCut) -> None:
    await files.create("a/b/c/created", b"1")
    version = await files.put("a/b/d/put", b"2")
    await files.replace("a/b/d/put", b"3", version=version)

    assert power.survives("a/b/c/created", b"1")
    assert power.survives("a/b/d/put", b"3")


async def test_a_directory_that_another_process_made_is_not_trusted(
    files: FileSystemDriver, power: PowerCut, root: Path
) -> None:
    (root / "a/b/c").mkdir(parents=True)

    await files.put("a/b/c/k", b"1")

    assert power.survives("a/b/c/k", b"1")


async def test_a_directory_that_another_process_made_again_is_not_trusted(
    files: FileSystemDriver, power: PowerCut, root: Path
) -> None:
    await files.put("a/b/c/k", b"1")
    (root / "a/b/c/k").unlink()
    for path in (root / "a/b/c", root / "a/b", root / "a"):
        path.rmdir()
    (root / "a/b/c").mkdir(parents=True)

    await files.put("a/b/c/k", b"2")

    assert power.survives("a/b/c/k", b"2")


async def test_a_second_write_syncs_the_file_and_its_directory_only(
    files: FileSystemDriver, power: PowerCut, root: Path
) -> None:
    await files.put("a/b/c/k", b"1")
    power.syncs.clear()

    await files.put("a/b/c/l", b"2")

    assert len(power.syncs) == 2
    assert power.syncs[0].startswith(f"{root}/pierhead/tmp/")
    assert power.syncs[1] == f"{root}/a/b/c"


async def test_known_directories_are_forgotten_within_limits_and_synced_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.filesystem.directories.PINNED_MAX", 3)
    files = FileSystemDriver(root)
    await files.start()
    power = PowerCut(root, monkeypatch)
    before = open_files()

    for number in range(12):
        await files.put(f"a/{number}/k", b"1")
        assert power.survives(f"a/{number}/k", b"1")

    recorded = len(power._open)
    assert open_files() - before - recorded <= 3
    await files.close()
    power.close()


async def test_a_deletion_survives(files: FileSystemDriver, power: PowerCut) -> None:
    await files.put("a/b/k", b"1")
    await files.put("a/c/k", b"1")

    await files.delete("a/b/k")

    assert power.survives_deleted("a/b/k")
    assert power.survives("a/c/k", b"1")


async def test_deleting_what_another_process_just_deleted_makes_that_survive(
    files: FileSystemDriver, power: PowerCut, root: Path
) -> None:
    await files.put("a/b/k", b"1")
    (root / "a/b/k").unlink()
    assert not power.survives_deleted("a/b/k")

    await files.delete("a/b/k")

    assert power.survives_deleted("a/b/k")


async def test_flushed_bytes_survive_where_they_are_staged(files: FileSystemDriver, power: PowerCut) -> None:
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    for text in (b"one", b"onetwo"):
        await writer.write([text[-3:]])
        assert not power.survives("up/1/data", text)
        await writer.flush()
        assert power.survives("up/1/data", text)
    await writer.close()


async def test_flushed_bytes_of_an_earlier_writer_survive_too(files: FileSystemDriver, power: PowerCut) -> None:
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    await writer.write([b"one"])
    await writer.close()

    resumed = await files.open_staged("up/1/data")
    await resumed.flush()

    assert power.survives("up/1/data", b"one")
    await resumed.close()


async def test_a_flush_with_nothing_new_costs_nothing(files: FileSystemDriver, power: PowerCut) -> None:
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    await writer.write([b"one"])
    await writer.flush()
    power.syncs.clear()

    await writer.flush()
    assert power.syncs == []

    await writer.truncate(1)
    await writer.flush()
    assert power.survives("up/1/data", b"o")
    await writer.close()


async def test_committed_bytes_survive_with_every_new_directory(files: FileSystemDriver, power: PowerCut) -> None:
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    await writer.write([b"layer"])

    await writer.commit("blobs/sha256/ab/abcd/data")

    assert power.survives("blobs/sha256/ab/abcd/data", b"layer")


async def test_what_may_be_lost_is_not_synced(files: FileSystemDriver, power: PowerCut) -> None:
    power.careless = True
    await files.put("a/k", b"1", durable=False)
    await files.stage("up/1/data")

    assert power.syncs == []


async def test_bytes_that_could_not_be_synced_are_not_kept(
    files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After a failed fsync the kernel takes the lost pages for clean: the next fsync would succeed.
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    await writer.write([b"lost"])

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(StorageUnavailable, match="input/output error"):
            await writer.flush()

    with pytest.raises(NotFound):
        await writer.flush()
    with pytest.raises(NotFound):
        await writer.commit("k")
    await writer.close()
    with pytest.raises(NotFound):
        await files.open_staged("up/1/data")


async def test_a_write_whose_sync_fails_is_not_visible_and_leaves_nothing(
    files: FileSystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.put("k", b"old")
    calls: list[Callable[[], Awaitable[str]]] = [
        lambda: files.put("k", b"new"),
        lambda: files.create("l", b"new"),
    ]

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(errno.EIO))
        for call in calls:
            with pytest.raises(StorageUnavailable):
                await call()

    assert (await files.get("k", bytes_max=9)).body == b"old"
    with pytest.raises(NotFound):
        await files.stat("l")
    assert list((root / "pierhead/tmp").iterdir()) == []


async def test_a_commit_that_fails_after_the_rename_lets_nobody_append_to_the_object(
    files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.stage("up/1/data")
    writer = await files.open_staged("up/1/data")
    await writer.write([b"whole"])

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(errno.EIO))  # of the directory; the file's own is fdatasync
        with pytest.raises(StorageUnavailable):
            await writer.commit("k")

    with pytest.raises(NotFound):
        await writer.write([b"more"])
    await writer.close()
    assert (await files.get("k", bytes_max=9)).body == b"whole"


def failing(number: int) -> Callable[[int], None]:
    def fail(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    return fail
