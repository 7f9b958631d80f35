"""podman builds, pushes, searches, pulls and pushes manifest lists; buildah builds and pushes."""

import json
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.layouts import MANIFEST, Layout, blobs_of, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import tool_or_skip

REPOSITORY = "team/app"
PLAIN = "--tls-verify=false"

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def podman(programs: Programs) -> Program:
    return programs.program(tool_or_skip("podman"))


@pytest.fixture
def buildah(programs: Programs) -> Program:
    return programs.program(tool_or_skip("buildah"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Return a directory from which an image of two layers is built without running anything."""
    directory = tmp_path / "context"
    directory.mkdir()
    for name in ("a", "b"):
        (directory / f"{name}.tar").write_bytes(fresh_tar(name))
    (directory / "Dockerfile").write_text("FROM scratch\nADD a.tar /\nADD b.tar /\n")
    return directory


def test_podman_pushes_what_it_built_and_pulls_the_same_image_back(
    podman: Program, wire: Recorder, contents: Contents, context: Path, tmp_path: Path
) -> None:
    name = f"{wire.address}/{REPOSITORY}:v1"
    podman("build", "--layers", "--tag", name, context)
    built = podman("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", name)

    podman("push", PLAIN, "--digestfile", tmp_path / "digest", name)
    pushed = contents.manifest(REPOSITORY, "v1")
    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, name)

    assert pushed.media_type == MANIFEST
    assert (tmp_path / "digest").read_text().strip() == pushed.digest
    assert len(blobs_of(pushed.body)) == 3
    assert podman("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", name) == built
    assert podman("image", "inspect", "--format", "{{.Digest}}", name).strip() == pushed.digest


def test_podman_search_finds_repositories_by_a_part_of_their_name(
    podman: Program, wire: Recorder, layout: Layout
) -> None:
    layout.image([fresh_tar("a")], tag="v1")
    podman("pull", f"oci:{layout.reference('v1')}")
    (image,) = podman("images", "--quiet", "--no-trunc").split()
    for name in (REPOSITORY, "team/other"):
        podman("push", PLAIN, image, f"{wire.address}/{name}:v1")

    found = podman("search", PLAIN, "--format", "{{.Name}}", f"{wire.address}/app")
    tags = podman("search", PLAIN, "--list-tags", "--format", "json", f"{wire.address}/{REPOSITORY}")

    assert found.split() == [f"{wire.address}/{REPOSITORY}"]
    assert json.loads(tags)[0]["Tags"] == ["v1"]


def test_podman_pushes_a_manifest_list_with_all_its_images(
    podman: Program, wire: Recorder, contents: Contents, layout: Layout
) -> None:
    platforms = [layout.image([fresh_tar(one)], architecture=one, tag=one) for one in ("amd64", "arm64")]
    podman("manifest", "create", "all")
    for one in ("amd64", "arm64"):
        podman("manifest", "add", "all", f"oci:{layout.reference(one)}")

    push = ("manifest", "push", PLAIN, "--all", "--format", "oci")
    podman(*push, "all", f"docker://{wire.address}/{REPOSITORY}:all")

    index = contents.manifest(REPOSITORY, "all")
    assert sorted(children_of(index.body)) == sorted(platform["digest"] for platform in platforms)
    for platform in platforms:
        assert contents.manifest(REPOSITORY, platform["digest"]).body == layout.read(platform["digest"])


def test_podman_says_what_is_missing(podman: Program, wire: Recorder) -> None:
    said = podman.fail("pull", PLAIN, f"{wire.address}/{REPOSITORY}:nothing")

    assert "manifest unknown" in said.lower()


def test_buildah_pushes_an_image_from_scratch_and_pulls_it_back(
    buildah: Program, wire: Recorder, contents: Contents, context: Path, tmp_path: Path
) -> None:
    name = f"{wire.address}/{REPOSITORY}:v1"
    container = buildah("from", "scratch").strip()
    buildah("add", container, context / "a.tar", "/")
    buildah("config", "--label", "org.example.key=value", container)
    buildah("commit", "--rm", container, name)

    buildah("push", PLAIN, "--digestfile", tmp_path / "digest", name)
    pushed = contents.manifest(REPOSITORY, "v1")
    buildah("rmi", "--all", "--force")
    image = buildah("pull", PLAIN, name).strip()

    assert (tmp_path / "digest").read_text().strip() == pushed.digest
    config_digest, layer_digest = blobs_of(pushed.body)
    config = json.loads(contents.blob(REPOSITORY, config_digest))
    assert config["config"]["Labels"]["org.example.key"] == "value"
    assert contents.has_blob(REPOSITORY, layer_digest)
    assert config_digest == f"sha256:{image}"
