"""Manifests that are bombs, or that two clients would read differently: refused, and never stored."""

import contextlib
import gzip
import itertools
import json
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Starter
from tests.hostile import store
from tests.hostile.processes import bounded
from tests.hostile.pushing import (
    CONFIG,
    DOCKER_IMAGE,
    IMAGE,
    INDEX,
    LAYER,
    image,
    index,
    push_blob,
    push_image,
    put_manifest,
    sha256,
)
from tests.hostile.wire import LAST_CHUNK, Answer, Wire, call, chunk, head, request
from tests.running import Server, eventually

MIB = 1 << 20
LIMIT = 4 * MIB
NAME = "documents"
NUMBERS = itertools.count()

NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


@pytest.fixture(scope="module", autouse=True)
def config(server: Server) -> str:
    """The digest of a config that the repository holds."""
    return push_blob(server, NAME, b"{}")


@pytest.fixture
def refuse(server: Server) -> Iterator[Callable[..., Answer]]:
    """Push a manifest that has to be refused, quickly and without a trace."""
    before = store.files(server)

    def push(body: bytes, media_type: str | None = IMAGE, *, chunked: bool = False) -> Answer:
        lines = [] if media_type is None else [f"Content-Type: {media_type}"]
        answer = call(server, "PUT", f"/v2/{NAME}/manifests/bad", *lines, body=body, chunked=chunked)
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID"), answer
        return answer

    yield push
    assert call(server, "HEAD", f"/v2/{NAME}/manifests/bad").status == 404
    assert store.files(server) == before


def padded(config: str, size: int) -> bytes:
    """An image manifest of exactly that many bytes."""
    body = image(config)
    return body + b" " * (size - len(body))


# Size


@pytest.mark.case("H27")
def test_a_manifest_of_exactly_the_limit_is_taken_and_kept_to_the_byte(server: Server, config: str) -> None:
    for chunked in (False, True):
        body = padded(config, LIMIT)
        target = f"/v2/{NAME}/manifests/limit"
        assert call(server, "PUT", target, f"Content-Type: {IMAGE}", body=body, chunked=chunked).status == 201
        assert call(server, "GET", target).body == body


@pytest.mark.case("H27")
@pytest.mark.parametrize("chunked", [False, True])
def test_a_manifest_one_byte_above_the_limit_is_refused(server: Server, config: str, chunked: bool) -> None:
    before = store.files(server)
    target = f"/v2/{NAME}/manifests/large"

    answer = call(server, "PUT", target, f"Content-Type: {IMAGE}", body=padded(config, LIMIT + 1), chunked=chunked)

    assert (answer.status, answer.code) == (413, "SIZE_INVALID")
    assert store.files(server) == before


@pytest.mark.case("H27")
@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 40, 999_999_999_999_999_999])
def test_a_length_above_the_limit_is_refused_before_the_body_is_read(server: Server, length: int) -> None:
    sent = head("PUT", f"/v2/{NAME}/manifests/large", length=length)
    with Wire.open(server) as wire:
        wire.send(sent)

        answer = wire.answer()
        assert (answer.status, answer.code) == (413, "SIZE_INVALID")
        assert answer.headers["connection"] == "close"
        assert wire.ended()


@pytest.mark.case("H27")
def test_an_endless_manifest_is_cut_off_at_the_limit(server: Server) -> None:
    sent = head("PUT", f"/v2/{NAME}/manifests/endless")
    with bounded(server, growth_mib=48), Wire.open(server) as wire:
        wire.send(sent)
        large = chunk(bytes(1 << 16))
        for _ in range(200):
            wire.send(large)
        answer = wire.answer()

    assert (answer.status, answer.code, answer.headers["connection"]) == (413, "SIZE_INVALID", "close")


