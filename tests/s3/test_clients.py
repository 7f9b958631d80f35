"""Real clients and a bucket: with one server, and with two behind an nginx that gives each request to the next one."""

import json
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.contents import Contents
from tests.clients.daemon import Docker
from tests.clients.layouts import Layout, blobs_of, children_of, fresh_tar
from tests.clients.programs import Program, Programs
from tests.clients.recorder import Recorder
from tests.conftest import refuse, tool_or_skip
from tests.nginx import PROGRAM, Nginx
from tests.s3.replicas import Replicas
from tests.s3.weed import Store

MIB = 1 << 20
LARGE = (9 * MIB, 21 * MIB)
"""Bytes of layers: one and two parts of a multipart upload, and a bit."""

SMALL = 60_000
LAYERS = (*LARGE, *[SMALL] * 6)

PLAIN = "--tls-verify=false"
PLAIN_SOURCE, PLAIN_TARGET = "--src-tls-verify=false", "--dest-tls-verify=false"


@dataclass(frozen=True, slots=True)
class Registry:
    """What clients are pointed at: a record of what passes, and behind it one server, or nginx with two."""

    wire: Recorder
    contents: Contents
    nginx: Nginx | None

    def name(self, repository: str) -> str:
        """A repository as it stands in an image reference."""
        return f"{self.wire.address}/{repository}"

    def forget(self) -> int:
        """Begin a new record; returns how many requests nginx has passed on so far."""
        self.wire.clear()
        return len(self.nginx.passed()) if self.nginx else 0

    def check_turns(self, since: int) -> None:
        """Behind nginx: the two servers took turns. Only when nothing is under way."""
        if self.nginx is not None:
            turns = Counter(one.replica for one in self.nginx.passed()[since:])
            assert len(turns) == 2
            assert max(turns.values()) - min(turns.values()) <= 1

    def check_uploads_moved(self, since: int) -> None:
        """Behind nginx: some upload was served by both. With one of LAYERS each it would be odd if none was."""
        if self.nginx is not None:
            replicas: defaultdict[str, set[str]] = defaultdict(set)
            for one in self.nginx.passed()[since:]:
                replicas[one.upload or ""].add(one.replica)
            del replicas[""]
            assert any(len(both) == 2 for both in replicas.values())

    def pushed_nothing(self) -> bool:
        """Whether the record shows no upload."""
        return not self.wire.matching("POST", "/blobs/uploads/")

    def pulled(self, repository: str) -> int:
        """How many blobs the record shows to have been asked for."""
        return len({exchange.target for exchange in self.wire.matching("GET", f"/{repository}/blobs/sha")})


@pytest.fixture(scope="module", params=[1, 2], ids=["1-replica", "2-replicas"])
def registry(
    request: pytest.FixtureRequest, weed: Store, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    replicas = Replicas(weed, tmp_path_factory.mktemp("replicas"))
    try:
        for _ in range(request.param):
            replicas.add()
        nginx = replicas.behind_nginx(tool_or_skip(PROGRAM)) if request.param > 1 else None
        address = nginx.address if nginx else replicas.servers[0].address
        with Recorder(address) as wire:
            yield Registry(wire, Contents(address), nginx)
    finally:
        replicas.close()


@pytest.fixture
def repository() -> str:
    """Return the name of a repository that no other test uses."""
    return f"team/{secrets.token_hex(4)}"


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "programs")


@pytest.fixture
def crane(programs: Programs) -> Program:
    return programs.program(tool_or_skip("crane"))


@pytest.fixture
def skopeo(programs: Programs) -> Program:
    return programs.program(tool_or_skip("skopeo"))


