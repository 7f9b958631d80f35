"""Servers over one bucket: repositories that are deleted, immutable tags, and retention, each by another one."""

import json
import os

import httpx

from storage.digest import Digest
from tests.registry.images import CONFIG, encode, image
from tests.running import eventually
from tests.s3.replicas import Replicas
from tests.s3.test_serving import KIND, REPOSITORY, push_image

LAYER = os.urandom(1 << 20)
MANIFEST = f"/v2/{REPOSITORY}/manifests"
RULES = json.dumps([{"repositories": "team/**", "tags": "build-*", "keep_last": 1, "untagged_after": 3600}])


def test_a_repository_deleted_by_one_server_is_gone_on_all_whatever_they_remember(replicas: Replicas) -> None:
    first, second = replicas.add(), replicas.add()
    digest = push_image([first], LAYER, "v1")
    for client in (first, second):
        assert client.get(f"{MANIFEST}/v1").headers["docker-content-digest"] == str(digest)

    answer = second.delete(f"/v2/{REPOSITORY}/_pierhead/repository")

    assert answer.json()["deleted"] == {"tags": 1, "manifests": 1, "blobs": 2, "uploads": 0}, answer.text
    assert answer.json()["gone"]
    for client in (first, second):
        paths = ("manifests/v1", f"manifests/{digest}", f"blobs/{Digest.of(LAYER)}", "tags/list")
        assert [client.get(f"/v2/{REPOSITORY}/{path}").status_code for path in paths] == [404] * 4
        assert client.get("/v2/_catalog").json()["repositories"] == []
    # The first server has found both blobs a moment ago, and must not rely on that.
    refused = first.put(f"{MANIFEST}/v1", content=encode(image(LAYER)), headers=KIND)
    missing = {error["detail"]["digest"] for error in refused.json()["errors"]}
    assert (refused.status_code, missing) == (404, {str(Digest.of(CONFIG)), str(Digest.of(LAYER))})
    assert push_image([first], LAYER, "v1") == digest
    assert second.get("/v2/_catalog").json()["repositories"] == [REPOSITORY]
    assert replicas.run("verify").returncode == 0


def test_an_immutable_tag_set_by_one_server_is_moved_by_none(replicas: Replicas) -> None:
    replicas.environment["PIERHEAD_IMMUTABLE"] = '[{"repositories": "team/**", "tags": "v*"}]'
    first, second = replicas.add(), replicas.add()
    digest = push_image([first], LAYER, "v1")
    other = encode(image(LAYER, annotations={"another": "one"}))

    answers = [second.put(f"{MANIFEST}/v1", content=other, headers=KIND), second.delete(f"{MANIFEST}/v1")]
    answers.append(second.delete(f"{MANIFEST}/{digest}"))
    answers.append(second.delete(f"/v2/{REPOSITORY}/_pierhead/repository"))

    assert [answer.status_code for answer in answers] == [403] * 4
    assert first.get(f"{MANIFEST}/v1").headers["docker-content-digest"] == str(digest)
    ended = replicas.run("repo", "delete", f"{REPOSITORY}:v1", "--force", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert first.put(f"{MANIFEST}/v1", content=other, headers=KIND).status_code == 201


def test_one_of_all_servers_drops_what_the_rules_drop(replicas: Replicas) -> None:
    replicas.environment |= {
        "PIERHEAD_RETENTION_RULES": RULES,
        "PIERHEAD_RETENTION_DELAY_SECONDS": "0",
        "PIERHEAD_RETENTION_INTERVAL_SECONDS": "2",
    }
    first, second = replicas.add(), replicas.add()
    for number in range(3):
        body = encode(image(LAYER, annotations={"number": str(number)}))
        push_image([first], LAYER, "v1")
        assert first.put(f"{MANIFEST}/build-{number}", content=body, headers=KIND).status_code == 201

    def listed(client: httpx.Client) -> list[str]:
        return list(client.get(f"/v2/{REPOSITORY}/tags/list").json()["tags"])

    eventually(lambda: listed(second) == ["build-2", "v1"], seconds=60)
    assert listed(first) == ["build-2", "v1"]
    assert replicas.run("verify").returncode == 0
