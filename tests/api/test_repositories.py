"""DELETE of a whole repository over HTTP."""

import pytest

from storage.digest import Digest
from tests.api.client import OTHER, REPOSITORY, Client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import LAYER

PATH = f"{REPOSITORY}/_pierhead/repository"


async def test_a_deleted_repository_is_in_no_listing_and_answers_nothing(client: Client) -> None:
    await client.push_manifest(reference="v1")
    await client.push_manifest(name=OTHER)

    answer = await client.http.delete(PATH)

    assert answer.status_code == 200
    assert answer.json() == {
        "name": REPOSITORY,
        "deleted": {"tags": 1, "manifests": 1, "blobs": 2, "uploads": 0},
        "gone": True,
    }
    assert (await client.http.get("_catalog")).json() == {"repositories": [OTHER]}
    assert refusal(await client.http.get(f"{REPOSITORY}/tags/list")) == (404, "NAME_UNKNOWN")
    assert refusal(await client.http.get(f"{REPOSITORY}/manifests/v1")) == (404, "MANIFEST_UNKNOWN")
    layer = f"blobs/{Digest.of(LAYER)}"
    assert (await client.http.get(f"{REPOSITORY}/{layer}")).status_code == 404
    assert (await client.http.get(f"{OTHER}/{layer}")).content == LAYER
    assert refusal(await client.http.delete(PATH)) == (404, "NAME_UNKNOWN")


async def test_what_is_immutable_keeps_its_repository(open_registry: OpenClient) -> None:
    client = await open_registry(immutable=[{"repositories": "**", "tags": "v*"}])
    await client.push_manifest(reference="v1")

    answer = await client.http.delete(PATH)

    assert refusal(answer) == (403, "DENIED")
    assert answer.json()["errors"][0]["detail"]["tag"] == "v1"
    assert (await client.http.get(f"{REPOSITORY}/manifests/v1")).status_code == 200


async def test_where_deletion_is_switched_off_it_is_refused(open_registry: OpenClient) -> None:
    client = await open_registry(delete=False)
    await client.push_manifest()

    assert refusal(await client.http.delete(PATH)) == (405, "UNSUPPORTED")


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_there_is_nothing_else_at_that_address(client: Client, method: str) -> None:
    answer = await client.http.request(method, PATH)

    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE")


async def test_the_extension_is_discovered(client: Client) -> None:
    found = (await client.http.get(f"{REPOSITORY}/_oci/ext/discover")).json()["extensions"]

    assert f"/v2/{PATH}" in [endpoint for each in found for endpoint in each["endpoints"]]
