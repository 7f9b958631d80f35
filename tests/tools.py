"""The programs of other people that tests drive, and where they are found."""

import os
import shutil

from tests.running import ROOT

PINNED = ROOT / "tests" / "tools.txt"
BIN = ROOT / ".tools" / "bin"


class NotInstalled(Exception):
    """A program is not there; the message says how to get it."""


def find_tool(name: str) -> str | None:
    """Return the path of a program: what `make tools` installed, else the first on the PATH.

    `registry` and `conformance` are too common as names: they count only where `make tools` puts them.
    """
    path = str(BIN) if name in pinned_tools() else os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=path)


def require(name: str) -> str:
    """Return the path of a program. Raises NotInstalled."""
    path = find_tool(name)
    if path is None:
        raise NotInstalled(how_to_get(name))
    return path


def pinned_tools() -> dict[str, str]:
    """Return the Go programs of tests/tools.txt: name to module with version."""
    lines = PINNED.read_text().splitlines()
    return dict(line.split() for line in lines if line and not line.startswith("#"))


def how_to_get(name: str) -> str:
    """Return the one line that says how to come by a program."""
    if name in pinned_tools():
        return f"{name} is missing: make tools"
    package = {"docker": "docker.io", "dockerd": "docker.io", "containerd": "containerd"}.get(name, name)
    return f"{name} is missing: apt-get install {package}"
