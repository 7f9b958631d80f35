"""A launcher of servers for each module: importing the server takes longer than starting it."""

from collections.abc import Iterator, Sequence

import pytest

from tests.crash.launching import Launcher, launching


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with launching(tmp_path_factory.mktemp("launcher") / "servers.log") as started:
        yield started


@pytest.fixture(scope="module")
def launchers(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[Launcher]]:
    """Return launchers that several threads use at once, one each."""
    with launching(tmp_path_factory.mktemp("launcher") / "servers.log") as another:
        yield [launcher, another]
