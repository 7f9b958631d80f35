"""What is measured. Each scenario is given a server with an empty store, and returns figures by name."""

import base64
import hashlib
import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from benchmarks.load import read_often, write_by_many
from benchmarks.peers import BASELINE, PASSWORD, PRIVATE, SUBJECT, USER
from benchmarks.processes import cpu_seconds, peak_bytes, reset_peak, resident_bytes
from benchmarks.wire import Connection, Content, Unexpected, connected, push_blob, with_digest
from tests.running import Server

REPOSITORY = "bench/app"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
READ_SECONDS = 5
WARM_UP_SECONDS = 1
READERS = 16
SMALL_BLOBS, SMALL_BYTES, WRITERS = 200, 10_000, 8
TAGS = 1000
IMAGES = 200

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: its unit, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A piece of work; `run` does it once. `mebibytes` is the size of what is large.

    With `peers` only those are measured; otherwise all but PRIVATE.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    run: Callable[[Server, int], Figures]
    baseline: str = BASELINE
    peers: tuple[str, ...] = ()

    def measures(self, peer: str) -> bool:
        """Whether a peer takes part."""
        return peer in self.peers if self.peers else peer != PRIVATE


def push_large(server: Server, mebibytes: int) -> Figures:
    """Push one blob by a single PATCH with chunked encoding: POST, PATCH, PUT; fsync included."""
    content = Content(mebibytes)
    leader = server.process.pid
    with connected(server.address) as connection:
        connection.request("GET", "/v2/", expected=200)
        idle = resident_bytes(leader)
        reset_peak(leader)
        with _Stopwatch(leader) as watch:
            _push(connection, content)
        return {**watch.figures, "memory": peak_bytes(leader) - idle}


def pull_large(server: Server, mebibytes: int) -> Figures:
    """Get one large blob."""
    content = Content(mebibytes)
    with connected(server.address) as connection:
        _push(connection, content)
        with _Stopwatch(server.process.pid) as watch:
            length = connection.receive(f"/v2/{REPOSITORY}/blobs/{content.digest}")
        assert length == content.size_bytes
        return watch.figures


def get_manifest(server: Server, _: int) -> Figures:
    """Get a manifest by tag from many connections."""
    with connected(server.address) as connection:
        _put_manifest(connection, "latest", _image(connection))
    target = f"/v2/{REPOSITORY}/manifests/latest"
    read_often(server, target, connections=READERS, seconds=WARM_UP_SECONDS, accept=MANIFEST_TYPE)
    with _Stopwatch(server.process.pid) as watch:
        readings = read_often(server, target, connections=READERS, seconds=READ_SECONDS, accept=MANIFEST_TYPE)
    return {"rate": readings.per_second, "cpu": watch.figures["cpu"] / readings.requests}


def push_small(server: Server, _: int) -> Figures:
    """Push many small blobs by several clients at once: POST and PUT each."""
    blobs = [os.urandom(SMALL_BYTES) for _ in range(SMALL_BLOBS)]
    with _Stopwatch(server.process.pid) as watch:
        write_by_many(server.address, lambda at, blob: push_blob(at, REPOSITORY, blob), blobs, clients=WRITERS)
    return {"rate": SMALL_BLOBS / watch.figures["wall"], "cpu": watch.figures["cpu"] / SMALL_BLOBS}


def push_images(server: Server, _: int) -> Figures:
    """Push many small images as docker does: HEAD, POST, PUT, HEAD for each blob, and the manifest; with a token."""
    headers = _login(server)
    images = [os.urandom(16) for _ in range(IMAGES)]

    def push(connection: Connection, number: bytes) -> None:
        connection.headers = headers
        _put_manifest(connection, number.hex(), _image(connection, ask=True))

    write_by_many(server.address, push, images[:WRITERS], clients=WRITERS)
    with _Stopwatch(server.process.pid) as watch:
        write_by_many(server.address, push, images, clients=WRITERS)
    return {"rate": IMAGES / watch.figures["wall"], "cpu": watch.figures["cpu"] / IMAGES}


