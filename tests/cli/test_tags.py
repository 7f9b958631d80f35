"""`pierhead tags` as an operator runs it, on the store of a server that runs meanwhile."""

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import ROOT, Server, serving

COMMAND = [sys.executable, "-m", "registry", "tags"]
NAME = "team/app"
KIND = str(image()["mediaType"])


def body(number: int) -> bytes:
    return encode({**image(), "annotations": {"number": str(number)}})


def digest(number: int) -> str:
    return str(Digest.of(body(number)))


class Shop:
    """A running server whose tag `prod` has pointed at four images, `old` was deleted."""

    def __init__(self, server: Server, client: httpx.Client) -> None:
        self.data = server.data
        self.client = client
        for content in (CONFIG, LAYER):
            path = f"/v2/{NAME}/blobs/uploads/?digest={Digest.of(content)}"
            assert client.post(path, content=content).status_code == 201
        for number in range(4):
            self.push(number)
        self.push(1, "old")
        assert client.delete(f"/v2/{NAME}/manifests/old").status_code == 202

    def push(self, number: int, tag: str = "prod") -> None:
        path, headers = f"/v2/{NAME}/manifests/{tag}", {"content-type": KIND}
        assert self.client.put(path, content=body(number), headers=headers).status_code == 201

    def pull(self, tag: str = "prod") -> bytes:
        answer = self.client.get(f"/v2/{NAME}/manifests/{tag}")
        assert answer.status_code == 200, answer.text
        return answer.content

    def run(self, *arguments: str, code: int = 0, zone: str = "UTC") -> subprocess.CompletedProcess[str]:
        """Run `pierhead tags` to its end, which has to be this one."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIERHEAD_", "SUDO_"))}
        ended = subprocess.run(
            [*COMMAND, *arguments, "--data", str(self.data)],
            cwd=ROOT,
            env={**inherited, "TZ": zone},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
        return ended

    def lines(self, *arguments: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.run(*arguments, "--json").stdout.splitlines()]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with serving(tmp_path / "data", log=tmp_path / "log") as server, httpx.Client(base_url=server.url) as client:
        yield Shop(server, client)


def test_a_history_is_a_table_with_the_newest_first_and_times_with_their_zone(shop: Shop) -> None:
    lines = shop.run("history", f"{NAME}:prod", zone="UTC-02:00").stdout.splitlines()

    assert lines[0].split() == ["no", "digest", "since", "by", "why"]
    assert [line.split()[:2] for line in lines[1:]] == [[str(n), digest(3 - n)[:19]] for n in range(4)]
    assert all(line.split()[3].endswith("+02:00") and line.split()[4:] == ["anonymous", "push"] for line in lines[1:])
    assert shop.run("history", f"{NAME}:prod", "--limit", "2").stderr == "and more: see --limit, which is 2\n"


def test_a_rollback_without_a_target_goes_to_the_last_other_state_and_is_told(shop: Shop) -> None:
    told = shop.run("rollback", f"{NAME}:prod").stdout

    assert told.startswith(f"{NAME}:prod points at {digest(2)}, as in state 1, of ")
    assert f"before: {digest(3)}" in told
    assert shop.pull() == body(2)
    newest = shop.lines("history", f"{NAME}:prod")[0]
    assert (newest["digest"], newest["why"]) == (digest(2), "rollback")
    assert newest["who"] == f"operator:{getpass.getuser()}"


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(shop: Shop) -> None:
    told = shop.run("rollback", f"{NAME}:prod", "--to", "3", "--dry-run").stdout

    assert f"would point at {digest(0)}, as in state 3" in told
    assert shop.pull() == body(3)
    assert len(shop.lines("history", f"{NAME}:prod")) == 4


def test_a_state_is_named_by_its_number_its_digest_the_start_of_it_or_a_time(shop: Shop) -> None:
    states = shop.lines("history", f"{NAME}:prod")
    began = datetime.fromisoformat(str(states[3]["time"])).isoformat(timespec="microseconds")

    for option, value, number in (
        ("--to", "2", 1),
        ("--to", digest(3), 3),
        ("--to", digest(2)[:15], 2),
        ("--at", began, 0),
    ):
        [way] = shop.lines("rollback", f"{NAME}:prod", option, value)
        assert way["digest"] == digest(number)
        assert shop.pull() == body(number)


def test_a_time_without_a_zone_is_in_that_of_the_machine(shop: Shop) -> None:
    now = datetime.now().astimezone().replace(tzinfo=None).isoformat(timespec="minutes")

    assert "history begins at" in shop.run("rollback", f"{NAME}:prod", "--at", now, zone="UTC-14:00", code=1).stderr
    assert "points at" in shop.run("rollback", f"{NAME}:prod", "--at", now, zone="UTC+12:00").stdout


def test_a_deleted_tag_is_listed_if_asked_for_and_restored(shop: Shop) -> None:
    assert [line["tag"] for line in shop.lines("list", NAME)] == ["prod"]
    assert [line["tag"] for line in shop.lines("list", NAME, "--deleted")] == ["old", "prod"]
    table = shop.run("list", NAME, "--deleted").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["old", "deleted"], ["prod", digest(3)[:19]]]
    assert "restore it" in shop.run("rollback", f"{NAME}:old", code=1).stderr

    shop.run("restore", f"{NAME}:old")

    assert shop.pull("old") == body(1)
    assert [line["why"] for line in shop.lines("history", f"{NAME}:old")] == ["restore", "delete", "push"]
    assert "nothing to restore" in shop.run("restore", f"{NAME}:old", code=1).stderr


def test_a_deleted_manifest_is_shown_as_gone_and_nothing_goes_back_to_it(shop: Shop) -> None:
    assert shop.client.delete(f"/v2/{NAME}/manifests/{digest(2)}").status_code == 202

    assert "(gone)" in shop.run("history", f"{NAME}:prod").stdout.splitlines()[2]
    assert "was deleted" in shop.run("rollback", f"{NAME}:prod", code=1).stderr


WRONG = (
    (("history", f"{NAME}:pord"), 1, "did you mean prod?"),
    (("rollback", f"{NAME}:olt"), 1, "did you mean old?"),
    (("history", "team/other:prod"), 1, "no tags at all"),
    (("list", "team/other"), 1, "no tags"),
    (("rollback", f"{NAME}:prod", "--to", "9"), 1, "the oldest that is known is 3"),
    (("rollback", f"{NAME}:prod", "--to", "sha256:0000"), 1, "never pointed at"),
    (("rollback", f"{NAME}:prod", "--to", "x"), 2, "expected the number of a state"),
    (("rollback", f"{NAME}:prod", "--at", "noon"), 2, "is no time"),
    (("rollback", f"{NAME}:prod", "--at", "2026-01-01", "--to", "1"), 2, "either --to or --at"),
    (("history", NAME), 2, "expected REPOSITORY:TAG"),
    (("history", f"{NAME}:.x"), 2, "a tag has at most"),
    (("history", "Team:prod"), 2, "lower-case"),
    (("restore", f"{NAME}@{digest(1)}"), 2, "expected REPOSITORY:TAG"),
)


def test_what_is_wrong_is_told_with_what_may_have_been_meant(shop: Shop) -> None:
    for arguments, code, told in WRONG:
        assert told in shop.run(*arguments, code=code).stderr


def test_a_rollback_is_in_the_audit_trail(shop: Shop, tmp_path: Path) -> None:
    config = tmp_path / "pierhead.toml"
    config.write_text(f'[audit]\nfile = "{tmp_path}/audit.log"\n')

    shop.run("rollback", f"{NAME}:prod", "--config", str(config))
    shop.run("restore", f"{NAME}:old", "--config", str(config))

    events = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [(each["event"], each["reference"], each.get("old"), each["new"]) for each in events] == [
        ("tag-rolled-back", "prod", digest(3), digest(2)),
        ("tag-restored", "old", None, digest(1)),
    ]
    assert events[0]["actor"] == f"operator:{getpass.getuser()}"


def test_what_another_registry_has_set_is_observed(shop: Shop) -> None:
    link = shop.data / f"docker/registry/v2/repositories/{NAME}/_manifests/tags/prod/current/link"
    link.write_text(digest(0))

    newest = shop.lines("history", f"{NAME}:prod")[0]

    assert (newest["digest"], newest["why"], newest["who"]) == (digest(0), "observed", "")
