"""docker, with a real daemon, builds from real files, pushes, pulls back and mounts."""

import filecmp
import json
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.daemon import Docker
from tests.clients.layouts import DOCKER_LIST, DOCKER_MANIFEST, blobs_of, children_of, fresh_tar
from tests.clients.programs import ProgramFailed
from tests.clients.recorder import Recorder
from tests.conftest import Starter
from tests.running import ROOT

REPOSITORY = "team/app"
LAYERS = 5
LAYER_BYTES_MIN = 104_000_000
FILE_BYTES_MIN, FILE_BYTES_MAX = 1 << 16, 1 << 26
TREES = (Path("/usr"), Path("/opt"), ROOT / ".venv", ROOT / ".tools")
"""Where real files are found on any machine that runs these tests: programs, libraries, documents."""


@dataclass(frozen=True, slots=True)
class Built:
    """An image of real files: what docker calls it, and a file of each layer."""

    name: str
    identifier: str
    samples: list[Path]


def real_files() -> Iterator[Path]:
    """Yield regular files of some size, the largest first, none of them twice."""
    found: dict[tuple[int, int], tuple[int, Path]] = {}
    for tree in TREES:
        for directory, _, names in os.walk(tree):
            for name in names:
                path = Path(directory, name)
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and FILE_BYTES_MIN <= status.st_size <= FILE_BYTES_MAX:
                    found[status.st_dev, status.st_ino] = (status.st_size, path)
    for _, path in sorted(found.values(), reverse=True):
        yield path


def pack(archive: Path, files: Iterator[Path], *, bytes_min: int) -> Path:
    """Fill a tar archive from `files` until it is large enough; return one of the files in it."""
    size = 0
    packed = archive
    with tarfile.open(archive, "w") as tar:
        while size < bytes_min:
            packed = next(files)
            tar.add(packed)
            size += packed.stat().st_size
    return packed