def list_tags(server: Server, _: int) -> Figures:
    """List a thousand tags, whole."""
    target = f"/v2/{REPOSITORY}/tags/list"
    with connected(server.address) as connection:
        manifest = _image(connection)
        tags = [b"%04d" % number for number in range(TAGS)]
        write_by_many(server.address, lambda at, tag: _put_manifest(at, tag.decode(), manifest), tags, clients=WRITERS)
    with urllib.request.urlopen(server.url + target) as listed:  # which knows chunked answers
        assert len(json.load(listed)["tags"]) == TAGS
    with _Stopwatch(server.process.pid) as watch:
        readings = read_often(server, target, connections=1, seconds=READ_SECONDS)
    return {"rate": readings.per_second, "cpu": watch.figures["cpu"] / readings.requests}


_WALL, _CPU = Metric("wall", "s"), Metric("cpu", "s")
_RATE, _CPU_EACH = Metric("rate", "/s", more_is_better=True), Metric("cpu", "s each")

SCENARIOS = (
    Scenario(
        "push-large", "one large blob pushed by a chunked PATCH", (_WALL, _CPU, Metric("memory", "bytes")), push_large
    ),
    Scenario("get-manifest", f"a manifest by tag, got over {READERS} connections", (_RATE, _CPU_EACH), get_manifest),
    Scenario("pull-large", "one large blob pulled", (_WALL, _CPU), pull_large),
    Scenario(
        "push-small",
        f"{SMALL_BLOBS} blobs of {SMALL_BYTES} bytes pushed by {WRITERS} clients",
        (_RATE, _CPU_EACH),
        push_small,
    ),
    Scenario(
        "push-private",
        f"{IMAGES} small images pushed by {WRITERS} clients, with a token where everybody has to log in",
        (_RATE, _CPU_EACH),
        push_images,
        baseline=SUBJECT,
        peers=(SUBJECT, PRIVATE),
    ),
    Scenario("list-tags", f"{TAGS} tags listed", (_RATE, _CPU_EACH), list_tags),
)


class _Stopwatch:
    """Wall time of a `with` block, and the CPU time that a family of processes used meanwhile."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._cpu = cpu_seconds(self._leader)
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._started
        self.figures = {"wall": wall, "cpu": cpu_seconds(self._leader) - self._cpu}


def _push(connection: Connection, content: Content) -> None:
    begun, _ = connection.request("POST", f"/v2/{REPOSITORY}/blobs/uploads/", expected=202)
    sent = connection.send_chunked("PATCH", begun.location, content, expected=202)
    connection.request("PUT", with_digest(sent.location, content.digest), expected=201)


def _login(server: Server) -> Mapping[str, str]:
    """Get a token, where one is needed, and return the header to send."""
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    with connected(server.address) as connection:
        try:
            connection.request("GET", "/v2/", expected=200)
        except Unexpected:
            pass
        else:
            return {}
    with connected(server.address) as connection:
        target = f"/token?service=pierhead&scope=repository:{REPOSITORY}:pull,push"
        _, body = connection.request("GET", target, expected=200, headers={"Authorization": f"Basic {pair}"})
        return {"Authorization": f"Bearer {json.loads(body)['token']}"}


def _image(connection: Connection, *, ask: bool = False) -> bytes:
    """Push the blobs of a small image, and return its manifest; with `ask`, look for them before and after."""
    blobs = {"config": os.urandom(1000), "layer": os.urandom(SMALL_BYTES)}
    if ask:
        for blob in blobs.values():
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            connection.request("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}", expected=404)
    digests = {name: push_blob(connection, REPOSITORY, blob) for name, blob in blobs.items()}
    if ask:
        for digest in digests.values():
            connection.request("HEAD", f"/v2/{REPOSITORY}/blobs/{digest}", expected=200)
    types = {"config": "config.v1+json", "layer": "layer.v1.tar"}
    config, layer = (
        {"mediaType": f"application/vnd.oci.image.{types[name]}", "digest": digests[name], "size": len(blobs[name])}
        for name in ("config", "layer")
    )
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": config, "layers": [layer]}
    return json.dumps(manifest).encode()


def _put_manifest(connection: Connection, tag: str, manifest: bytes) -> None:
    connection.request(
        "PUT",
        f"/v2/{REPOSITORY}/manifests/{tag}",
        expected=201,
        body=manifest,
        headers={"Content-Type": MANIFEST_TYPE},
    )
