"""`pierhead verify` as an operator meets it: exit codes, output, and that it changes nothing."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest

from registry.findings import Problem
from tests.running import ROOT, serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import command, run
from tests.swap.scars import Image, pushed


@pytest.fixture
def image(tmp_path: Path) -> Image:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        return pushed(client, data, "team/app")


def files(data: Path) -> dict[str, tuple[int, int]]:
    """Every file of a store, with size and time."""
    found = {str(path.relative_to(data)): path.lstat() for path in data.rglob("*")}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def test_a_whole_store_is_0_and_is_not_changed(image: Image) -> None:
    before = files(image.data)

    outcome = run("verify", image.data)

    assert (outcome.code, outcome.findings) == (0, [])
    assert outcome.summary["counts"]["bytes hashed"] > 6000
    assert files(image.data) == before


def test_garbage_is_a_note_and_a_stale_catalog_entry_a_warning(image: Image) -> None:
    (image.data / image.layer_link).parent.parent.rename(image.data / "away")
    shutil.rmtree(image.data / image.home / "_manifests")

    outcome = run("verify", image.data)

    assert outcome.code == 1  # the catalog names a repository of which nothing is left
    assert ("catalog-stale", "pierhead/catalog/team/app!") in outcome.findings
    assert ("blob-unlinked", image.blob(image.layer)) in outcome.findings
    assert run("adopt", image.data).summary["removed"]["catalog"] == 1
    assert run("verify", image.data).code == 0


def test_drift_of_an_index_is_1(image: Image) -> None:
    (image.data / "pierhead/catalog/team/app!").unlink()

    outcome = run("verify", image.data)

    assert (outcome.code, outcome.findings) == (1, [("catalog-missing", "pierhead/catalog/team/app!")])


def test_a_tag_that_leads_nowhere_is_3(image: Image) -> None:
    (image.data / image.revision_link).unlink()

    assert run("verify", image.data, "--quick").code == 3


def test_wrong_usage_is_2(tmp_path: Path) -> None:
    missing = run("verify", tmp_path / "missing")
    wrong = run("verify", tmp_path, "--no-such-option")

    assert (missing.code, wrong.code) == (2, 2)
    assert "--data" in missing.errors


@pytest.mark.parametrize("below", ["docker", "docker/registry/v2", "docker/registry/v2/blobs"])
def test_a_wrong_level_of_a_store_is_refused_with_the_right_one(image: Image, below: str) -> None:
    outcome = run("verify", image.data / below)

    assert outcome.code == 3
    assert f"use --data {image.data}" in outcome.errors


def test_a_store_of_another_layout_is_refused(image: Image) -> None:
    (image.data / "pierhead/layout").write_text("pierhead layout 9\n")

    outcome = run("verify", image.data)

    assert outcome.code == 3
    assert ("layout-unknown", "pierhead/layout") in outcome.findings


def test_damage_is_told_with_its_key_and_what_to_do(image: Image) -> None:
    path = image.data / image.blob(image.layer)
    path.write_bytes(path.read_bytes()[::-1])

    ended = subprocess.run(command("verify", image.data), cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 3
    assert f"error: blob-damaged: {image.blob(image.layer)}\n" in ended.stdout
    assert "To do: push an image that has the blob again." in ended.stdout
    assert "verified: 1 errors, 0 warnings, 0 notes" in ended.stdout


def test_condemn_makes_the_registry_ask_for_a_damaged_blob_again(image: Image, tmp_path: Path) -> None:
    path = image.data / image.blob(image.layer)
    path.write_bytes(path.read_bytes()[::-1])

    assert run("verify", image.data, "--condemn").code == 3

    with serving(image.data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        url = f"/v2/{image.repository}/blobs/{image.layer}"
        assert client.http.head(url).status_code == 404
        pushed(client, image.data, image.repository)
        assert client.http.head(url).status_code == 200
    assert run("verify", image.data).code == 0


def test_a_marker_whose_copy_was_replaced_is_a_note(image: Image) -> None:
    encoded = image.layer.partition(":")[2]
    marker = image.data / f"pierhead/damaged/sha256/{encoded[:2]}/{encoded}"
    marker.parent.mkdir(parents=True)
    marker.write_text("1 2.0")

    outcome = run("verify", image.data)

    assert (outcome.code, outcome.findings) == (0, [("marker-stale", str(marker.relative_to(image.data)))])


def test_upload_records_are_compared_with_their_bytes(image: Image, tmp_path: Path) -> None:
    with serving(image.data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        locations = [client.http.post(f"/v2/{image.repository}/blobs/uploads/").headers["location"] for _ in range(3)]
        for location in locations:
            assert client.http.patch(location, content=bytes(5000)).status_code == 202
    ids = [location.rpartition("/")[2].partition("?")[0] for location in locations]
    uploads = image.data / image.home / "_uploads"
    shutil.rmtree(uploads / ids[0])
    os.truncate(uploads / ids[1] / "data", 100)
    (image.data / f"pierhead/uploads/{ids[2]}").write_text("{")

    outcome = run("verify", image.data)

    found = dict(outcome.findings)
    assert outcome.code == 1
    assert found == {
        "upload-bytes-gone": f"pierhead/uploads/{ids[0]}",
        "upload-short": f"pierhead/uploads/{ids[1]}",
        "upload-damaged": f"pierhead/uploads/{ids[2]}",
    }


def test_on_a_terminal_there_is_a_bar_and_piped_output_has_nothing_of_it(image: Image) -> None:
    main, terminal = pty.openpty()
    with subprocess.Popen(
        command("verify", image.data, "--json"),
        cwd=ROOT,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(terminal)
        shown = b""
        while select.select([main], [], [], 60)[0]:
            try:
                shown += os.read(main, 4096)
            except OSError:
                break
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(main)

    assert b"\x1b[" in shown
    assert re.search(rb"repositories|blobs|indexes|files", shown)
    assert b"\x1b" not in printed
    assert json.loads(printed)["summary"] == "verified"


def test_every_kind_of_finding_stands_in_the_page() -> None:
    page = (ROOT / "docs/how-to/verify-a-store.md").read_text().splitlines()

    lines = [f"| `{p.slug}` | {p.severity.name.lower()} | {p.meaning} | {p.remedy} |" for p in Problem]

    assert [line for line in lines if line not in page] == []
    assert len([line for line in page if line.startswith("| `")]) == len(lines)
