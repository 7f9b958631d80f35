"""What all clients have in common: somebody logs in, pushes, pulls and logs out, each client in its own way."""

import hashlib
import json
import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Final

import pytest

from tests.clients.containerd import Containerd
from tests.clients.daemon import Docker
from tests.clients.layouts import Layout, fresh_tar
from tests.clients.programs import Programs
from tests.conftest import tool_or_skip

TAG: Final = "v1"
CHART_VERSION: Final = "0.1.0"
LAYER_BYTES: Final = 20_000

HOSTS: Final = """\
server = "{0}"
ca = "{1}"
[host."{0}"]
  ca = "{1}"
"""
"""containerd 1.6 wants a host, and asks the server itself once the host has refused."""


@dataclass(slots=True)
class Client(ABC):
    """A client of the registry at `address` with something to push.

    It trusts `ca`, a certificate in a directory of its own; without one it is told to speak plain HTTP, if it has to
    be told. What it runs raises ProgramFailed. A repository holds what was pushed under the tag TAG.
    """

    kind: ClassVar[str]

    programs: Programs
    path: str
    address: str
    ca: Path | None

    @abstractmethod
    def login(self, user: str, password: str) -> None:
        """Log in. Not every client finds out yet whether the password is right."""

    @abstractmethod
    def logout(self) -> None:
        """Forget the password."""

    @abstractmethod
    def push(self, repository: str) -> str:
        """Push, and return what stands for the content."""

    @abstractmethod
    def pull(self, repository: str) -> str:
        """Pull, from the registry and from nowhere else, and return what stands for the content."""

    def copy(self, source: str, target: str) -> None:
        """Bring what was pushed to one repository into another one."""
        raise NotImplementedError(self.kind)

    def run(self, *arguments: str | Path, text: str = "") -> str:
        """Run the program."""
        return self.programs.run(self.path, *arguments, text=text)

    def reference(self, repository: str) -> str:
        """The reference of an image."""
        return f"{self.address}/{repository}:{TAG}"

    def place(self, name: str) -> Path:
        """A path that no other call gets."""
        directory = self.programs.directory / "places"
        directory.mkdir(exist_ok=True)
        return directory / f"{name}-{len(list(directory.iterdir()))}"

    def layout(self) -> Layout:
        """An image layout with a small image, never the same."""
        layout = Layout(self.place("layout"))
        layout.image([fresh_tar("a", size_bytes=LAYER_BYTES)], tag=TAG)
        return layout

    def archive(self) -> Path:
        """A tar archive with a small file, never the same."""
        path = self.place("archive")
        path.write_bytes(fresh_tar("a", size_bytes=LAYER_BYTES))
        return path


@dataclass(slots=True)
class DockerClient(Client):
    """docker: the daemon speaks to the registry, and has to be told of the CA; the command keeps the password."""

    kind = "docker"

    docker: Docker = field(kw_only=True)

    def login(self, user: str, password: str) -> None:
        self._docker("login", "--username", user, "--password-stdin", self.address, text=password)

    def logout(self) -> None:
        self._docker("logout", self.address)

    def push(self, repository: str) -> str:
        image = self._docker("import", self.archive(), self.reference(repository)).strip()
        self._docker("push", "--quiet", self.reference(repository))
        return image

    def pull(self, repository: str) -> str:
        name = self.reference(repository)
        if self._docker("image", "ls", "--quiet", name):
            self._docker("image", "rm", "--force", name)
        self._docker("pull", "--quiet", name)
        return self._docker("image", "inspect", "--format", "{{.Id}}", name).strip()

    def copy(self, source: str, target: str) -> None:
        self._docker("tag", self.reference(source), self.reference(target))
        self._docker("push", "--quiet", self.reference(target))

    def kept(self) -> dict[str, str]:
        """What the command keeps for the registry."""
        kept: dict[str, str] = json.loads((self._directory / "config.json").read_text())["auths"][self.address]
        return kept

    @property
    def _directory(self) -> Path:
        return self.programs.directory / "home" / ".docker"

    def _docker(self, *arguments: str | Path, text: str = "") -> str:
        command = (self.path, "--host", f"unix://{self.docker.socket}", "--config", self._directory)
        return self.programs.run(*command, *arguments, text=text)


class PodmanClient(Client):
    """podman, which finds the CA in a directory."""

    kind = "podman"

    def login(self, user: str, password: str) -> None:
        self.run("login", *self._tls(), "--username", user, "--password-stdin", self.address, text=password)

    def logout(self) -> None:
        self.run("logout", self.address)

    def push(self, repository: str) -> str:
        image = self.run("import", "--quiet", self.archive(), self.reference(repository)).strip()
        self.run("push", *self._tls(), self.reference(repository))
        return image.removeprefix("sha256:")

    def pull(self, repository: str) -> str:
        name = self.reference(repository)
        self.run("rmi", "--all", "--force")
        self.run("pull", "--quiet", *self._tls(), name)
        return self.run("image", "inspect", "--format", "{{.Id}}", name).strip()

    def copy(self, source: str, target: str) -> None:
        self.run("push", *self._tls(), self.reference(source), self.reference(target))

    def _tls(self) -> tuple[str | Path, ...]:
        return ("--tls-verify=false",) if self.ca is None else ("--cert-dir", self.ca.parent)


