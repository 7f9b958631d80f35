"""end-3, 7a, 7b and 9: pushing, pulling, tagging and deleting manifests."""

import asyncio

import httpx
import pytest
from structlog.testing import capture_logs

from registry.media_types import DOCKER_IMAGE, DOCKER_LIST, IMAGE, INDEX
from storage import keys
from storage.digest import SHA512, Digest
from tests.api.client import OTHER, REPOSITORY, Client, chunked, code, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import CONFIG, LAYER, descriptor, encode, image, index
from tests.stores import StepDriver, damages

MANIFESTS = f"{REPOSITORY}/manifests/"
LATEST = f"{MANIFESTS}latest"
BODY = encode(image())
DIGEST = Digest.of(BODY)
LIMIT = 4 << 20
NO_DIGESTS = ["sha256:abc", "sha256:baddigeststring", f"sha256:{'A' * 64}", f"sha384:{'a' * 96}", ":", "a:b", "latest:"]
NO_TAGS = [".INVALID_MANIFEST_NAME", "-a", "a" * 129, "a+b", "a@b", "a%20b"]


async def tags(client: Client, *, name: str = REPOSITORY) -> list[str]:
    answer = await client.http.get(f"{name}/tags/list")
    return list(answer.json()["tags"]) if answer.status_code == 200 else []


def padded(size: int) -> bytes:
    """An image manifest of exactly this many bytes."""
    room = size - len(encode(image(annotations={"padding": ""})))
    return encode(image(annotations={"padding": "x" * room}))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_push_is_201_with_where_it_can_be_pulled(client: Client, algorithm: str) -> None:
    digest = Digest.of(BODY, algorithm)

    answer = await client.push_manifest(BODY, str(digest))

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v2/{MANIFESTS}{digest}"
    assert answer.headers["docker-content-digest"] == str(digest)
    assert answer.headers["content-length"] == "0"
    for absent in ("oci-subject", "oci-tag", "warning"):
        assert absent not in answer.headers
    assert (await client.http.get(answer.headers["location"])).content == BODY


async def test_a_push_by_tag_tells_the_sha256_digest(client: Client) -> None:
    answer = await client.push_manifest(BODY)

    assert answer.headers["location"] == f"/v2/{MANIFESTS}{DIGEST}"
    assert answer.headers["docker-content-digest"] == str(DIGEST)


@pytest.mark.parametrize("reference", ["latest", str(DIGEST)])
async def test_a_pull_gives_the_very_bytes_and_head_the_same_headers(client: Client, reference: str) -> None:
    await client.push_manifest(BODY)

    got, head = await client.http.get(MANIFESTS + reference), await client.http.head(MANIFESTS + reference)

    assert (got.status_code, head.status_code) == (200, 200)
    assert got.content == BODY
    assert dict(got.headers) == dict(head.headers)
    assert got.headers["content-type"] == IMAGE
    assert got.headers["docker-content-digest"] == str(DIGEST)
    assert got.headers["etag"] == f'"{DIGEST}"'
    assert got.headers["x-content-type-options"] == "nosniff"


async def test_a_tag_is_asked_for_each_time_and_a_digest_may_be_kept(client: Client) -> None:
    await client.push_manifest(BODY)

    by_tag, by_digest = await client.http.get(LATEST), await client.http.get(f"{MANIFESTS}{DIGEST}")

    assert by_tag.headers["cache-control"] == "private, no-cache"
    assert by_digest.headers["cache-control"] == "private, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "accept",
    [{}, {"accept": "*/*"}, {"accept": DOCKER_IMAGE}, {"accept": f"{INDEX}, text/html;q=0.5"}, {"accept": "garbage;;"}],
)
async def test_accept_changes_nothing(client: Client, accept: dict[str, str]) -> None:
    await client.push_manifest(BODY)

    answer = await client.http.get(LATEST, headers=accept)

    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, IMAGE, BODY)


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(), IMAGE),
        (image(media_type=DOCKER_IMAGE), DOCKER_IMAGE),
        (image(media_type=None), DOCKER_IMAGE),
        (index(), INDEX),
        (index(media_type=DOCKER_LIST), DOCKER_LIST),
        (index(media_type=None), DOCKER_LIST),
    ],
)
@pytest.mark.parametrize("parameters", ["", "; charset=utf-8", ";x=y"])
async def test_the_type_comes_back_as_it_was_pushed_without_parameters(
    client: Client, document: dict[str, object], media_type: str, parameters: str
) -> None:
    answer = await client.push_manifest(document, media_type=media_type.upper() + parameters)

    assert answer.status_code == 201
    assert (await client.http.get(LATEST)).headers["content-type"] == media_type


