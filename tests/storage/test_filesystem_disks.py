"""Disks that are full, read-only, somebody else's or unfit: one clear line, and nothing lost."""

import errno
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from storage.errors import StorageError, StorageFull, StorageReadOnly, StorageRefused, StorageUnavailable
from storage.filesystem import FileSystemDriver
from tests.conftest import Mount
from tests.running import ROOT

NOBODY = 65534

AS_NOBODY = f"""
import asyncio, os, sys
from pathlib import Path
from storage.errors import StorageError
from storage.filesystem import FileSystemDriver

async def main():
    driver = FileSystemDriver(Path(sys.argv[1]))
    try:
        await WORK(driver)
    except StorageError as error:
        print(type(error).__name__, error)
    await driver.close()

os.setgid({NOBODY})
os.setuid({NOBODY})
"""
START = "async def WORK(driver): await driver.start(); print('started')\n"
LIST = "async def WORK(driver): print([e.key for e in (await driver.list('a/', limit=9)).entries])\n"
READ = "async def WORK(driver): await driver.get('a/k', bytes_max=9)\n"
PUT = "async def WORK(driver): await driver.put('a/b/k', b'')\n"


def nobody(work: str, root: Path) -> str:
    """Run `work` with a driver as a user who owns nothing; returns what it printed."""
    command = [sys.executable, "-c", f"{AS_NOBODY}{work}asyncio.run(main())", str(root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def failing(number: int) -> Callable[..., None]:
    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


async def refusal(root: Path) -> StorageError:
    """Start a driver that must refuse, and return its words: one line, with the path."""
    driver = FileSystemDriver(root)
    try:
        with pytest.raises(StorageError) as caught:
            await driver.start()
    finally:
        await driver.close()
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return caught.value


class TestFull:
    async def test_a_write_leaves_the_old_object_and_no_rest(self, mount: Mount) -> None:
        root = mount()
        files = FileSystemDriver(root)
        await files.start()
        version = await files.put("k", b"old")

        for call in (
            files.put("k", bytes(2 << 20)),
            files.replace("k", bytes(2 << 20), version=version),
            files.create("l", bytes(2 << 20)),
        ):
            with pytest.raises(StorageFull, match="free some"):
                await call

        assert (await files.get("k", bytes_max=9)).body == b"old"
        assert list((root / "pierhead/tmp").iterdir()) == []
        await files.put("k", bytes(100_000))
        await files.close()

    async def test_a_staged_write_keeps_what_was_observed_and_goes_on_when_there_is_room(self, mount: Mount) -> None:
        root = mount(options="size=4m")
        files = FileSystemDriver(root)
        await files.start()
        await files.put("ballast", bytes(1 << 20))
        await files.stage("up/1/data")
        writer = await files.open_staged("up/1/data")
        pieces = [bytes([number]) * 300_000 for number in range(20)]
        seen: list[bytes] = []

        def observe(batch: Sequence[bytes]) -> None:
            seen.extend(batch)

        with pytest.raises(StorageFull):
            await writer.write(pieces, observe)

        kept = writer.size
        assert 0 < kept < 4 << 20
        assert kept == sum(map(len, seen)) == (root / "up/1/data").stat().st_size
        await files.delete("ballast")
        await writer.write([b"more"], observe)
        await writer.commit("k")
        assert (root / "k").read_bytes() == b"".join(seen) == b"".join(pieces)[:kept] + b"more"
        await files.close()

    async def test_start_says_so(self, mount: Mount) -> None:
        root = mount()
        with (root / "ballast").open("wb", buffering=0) as ballast:
            while True:
                try:
                    ballast.write(bytes(4096))
                except OSError:
                    break

        error = await refusal(root)

        assert isinstance(error, StorageFull)
        assert "no space left" in str(error)


class TestReadOnly:
    async def test_reads_go_on_and_writes_say_so(self, mount: Mount) -> None:
        root = mount()
        files = FileSystemDriver(root)
        await files.start()
        await files.put("k", b"1")
        await files.stage("up/1/data")
        subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)

        for call in (files.put("k", b"2"), files.delete("k"), files.stage("up/2/data"), files.create("n", b"")):
            with pytest.raises(StorageReadOnly, match="remount it read-write"):
                await call
        with pytest.raises(StorageReadOnly):
            await files.open_staged("up/1/data")

        assert (await files.get("k", bytes_max=9)).body == b"1"
        await files.close()

    async def test_start_says_so(self, mount: Mount) -> None:
        error = await refusal(mount(options="size=1m,ro"))

        assert isinstance(error, StorageReadOnly)
        assert "remount it read-write" in str(error)


@pytest.mark.usefixtures("as_root")
class TestSomebodyElses:
    def test_start_names_owner_and_user_and_what_to_do(self, public_directory: Path) -> None:
        told = nobody(START, public_directory)

        assert told.startswith("StorageRefused ")
        assert f"{public_directory} belongs to uid 0 (root) with mode 0755" in told
        assert f"this process is uid {NOBODY}" in told
        assert f"chown -R {NOBODY} {public_directory}" in told
        assert told.count("\n") == 1

    def test_start_finds_a_tree_that_another_registry_wrote_as_root(self, public_directory: Path) -> None:
        os.chown(public_directory, NOBODY, NOBODY)
        (public_directory / "docker/registry/v2/blobs").mkdir(parents=True)
        os.chown(public_directory / "docker", NOBODY, NOBODY)

        told = nobody(START, public_directory)

        assert told.startswith("StorageRefused ")
        assert f"{public_directory}/docker/registry belongs to uid 0" in told

    def test_start_finds_a_directory_on_the_way_that_may_not_be_entered(self, public_directory: Path) -> None:
        (public_directory / "closed").mkdir(mode=0o700)

        assert f"{public_directory}/closed belongs to uid 0" in nobody(START, public_directory / "closed" / "data")

    def test_start_is_content_with_its_own_directory(self, public_directory: Path) -> None:
        os.chown(public_directory, NOBODY, NOBODY)

        assert nobody(START, public_directory) == "started\n"

    def test_what_may_not_be_read_or_written_is_refused(self, public_directory: Path) -> None:
        (public_directory / "a").mkdir()
        (public_directory / "a/k").write_bytes(b"")
        (public_directory / "a/k").chmod(0o600)

        assert nobody(READ, public_directory).startswith("StorageRefused permission denied")
        assert nobody(PUT, public_directory).startswith("StorageRefused permission denied")

    def test_a_listing_leaves_out_what_may_not_be_read_and_says_so(self, public_directory: Path) -> None:
        for name in ("1", "closed/2", "open/3"):
            (public_directory / "a" / name).parent.mkdir(parents=True, exist_ok=True)
            (public_directory / "a" / name).write_bytes(b"")
        (public_directory / "a/closed").chmod(0o700)

        told = nobody(LIST, public_directory)

        assert "['a/1', 'a/open/3']" in told
        assert "a/closed/" in told
        assert "left out of a listing" in told

    def test_a_listing_of_what_may_not_be_read_fails(self, public_directory: Path) -> None:
        (public_directory / "a").mkdir(mode=0o700)

        assert nobody(LIST, public_directory).startswith("StorageRefused ")


class TestUnfit:
    async def test_a_file_in_place_of_the_directory_is_refused(self, root: Path) -> None:
        root.write_bytes(b"")

        assert f"{root} is no directory" in str(await refusal(root))

    async def test_a_file_on_the_way_is_refused(self, root: Path) -> None:
        root.write_bytes(b"")

        assert f"{root} is no directory" in str(await refusal(root / "data"))

    async def test_a_file_in_place_of_an_inner_directory_is_refused(self, root: Path) -> None:
        root.mkdir()
        (root / "pierhead").write_bytes(b"")

        assert f"{root}/pierhead is no directory" in str(await refusal(root))

    async def test_a_second_device_inside_is_refused(self, root: Path, mount: Mount) -> None:
        mount(root / "docker/registry/v2/blobs")

        told = str(await refusal(root))

        assert f"{root}/docker/registry/v2/blobs can't be used" in told
        assert "single file system" in told

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
    async def test_no_hard_links_are_refused(self, root: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        monkeypatch.setattr(os, "link", failing(number))

        assert "no hard links" in str(await refusal(root))

    @pytest.mark.parametrize("flock", [lambda *_: None, failing(errno.ENOLCK), failing(errno.EOPNOTSUPP)])
    async def test_locks_that_do_not_lock_are_refused(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, flock: Callable[..., None]
    ) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)

        assert "no working file locks" in str(await refusal(root))

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
    async def test_what_cannot_be_synced_is_refused(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(os, "fsync", failing(number))

        assert isinstance(await refusal(root), StorageUnavailable)

    async def test_a_refused_start_leaves_no_trial_behind(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "link", failing(errno.EPERM))
        await refusal(root)

        assert [path for path in root.rglob("*") if path.is_file()] == []


class TestStart:
    async def test_it_makes_the_directory_and_leaves_no_trial_behind(self, root: Path) -> None:
        driver = FileSystemDriver(root / "deep" / "er")
        await driver.start()
        await driver.close()

        assert [path for path in root.rglob("*") if path.is_file()] == []

    async def test_it_removes_what_the_dead_left_and_nothing_recent(self, root: Path) -> None:
        temporary = root / "pierhead/tmp"
        temporary.mkdir(parents=True)
        (temporary / "old").write_bytes(b"")
        (temporary / "new").write_bytes(b"")
        two_days_ago = time.time() - 2 * 86400
        os.utime(temporary / "old", (two_days_ago, two_days_ago))

        driver = FileSystemDriver(root)
        await driver.start()
        await driver.close()

        assert [path.name for path in temporary.iterdir()] == ["new"]

    async def test_a_relative_directory_stays_the_same_when_the_process_moves(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        driver = FileSystemDriver(Path("data"))
        monkeypatch.chdir("/")
        await driver.start()
        await driver.close()

        assert (tmp_path / "data/pierhead").is_dir()

    async def test_a_linked_directory_is_fine(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        root.symlink_to("elsewhere")

        driver = FileSystemDriver(root)
        await driver.start()
        await driver.put("a/k", b"1")
        await driver.close()

        assert (tmp_path / "elsewhere/a/k").read_bytes() == b"1"


def test_refused_is_told_apart_from_absent() -> None:
    assert not issubclass(StorageRefused, FileNotFoundError)
