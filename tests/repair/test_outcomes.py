"""Each damage of the table: never served, found, and mended by what the table says, on a real server beside it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.repair.damages import CASES, CONFIG, Case, Mended, config_of
from tests.running import ROOT, Server, start
from tests.swap.client import Client, Ledger, digest_of
from tests.swap.commands import Outcome, run
from tests.swap.scars import LAYER, REVISION, TAG, Image, pushed, whole

UNPRIVILEGED = "tests.swap.unprivileged"

ANYTIME = (("verify",), ("verify", "--repair", "--dry-run"), ("storage", "check"))
"""What may be run on a damaged store at any time, with any damage in it, and comes to its end."""

by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@dataclass(slots=True)
class Damaged:
    """A served store with every damage, its whole twin that is served as well, and what the commands said of it."""

    client: Client
    server: Server
    twin: Server
    images: Mapping[str, Image]
    keys: Mapping[str, str]
    configs: Mapping[str, str]
    anytime: Sequence[subprocess.CompletedProcess[str]]
    verified: Outcome
    answers: Mapping[str, list[tuple[str, int]]]
    dry: Outcome
    repaired: Outcome
    fetched: Outcome
    served: Mapping[str, bool]

    @property
    def data(self) -> Path:
        """Where the store lies."""
        return self.server.data


def addresses(image: Image, config: str, loses: str) -> list[str]:
    """What clients can't have while the damage lasts."""
    manifests, blobs = f"/v2/{image.repository}/manifests", f"/v2/{image.repository}/blobs"
    return {
        TAG: [f"{manifests}/v1"],
        REVISION: [f"{manifests}/{image.digest}", f"{manifests}/v1"],
        LAYER: [f"{blobs}/{image.layer}"],
        CONFIG: [f"{blobs}/{config}"],
    }[loses]


def answer(client: Client, path: str) -> int:
    """The status of a GET, 0 if it was cut off; never a body that is not what was asked for."""
    try:
        found = client.http.get(path, headers={"accept": "*/*"})
    except httpx.TransportError:
        return 0
    if found.status_code == 200:
        digest = path.rpartition("/")[2]
        assert digest_of(found.content) == (digest if ":" in digest else found.headers["docker-content-digest"])
    return found.status_code