async def test_without_a_content_type_the_bytes_tell(client: Client) -> None:
    await client.push_manifest()
    for document, media_type in (
        (image(), IMAGE),
        (index(media_type=DOCKER_LIST), DOCKER_LIST),
        (index(media_type=None), INDEX),
    ):
        answer = await client.ask("PUT", f"/v2/{LATEST}".encode(), pieces=[encode(document)])
        assert answer.status == 201
        assert (await client.http.get(LATEST)).headers["content-type"] == media_type


async def test_the_first_type_of_the_same_bytes_wins_on_every_worker(client: Client, open_registry: OpenClient) -> None:
    worker, body = await open_registry(), encode(image(media_type=None))
    await client.push_manifest(body, media_type=DOCKER_IMAGE)
    await worker.http.get(LATEST)

    await worker.put_manifest(body, "other", media_type=IMAGE)

    for who in (client, worker):
        for reference in ("latest", "other"):
            assert (await who.http.get(MANIFESTS + reference)).headers["content-type"] == DOCKER_IMAGE


async def test_a_manifest_that_does_not_name_its_type_gets_a_warning_that_clients_can_read(client: Client) -> None:
    answer = await client.push_manifest(image(media_type=None))

    warning = answer.headers["warning"]
    assert warning.startswith('299 - "')
    assert warning.endswith('"')
    assert '"' not in warning[7:-1]
    assert len(warning) <= 4096


@pytest.mark.parametrize("announced", [True, False])
async def test_a_manifest_may_be_as_large_as_the_limit_and_not_larger(client: Client, announced: bool) -> None:
    await client.push_manifest()

    def content(size: int) -> object:
        body = padded(size)
        return body if announced else chunked(body[:1000], body[1000:])

    async def put(size: int) -> httpx.Response:
        return await client.http.put(LATEST, content=content(size), headers={"content-type": IMAGE})  # type: ignore[arg-type]

    assert (await put(LIMIT)).status_code == 201
    assert len((await client.http.get(LATEST)).content) == LIMIT
    assert refusal(await put(LIMIT + 1)) == (413, "SIZE_INVALID")
    assert len((await client.http.get(LATEST)).content) == LIMIT


async def test_a_manifest_that_announces_too_much_is_refused_unread(client: Client) -> None:
    answer = await client.ask(
        "PUT", f"/v2/{LATEST}".encode(), headers={"content-length": str(LIMIT + 1)}, pieces=[b"x"], vanish=True
    )

    assert (answer.status, answer.code) == (413, "SIZE_INVALID")


async def test_a_client_that_vanishes_pushes_nothing(client: Client) -> None:
    await client.push_manifest(BODY, "other")

    answer = await client.ask("PUT", f"/v2/{LATEST}".encode(), pieces=[BODY], vanish=True)

    assert answer.status == 0
    assert await tags(client) == ["other"]


