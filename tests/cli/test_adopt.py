"""`pierhead adopt` as an operator meets it: exit codes, output, whose files it makes."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from storage.filesystem.locks import LOCKS
from tests.running import ROOT, eventually, interruptible, serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import command, run
from tests.swap.scars import Image, pushed

SOMEBODY = 12345
SIGNAL_SECONDS = 1.0
"""How long an idle event loop may take to notice a signal."""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image in a store of which nothing was adopted yet."""
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        found = pushed(client, data, "team/app")
    shutil.rmtree(data / "pierhead")
    return found


def test_a_clean_store_is_0_and_what_was_added_is_told(image: Image) -> None:
    ended = subprocess.run(command("adopt", image.data), cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0
    assert "added: 3 sources, 1 catalog, 1 history\n" in ended.stdout
    assert "looked at: 1 repositories, 3 layer links, 1 manifests, 1 tags, 4 blobs\n" in ended.stdout
    assert ended.stdout.endswith("adopted: 0 errors, 0 warnings, 0 notes\n")


def test_scars_are_1_and_do_not_keep_the_rest_from_being_adopted(image: Image) -> None:
    (image.data / image.tag_link).write_text("")

    outcome = run("adopt", image.data)

    assert (outcome.code, outcome.findings) == (1, [("link-empty", image.tag_link)])
    assert (image.data / "pierhead/catalog/team/app!").exists()


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    missing, empty = run("adopt", tmp_path / "missing"), run("adopt", tmp_path)

    assert (missing.code, empty.code) == (2, 3)
    assert "is no store" in empty.errors
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_another_layout_is_3(image: Image) -> None:
    (image.data / "pierhead").mkdir()
    (image.data / "pierhead/layout").write_text("pierhead layout 9\n")

    outcome = run("adopt", image.data)

    assert outcome.code == 3
    assert "start the version of Pierhead that wrote it" in outcome.errors
    assert not (image.data / "pierhead/catalog").exists()


def test_a_blob_of_the_wrong_size_is_hashed_and_no_longer_served(image: Image, tmp_path: Path) -> None:
    path = image.data / image.blob(image.layer)
    os.truncate(path, 100)

    outcome = run("adopt", image.data)

    assert ("blob-damaged", image.blob(image.layer)) in outcome.findings
    assert ("manifest-incomplete", image.revision_link) in outcome.findings
    with serving(image.data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        assert client.http.head(f"/v2/{image.repository}/blobs/{image.layer}").status_code == 404


def test_names_from_the_disk_cannot_command_a_terminal(image: Image) -> None:
    os.makedirs(os.fsencode(image.data / image.home) + b"/\x1b[2Jx\xff")  # noqa: PTH103  # no Path holds it
    (image.data / image.home / "\x1b[31mred").write_text("")

    ended = subprocess.run(command("adopt", image.data), cwd=ROOT, capture_output=True, check=False)

    assert ended.returncode == 1
    assert b"\x1b" not in ended.stdout + ended.stderr
    assert rb"\x1b[31mred" in ended.stdout
    assert rb"\x1b[2Jx\xff" in ended.stdout


def test_an_interrupt_is_130_and_what_was_done_stays(image: Image) -> None:
    assert run("verify", image.data).code == 1
    with held(image.data / "pierhead/locks"):
        with interruptible():
            process = subprocess.Popen(command("adopt", image.data), cwd=ROOT, stderr=subprocess.PIPE, text=True)
        # Its first write is made beside, and waits for the lock of its place.
        eventually(lambda: list((image.data / "pierhead/tmp").glob("[0-9a-f]" * 32)), seconds=30)
        process.send_signal(signal.SIGINT)
        time.sleep(SIGNAL_SECONDS)
    _output, said = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "interrupted; run it again" in said
    assert "Traceback" not in said
    assert run("adopt", image.data).code == 0
    assert run("verify", image.data).code == 0


@contextmanager
def held(locks: Path) -> Iterator[None]:
    """Hold every lock of a store for the length of a `with` block."""
    locks.mkdir(parents=True)
    with ExitStack() as stack:
        for number in range(LOCKS):
            lock = stack.enter_context((locks / f"{number:02}").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def owned() -> Iterator[Path]:
    """A directory that another user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work as somebody else")
def test_run_by_root_it_works_as_the_owner_of_the_store(image: Image, owned: Path) -> None:
    data = owned / "data"
    shutil.copytree(image.data, data)
    for path in (data, *data.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY)

    ended = subprocess.run(command("adopt", data, "--json"), cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert f"working as {SOMEBODY}" in ended.stderr
    assert json.loads(ended.stdout)["added"]["catalog"] == 1
    assert {path.lstat().st_uid for path in data.rglob("*")} == {SOMEBODY}
