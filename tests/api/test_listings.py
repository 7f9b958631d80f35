"""end-1, 8 and 12, the catalog and the extensions: everything that is read as a list."""

import json
import re
from urllib.parse import quote

import pytest

from registry.api.routes import Shape
from registry.media_types import IMAGE, INDEX
from storage import keys
from storage.digest import SHA512, Digest
from tests.api.client import OTHER, REPOSITORY, Client, code, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import CONFIG_TYPE, descriptor, encode, image, index
from tests.stores import StepDriver

LIST = f"{REPOSITORY}/tags/list"
NAMES = ["1.0", "1.0-alpine", "V1", "_", "latest", "list", "uploads", "v1"]
SUBJECT = descriptor(b"subject", IMAGE)
REFERRERS = f"{REPOSITORY}/referrers/{SUBJECT['digest']}"
NEXT = re.compile(r'<(/[^<>\s]*)>; rel="next"')
NO_NUMBERS = [
    "",
    "-1",
    "abc",
    "1.5",
    "+1",
    "0x10",
    "1e3",
    "\N{SUPERSCRIPT TWO}",
    "\N{ARABIC-INDIC DIGIT TWO}",
    " 1",
    "1_0",
]


@pytest.fixture
async def tagged(client: Client) -> Client:
    """A repository with tags whose folders and names sort differently."""
    for name in NAMES:
        await client.push_manifest(reference=name)
    return client


async def walk(client: Client, path: str, key: str) -> list[list[str]]:
    """Every page of a listing, by its links."""
    pages = []
    while True:
        answer = await client.http.get(path)
        assert answer.status_code == 200
        pages.append(answer.json()[key])
        link = answer.headers.get("link")
        if link is None:
            return pages
        found = NEXT.fullmatch(link)
        assert found, link
        path = found[1]


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
async def test_the_ping_is_an_empty_object(client: Client, path: str) -> None:
    got, head = await client.http.get(path), await client.http.head(path)

    assert (got.status_code, got.content, got.headers["content-type"]) == (200, b"{}", "application/json")
    assert (head.status_code, head.headers["content-length"]) == (200, "2")


async def test_tags_are_in_byte_order(tagged: Client) -> None:
    answer = await tagged.http.get(LIST)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"name": REPOSITORY, "tags": sorted(NAMES)}
    assert "link" not in answer.headers
    assert (await tagged.http.head(LIST)).headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9])
async def test_pages_of_tags_hold_as_many_as_were_asked_for_and_end_without_a_link(tagged: Client, n: int) -> None:
    pages = await walk(tagged, f"{LIST}?n={n}", "tags")

    assert [tag for page in pages for tag in page] == sorted(NAMES)
    assert all(len(page) == n for page in pages[:-1])
    assert 1 <= len(pages[-1]) <= n


async def test_no_tags_at_all_may_be_asked_for(tagged: Client) -> None:
    answer = await tagged.http.get(f"{LIST}?n=0")

    assert (answer.status_code, answer.json()["tags"]) == (200, [])
    assert "link" not in answer.headers


@pytest.mark.parametrize(
    "last",
    [
        "",
        "0",
        "1.0",
        "1.0-",
        "1.0-alpine",
        "V1",
        "a",
        "v1",
        "zzz",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
        "../..",
        "a\0b",
    ],
)
async def test_last_gives_all_the_rest_whether_there_is_such_a_tag_or_not(tagged: Client, last: str) -> None:
    answer = await tagged.http.get(LIST, params={"last": last})

    assert (answer.status_code, answer.json()["tags"]) == (200, [name for name in sorted(NAMES) if name > last])
    assert "link" not in answer.headers


@pytest.mark.parametrize("n", ["1000", "10000", "999999999", "9" * 40])
async def test_a_page_larger_than_any_is_clamped_and_not_refused(tagged: Client, n: str) -> None:
    for path in (LIST, "_catalog"):
        assert (await tagged.http.get(path, params={"n": n})).status_code == 200


@pytest.mark.parametrize("n", NO_NUMBERS)
async def test_a_page_size_that_is_none_is_400(tagged: Client, n: str) -> None:
    for path in (LIST, "_catalog"):
        assert refusal(await tagged.http.get(path, params={"n": n})) == (400, "UNSUPPORTED")


async def test_a_repository_without_tags_has_an_empty_list_and_an_unknown_one_is_404(client: Client) -> None:
    await client.push_manifest()
    await client.http.delete(f"{REPOSITORY}/manifests/latest")
    await client.push_blob(name=OTHER)

    assert (await client.http.get(LIST)).json() == {"name": REPOSITORY, "tags": []}
    for name in (OTHER, "no/such"):
        assert refusal(await client.http.get(f"{name}/tags/list")) == (404, "NAME_UNKNOWN")
        assert (await client.http.head(f"{name}/tags/list")).status_code == 404