@pytest.mark.parametrize("text", NO_DIGESTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_a_malformed_digest_is_400(client: Client, method: str, text: str) -> None:
    answer = await client.http.request(method, MANIFESTS + text, content=BODY)

    assert answer.status_code == 400
    if method != "HEAD":
        assert code(answer) == "DIGEST_INVALID"


@pytest.mark.parametrize("text", NO_TAGS)
async def test_a_tag_against_the_grammar_is_404_to_read_and_400_to_write(client: Client, text: str) -> None:
    await client.push_manifest()

    for method in ("GET", "HEAD", "DELETE"):
        answer = await client.http.request(method, MANIFESTS + text)
        assert answer.status_code == 404
        if method != "HEAD":
            assert code(answer) == "MANIFEST_UNKNOWN"
    put = await client.put_manifest(BODY, text)
    assert refusal(put) == (400, "MANIFEST_INVALID")
    assert "tag invalid" not in put.text
    assert await tags(client) == ["latest"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_what_is_absent_is_404(client: Client, method: str) -> None:
    await client.push_manifest(name=OTHER)

    for reference in ("latest", str(DIGEST), str(Digest.of(BODY, SHA512))):
        for name in (REPOSITORY, "no/such"):
            answer = await client.http.request(method, f"{name}/manifests/{reference}")
            assert answer.status_code == 404
            if method != "HEAD":
                assert code(answer) == "MANIFEST_UNKNOWN"


async def test_bytes_that_are_others_than_their_digest_are_400(client: Client) -> None:
    await client.push_manifest(BODY, "other")

    for reference in (str(DIGEST), str(Digest.of(BODY, SHA512))):
        answer = await client.put_manifest(BODY + b"  ", reference)
        assert refusal(answer) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (b"", IMAGE),
        (b"no JSON", IMAGE),
        (b"[]", IMAGE),
        (b"\xef\xbb\xbf" + BODY, IMAGE),
        (BODY + b"x", IMAGE),
        (BODY.replace(b"{", b'{"schemaVersion": 2,', 1), IMAGE),
        (encode({**image(), "Layers": []}), IMAGE),
        (encode(image(manifests=[])), IMAGE),
        (encode(index(layers=[])), INDEX),
        (BODY, INDEX),
        (BODY, DOCKER_IMAGE),
        (encode(image(layers=[{**descriptor(LAYER), "size": -1}])), IMAGE),
        (encode(image(media_type=None)), "application/json"),
        (b'{"schemaVersion": 1}', "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (encode(image(layers=[{**descriptor(LAYER), "size": 6}])), IMAGE),
        (b'{"a":' * 5000 + b"}" * 5000, IMAGE),
    ],
)
async def test_what_is_no_sound_manifest_is_400_and_stores_nothing(
    client: Client, body: bytes, media_type: str
) -> None:
    await client.push_manifest(BODY, "other")

    answer = await client.put_manifest(body, media_type=media_type)

    assert refusal(answer) == (400, "MANIFEST_INVALID")
    assert (await client.http.get(LATEST)).status_code == 404
    assert (await client.http.get(f"{MANIFESTS}{Digest.of(body)}")).status_code == (200 if body == BODY else 404)


async def test_each_missing_reference_is_an_error_of_its_own(client: Client) -> None:
    await client.push_blob(CONFIG)
    await client.push_blob(b"a", name=OTHER)

    answer = await client.put_manifest(image(b"a", LAYER, b"a"))

    assert answer.status_code == 404
    assert [(error["code"], error["detail"]) for error in answer.json()["errors"]] == [
        ("MANIFEST_BLOB_UNKNOWN", {"digest": str(Digest.of(content))}) for content in (b"a", LAYER)
    ]
    assert await tags(client) == []


async def test_children_of_an_index_are_looked_for_among_manifests(client: Client) -> None:
    await client.push_manifest(name=OTHER)

    assert code(await client.put_manifest(index(BODY))) == "MANIFEST_BLOB_UNKNOWN"
    await client.push_manifest()
    assert (await client.put_manifest(index(BODY))).status_code == 201


async def test_a_registry_may_take_what_others_refuse(open_registry: OpenClient) -> None:
    opaque = "application/vnd.example.manifest+json"
    client = await open_registry(sparse=True, manifest_types=[opaque])

    assert (await client.put_manifest(image(b"absent"))).status_code == 201
    assert (await client.put_manifest(b'{"any": 1}', "opaque", media_type=opaque)).status_code == 201
    assert (await client.http.get(f"{MANIFESTS}opaque")).headers["content-type"] == opaque


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("kind", ["image", "index"])
async def test_a_subject_is_acknowledged_by_its_digest_whether_it_is_here_or_not(
    client: Client, kind: str, algorithm: str
) -> None:
    subject = descriptor(b"no such", IMAGE, algorithm=algorithm)

    answer = await client.push_manifest({"image": image, "index": index}[kind](subject=subject))

    assert answer.status_code == 201
    assert answer.headers["oci-subject"] == subject["digest"]


async def test_pushing_the_same_again_is_fine(client: Client) -> None:
    for _ in range(2):
        assert (await client.push_manifest(BODY)).status_code == 201

    assert await tags(client) == ["latest"]


async def test_a_tag_moves_and_the_old_manifest_stays_by_its_digest(client: Client) -> None:
    await client.push_manifest(BODY)
    moved = encode(image(annotations={"a": "b"}))

    await client.put_manifest(moved)

    assert (await client.http.get(LATEST)).content == moved
    assert (await client.http.get(f"{MANIFESTS}{DIGEST}")).content == BODY


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_many_tags_are_set_at_once_and_tell_the_digest_of_their_push(client: Client, algorithm: str) -> None:
    digest = Digest.of(BODY, algorithm)
    names = [f"v{number}" for number in range(12)]

    answer = await client.push_manifest(BODY, f"{digest}?" + "&".join(f"tag={name}" for name in [*names, "v1"]))

    assert answer.status_code == 201
    assert answer.headers["oci-tag"].split(", ") == names
    assert sorted(await tags(client)) == sorted(names)
    for name in names:
        head = await client.http.head(MANIFESTS + name)
        assert head.headers["docker-content-digest"] == str(digest)
        assert (await client.http.get(MANIFESTS + name)).content == BODY


async def test_a_bad_tag_among_many_sets_none(client: Client) -> None:
    await client.push_manifest(BODY, "other")

    for bad in ("-b", "", "a%0d%0aset-cookie:x", "a,b", "\N{LATIN SMALL LETTER E WITH ACUTE}"):
        answer = await client.put_manifest(BODY, f"{DIGEST}?tag=a&tag={bad}&tag=c")
        assert refusal(answer) == (400, "MANIFEST_INVALID")
        assert "set-cookie" not in answer.text

    assert await tags(client) == ["other"]


async def test_more_tags_than_the_limit_are_414_and_none_is_set(open_registry: OpenClient) -> None:
    client = await open_registry(limits={"tag_parameters_max": 10})
    await client.push_manifest(BODY, "other")

    def query(count: int) -> str:
        return "&".join(f"tag=v{number}" for number in range(count))

    assert refusal(await client.put_manifest(BODY, f"{DIGEST}?{query(11)}")) == (414, "UNSUPPORTED")
    assert await tags(client) == ["other"]
    assert (await client.put_manifest(BODY, f"{DIGEST}?{query(10)}")).status_code == 201


async def test_tag_parameters_are_for_digests_only(client: Client) -> None:
    answer = await client.push_manifest(BODY, "latest?tag=other")

    assert answer.status_code == 201
    assert "oci-tag" not in answer.headers
    assert await tags(client) == ["latest"]


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ('"{digest}"', 304),
        ("{digest}", 304),
        ('W/"{digest}"', 304),
        ("*", 304),
        ('"x",  "{digest}"', 304),
        ('"x"', 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_manifest_that_the_client_has_is_304(client: Client, method: str, condition: str, status: int) -> None:
    await client.push_manifest(BODY)

    answer = await client.http.request(
        method, LATEST, headers={"if-none-match": condition.format(digest=DIGEST), "accept": IMAGE}
    )

    assert answer.status_code == status
    assert answer.headers["etag"] == f'"{DIGEST}"'
    assert answer.headers["docker-content-digest"] == str(DIGEST)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if-none-match": "*"}, 412),
        ({"if-none-match": f'"{DIGEST}"'}, 412),
        ({"if-none-match": '"sha256:other"'}, 201),
        ({"if-match": "*"}, 201),
        ({"if-match": f'"{DIGEST}"'}, 201),
        ({"if-match": str(DIGEST)}, 201),
        ({"if-match": '"sha256:other"'}, 412),
        ({"if-match": f'"a", "{DIGEST}"'}, 201),
        ({"if-match": f'"{DIGEST}"', "if-none-match": "*"}, 412),
    ],
)
@pytest.mark.parametrize("by_digest", [False, True])
async def test_a_condition_on_the_tag_decides_over_a_push(
    client: Client, headers: dict[str, str], status: int, by_digest: bool
) -> None:
    await client.push_manifest(BODY)
    new = encode(image(annotations={"a": "b"}))

    answer = await client.put_manifest(new, f"{Digest.of(new)}?tag=latest" if by_digest else "latest", headers=headers)

    assert answer.status_code == status
    assert (await client.http.get(LATEST)).content == (new if status == 201 else BODY)
    if status == 412:
        assert code(answer) == "DENIED"
        assert (await client.http.get(f"{MANIFESTS}{Digest.of(new)}")).status_code == 404


