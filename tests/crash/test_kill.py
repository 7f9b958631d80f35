"""kill -9 of all processes at each step of each operation: what was acknowledged is there, the rest whole or absent.

A step is a system call that changes the data directory, or the first line of an answer. The server dies before
the step, or after it has written half of the step's bytes. Its successor is asked about everything.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.crash import operations
from tests.crash.clients import HttpClient, Lost
from tests.crash.launching import Instance, Launcher, Watched
from tests.crash.operations import OPERATIONS, Operation, Story
from tests.crash.promises import GONE, Item, Kept, Ledger, Upload, check, observe_upload
from tests.crash.steps import STORE, Point, Step, label, points
from tests.crash.trees import Known, check_tree
from tests.running import ROOT

ATTEMPTS_MAX = 5
MEMORY = Path("/dev/shm")

LOCK_FILE = "create ./pierhead/locks/**"
"""One of them is made with the first object whose lock it is: in a run of a store's first operations."""
SOMETIMES = frozenset(
    {
        LOCK_FILE,
        "mkdir ./docker/registry/v2/blobs/sha256/**",
        "sync ./docker/registry/v2/blobs/sha256",
        "mkdir ./pierhead/sources/sha256/**",
        "mkdir ./pierhead/sources/sha512/**",
        "mkdir ./pierhead/removals",
        "rmdir ./pierhead/removals",
        "sync ./pierhead",
    }
)
"""Steps that are taken or not according to the first digits of a digest, or to what those before have left who died."""
WRITES = frozenset({"write"})
CHANGES = frozenset({"create", "write", "truncate", "mkdir", "link", "rename", "unlink", "rmdir", "answer"})
"""What the next server can tell apart: a kernel that lives on keeps what was not fsynced."""
GARBAGE = frozenset(
    {
        "blob-unlinked",
        "referrer-leftover",
        "removal-leftover",
        "source-stale",
        "tag-leftover",
        "type-stale",
        "upload-abandoned",
        "upload-bytes-gone",
    }
)
"""What a crash may leave, in the words of `pierhead verify`."""
SYNCS = frozenset({"sync"})
KILLS_MIN = 200
HIT: dict[tuple[str, int, bool], int] = {}
"""At how many steps servers were killed: by operation, workers, and whether half-way through the step."""
WITH_SYNCS = (operations.stream, operations.first_manifest, operations.manifest_deletion, operations.cancellation)
WITH_TWO_WORKERS = (
    operations.stream,
    operations.chunks,
    operations.mount,
    operations.first_manifest,
    operations.tag_move,
    operations.referrer,
    operations.manifest_deletion,
    operations.cancellation,
)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Give a directory in memory, where there is such: a killed process leaves the kernel as it is."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_kill_at_any_step_loses_nothing_and_shows_nothing_half(
    launchers: Sequence[Launcher], directory: Path, operation: Operation
) -> None:
    lanes = Lanes.begin(launchers, directory)

    killed = lanes.kill_at_all(operation, CHANGES | SYNCS if operation in WITH_SYNCS else CHANGES)
    lanes.kill_at_all(operation, WRITES, half=True)
    lanes.end()

    assert ("answer", 0) in killed


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", WITH_TWO_WORKERS, ids=lambda operation: operation.__name__)
def test_a_kill_of_two_workers_loses_nothing_and_shows_nothing_half(
    launchers: Sequence[Launcher], directory: Path, operation: Operation
) -> None:
    lanes = Lanes.begin(launchers, directory, workers=2)

    killed = lanes.kill_at_all(operation, CHANGES)
    lanes.end()

    assert ("answer", 0) in killed


@pytest.mark.timeout(300)
def test_a_kill_while_an_empty_directory_becomes_a_store_is_mended_by_the_next_start(
    launchers: Sequence[Launcher], directory: Path
) -> None:
    def kill_at(launcher: Launcher, number: int, point: Point) -> None:
        trial = Trial.begin(launcher, directory / f"killed-{number}" / STORE, kill_at=point)
        operations.whole_post(trial.story, "crash/first")()
        trial.end()

    whole = Trial.begin(launchers[0], directory / "whole" / STORE)
    side_by_side(launchers, points(whole.watched.trace.read()), kill_at)