@pytest.mark.case("H27")
def test_a_length_that_lies_is_no_manifest(server: Server, config: str) -> None:
    body = image(config)
    target = f"/v2/{NAME}/manifests/lie"
    before = store.files(server)
    with Wire.open(server) as wire:  # fewer bytes than announced: the client hangs up
        wire.send(request("PUT", target, f"Content-Type: {IMAGE}", body=body)[:-1])
        wire.socket.close()
    with Wire.open(server) as wire:  # more than announced: the rest is the next request, and no good one
        wire.send(request("PUT", target, f"Content-Type: {IMAGE}", body=body[:-1]) + body[-1:] + b"\r\n\r\n")
        assert [wire.answer().status, wire.answer().status] == [400, 400]
        assert wire.ended()

    assert call(server, "HEAD", target).status == 404
    assert store.files(server) == before


@pytest.mark.case("H27")
def test_a_manifest_in_chunks_of_one_byte_takes_no_more_memory_than_its_bytes(server: Server, config: str) -> None:
    """As a list of its pieces it would take a hundred times as much."""
    size = 1_000_000
    sent = head("PUT", f"/v2/{NAME}/manifests/crumbs", f"Content-Type: {IMAGE}")
    with bounded(server, growth_mib=40), Wire.open(server) as wire:
        wire.send(sent)
        wire.send(b"1\r\n \r\n" * size)
        wire.send(chunk(image(config)) + LAST_CHUNK)
        assert wire.answer().status == 201


@pytest.mark.case("H27")
def test_many_clients_that_never_end_their_manifests_take_a_bounded_memory(server: Server, config: str) -> None:
    """Each of them may hold a connection, but not four MiB of memory with it."""
    sent = head("PUT", f"/v2/{NAME}/manifests/slow", length=LIMIT)
    with bounded(server, growth_mib=240), many_wires(server, 160) as wires:
        for wire in wires:
            wire.send(sent + bytes(LIMIT - 1))
        refused = [wire.answer() for wire in wires if wire.speaks(seconds=0)]
        assert refused
        for answer in refused:
            assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
            assert int(answer.headers["retry-after"]) > 0
        # Others push small ones meanwhile.
        for _ in range(4):
            assert put_manifest(server, NAME, "meanwhile", image(config)).status == 201
    # What was held is given back, and large manifests are taken again.
    for _ in range(4):
        eventually(lambda: put_manifest(server, NAME, "after", padded(config, LIMIT)).status == 201)


@contextlib.contextmanager
def many_wires(server: Server, count: int) -> Iterator[list[Wire]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire.open(server)) for _ in range(count)]


# JSON that is a bomb, or none


def deep(opening: bytes, closing: bytes, depth: int) -> bytes:
    return b'{"schemaVersion":2,"x":' + opening * depth + b"1" + closing * depth + b"}"


BOMBS: dict[str, bytes] = {
    "depth_of_lists": deep(b"[", b"]", 33),
    "great_depth_of_lists": deep(b"[", b"]", 1_000_000),
    "depth_of_objects": deep(b'{"a":', b"}", 33),
    "great_depth_of_objects": deep(b'{"a":', b"}", 500_000),
    "open_lists": b"[" * 4_000_000,
    "open_objects": b'{"a":' * 700_000,
    "mixed_depth": deep(b'[{"a":', b"}]", 20_000),
    "width_of_numbers": b'{"x":[' + b"1," * 1_900_000 + b"1]}",
    "width_of_lists": b'{"x":[' + b"[]," * 1_200_000 + b"[]]}",
    "width_of_objects": b'{"x":[' + b"{}," * 1_200_000 + b"{}]}",
    "width_of_pairs": b'{"x":[' + b'{"a":1},' * 390_000 + b'{"a":1}]}',
    "width_of_texts": b'{"x":[' + b'"",' * 1_200_000 + b'""]}',
    "many_keys": b"{" + b",".join(b'"%x":0' % number for number in range(410_000)) + b"}",
    "width_just_under_the_count_of_commas": b'{"x":[' + b"1," * 1_590_000 + b"1]}",
    "long_number": b'{"schemaVersion":2,"x":' + b"9" * 4_000_000 + b"}",
    "number_beyond_the_limit_of_python": b'{"schemaVersion":2,"x":' + b"9" * 4301 + b"}",
    "many_long_numbers": b'{"x":[' + b",".join([b"9" * 4299] * 900) + b"]}",
    "long_fraction": b'{"schemaVersion":2,"x":1.' + b"9" * 4_000_000 + b"e999999}",
    "exponent": b'{"schemaVersion":2,"x":1e999999}',
    "negative_exponent_of_a_bomb": b'{"schemaVersion":2,"x":-1e999999}',
    "key_of_megabytes_twice": b'{"' + b"a" * 1_900_000 + b'":1,"' + b"a" * 1_900_000 + b'":2}',
}

