"""What is done to a served registry stands in its audit trail, once and in order, and nothing secret does."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from registry.auth.htpasswd import add_user, set_hash
from registry.auth.passwords import hash_password
from storage.digest import Digest
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.running import ROOT, Server, eventually, start

PASSWORD = "correct horse"
POLICY = '[[rules]]\nwho = ["alice"]\nrepositories = ["**"]\nallow = ["*"]\n'


class Audited:
    """A registry of two workers with users, a policy and a trail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.users, self.policy, self.trail = (directory / name for name in ("users", "policy.toml", "audit.log"))
        add_user(self.users, "alice", hash_password("alice", PASSWORD, cost=4))
        self.policy.write_text(POLICY)
        self.server = self.start()
        self.http = httpx.Client(base_url=self.server.url, timeout=30)

    def start(self, **more: str) -> Server:
        environment = {
            "PIERHEAD_AUTH_HTPASSWD": str(self.users),
            "PIERHEAD_AUTH_POLICY": str(self.policy),
            "PIERHEAD_AUDIT_FILE": str(self.trail),
            **more,
        }
        return start(self.directory / "data", log=self.directory / "log", workers=2, environment=environment)

    def login(self, password: str = PASSWORD) -> Mapping[str, str]:
        """The header for a password."""
        return {"authorization": "Basic " + base64.b64encode(f"alice:{password}".encode()).decode()}

    def token(self, scope: str) -> Mapping[str, str]:
        """The header for a token."""
        answer = self.http.get("/token", params={"service": "pierhead", "scope": scope}, headers=self.login())
        assert answer.status_code == 200
        return {"authorization": f"Bearer {answer.json()['token']}"}

    def push(self, headers: Mapping[str, str], tag: str, number: str = "1") -> Digest:
        """Push an image."""
        for blob in (CONFIG, LAYER):
            query = {"digest": str(Digest.of(blob))}
            answer = self.http.post("/v2/team/app/blobs/uploads/", params=query, content=blob, headers=headers)
            assert answer.status_code == 201
        body = encode(image(annotations={"n": number}))
        kind = {"content-type": str(image()["mediaType"])}
        answer = self.http.put(f"/v2/team/app/manifests/{tag}", content=body, headers={**headers, **kind})
        assert answer.status_code == 201
        return Digest.of(body)

    def events(self) -> list[dict[str, object]]:
        """Every line of the trail so far."""
        return [json.loads(line) for line in self.trail.read_text().splitlines()]

    def verify(self) -> int:
        """Run `pierhead audit verify`, and return its exit code."""
        command = [sys.executable, "-m", "registry", "audit", "verify", "--file", str(self.trail)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
        ended = subprocess.run(
            [*command, "--data", str(self.directory / "data")], cwd=ROOT, env=environment, check=False, timeout=60
        )
        return ended.returncode

    def close(self) -> None:
        self.http.close()
        self.server.stop()


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Audited]:
    made = Audited(tmp_path)
    yield made
    made.close()


def test_everything_that_changes_something_is_there_with_who_and_what(audited: Audited) -> None:
    assert audited.http.get("/token", headers=audited.login("wrong horse")).status_code == 401
    assert audited.http.get("/token", headers=audited.login()).status_code == 200
    headers = audited.token("repository:team/app:pull,push,delete repository:team/copy:pull,push")
    first = audited.push(headers, "v1")
    audited.push(headers, "v1")  # the same again moves nothing
    second = audited.push(headers, "v1", "2")
    mount = {"mount": str(Digest.of(LAYER)), "from": "team/app"}
    assert audited.http.post("/v2/team/copy/blobs/uploads/", params=mount, headers=headers).status_code == 201
    for what in ("manifests/v1", f"manifests/{first}", f"manifests/{second}", f"blobs/{Digest.of(LAYER)}"):
        assert audited.http.delete(f"/v2/team/app/{what}", headers=headers).status_code == 202

    told = [
        {name: event[name] for name in ("event", "actor", "reference", "old", "new") if name in event}
        for event in audited.events()
        if event["event"] not in {"started", "users-changed", "policy-changed"}
    ]
    alice = {"actor": "user:alice"}
    assert told == [
        {"event": "login-failed", "actor": "anonymous"},
        {"event": "login", **alice},
        {"event": "token-issued", **alice},
        {"event": "push", **alice, "reference": str(first)},
        {"event": "tag-created", **alice, "reference": "v1", "new": str(first)},
        {"event": "push", **alice, "reference": str(first)},
        {"event": "push", **alice, "reference": str(second)},
        {"event": "tag-moved", **alice, "reference": "v1", "old": str(first), "new": str(second)},
        {"event": "mount", **alice, "reference": str(Digest.of(LAYER))},
        {"event": "tag-deleted", **alice, "reference": "v1", "old": str(second)},
        {"event": "manifest-deleted", **alice, "reference": str(first)},
        {"event": "manifest-deleted", **alice, "reference": str(second)},
        {"event": "blob-deleted", **alice, "reference": str(Digest.of(LAYER))},
    ]
    assert {event.get("address") for event in audited.events() if "reference" in event} == {"127.0.0.1"}
    assert audited.verify() == 0
    text = audited.trail.read_text()
    assert PASSWORD not in text
    assert headers["authorization"].removeprefix("Bearer ") not in text