@pytest.mark.timeout(300)
def test_a_kill_at_any_step_of_the_very_first_push_loses_nothing(
    launchers: Sequence[Launcher], directory: Path
) -> None:
    def attempt(launcher: Launcher, name: str, point: Point | None) -> Sequence[Step]:
        trial = Trial.begin(launcher, directory / name / STORE)
        steps = trial.attempt(operations.whole_post, point)
        trial.server.kill()
        return steps

    def kill_at(launcher: Launcher, number: int, point: Point) -> None:
        assert point[0] in SOMETIMES or attempt(launcher, f"killed-{number}", point)[-1].killed

    side_by_side(launchers, points(attempt(launchers[0], "whole", None)), kill_at)


def side_by_side(
    launchers: Sequence[Launcher], wanted: Sequence[Point], work: Callable[[Launcher, int, Point], None]
) -> None:
    """Let each launcher take its share of some steps, which are numbered."""
    numbered = list(enumerate(wanted))

    def take(lane: int) -> None:
        for number, point in numbered[lane :: len(launchers)]:
            work(launchers[lane], number, point)

    with ThreadPoolExecutor(len(launchers)) as pool:
        list(pool.map(take, range(len(launchers))))


def test_servers_were_killed_at_two_hundred_steps_at_least_with_one_worker_and_with_two() -> None:
    if len(HIT) < 2 * len(OPERATIONS) + len(WITH_TWO_WORKERS):
        pytest.skip("only when all tests of this file are run, in their order")

    assert sum(HIT.values()) >= KILLS_MIN
    assert {workers for _operation, workers, _half in HIT} == {1, 2}


