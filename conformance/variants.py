"""The kinds of Pierhead that the suite is run against: a line each."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from conformance.expectations import EXPECTATIONS
from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from tests import nginx
from tests.running import start
from tests.s3.weed import BUCKET, require_weed, serving_weed
from tests.tools import require

USER, PASSWORD = "conformance", "of the official suite"

Place = tuple[Sequence[str], Mapping[str, str]]
"""The arguments of `serve` that choose where bytes are kept, and what has to be in its environment."""

Store = Callable[[Path], AbstractContextManager[Place]]
"""From an empty directory to a place, while it is there."""


@contextlib.contextmanager
def filesystem(directory: Path) -> Iterator[Place]:  # noqa: ARG001, the signature is Store's
    """Keep bytes in the data directory, as without any argument."""
    yield (), {}


@contextlib.contextmanager
def redirecting_bucket(directory: Path) -> Iterator[Place]:
    """Keep bytes in a bucket of SeaweedFS, where clients read blobs themselves, as without any setting."""
    with serving_weed(require_weed(), directory) as store:
        yield ("--data", f"s3://{BUCKET}/images"), store.environment()


@contextlib.contextmanager
def bucket(directory: Path) -> Iterator[Place]:
    """Keep bytes in a bucket of SeaweedFS, and give them out from here."""
    with redirecting_bucket(directory) as (arguments, environment):
        yield arguments, {**environment, "PIERHEAD_S3_REDIRECT": "false"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to run Pierhead."""

    name: str
    store: Store
    workers: int
    private: bool = False
    """Whether everybody has to log in."""
    versions: Sequence[str] = tuple(EXPECTATIONS)
    """Those of the suite that it can conform to."""
    replicas: int = 1
    """How many servers share the store; more than one are behind an nginx that gives each request to the next."""

    @property
    def login(self) -> Mapping[str, str]:
        """What tells the suite how to log in."""
        return {"OCI_USERNAME": USER, "OCI_PASSWORD": PASSWORD} if self.private else {}

    @contextlib.contextmanager
    def serving(self, directory: Path) -> Iterator[str]:
        """Serve at the address (host:port) with everything new below `directory`, for the length of a `with` block.

        Raises NotInstalled if a program that it takes is not there.
        """
        for name in ("data", "store"):
            (directory / name).mkdir(parents=True)
        with self.store(directory / "store") as (given, environment), contextlib.ExitStack() as running:
            arguments = [*given, *self._users(directory / "users")]
            addresses = []
            for number in range(1, self.replicas + 1):
                server = start(
                    directory / "data",
                    log=directory / f"pierhead-{number}.log",
                    workers=self.workers,
                    arguments=arguments,
                    environment=environment,
                )
                running.callback(server.stop)
                addresses.append(server.address)
            if self.replicas > 1:
                proxy = nginx.alternating(require(nginx.PROGRAM), addresses, directory / "nginx")
                addresses = [running.enter_context(proxy).address]
            yield addresses[0]

    def _users(self, file: Path) -> Sequence[str]:
        if not self.private:
            return ()
        add_user(file, USER, hash_password(USER, PASSWORD))
        return ("--htpasswd", str(file))


VARIANTS = (
    Variant("filesystem-1-worker", filesystem, workers=1),
    Variant("filesystem-2-workers", filesystem, workers=2),
    Variant("filesystem-2-workers-private", filesystem, workers=2, private=True),
    Variant("s3-2-workers", bucket, workers=2),
    # Later versions look for Docker-Content-Digest after the redirect, and a bucket can't be asked to say it.
    Variant("s3-2-workers-redirects", redirecting_bucket, workers=2, versions=("1.1",)),
    Variant("s3-2-replicas-nginx", bucket, workers=1, replicas=2),
)
