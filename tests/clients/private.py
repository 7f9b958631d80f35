"""A Pierhead where everybody has to say who they are, and the people and the robot that it knows."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx

from registry.auth.htpasswd import add_user, set_hash
from registry.auth.passwords import hash_password
from tests.running import ROOT, Server, start

USERS: Mapping[str, str] = MappingProxyType(
    {"alice": "correct horse", "bob": "battery staple", "owner": "nothing at all"}
)
"""Names and passwords: alice and bob work below team/ and public/, the owner may do everything."""

HIDDEN = "team/shared/hidden"
"""The one repository below team/ that only the owner sees."""

ROBOT = "ci"
"""The name of the robot, which may do what alice may do."""

POLICY = f"""
[[rules]]
name = "the owner may do everything"
who = ["owner"]
repositories = ["**"]
allow = ["*"]

[[rules]]
name = "nobody else sees this one"
who = ["everyone"]
repositories = ["{HIDDEN}"]
deny = ["*"]

[[rules]]
name = "the team writes"
who = ["alice", "bob"]
repositories = ["team/**", "public/**"]
allow = ["pull", "push"]

[[rules]]
name = "public images are read by everybody"
who = ["everyone"]
repositories = ["public/**"]
allow = ["pull"]
"""


@dataclass(frozen=True, slots=True)
class Private:
    """A running registry; what it lets in is below `directory`. `ca` is there where it speaks TLS."""

    server: Server
    directory: Path
    robot: str = field(repr=False)
    ca: Path | None = None

    @property
    def address(self) -> str:
        """`host:port`, as it stands in an image reference."""
        return self.server.address

    def password(self, somebody: str) -> str:
        """What somebody logs in with: a user's password, the robot's token."""
        return self.robot if somebody == ROBOT else USERS[somebody]

    def change(self, user: str, password: str) -> None:
        """Give a user another password; the server sees it within two seconds."""
        set_hash(self.directory / "htpasswd", user, _hash(user, password))

    def pierhead(self, *arguments: str | Path) -> str:
        """Run another command of Pierhead on the same data and return what it prints."""
        return _pierhead(*arguments, "--data", self.server.data).strip()

    def has(self, reference: str) -> bool:
        """Whether an image is there, as the owner sees it; `reference` is what a client would call it."""
        repository, _, tag = reference.partition("/")[2].rpartition(":")
        url = f"{self.server.url}/v2/{repository}/manifests/{tag}"
        answer = httpx.head(url, auth=("owner", USERS["owner"]), headers={"Accept": "*/*"})
        assert answer.status_code in {200, 404}, answer
        return answer.status_code == 200


@contextlib.contextmanager
def private_registry(directory: Path, *, host: str = "127.0.0.1", tls: bool = False) -> Iterator[Private]:
    """Serve a private registry for the length of a `with` block: with `tls` and a CA of its own, else without."""
    directory.mkdir(parents=True, exist_ok=True)
    users, policy = directory / "htpasswd", directory / "policy.toml"
    for user, password in USERS.items():
        add_user(users, user, _hash(user, password))
    policy.write_text(POLICY)
    environment = {"PIERHEAD_AUTH_HTPASSWD": str(users), "PIERHEAD_AUTH_POLICY": str(policy)}
    ca = None
    if tls:
        made = directory / "tls"
        ca = make_certificates(made, host)
        environment |= {
            "PIERHEAD_TLS_CERTIFICATE": str(made / "server.crt"),
            "PIERHEAD_TLS_KEY": str(made / "server.key"),
        }
    server = start(directory / "data", log=directory / "log", workers=2, listen=f"{host}:0", environment=environment)
    try:
        robot = _pierhead(
            *("token", "create", "--name", ROBOT, "--repo", "team/**", "--repo", "public/**"),
            *("--allow", "pull,push", "--data", server.data),
        )
        yield Private(server, directory, robot.strip(), ca)
    finally:
        server.stop()


def make_certificates(directory: Path, host: str) -> Path:
    """Make a CA and a server's certificate for a host, and return the CA's certificate, alone in a directory."""
    _pierhead("tls", "init", "--host", host, "--out", directory)
    # skopeo and podman take whatever lies in their directory for theirs, and want no key of a server.
    alone = directory / "trust"
    alone.mkdir()
    return Path(shutil.copy(directory / "ca.crt", alone))


def _hash(user: str, password: str) -> str:
    return hash_password(user, password, cost=4)  # the lowest: what bcrypt costs is no business of these tests


def _pierhead(*arguments: str | Path) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    command = [sys.executable, "-m", "registry", *arguments]
    finished = subprocess.run(command, cwd=ROOT, env=inherited, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout
