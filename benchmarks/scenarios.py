"""What is measured. Each scenario is given a server with nothing stored, and returns figures by name."""

import base64
import contextlib
import json
import math
import os
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from benchmarks.load import read_often, reading, write_by_many
from benchmarks.peers import BASELINE, ONE_WORKER, PASSWORD, PRIVATE, SUBJECT, USER, Collector
from benchmarks.processes import cpu_seconds, peak_bytes, reset_peak, resident_bytes
from benchmarks.trees import MANIFEST_TYPE, Shape, count_bytes, write_tree
from benchmarks.wire import (
    Connection,
    Content,
    Unexpected,
    connected,
    push_blob,
    push_blob_as_docker,
    with_digest,
)
from tests.running import Server
from tests.s3.weed import Store

REPOSITORY = "bench/app"
READ_SECONDS = 5
WARM_UP_SECONDS = 1
READERS = 16
SMALL_BLOBS, SMALL_BYTES, WRITERS = 200, 10_000, 8
TAGS = 1000
IMAGES = 200
GARBAGE = Shape(manifests=20_000, blobs=100_000, repositories=100)
STEADY_PER_SECOND, STEADY_READERS = 200, 4
IDLE_SECONDS = 10.0

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: its unit, and whether more of it is better."""

    name: str
    unit: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Bench:
    """What a scenario works on: the server, the size of what is large, and the store behind it, if there is one."""

    server: Server
    mebibytes: int
    store: Store | None = None
    collector: Collector | None = None

    def watch(self) -> "_Stopwatch":
        """Return what measures a `with` block."""
        return _Stopwatch(self.server.process.pid, self.store)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A piece of work; `run` does it once. With `over_bucket` the data goes into a bucket.

    With `peers` only those are measured; otherwise all but PRIVATE.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    run: Callable[[Bench], Figures]
    baseline: str = BASELINE
    peers: tuple[str, ...] = ()
    over_bucket: bool = False

    def measures(self, peer: str) -> bool:
        """Whether a peer takes part."""
        return peer in self.peers if self.peers else peer != PRIVATE


def push_large(bench: Bench) -> Figures:
    """Push one blob by a single PATCH with chunked encoding: POST, PATCH, PUT; fsync included."""
    content = Content(bench.mebibytes)
    leader = bench.server.process.pid
    with connected(bench.server.address) as connection:
        connection.request("GET", "/v2/", expected=200)
        idle = resident_bytes(leader)
        reset_peak(leader)
        with bench.watch() as watch:
            finish_seconds = _push(connection, content)
        return {**watch.figures, "finish": finish_seconds, "memory": peak_bytes(leader) - idle}


def pull_large(bench: Bench) -> Figures:
    """Get one large blob."""
    content = Content(bench.mebibytes)
    with connected(bench.server.address) as connection:
        _push(connection, content)
        with bench.watch() as watch:
            length = connection.receive(f"/v2/{REPOSITORY}/blobs/{content.digest}")
        assert length == content.size_bytes
        return watch.figures


def get_manifest(bench: Bench) -> Figures:
    """Get a manifest by tag from many connections."""
    server = bench.server
    with connected(server.address) as connection:
        _put_manifest(connection, "latest", _image(connection))
    target = f"/v2/{REPOSITORY}/manifests/latest"
    read_often(server, target, connections=READERS, seconds=WARM_UP_SECONDS, accept=MANIFEST_TYPE)
    with bench.watch() as watch:
        readings = read_often(server, target, connections=READERS, seconds=READ_SECONDS, accept=MANIFEST_TYPE)
    return {"rate": readings.per_second, "cpu": watch.figures["cpu"] / readings.requests}


def push_small(bench: Bench) -> Figures:
    """Push many small blobs by several clients at once: POST and PUT each."""
    blobs = [os.urandom(SMALL_BYTES) for _ in range(SMALL_BLOBS)]
    with bench.watch() as watch:
        write_by_many(bench.server.address, lambda at, blob: push_blob(at, REPOSITORY, blob), blobs, clients=WRITERS)
    return _each(watch.figures, SMALL_BLOBS)


def push_images(bench: Bench) -> Figures:
    """Push many small images as docker does, by several clients at once; with a token where one is needed.

    HEAD, POST, PATCH, PUT, HEAD for each blob, and then the manifest by tag.
    """
    server = bench.server
    headers = _login(server)
    images = [os.urandom(16) for _ in range(IMAGES)]

    def push(connection: Connection, number: bytes) -> None:
        connection.headers = headers
        _put_manifest(connection, number.hex(), _image(connection, push=push_blob_as_docker))

    write_by_many(server.address, push, images[:WRITERS], clients=WRITERS)
    with bench.watch() as watch:
        write_by_many(server.address, push, images, clients=WRITERS)
    return _each(watch.figures, IMAGES)


def list_tags(bench: Bench) -> Figures:
    """List a thousand tags, whole."""
    server = bench.server
    target = f"/v2/{REPOSITORY}/tags/list"
    with connected(server.address) as connection:
        manifest = _image(connection)
        tags = [b"%04d" % number for number in range(TAGS)]
        write_by_many(server.address, lambda at, tag: _put_manifest(at, tag.decode(), manifest), tags, clients=WRITERS)
    with urllib.request.urlopen(server.url + target) as listed:  # which knows chunked answers
        assert len(json.load(listed)["tags"]) == TAGS
    with bench.watch() as watch:
        readings = read_often(server, target, connections=1, seconds=READ_SECONDS)
    return {"rate": readings.per_second, "cpu": watch.figures["cpu"] / readings.requests}


def collect(bench: Bench, *, deleted: bool) -> Figures:
    """Remove the half of a tree that is garbage, beside clients that get manifests, if the registry allows that."""
    server, collector, shape = bench.server, bench.collector, replace(GARBAGE, deleted=deleted)
    assert collector is not None
    targets = [each.path for each in write_tree(server.data, shape)]
    collector.prepare(server)
    read = partial(
        reading, server, targets, per_second=STEADY_PER_SECOND, connections=STEADY_READERS, accept=MANIFEST_TYPE
    )
    figures = {}
    with contextlib.ExitStack() as reads:
        during: list[float] = []
        if collector.is_online:
            with read() as idle:
                time.sleep(IDLE_SECONDS)
            figures["p99 idle"] = percentile(idle, 99)
            during = reads.enter_context(read())
        started = time.perf_counter()
        collector.run(server, deleted)
        figures["wall"] = time.perf_counter() - started
    if during:
        figures["p99"] = percentile(during, 99)
        figures["slowdown"] = figures["p99"] / figures["p99 idle"]
    if (left := count_bytes(server.data)) != shape.kept:
        raise Unexpected(f"after the collection there are {left} blobs and manifests, and not {shape.kept}")
    return figures


def percentile(figures: Sequence[float], percent: float) -> float:
    """The least figure that so many percent of them do not pass. Raises Unexpected if there are none."""
    if not figures:
        raise Unexpected("nothing was measured")
    ordered = sorted(figures)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


_WALL, _CPU = Metric("wall", "s"), Metric("cpu", "s")
_FINISH, _MEMORY = Metric("finish", "ms"), Metric("memory", "bytes")
_RATE, _CPU_EACH = Metric("rate", "/s", more_is_better=True), Metric("cpu", "s each")
_COLLECTED = (_WALL, Metric("p99 idle", "ms"), Metric("p99", "ms"), Metric("slowdown", "times"))
_STORE = (Metric("store calls", "calls"), Metric("store cpu", "s"))
_STORE_EACH = (Metric("store calls", "calls each"), Metric("store cpu", "s each"))

SCENARIOS = (
    Scenario("push-large", "one large blob pushed by a chunked PATCH", (_WALL, _FINISH, _CPU, _MEMORY), push_large),
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
    Scenario(
        "gc-untagged",
        f"garbage collection: {GARBAGE.manifests} manifests, half of them without a tag, {GARBAGE.blobs} blobs",
        _COLLECTED,
        partial(collect, deleted=False),
        peers=(SUBJECT, BASELINE),
    ),
    Scenario(
        "gc-deleted",
        f"garbage collection: {GARBAGE.manifests} manifests, half of them deleted, {GARBAGE.blobs} blobs",
        _COLLECTED,
        partial(collect, deleted=True),
        peers=(SUBJECT, BASELINE),
    ),
    Scenario("list-tags", f"{TAGS} tags listed", (_RATE, _CPU_EACH), list_tags),
    Scenario(
        "push-large-s3",
        "one large blob pushed by a chunked PATCH, into a bucket",
        (_WALL, _FINISH, _CPU, _MEMORY, *_STORE),
        push_large,
        peers=(SUBJECT, ONE_WORKER, BASELINE),
        over_bucket=True,
    ),
    Scenario(
        "push-small-s3",
        f"{IMAGES} small images pushed by {WRITERS} clients, into a bucket",
        (_RATE, _CPU_EACH, *_STORE_EACH),
        push_images,
        peers=(SUBJECT, ONE_WORKER, BASELINE),
        over_bucket=True,
    ),
)


class _Stopwatch:
    """Wall time of a `with` block, and what a family of processes and a store did meanwhile."""

    def __init__(self, leader: int, store: Store | None) -> None:
        self._leader = leader
        self._store = store
        self.figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._before = self._counts()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        wall = time.perf_counter() - self._started
        self.figures = {"wall": wall, **{name: count - self._before[name] for name, count in self._counts().items()}}

    def _counts(self) -> dict[str, float]:
        counts = {"cpu": cpu_seconds(self._leader)}
        if self._store is not None:
            counts |= {"store cpu": cpu_seconds(self._store.process.pid), "store calls": self._store.calls()}
        return counts


def _each(figures: Figures, count: int) -> Figures:
    """Turn the figures of so many things into those of one, and the wall time into a rate."""
    rate = count / figures["wall"]
    return {"rate": rate, **{name: figure / count for name, figure in figures.items() if name != "wall"}}


def _push(connection: Connection, content: Content) -> float:
    """Push a large blob, and return how many seconds the PUT took that finishes it."""
    begun, _ = connection.request("POST", f"/v2/{REPOSITORY}/blobs/uploads/", expected=202)
    sent = connection.send_chunked("PATCH", begun.location, content.framed(), expected=202)
    started = time.perf_counter()
    connection.request("PUT", with_digest(sent.location, content.digest), expected=201)
    return time.perf_counter() - started


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


def _image(connection: Connection, *, push: Callable[[Connection, str, bytes], str] = push_blob) -> bytes:
    """Push the blobs of a small image, and return its manifest."""
    blobs = {"config": os.urandom(1000), "layer": os.urandom(SMALL_BYTES)}
    digests = {name: push(connection, REPOSITORY, blob) for name, blob in blobs.items()}
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