def test_a_deleted_repository_is_written_down_with_what_it_held_and_asked_for_the_right(audited: Audited) -> None:
    path = "/v2/team/app/_pierhead/repository"
    audited.push(audited.token("repository:team/app:pull,push"), "v1")

    refused = audited.http.delete(path, headers=audited.token("repository:team/app:pull,push"))
    deleted = audited.http.delete(path, headers=audited.token("repository:team/app:delete"))

    assert (refused.status_code, deleted.status_code) == (401, 200)
    assert 'scope="repository:team/app:delete"' in refused.headers["www-authenticate"]
    event = audited.events()[-1]
    assert (event["event"], event["actor"], event["repository"]) == ("repository-deleted", "user:alice", "team/app")
    assert event["detail"] == {"tags": "1", "manifests": "1", "blobs": "2", "uploads": "0", "gone": "yes"}
    assert audited.verify() == 0


def test_a_changed_policy_and_changed_users_are_written_down_once_though_two_workers_see_it(audited: Audited) -> None:
    audited.policy.write_text(POLICY + "\n")
    set_hash(audited.users, "alice", hash_password("alice", "another horse", cost=4))

    def changes() -> list[object]:
        return [event["event"] for event in audited.events()[3:]]

    eventually(lambda: len(changes()) == 2, seconds=10)
    # Another second, in which the other worker looks.
    eventually(lambda: audited.http.get("/v2/", headers=audited.login("another horse")).status_code == 200)
    assert sorted(map(str, changes())) == ["policy-changed", "users-changed"]
    assert audited.verify() == 0


def test_what_was_changed_while_no_server_ran_is_written_down_at_the_next_start(audited: Audited) -> None:
    audited.server.stop()
    before = len(audited.events())
    audited.policy.write_text(POLICY + "# mended\n")

    audited.server = audited.start()

    assert [event["event"] for event in audited.events()[before:]] == ["policy-changed", "started"]
    assert audited.verify() == 0


def test_a_request_fails_whose_line_can_not_be_written(audited: Audited) -> None:
    audited.server.stop()
    audited.trail.unlink()
    audited.trail.symlink_to("/dev/full")

    with pytest.raises(RuntimeError, match="symbolic link can't be rotated"):
        audited.start()

    audited.trail.unlink()
    audited.server = audited.start()
    audited.http = httpx.Client(base_url=audited.server.url, timeout=30)
    audited.trail.unlink()
    audited.trail.mkdir()
    answer = audited.http.get("/token", headers=audited.login())
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["code"] == "UNAVAILABLE"
    audited.trail.rmdir()


def test_where_the_trail_is_not_required_requests_go_on_and_the_log_says_so(audited: Audited) -> None:
    audited.server.stop()
    audited.server = audited.start(PIERHEAD_AUDIT_REQUIRED="false")
    audited.http = httpx.Client(base_url=audited.server.url, timeout=30)
    audited.trail.unlink()
    audited.trail.mkdir()

    assert audited.http.get("/token", headers=audited.login()).status_code == 200

    assert "an event is not in the audit trail" in audited.server.log.read_text()
    audited.trail.rmdir()


def test_tokens_of_robots_are_written_down_by_the_command_that_makes_them(audited: Audited) -> None:
    environment = {**os.environ, "PIERHEAD_AUDIT_FILE": str(audited.trail)}
    data = str(audited.directory / "data")
    for arguments in (["create", "--name", "ci", "--repo", "team/**", "--allow", "pull"], ["revoke", "ci"]):
        command = [sys.executable, "-m", "registry", "token", *arguments, "--data", data]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=60)

    created, revoked = audited.events()[-2:]
    assert (created["event"], revoked["event"]) == ("token-created", "token-revoked")
    assert str(created["actor"]).startswith("operator:")
    assert created["detail"] == {"robot": "ci", "token": revoked["detail"]["token"], "grants": "pull in team/**"}  # type: ignore[index]
    assert audited.verify() == 0
