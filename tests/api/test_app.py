"""A registry is put together from its settings; several of them live in one process without knowing each other."""

import pytest
from structlog.testing import capture_logs

from storage import keys
from storage.drivers import SmallObject
from storage.errors import LayoutUnknown
from storage.memory import MemoryDriver
from tests.api.client import REPOSITORY, Client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import encode, image
from tests.stores import body_at

PEER, PROXY, ADDRESS = "192.0.2.1", "198.51.100.7", "203.0.113.9"


async def test_two_registries_side_by_side_share_nothing(open_registry: OpenClient) -> None:
    first, second = await open_registry(MemoryDriver()), await open_registry(MemoryDriver())

    await first.push_manifest()

    assert (await first.http.get(f"{REPOSITORY}/manifests/latest")).status_code == 200
    assert (await second.http.get(f"{REPOSITORY}/manifests/latest")).status_code == 404
    assert (await second.http.get("_catalog")).json() == {"repositories": []}


async def test_starting_writes_the_layout_and_refuses_one_that_it_does_not_know(open_registry: OpenClient) -> None:
    driver = MemoryDriver()
    await open_registry(driver)
    assert await body_at(driver, keys.LAYOUT) == b"pierhead layout 1\n"

    await driver.put(keys.LAYOUT, b"pierhead layout 7\n")
    with pytest.raises(LayoutUnknown, match="start the version of Pierhead that wrote it"):
        await open_registry(driver)


async def test_a_registry_below_a_prefix_says_so_in_everything_that_leads_on(open_registry: OpenClient) -> None:
    client = await open_registry(MemoryDriver(), prefix="/registry")
    await client.push_manifest(reference="a")
    pushed = await client.push_manifest(reference="b")
    begun = await client.http.post(f"{REPOSITORY}/blobs/uploads/")
    listed = await client.http.get(f"{REPOSITORY}/tags/list?n=1")

    assert pushed.headers["location"].startswith(f"/registry/v2/{REPOSITORY}/manifests/sha256:")
    assert (await client.http.get(pushed.headers["location"])).content == encode(image())
    assert begun.headers["location"].startswith(f"/registry/v2/{REPOSITORY}/blobs/uploads/")
    assert (await client.http.get(begun.headers["location"])).status_code == 204
    assert listed.headers["link"].startswith(f"</registry/v2/{REPOSITORY}/tags/list?")
    assert (await client.http.get("/registry/v2")).status_code == 200
    for path in ("/v2/", "/registry", "/registryv2/", "/registry/registry/v2/"):
        assert refusal(await client.http.get(path)) == (404, "UNSUPPORTED")


async def location(client: Client, *, peer: str, **headers: str) -> str:
    answer = await client.ask(
        "POST",
        f"/v2/{REPOSITORY}/blobs/uploads/".encode(),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        peer=peer,
    )
    assert answer.status == 202
    return answer.headers["location"]


@pytest.mark.parametrize("peer", [PEER, PROXY])
async def test_a_prefix_is_believed_from_a_trusted_proxy_only(open_registry: OpenClient, peer: str) -> None:
    client = await open_registry(trusted_proxies=[PROXY])

    told = await location(client, peer=peer, x_forwarded_prefix="/hub/")

    assert told.startswith("/hub/v2/" if peer == PROXY else "/v2/")


@pytest.mark.parametrize(
    "prefix",
    ["//evil.example", "https://evil.example", "evil", "/a b", '/a">', "/a\r\nb", "/\xe9", "/..%2f", "/", ""],
)
async def test_a_prefix_that_is_no_path_is_ignored(open_registry: OpenClient, prefix: str) -> None:
    client = await open_registry(trusted_proxies=[PROXY])

    assert (await location(client, peer=PROXY, x_forwarded_prefix=prefix)).startswith("/v2/")


async def test_headers_that_name_another_host_lead_nobody_there(open_registry: OpenClient) -> None:
    client = await open_registry(trusted_proxies=[PROXY])

    for peer in (PEER, PROXY):
        told = await location(
            client, peer=peer, host="evil.example", x_forwarded_host="evil.example", x_forwarded_proto="https"
        )
        assert told.startswith(f"/v2/{REPOSITORY}/blobs/uploads/")


@pytest.mark.parametrize(
    ("peer", "chain", "expected"),
    [
        (PEER, ADDRESS, PEER),
        (PROXY, ADDRESS, ADDRESS),
        (PROXY, f"1.1.1.1, {ADDRESS}", ADDRESS),
        (PROXY, f"1.1.1.1, {ADDRESS}, {PROXY}", ADDRESS),
        (PROXY, "", PROXY),
        (PROXY, PROXY, PROXY),
        (PROXY, "1.1.1.1\x1b[31m", PROXY),
        (PROXY, "caf\xe9", PROXY),
    ],
)
async def test_the_log_names_the_last_address_that_no_trusted_proxy_vouches_for(
    open_registry: OpenClient, peer: str, chain: str, expected: str
) -> None:
    driver = FailingDriver()
    client = await open_registry(driver, trusted_proxies=[PROXY])

    with capture_logs() as logs:
        answer = await client.ask(
            "GET", f"/v2/{REPOSITORY}/manifests/latest".encode(), headers={"x-forwarded-for": chain}, peer=peer
        )

    assert answer.status == 500
    assert [line["client"] for line in logs if "client" in line] == [expected]


class FailingDriver(MemoryDriver):
    """Fails at each look at a tag."""

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        if key.startswith(keys.REPOSITORIES):
            raise ZeroDivisionError
        return await super().get(key, bytes_max=bytes_max)