NO_JSON: dict[str, bytes] = {
    "empty": b"",
    "space": b" " * 100_000,
    "nan": b'{"schemaVersion":2,"x":NaN}',
    "infinity": b'{"schemaVersion":2,"x":Infinity}',
    "minus_infinity": b'{"schemaVersion":2,"x":-Infinity}',
    "bom": b"\xef\xbb\xbf",
    "trailing_garbage": b" x",
    "trailing_object": b"{}",
    "trailing_nul": b"\x00",
    "trailing_comma": b'{"schemaVersion":2,}',
    "comment": b'/* x */ {"schemaVersion":2}',
    "single_quotes": b"{'schemaVersion':2}",
    "utf_16_le": b"utf-16-le",
    "utf_16": b"utf-16",
    "utf_32": b"utf-32",
    "utf_7": b'{"x":"+ADw-"}\xff',
    "latin_1": b'{"schemaVersion":2,"x":"\xe4"}',
    "overlong": b'{"schemaVersion":2,"x":"\xc0\xaf"}',
    "raw_surrogate": b'{"schemaVersion":2,"x":"\xed\xa0\x80"}',
    "lone_high_surrogate": b'{"schemaVersion":2,"x":"\\ud800"}',
    "lone_low_surrogate": b'{"schemaVersion":2,"x":"\\udc00"}',
    "reversed_surrogates": b'{"schemaVersion":2,"x":"\\udc00\\ud800"}',
    "surrogate_in_a_key": b'{"schemaVersion":2,"\\ud800":1}',
    "deep_surrogate": b'{"schemaVersion":2,"x":[[{"y":["\\udfff"]}]]}',
    "control_character": b'{"schemaVersion":2,"x":"a\nb"}',
    "octal": b'{"schemaVersion":02}',
    "plus": b'{"schemaVersion":+2}',
    "hex": b'{"schemaVersion":0x2}',
    "list": b"[]",
    "text": b'"text"',
    "number": b"2",
    "null": b"null",
    "true": b"true",
    "gzip": gzip.compress(b'{"schemaVersion":2}'),
}


@pytest.mark.case("H28")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_json_is_refused_in_bounded_time_and_memory(
    server: Server, refuse: Callable[..., Answer], name: str
) -> None:
    with bounded(server, growth_mib=256, cpu_seconds=1.5):
        refuse(BOMBS[name])


@pytest.mark.case("H28")
@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_not_json_to_every_parser_is_refused(refuse: Callable[..., Answer], config: str, name: str) -> None:
    body = NO_JSON[name]
    if name.startswith("utf_") and name != "utf_7":
        body = image(config).decode().encode(body.decode())
    elif name == "bom":
        body = body + image(config)
    elif name.startswith("trailing_") and name != "trailing_comma":
        body = image(config) + body

    refuse(body)


@pytest.mark.case("H28")
def test_others_are_served_while_bombs_are_refused(server: Server, config: str) -> None:
    bomb = request("PUT", f"/v2/{NAME}/manifests/bad", f"Content-Type: {IMAGE}", body=BOMBS["many_keys"])
    with many_wires(server, 8) as wires:
        for wire in wires:
            wire.send(bomb)
        assert call(server, "HEAD", f"/v2/{NAME}/blobs/{config}").status == 200
        assert [wire.answer().status for wire in wires] == [400] * 8


