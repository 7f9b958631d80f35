"""A power cut at any instant, worked out from what the server did to its disk: see tests/crash/disks.py."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash import operations
from tests.crash.disks import Tree
from tests.crash.launching import Launcher
from tests.crash.operations import OPERATIONS, Operation, Story
from tests.crash.promises import Ledger
from tests.crash.recordings import Recording, judge, record, record_at_once
from tests.crash.steps import label

MEMORY = Path("/dev/shm")
REPOSITORY = "./docker/registry/v2/repositories/crash/first"

Judge = Callable[[Tree, Ledger], list[str]]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """Judge what is left, in memory and without fsync: no second power cut follows."""
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _descriptor: None)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:

        def judge_there(tree: Tree, ledger: Ledger) -> list[str]:
            try:
                return judge(tree, ledger, Path(directory) / "left")
            finally:
                shutil.rmtree(Path(directory) / "left")

        yield judge_there


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_power_cut_at_any_instant_loses_nothing_and_shows_nothing_half(
    launcher: Launcher, tmp_path: Path, judged: Judge, operation: Operation
) -> None:
    recording = record(launcher, tmp_path / "parent", lambda story: operation(story, "crash/first"))

    assert_survives(recording, judged, thoroughly=True)


def test_a_power_cut_in_a_long_story_of_two_workers_loses_nothing(
    launcher: Launcher, tmp_path: Path, judged: Judge
) -> None:
    def everything(story: Story) -> None:
        for operation in OPERATIONS:
            operation(story, f"crash/{operation.__name__.replace('_', '-')}")()

    recording = record_at_once(launcher, tmp_path / "parent", [everything], workers=2)

    assert_survives(recording, judged, thoroughly=False)


def assert_survives(recording: Recording, judged: Judge, *, thoroughly: bool) -> None:
    """Judge everything that a power cut may leave: at any time, or only right after each answer."""
    seen: set[tuple[bytes, int, bool]] = set()
    for moment in recording.moments():
        if not (thoroughly or moment.is_answer):
            continue
        for variant, tree in moment.remains(thoroughly=thoroughly and moment.is_answer):
            identity = (tree.signature(), moment.answers, moment.is_answer)
            if identity not in seen:
                seen.add(identity)
                broken = judged(tree, moment.honest)
                assert not broken, f"{label(moment.step)}; {variant} survives:\n" + "\n".join(broken)


def test_a_power_cut_while_several_clients_push_into_one_repository_loses_nothing(
    launcher: Launcher, tmp_path: Path, judged: Judge
) -> None:
    def push(story: Story) -> None:
        for _ in range(3):
            story.put(story.image("crash/shared"), f"client-{story.number}")

    recording = record_at_once(launcher, tmp_path / "parent", [push] * 4, workers=2)

    assert_survives(recording, judged, thoroughly=False)


@pytest.mark.parametrize(
    ("operation", "forgotten"),
    [
        (operations.stream, f"sync {REPOSITORY}/_uploads/*/data"),
        (operations.stream, f"sync {REPOSITORY}/_uploads"),
        (operations.whole_post, f"sync {REPOSITORY}/_uploads/*/data"),
        (operations.whole_post, "sync ./docker/registry/v2/blobs/sha256/**"),
        (operations.whole_post, f"sync {REPOSITORY}/_layers/sha256/*"),
        (operations.whole_post, "sync ./docker"),
        (operations.whole_post, "sync ."),
        (operations.whole_post, "sync .."),
        (operations.first_manifest, "sync ./pierhead/tmp/*"),
        (operations.first_manifest, "sync ./pierhead/catalog/crash"),
        (operations.first_manifest, f"sync {REPOSITORY}/_manifests/revisions/sha256/*"),
        (operations.first_manifest, f"sync {REPOSITORY}/_manifests/tags/latest/current"),
        (operations.tag_move, f"sync {REPOSITORY}/_manifests/tags/latest/current"),
        (operations.tag_move, "sync ./pierhead/repositories/crash/first/_history/latest"),
        (operations.tag_deletion, "sync ./pierhead/repositories/crash/first/_history/old"),
        (operations.mount, f"sync {REPOSITORY}/_layers/sha256/*"),
        (operations.referrer, "sync ./pierhead/repositories/crash/first/_referrers/sha256/*"),
        (operations.blob_deletion, f"sync {REPOSITORY}/_layers/sha256"),
        (operations.manifest_deletion, f"sync {REPOSITORY}/_manifests/revisions/sha256"),
        (operations.cancellation, "sync ./pierhead/uploads"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_loss_is_found_if_a_server_forgets_to_fsync(
    launcher: Launcher, tmp_path: Path, judged: Judge, operation: Operation, forgotten: str
) -> None:
    recording = record(launcher, tmp_path / "parent", lambda story: operation(story, "crash/first"))
    remembered = [step for step in recording.steps if label(step) != forgotten]
    assert len(remembered) < len(recording.steps)

    assert is_lost(recording.instead(remembered), judged)
    assert not is_lost(recording, judged)


def is_lost(recording: Recording, judged: Judge) -> bool:
    """Tell whether anything is broken after any answer, if nothing survives but what was fsynced."""
    return any(
        judged(moment.disk.after_power_cut(), moment.honest) for moment in recording.moments() if moment.is_answer
    )
