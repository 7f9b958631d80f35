"""end-2 and end-10: pulling blobs, whole and in ranges, and deleting them."""

import json
from collections.abc import Awaitable, Callable

import httpx
import pytest
from structlog.testing import capture_logs

from registry.asgi import AnswerBroken
from storage import keys
from storage.digest import SHA512, Digest
from storage.drivers import PIECE_BYTES
from tests.api.client import OTHER, REPOSITORY, Client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import LAYER
from tests.stores import StepDriver, damages

BODY = bytes(range(256)) * 4
LARGE = BODY * (PIECE_BYTES // len(BODY)) + b"the last piece"
NO_DIGESTS = ["latest", "sha256:abc", f"sha256:{'A' * 64}", f"md5:{'a' * 32}", f"sha384:{'a' * 96}", "sha256:", ":"]

Get = Callable[..., Awaitable[httpx.Response]]


def path(digest: Digest, name: str = REPOSITORY) -> str:
    return f"{name}/blobs/{digest}"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("body", [b"", b"x", BODY, LARGE], ids=["empty", "one byte", "small", "two pieces"])
async def test_get_gives_the_bytes_and_head_the_same_headers(client: Client, body: bytes, algorithm: str) -> None:
    digest = await client.push_blob(body, algorithm=algorithm)

    got, head = await client.http.get(path(digest)), await client.http.head(path(digest))

    assert (got.status_code, head.status_code) == (200, 200)
    assert got.content == body
    assert dict(got.headers) == dict(head.headers)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(len(body))
    assert got.headers["docker-content-digest"] == str(digest)
    assert got.headers["accept-ranges"] == "bytes"
    assert got.headers["etag"] == f'"{digest}"'
    assert "max-age=31536000" in got.headers["cache-control"]
    assert "private" in got.headers["cache-control"]


async def test_a_pushed_page_does_not_run_in_a_browser(client: Client) -> None:
    digest = await client.push_blob(b"<script>alert(1)</script>")

    headers = (await client.http.get(path(digest), headers={"accept": "text/html"})).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox"
    assert headers["content-type"] == "application/octet-stream"


async def test_nothing_is_compressed_however_much_a_client_likes_it(client: Client) -> None:
    digest = await client.push_blob(b"x" * 10_000)

    answer = await client.http.get(path(digest), headers={"accept-encoding": "zstd;q=1.0, gzip;q=0.8"})

    assert answer.headers["content-length"] == "10000"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_an_unknown_blob_is_404(client: Client, method: str) -> None:
    elsewhere = await client.push_blob(BODY, name=OTHER)

    for digest in (Digest.of(b"absent"), Digest.of(b"absent", SHA512), elsewhere):
        for name in (REPOSITORY, "no/such/repository"):
            answer = await client.http.request(method, path(digest, name))
            assert answer.status_code == 404
            if method != "HEAD":
                assert refusal(answer) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("text", NO_DIGESTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_what_is_no_digest_is_400(client: Client, method: str, text: str) -> None:
    answer = await client.http.request(method, f"{REPOSITORY}/blobs/{text}")

    assert answer.status_code == 400
    if method != "HEAD":
        assert refusal(answer) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-9", 0, 9),
        ("bytes=5-", 5, 1023),
        ("bytes=1023-", 1023, 1023),
        ("bytes=-10", 1014, 1023),
        ("bytes=-5000", 0, 1023),
        ("bytes=1000-5000", 1000, 1023),
        ("BYTES=1-2", 1, 2),
        ("bytes= 1-2 ", 1, 2),
        ("bytes=0-1023", 0, 1023),
    ],
)
async def test_one_range_is_206_with_its_place(client: Client, wanted: str, start: int, end: int) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers={"range": wanted})

    assert answer.status_code == 206
    assert answer.content == BODY[start : end + 1]
    assert answer.headers["content-range"] == f"bytes {start}-{end}/1024"
    assert answer.headers["content-length"] == str(end - start + 1)
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("wanted", ["bytes=1024-", "bytes=1024-2000", "bytes=500-0", "bytes=-0", "bytes=9999-,8888-"])
async def test_a_range_outside_is_416_with_the_size(client: Client, wanted: str) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(path(digest), headers={"range": wanted})

    assert refusal(answer) == (416, "SIZE_INVALID")
    assert answer.headers["content-range"] == "bytes */1024"