@pytest.mark.parametrize(("headers", "status"), [({"if-none-match": "*"}, 201), ({"if-match": "*"}, 412)])
async def test_a_condition_on_an_absent_tag(client: Client, headers: dict[str, str], status: int) -> None:
    await client.push_manifest(BODY, "other")

    assert (await client.put_manifest(BODY, headers=headers)).status_code == status


async def test_of_two_first_pushes_under_if_none_match_one_wins(client: Client, open_registry: OpenClient) -> None:
    worker = await open_registry()
    await client.push_manifest(BODY, "other")
    bodies = [encode(image(annotations={"n": str(number)})) for number in range(6)]

    answers = await asyncio.gather(
        *(
            who.put_manifest(body, headers={"if-none-match": "*"})
            for who, body in zip([client, worker] * 3, bodies, strict=True)
        )
    )

    statuses = [answer.status_code for answer in answers]
    assert sorted(statuses) == [201, 412, 412, 412, 412, 412]
    assert (await client.http.get(LATEST)).content == bodies[statuses.index(201)]


async def test_racing_pushes_of_one_tag_are_all_201_and_one_is_the_last(
    client: Client, open_registry: OpenClient
) -> None:
    worker = await open_registry()
    await client.push_manifest(BODY, "other")
    bodies = [encode(image(annotations={"n": str(number)})) for number in range(8)]

    answers = await asyncio.gather(
        *(who.put_manifest(body) for who, body in zip([client, worker] * 4, bodies, strict=True))
    )

    assert {answer.status_code for answer in answers} == {201}
    assert (await client.http.get(LATEST)).content in bodies
    for body in bodies:
        assert (await client.http.get(f"{MANIFESTS}{Digest.of(body)}")).content == body


