"""oras pushes files, attaches them to images, discovers, copies and deletes."""

import json
import os
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.layouts import INDEX, Layout, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip

REPOSITORY = "team/app"
FILE_TYPE = "application/vnd.example.file"
ARTIFACT_TYPE = "application/vnd.example.signature"


@pytest.fixture
def oras(programs: Programs) -> Program:
    return programs.program(tool_or_skip("oras"))


@pytest.fixture
def file(programs: Programs) -> Path:
    """Return a file that lies where oras runs."""
    path = programs.directory / "tmp" / "notes.bin"
    path.write_bytes(os.urandom(300_000))
    return path


def test_files_make_the_round_trip_and_are_gone_once_deleted(
    oras: Program, wire: Recorder, contents: Contents, file: Path, tmp_path: Path
) -> None:
    name = f"{wire.address}/{REPOSITORY}:v1"

    oras("push", "--plain-http", "--artifact-type", ARTIFACT_TYPE, name, f"{file.name}:{FILE_TYPE}")
    oras("pull", "--plain-http", "--output", tmp_path / "back", name)
    pushed = contents.manifest(REPOSITORY, "v1")

    assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    assert json.loads(pushed.body)["artifactType"] == ARTIFACT_TYPE
    assert oras("manifest", "fetch", "--plain-http", name).encode() == pushed.body

    oras("manifest", "delete", "--plain-http", "--force", name)

    assert not contents.has_manifest(REPOSITORY, pushed.digest)
    assert contents.tags(REPOSITORY) == []
    assert "not found" in oras.fail("pull", "--plain-http", name).lower()


def test_an_artifact_with_a_subject_is_discovered_copied_and_deleted(
    oras: Program, wire: Recorder, contents: Contents, layout: Layout, file: Path
) -> None:
    image = layout.image([fresh_tar("a")], tag="v1")
    name, copied = (f"{wire.address}/{repository}" for repository in (REPOSITORY, "other/app"))
    source = ("--from-oci-layout", layout.reference("v1"))
    oras("cp", *source, "--to-plain-http", f"{name}:v1")

    attach = ("attach", "--plain-http", "--artifact-type", ARTIFACT_TYPE, "--annotation", "org.example.key=value")
    oras(*attach, f"{name}:v1", f"{file.name}:{FILE_TYPE}")
    discovered = json.loads(oras("discover", "--plain-http", "--format", "json", f"{name}:v1"))
    (artifact,) = contents.referrers(REPOSITORY, image["digest"])
    plain = ("--from-plain-http", "--to-plain-http")
    oras("cp", "--recursive", *plain, f"{name}:v1", f"{copied}:v1")

    (entry,) = discovered["referrers"]
    assert (entry["digest"], entry["artifactType"]) == (artifact, ARTIFACT_TYPE)
    assert entry["annotations"]["org.example.key"] == "value"
    assert contents.tags(REPOSITORY) == ["v1"]  # no fallback tag: it saw that there are referrers
    assert contents.referrers("other/app", image["digest"]) == [artifact]
    for repository in (REPOSITORY, "other/app"):
        fetched = oras("manifest", "fetch", "--plain-http", f"{wire.address}/{repository}@{artifact}")
        assert fetched.encode() == contents.manifest(repository, artifact).body

    oras("manifest", "delete", "--plain-http", "--force", f"{name}@{artifact}")

    assert contents.referrers(REPOSITORY, image["digest"]) == []
    assert contents.referrers("other/app", image["digest"]) == [artifact]


def test_a_multi_platform_index_is_made_and_tagged_twice(
    oras: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    name = f"{wire.address}/{REPOSITORY}"
    platforms = ["amd64", "arm64"]
    digests = [layout.image([fresh_tar("a")], architecture=one, tag=one)["digest"] for one in platforms]
    for tag in platforms:
        oras("cp", "--from-oci-layout", layout.reference(tag), "--to-plain-http", f"{name}:{tag}")

    oras("manifest", "index", "create", "--plain-http", f"{name}:all", *platforms)
    oras("tag", "--plain-http", f"{name}:all", "latest")
    index = contents.manifest(REPOSITORY, "latest")

    assert index.media_type == INDEX
    assert children_of(index.body) == digests
    assert contents.manifest(REPOSITORY, "all") == index
    assert oras("repo", "tags", "--plain-http", name).split() == ["all", "amd64", "arm64", "latest"]


def test_a_copy_to_another_repository_mounts_every_blob(
    oras: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}:v1"
    oras("cp", "--from-oci-layout", layout.reference("v1"), "--to-plain-http", name)
    wire.clear()

    oras("cp", "--from-plain-http", "--to-plain-http", name, f"{wire.address}/other/app:v1")

    mounts = wire.matching("POST", "/other/app/", "mount=", "from=team/app")
    assert [exchange.status for exchange in mounts] == [201, 201, 201]
    assert not wire.matching("PUT", "/other/app/blobs/")
    assert contents.manifest("other/app", "v1").digest == image["digest"]
