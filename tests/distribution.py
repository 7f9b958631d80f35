"""CNCF distribution on a data directory: v3 from `make tools`, 2.8 as Debian packages it.

Nothing here needs pytest: the benchmarks start their peer with it too.
"""

import contextlib
import http.client
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.running import Server, eventually, free_port

V3 = "registry"
V2 = "docker-registry"
"""The names of the two programs, for `tests.tools.find_tool`."""

STARTS_MAX = 5

CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage:
  {storage}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


def start_distribution(
    program: str, data: Path, *, log: Path, storage: str = "", auth: Mapping[str, object] | None = None
) -> Server:
    """Serve `data` on a free loopback port, deletion allowed, and return once it answers.

    `storage`, if given, is the line of its configuration that says where everything is instead; `auth` is its section
    of that name.

    `program` is the path of distribution 2.8 or 3. Its configuration is written beside `log`. Raises
    RuntimeError with the end of the log if it does not start.
    """
    for _ in range(STARTS_MAX):
        # It cannot be given port 0, and a port that was free may be taken by the time it binds.
        port = free_port()
        process = _spawn(
            program, "serve", str(_configure(data, log=log, port=port, storage=storage, auth=auth)), log=log
        )
        server = Server(process, f"http://127.0.0.1:{port}", data, log)
        if _answers(server, 401 if auth else 200):
            return server
        if b"address already in use" not in log.read_bytes():
            break
    raise RuntimeError(f"{program} did not start:\n{log.read_text(errors='replace')[-4000:]}")


@contextlib.contextmanager
def serving_distribution(
    program: str, data: Path, *, log: Path, storage: str = "", auth: Mapping[str, object] | None = None
) -> Iterator[Server]:
    """Serve `data`, or what `storage` says, for the length of a `with` block."""
    server = start_distribution(program, data, log=log, storage=storage, auth=auth)
    try:
        yield server
    finally:
        server.stop()


def collect_garbage(
    program: str,
    data: Path,
    *,
    log: Path,
    delete_untagged: bool = False,
    quiet: bool = False,
    seconds_max: float = 100,
) -> None:
    """Run distribution's own garbage collector on `data`, which nobody may be pushing to meanwhile.

    Raises subprocess.CalledProcessError if it fails; what it says is in `log`. Only v3 can be `quiet`.
    """
    options = [name for name, is_on in (("--delete-untagged", delete_untagged), ("--quiet", quiet)) if is_on]
    configuration = _configure(data, log=log, port=1)
    process = _spawn(program, "garbage-collect", *options, str(configuration), log=log)
    if code := process.wait(seconds_max):
        raise subprocess.CalledProcessError(code, process.args, log.read_text(errors="replace")[-4000:])


def _configure(
    data: Path, *, log: Path, port: int, storage: str = "", auth: Mapping[str, object] | None = None
) -> Path:
    configuration = log.with_suffix(".yml")
    storage = storage or f"filesystem: {{rootdirectory: {data}}}"
    section = f"auth: {json.dumps(auth)}" if auth else ""  # JSON is YAML
    configuration.write_text(CONFIGURATION.format(storage=storage, port=port, auth=section))
    return configuration


def _spawn(program: str, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REGISTRY_", "OTEL_"))}
    with log.open("ab") as output:
        return subprocess.Popen(
            [program, *arguments],
            # v3 sends traces to a collector unless it is told that there is none.
            env={**inherited, "OTEL_TRACES_EXPORTER": "none"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _answers(server: Server, status: int) -> bool:
    def settled() -> bool:
        return server.process.poll() is not None or _ping(server.address) == status

    try:
        eventually(settled, seconds=30)
    except BaseException:
        server.kill()
        raise
    return server.process.poll() is None


def _ping(address: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