async def test_deleting_a_tag_takes_the_tag_alone_at_once_on_every_worker(
    client: Client, open_registry: OpenClient
) -> None:
    worker = await open_registry()
    await client.push_manifest(BODY, "other")
    await client.push_manifest(BODY)
    await worker.http.get(LATEST)

    answer = await client.http.delete(LATEST)

    assert (answer.status_code, answer.content) == (202, b"")
    for who in (client, worker):
        assert (await who.http.head(LATEST)).status_code == 404
        assert (await who.http.get(f"{MANIFESTS}other")).content == BODY
        assert await tags(who) == ["other"]
    assert refusal(await client.http.delete(LATEST)) == (404, "MANIFEST_UNKNOWN")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_deleting_a_manifest_takes_its_tags_at_once_on_every_worker(
    client: Client, open_registry: OpenClient, algorithm: str
) -> None:
    worker, digest = await open_registry(), Digest.of(BODY, algorithm)
    await client.push_manifest(BODY, f"{digest}?tag=a&tag=b")
    await client.push_manifest(encode(image(annotations={"a": "b"})), "c")
    await client.push_manifest(BODY, "a", name=OTHER)
    await worker.http.get(f"{MANIFESTS}a")

    answer = await client.http.delete(f"{MANIFESTS}{digest}")

    assert answer.status_code == 202
    for who in (client, worker):
        for reference in ("a", "b", str(digest)):
            assert (await who.http.get(MANIFESTS + reference)).status_code == 404
        assert await tags(who) == ["c"]
        assert (await who.http.get(f"{OTHER}/manifests/a")).content == BODY
    assert refusal(await client.http.delete(f"{MANIFESTS}{digest}")) == (404, "MANIFEST_UNKNOWN")