async def test_the_catalog_is_in_byte_order_and_pages_as_tags_do(client: Client) -> None:
    names = ["a", "a-b", "a/b", "a/b/c", "ab", "b"]
    assert (await client.http.get("_catalog")).json() == {"repositories": []}
    for name in reversed(names):
        await client.push_manifest(name=name)

    assert (await client.http.get("_catalog")).json() == {"repositories": names}
    assert await walk(client, "_catalog?n=4", "repositories") == [names[:4], names[4:]]
    assert await walk(client, "_catalog?n=2&last=a-b", "repositories") == [["a/b", "a/b/c"], ["ab", "b"]]
    for last in ("a", "aa", "a/", "zzz", "..", "/", "a~"):
        answer = await client.http.get("_catalog", params={"last": last})
        assert answer.json()["repositories"] == [name for name in names if name > last]
    assert (await client.http.get("_catalog?n=0")).json() == {"repositories": []}


async def referrers(client: Client, path: str = REFERRERS, **parameters: object) -> list[dict[str, object]]:
    answer = await client.http.get(path, params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200
    return list(answer.json()["manifests"])


async def test_referrers_are_an_index_with_what_the_manifests_say_of_themselves(client: Client) -> None:
    annotations = {"org.example": "<b>\u2028\U0001f600", "": ""}
    first = image(subject=SUBJECT, annotations=annotations)
    second = index(subject=SUBJECT, artifactType="application/a+b")
    await client.push_manifest(first, "a")
    await client.push_manifest(second, "b")

    answer = await client.http.get(REFERRERS)

    assert answer.headers["content-type"] == INDEX
    found = answer.json()
    assert (found["schemaVersion"], found["mediaType"]) == (2, INDEX)
    assert sorted(found["manifests"], key=str) == sorted(
        [
            {**descriptor(encode(first), IMAGE), "annotations": annotations, "artifactType": CONFIG_TYPE},
            {**descriptor(encode(second), INDEX), "artifactType": "application/a+b"},
        ],
        key=str,
    )
    assert "oci-filters-applied" not in answer.headers
    assert "link" not in answer.headers


@pytest.mark.parametrize("name", [REPOSITORY, "no/such"])
@pytest.mark.parametrize("digest", [f"sha256:{'0' * 64}", f"sha512:{'0' * 128}"])
async def test_what_nothing_refers_to_has_an_empty_index_even_where_nothing_is(
    client: Client, name: str, digest: str
) -> None:
    await client.push_manifest()

    answer = await client.http.get(f"{name}/referrers/{digest}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, INDEX)
    assert answer.json()["manifests"] == []
    assert (await client.http.head(f"{name}/referrers/{digest}")).status_code == 200


@pytest.mark.parametrize("text", ["latest", "sha256:abc", f"sha256:{'A' * 64}", f"md5:{'0' * 32}", "sha256-abc"])
async def test_referrers_of_what_is_no_digest_are_400(client: Client, text: str) -> None:
    assert refusal(await client.http.get(f"{REPOSITORY}/referrers/{text}")) == (400, "DIGEST_INVALID")


async def test_a_filter_is_applied_and_said_to_be(client: Client) -> None:
    made = {kind: encode(image(subject=SUBJECT, artifactType=f"application/{kind}+json")) for kind in "abc"}
    for kind, body in made.items():
        await client.push_manifest(body, kind)

    async def filtered(query: str) -> tuple[set[str], str | None]:
        answer = await client.http.get(f"{REFERRERS}?{query}")
        kinds = {str(Digest.of(body)): kind for kind, body in made.items()}
        return {kinds[each["digest"]] for each in answer.json()["manifests"]}, answer.headers.get("oci-filters-applied")

    encoded = quote("application/a+json", safe="")
    assert await filtered(f"artifactType={encoded}") == ({"a"}, "artifactType")
    assert await filtered("artifactType=application/a+json") == ({"a"}, "artifactType")
    assert await filtered(f"artifactType={encoded}&artifactType=application/c%2Bjson") == ({"a", "c"}, "artifactType")
    assert await filtered("artifactType=application/d") == (set(), "artifactType")
    assert await filtered("artifactType=") == ({"a", "b", "c"}, None)
    assert await filtered("artifacttype=x&other=y&n=1") == ({"a", "b", "c"}, None)


async def test_what_a_filter_says_stays_out_of_the_headers(client: Client) -> None:
    answer = await client.http.get(f"{REFERRERS}?artifactType=a%0d%0aset-cookie:%20b")

    assert answer.status_code == 200
    assert "set-cookie" not in answer.headers
    assert answer.headers["oci-filters-applied"] == "artifactType"


async def test_deleting_the_subject_keeps_its_referrers_and_deleting_a_referrer_takes_it_at_once(
    client: Client, open_registry: OpenClient
) -> None:
    worker, subject = await open_registry(), encode(image())
    await client.push_manifest(subject)
    path = f"{REPOSITORY}/referrers/{Digest.of(subject)}"
    signature = encode(image(subject=descriptor(subject, IMAGE)))
    await client.push_manifest(signature, "signature")

    await client.http.delete(f"{REPOSITORY}/manifests/{Digest.of(subject)}")
    assert [each["digest"] for each in await referrers(worker, path)] == [str(Digest.of(signature))]
    await client.http.delete(f"{REPOSITORY}/manifests/{Digest.of(signature)}")
    assert await referrers(worker, path) == []


async def test_deleting_the_tag_of_a_referrer_keeps_it_listed(client: Client) -> None:
    await client.push_manifest(image(subject=SUBJECT))
    await client.http.delete(f"{REPOSITORY}/manifests/latest")

    assert len(await referrers(client)) == 1


async def test_a_referrer_that_was_pushed_under_sha512_is_listed_under_it(client: Client) -> None:
    body = encode(image(subject=SUBJECT))
    await client.push_manifest(body, str(Digest.of(body, SHA512)))

    assert [each["digest"] for each in await referrers(client)] == [str(Digest.of(body, SHA512))]


async def test_referrers_of_another_repository_are_its_own(client: Client) -> None:
    await client.push_manifest(image(subject=SUBJECT), name=OTHER)

    assert await referrers(client) == []


async def test_many_referrers_come_in_pages_below_four_mebibytes(client: Client) -> None:
    pushed = set()
    for number in range(5):
        body = encode(
            image(subject=SUBJECT, artifactType="a/b+c", annotations={"n": str(number), "p": "x" * 1_500_000})
        )
        await client.push_manifest(body)
        pushed.add(str(Digest.of(body)))
    found: list[str] = []
    path: str | None = f"{REFERRERS}?artifactType=a/b%2Bc"
    pages = 0
    while path is not None:
        answer = await client.http.get(path)
        assert answer.status_code == 200
        assert len(answer.content) <= 4 << 20
        assert answer.headers["oci-filters-applied"] == "artifactType"
        found += [each["digest"] for each in answer.json()["manifests"]]
        link = NEXT.fullmatch(answer.headers.get("link", ""))
        path = link[1] if link else None
        pages += 1

    assert set(found) == pushed
    assert (len(found), pages) == (5, 3)


async def test_a_page_after_what_is_no_digest_is_400(client: Client) -> None:
    assert code(await client.http.get(f"{REFERRERS}?last=abc")) == "DIGEST_INVALID"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b"x" * 100])
