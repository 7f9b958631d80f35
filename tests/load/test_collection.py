"""Pushes, mounts and pulls while the collector runs all the time, at a grace period of nothing: no byte is lost.

`PIERHEAD_TEST_COLLECTION_SECONDS` is how long the clients work, each time: 10 s unless it is set, 900 s at most.
"""

import contextlib
import json
import os
import secrets
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage.places import Kind, read_key
from tests.load.calls import Caller, Outages
from tests.load.publishers import SHARED, SHARED_TAGS, Publisher
from tests.races.stores import verify
from tests.running import ROOT, eventually, start
from tests.s3.replicas import Replicas
from tests.s3.weed import BUCKET, Store

CLIENTS = 8
SECONDS = 10.0
SECONDS_MAX = 900.0
COMMAND_SECONDS_MAX = 120

SEED = os.environ.get("PIERHEAD_TEST_SEED") or secrets.token_hex(4)
WANTED_SECONDS = min(SECONDS_MAX, float(os.environ.get("PIERHEAD_TEST_COLLECTION_SECONDS") or SECONDS))

SETTINGS = {
    "PIERHEAD_GC_INTERVAL_SECONDS": "1",
    "PIERHEAD_GC_GRACE_SECONDS": "0",
    "PIERHEAD_GC_TRASH_SECONDS": "0",
    "PIERHEAD_GC_BRAKE_SHARE": "1",
    "PIERHEAD_GC_CPU_SHARE": "1",
    "PIERHEAD_HISTORY_KEEP_SECONDS": "0",
    "PIERHEAD_HISTORY_KEEP_LAST": "0",
}
"""Servers and the command collect in turns, all the time, and keep nothing but what a tag leads to now."""

HAPPENED = ("pushed", "found", "mounted", "sent", "moved", "deleted", "artifacts", "pulled")
"""What has to have happened at least a few times: without it the test would say little."""