class SkopeoClient(Client):
    """skopeo, which finds the CA in a directory."""

    kind = "skopeo"

    def login(self, user: str, password: str) -> None:
        self.run("login", *self._tls(""), "--username", user, "--password-stdin", self.address, text=password)

    def logout(self) -> None:
        self.run("logout", self.address)

    def push(self, repository: str) -> str:
        layout = self.layout()
        source, target = f"oci:{layout.reference(TAG)}", f"docker://{self.reference(repository)}"
        self.run("copy", "--quiet", *self._tls("dest-"), source, target)
        return pushed(layout)

    def pull(self, repository: str) -> str:
        back = self.place("back")
        self.run("copy", "--quiet", *self._tls("src-"), f"docker://{self.reference(repository)}", f"oci:{back}:{TAG}")
        return came_back(back)

    def copy(self, source: str, target: str) -> None:
        names = (f"docker://{self.reference(repository)}" for repository in (source, target))
        self.run("copy", "--quiet", *self._tls("src-"), *self._tls("dest-"), *names)

    def _tls(self, side: str) -> tuple[str | Path, ...]:
        return (f"--{side}tls-verify=false",) if self.ca is None else (f"--{side}cert-dir", self.ca.parent)


class CraneClient(Client):
    """crane, which believes what Go believes; it looks by itself whether a loopback address speaks HTTP."""

    kind = "crane"

    def login(self, user: str, password: str) -> None:
        self.run("auth", "login", "--username", user, "--password-stdin", self.address, text=password)

    def logout(self) -> None:
        self.run("auth", "logout", self.address)

    def push(self, repository: str) -> str:
        layout = self.layout()
        self.run("push", layout.directory, self.reference(repository))
        return pushed(layout)

    def pull(self, repository: str) -> str:
        back = self.place("back")
        self.run("pull", "--format=oci", self.reference(repository), back)
        return came_back(back)

    def copy(self, source: str, target: str) -> None:
        self.run("copy", self.reference(source), self.reference(target))

    def run(self, *arguments: str | Path, text: str = "") -> str:
        environment = {} if self.ca is None else {"SSL_CERT_FILE": str(self.ca)}
        return self.programs.run(self.path, *arguments, environment=environment, text=text)


class RegctlClient(Client):
    """regctl, which keeps the CA in its configuration."""

    kind = "regctl"

    def login(self, user: str, password: str) -> None:
        self._configure()
        self.run("registry", "login", "--user", user, "--pass-stdin", self.address, text=password)

    def logout(self) -> None:
        self.run("registry", "logout", self.address)

    def push(self, repository: str) -> str:
        self._configure()
        layout = self.layout()
        self.run("image", "copy", f"ocidir://{layout.reference(TAG)}", self.reference(repository))
        return pushed(layout)

    def pull(self, repository: str) -> str:
        self._configure()
        back = self.place("back")
        self.run("image", "copy", self.reference(repository), f"ocidir://{back}:{TAG}")
        return came_back(back)

    def copy(self, source: str, target: str) -> None:
        self.run("image", "copy", self.reference(source), self.reference(target))

    def _configure(self) -> None:
        trust = ("--tls", "disabled") if self.ca is None else ("--cacert", self.ca.read_text())
        self.run("registry", "set", *trust, "--skip-check", self.address)


class OrasClient(Client):
    """oras, which is given the CA with each command."""

    kind = "oras"

    def login(self, user: str, password: str) -> None:
        self.run("login", *self._tls(""), "--username", user, "--password-stdin", self.address, text=password)

    def logout(self) -> None:
        self.run("logout", self.address)

    def push(self, repository: str) -> str:
        layout = self.layout()
        self.run("cp", *self._tls("to-"), "--from-oci-layout", layout.reference(TAG), self.reference(repository))
        return pushed(layout)

    def pull(self, repository: str) -> str:
        back = self.place("back")
        self.run("cp", *self._tls("from-"), "--to-oci-layout", self.reference(repository), f"{back}:{TAG}")
        return came_back(back)

    def copy(self, source: str, target: str) -> None:
        self.run("cp", *self._tls("from-"), *self._tls("to-"), self.reference(source), self.reference(target))

    def _tls(self, side: str) -> tuple[str | Path, ...]:
        return (f"--{side}plain-http",) if self.ca is None else (f"--{side}ca-file", self.ca)


