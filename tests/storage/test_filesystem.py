"""The file system driver: names, links, locks, processes, and requests that were cancelled half-way."""

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.errors import Busy, Corrupt, NotFound, StorageError, StorageUnavailable, VersionMismatch
from storage.filesystem import FileSystemDriver
from storage.filesystem.failures import reading_failed, writing_failed
from tests.running import ROOT, eventually
from tests.storage.conftest import open_files


async def keys(driver: FileSystemDriver, prefix: str, *, after: str = "", limit: int = 1000) -> list[str]:
    return [entry.key for entry in (await driver.list(prefix, after=after, limit=limit)).entries]


async def read(driver: FileSystemDriver, key: str) -> bytes:
    return (await driver.get(key, bytes_max=1 << 20)).body


class Gate:
    """Holds up a function in its thread until it is opened."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self._real = real

    def __call__(self, *arguments: Any) -> Any:
        self.entered.set()
        assert self.opened.wait(30)
        return self._real(*arguments)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)


@contextlib.contextmanager
def gate(patch: pytest.MonkeyPatch, name: str) -> Iterator[Gate]:
    """Hold up every call of a function of `os` in the block, or until the gate is opened."""
    held = Gate(getattr(os, name))
    with patch.context() as patched:
        patched.setattr(os, name, held)
        try:
            yield held
        finally:
            held.opened.set()


@pytest.fixture
async def narrow(root: Path) -> AsyncIterator[FileSystemDriver]:
    """Return a started driver with a single thread."""
    driver = FileSystemDriver(root, threads_max=1)
    await driver.start()
    yield driver
    await driver.close()


class TestNames:
    async def test_files_and_directories_have_the_modes_that_the_umask_leaves(
        self, files: FileSystemDriver, root: Path
    ) -> None:
        before = os.umask(0o027)
        try:
            await files.put("a/put", b"")
            await files.create("a/created", b"")
            await files.stage("a/staged")
        finally:
            os.umask(before)

        modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("a", "a/put", "a/created", "a/staged")}
        assert modes == {"a": 0o750, "a/put": 0o640, "a/created": 0o640, "a/staged": 0o640}

    async def test_reads_follow_links_and_writes_replace_them(
        self, files: FileSystemDriver, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").write_bytes(b"linked")
        (root / "k").symlink_to(tmp_path / "elsewhere")

        assert await read(files, "k") == b"linked"
        assert (await files.stat("k")).size == 6
        await files.put("k", b"own")

        assert not (root / "k").is_symlink()
        assert (tmp_path / "elsewhere").read_bytes() == b"linked"

    async def test_deleting_a_link_leaves_what_it_leads_to(
        self, files: FileSystemDriver, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").write_bytes(b"linked")
        (root / "k").symlink_to(tmp_path / "elsewhere")

        await files.delete("k")

        assert (tmp_path / "elsewhere").read_bytes() == b"linked"
        with pytest.raises(NotFound):
            await files.stat("k")

    async def test_what_is_no_file_is_corrupt_and_holds_nobody_up(self, files: FileSystemDriver, root: Path) -> None:
        (root / "directory").mkdir()
        (root / "loop").symlink_to("loop")
        os.mkfifo(root / "pipe")
        calls: list[Callable[[str], Awaitable[object]]] = [
            lambda key: files.get(key, bytes_max=9),
            files.stat,
            files.open,
            files.open_staged,
        ]
        before = open_files()

        for key in ("directory", "loop", "pipe"):
            for call in calls:
                with pytest.raises(Corrupt):
                    await call(key)
        assert open_files() == before

    async def test_a_link_that_leads_nowhere_is_not_found(self, files: FileSystemDriver, root: Path) -> None:
        (root / "k").symlink_to("nowhere")

        with pytest.raises(NotFound):
            await read(files, "k")

    async def test_a_staged_object_is_never_a_link(self, files: FileSystemDriver, root: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"")
        (root / "data").symlink_to(tmp_path / "elsewhere")

        with pytest.raises(Corrupt):
            await files.open_staged("data")

    async def test_what_lies_in_the_way_of_a_write_is_named(self, files: FileSystemDriver, root: Path) -> None:
        await files.put("a/file", b"")
        (root / "a/directory").mkdir()

        with pytest.raises(StorageUnavailable, match="a file lies where a directory should be"):
            await files.put("a/file/k", b"")
        with pytest.raises(StorageUnavailable, match="a directory lies where the object should go"):
            await files.put("a/directory", b"")
        with pytest.raises(StorageError, match="name is too long"):
            await files.put("x" * 256, b"")

    async def test_a_version_is_that_of_the_bytes(self, files: FileSystemDriver, root: Path) -> None:
        version = await files.put("k", b"1")
        (root / "k").write_bytes(b"2")  # by another registry, in place

        with pytest.raises(VersionMismatch):
            await files.replace("k", b"3", version=version)

    @pytest.mark.parametrize("number", sorted(errno.errorcode))
    async def test_every_error_number_has_its_words(self, number: int) -> None:
        for translate in (reading_failed, writing_failed):
            translated = translate(OSError(number, "raw"), "the/key")
            assert str(translated).endswith("[the/key]")
            assert ": " in str(translated) or isinstance(translated, NotFound) or number == errno.ENAMETOOLONG


class TestEmptyDirectories:
    async def test_deletions_leave_no_empty_directory_of_their_own(self, files: FileSystemDriver, root: Path) -> None:
        tags = "docker/registry/v2/repositories/a/_manifests/tags"
        await files.put(f"{tags}/v1/index/sha256/00/link", b"")
        await files.put(f"{tags}/v1/current/link", b"")

        await files.delete(f"{tags}/v1/current/link")
        await files.delete(f"{tags}/v1/index/sha256/00/link")

        # Distribution takes each directory here for a tag, and a repository without this one for none.
        assert list((root / tags).iterdir()) == []

    async def test_tidying_removes_all_empty_directories_also_lasting_ones_and_no_other(
        self, files: FileSystemDriver, root: Path
    ) -> None:
        await files.put("r/inside/_manifests/tags/t/link", b"x")
        for key in ("r/_manifests/revisions/a/link", "r/_manifests/tags/t/link", "r/_layers/a/link"):
            await files.put(key, b"x")
            await files.delete(key)
        await files.put("r/_layers/b/link", b"x")
        assert (root / "r/_manifests/revisions").is_dir()

        for folder in ("_manifests", "_layers", "_uploads"):
            await files.tidy(f"r/{folder}/")

        assert sorted(path.name for path in (root / "r").iterdir()) == ["_layers", "inside"]
        await files.delete("r/_layers/b/link")
        await files.tidy("r/_layers/")
        assert sorted(path.name for path in (root / "r").iterdir()) == ["inside"]
        await files.put("r/_layers/b/link", b"again")
        assert await read(files, "r/_layers/b/link") == b"again"

    async def test_directories_with_something_in_them_stay(self, files: FileSystemDriver, root: Path) -> None:
        await files.put("a/b/k", b"")
        (root / "a/b/other").mkdir()

        await files.delete("a/b/k")

        assert (root / "a/b/other").is_dir()

    async def test_an_upload_that_ended_leaves_its_directory_to_nobody(
        self, files: FileSystemDriver, root: Path
    ) -> None:
        for ending in ("commit", "discard"):
            await files.put("r/_uploads/1/startedat", b"")
            await files.stage("r/_uploads/1/data")
            if ending == "commit":
                await (await files.open_staged("r/_uploads/1/data")).commit("k")
            else:
                await files.discard("r/_uploads/1/data")
            assert (root / "r/_uploads/1").is_dir()
            await files.delete("r/_uploads/1/startedat")
            assert list((root / "r/_uploads").iterdir()) == []

    async def test_a_write_makes_its_directory_as_often_as_it_is_taken_away(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, times = os.link, 5

        def link(source: str, target: str) -> None:
            nonlocal times
            if times and Path(target).parent.exists():
                times -= 1
                Path(target).parent.rmdir()
            real(source, target)

        monkeypatch.setattr(os, "link", link)

        await files.create("a/b/k", b"1")

        assert times == 0
        assert await read(files, "a/b/k") == b"1"

    async def test_a_directory_that_vanishes_once_it_was_found_to_exist_is_made(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # mkdir(2) finds it, and a deletion takes it away before anybody looks at what was found.
        real, found = os.mkdir, False

        def mkdir(path: str | Path, mode: int = 0o777) -> None:
            nonlocal found
            if not found:
                found = True
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            real(path, mode)

        monkeypatch.setattr(os, "mkdir", mkdir)

        await files.put("a/b/k", b"1")

        assert await read(files, "a/b/k") == b"1"


class TestListing:
    async def test_it_reads_only_the_directories_that_it_needs(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in range(30):
            await files.put(f"p/{number:02}/x/k", b"", durable=False)
        count = 0
        real = os.scandir

        def scandir(path: bytes) -> Any:
            nonlocal count
            count += 1
            return real(path)

        monkeypatch.setattr(os, "scandir", scandir)

        assert await keys(files, "p/", after="p/20/x/k", limit=1) == ["p/21/x/k"]
        assert count <= 1 + 3 * 2  # the top, and two levels of: the one of `after`, the page, the one more

    async def test_what_lies_there_by_accident_is_left_out(self, files: FileSystemDriver, root: Path) -> None:
        await files.put("p/a", b"")
        await files.put("p/b/c", b"")
        os.mkfifo(root / "p/pipe")
        (root / "p/nowhere").symlink_to("none")
        (root / "p/loop").symlink_to("loop")
        with open(os.fsencode(root) + b"/p/\xff\xfe", "wb"):
            pass
        Path(os.fsdecode(os.fsencode(root) + b"/p/\xfe")).mkdir()
        with open(os.fsencode(root) + b"/p/\xfe/inside", "wb"):
            pass

        assert await keys(files, "p/") == ["p/a", "p/b/c"]
        assert [e.key for e in (await files.list("p/", limit=9, fold=True)).entries] == ["p/a", "p/b/"]

    async def test_linked_files_and_directories_are_followed(
        self, files: FileSystemDriver, root: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere/deep").mkdir(parents=True)
        (tmp_path / "elsewhere/deep/k").write_bytes(b"")
        await files.put("p/a", b"")
        (root / "p/b").symlink_to(tmp_path / "elsewhere")
        (root / "p/c").symlink_to("a")

        assert await keys(files, "p/") == ["p/a", "p/b/deep/k", "p/c"]

    async def test_links_in_circles_end(self, files: FileSystemDriver, root: Path) -> None:
        await files.put("p/a/k", b"")
        for name in ("p/one", "p/two", "p/a/three"):
            (root / name).symlink_to(root)
        (root / "p/a/four").symlink_to(root / "p")
        (root / "p/a/five").symlink_to(root.parent)

        found = await keys(files, "p/")

        assert "p/a/k" in found
        assert len(found) < 10

    async def test_locks_and_unfinished_files_are_no_objects(self, files: FileSystemDriver) -> None:
        await files.put("pierhead/layout", b"")

        assert await keys(files, "pierhead/") == ["pierhead/layout"]
        assert await keys(files, "") == ["pierhead/layout"]

    async def test_very_deep_trees_are_written_and_listed(self, files: FileSystemDriver, deep_key: str) -> None:
        await files.put(deep_key, b"")

        assert await keys(files, "d/") == [deep_key]

    @pytest.fixture
    def deep_key(self, root: Path) -> Iterator[str]:
        """Return a key deeper than calls may be nested."""
        yield "/".join(["d"] * 1200)
        # Python's own rmtree, with which pytest cleans up, goes down by calling itself.
        subprocess.run(["rm", "-rf", str(root / "d")], check=True)


class TestLocks:
    async def test_the_loop_goes_on_while_a_write_waits_for_its_lock(self, files: FileSystemDriver, root: Path) -> None:
        await files.put("k", b"1")
        with holding_all_locks(root):
            writing = asyncio.create_task(files.put("k", b"2"))
            for _turn in range(20):
                assert await read(files, "k") == b"1"
                await asyncio.sleep(0)
            assert not writing.done()
        await writing

        assert await read(files, "k") == b"2"

    async def test_a_lock_that_is_never_released_is_an_error_in_the_end(
        self, files: FileSystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("storage.filesystem.locks.LOCK_SECONDS_MAX", 0.05)

        with holding_all_locks(root), pytest.raises(StorageUnavailable, match="holds the lock"):
            await files.put("k", b"")
        assert list((root / "pierhead/tmp").iterdir()) == []

    async def test_no_lock_is_held_during_an_fsync(
        self, files: FileSystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        version = await files.put("a/k", b"1")
        with gate(monkeypatch, "fsync") as fsync:
            writing = asyncio.create_task(files.replace("a/k", b"2", version=version))
            await fsync.reached()
            with holding_all_locks(root, wait=False):
                pass
        await writing

    async def test_what_was_discarded_just_before_its_lock_was_taken_has_no_writer(
        self, files: FileSystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await files.stage("s")
        real = fcntl.flock

        def flock(descriptor: int, operation: int) -> None:
            (root / "s").unlink()
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)

        with pytest.raises(NotFound):
            await files.open_staged("s")


class TestShortWrites:
    async def test_a_write_that_takes_less_is_continued(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pwritev, write, pwrite = os.pwritev, os.write, os.pwrite
        monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: pwritev(fd, [b"".join(buffers)[:7]], at))
        monkeypatch.setattr(os, "pwrite", lambda fd, body, at: pwrite(fd, body[:5], at))
        monkeypatch.setattr(os, "write", lambda fd, body: write(fd, body[:3]))
        await files.stage("s")
        writer = await files.open_staged("s")

        await writer.write([b"0123456789", b"abcdefghij"])
        await writer.commit("staged")
        await files.put("put", b"0123456789")

        assert await read(files, "staged") == b"0123456789abcdefghij"
        assert await read(files, "put") == b"0123456789"


class TestCancellation:
    async def test_a_cancelled_write_ends_before_it_returns_and_leaves_nothing(
        self, files: FileSystemDriver, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await files.put("warm/k", b"")
        before = open_files()
        with gate(monkeypatch, "fsync") as fsync:
            writing = asyncio.create_task(files.put("k", b"1"))
            await fsync.reached()
            writing.cancel()
            for _turn in range(5):
                await asyncio.sleep(0)
                writing.cancel()
            assert not writing.done()
        with pytest.raises(asyncio.CancelledError):
            await writing

        assert list((root / "pierhead/tmp").iterdir()) == []
        assert open_files() == before
        with holding_all_locks(root, wait=False):
            pass

    async def test_what_waits_for_a_thread_is_dropped_at_once(
        self, narrow: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with gate(monkeypatch, "fsync") as fsync:
            first = asyncio.create_task(narrow.put("first", b""))
            await fsync.reached()
            second = asyncio.create_task(narrow.put("second", b""))
            await asyncio.sleep(0)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        await first

        assert await keys(narrow, "") == ["first"]

    async def test_a_cancelled_append_keeps_its_lock_until_its_thread_has_ended(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await files.stage("s")
        writer = await files.open_staged("s")

        async def append() -> None:
            try:
                await writer.write([b"12345"])
            finally:
                await writer.close()

        with gate(monkeypatch, "pwritev") as pwritev:
            appending = asyncio.create_task(append())
            await pwritev.reached()
            appending.cancel()
            for _turn in range(5):
                await asyncio.sleep(0)
            with pytest.raises(Busy):
                await files.open_staged("s")
        with pytest.raises(asyncio.CancelledError):
            await appending

        resumed = await files.open_staged("s")
        assert resumed.size == writer.size == 5
        await resumed.close()

    async def test_a_writer_closed_from_elsewhere_closes_once_its_thread_has_ended(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await files.stage("s")
        before = open_files()
        writer = await files.open_staged("s")
        with gate(monkeypatch, "pwritev") as pwritev:
            appending = asyncio.create_task(writer.write([b"12345"]))
            await pwritev.reached()
            await writer.close()
            with pytest.raises(Busy):
                await files.open_staged("s")
        await appending

        assert open_files() == before
        assert (await files.stat_staged("s")).size == 5

    async def test_a_cancelled_read_leaves_no_descriptor_behind(
        self, files: FileSystemDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await files.put("k", bytes(300_000))
        before = open_files()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: files.get("k", bytes_max=1 << 20),
            lambda: stream(files, "k"),
        ]
        for call in calls:
            with gate(monkeypatch, "pread") as pread:
                reading = asyncio.ensure_future(call())
                await pread.reached()
                reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert open_files() == before


class TestResources:
    async def test_nothing_stays_open(self, files: FileSystemDriver) -> None:
        async def everything() -> None:
            version = await files.put("a/k", bytes(200_000))
            await files.replace("a/k", b"2", version=version)
            await stream(files, "a/k")
            await files.stage("a/s")
            writer = await files.open_staged("a/s")
            await writer.write([bytes(200_000)])
            with pytest.raises(Busy):
                await files.open_staged("a/s")
            await files.discard("a/s")
            await writer.close()
            await keys(files, "a/")
            with pytest.raises(Corrupt):
                await files.get("a/k", bytes_max=0)

        await everything()
        before = open_files()
        for _round in range(5):
            await everything()

        assert open_files() == before

    async def test_a_committed_writer_is_closed_without_being_told(self, files: FileSystemDriver) -> None:
        await files.put("a/k", b"")
        before = open_files()
        await files.stage("a/s")
        writer = await files.open_staged("a/s")

        await writer.commit("a/k")

        assert open_files() == before

    async def test_a_hard_link_of_a_backup_does_not_hide_a_discard(self, files: FileSystemDriver, root: Path) -> None:
        await files.stage("s")
        writer = await files.open_staged("s")
        os.link(root / "s", root / "backup")

        await files.discard("s")

        with pytest.raises(NotFound):
            await writer.write([b"x"])
        await writer.close()

    async def test_large_writes_are_observed_in_another_thread_in_pieces_of_a_mebibyte(
        self, files: FileSystemDriver
    ) -> None:
        seen: list[tuple[int, int]] = []

        def observe(pieces: Sequence[bytes]) -> None:
            seen.append((threading.get_ident(), sum(map(len, pieces))))

        await files.stage("s")
        writer = await files.open_staged("s")
        await writer.write([bytes(1 << 18)] * 40, observe)
        await writer.close()

        assert [size for _thread, size in seen] == [1 << 20] * 10
        assert threading.get_ident() not in {thread for thread, _size in seen}


WORKER = """
import asyncio, sys
from pathlib import Path
from storage.errors import AlreadyExists, VersionMismatch
from storage.filesystem import FileSystemDriver

