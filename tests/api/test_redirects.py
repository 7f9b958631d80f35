"""end-2 where the store gives URLs: a GET is sent there, and everything else is answered as it always is."""

from pathlib import Path

import pytest

from storage import keys
from storage.blobs import BlobStore
from storage.digest import Digest
from tests.api.callers import PASSWORDS, Asked, House, basic, send
from tests.api.client import OTHER, REPOSITORY, Client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import LAYER
from tests.stores import PresigningDriver

BODY = bytes(range(256)) * 4
INSIDE, OUTSIDE, PROXY = "10.1.2.3", "192.0.2.1", "203.0.113.7"
NETWORKS = ["10.0.0.0/8", "fd00::/8"]


@pytest.fixture
def driver() -> PresigningDriver:
    return PresigningDriver()


def path(digest: Digest, name: str = REPOSITORY) -> str:
    return f"{name}/blobs/{digest}"


def url(digest: Digest, seconds: int = 1200) -> str:
    return f"https://store.example/{keys.blob(digest)}?seconds={seconds}"


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"range": "bytes=5-"}, {"if-none-match": '"other"'}])
async def test_get_is_sent_to_the_store_whose_bytes_nobody_reads_here(
    client: Client, driver: PresigningDriver, headers: dict[str, str]
) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers=headers)

    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"] == url(digest)
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-length"] == "0"
    assert "content-type" not in answer.headers
    assert driver.opened == []


async def test_a_blob_by_its_sha512_is_found_where_its_bytes_lie(client: Client) -> None:
    digest = await client.push_blob(BODY, algorithm="sha512")

    answer = await client.http.get(path(digest))

    assert (answer.status_code, answer.headers["location"]) == (307, url(Digest.of(BODY)))
    assert answer.headers["docker-content-digest"] == str(digest)


async def test_head_is_answered_here(client: Client) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.head(path(digest))

    assert (answer.status_code, answer.headers["content-length"]) == (200, "1024")
    assert "location" not in answer.headers


async def test_what_the_client_has_already_is_304(client: Client) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers={"if-none-match": f'"{digest}"'})

    assert (answer.status_code, answer.headers["etag"]) == (304, f'"{digest}"')


async def test_a_range_outside_is_416_as_ever(client: Client) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers={"range": "bytes=1024-"})

    assert refusal(answer) == (416, "SIZE_INVALID")
    assert answer.headers["content-range"] == "bytes */1024"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"range": "bytes=0-9,20-29"}, 206),
        ({"range": "bytes=0-9", "if-range": '"{digest}"'}, 206),
        ({"range": "bytes=0-9", "if-range": '"other"'}, 200),
        ({"if-match": '"{digest}"'}, 200),
    ],
)
async def test_what_the_store_would_understand_otherwise_is_answered_here(
    client: Client, headers: dict[str, str], status: int
) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers={k: v.format(digest=digest) for k, v in headers.items()})

    assert answer.status_code == status


async def test_an_object_without_a_url_is_streamed(client: Client, driver: PresigningDriver) -> None:
    digest = await client.push_blob(BODY)
    driver.without_url.add(keys.blob(digest))

    whole, part = (
        await client.http.get(path(digest)),
        await client.http.get(path(digest), headers={"range": "bytes=-4"}),
    )

    assert (whole.status_code, whole.content) == (200, BODY)
    assert (part.status_code, part.content) == (206, BODY[-4:])


async def test_an_unknown_blob_is_404(client: Client) -> None:
    elsewhere = await client.push_blob(BODY, name=OTHER)

    for digest in (Digest.of(b"absent"), elsewhere):
        assert refusal(await client.http.get(path(digest))) == (404, "BLOB_UNKNOWN")


async def test_a_blob_that_is_missing_unreadable_or_damaged_is_404(client: Client, driver: PresigningDriver) -> None:
    missing, unreadable, damaged, empty = [await client.push_blob(bytes([n]) * 9) for n in range(4)]
    await driver.delete(keys.blob(missing))
    driver.refused.add(keys.blob(unreadable))
    await BlobStore(driver).condemn(damaged, await driver.stat(keys.blob(damaged)))
    await driver.put(keys.blob(empty), b"")

    for digest in (missing, unreadable, damaged, empty):
        answer = await client.http.get(path(digest))
        assert refusal(answer) == (404, "BLOB_UNKNOWN")
        assert answer.json()["errors"][0]["message"] == "the stored blob is damaged: push it again"


async def test_redirects_are_switched_off(open_registry: OpenClient) -> None:
    client = await open_registry(s3={"redirect": False})
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest))

    assert (answer.status_code, answer.content) == (200, BODY)


@pytest.mark.parametrize(("seconds", "told"), [(1, 1), ("90s", 90), ("7d", 604800), (2.5, 2)])
async def test_a_url_lasts_as_long_as_was_configured(open_registry: OpenClient, seconds: object, told: int) -> None:
    client = await open_registry(s3={"redirect_seconds": seconds})
    digest = await client.push_blob(BODY)

    assert (await client.http.get(path(digest))).headers["location"] == url(digest, told)


@pytest.mark.parametrize(
    ("peer", "chain", "status"),
    [
        (INSIDE, None, 307),
        ("::ffff:10.1.2.3", None, 307),
        ("fd00::7", None, 307),
        (OUTSIDE, None, 200),
        ("fe80::7", None, 200),
        (PROXY, None, 200),
        (PROXY, INSIDE, 307),
        (PROXY, "[fd00::7]:4711", 307),
        (PROXY, OUTSIDE, 200),
        (PROXY, f"{INSIDE}, {OUTSIDE}", 200),
        (PROXY, f"{OUTSIDE}, {INSIDE}, {PROXY}", 307),
        (PROXY, "unknown", 200),
        (OUTSIDE, INSIDE, 200),
        (INSIDE, OUTSIDE, 307),
    ],
)
async def test_only_clients_of_the_networks_are_sent_away_by_the_word_of_trusted_proxies(
    open_registry: OpenClient, peer: str, chain: str | None, status: int
) -> None:
    client = await open_registry(trusted_proxies=[PROXY], s3={"redirect_networks": NETWORKS})
    digest = await client.push_blob(BODY)

    headers = {} if chain is None else {"x-forwarded-for": chain}
    answer = await client.ask("GET", f"/v2/{path(digest)}".encode(), headers=headers, peer=peer)

    assert answer.status == status
    assert answer.body == (BODY if status == 200 else b"")


async def test_nobody_is_sent_anywhere_that_may_not_pull(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.driver = PresigningDriver()
    await house.fill("team/app", "secret/app")
    registry = await house.open()

    async def get(repository: str, user: str) -> tuple[int, bool]:
        headers = basic(user, PASSWORDS[user]) if user else {}
        answer = await send(registry, Asked("GET", f"/v2/{repository}/blobs/{Digest.of(LAYER)}", headers=headers))
        return answer.status, "location" in answer.headers

    assert await get("team/app", "bob") == (307, True)
    assert await get("secret/app", "alice") == (307, True)
    assert await get("secret/app", "bob") == (403, False)
    assert await get("team/app", "carol") == (403, False)
    assert await get("team/app", "") == (401, False)
    await registry.close()
