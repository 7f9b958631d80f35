"""regctl copies, makes indexes and artifacts, deletes, and speaks sha512."""

import json
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.layouts import INDEX, Layout, blobs_of, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip

REPOSITORY = "team/app"
SUBJECT_TYPE = "application/vnd.example.sbom.v1+json"


@pytest.fixture
def regctl(programs: Programs, wire: Recorder) -> Program:
    program = programs.program(tool_or_skip("regctl"))
    program("registry", "set", "--tls", "disabled", "--skip-check", wire.address)
    return program


def test_an_image_makes_the_round_trip_and_is_gone_once_deleted(
    regctl: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}"

    regctl("image", "copy", f"ocidir://{layout.reference('v1')}", f"{name}:v1")
    regctl("image", "copy", f"{name}:v1", f"ocidir://{tmp_path / 'back'}:v1")

    assert regctl("image", "digest", f"{name}:v1").strip() == image["digest"]
    assert contents.manifest(REPOSITORY, "v1").body == layout.read(image["digest"])
    for digest in (image["digest"], *blobs_of(layout.read(image["digest"]))):
        assert (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)

    regctl("tag", "rm", f"{name}:v1")
    assert contents.tags(REPOSITORY) == []
    assert contents.has_manifest(REPOSITORY, image["digest"])

    regctl("manifest", "rm", f"{name}@{image['digest']}")
    assert not contents.has_manifest(REPOSITORY, image["digest"])
    regctl.fail("manifest", "get", f"{name}@{image['digest']}")


def test_a_copy_to_another_repository_mounts_every_blob(
    regctl: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    image = layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}:v1"
    regctl("image", "copy", f"ocidir://{layout.reference('v1')}", name)
    wire.clear()

    regctl("image", "copy", name, f"{wire.address}/other/app:v1")

    blobs = blobs_of(layout.read(image["digest"]))
    assert [e.status for e in wire.matching("POST", "/other/app/", "mount=")] == [201] * len(blobs)
    assert not wire.matching("PUT", "/other/app/blobs/")
    assert contents.manifest("other/app", "v1").digest == image["digest"]


def test_a_multi_platform_index_is_made_from_what_is_there(
    regctl: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    name = f"{wire.address}/{REPOSITORY}"
    platforms = ["amd64", "arm64"]
    digests = [layout.image([fresh_tar("a")], architecture=one, tag=one)["digest"] for one in platforms]
    for tag in platforms:
        regctl("image", "copy", f"ocidir://{layout.reference(tag)}", f"{name}:{tag}")

    references = (option for tag in platforms for option in ("--ref", f"{name}:{tag}"))
    regctl("index", "create", *references, f"{name}:all")
    index = contents.manifest(REPOSITORY, "all")

    assert index.media_type == INDEX
    assert children_of(index.body) == digests
    assert regctl("manifest", "get", "--format", "raw-body", f"{name}:all").encode() == index.body
    listed = regctl("image", "digest", "--platform", "linux/arm64", f"{name}:all")
    assert listed.strip() == digests[1]

    regctl("manifest", "rm", f"{name}@{index.digest}")

    assert contents.tags(REPOSITORY) == platforms


def test_an_artifact_with_a_subject_makes_the_round_trip(
    regctl: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    image = layout.image([fresh_tar("a")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}"
    regctl("image", "copy", f"ocidir://{layout.reference('v1')}", f"{name}:v1")

    put = ("artifact", "put", "--artifact-type", SUBJECT_TYPE, "--subject", f"{name}:v1")
    regctl(*put, text='{"packages": []}')
    (artifact,) = contents.referrers(REPOSITORY, image["digest"])
    body = contents.manifest(REPOSITORY, artifact).body

    assert json.loads(body)["subject"]["digest"] == image["digest"]
    got = regctl("artifact", "get", "--subject", f"{name}:v1", "--filter-artifact-type", SUBJECT_TYPE)
    assert got == '{"packages": []}'
    assert artifact in regctl("artifact", "list", f"{name}:v1")
    assert regctl("manifest", "get", "--format", "raw-body", f"{name}@{artifact}").encode() == body
    assert contents.tags(REPOSITORY) == ["v1"]  # no fallback tag: it saw that there are referrers

    regctl("manifest", "rm", "--referrers", f"{name}@{artifact}")

    assert not contents.has_manifest(REPOSITORY, artifact)
    assert contents.referrers(REPOSITORY, image["digest"]) == []


def test_an_image_turned_to_sha512_makes_the_round_trip(
    regctl: Program, wire: Recorder, contents: Contents, layout: Layout, tmp_path: Path
) -> None:
    layout.image([fresh_tar("a"), fresh_tar("b")], tag="v1")
    name = f"{wire.address}/{REPOSITORY}"
    regctl("image", "copy", f"ocidir://{layout.reference('v1')}", f"{name}:v1")

    regctl("image", "mod", f"{name}:v1", "--digest-algo", "sha512", "--create", f"{name}:v2")
    turned = contents.manifest(REPOSITORY, "v2")
    regctl("image", "copy", f"{name}:v2", f"ocidir://{tmp_path / 'back'}:v2")

    assert turned.digest.startswith("sha512:")
    assert regctl("image", "digest", f"{name}:v2").strip() == turned.digest
    assert contents.manifest(REPOSITORY, turned.digest).body == turned.body
    for digest in blobs_of(turned.body):
        assert digest.startswith("sha512:")
        stored = (tmp_path / "back" / "blobs" / digest.replace(":", "/")).read_bytes()
        assert stored == contents.blob(REPOSITORY, digest)

    regctl("manifest", "rm", f"{name}@{turned.digest}")

    assert not contents.has_manifest(REPOSITORY, turned.digest)
    assert contents.tags(REPOSITORY) == ["v1"]


def test_a_blob_of_unknown_length_is_pushed_in_chunks(regctl: Program, wire: Recorder, contents: Contents) -> None:
    text = "".join(f"{number:09}\n" for number in range(300_000))  # 3 MB: regctl's chunks are of 1 MiB

    digest = regctl("blob", "put", f"{wire.address}/{REPOSITORY}", text=text).strip()

    assert contents.blob(REPOSITORY, digest) == text.encode()
    assert [exchange.status for exchange in wire.matching("PATCH", f"/v2/{REPOSITORY}/blobs/uploads/")] == [202] * 3