HAPPENED_MIN = 5

Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""Runs a command, given as words, on the store."""


@dataclass(frozen=True, slots=True)
class Site:
    """Servers of one store: where they listen, how commands are run beside them, and what lies in the store."""

    addresses: Sequence[str]
    run: Run
    keys: Callable[[], list[str]]

    def digests(self, kind: Kind) -> set[tuple[str, str]]:
        """What there is of a kind, by repository and digest."""
        places = [read_key(key) for key in self.keys()]
        return {(place.repository, str(place.digest)) for place in places if place.kind is kind}


@pytest.mark.timeout(2 * WANTED_SECONDS + 240)
def test_nothing_is_lost_while_a_directory_of_two_workers_is_collected(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = start(data, log=tmp_path / "log", workers=2, environment=SETTINGS)

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return run_command([*arguments, "--data", str(data)], SETTINGS)

    def keys() -> list[str]:
        return [str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()]

    try:
        assert_nothing_is_lost(Site([server.address], run, keys))
    finally:
        server.stop()
    assert verify(data) == []
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.timeout(2 * WANTED_SECONDS + 240)
def test_nothing_is_lost_while_a_bucket_of_two_replicas_is_collected(weed: Store, tmp_path: Path) -> None:
    with contextlib.closing(Replicas(weed, tmp_path)) as replicas:
        replicas.environment |= {**SETTINGS, "PIERHEAD_S3_REDIRECT": "false"}
        replicas.add()
        replicas.add()
        prefix = replicas.place.removeprefix(f"s3://{BUCKET}/") + "/"

        def keys() -> list[str]:
            client: Any = weed.client()
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            return [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", ())]

        assert_nothing_is_lost(Site(replicas.addresses, replicas.run, keys))
        verified = replicas.run("verify")
        assert verified.returncode == 0, verified.stdout
    assert not [log for log in tmp_path.glob("log*") if "Traceback" in log.read_text()]


def assert_nothing_is_lost(site: Site) -> None:
    """Let clients work and collections run; then everything that a tag leads to is there, and in the end only that."""
    sys.stderr.write(f"PIERHEAD_TEST_SEED={SEED} PIERHEAD_TEST_COLLECTION_SECONDS={WANTED_SECONDS:g}\n")
    callers = [Caller(site.addresses[number % len(site.addresses)], Outages()) for number in range(CLIENTS)]
    publishers = [Publisher(caller, number, SEED) for number, caller in enumerate(callers)]
    runs = at_once(site, publishers)
    counts = sum((publisher.counts for publisher in publishers), Counter[str]())
    collected = set().union(*(publisher.acknowledged for publisher in publishers)) - site.digests(Kind.REVISION)
    sys.stderr.write(f"{dict(counts)}, {len(collected)} manifests gone, {runs} collections by hand\n")
    for publisher in publishers:
        publisher.check()
    # What arrived while a collection was under way is taken by the next one.
    for _ in range(2):
        eventually(lambda: collect(site), seconds=COMMAND_SECONDS_MAX)
    for publisher in publishers:
        publisher.check()
    assert_only_that_is_left(site, publishers, callers[0])
    for caller in callers:
        caller.close()
    assert [name for name in HAPPENED if counts[name] < HAPPENED_MIN] == []
    # Of these clients have deleted a few; the rest was collected while they worked.
    assert len(collected) > counts["deleted"] + HAPPENED_MIN


def at_once(site: Site, publishers: Sequence[Publisher]) -> int:
    """Let everybody work for a while, and a process collect besides; returns how often it did."""
    over, failures, runs = threading.Event(), [], 0

    def work(publisher: Publisher) -> None:
        try:
            while not over.is_set():
                publisher.step()
        except BaseException as error:  # told below
            failures.append(f"{type(error).__name__}: {error}")
            over.set()

    threads = [threading.Thread(target=work, args=(publisher,)) for publisher in publishers]
    for thread in threads:
        thread.start()
    timer = threading.Timer(WANTED_SECONDS, over.set)
    timer.start()
    try:
        while not over.is_set():
            runs += collect(site)
    finally:
        over.set()
        timer.cancel()
        for thread in threads:
            thread.join()
    assert failures == []
    return runs


def run_command(arguments: Sequence[str], settings: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "registry", *arguments],
        cwd=ROOT,
        env={**inherited, **settings},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )


def collect(site: Site) -> bool:
    """Run a collection on the store, beside the servers; False if they collect just now, or something was kept."""
    done = site.run("gc", "run")
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return done.returncode == 0


def assert_only_that_is_left(site: Site, publishers: Sequence[Publisher], caller: Caller) -> None:
    """Compare the manifests and blobs that lie in the store with what tags lead to."""
    wanted, allowed = (_Left(publishers, caller, doubtful=doubtful) for doubtful in (False, True))
    revisions, blobs = site.digests(Kind.REVISION), {digest for _, digest in site.digests(Kind.BLOB)}
    assert (wanted.revisions - revisions, revisions - allowed.revisions) == (set(), set())
    assert (wanted.blobs - blobs, blobs - allowed.blobs) == (set(), set())


class _Left:
    """What tags lead to: manifests by repository and digest, and everything that has bytes by digest."""

    def __init__(self, publishers: Sequence[Publisher], caller: Caller, *, doubtful: bool) -> None:
        self.revisions: set[tuple[str, str]] = set()
        self.blobs: set[str] = set()
        for publisher in publishers:
            for shelf in publisher.shelves:
                for image in shelf.reachable(doubtful=doubtful).values():
                    self.revisions.add((shelf.name, image.digest))
                    self.blobs |= {image.digest, *(content.digest for content in image.contents)}
        for tag in SHARED_TAGS:
            answer = caller.send("GET", f"/v2/{SHARED}/manifests/{tag}", expected=[200])
            fields = json.loads(answer.body)
            digest = answer.headers["docker-content-digest"]
            self.revisions.add((SHARED, digest))
            self.blobs |= {digest, *(str(each["digest"]) for each in (fields["config"], *fields["layers"]))}