@pytest.fixture(scope="module")
def large(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Return an image of five layers and more than 500 MB of this machine's own files."""
    context = tmp_path_factory.mktemp("context")
    files = real_files()
    samples = [pack(context / f"{n}.tar", files, bytes_min=LAYER_BYTES_MIN) for n in range(LAYERS)]
    adds = "".join(f"ADD {n}.tar /\n" for n in range(LAYERS))
    (context / "Dockerfile").write_text(f'FROM scratch\n{adds}CMD ["/none"]\n')
    name = "large:built"
    identifier = docker("build", "--quiet", "--tag", name, context)
    for archive in context.glob("*.tar"):
        archive.unlink()
    yield Built(name, identifier, samples)
    remove_everything(docker)


@pytest.fixture
def small(docker: Docker, tmp_path: Path) -> Iterator[Path]:
    """Return a directory from which an image of two layers is built."""
    context = tmp_path / "context"
    context.mkdir()
    for name in ("a", "b"):
        (context / f"{name}.tar").write_bytes(fresh_tar(name))
    (context / "Dockerfile").write_text("FROM scratch\nADD a.tar /\nADD b.tar /\n")
    yield context
    images = docker("image", "ls", "--quiet", "--filter", "label=small").split()
    if images:
        docker("image", "rm", "--force", *set(images))


def build(docker: Docker, context: Path, name: str) -> str:
    """Build the small image, which is labelled for its removal, and return its id."""
    return docker("build", "--quiet", "--label", "small", "--tag", name, context)


def remove_everything(docker: Docker) -> None:
    """Leave the daemon without an image."""
    docker("system", "prune", "--all", "--force")


def inspect(docker: Docker, name: str) -> tuple[str, list[str]]:
    """Return the id of an image, the digest of its config, and the digests of its unpacked layers."""
    (image,) = json.loads(docker("image", "inspect", name))
    return image["Id"], image["RootFS"]["Layers"]


@pytest.mark.timeout(400)
def test_an_image_of_half_a_gigabyte_comes_back_as_it_went(
    docker: Docker, large: Built, start_pierhead: Starter, tmp_path: Path
) -> None:
    server = start_pierhead(workers=2)
    contents, name = Contents(server.address), f"{server.address}/{REPOSITORY}:v1"
    built = inspect(docker, large.identifier)
    (size,) = json.loads(docker("image", "inspect", "--format", "[{{.Size}}]", large.identifier))
    docker("tag", large.identifier, name)

    docker("push", "--quiet", name)
    pushed = contents.manifest(REPOSITORY, "v1")
    remove_everything(docker)
    with pytest.raises(ProgramFailed):
        inspect(docker, large.identifier)
    pulled = docker("pull", "--quiet", f"{server.address}/{REPOSITORY}@{pushed.digest}")

    assert size > 500_000_000
    assert pushed.media_type == DOCKER_MANIFEST
    assert (blobs_of(pushed.body)[0], len(blobs_of(pushed.body))) == (large.identifier, LAYERS + 1)
    assert inspect(docker, pulled) == built
    container = docker("create", pulled)
    for sample in large.samples:
        docker("cp", f"{container}:{sample}", tmp_path / "sample")
        assert filecmp.cmp(tmp_path / "sample", sample, shallow=False)
        (tmp_path / "sample").unlink()
    docker("rm", container)
    server.stop()
    shutil.rmtree(server.data)  # pytest would keep it for three runs


def test_a_layer_that_another_repository_has_is_mounted(
    docker: Docker, small: Path, wire: Recorder, contents: Contents
) -> None:
    first, second = (f"{wire.address}/{name}:v1" for name in (REPOSITORY, "other/app"))
    identifier = build(docker, small, first)
    docker("push", "--quiet", first)
    docker("tag", first, second)
    wire.clear()

    docker("push", "--quiet", second)

    layers = blobs_of(contents.manifest("other/app", "v1").body)[1:]
    mounts = wire.matching("POST", "/v2/other/app/blobs/uploads/", "mount=", "from=team/app")
    assert [exchange.status for exchange in mounts] == [201] * len(layers)
    assert len(wire.matching("PATCH", "/v2/other/app/")) == 1  # the config, which docker never mounts
    assert all(contents.has_blob("other/app", layer) for layer in layers)
    assert blobs_of(contents.manifest("other/app", "v1").body)[0] == identifier


def test_the_same_image_pushed_again_sends_nothing_but_its_manifest(
    docker: Docker, small: Path, wire: Recorder, contents: Contents
) -> None:
    name = f"{wire.address}/{REPOSITORY}"
    build(docker, small, f"{name}:v1")
    docker("push", "--quiet", f"{name}:v1")
    docker("tag", f"{name}:v1", f"{name}:v2")
    wire.clear()

    docker("push", "--quiet", f"{name}:v2")

    assert not wire.matching("POST", "/blobs/uploads/")
    assert contents.manifest(REPOSITORY, "v2") == contents.manifest(REPOSITORY, "v1")


def test_a_manifest_list_is_pushed_and_the_platform_is_found_in_it(
    docker: Docker, small: Path, wire: Recorder, contents: Contents
) -> None:
    name = f"{wire.address}/{REPOSITORY}"
    architecture = json.loads(docker("version", "--format", "{{json .Server.Arch}}"))
    identifier = build(docker, small, f"{name}:one")
    docker("push", "--quiet", f"{name}:one")
    image = contents.manifest(REPOSITORY, "one")

    docker("manifest", "create", "--insecure", f"{name}:all", f"{name}:one")
    docker("manifest", "annotate", "--os", "linux", "--arch", architecture, f"{name}:all", f"{name}:one")
    docker("manifest", "push", "--insecure", "--purge", f"{name}:all")
    index = contents.manifest(REPOSITORY, "all")
    docker("image", "rm", "--force", identifier)
    docker("pull", "--quiet", f"{name}:all")

    assert index.media_type == DOCKER_LIST
    assert children_of(index.body) == [image.digest]
    assert inspect(docker, f"{name}:all")[0] == identifier


def test_what_is_not_there_is_told_in_docker_s_words(docker: Docker, wire: Recorder) -> None:
    with pytest.raises(ProgramFailed, match=r"manifest (for .* not found|unknown)"):
        docker("pull", f"{wire.address}/{REPOSITORY}:nothing")