@pytest.fixture
def podman(programs: Programs) -> Program:
    if os.geteuid() != 0:
        refuse("podman unpacks images as root")
    return programs.program(tool_or_skip("podman"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def fresh_layers(sizes: Sequence[int] = LAYERS) -> list[bytes]:
    return [fresh_tar(str(number), size_bytes=size) for number, size in enumerate(sizes)]


def build(client: Program | Docker, context: Path, name: str, *sizes: int) -> None:
    """Have an image built: a fresh layer for each of the sizes."""
    context.mkdir()
    for number, layer in enumerate(fresh_layers(sizes)):
        (context / f"{number}.tar").write_bytes(layer)
    adds = "".join(f"ADD {number}.tar /\n" for number in range(len(sizes)))
    (context / "Dockerfile").write_text(f"FROM scratch\n{adds}")
    client("build", "--tag", name, context)


def check_same(back: Path, layout: Layout, digests: list[str]) -> None:
    """What lies in another layout now has the same bytes."""
    for digest in digests:
        assert (back / "blobs" / digest.replace(":", "/")).read_bytes() == layout.read(digest)


def test_crane_pushes_pulls_back_mounts_and_finds_what_is_there(
    crane: Program, registry: Registry, repository: str, layout: Layout, tmp_path: Path
) -> None:
    image = layout.image(fresh_layers(), tag="v1")
    name, blobs = registry.name(repository), blobs_of(layout.read(image["digest"]))
    since = registry.forget()

    crane("push", layout.directory, f"{name}:v1")
    registry.check_turns(since)
    registry.check_uploads_moved(since)
    crane("pull", "--format=oci", f"{name}:v1", tmp_path / "back")

    assert registry.contents.manifest(repository, "v1").body == layout.read(image["digest"])
    check_same(tmp_path / "back", layout, [image["digest"], *blobs])

    registry.forget()
    crane("push", layout.directory, f"{name}:v2")
    assert registry.pushed_nothing()
    assert registry.contents.tags(repository) == ["v1", "v2"]

    crane("copy", f"{name}:v1", f"{name}/copy:v1")
    mounts = registry.wire.matching("POST", f"/{repository}/copy/", "mount=", f"from={repository}")
    assert [exchange.status for exchange in mounts] == [201] * len(blobs)
    assert not registry.wire.matching("PATCH", f"/{repository}/copy/")
    crane("validate", "--remote", f"{name}/copy:v1")


def test_skopeo_copies_there_and_back_mounts_and_finds_what_is_there(
    skopeo: Program, registry: Registry, repository: str, layout: Layout, tmp_path: Path
) -> None:
    image = layout.image(fresh_layers(), tag="v1")
    source, remote = f"oci:{layout.reference('v1')}", f"docker://{registry.name(repository)}"
    blobs = blobs_of(layout.read(image["digest"]))
    since = registry.forget()

    skopeo("copy", PLAIN_TARGET, source, f"{remote}:v1")
    registry.check_turns(since)
    registry.check_uploads_moved(since)
    skopeo("copy", PLAIN_SOURCE, f"{remote}:v1", f"oci:{tmp_path / 'back'}:v1")

    assert registry.contents.manifest(repository, "v1").body == layout.read(image["digest"])
    check_same(tmp_path / "back", layout, [image["digest"], *blobs])

    registry.forget()
    skopeo("copy", PLAIN_TARGET, source, f"{remote}:v2")
    assert registry.pushed_nothing()
    assert registry.contents.tags(repository) == ["v1", "v2"]

    skopeo("copy", PLAIN_SOURCE, PLAIN_TARGET, f"{remote}:v1", f"{remote}/copy:v1")
    mounts = registry.wire.matching("POST", f"/{repository}/copy/", "mount=", f"from={repository}")
    assert [exchange.status for exchange in mounts] == [201] * len(LAYERS)
    assert len(registry.wire.matching("PATCH", f"/{repository}/copy/")) == 1  # the config, which it never mounts
    assert registry.contents.manifest(f"{repository}/copy", "v1").digest == image["digest"]


def test_podman_pushes_what_it_built_pulls_it_back_and_finds_what_is_there(
    podman: Program, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = registry.name(repository)
    build(podman, tmp_path / "context", f"{name}:v1", SMALL, *LARGE)
    built = podman("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", f"{name}:v1")
    since = registry.forget()

    podman("push", PLAIN, f"{name}:v1")
    registry.check_turns(since)
    registry.forget()
    podman("push", PLAIN, f"{name}:v1", f"{name}:v2")
    assert registry.pushed_nothing()
    podman("rmi", "--all", "--force")
    podman("pull", PLAIN, f"{name}:v2")

    assert registry.pulled(repository) == 4
    pushed = registry.contents.manifest(repository, "v1")
    assert registry.contents.manifest(repository, "v2") == pushed
    assert podman("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", f"{name}:v2") == built
    assert podman("image", "inspect", "--format", "{{.Digest}}", f"{name}:v2").strip() == pushed.digest


def test_docker_pushes_what_it_built_pulls_it_back_mounts_and_finds_what_is_there(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = registry.name(repository)
    build(docker, tmp_path / "context", f"{name}:v1", SMALL, *LARGE)
    built = docker("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", f"{name}:v1")
    for other in (f"{name}:v2", f"{name}/copy:v1"):
        docker("tag", f"{name}:v1", other)
    since = registry.forget()

    docker("push", "--quiet", f"{name}:v1")
    registry.check_turns(since)
    registry.forget()
    docker("push", "--quiet", f"{name}:v2")
    assert registry.pushed_nothing()
    docker("push", "--quiet", f"{name}/copy:v1")
    mounts = registry.wire.matching("POST", f"/{repository}/copy/", "mount=", f"from={repository}")
    assert [exchange.status for exchange in mounts] == [201] * 3
    docker("image", "rm", "--force", built.split()[0])
    docker("pull", "--quiet", f"{name}/copy:v1")

    assert registry.pulled(f"{repository}/copy") == 4
    assert docker("image", "inspect", "--format", "{{.Id}} {{.RootFS.Layers}}", f"{name}/copy:v1") == built
    docker("image", "rm", "--force", built.split()[0])


def test_skopeo_crane_and_podman_push_an_index_with_all_its_images(
    programs: Programs, registry: Registry, repository: str, layout: Layout, tmp_path: Path
) -> None:
    skopeo, crane, podman = (programs.program(tool_or_skip(name)) for name in ("skopeo", "crane", "podman"))
    platforms = [layout.image([fresh_tar(one), bytes(20_000)], architecture=one) for one in ("amd64", "arm64")]
    index = layout.index(platforms, tag="all")
    name = registry.name(repository)

    skopeo("copy", "--all", PLAIN_TARGET, f"oci:{layout.reference('all')}", f"docker://{name}:all")
    crane("copy", f"{name}:all", f"{name}/copy:all")
    crane("pull", "--format=oci", f"{name}/copy:all", tmp_path / "back")
    podman("manifest", "create", "all", "--all", f"oci:{layout.reference('all')}")
    podman("manifest", "push", PLAIN, "--all", "--format", "oci", "all", f"docker://{name}/podman:all")

    manifests = [platform["digest"] for platform in platforms]
    blobs = [blob for manifest in manifests for blob in blobs_of(layout.read(manifest))]
    check_same(tmp_path / "back", layout, [index["digest"], *manifests, *blobs])
    for copy in (repository, f"{repository}/copy"):
        assert registry.contents.manifest(copy, "all").digest == index["digest"]
    assert sorted(children_of(registry.contents.manifest(f"{repository}/podman", "all").body)) == sorted(manifests)


def test_docker_pulls_its_platform_out_of_a_list_that_it_pushed(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    name = registry.name(repository)
    architecture = json.loads(docker("version", "--format", "{{json .Server.Arch}}"))
    build(docker, tmp_path / "context", f"{name}:one", SMALL)
    identifier = docker("image", "inspect", "--format", "{{.Id}}", f"{name}:one")
    docker("push", "--quiet", f"{name}:one")

    docker("manifest", "create", "--insecure", f"{name}:all", f"{name}:one")
    docker("manifest", "annotate", "--os", "linux", "--arch", architecture, f"{name}:all", f"{name}:one")
    docker("manifest", "push", "--insecure", "--purge", f"{name}:all")
    docker("image", "rm", "--force", identifier)
    docker("pull", "--quiet", f"{name}:all")

    one = registry.contents.manifest(repository, "one").digest
    assert children_of(registry.contents.manifest(repository, "all").body) == [one]
    assert docker("image", "inspect", "--format", "{{.Id}}", f"{name}:all") == identifier
    docker("image", "rm", "--force", identifier)