@dataclass(slots=True)
class Trial:
    """One data directory in which server after server is killed, each at another step of the same operation."""

    launcher: Launcher
    watched: Watched
    workers: int
    server: Instance
    story: Story
    known: Known = field(default_factory=dict)
    attempts: int = 0

    @classmethod
    def begin(cls, launcher: Launcher, data: Path, *, workers: int = 1, kill_at: Point | None = None) -> "Trial":
        """Start the first server; if it is to be killed as it starts, another one."""
        data.parent.mkdir()
        watched = Watched.beside(data)
        watched.control.arm(kill_at)
        if kill_at:
            Instance(launcher, launcher.spawn(data, workers=workers, watched=watched), "").await_death()
            assert watched.trace.read()[-1].killed
            watched.control.disarm()
        server = launcher.start(data, workers=workers, watched=watched)
        watched.control.disarm()
        return cls(launcher, watched, workers, server, Story(HttpClient(server.url), Ledger()))

    def whole_run(self, operation: Operation) -> Sequence[Point]:
        """Run an operation that nobody disturbs; returns its steps."""
        self.attempt(operation, None)  # makes what is made once in a store
        return points(self.attempt(operation, None))

    def kill_at_each(self, operation: Operation, wanted: Sequence[Point], *, half: bool) -> set[Point]:
        """Kill at every one of some steps; returns where."""
        return {point for point in wanted if self.kill_at(operation, point, half=half)}

    def end(self) -> None:
        """Check everything that has ever been promised, and let the store be verified."""
        broken = check(self.story.client, self.story.ledger)
        self.server.kill()
        assert not broken, "\n".join(broken)
        command = [sys.executable, "-m", "registry", "verify", "--json", "--data", str(self.watched.data)]
        verified = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        summary = json.loads(verified.stdout.splitlines()[-1])
        assert verified.returncode < 2, verified.stderr
        assert set(summary["kinds"]) <= GARBAGE, verified.stdout

    def kill_at(self, operation: Operation, point: Point, *, half: bool) -> bool:
        """Kill at a step, once it comes; tells whether it came."""
        for _attempt in range(ATTEMPTS_MAX):
            steps = self.attempt(operation, point, half=half)
            if steps[-1].killed:
                assert (label(steps[-1]), steps[-1].half) == (point[0], half)
                return True
        return False

    def attempt(self, operation: Operation, point: Point | None, *, half: bool = False) -> Sequence[Step]:
        """Run an operation that is killed at a point; check what is left, and retry it. Returns its steps."""
        self.attempts += 1
        before = set(self.story.ledger.honest)
        run = operation(self.story, f"{self.attempts}-{operation.__name__.replace('_', '-')}/app")
        self.watched.trace.clear()
        self.watched.control.arm(point, half=half)
        try:
            run()
        except Lost:
            self.server.await_death()
        self.watched.control.disarm()
        steps = self.watched.trace.read()
        if steps[-1].killed:
            self.restart()
            new = [item for item in self.story.ledger.honest if item not in before]
            self.check(steps[-1], new)
            self.resume(new)
            run()
            self.check(steps[-1], [item for item in self.story.ledger.honest if item not in before])
        return steps

    def restart(self) -> None:
        """Start the next server on what the last one has left."""
        self.server = self.launcher.start(self.watched.data, workers=self.workers, watched=self.watched)
        self.story.client = HttpClient(self.server.url)

    def check(self, step: Step, items: Sequence[Item]) -> None:
        """Compare promises with what the API says and with what lies on the disk."""
        broken = check(self.story.client, self.story.ledger, items)
        broken += check_tree(self.watched.data, killed=True, known=self.known)
        assert not broken, f"killed at {step.call} {step.path} {step.target}:\n" + "\n".join(broken)

    def resume(self, items: Sequence[Item]) -> None:
        """Go on where the registry says that a session ends, as a client does that has lost the connection."""
        for item in items:
            if not isinstance(item, Upload):
                continue
            kept = observe_upload(self.story.client, item)
            whole = self.story.ledger.sent[item]
            if isinstance(kept, Kept) and whole:
                self.story.ledger.sent[item] = whole[: kept.first]
                if kept.first < len(whole):
                    self.story.append(item, whole[kept.first :], ranged=True)
                self.story.finish(item)
            elif kept == GONE:
                self.story.ledger.acknowledge({item: GONE})


@dataclass(frozen=True, slots=True)
class Lanes:
    """Trials side by side, each of which takes its share of an operation's steps: most of the time is waiting."""

    trials: Sequence[Trial]

    @classmethod
    def begin(cls, launchers: Sequence[Launcher], directory: Path, *, workers: int = 1) -> "Lanes":
        """Start the first server of each."""
        stores = [directory / f"store{number}" / STORE for number in range(len(launchers))]
        return cls([Trial.begin(*each, workers=workers) for each in zip(launchers, stores, strict=True)])

    def kill_at_all(self, operation: Operation, calls: frozenset[str], *, half: bool = False) -> set[Point]:
        """Kill at every step of an operation that is one of the calls; returns where."""
        with ThreadPoolExecutor(len(self.trials)) as pool:
            whole_run, *_ = pool.map(lambda trial: trial.whole_run(operation), self.trials)
            wanted = [point for point in whole_run if point[0].split(" ")[0] in calls and point[0] != LOCK_FILE]
            shares = [wanted[number :: len(self.trials)] for number in range(len(self.trials))]
            found = pool.map(lambda trial, share: trial.kill_at_each(operation, share, half=half), self.trials, shares)
            killed = set().union(*found)
        HIT[operation.__name__, self.trials[0].workers, half] = len(killed)
        missed = {point[0] for point in wanted if point not in killed}
        assert missed <= SOMETIMES, "there was no such step in any later run"
        return killed

    def end(self) -> None:
        """Check everything that has ever been promised, and let the stores be verified."""
        with ThreadPoolExecutor(len(self.trials)) as pool:
            list(pool.map(Trial.end, self.trials))
