"""A power cut at any instant leaves no link that the quota of its prefix does not know of."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash import operations
from tests.crash.disks import Tree
from tests.crash.launching import Launcher, launching
from tests.crash.operations import Operation
from tests.crash.recordings import record
from tests.crash.steps import STORE, label
from tests.crash.trees import check_tree
from tests.quotas.pushing import MIB, linked_bytes, quota, told_bytes

MEMORY = Path("/dev/shm")
ADDED = "sync ./pierhead/usage/crash/_added"

LieOf = Callable[[Tree], list[str]]


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    """Return a launcher of servers that have a quota."""
    for name, value in quota(crash=100 * MIB).items():
        monkeypatch.setenv(name, value)
    with launching(tmp_path / "log") as launcher:
        yield launcher


@pytest.fixture
def lies_of() -> Iterator[LieOf]:
    """Look at what is left, in memory."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:

        def look(tree: Tree) -> list[str]:
            left = Path(directory) / "left"
            left.mkdir()
            tree.lay_out(left)
            try:
                return _lies(left / STORE)
            finally:
                shutil.rmtree(left)

        yield look


def _lies(data: Path) -> list[str]:
    if not data.exists():
        return []
    linked, told = linked_bytes(data, "crash"), told_bytes(data, "crash")
    low = [f"{told} bytes are told, and {linked} are linked to"] if told < linked else []
    return check_tree(data, power_cut=True) + low


@pytest.mark.parametrize(
    "operation",
    [operations.whole_post, operations.stream, operations.mount, operations.first_manifest, operations.referrer],
    ids=lambda operation: operation.__name__,
)
def test_every_link_that_survives_was_counted(
    launcher: Launcher, tmp_path: Path, lies_of: LieOf, operation: Operation
) -> None:
    recording = record(launcher, tmp_path / "parent", lambda story: operation(story, "crash/first"))
    assert ADDED in map(label, recording.steps)

    for moment in recording.moments():
        for variant, tree in moment.remains(thoroughly=moment.is_answer):
            assert lies_of(tree) == [], f"{label(moment.step)}; {variant} survives"


def test_the_loss_is_found_if_a_server_forgets_to_fsync_an_addition(
    launcher: Launcher, tmp_path: Path, lies_of: LieOf
) -> None:
    recording = record(launcher, tmp_path / "parent", lambda story: operations.whole_post(story, "crash/first"))
    forgetful = recording.instead([step for step in recording.steps if label(step) != ADDED])

    lost = [lies_of(moment.disk.after_power_cut()) for moment in forgetful.moments() if moment.is_answer]
    assert any(lost)