@pytest.mark.case("H28")
def test_the_digest_is_that_of_the_bytes_whatever_their_spelling(server: Server, config: str) -> None:
    plain = image(config)
    for body in (plain + b"\n", b" \r\n\t" + plain, plain.replace(b": ", b" :  "), plain.replace(b"V", b"\\u0056", 1)):
        answer = put_manifest(server, NAME, sha256(body), body)
        assert (answer.status, answer.headers["docker-content-digest"]) == (201, sha256(body))
        assert call(server, "GET", f"/v2/{NAME}/manifests/{sha256(body)}").body == body
    assert put_manifest(server, NAME, sha256(plain), plain + b" ").code == "DIGEST_INVALID"


# Two readings of one document


@pytest.mark.case("H29")
@pytest.mark.parametrize(
    "key",
    [
        "Layers",
        "LAYERS",
        "layerS",
        "layer\u017f",  # LATIN SMALL LETTER LONG S, which Go folds to s
        "MediaType",
        "MEDIATYPE",
        "Config",
        "con\ufb01g",  # LATIN SMALL LIGATURE FI, which full case folding expands
        "Manifests",
        "manife\u017ft\u017f",
        "Subject",
        "\u017fubject",
        "SchemaVersion",
        "\u017fchemaVer\u017fion",
        "Annotations",
        "ArtifactType",
        "FSLayers",
    ],
)
def test_a_key_in_another_case_is_refused(refuse: Callable[..., Answer], config: str, key: str) -> None:
    fields = json.loads(image(config))
    refuse(json.dumps({**fields, key: fields["layers"]}).encode())
    refuse(json.dumps({key: fields["layers"], **fields}, ensure_ascii=False).encode())


@pytest.mark.case("H29")
@pytest.mark.parametrize(
    "key", ["Digest", "DIGEST", "dige\u017ft", "Size", "\u017fize", "URLs", "url\u017f", "MediaType", "Data"]
)
def test_a_key_of_a_descriptor_in_another_case_is_refused(refuse: Callable[..., Answer], config: str, key: str) -> None:
    bad = {"mediaType": CONFIG, "digest": config, "size": 2, key: sha256(b"another")}
    refuse(image(config, config=bad))
    refuse(image(config, layers=[{**bad, "mediaType": LAYER}]))
    refuse(image(config, subject=bad))
    refuse(index(bad), INDEX)


@pytest.mark.case("H29")
@pytest.mark.parametrize("key", ["OS", "o\u017f", "Architecture", "Variant", "Os.Version", "OS.Features"])
def test_a_key_of_a_platform_in_another_case_is_refused(refuse: Callable[..., Answer], config: str, key: str) -> None:
    """By it a client chooses which image of an index it runs."""
    platform = {"os": "linux", "architecture": "amd64", key: "windows"}
    refuse(index({"mediaType": CONFIG, "digest": config, "size": 2, "platform": platform}), INDEX)


@pytest.mark.case("H29")
def test_a_key_that_stands_twice_is_refused_at_any_depth(refuse: Callable[..., Answer], config: str) -> None:
    plain = image(config).decode()
    for once, twice in (
        ('"layers": []', '"layers": [], "layers": []'),
        ('"schemaVersion": 2', '"schemaVersion": 1, "schemaVersion": 2'),
        ('"size": 2', '"size": 3, "size": 2'),
        ('"layers": []', '"layers": [], "l\\u0061yers": []'),
        ('"layers": []', '"layers": [], "annotations": {"a": "1", "a": "2"}'),
        ('"layers": []', '"layers": [], "x": [[{"a": 1, "a": 1}]]'),
    ):
        assert once in plain
        refuse(plain.replace(once, twice, 1).encode())


@pytest.mark.case("H29")
def test_keys_of_annotations_and_of_others_are_theirs(server: Server, config: str) -> None:
    body = image(
        config, annotations={"A": "1", "a": "2", "Layers": "3"}, **{"org.example.Layers": 1, "ORG": 2, "org": 3}
    )

    assert put_manifest(server, NAME, "free", body).status == 201


