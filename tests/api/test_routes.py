"""A path is read from its right end on the bytes that were sent, and names nothing outside of the grammar."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.api.routes import Shape, Target, parse_path
from registry.errors import NameInvalid, NotThere
from registry.names import RepositoryName
from storage.memory import MemoryDriver
from tests.api.client import Client, open_client
from tests.properties import NAME_GRAMMAR, ROUTE_WORDS, digest_texts, repository_names, tags
from tests.registry.images import encode, image
from tests.stores import keys_below

TAILS = {
    Shape.TAGS: st.just(""),
    Shape.REFERRERS: digest_texts,
    Shape.BLOB: digest_texts,
    Shape.MANIFEST: digest_texts | tags,
    Shape.UPLOADS: st.just(""),
    Shape.UPLOAD: st.from_regex(r"[0-9a-f]{32}", fullmatch=True) | st.sampled_from(ROUTE_WORDS),
    Shape.DISCOVER_REPOSITORY: st.just(""),
    Shape.TAG_HISTORY: tags,
    Shape.TAG_ROLLBACK: tags,
    Shape.TAG_RESTORATION: tags | st.sampled_from([*ROUTE_WORDS, "_pierhead", "history"]),
    Shape.REPOSITORY: st.just(""),
    Shape.USAGE: st.just(""),
}


def written(shape: Shape, name: str, tail: str) -> str:
    """Write the path that means this."""
    path = shape.value.replace("<name>", name).replace("<tag>", tail)
    if "<tag>" in shape.value:
        return path
    return path.partition("<digest>")[0].partition("<reference>")[0].partition("<id>")[0] + tail


@given(st.sampled_from(sorted(TAILS, key=lambda shape: shape.name)), repository_names, st.data())
def test_every_endpoint_is_found_for_every_name_whatever_words_are_in_it(
    shape: Shape, name: str, data: st.DataObject
) -> None:
    tail = data.draw(TAILS[shape])

    assert parse_path(written(shape, name, tail)) == Target(shape, RepositoryName(name), tail)


@pytest.mark.parametrize(
    ("path", "shape", "tail"),
    [
        ("a/manifests/_pierhead", Shape.MANIFEST, "_pierhead"),
        ("a/blobs/uploads/_pierhead", Shape.UPLOAD, "_pierhead"),
        ("a/_pierhead/tags/_pierhead/history", Shape.TAG_HISTORY, "_pierhead"),
        ("a/_pierhead/tags/list/history", Shape.TAG_HISTORY, "list"),
        ("a/_pierhead/tags/manifests/history", Shape.TAG_HISTORY, "manifests"),
    ],
)
def test_the_word_of_our_extension_may_be_a_tag_or_a_session(path: str, shape: Shape, tail: str) -> None:
    assert parse_path(path) == Target(shape, RepositoryName("a"), tail)


@given(repository_names, tags, st.data())
def test_a_path_may_be_percent_encoded_character_by_character(name: str, tag: str, data: st.DataObject) -> None:
    path = f"{name}/manifests/{tag}"
    chosen = data.draw(st.sets(st.integers(0, len(path) - 1)))

    encoded = "".join(
        f"%{ord(character):02X}" if place in chosen and character != "/" else character
        for place, character in enumerate(path)
    )

    assert parse_path(encoded) == Target(Shape.MANIFEST, RepositoryName(name), tag)


segments = st.sampled_from(
    [
        *ROUTE_WORDS,
        "_oci",
        "_pierhead",
        "history",
        "_catalog",
        "_uploads",
        "",
        ".",
        "..",
        "a",
        "A",
        "%2e%2e",
        "%2F",
        "a%2fb",
    ]
)
paths = st.lists(segments | st.text(max_size=4) | digest_texts, max_size=8).map("/".join)


@given(paths | st.text(max_size=30))
def test_no_path_yields_a_name_outside_of_the_grammar_or_anything_but_a_refusal(path: str) -> None:
    try:
        target = parse_path(path)
    except (NameInvalid, NotThere):
        return
    if target.name is not None:
        assert NAME_GRAMMAR.fullmatch(target.name)
        assert len(target.name) <= 255
    assert "/" not in target.tail


@given(repository_names, tags, st.sampled_from(["%2f", "%2F", "%5c", "%252F"]), st.data())
def test_no_separator_but_a_real_slash_parts_a_path(name: str, tag: str, separator: str, data: st.DataObject) -> None:
    parts = f"{name}/manifests/{tag}".split("/")
    place = data.draw(st.integers(1, len(parts) - 1))

    with pytest.raises((NameInvalid, NotThere)):
        parse_path(separator.join(["/".join(parts[:place]), "/".join(parts[place:])]))


@pytest.mark.parametrize(
    "text", ["%00", "%0a", "%0d%0a", "%7f", "%1b[m", "%c2%85", "%e2%80%ae", "%25", "%2f", "%5c", "%ff"]
)
@pytest.mark.parametrize(
    "path", ["a/manifests/x{}", "a{}/manifests/x", "a/blobs/uploads/{}x", "a/blobs/{}", "{}/tags/list"]
)
def test_an_encoded_separator_percent_or_control_character_is_refused_wherever_it_stands(path: str, text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_path(path.format(text))


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../etc/manifests/x",
        "/v2/a/../../b/manifests/x",
        "/v2/a/./b/manifests/x",
        "/v2/a/%2e%2e/manifests/x",
        "/v2/a/%2E%2e/%2e%2e/etc/passwd/manifests/x",
        "/v2/a%2fb/manifests/x",
        "/v2/a%2Fb/manifests/x",
        "/v2/a%5cb/manifests/x",
        "/v2/a\\b/manifests/x",
        "/v2/..%5c..%5cetc/manifests/x",
        "/v2/a%00/manifests/x",
        "/v2/a%0a/manifests/x",
        "/v2/a%0d%0aset-cookie:x/manifests/x",
        "/v2/a;b/manifests/x",
        "/v2/a%252fb/manifests/x",
        "/v2/a%25/manifests/x",
        "/v2/a%/manifests/x",
        "/v2/a%2/manifests/x",
        "/v2/a%zz/manifests/x",
        "/v2/%c0%af/manifests/x",
        "/v2/%c0%ae%c0%ae/manifests/x",
        "/v2/a%ff/manifests/x",
        "/v2/caf%c3%a9/manifests/x",
        "/v2/%ef%bc%8e%ef%bc%8e/manifests/x",
        "/v2/A/manifests/x",
        "/v2/Team/App/manifests/x",
        "/v2/a//b/manifests/x",
        "/v2//manifests/x",
        "/v2/manifests/x",
        "/v2/_uploads/manifests/x",
        "/v2/a/_layers/manifests/x",
        "/v2/a/manifests/x/",
        "/v2/a/manifests/",
        "/v2/a/manifests/..",
        "/v2/a/manifests/%2e%2e",
        "/v2/a/manifests/%2e%2e%2fb",
        "/v2/a/manifests/x%2fy",
        "/v2/a/manifests/x%00",
        "/v2/a/blobs/uploads/..",
        "/v2/a/blobs/uploads/%2e%2e%2fx",
        "/v2/a/tags/list/",
        "/v2/a/tags/other",
        "/v2/a/tags",
        "/v2/a",
        "/v2/_catalog/x",
        "/v2/x/_catalog",
        "/v2/_oci/ext/other",
        "/v2x",
        "/v1/",
        "/",
        "",
        "//v2/",
        "/V2/",
        "/%762/",
        "/v2/" + "a/" * 40 + "manifests/x",
        "/v2/" + "a" * 256 + "/manifests/x",
        "/v2/" + "a" * 100_000 + "/manifests/x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
async def test_a_path_that_means_nothing_is_refused_before_any_look_at_the_store(path: str, method: str) -> None:
    client = await open_client(MemoryDriver())
    for name in ("a", "b", "a/b", "etc", "team/app", "etc/passwd"):
        await client.push_manifest(name=name, reference="x")
    before = await keys_below(client.driver, "")

    answer = await client.ask(method, path.encode("latin-1"), pieces=[encode(image())])

    assert answer.status in (400, 404)
    assert "set-cookie" not in answer.headers
    if method != "HEAD":
        assert b"set-cookie" not in answer.body
        assert b"etc" not in answer.body
    assert await keys_below(client.driver, "") == before
    await client.close()


@pytest.mark.parametrize(
    "name",
    [
        *ROUTE_WORDS,
        "a/blobs/uploads",
        "a/tags/list",
        "a/manifests/b",
        "a/referrers",
        "manifests/manifests",
        "blobs/uploads/x",
        "ext/discover",
    ],
)
async def test_a_repository_may_be_called_by_the_words_of_the_routes(client: Client, name: str) -> None:
    pushed = await client.push_manifest(name=name, reference="list")
    digest = pushed.headers["docker-content-digest"]

    assert pushed.status_code == 201
    for reference in ("list", digest):
        assert (await client.http.get(f"{name}/manifests/{reference}")).content == encode(image())
    assert (await client.http.get(f"{name}/tags/list")).json() == {"name": name, "tags": ["list"]}
    assert (await client.http.get(f"{name}/referrers/{digest}")).status_code == 200
    location = await client.begin(name=name)
    assert location.startswith(f"/v2/{name}/blobs/uploads/")
    assert (await client.http.get(location)).status_code == 204
    assert (await client.http.get("_catalog")).json() == {"repositories": [name]}


async def test_tags_that_differ_by_their_case_are_two(client: Client) -> None:
    for tag in ("v1", "V1"):
        await client.push_manifest(encode(image(annotations={"tag": tag})), tag)

    for tag in ("v1", "V1"):
        assert (await client.http.get(f"team/app/manifests/{tag}")).json()["annotations"] == {"tag": tag}


@pytest.mark.parametrize(
    "parameters", ["ns=docker.io", "origin=x&n=&last=%2e", "digest=x", "tag=x", "_method=DELETE", "&&=&"]
)
async def test_unknown_parameters_are_ignored(client: Client, parameters: str) -> None:
    await client.push_manifest()

    for path in ("team/app/manifests/latest", "", "_oci/ext/discover"):
        assert (await client.http.get(f"{path or '/v2/'}?{parameters}")).status_code == 200


async def test_a_header_does_not_change_the_method(client: Client) -> None:
    await client.push_manifest()

    await client.http.get("team/app/manifests/latest", headers={"x-http-method-override": "DELETE"})

    assert (await client.http.get("team/app/manifests/latest")).status_code == 200


@pytest.mark.parametrize("query", [b"n=%ff", b"\xff", b"tag=a&" * 1001])
async def test_a_query_that_is_none_is_400(client: Client, query: bytes) -> None:
    answer = await client.ask("GET", b"/v2/_catalog", query=query)

    assert (answer.status, answer.code) == (400, "UNSUPPORTED")


async def test_a_last_that_needs_encoding_comes_back_encoded_in_the_link(client: Client) -> None:
    for tag in ("a", "b"):
        await client.push_manifest(reference=tag)

    answer = await client.http.get("team/app/tags/list", params={"n": 1})

    assert answer.headers["link"] == f'</v2/team/app/tags/list?n=1&last={quote("a")}>; rel="next"'
