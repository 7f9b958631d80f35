"""Adoption and verification beside a server that is pushed to, and adoption that is killed."""

import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.running import ROOT, Server, eventually, serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import command, run

REPOSITORIES = 12
KILLS = 10


def fill(client: Client) -> None:
    """Push an image with two artifacts to each of several repositories."""
    for number in range(REPOSITORIES):
        name = f"team/app-{number}"
        subject = client.push_image(name, "v1")
        client.push_artifact(name, subject, "application/vnd.example.sbom.v1+json")
        client.push_artifact(name, subject, "application/vnd.example.signature.v1")


@pytest.fixture
def foreign(tmp_path: Path) -> tuple[Path, Ledger]:
    """A full store without anything of Pierhead's, as distribution would have written it."""
    data, ledger = tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "filled.log") as server, Client(server.url, ledger) as client:
        fill(client)
    shutil.rmtree(data / "pierhead")
    return data, ledger


def ours(data: Path) -> dict[str, bytes]:
    """Everything that an adoption builds, by path."""
    kept = [data / "pierhead" / name for name in ("catalog", "repositories", "sources")]
    return {str(path.relative_to(data)): path.read_bytes() for top in kept for path in top.rglob("*") if path.is_file()}


def test_a_second_adoption_changes_nothing(foreign: tuple[Path, Ledger]) -> None:
    data, _ledger = foreign

    first = run("adopt", data)
    built = ours(data)
    times = {path: (data / path).stat().st_mtime_ns for path in built}
    second = run("adopt", data)

    assert (first.code, second.code) == (0, 0)
    assert first.summary["added"] == {
        "catalog": REPOSITORIES,
        "referrers": 2 * REPOSITORIES,
        "sources": len(sources(built)),
        "history": REPOSITORIES,
    }
    assert second.summary["added"] == second.summary["removed"] == {}
    assert ours(data) == built
    assert {path: (data / path).stat().st_mtime_ns for path in built} == times


def sources(built: dict[str, bytes]) -> list[str]:
    """The blob sources among what was built."""
    return [path for path in built if path.startswith("pierhead/sources/")]


def histories(built: dict[str, bytes]) -> list[str]:
    """The records of changes of tags among what was built; each run gives them ids of its own."""
    return [path for path in built if "/_history/" in path]


def without_id(path: str) -> str:
    """A path that does not depend on the run."""
    return path.rpartition(".")[0] if "/_history/" in path else path


def test_an_adoption_that_is_killed_again_and_again_is_completed_by_the_next(
    foreign: tuple[Path, Ledger], tmp_path: Path
) -> None:
    data, ledger = foreign
    whole = tmp_path / "whole"
    shutil.copytree(data, whole)
    run("adopt", whole)
    wanted = ours(whole)
    choice = random.Random(7)

    killed = 0
    for most in sorted(choice.randrange(len(wanted)) for _ in range(KILLS)):
        with subprocess.Popen(command("adopt", data), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            eventually(partial(_is_so_far, process, data, most), seconds=60)
            process.send_signal(signal.SIGKILL)
        killed += process.returncode == -signal.SIGKILL
    outcome = run("adopt", data)

    assert killed > KILLS // 2
    assert outcome.code == 0
    built = ours(data)
    assert sorted(map(without_id, built)) == sorted(map(without_id, wanted))
    differs = {*sources(wanted), *histories(wanted), *histories(built)}
    assert {path: body for path, body in built.items() if path not in differs} == {
        path: body for path, body in wanted.items() if path not in differs
    }
    with serving(data, log=tmp_path / "served.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=True)


def _is_so_far(process: subprocess.Popen[bytes], data: Path, most: int) -> bool:
    return process.poll() is not None or len(ours(data)) >= most


@contextmanager
def pushing(server: Server, work: Callable[[Client, int], None], threads: int) -> Iterator[list[Ledger]]:
    """Let clients work, each in repositories of its own, for the length of a `with` block; gives their ledgers."""
    stop, ledgers, failures = threading.Event(), [Ledger(number) for number in range(threads)], []
    rounds = [0] * threads

    def client(number: int) -> None:
        try:
            with Client(server.url, ledgers[number]) as one:
                while not stop.is_set():
                    work(one, rounds[number])
                    rounds[number] += 1
        except BaseException as error:
            failures.append(error)
            raise

    running = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    try:
        eventually(lambda: failures or all(rounds), seconds=60)
        yield ledgers
        done = list(rounds)
        eventually(lambda: failures or all(now > before for now, before in zip(rounds, done, strict=True)), seconds=60)
    finally:
        stop.set()
        for thread in running:
            thread.join(60)
    assert not failures


def push_and_delete(client: Client, number: int) -> None:
    """Push, move a tag, delete and push again the very same artifact."""
    name = f"client-{client.ledger.random.randrange(3)}/{id(client.ledger)}"
    subject = client.push_image(name, "latest")
    artifact = client.push_artifact(name, subject, "application/vnd.example.sbom.v1+json")
    media_type, body = client.ledger[name].manifests[str(artifact["digest"])]
    client.delete_manifest(name, str(artifact["digest"]))
    url = f"/v2/{name}/manifests/{artifact['digest']}"
    assert client.http.put(url, content=body, headers={"content-type": media_type}).status_code == 201
    client.ledger[name].manifests[str(artifact["digest"])] = (media_type, body)
    client.ledger[name].gone_manifests.discard(str(artifact["digest"]))
    if number % 3 == 2:
        client.delete_manifest(name, client.ledger[name].tags["latest"])


def test_adoption_beside_pushes_and_deletes_loses_nothing(
    foreign: tuple[Path, Ledger], start_pierhead: Starter
) -> None:
    data, ledger = foreign
    server = start_pierhead(data=data, workers=2)

    with pushing(server, push_and_delete, 3) as ledgers:
        outcomes = [run("adopt", data) for _ in range(3)]

    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    for each in (ledger, *ledgers):
        with Client(server.url, each) as client:
            client.check(pierhead=True)
    assert run("verify", data).code == 0


def test_verification_beside_pushes_and_deletes_finds_nothing_wrong(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2)

    with pushing(server, push_and_delete, 3):
        outcomes = [run("verify", server.data) for _ in range(4)]

    assert [outcome.code for outcome in outcomes] == [0] * 4, outcomes
    assert all(outcome.summary["counts"]["manifests"] for outcome in outcomes)


def test_a_server_says_that_a_foreign_store_should_be_adopted_until_it_is(
    foreign: tuple[Path, Ledger], start_pierhead: Starter
) -> None:
    data, ledger = foreign

    first = start_pierhead(data=data)
    with Client(first.url, Ledger(5)) as client:
        client.push_image("new/one", "v1")  # the catalog is no longer empty, but still incomplete
    first.stop()
    second = start_pierhead(data=data)
    second.stop()
    assert run("adopt", data).code == 0
    third = start_pierhead(data=data)

    assert "pierhead adopt" in first.log.read_text()
    assert "pierhead adopt" in second.log.read_text()
    assert "pierhead adopt" not in third.log.read_text()
    with Client(third.url, ledger) as client:
        client.check(pierhead=True)


def test_a_new_store_is_not_to_be_adopted(start_pierhead: Starter) -> None:
    first = start_pierhead()
    with Client(first.url, Ledger()) as client:
        client.push_image("team/app", "v1")
    first.stop()

    second = start_pierhead(data=first.data)

    assert "adopt" not in first.log.read_text() + second.log.read_text()
