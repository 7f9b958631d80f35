"""crane pushes, pulls, copies, appends and deletes."""

import json
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.layouts import INDEX, Layout, blobs_of, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip

REPOSITORY = "team/app"


@pytest.fixture
def crane(programs: Programs) -> Program:
    return programs.program(tool_or_skip("crane"))


def test_an_image_makes_the_round_trip_and_is_gone_once_deleted(
    crane: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}"

    printed = crane("push", layout.directory, f"{name}:v1")
    crane("pull", "--format=oci", f"{name}:v1", tmp_path / "back")

    assert printed.strip() == f"{name}@{image['digest']}"
    assert crane("digest", f"{name}:v1").strip() == image["digest"]
    assert contents.manifest(REPOSITORY, "v1").body == layout.read(image["digest"])
    crane("validate", "--remote", f"{name}:v1")
    for digest in (image["digest"], *blobs_of(layout.read(image["digest"]))):
        assert (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)

    crane("delete", f"{name}:v1")
    assert not contents.has_manifest(REPOSITORY, "v1")
    assert contents.has_manifest(REPOSITORY, image["digest"])

    crane("delete", f"{name}@{image['digest']}")
    assert not contents.has_manifest(REPOSITORY, image["digest"])
    assert "MANIFEST_UNKNOWN" in crane.fail("manifest", f"{name}:v1")


def test_a_multi_platform_index_is_appended_to_and_deleted(
    crane: Program, wire: Recorder, contents: Contents, tmp_path: Path
) -> None:
    name = f"{wire.address}/{REPOSITORY}"
    digests = []
    for architecture in ("amd64", "arm64"):
        layout = Layout(tmp_path / architecture)
        digests.append(layout.image([fresh_tar("a")], architecture=architecture, tag="v1")["digest"])
        crane("push", layout.directory, f"{name}:{architecture}")

    appended = (option for digest in digests for option in ("-m", f"{name}@{digest}"))
    crane("index", "append", *appended, "-t", f"{name}:all")
    index = contents.manifest(REPOSITORY, "all")
    crane("pull", "--format=oci", f"{name}:all", tmp_path / "back")

    assert index.media_type == INDEX
    assert children_of(index.body) == digests
    back = json.loads((tmp_path / "back" / "index.json").read_text())["manifests"]
    assert [entry["digest"] for entry in back] == [index.digest]
    for digest in (index.digest, *digests):
        stored = (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes()
        assert stored == contents.manifest(REPOSITORY, digest).body

    crane("delete", f"{name}@{index.digest}")

    assert not contents.has_manifest(REPOSITORY, index.digest)
    assert contents.tags(REPOSITORY) == ["amd64", "arm64"]


def test_a_copy_to_another_repository_mounts_every_blob(
    crane: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    crane("push", layout.directory, f"{wire.address}/{REPOSITORY}:v1")
    wire.clear()

    crane("copy", f"{wire.address}/{REPOSITORY}:v1", f"{wire.address}/other/app:v1")

    blobs = blobs_of(layout.read(image["digest"]))
    assert [e.status for e in wire.matching("POST", "/other/app/", "mount=", "from=team/app")] == [201] * len(blobs)
    assert not wire.matching("PATCH", "/other/app/")
    assert contents.manifest("other/app", "v1").digest == image["digest"]
    assert all(contents.has_blob("other/app", digest) for digest in blobs)


def test_tags_and_repositories_are_listed(crane: Program, wire: Recorder, layout: Layout) -> None:
    layout.image([fresh_tar("a")], tag="v1")
    for name in ("b/app", "a", "b"):
        crane("push", layout.directory, f"{wire.address}/{name}:v1")
    crane("tag", f"{wire.address}/b:v1", "v2")

    assert crane("ls", f"{wire.address}/b").split() == ["v1", "v2"]
    assert crane("catalog", wire.address).split() == ["a", "b", "b/app"]