@pytest.mark.case("H30")
def test_a_type_that_the_request_and_the_document_tell_differently_is_refused(
    refuse: Callable[..., Answer], config: str
) -> None:
    refuse(image(config), INDEX)
    refuse(image(config), DOCKER_IMAGE)
    refuse(image(config, mediaType=INDEX), IMAGE)
    refuse(index(), IMAGE)
    refuse(image(config, mediaType=IMAGE.upper()), IMAGE)
    refuse(image(config, mediaType=f"{IMAGE}; charset=utf-8"), IMAGE)
    for kind in ("text/html", "application/json", "application/octet-stream", "*/*", f"{IMAGE}, {INDEX}"):
        refuse(image(config), kind)
        refuse(image(config, mediaType=kind), kind)
        refuse(image(config, mediaType=kind), None)


@pytest.mark.case("H30")
def test_a_document_that_is_an_image_and_an_index_is_refused_whatever_it_calls_itself(
    refuse: Callable[..., Answer], config: str
) -> None:
    """CVE-2021-41190."""
    for named, kind in itertools.product((True, False), (IMAGE, INDEX, DOCKER_IMAGE, DOCKER_LIST)):
        both = json.loads(image(config, manifests=[], mediaType=kind))
        if not named:
            del both["mediaType"]
        refuse(json.dumps(both).encode(), kind)
        refuse(json.dumps({**both, "manifests": None}).encode(), kind)
    refuse(image(config, fsLayers=[]), IMAGE)
    refuse(index(layers=[]), INDEX)
    refuse(index(config=None), INDEX)
    refuse(json.dumps({**json.loads(image(config)), "schemaVersion": 1}).encode(), IMAGE)


@pytest.mark.case("H30")
def test_a_stored_type_is_served_whatever_a_client_would_accept(server: Server, config: str) -> None:
    body = json.loads(image(config))
    del body["mediaType"]
    assert put_manifest(server, NAME, "nameless", json.dumps(body).encode(), DOCKER_IMAGE).status == 201

    for accept in (INDEX, IMAGE, "text/html", "*/*", "application/vnd.docker.distribution.manifest.v1+json", "\xff"):
        answer = call(server, "GET", f"/v2/{NAME}/manifests/nameless", f"Accept: {accept}")
        assert (answer.status, answer.headers["content-type"]) == (200, DOCKER_IMAGE)


@pytest.mark.case("H31")
def test_a_second_pusher_does_not_change_the_type_that_others_read(server: Server, config: str) -> None:
    fields = json.loads(image(config, annotations={"of": "H31"}))
    del fields["mediaType"]
    body = json.dumps(fields).encode()
    target = f"/v2/{NAME}/manifests/{sha256(body)}"
    assert put_manifest(server, NAME, sha256(body), body, DOCKER_IMAGE).status == 201

    put_manifest(server, NAME, sha256(body), body, IMAGE)
    put_manifest(server, NAME, "other", body, IMAGE)
    assert put_manifest(server, NAME, sha256(body), body, INDEX).status == 400

    for _ in range(4):
        assert call(server, "GET", target).headers["content-type"] == DOCKER_IMAGE
        assert call(server, "GET", f"/v2/{NAME}/manifests/other").headers["content-type"] == DOCKER_IMAGE


@pytest.mark.case("H32")
def test_an_index_of_more_than_ten_thousand_entries_is_refused(refuse: Callable[..., Answer], config: str) -> None:
    entry = {"mediaType": IMAGE, "digest": config, "size": 2}
    refuse(index(*[entry] * 10_001), INDEX)
    refuse(image(config, layers=[entry] * 10_001))


@pytest.mark.case("H32")
def test_an_index_of_ten_thousand_equal_entries_is_one_look_up(server: Server) -> None:
    child = image(push_blob(server, NAME, b"{}"))
    assert put_manifest(server, NAME, "child", child).status == 201
    entry = {"mediaType": IMAGE, "digest": sha256(child), "size": len(child)}
    with bounded(server, growth_mib=64, cpu_seconds=1.5):
        assert put_manifest(server, NAME, "wide", index(*[entry] * 10_000), INDEX).status == 201


