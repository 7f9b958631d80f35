"""The store from outside: what lies in the data directory."""

import os
from collections.abc import Iterator
from pathlib import Path

from tests.running import Server

REPOSITORIES = Path("docker/registry/v2/repositories")
NOT_CONTENT = ("pierhead/locks/", "pierhead/tmp/")


def files(server: Server) -> set[str]:
    """Every file in the data directory by its key; without locks and what is being written."""
    start = len(str(server.data)) + 1
    found = {path[start:] for path in _walk(server.data)}
    return {key for key in found if not key.startswith(NOT_CONTENT)}


def outside(server: Server) -> set[str]:
    """Everything beside the data directory and above it that a traversal could reach first."""
    return set(_walk(server.data.parent, skip=server.data.name))


def _walk(root: Path, skip: str = "") -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name != skip]
        yield from (f"{directory}/{name}" for name in names)


def holds(server: Server, name: str) -> bool:
    """Whether anything at all is stored for a repository."""
    return (server.data / REPOSITORIES / name).exists()