class HelmClient(Client):
    """helm, whose charts are named by their repository and tagged by their version."""

    kind = "helm"

    def login(self, user: str, password: str) -> None:
        command = ("registry", "login", *self._tls(), "--username", user, "--password-stdin", self.address)
        self.run(*command, text=password)

    def logout(self) -> None:
        self.run("registry", "logout", self.address)

    def push(self, repository: str) -> str:
        parent, _, name = repository.rpartition("/")
        chart = self._chart(name)
        self.run("push", *self._tls(), chart, f"oci://{self.address}/{parent}")
        return hashlib.sha256(chart.read_bytes()).hexdigest()

    def pull(self, repository: str) -> str:
        back = self.place("back")
        back.mkdir()
        command = ("pull", *self._tls(), "--version", CHART_VERSION, "--destination", back)
        self.run(*command, f"oci://{self.address}/{repository}")
        (chart,) = back.iterdir()
        return hashlib.sha256(chart.read_bytes()).hexdigest()

    def reference(self, repository: str) -> str:
        return f"{self.address}/{repository}:{CHART_VERSION}"

    def _chart(self, name: str) -> Path:
        source, packed = self.place("chart"), self.place("packed")
        source.mkdir()
        (source / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: {CHART_VERSION}\n")
        with tarfile.open(packed.with_suffix(".tgz"), "w:gz") as archive:
            archive.add(source / "Chart.yaml", f"{name}/Chart.yaml")
        return packed.with_suffix(".tgz")

    def _tls(self) -> tuple[str | Path, ...]:
        return ("--plain-http",) if self.ca is None else ("--ca-file", self.ca)


@dataclass(slots=True)
class ContainerdClient(Client):
    """ctr, which has no login: the password goes with each command, as nerdctl and the kubelet send it."""

    kind = "containerd"

    containerd: Containerd = field(kw_only=True)
    _credentials: tuple[str, ...] = ()

    def login(self, user: str, password: str) -> None:
        self._credentials = ("--user", f"{user}:{password}")

    def logout(self) -> None:
        self._credentials = ()

    def push(self, repository: str) -> str:
        layout, name = self.layout(), self.reference(repository)
        archive = self.place("archive")
        with tarfile.open(archive, "w") as packed:
            packed.add(layout.directory, ".")
        self.containerd("images", "import", "--no-unpack", "--base-name", name.rpartition(":")[0], archive)
        self.containerd("images", "push", *self._options(), name)
        return pushed(layout)

    def pull(self, repository: str) -> str:
        name = self.reference(repository)
        for image in self.containerd("images", "ls", "--quiet").split():
            self.containerd("images", "rm", "--sync", image)  # and its content, which would not be fetched again
        self.containerd("content", "fetch", *self._options(), name)
        (found,) = re.findall(rf"^{re.escape(name)} .*(sha256:[0-9a-f]{{64}})", self.containerd("images", "ls"), re.M)
        return str(found)

    def copy(self, source: str, target: str) -> None:
        self.containerd("images", "tag", self.reference(source), self.reference(target))
        self.containerd("images", "push", *self._options(), self.reference(target))

    def _options(self) -> tuple[str | Path, ...]:
        if self.ca is None:
            return ("--plain-http", *self._credentials)
        hosts = self.programs.directory / "certs.d"
        place = hosts / self.address
        place.mkdir(parents=True, exist_ok=True)
        (place / "hosts.toml").write_text(HOSTS.format(f"https://{self.address}", self.ca))
        return ("--hosts-dir", hosts, *self._credentials)


KINDS: Mapping[str, type[Client]] = MappingProxyType(
    {
        client.kind: client
        for client in (
            *(DockerClient, PodmanClient, SkopeoClient, CraneClient, RegctlClient, OrasClient),
            *(HelmClient, ContainerdClient),
        )
    }
)


def client_of(kind: str, address: str, ca: Path | None, request: pytest.FixtureRequest) -> Client:
    """Return a client with a home of its own. Without what it needs, the test is skipped."""
    programs: Programs = request.getfixturevalue("programs")
    match kind:
        case DockerClient.kind:
            docker: Docker = request.getfixturevalue("docker")
            return DockerClient(programs, docker.client, address, ca, docker=docker)
        case ContainerdClient.kind:
            containerd: Containerd = request.getfixturevalue("containerd")
            return ContainerdClient(programs, containerd.client, address, ca, containerd=containerd)
        case PodmanClient.kind:
            request.getfixturevalue("as_root")
    return KINDS[kind](programs, tool_or_skip(kind), address, ca)


def pushed(layout: Layout) -> str:
    """The digest of the one image of a layout that we made."""
    (image,) = layout.tagged()
    return str(image["digest"])


def came_back(directory: Path) -> str:
    """The digest of the one image of a layout that a client made; all its content is there, and is what it says."""
    (entry,) = json.loads((directory / "index.json").read_text())["manifests"]
    digest = str(entry["digest"])
    manifest = json.loads(_blob(directory, digest))
    for blob in (manifest["config"], *manifest["layers"]):
        _blob(directory, blob["digest"])
    return digest


def _blob(directory: Path, digest: str) -> bytes:
    content = (directory / "blobs" / digest.replace(":", "/")).read_bytes()
    assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content