def ended(data: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    line = [sys.executable, "-m", UNPRIVILEGED, *name.split(), *arguments, "--data", str(data), "--json"]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def is_served(client: Client, image: Image) -> bool:
    """Tell whether the image can be pulled, byte by byte."""
    try:
        whole(client, image)
    except (AssertionError, httpx.TransportError):
        return False
    return True


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    tool_or_skip("setpriv")
    place = tmp_path_factory.mktemp("damages")
    data, ledger = place / "data", Ledger()
    server = start(data, log=place / "pushed.log")
    with Client(server.url, ledger) as client:
        images = {case.name: pushed(client, data, f"damaged/{case.name}") for case in CASES}
        pushed(client, data, "zzz/intact")
    server.stop()
    configs = {name: config_of(image, ledger[image.repository]) for name, image in images.items()}
    shutil.copytree(data, place / "twin")
    keys = {case.name: case.damage(images[case.name]) for case in CASES}

    twin = start(place / "twin", log=place / "twin.log")
    server = start(data, log=place / "served.log", module=UNPRIVILEGED)
    try:
        with Client(server.url, ledger) as client:
            answers = {}
            for case in CASES:
                paths = addresses(images[case.name], configs[case.name], case.loses)
                answers[case.name] = [(path, answer(client, path)) for path in (*paths, *paths)]
            for path in (data / "pierhead" / "damaged").rglob("*"):
                if path.is_file():
                    path.unlink()  # so that verification has to find by itself what was just found by reading
            anytime = [ended(data, *line) for line in ANYTIME]
            verified = run("verify", data, module=UNPRIVILEGED)
            dry = run("verify", data, "--repair", "--dry-run", module=UNPRIVILEGED)
            repaired = run("verify", data, "--repair", module=UNPRIVILEGED)
            served = {name: is_served(client, image) for name, image in images.items()}
            source = ("--from", twin.url, "--from-insecure")
            fetched = run("verify", data, "--repair", *source, module=UNPRIVILEGED)
            yield Damaged(
                client, server, twin, images, keys, configs, anytime, verified, answers, dry, repaired, fetched, served
            )
    finally:
        server.stop()
        twin.stop()


@by_name
def test_no_client_gets_it_and_no_client_gets_anything_else(damaged: Damaged, case: Case) -> None:
    statuses = [status for _path, status in damaged.answers[case.name]]

    # What nobody has read before is sent until it is found out, and then cut off; from then on it is not there.
    assert statuses[0] == (0 if case.needs_reading else 404)
    assert set(statuses[len(statuses) // 2 :]) == {404}


@by_name
def test_verification_finds_it(damaged: Damaged, case: Case) -> None:
    assert (case.finding, damaged.keys[case.name]) in damaged.verified.findings
    assert damaged.verified.code == 3


def test_commands_come_to_their_end_whatever_the_damage(damaged: Damaged) -> None:
    for (name, *arguments), ended in zip(ANYTIME, damaged.anytime, strict=True):
        assert ended.returncode in {0, 1, 3}, (name, arguments, ended.stderr)
        assert "Traceback" not in ended.stderr
        assert "summary" in ended.stdout or "uses" in ended.stdout


def test_the_page_tells_of_each_kind_of_damage() -> None:
    page = (ROOT / "docs" / "explanation" / "damage.md").read_text()
    table = "".join(line for line in page.splitlines() if line.startswith("| "))

    assert {case.finding for case in CASES} <= set(re.findall(r"`([a-z-]+)`", table))


def test_verification_finds_nothing_else(damaged: Damaged) -> None:
    consequences = {
        "manifest-incomplete",
        "link-dangling",
        "manifest-missing",
        "tag-dangling",
        "blob-unlinked",
        "source-stale",
    }
    other = [found for found in damaged.verified.findings if found[1] not in damaged.keys.values()]

    assert {kind for kind, _key in other} <= consequences
    assert not [key for _kind, key in other if "intact" in key]


@by_name
def test_a_dry_run_says_what_would_be_done_and_does_nothing(damaged: Damaged, case: Case) -> None:
    would = damaged.dry.summary["repaired"]

    assert damaged.dry.code == 3
    assert set(damaged.verified.findings) == set(damaged.dry.findings)
    if case.mended is Mended.REPAIR:
        assert would[case.finding] >= 1


@by_name
def test_repair_mends_what_can_be_known_and_nothing_else(damaged: Damaged, case: Case) -> None:
    is_mended = case.mended is Mended.REPAIR

    assert damaged.served[case.name] is is_mended
    found = (case.finding, damaged.keys[case.name]) in damaged.repaired.findings
    assert found is not is_mended
    assert damaged.repaired.code == 3


@by_name
def test_repair_from_another_registry_mends_all_but_what_a_person_has_to_decide(damaged: Damaged, case: Case) -> None:
    is_mended = case.mended is not Mended.HAND

    assert is_served(damaged.client, damaged.images[case.name]) is is_mended
    found = (case.finding, damaged.keys[case.name]) in damaged.fetched.findings
    assert found is not is_mended


def test_what_remains_is_told_by_the_exit_code_and_why_by_a_line(damaged: Damaged) -> None:
    assert damaged.fetched.code == 3
    assert damaged.fetched.summary["not_repaired"]
    left = {key for _kind, key in damaged.fetched.findings}
    assert left >= {damaged.keys[case.name] for case in CASES if case.mended is Mended.HAND}


def test_distribution_serves_what_was_repaired(damaged: Damaged, tmp_path: Path) -> None:
    program = tool_or_skip(V3)

    with (
        serving_distribution(program, damaged.data, log=tmp_path / "log") as theirs,
        Client(theirs.url, damaged.client.ledger) as client,
    ):
        for case in CASES:
            if case.mended is not Mended.HAND:
                whole(client, damaged.images[case.name])


def test_a_push_mends_the_rest_once_directories_are_removed_and_then_all_is_well(damaged: Damaged) -> None:
    client = damaged.client
    for case in CASES:
        if case.mended is not Mended.HAND:
            continue
        image = damaged.images[case.name]
        if case.finding == "directory":
            (damaged.data / damaged.keys[case.name]).rmdir()
        pushed_again(client, image)
        assert is_served(client, image)
        for index in (damaged.data / image.home / "_manifests/tags/v1/index/sha256").iterdir():
            if index.name != image.digest.partition(":")[2]:
                shutil.rmtree(index)

    outcome = run("verify", damaged.data, "--repair", module=UNPRIVILEGED)

    assert (outcome.code, [found for found in outcome.findings if found[0] != "blob-unlinked"]) == (0, [])


@pytest.fixture(scope="module")
def served_damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Mapping[str, Image]]]:
    """Return a client of a store with every damage that nobody has repaired, and the images."""
    tool_or_skip("setpriv")
    place = tmp_path_factory.mktemp("pushes")
    server = start(place / "data", log=place / "log", module=UNPRIVILEGED)
    try:
        with Client(server.url, Ledger()) as client:
            images = {case.name: pushed(client, place / "data", f"damaged/{case.name}") for case in CASES}
            for case in CASES:
                case.damage(images[case.name])
            yield client, images
    finally:
        server.stop()


@pytest.mark.parametrize("case", [case for case in CASES if case.finding != "directory"], ids=lambda case: case.name)
def test_a_push_mends_it_without_any_repair(served_damaged: tuple[Client, Mapping[str, Image]], case: Case) -> None:
    client, images = served_damaged
    image = images[case.name]
    for path in addresses(image, config_of(image, client.ledger[image.repository]), case.loses):
        assert answer(client, path) in {0, 404}

    pushed_again(client, image)

    assert is_served(client, image)


def pushed_again(client: Client, image: Image) -> None:
    """Push as docker does: ask for each blob first, and then the manifest by its tag."""
    contents = client.ledger[image.repository]
    for digest, body in contents.blobs.items():
        if client.http.head(f"/v2/{image.repository}/blobs/{digest}").status_code == 404:
            query = {"digest": digest}
            pushing = client.http.post(f"/v2/{image.repository}/blobs/uploads/", params=query, content=body)
            assert pushing.status_code == 201
    media_type, body = contents.manifests[image.digest]
    url = f"/v2/{image.repository}/manifests/v1"
    assert client.http.put(url, content=body, headers={"content-type": media_type}).status_code == 201
