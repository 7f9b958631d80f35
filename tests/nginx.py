"""An nginx of our own in front of servers: one process, with nothing of it outside one directory.

Nothing here needs pytest: the conformance runner starts it too.
"""

import contextlib
import re
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.running import ROOT, eventually, free_port

PROGRAM = "nginx"
STARTS_MAX = 5
ALIVE = "/nginx-is-alive"
"""What nginx answers by itself: asking for it is nobody's turn."""

# A single process: turns are taken strictly, and files are used by nobody but ourselves.
CONFIGURATION = """\
daemon off;
master_process off;
pid "{directory}/nginx.pid";
error_log "{directory}/error.log";
events {{}}
http {{
    client_body_temp_path "{directory}/body";
    proxy_temp_path "{directory}/proxy";
    fastcgi_temp_path "{directory}/fastcgi";
    scgi_temp_path "{directory}/scgi";
    uwsgi_temp_path "{directory}/uwsgi";
    log_format passed
        "$upstream_addr $request_method $request_uri $status $sent_http_location $upstream_bytes_sent";
    access_log "{directory}/access.log" passed;
    {servers}
}}
"""

ALTERNATING = """\
    upstream replicas {{
        {replicas}
        keepalive 32;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        proxy_request_buffering off;
        proxy_buffering off;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_next_upstream off;
        add_header X-Replica $upstream_addr always;
        location / {{ proxy_pass http://replicas; }}
        location = {alive} {{ access_log off; return 204; }}
    }}
"""

EXAMPLE = ROOT / "deploy" / "nginx.conf"
PASSED = re.compile(r"(\S+) ([A-Z]+) (\S+) (\d{3}) (\S+) (\d+)")
UPLOAD = re.compile(r"/blobs/uploads/([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that was passed on: to which replica (host:port), how many bytes of it, and what came back."""

    replica: str
    method: str
    target: str
    status: int
    location: str
    sent_bytes: int

    @property
    def upload(self) -> str | None:
        """The upload session that it began or was sent to."""
        found = UPLOAD.search(self.location if self.method == "POST" else self.target)
        return found[1] if found else None


@dataclass(frozen=True, slots=True)
class Nginx:
    """A running nginx that listens at `address` (host:port)."""

    process: subprocess.Popen[bytes]
    address: str
    directory: Path

    @property
    def url(self) -> str:
        """Its address for clients of plain HTTP."""
        return f"http://{self.address}"

    def passed(self) -> list[Passed]:
        """Return what was passed on so far, in the order in which it was done; only of an nginx that alternates."""
        # A request is noted after its answer has left: with one process, before the next one is looked at. A body
        # that nobody took is waited for first.
        urllib.request.urlopen(self.url + ALIVE, timeout=10).close()
        lines = (self.directory / "access.log").read_text().splitlines()
        found = [PASSED.fullmatch(line) for line in lines]
        return [Passed(one[1], one[2], one[3], int(one[4]), one[5], int(one[6])) for one in found if one]

    def stop(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(10)


@contextlib.contextmanager
def alternating(program: str, replicas: Sequence[str], directory: Path) -> Iterator[Nginx]:
    """Pass each request to the next of `replicas` (host:port), dead or alive, for the length of a `with` block."""
    lines = " ".join(f"server {replica} max_fails=0;" for replica in replicas)
    with running(program, lambda port: ALTERNATING.format(replicas=lines, port=port, alive=ALIVE), directory) as nginx:
        yield nginx


@contextlib.contextmanager
def example(
    program: str, replicas: Sequence[str], directory: Path, *, certificate: Path | None = None, key: Path | None = None
) -> Iterator[Nginx]:
    """Run the example of deploy/, changed only in its addresses and files; without a certificate it is plain HTTP."""
    text = EXAMPLE.read_text()
    for old, new in (
        ("server 127.0.0.1:5000;", " ".join(f"server {replica};" for replica in replicas)),
        ("/etc/nginx/registry.example.org.pem", str(certificate)),
        ("/etc/nginx/registry.example.org.key", str(key)),
    ):
        assert old in text, old
        text = text.replace(old, new)
    if certificate is None:
        text = re.sub(r"^ *ssl_certificate.*$", "", text, flags=re.MULTILINE).replace("443 ssl", "443")
    assert "listen 443" in text
    with running(program, lambda port: text.replace("listen 443", f"listen 127.0.0.1:{port}"), directory) as nginx:
        yield nginx


@contextlib.contextmanager
def running(program: str, servers: Callable[[int], str], directory: Path) -> Iterator[Nginx]:
    """Run it with what `servers` says for a loopback port: the inside of the `http` block.

    Raises RuntimeError with the end of its log if it does not start.
    """
    directory.mkdir(parents=True, exist_ok=True)
    nginx = _start(program, servers, directory)
    try:
        yield nginx
    finally:
        nginx.stop()


def _start(program: str, servers: Callable[[int], str], directory: Path) -> Nginx:
    log = directory / "error.log"
    for _ in range(STARTS_MAX):
        # A port that was free may be taken by the time it binds.
        port = free_port()
        nginx = _spawn(program, servers(port), directory, port)
        if _listens(nginx, port):
            return nginx
        if b"Address already in use" not in log.read_bytes():
            break
    raise RuntimeError(f"{program} did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _spawn(program: str, servers: str, directory: Path, port: int) -> Nginx:
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, servers=servers))
    log = directory / "error.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program, "-p", directory, "-e", log, "-c", configuration],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return Nginx(process, f"127.0.0.1:{port}", directory)


def _listens(nginx: Nginx, port: int) -> bool:
    def settled() -> bool:
        return nginx.process.poll() is not None or _accepts(port)

    try:
        eventually(settled, seconds=30)
    except BaseException:
        nginx.stop()
        raise
    return nginx.process.poll() is None


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