async def test_where_deletion_is_off_it_is_405(open_registry: OpenClient) -> None:
    client = await open_registry(delete=False)
    await client.push_manifest(BODY)

    for reference in ("latest", str(DIGEST)):
        assert refusal(await client.http.delete(MANIFESTS + reference)) == (405, "UNSUPPORTED")
    assert (await client.http.get(LATEST)).content == BODY


async def test_there_is_no_memory_of_an_absence(client: Client) -> None:
    assert (await client.http.head(LATEST)).status_code == 404
    await client.push_manifest(BODY)
    assert (await client.http.head(LATEST)).status_code == 200


@pytest.mark.parametrize("damage", [b"", BODY[:-1], b"[" + BODY[1:]])
async def test_a_damaged_manifest_is_404_logged_with_its_key_and_healed_by_a_push(
    client: Client, driver: StepDriver, damage: bytes
) -> None:
    await client.push_manifest(BODY)
    await client.put_manifest(encode(image(annotations={"a": "b"})), "sound")
    await driver.put(keys.blob(DIGEST), damage)

    with capture_logs() as logs:
        for reference in ("latest", str(DIGEST)):
            assert refusal(await client.http.get(MANIFESTS + reference)) == (404, "MANIFEST_UNKNOWN")
            assert (await client.http.head(MANIFESTS + reference)).status_code == 404
    assert damages(logs) == [keys.blob(DIGEST)] * 4
    assert (await client.http.get(f"{MANIFESTS}sound")).status_code == 200

    await client.put_manifest(BODY)
    assert (await client.http.get(LATEST)).content == BODY


@pytest.mark.parametrize("damage", [b"", b"\xff", b"x" * 5000])
async def test_a_damaged_tag_is_404_logged_with_its_key_and_healed_by_a_push(
    client: Client, driver: StepDriver, damage: bytes
) -> None:
    await client.push_manifest(BODY)
    key = keys.tag_link(REPOSITORY, "latest")
    await driver.put(key, damage)

    with capture_logs() as logs:
        assert refusal(await client.http.get(LATEST)) == (404, "MANIFEST_UNKNOWN")
    assert damages(logs) == [key]
    assert (await client.http.get(f"{MANIFESTS}{DIGEST}")).content == BODY

    assert (await client.put_manifest(BODY, headers={"if-none-match": "*"})).status_code == 201
    assert (await client.http.get(LATEST)).content == BODY


@pytest.mark.parametrize("damage", [LAYER[:-1], b""])
async def test_a_truncated_layer_is_found_out_by_the_manifest_that_names_its_size_and_healed_by_a_push(
    client: Client, driver: StepDriver, damage: bytes
) -> None:
    digest = Digest.of(LAYER)
    await client.push_blob(CONFIG)
    await client.push_blob(LAYER)
    await driver.put(keys.blob(digest), damage)

    # A client asks first, is told that the layer is there, and pushes the manifest alone.
    refused = await client.put_manifest(BODY)
    assert refusal(refused) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert refused.json()["errors"][0]["detail"] == {"digest": str(digest)}

    # It tries again, is told the truth now, and pushes the layer.
    assert (await client.http.head(f"{REPOSITORY}/blobs/{digest}")).status_code == 404
    await client.push_blob(LAYER)
    assert (await client.put_manifest(BODY)).status_code == 201
    assert (await client.http.get(f"{REPOSITORY}/blobs/{digest}")).content == LAYER


@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS"])
async def test_another_method_is_405_with_those_there_are(client: Client, method: str) -> None:
    answer = await client.http.request(method, LATEST)

    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"