async def test_a_damaged_entry_is_passed_over_and_mended_by_a_push(
    client: Client, driver: StepDriver, text: bytes
) -> None:
    first, second = encode(image(subject=SUBJECT)), encode(index(subject=SUBJECT))
    await client.push_manifest(first, "a")
    await client.push_manifest(second, "b", media_type=INDEX)
    await driver.put(keys.referrer(REPOSITORY, Digest.of(b"subject"), Digest.of(first)), text)

    assert [each["digest"] for each in await referrers(client)] == [str(Digest.of(second))]
    await client.push_manifest(first, "a")
    assert len(await referrers(client)) == 2


async def test_the_extensions_are_told_of_the_registry_and_of_a_repository(client: Client) -> None:
    for path, names in (
        ("_oci/ext/discover", ["_oci", "_catalog"]),
        (f"{REPOSITORY}/_oci/ext/discover", ["_oci", "_pierhead"]),
    ):
        answer = await client.http.get(path)
        assert answer.status_code == 200
        extensions = answer.json()["extensions"]
        assert [extension["name"] for extension in extensions] == names
        for extension in extensions:
            assert set(extension) == {"name", "url", "description", "endpoints"}
            for endpoint in extension["endpoints"]:
                if "{" not in endpoint:
                    # Some take no GET, and say so.
                    assert (await client.http.get(endpoint)).status_code in {200, 405}


async def test_each_endpoint_that_is_no_part_of_the_specification_is_told_and_no_other(client: Client) -> None:
    extensions = (await client.http.get(f"{REPOSITORY}/_oci/ext/discover")).json()["extensions"]
    told = {endpoint for extension in extensions for endpoint in extension["endpoints"]}

    there = {shape.value for shape in Shape if shape.value.startswith("<name>/_")}

    assert {path.removeprefix(f"/v2/{REPOSITORY}/").replace("{", "<").replace("}", ">") for path in told} == {
        path.removeprefix("<name>/") for path in there
    }


async def test_listings_are_json_that_any_parser_reads(tagged: Client) -> None:
    for path in ("", LIST, "_catalog", REFERRERS, "_oci/ext/discover"):
        answer = await tagged.http.get(path or "/v2/")
        assert json.loads(answer.content.decode("utf-8")) is not None
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/v2/", "_catalog", "_oci/ext/discover", LIST, REFERRERS])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_a_list_is_only_read(client: Client, path: str, method: str) -> None:
    answer = await client.http.request(method, path)

    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET, HEAD"