async def main():
    driver = FileSystemDriver(Path(sys.argv[1]))
    await driver.start()
    print("ready", flush=True)
    sys.stdin.readline()
    await work(driver, sys.argv[2])
    await driver.close()

async def create(driver, name):
    for number in range(40):
        try:
            await driver.create(f"race/{number}/deep/k", name.encode())
        except AlreadyExists:
            continue
        print(number, flush=True)

async def count(driver, name):
    for _step in range(40):
        while True:
            found = await driver.get("n", bytes_max=99)
            try:
                await driver.replace("n", str(int(found.body) + 1).encode(), version=found.version)
            except VersionMismatch:
                continue
            break

async def churn(driver, name):
    for number in range(60):
        await driver.put(f"race/deep/er/{name}", str(number).encode())
        assert (await driver.get(f"race/deep/er/{name}", bytes_max=9)).body == str(number).encode()
        await driver.delete(f"race/deep/er/{name}")

async def hold(driver, name):
    writer = await driver.open_staged("up/1/data")
    await writer.write([b"12345"])
    print("held", flush=True)
    sys.stdin.readline()

work = globals()[sys.argv[3]]
asyncio.run(main())
"""


class TestProcesses:
    @pytest.fixture
    def start_worker(self, root: Path) -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
        workers: list[subprocess.Popen[str]] = []

        def starter(name: str, work: str) -> subprocess.Popen[str]:
            worker = subprocess.Popen(
                [sys.executable, "-c", WORKER, str(root), name, work],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            workers.append(worker)
            return worker

        yield starter
        for worker in workers:
            worker.kill()
            worker.communicate()

    def race(self, workers: Sequence[subprocess.Popen[str]]) -> list[str]:
        """Let all workers go at once; returns what each printed."""
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        outputs = [worker.communicate(timeout=60)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * len(workers)
        return outputs

    async def test_of_creating_processes_one_wins_each_key(
        self, start_worker: Callable[[str, str], subprocess.Popen[str]], root: Path
    ) -> None:
        outputs = self.race([start_worker(name, "create") for name in "ab"])

        won = {number: name for name, output in zip("ab", outputs, strict=True) for number in output.split()}
        assert sum(len(output.split()) for output in outputs) == len(won) == 40
        assert {n: (root / f"race/{n}/deep/k").read_text() for n in won} == won

    async def test_counting_processes_lose_no_step(
        self,
        files: FileSystemDriver,
        start_worker: Callable[[str, str], subprocess.Popen[str]],
    ) -> None:
        await files.create("n", b"0")

        self.race([start_worker(name, "count") for name in "ab"])

        assert await read(files, "n") == b"80"

    async def test_processes_that_delete_next_to_each_other_take_nothing_from_each_other(
        self, files: FileSystemDriver, start_worker: Callable[[str, str], subprocess.Popen[str]]
    ) -> None:
        self.race([start_worker(name, "churn") for name in "abc"])

        assert await keys(files, "race/") == []

    async def test_a_killed_writer_frees_its_session_and_what_it_wrote_is_there(
        self, files: FileSystemDriver, start_worker: Callable[[str, str], subprocess.Popen[str]]
    ) -> None:
        await files.stage("up/1/data")
        worker = start_worker("a", "hold")
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
        assert [worker.stdout.readline() for _line in range(2)] == ["ready\n", "held\n"]
        with pytest.raises(Busy):
            await files.open_staged("up/1/data")

        worker.send_signal(signal.SIGKILL)
        worker.wait()

        writer = await files.open_staged("up/1/data")
        assert writer.size == 5
        await writer.close()

    async def test_a_killed_holder_of_a_lock_frees_it(self, files: FileSystemDriver, root: Path) -> None:
        code = "import fcntl, glob, sys\n"
        code += "held = [open(path) for path in glob.glob(sys.argv[1])]\n"
        code += "[fcntl.flock(file, fcntl.LOCK_EX) for file in held]\n"
        code += "print('held', flush=True); sys.stdin.readline()\n"
        await files.put("k", b"1")
        command = [sys.executable, "-c", code, str(root / "pierhead/locks/*")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            writing = asyncio.create_task(files.put("k", b"2"))
            await asyncio.to_thread(eventually, lambda: list((root / "pierhead/tmp").iterdir()))
            assert await read(files, "k") == b"1"

            holder.kill()
            await writing

        assert await read(files, "k") == b"2"


async def stream(files: FileSystemDriver, key: str) -> int:
    reader = await files.open(key)
    try:
        return sum([len(piece) async for piece in reader.pieces(0, reader.size)])
    finally:
        await reader.close()


@contextlib.contextmanager
def holding_all_locks(root: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold every lock of a store, as another process might. Without `wait`, fails if one is held already."""
    with contextlib.ExitStack() as held:
        for slot in range(64):
            file = held.enter_context((root / f"pierhead/locks/{slot:02}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