@pytest.mark.case("H32")
def test_an_index_of_ten_thousand_absent_entries_names_them_and_stores_nothing(server: Server) -> None:
    before = store.files(server)
    entries = [{"mediaType": IMAGE, "digest": f"sha256:{n:064x}", "size": 1} for n in range(10_000)]
    with bounded(server, growth_mib=128, cpu_seconds=3):
        answer = put_manifest(server, NAME, "absent", index(*entries), INDEX)

    assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
    assert store.files(server) == before


@pytest.mark.case("H32")
def test_indexes_in_indexes_are_looked_at_one_floor_deep(server: Server) -> None:
    """However deep the pile is: nothing on the path of a request walks down it."""
    digest, size = push_image(server, NAME, "floor"), 0
    size = int(
        call(
            server,
            "HEAD",
            f"/v2/{NAME}/manifests/floor",
        ).headers["content-length"]
    )
    kind = IMAGE
    for _ in range(60):
        body = index({"mediaType": kind, "digest": digest, "size": size})
        answer = put_manifest(server, NAME, "pile", body, INDEX)
        assert answer.status == 201
        digest, size, kind = sha256(body), len(body), INDEX

    assert call(server, "GET", f"/v2/{NAME}/manifests/pile").headers["docker-content-digest"] == digest
    assert call(server, "DELETE", f"/v2/{NAME}/manifests/{digest}").status == 202


@pytest.mark.case("H33")
@pytest.mark.parametrize(
    "size",
    [
        "-1",
        "9223372036854775808",
        "1e3",
        "2.0",
        '"2"',
        "true",
        "null",
        "[]",
        "99999999999999999999999",
        "-0.0",
        "1e999",
    ],
)
def test_a_size_that_is_no_count_of_bytes_is_refused(refuse: Callable[..., Answer], config: str, size: str) -> None:
    assert b'"size": 2' in image(config)
    refuse(image(config).replace(b'"size": 2', f'"size": {size}'.encode()))
    refuse(image(config).replace(b', "size": 2', b""))


@pytest.mark.case("H33")
def test_a_size_that_is_not_that_of_the_content_is_refused(refuse: Callable[..., Answer], config: str) -> None:
    refuse(image(config, blob_bytes=3))
    refuse(image(config, blob_bytes=(1 << 63) - 1))


@pytest.mark.case("H33")
def test_embedded_data_and_urls_are_kept_and_never_believed_or_fetched(server: Server, config: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.3)
        host, port = elsewhere.getsockname()
        urls = [f"http://{host}:{port}/layer", "file:///etc/passwd", "http://user:pass@169.254.169.254/"]
        absent = sha256(b"never pushed")
        layer = {"mediaType": NONDISTRIBUTABLE, "digest": absent, "size": 9, "urls": urls, "data": "aGVsbG8="}
        body = image(config, layers=[layer])
        assert put_manifest(server, NAME, "urls", body).status == 201
        assert call(server, "GET", f"/v2/{NAME}/manifests/urls").body == body
        assert call(server, "GET", f"/v2/{NAME}/blobs/{absent}").code == "BLOB_UNKNOWN"
        with pytest.raises(TimeoutError):
            elsewhere.accept()

    claimed = {"mediaType": LAYER, "digest": absent, "size": 5, "data": "aGVsbG8="}
    assert put_manifest(server, NAME, "data", image(config, layers=[claimed])).code == "MANIFEST_BLOB_UNKNOWN"
    claimed["data"] = "bm90IGl0"
    assert (
        put_manifest(server, NAME, "data", image(config, config={**claimed, "digest": config, "size": 2})).status == 201
    )
    assert call(server, "GET", f"/v2/{NAME}/blobs/{config}").body == b"{}"


@pytest.mark.case("H34")
@pytest.mark.parametrize("name", ["great_depth_of_lists", "many_keys", "long_number"])
def test_a_config_is_opaque_bytes(server: Server, name: str) -> None:
    body = BOMBS[name]
    with bounded(server, growth_mib=32):
        digest = push_blob(server, NAME, body)
        assert put_manifest(server, NAME, "opaque", image(digest, blob_bytes=len(body))).status == 201
        assert call(server, "GET", f"/v2/{NAME}/blobs/{digest}").body == body


