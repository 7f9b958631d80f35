"""Immutable tags over HTTP: the refusal tells the rule and what the tag points at."""

import pytest

from storage.digest import Digest
from tests.api.client import REPOSITORY, Client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import encode, image

OTHER_IMAGE = image(annotations={"a": "b"})
DIGEST = Digest.of(encode(image()))


@pytest.fixture
async def client(open_registry: OpenClient) -> Client:
    return await open_registry(immutable=[{"repositories": ["team/**"], "tags": ["v*"]}])


async def test_a_push_that_would_move_an_immutable_tag_is_denied_with_rule_and_digest(client: Client) -> None:
    assert (await client.push_manifest(reference="v1")).status_code == 201

    again = await client.put_manifest(reference="v1")
    moved = await client.put_manifest(OTHER_IMAGE, "v1")

    assert again.status_code == 201
    assert refusal(moved) == (403, "DENIED")
    [error] = moved.json()["errors"]
    assert error["detail"] == {"rule": "immutable rule 1 (team/** v*)", "tag": "v1", "current": str(DIGEST)}
    assert str(DIGEST) in error["message"]
    assert (await client.http.get(f"{REPOSITORY}/manifests/v1")).headers["docker-content-digest"] == str(DIGEST)


@pytest.mark.parametrize("reference", ["v1", str(DIGEST)])
async def test_a_deletion_of_it_or_of_its_manifest_is_denied(client: Client, reference: str) -> None:
    await client.push_manifest(reference="v1")

    answer = await client.http.delete(f"{REPOSITORY}/manifests/{reference}")

    assert refusal(answer) == (403, "DENIED")
    assert answer.json()["errors"][0]["detail"]["rule"] == "immutable rule 1 (team/** v*)"
    assert (await client.http.get(f"{REPOSITORY}/manifests/v1")).status_code == 200


async def test_a_tag_parameter_is_held_to_the_rule_as_well(client: Client) -> None:
    await client.push_manifest(reference="v1")
    digest = Digest.of(encode(OTHER_IMAGE))

    answer = await client.put_manifest(OTHER_IMAGE, f"{digest}?tag=v1&tag=latest")

    assert refusal(answer) == (403, "DENIED")
    assert (await client.http.get(f"{REPOSITORY}/tags/list")).json()["tags"] == ["v1"]