@pytest.mark.parametrize("wanted", ["bytes=0-", "bytes=0-0", "bytes=-1"])
async def test_an_empty_blob_has_no_range(client: Client, wanted: str) -> None:
    digest = await client.push_blob(b"")

    answer = await client.http.get(path(digest), headers={"range": wanted})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == "bytes */0"


NO_RANGES = ["bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=1-2-3", "lines=1-2", "1-2", "="]
ODD_RANGES = ["bytes=0-9,x", "bytes=0-1023,0-1023", "bytes=+1-2", "bytes=1-\N{SUPERSCRIPT TWO}", "bytes=0-9,5000-5001"]


@pytest.mark.parametrize("wanted", [*NO_RANGES, *ODD_RANGES])
async def test_what_is_no_range_or_more_than_the_whole_is_ignored(client: Client, wanted: str) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.ask("GET", f"/v2/{path(digest)}".encode(), headers={"range": wanted})

    assert (answer.status, answer.body) == (200, BODY)


async def test_several_ranges_come_as_parts_in_the_order_asked_for(client: Client) -> None:
    digest = await client.push_blob(LARGE)

    answer = await client.http.get(
        path(digest), headers={"range": f"bytes=20-29,0-9,-4,{PIECE_BYTES - 2}-{PIECE_BYTES + 1}"}
    )

    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert (answer.status_code, kind) == (206, "multipart/byteranges")
    assert "content-range" not in answer.headers
    empty, *parts, end = answer.content.split(b"--" + boundary.encode())
    assert (empty, end) == (b"\r\n", b"--\r\n")
    size = len(LARGE)
    for part, (first, last) in zip(
        parts, [(20, 29), (0, 9), (size - 4, size - 1), (PIECE_BYTES - 2, PIECE_BYTES + 1)], strict=True
    ):
        head, _, content = part.partition(b"\r\n\r\n")
        assert f"Content-Range: bytes {first}-{last}/{size}".encode() in head.splitlines()
        assert content == LARGE[first : last + 1] + b"\r\n"


async def test_a_flood_of_ranges_is_ignored(client: Client) -> None:
    digest = await client.push_blob(BODY)
    flood = "bytes=" + ",".join(f"{place % 1024}-{place % 1024}" for place in range(1025))

    answer = await client.http.get(path(digest), headers={"range": flood})

    assert (answer.status_code, answer.content) == (200, BODY)


async def test_head_ignores_a_range(client: Client) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.head(path(digest), headers={"range": "bytes=5000-"})

    assert (answer.status_code, answer.headers["content-length"]) == (200, "1024")


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"{digest}"', 206),
        ("{digest}", 200),
        ('"other"', 200),
        ('W/"{digest}"', 200),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 200),
    ],
)
async def test_if_range_voids_the_range_of_other_content(client: Client, condition: str, status: int) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.get(
        path(digest), headers={"range": "bytes=0-9", "if-range": condition.format(digest=digest)}
    )

    assert answer.status_code == status
    assert answer.content == (BODY[:10] if status == 206 else BODY)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("condition", "status"),
    [('"{digest}"', 304), ("{digest}", 304), ('W/"{digest}"', 304), ("*", 304), ('"a", "{digest}"', 304), ('"a"', 200)],
)
async def test_content_that_the_client_has_is_304(client: Client, method: str, condition: str, status: int) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.request(
        method, path(digest), headers={"if-none-match": condition.format(digest=digest), "range": "bytes=0-1"}
    )

    assert answer.status_code == (206 if status == 200 and method == "GET" else status)
    assert answer.headers["etag"] == f'"{digest}"'