@pytest.mark.case("H34")
def test_a_layer_is_never_unpacked(server: Server, config: str) -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 * MIB), 9), 9)
    with bounded(server, growth_mib=32):
        layer = push_blob(server, NAME, bomb)
        entry = {"mediaType": f"{LAYER}+gzip", "digest": layer, "size": len(bomb)}
        assert put_manifest(server, NAME, "bomb", image(config, layers=[entry])).status == 201
        answer = call(server, "GET", f"/v2/{NAME}/blobs/{layer}", "Accept-Encoding: gzip, deflate, zstd, br")

    assert answer.body == bomb
    assert "content-encoding" not in answer.headers


# Referrers


def refer(server: Server, name: str, subject: str, config: str, **annotations: str) -> Answer:
    described = {"mediaType": IMAGE, "digest": subject, "size": 7}
    return put_manifest(server, name, "ref", image(config, subject=described, annotations=annotations))


@pytest.mark.case("H35")
def test_many_referrers_with_large_annotations_are_listed_in_pages_and_bounded_memory(start_pierhead: Starter) -> None:
    server = start_pierhead()  # whose memory no other bomb has stretched
    name, count = "documents/fan", 30
    config, subject = push_blob(server, name, b"{}"), sha256(b"subject")
    for number in range(count):
        large = "small" if number % 6 == 0 else "x" * (LIMIT - 4000)
        assert refer(server, name, subject, config, number=str(number), large=large).status == 201

    found: list[str] = []
    target = f"/v2/{name}/referrers/{subject}"
    with bounded(server, growth_mib=64):
        while target:
            answer = call(server, "GET", target)
            assert answer.status == 200
            assert len(answer.body) <= LIMIT
            found += [each["annotations"]["number"] for each in json.loads(answer.body)["manifests"]]
            target = answer.headers.get("link", "").partition("<")[2].partition(">")[0]

    assert sorted(found, key=int) == [str(number) for number in range(count)]


@pytest.mark.case("H35")
def test_others_are_served_while_many_referrers_are_listed(server: Server) -> None:
    name, subject = "documents/crowd", sha256(b"subject of a crowd")
    config = push_blob(server, name, b"{}")
    for number in range(60):
        assert refer(server, name, subject, config, number=str(number)).status == 201

    filtered = call(server, "GET", f"/v2/{name}/referrers/{subject}?artifactType=none/such")
    whole = call(server, "GET", f"/v2/{name}/referrers/{subject}")

    assert json.loads(filtered.body)["manifests"] == []
    assert len(json.loads(whole.body)["manifests"]) == 60


@pytest.mark.case("H36")
def test_a_page_of_referrers_is_never_longer_than_a_manifest_may_be(server: Server) -> None:
    """Clients refuse to read more. One annotation may fill a manifest up to its limit."""
    name, subject = "documents/page", sha256(b"subject of a page")
    config = push_blob(server, name, b"{}")
    for letter in ("a", "\\u0001", "é", '"', "\\\\"):
        described = {"mediaType": IMAGE, "digest": subject, "size": 7}
        empty = image(config, subject=described, annotations={"a": ""}).decode().replace(": ", ":").replace(", ", ",")
        room = (LIMIT - len(empty)) // len(letter.replace('"', '\\"').encode())
        body = empty.replace('"annotations":{"a":""}', '"annotations":{"a":"%s"}' % (letter.replace('"', '\\"') * room))
        assert len(body.encode()) <= LIMIT
        put_manifest(server, name, sha256(body.encode()), body.encode())

    target = f"/v2/{name}/referrers/{subject}"
    pages = 0
    while target:
        answer = call(server, "GET", target)
        assert answer.status == 200
        assert len(answer.body) <= LIMIT
        pages += 1
        target = answer.headers.get("link", "").partition("<")[2].partition(">")[0]
    assert pages > 1
