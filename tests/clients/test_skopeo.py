"""skopeo copies, inspects and deletes."""

import json
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.layouts import DOCKER_MANIFEST, INDEX, MANIFEST, Layout, blobs_of, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip

REPOSITORY = "team/app"


@pytest.fixture
def skopeo(programs: Programs) -> Program:
    return programs.program(tool_or_skip("skopeo"))


def test_an_image_makes_the_round_trip_and_is_gone_once_deleted(
    skopeo: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    remote = f"docker://{wire.address}/{REPOSITORY}:v1"

    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.reference('v1')}", remote)
    pushed = contents.manifest(REPOSITORY, "v1")
    skopeo("copy", "--src-tls-verify=false", remote, f"oci:{tmp_path / 'back'}:v1")

    assert pushed.body == layout.read(image["digest"])
    assert pushed.media_type == MANIFEST
    for digest in (image["digest"], *blobs_of(pushed.body)):
        assert (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)

    skopeo("delete", "--tls-verify=false", remote)

    assert not contents.has_manifest(REPOSITORY, "v1")
    assert not contents.has_manifest(REPOSITORY, pushed.digest)
    assert contents.tags(REPOSITORY) == []
    assert "manifest unknown" in skopeo.fail("inspect", "--tls-verify=false", remote).lower()


def test_a_multi_platform_index_is_copied_whole_and_byte_for_byte(
    skopeo: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    platforms = [layout.image([fresh_tar(name)], architecture=name) for name in ("amd64", "arm64", "riscv64")]
    index = layout.index(platforms, tag="v1")
    remote = f"docker://{wire.address}/{REPOSITORY}:v1"

    skopeo("copy", "--all", "--dest-tls-verify=false", f"oci:{layout.reference('v1')}", remote)
    pushed = contents.manifest(REPOSITORY, "v1")
    skopeo("copy", "--all", "--src-tls-verify=false", remote, f"oci:{tmp_path / 'back'}:v1")

    assert (pushed.body, pushed.media_type) == (layout.read(index["digest"]), INDEX)
    for digest in (index["digest"], *children_of(pushed.body)):
        assert contents.manifest(REPOSITORY, digest).body == layout.read(digest)
        assert (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)

    skopeo("delete", "--tls-verify=false", remote)

    assert not contents.has_manifest(REPOSITORY, "v1")
    assert contents.has_manifest(REPOSITORY, platforms[0]["digest"])  # pinned by its digest somewhere, perhaps


def test_a_docker_schema_2_image_makes_the_round_trip(
    skopeo: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    remote = f"docker://{wire.address}/{REPOSITORY}:v1"

    source = f"oci:{layout.reference('v1')}"
    skopeo("copy", "--format", "v2s2", "--dest-tls-verify=false", source, remote)
    pushed = contents.manifest(REPOSITORY, "v1")
    skopeo("copy", "--src-tls-verify=false", remote, f"dir:{tmp_path / 'back'}")

    assert pushed.media_type == DOCKER_MANIFEST
    assert json.loads(pushed.body)["mediaType"] == DOCKER_MANIFEST
    assert (tmp_path / "back" / "manifest.json").read_bytes() == pushed.body
    for digest in blobs_of(pushed.body):
        assert (tmp_path / "back" / digest.partition(":")[2]).read_bytes() == contents.blob(REPOSITORY, digest)

    skopeo("delete", "--tls-verify=false", remote)

    assert not contents.has_manifest(REPOSITORY, pushed.digest)


def test_a_copy_to_another_repository_mounts_every_layer(
    skopeo: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    first, second = (f"docker://{wire.address}/{name}:v1" for name in (REPOSITORY, "other/app"))
    skopeo("copy", "--dest-tls-verify=false", f"oci:{layout.reference('v1')}", first)
    wire.clear()

    skopeo("copy", "--src-tls-verify=false", "--dest-tls-verify=false", first, second)

    blobs = blobs_of(layout.read(image["digest"]))
    mounts = wire.matching("POST", "/other/app/", "mount=", "from=team/app")
    assert [exchange.status for exchange in mounts] == [201, 201]
    assert len(wire.matching("PATCH", "/other/app/")) == 1  # the config, which it never mounts
    assert contents.manifest("other/app", "v1").digest == image["digest"]
    assert all(contents.has_blob("other/app", digest) for digest in blobs)


def test_tags_are_listed_in_byte_order_and_inspected(skopeo: Program, wire: Recorder, layout: Layout) -> None:
    image = layout.image([fresh_tar("a")], tag="v1")
    repository = f"docker://{wire.address}/{REPOSITORY}"
    for tag in ("v1", "1.0-alpine", "1.0", "Latest"):
        source = f"oci:{layout.reference('v1')}"
        skopeo("copy", "--dest-tls-verify=false", source, f"{repository}:{tag}")

    listed = json.loads(skopeo("list-tags", "--tls-verify=false", repository))
    inspected = json.loads(skopeo("inspect", "--tls-verify=false", f"{repository}:1.0"))

    assert listed["Tags"] == ["1.0", "1.0-alpine", "Latest", "v1"]
    assert inspected["Digest"] == image["digest"]
    assert inspected["RepoTags"] == listed["Tags"]
