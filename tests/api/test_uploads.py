"""end-4a, 4b, 4c, 5, 6, 11, 13 and 14: upload sessions, whole blobs and mounts."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import keys
from storage.digest import SHA512, Digest
from storage.drivers import Capabilities
from storage.errors import StorageFull, StorageReadOnly, StorageUnavailable
from storage.memory import MemoryDriver
from tests.api.client import OTHER, REPOSITORY, Client, chunked, code, open_client, refusal
from tests.api.conftest import OpenClient
from tests.stores import StepDriver

BODY = b"some bytes of a layer"
DIGEST = Digest.of(BODY)
UPLOADS = f"{REPOSITORY}/blobs/uploads/"
BLOB = f"{REPOSITORY}/blobs/{DIGEST}"
NO_DIGESTS = [
    "",
    "sha256:abc",
    f"sha256:{'A' * 64}",
    f"md5:{'a' * 32}",
    f"sha384:{'a' * 96}",
    "abc",
    f"sha512:{'a' * 64}",
]


async def finish(client: Client, location: str, digest: Digest | str = DIGEST, content: bytes = b"") -> httpx.Response:
    return await client.http.put(location, params={"digest": str(digest)}, content=content)


async def holds(client: Client, digest: Digest = DIGEST, body: bytes = BODY, *, name: str = REPOSITORY) -> bool:
    answer = await client.http.get(f"{name}/blobs/{digest}")
    return answer.status_code == 200 and answer.content == body


def is_session(answer: httpx.Response, size: int, *, name: str = REPOSITORY) -> bool:
    """Whether an answer has all that a client goes on by."""
    headers = answer.headers
    upload = headers["docker-upload-uuid"]
    return (
        headers["location"] == f"/v2/{name}/blobs/uploads/{upload}"
        and headers["range"] == f"0-{max(0, size - 1)}"
        and len(upload) >= 32
    )


async def test_post_begins_a_session(client: Client) -> None:
    answer = await client.http.post(UPLOADS)

    assert answer.status_code == 202
    assert is_session(answer, 0)
    assert answer.headers["content-length"] == "0"
    assert "oci-chunk-min-length" not in answer.headers


@pytest.mark.parametrize("path", [UPLOADS, UPLOADS.removesuffix("/"), UPLOADS + "?origin=x&ns=y"])
async def test_post_takes_what_clients_make_of_it(client: Client, path: str) -> None:
    answer = await client.http.post(path, headers={"content-type": "application/json"}, content=b"{}")

    assert answer.status_code == 202


async def test_ids_are_not_to_be_guessed(client: Client) -> None:
    ids = {(await client.http.post(UPLOADS)).headers["docker-upload-uuid"] for _ in range(50)}

    assert len(ids) == 50
    assert all(len(upload) * 4 >= 122 for upload in ids)


async def test_a_store_that_minds_short_chunks_says_so_and_takes_them_all_the_same(open_registry: OpenClient) -> None:
    driver = MemoryDriver()
    driver.capabilities = Capabilities(append_bytes_min=5 << 20)
    client = await open_registry(driver)

    answer = await client.http.post(UPLOADS)

    assert answer.headers["oci-chunk-min-length"] == str(5 << 20)
    assert (await client.http.patch(answer.headers["location"], content=b"x")).status_code == 202


async def test_docker_pushes_by_one_stream_and_an_empty_put(client: Client) -> None:
    location = await client.begin()

    patched = await client.http.patch(location, content=chunked(BODY[:7], b"", BODY[7:]))
    put = await finish(client, patched.headers["location"])
    head = await client.http.head(BLOB)

    assert patched.status_code == 202
    assert is_session(patched, len(BODY))
    assert put.status_code == 201
    assert put.headers["location"] == f"/v2/{BLOB}"
    assert put.headers["docker-content-digest"] == str(DIGEST)
    assert put.headers["content-length"] == "0"
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(BODY)))
    assert await holds(client)


async def test_containerd_pushes_by_one_put(client: Client) -> None:
    answer = await client.http.put(f"{await client.begin()}?digest=sha256%3A{DIGEST.hex}", content=BODY)

    assert answer.status_code == 201
    assert await holds(client)


@pytest.mark.parametrize("prefix", ["", "bytes "])
@pytest.mark.parametrize("suffix", ["", "/*", f"/{len(BODY)}"])
async def test_chunks_are_taken_in_their_order_in_each_spelling_of_their_range(
    client: Client, prefix: str, suffix: str
) -> None:
    location = await client.begin()
    for start in (0, 7, 14):
        chunk = BODY[start : start + 7]
        answer = await client.http.patch(
            location,
            content=chunk,
            headers={"content-range": f"{prefix}{start}-{start + len(chunk) - 1}{suffix}"},
        )
        assert answer.status_code == 202
        assert is_session(answer, start + len(chunk))

    assert (await finish(client, location)).status_code == 201
    assert await holds(client)


async def test_the_last_chunk_may_come_with_the_digest(client: Client) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7], headers={"content-range": "0-6"})

    answer = await client.http.put(
        location, params={"digest": str(DIGEST)}, content=BODY[7:], headers={"content-range": f"7-{len(BODY) - 1}"}
    )

    assert answer.status_code == 201
    assert await holds(client)


async def test_streams_and_chunks_may_be_mixed(client: Client) -> None:
    location = await client.begin()
    await client.http.patch(location, content=chunked(BODY[:3]))
    await client.http.patch(location, content=chunked(BODY[3:7]), headers={"content-range": "3-6"})
    await client.http.patch(location, content=BODY[7:9])

    assert (await finish(client, location, content=BODY[9:])).status_code == 201
    assert await holds(client)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_tells_where_to_go_on(client: Client, method: str) -> None:
    location = await client.begin()
    for size in (0, 1, 7):
        await client.http.patch(location, content=BODY[:size], headers={"content-range": f"0-{size - 1}"})
        answer = await client.http.request(method, location)
        assert answer.status_code == 204
        assert is_session(answer, size)
        location = await client.begin()


OTHER_PLACES = ["0-6", "6-12", "8-14", "100-200", f"{10**18}-{10**18 + 1}", "9" * 30 + "-" + "9" * 31]
NO_PLACES = [
    "",
    "7",
    "7-",
    "-7",
    "7-6",
    "0--1",
    "a-b",
    "7-13,14-20",
    "+7-13",
    "bytes=7-13",
    "7-13/x",
    "7 - 13",
    "\xb2-7",
]


@pytest.mark.parametrize("wanted", [*OTHER_PLACES, *NO_PLACES])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_chunk_for_another_place_is_416_with_the_truth_and_changes_nothing(
    client: Client, method: str, wanted: str
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    answer = await client.ask(
        method,
        location.encode(),
        query=f"digest={DIGEST}".encode(),
        headers={"content-range": wanted},
        pieces=[b"XXXXXXX"],
    )

    assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert (answer.headers["range"], answer.headers["location"]) == ("0-6", location)
    assert await client.offset(location) == 7
    assert (await finish(client, location, content=BODY[7:])).status_code == 201
    assert await holds(client)


async def test_the_first_location_stays_good_for_a_retry_and_a_look(client: Client) -> None:
    first = await client.begin()
    await client.http.patch(first, content=BODY[:7], headers={"content-range": "0-6"})

    again = await client.http.patch(first, content=BODY[:7], headers={"content-range": "0-6"})
    look = await client.http.get(first)

    assert refusal(again) == (416, "BLOB_UPLOAD_INVALID")
    assert (look.status_code, look.headers["range"]) == (204, "0-6")


@pytest.mark.parametrize("wanted", ["7-7", "7-12", "7-14", "7-1000"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_chunk_of_another_length_than_its_range_is_400_and_changes_nothing(
    client: Client, method: str, wanted: str, announced: bool
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    content = BODY[7:14] if announced else chunked(BODY[7:10], BODY[10:14])
    answer = await client.http.request(
        method, location, params={"digest": str(DIGEST)}, content=content, headers={"content-range": wanted}
    )

    assert refusal(answer) == (400, "SIZE_INVALID")
    assert await client.offset(location) == 7


@given(
    st.text("0123456789-/* bytes=,x", max_size=14) | st.from_regex(r"(bytes )?[0-9]{1,2}-[0-9]{1,2}", fullmatch=True)
)
async def test_whatever_content_range_says_a_session_holds_what_it_tells(wanted: str) -> None:
    client = await open_client(MemoryDriver())
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    answer = await client.ask(
        "PATCH", location.encode(), headers={"content-range": wanted}, pieces=[BODY[7:10], BODY[10:14]]
    )

    is_right = wanted.strip().removeprefix("bytes ").partition("/")[0] == "7-13"
    assert answer.status in ((202, 416) if is_right else (400, 416))
    size = await client.offset(location)
    assert size == (14 if answer.status == 202 else 7)
    assert (await finish(client, location, content=BODY[size:])).status_code == 201
    assert await holds(client)
    await client.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "PUT", "DELETE"])
async def test_an_unknown_session_is_404(client: Client, method: str) -> None:
    location = await client.begin()
    upload = location.rpartition("/")[2]

    for path in (
        f"{UPLOADS}{'0' * 32}",
        f"{OTHER}/blobs/uploads/{upload}",
        f"{UPLOADS}{upload}x",
        f"{UPLOADS}{'a' * 65}",
    ):
        answer = await client.http.request(method, path, params={"digest": str(DIGEST)}, headers={"content-range": "x"})
        assert answer.status_code == 404
        if method != "HEAD":
            assert code(answer) == "BLOB_UPLOAD_UNKNOWN"
    assert await client.offset(location) == 0


@pytest.mark.parametrize("text", [None, *NO_DIGESTS])
async def test_a_finish_without_a_sound_digest_is_400_before_the_body_and_the_session_goes_on(
    client: Client, text: str | None
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    answer = await client.http.put(location, params={} if text is None else {"digest": text}, content=b"other bytes")

    assert refusal(answer) == (400, "DIGEST_INVALID")
    assert await client.offset(location) == 7
    assert (await finish(client, location, content=BODY[7:])).status_code == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_wrong_bytes_are_400_end_the_session_and_make_no_blob(client: Client, algorithm: str) -> None:
    location, wrong = await client.begin(), Digest.of(b"other", algorithm)

    answer = await finish(client, location, wrong, BODY)

    assert refusal(answer) == (400, "DIGEST_INVALID")
    for digest in (wrong, DIGEST, Digest.of(BODY, SHA512)):
        assert (await client.http.head(f"{REPOSITORY}/blobs/{digest}")).status_code == 404
    assert (await client.http.get(location)).status_code == 404
    assert (await finish(client, location, DIGEST, BODY)).status_code == 404
    assert await client.push_blob(BODY) == DIGEST


async def test_the_digits_of_another_algorithm_are_another_digest(client: Client) -> None:
    sha512 = Digest.of(BODY, SHA512)

    answer = await client.http.post(UPLOADS, params={"digest": f"sha256:{sha512.hex}"}, content=BODY)

    assert refusal(answer) == (400, "DIGEST_INVALID")


async def test_a_finish_may_be_repeated_with_the_same_digest_only(client: Client) -> None:
    location = await client.begin()
    assert (await finish(client, location, content=BODY)).status_code == 201

    again = await finish(client, location, content=BODY)
    other = await finish(client, location, Digest.of(b"other"))
    late = await client.http.patch(location, content=b"late")

    assert again.status_code == 201
    assert again.headers["location"] == f"/v2/{BLOB}"
    assert (refusal(other), refusal(late)) == ((404, "BLOB_UPLOAD_UNKNOWN"), (404, "BLOB_UPLOAD_UNKNOWN"))
    assert await holds(client)


async def test_an_empty_blob_is_a_blob(client: Client) -> None:
    empty = Digest.of(b"")
    for content in (b"", chunked()):
        location = await client.begin()
        answer = await client.http.put(location, params={"digest": str(empty)}, content=content)
        assert answer.status_code == 201
    assert await holds(client, empty, b"")


@pytest.mark.parametrize("hint", ["", "?digest-algorithm=sha256", "?digest-algorithm=sha512"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_the_digest_is_told_as_the_client_gave_it_whatever_it_announced(
    client: Client, hint: str, algorithm: str
) -> None:
    digest = Digest.of(BODY, algorithm)
    location = (await client.http.post(UPLOADS + hint)).headers["location"]
    await client.http.patch(location, content=BODY[:7])

    answer = await finish(client, location, digest, BODY[7:])

    assert answer.status_code == 201
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers["location"] == f"/v2/{REPOSITORY}/blobs/{digest}"
    assert await holds(client, digest)


@pytest.mark.parametrize("algorithm", ["md5", "sha384", "SHA256", "x", "blake3"])
async def test_an_unknown_algorithm_is_400(client: Client, algorithm: str) -> None:
    answer = await client.http.post(UPLOADS, params={"digest-algorithm": algorithm})

    assert refusal(answer) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("announced", [True, False])
async def test_a_whole_blob_is_taken_in_one_post(client: Client, algorithm: str, announced: bool) -> None:
    digest = Digest.of(BODY, algorithm)

    answer = await client.http.post(
        UPLOADS, params={"digest": str(digest)}, content=BODY if announced else chunked(BODY[:3], BODY[3:])
    )

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v2/{REPOSITORY}/blobs/{digest}"
    assert answer.headers["docker-content-digest"] == str(digest)
    assert await holds(client, digest)


@pytest.mark.parametrize("text", NO_DIGESTS)
async def test_a_post_with_no_sound_digest_is_400(client: Client, text: str) -> None:
    assert refusal(await client.http.post(UPLOADS, params={"digest": text}, content=BODY)) == (400, "DIGEST_INVALID")


async def test_a_post_of_other_bytes_is_400_and_leaves_nothing(client: Client) -> None:
    answer = await client.http.post(UPLOADS, params={"digest": str(Digest.of(b"other"))}, content=BODY)

    assert refusal(answer) == (400, "DIGEST_INVALID")
    assert not await holds(client)
    assert [entry.key for entry in (await client.driver.list(keys.UPLOADS, limit=10)).entries] == []


async def test_delete_ends_a_session(client: Client) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY)

    answer = await client.http.delete(location)

    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE", "PATCH", "PUT"):
        gone = await client.http.request(method, location, params={"digest": str(DIGEST)})
        assert refusal(gone) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "wanted", "kept"),
    [("PATCH", None, 10), ("PATCH", "7-13", 7), ("PUT", None, 10), ("PUT", "7-20", 7)],
)
async def test_a_client_that_vanishes_leaves_its_stream_and_takes_its_chunk(
    client: Client, method: str, wanted: str | None, kept: int
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    answer = await client.ask(
        method,
        location.encode(),
        query=f"digest={DIGEST}".encode(),
        headers={} if wanted is None else {"content-range": wanted},
        pieces=[BODY[7:9], BODY[9:10]],
        vanish=True,
    )

    assert answer.status == 0
    assert await client.offset(location) == kept
    assert (await finish(client, location, content=BODY[kept:])).status_code == 201
    assert await holds(client)


async def test_a_client_that_vanishes_in_a_post_leaves_nothing(client: Client) -> None:
    answer = await client.ask(
        "POST", f"/v2/{UPLOADS}".encode(), query=f"digest={DIGEST}".encode(), pieces=[BODY[:7]], vanish=True
    )

    assert answer.status == 0
    assert [entry.key for entry in (await client.driver.list(keys.UPLOADS, limit=10)).entries] == []


@pytest.mark.parametrize("source", [OTHER, f"{OTHER}&origin=registry.example", f"{OTHER}&from=no/such"])
async def test_a_mount_links_the_blob_of_another_repository(client: Client, source: str) -> None:
    await client.push_blob(BODY, name=OTHER)

    answer = await client.http.post(f"{UPLOADS}?mount={DIGEST}&from={source}")

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v2/{BLOB}"
    assert answer.headers["docker-content-digest"] == str(DIGEST)
    assert await holds(client)


async def test_a_mount_without_a_source_finds_the_blob(client: Client) -> None:
    await client.push_blob(BODY, name=OTHER)

    answer = await client.http.post(f"{UPLOADS}?mount=sha256%3A{DIGEST.hex}")

    assert answer.status_code == 201
    assert await holds(client)


@pytest.mark.parametrize(
    "query",
    [
        f"mount={Digest.of(b'absent')}&from={OTHER}",
        f"mount={Digest.of(b'absent')}",
        f"mount={DIGEST}&from=no/such",
        f"mount={DIGEST}&from=Not/A/Name",
        f"mount={DIGEST}&from=..%2F..%2Fetc",
        f"mount={DIGEST}&from=",
        f"mount={DIGEST}&from={REPOSITORY}",
        "mount=sha256:abc&from=" + OTHER,
        "mount=&from=" + OTHER,
        "mount",
        f"mount={Digest.of(BODY, SHA512)}&from={OTHER}",
        f"mount={Digest.of(b'absent')}&digest={DIGEST}",
    ],
)
async def test_a_mount_that_misses_for_whatever_reason_is_a_session(client: Client, query: str) -> None:
    await client.push_blob(BODY, name=OTHER)

    answer = await client.http.post(f"{UPLOADS}?{query}")

    assert answer.status_code == 202
    assert is_session(answer, 0)
    assert not await holds(client)
    assert (await finish(client, answer.headers["location"], content=BODY)).status_code == 201


async def test_a_mount_of_a_damaged_blob_is_a_session(client: Client, driver: StepDriver) -> None:
    await client.push_blob(BODY, name=OTHER)
    await driver.put(keys.blob(DIGEST), b"")

    answer = await client.http.post(f"{UPLOADS}?mount={DIGEST}&from={OTHER}")

    assert answer.status_code == 202


async def test_a_blob_that_the_store_has_already_still_has_to_come_whole(client: Client) -> None:
    await client.push_blob(BODY, name=OTHER)

    answer = await client.http.post(UPLOADS, params={"digest": str(DIGEST)}, content=b"I know its digest")

    assert refusal(answer) == (400, "DIGEST_INVALID")
    assert not await holds(client)


async def test_a_session_goes_on_in_another_worker_and_after_a_restart(
    client: Client, open_registry: OpenClient
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])
    await client.close()
    worker = await open_registry()

    assert await worker.offset(location) == 7
    await (await open_registry()).http.patch(location, content=BODY[7:], headers={"content-range": "7-20"})
    assert (await finish(worker, location)).status_code == 201
    assert await holds(worker)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_a_blob_over_the_limit_is_413(open_registry: OpenClient, method: str) -> None:
    client = await open_registry(limits={"blob_bytes_max": len(BODY) - 1})
    location = UPLOADS if method == "POST" else await client.begin()

    for content in (BODY, chunked(BODY[:7], BODY[7:])):
        answer = await client.http.request(method, location, params={"digest": str(DIGEST)}, content=content)
        assert refusal(answer) == (413, "SIZE_INVALID")
    assert not await holds(client)


async def test_more_uploads_at_once_than_the_limit_are_429_with_when_to_come_back(open_registry: OpenClient) -> None:
    client = await open_registry(limits={"uploads_max": 1})
    location, inner = await client.begin(), await client.begin()
    answers: list[httpx.Response] = []

    async def slow() -> object:
        yield BODY[:7]
        answers.append(await client.http.patch(inner, content=b"x"))
        yield BODY[7:]

    assert (await client.http.patch(location, content=slow())).status_code == 202  # type: ignore[arg-type]

    assert refusal(answers[0]) == (429, "TOOMANYREQUESTS")
    assert answers[0].headers["retry-after"].isdigit()
    assert (await client.http.patch(inner, content=b"x")).status_code == 202


async def test_a_second_writer_is_416_with_the_true_offset(client: Client, open_registry: OpenClient) -> None:
    worker, location = await open_registry(), await client.begin()
    answers: list[httpx.Response] = []

    async def slow() -> object:
        yield BODY[:7]
        answers.append(await worker.http.patch(location, content=b"XXX"))
        answers.append(await finish(worker, location))
        yield BODY[7:]

    assert (await client.http.patch(location, content=slow())).status_code == 202  # type: ignore[arg-type]

    for answer in answers:
        assert refusal(answer) == (416, "BLOB_UPLOAD_INVALID")
        assert is_session(answer, 7)
    assert (await finish(client, location)).status_code == 201
    assert await holds(client)


async def test_a_cancel_during_a_patch_wins(client: Client, open_registry: OpenClient) -> None:
    worker, location = await open_registry(), await client.begin()

    async def slow() -> object:
        yield BODY[:7]
        assert (await worker.http.delete(location)).status_code == 204
        yield BODY[7:]

    answer = await client.http.patch(location, content=slow())  # type: ignore[arg-type]

    assert refusal(answer) == (404, "BLOB_UPLOAD_UNKNOWN")


@pytest.mark.parametrize(
    ("error", "status"), [(StorageFull, 507), (StorageReadOnly, 503), (StorageUnavailable, 503), (OSError, 500)]
)
async def test_a_store_that_fails_is_told_without_its_keys_and_the_session_goes_on(
    client: Client, driver: StepDriver, error: type[Exception], status: int
) -> None:
    location = await client.begin()
    await client.http.patch(location, content=BODY[:7])

    async def fail(_method: str, key: str) -> None:
        raise error(f"failed on {key}")

    driver.before_write = fail
    answer = await client.http.patch(location, content=BODY[7:9])
    driver.before_write = None

    assert answer.status_code == status
    assert "pierhead/" not in answer.text
    assert "docker/" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)
    size = await client.offset(location)
    assert (await finish(client, location, content=BODY[size:])).status_code == 201
    assert await holds(client)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_another_method_on_the_uploads_is_405(client: Client, method: str) -> None:
    answer = await client.http.request(method, UPLOADS)

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


async def test_another_method_on_a_session_is_405(client: Client) -> None:
    answer = await client.http.post(await client.begin())

    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"