async def test_deleting_is_202_and_seen_at_once_by_every_worker(client: Client, open_registry: OpenClient) -> None:
    worker = await open_registry()
    digest = await client.push_blob(BODY)
    await client.push_blob(BODY, name=OTHER)
    assert (await worker.http.get(path(digest))).status_code == 200

    answer = await client.http.delete(path(digest))

    assert (answer.status_code, answer.content) == (202, b"")
    for who in (client, worker):
        assert (await who.http.head(path(digest))).status_code == 404
        assert (await who.http.get(path(digest, OTHER))).content == BODY
    assert refusal(await client.http.delete(path(digest))) == (404, "BLOB_UNKNOWN")
    await worker.push_blob(BODY)
    assert (await client.http.get(path(digest))).content == BODY


async def test_a_blob_that_a_manifest_needs_is_not_deleted(client: Client) -> None:
    manifest = await client.push_manifest()
    digest = Digest.of(LAYER)

    answer = await client.http.delete(path(digest))

    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.json()["errors"][0]["detail"] == {"manifest": manifest.headers["docker-content-digest"]}
    assert (await client.http.get(path(digest))).content == LAYER


async def test_where_deletion_is_off_it_is_405(open_registry: OpenClient) -> None:
    client = await open_registry(delete=False)
    digest = await client.push_blob(BODY)

    assert refusal(await client.http.delete(path(digest))) == (405, "UNSUPPORTED")
    assert (await client.http.get(path(digest))).content == BODY


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "OPTIONS", "TRACE"])
async def test_another_method_is_405_with_those_there_are(client: Client, method: str) -> None:
    digest = await client.push_blob(BODY)

    answer = await client.http.request(method, path(digest))

    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize("damaged", [LARGE[:-1], b"X" + LARGE[1:], LARGE[:-1] + b"X", LARGE[: PIECE_BYTES // 2]])
async def test_a_damaged_blob_never_comes_whole_is_404_from_then_on_and_healed_by_a_push(
    client: Client, driver: StepDriver, damaged: bytes
) -> None:
    digest, sound = await client.push_blob(LARGE), await client.push_blob(BODY)
    await driver.put(keys.blob(digest), damaged)

    # The status is out before the damage is known: the connection breaks off, short of the length that was stated.
    with capture_logs() as logs, pytest.raises(AnswerBroken):
        await client.http.get(path(digest))
    assert keys.blob(digest) in damages(logs)

    for method in ("HEAD", "GET"):
        assert (await client.http.request(method, path(digest))).status_code == 404
    assert (await client.http.get(path(sound))).content == BODY
    await client.push_blob(LARGE)
    assert (await client.http.get(path(digest))).content == LARGE


async def test_an_emptied_blob_is_404_at_once_and_healed_by_a_push(client: Client, driver: StepDriver) -> None:
    digest = await client.push_blob(BODY)
    await driver.put(keys.blob(digest), b"")

    with capture_logs() as logs:
        assert refusal(await client.http.get(path(digest))) == (404, "BLOB_UNKNOWN")
        assert (await client.http.head(path(digest))).status_code == 404
    assert damages(logs) == [keys.blob(digest)] * 2

    await client.push_blob(BODY)
    assert (await client.http.get(path(digest))).content == BODY


@pytest.mark.parametrize("text", [b"", b"sha256:", b"x" * 5000])
async def test_a_damaged_link_is_404_logged_and_healed_by_a_push(
    client: Client, driver: StepDriver, text: bytes
) -> None:
    digest = await client.push_blob(BODY)
    key = keys.layer_link(REPOSITORY, digest)
    await driver.put(key, text)

    with capture_logs() as logs:
        answer = await client.http.get(path(digest))

    assert refusal(answer) == (404, "BLOB_UNKNOWN")
    assert "push it again" in json.loads(answer.content)["errors"][0]["message"]
    assert damages(logs) == [key]
    await client.push_blob(BODY)
    assert (await client.http.get(path(digest))).content == BODY


async def test_a_blob_that_may_not_be_read_is_404_and_logged(client: Client, driver: StepDriver) -> None:
    digest = await client.push_blob(BODY)
    driver.refused = {keys.blob(digest)}

    with capture_logs() as logs:
        assert (await client.http.head(path(digest))).status_code == 404
        assert refusal(await client.http.get(path(digest))) == (404, "BLOB_UNKNOWN")

    assert damages(logs) == [keys.blob(digest)] * 2
