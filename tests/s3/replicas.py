"""Servers with nothing in common but a bucket."""

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx

from tests.nginx import Nginx, alternating
from tests.running import ROOT, Server, start
from tests.s3.weed import BUCKET, Store


class Replicas:
    """Any number of servers over one prefix of a bucket, with one `environment`; all of them end with `close`."""

    def __init__(self, weed: Store, directory: Path) -> None:
        self.weed = weed
        self.directory = directory
        self.place = f"s3://{BUCKET}/serving/{secrets.token_hex(8)}"
        self.servers: list[Server] = []
        self.environment = weed.environment()
        self._opened = contextlib.ExitStack()

    def add(self) -> httpx.Client:
        """Start one more, and return a client of it."""
        number = len(self.servers)
        server = start(
            self.directory / f"unused{number}",
            log=self.directory / f"log{number}",
            workers=2,
            arguments=["--data", self.place],
            environment=self.environment,
        )
        self._opened.callback(server.stop)
        self.servers.append(server)
        return self.client(server.url)

    @property
    def addresses(self) -> list[str]:
        """Where they listen, `host:port` each."""
        return [server.address for server in self.servers]

    def behind_nginx(self, program: str) -> Nginx:
        """Start an nginx that gives each request to the next of those that were added, dead or alive."""
        return self._opened.enter_context(alternating(program, self.addresses, self.directory / "nginx"))

    def client(self, url: str) -> httpx.Client:
        """Return a client of what serves at `url`."""
        return self._opened.enter_context(httpx.Client(base_url=url, timeout=60, follow_redirects=True))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the bucket."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
        command = [sys.executable, "-m", "registry", *arguments, "--data", self.place]
        environment = {**inherited, **self.environment}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def close(self) -> None:
        """End everything, what came last first."""
        self._opened.close()
