"""The kinds of Pierhead that the suite is run against: a line each."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.running import Server, start

Store = Callable[[Path], AbstractContextManager[Sequence[str]]]
"""From an empty directory to the arguments of `serve` that choose where bytes are kept, while it is there."""


@contextlib.contextmanager
def filesystem(directory: Path) -> Iterator[Sequence[str]]:  # noqa: ARG001, the signature is Store's
    """Keep bytes in the data directory, as without any argument."""
    yield ()


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run Pierhead."""

    name: str
    store: Store
    workers: int

    @contextlib.contextmanager
    def serving(self, directory: Path) -> Iterator[Server]:
        """Serve with everything new below `directory`, for the length of a `with` block."""
        for name in ("data", "store"):
            (directory / name).mkdir(parents=True)
        with self.store(directory / "store") as arguments:
            log = directory / "pierhead.log"
            server = start(directory / "data", log=log, workers=self.workers, arguments=arguments)
            try:
                yield server
            finally:
                server.stop()


VARIANTS = (
    Variant("filesystem-1-worker", filesystem, workers=1),
    Variant("filesystem-2-workers", filesystem, workers=2),
)
