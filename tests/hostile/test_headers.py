"""Headers and parameters as weapons: what is echoed, what is multiplied, and what overflows."""

import json
from collections.abc import Iterator
from functools import partial
from urllib.parse import quote

import pytest

from tests.conftest import Starter
from tests.hostile.conftest import HARM
from tests.hostile.processes import bounded, cpu_spent, workers
from tests.hostile.pushing import (
    IMAGE,
    begin,
    image,
    push_blob,
    push_image,
    put_manifest,
    sha256,
)
from tests.hostile.wire import Wire, ask, call, encoded, head, request
from tests.running import Server

NAME = "headers"

INJECTIONS = [
    "x\r\nSet-Cookie: a=b",
    "x\nSet-Cookie: a=b",
    "x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "x\x00y",
    "x\x1b[2J\x1b]0;title\x07",
    "\u2028x\u2029",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'; DROP TABLE tags; --",
    "${jndi:ldap://127.0.0.1/x}",
    "{{7*7}}%{1}%s%n%d",
    "$(touch /tmp/x)`id`",
    "../../../../etc/passwd",
    "\xff\xfe",
    "é" * 1000,
    '",x="',
    '>; rel="next", <http://evil.example/',
]


@pytest.fixture(scope="module")
def blob(server: Server) -> str:
    """A blob of 100,000 bytes."""
    return push_blob(server, NAME, bytes(range(256)) * 390 + bytes(160))


@pytest.mark.case("H10")
@pytest.mark.parametrize("evil", INJECTIONS)
def test_nothing_of_a_request_reaches_a_header_or_the_log_unless_it_was_validated(server: Server, evil: str) -> None:
    seen = server.log.stat().st_size
    push_image(server, NAME, "echo")
    text = quote(evil.encode("utf-8", "surrogatepass"), safe="")
    digest = sha256(b"{}")
    location = begin(server, NAME)
    targets = [
        ("GET", f"/v2/{text}/manifests/x"),
        ("GET", f"/v2/{NAME}/manifests/{text}"),
        ("PUT", f"/v2/{NAME}/manifests/{text}"),
        ("PUT", f"/v2/{NAME}/manifests/{digest}?tag={text}"),
        ("GET", f"/v2/{NAME}/blobs/{text}"),
        ("GET", f"/v2/{NAME}/tags/list?n=1&last={text}"),
        ("GET", f"/v2/{NAME}/tags/list?n={text}"),
        ("GET", f"/v2/_catalog?n=1&last={text}"),
        ("GET", f"/v2/_catalog?n={text}&last=x"),
        ("GET", f"/v2/{NAME}/referrers/{digest}?artifactType={text}"),
        ("GET", f"/v2/{NAME}/referrers/{digest}?last={text}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?mount={text}&from={text}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm={text}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={text}"),
        ("GET", f"/v2/{NAME}/blobs/uploads/{text}"),
        ("PUT", f"{location}?digest={text}"),
        ("GET", f"/{text}"),
        ("GET", f"/v2/{NAME}/_oci/ext/{text}"),
    ]
    # As much of it as the framing of HTTP lets through.
    header = "".join(each for each in evil if each >= " ").encode("utf-8", "replace").decode("latin-1")
    lines = [f"{name}: {header}" for name in ("User-Agent", "Referer", "X-Forwarded-For", "X-Forwarded-Host", "Accept")]
    lines += [f"{name}: {header}" for name in ("X-Forwarded-Prefix", "X-Forwarded-Proto", "Forwarded", "X-Request-Id")]
    for method, target in targets:
        answer = call(server, method, target, *lines)  # which asserts that the head is well-formed
        assert answer.status < 500
        for name, value in answer.headers.items():
            assert name not in {"set-cookie", "www-authenticate"}
            assert "evil.example" not in value
            assert "script" not in value
        if answer.body:
            assert answer.headers["content-type"] in {"application/json", "application/vnd.oci.image.index.v1+json"}
            assert answer.headers.get("x-content-type-options") == "nosniff" or answer.status == 200
            json.loads(answer.body)
    log = server.log.read_bytes()[seen:]
    assert b"\x1b" not in log
    assert b"\x00" not in log
    assert HARM.search(log) is None


@pytest.mark.case("H10")
def test_the_log_of_a_failure_holds_one_line_for_one_request(start_pierhead: Starter) -> None:
    """A path is what an attacker writes into it: it must not become a second line."""
    server = start_pierhead(environment={"PIERHEAD_LOG_FORMAT": "json"})
    digest = push_blob(server, NAME, b"to be damaged")
    link = server.data / f"docker/registry/v2/repositories/{NAME}/_layers/sha256/{digest[7:]}/link"
    link.write_bytes(b"sha256:\x1b[2J\nINFO all is well")
    seen = server.log.stat().st_size

    assert call(server, "GET", f"/v2/{NAME}/blobs/{digest}").code == "BLOB_UNKNOWN"

    lines = server.log.read_bytes()[seen:].splitlines()
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert not any(b"\x1b" in line for line in lines)


@pytest.mark.case("H10")
def test_a_link_to_the_next_page_holds_what_the_store_holds_and_nothing_of_the_request(server: Server) -> None:
    for tag in ("a", "b", "c"):
        push_image(server, f"{NAME}/pages", tag)

    answer = call(server, "GET", f"/v2/{NAME}/pages/tags/list?n=1&last=%22%3E%0d%0a&evil=1", "Host: x")
    assert answer.status == 400  # two hosts
    answer = call(server, "GET", f"/v2/{NAME}/pages/tags/list?n=1&last=%22%3E%0d%0a&evil=1")
    assert answer.headers["link"] == f'</v2/{NAME}/pages/tags/list?n=1&last=a>; rel="next"'


@pytest.mark.case("H10")
def test_forwarded_headers_of_strangers_are_ignored(server: Server) -> None:
    lines = ["X-Forwarded-Prefix: /evil", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https"]
    lines += ["Forwarded: host=evil.example;proto=https", "X-Original-URL: /v2/other", "X-Rewrite-URL: /v2/other"]

    answer = call(server, "POST", f"/v2/{NAME}/blobs/uploads/", *lines)

    assert answer.headers["location"].startswith(f"/v2/{NAME}/blobs/uploads/")


@pytest.mark.case("H11")
def test_a_page_that_was_pushed_does_not_run_in_a_browser(server: Server) -> None:
    page = b"<html><script>alert(document.domain)</script></html>"
    digest = push_blob(server, NAME, page)

    for method in ("GET", "HEAD"):
        answer = call(server, method, f"/v2/{NAME}/blobs/{digest}", "Accept: text/html", "Range: bytes=0-")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox"


@pytest.mark.case("H11")
def test_annotations_are_replayed_as_json_and_as_nothing_else(server: Server) -> None:
    evil = {f"org.example.{number}": text for number, text in enumerate(INJECTIONS)}
    subject = sha256(b"subject of evil")
    described = {"mediaType": IMAGE, "digest": subject, "size": 1}
    body = image(push_blob(server, NAME, b"{}"), subject=described, annotations=evil, artifactType="text/html")
    pushed = put_manifest(server, NAME, "evil", body)
    assert pushed.status == 201
    assert pushed.headers["oci-subject"] == subject

    answer = call(server, "GET", f"/v2/{NAME}/referrers/{subject}?artifactType=text%2Fhtml")
    (descriptor,) = json.loads(answer.body)["manifests"]
    assert descriptor["annotations"] == evil
    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert answer.headers["oci-filters-applied"] == "artifactType"
    assert answer.headers["x-content-type-options"] == "nosniff"
    manifest = call(server, "GET", f"/v2/{NAME}/manifests/evil")
    assert (manifest.headers["content-type"], manifest.headers["x-content-type-options"]) == (IMAGE, "nosniff")


@pytest.mark.case("H10")
def test_a_type_with_a_line_break_in_it_never_becomes_a_header(server: Server) -> None:
    config = push_blob(server, NAME, b"{}")
    for evil in ("text/html\r\nSet-Cookie: a=b", "text/html\nX: y", "\u0085", "é/é", "a" * 300):
        body = image(config, mediaType=evil)
        assert call(server, "PUT", f"/v2/{NAME}/manifests/type", body=body).code == "MANIFEST_INVALID"
        subject = {"mediaType": evil, "digest": f"{sha256(b'')}\r\nX: y", "size": 1}
        assert put_manifest(server, NAME, "type", image(config, subject=subject)).code == "MANIFEST_INVALID"


# Bombs in headers and parameters


@pytest.mark.case("H9")
@pytest.mark.parametrize(
    "wanted",
    [
        "0-0," * 15_000 + "0-0",
        "0-," * 20_000 + "0-",
        "-1," * 20_000 + "-1",
        "," * 60_000,
        "0-0" + "," * 60_000,
        " " * 60_000 + "0-0",
        "0-0" + " \t" * 30_000,
        "9" * 60_000 + "-",
        "-" * 60_000,
        "0-99999999999999999999999",
        "5-0," * 15_000 + "5-0",
        "99999999999999999-," * 3000 + "0-0",
    ],
    ids=range(12),
)
def test_a_bomb_of_ranges_is_answered_like_none_or_with_little(server: Server, blob: str, wanted: str) -> None:
    """CVE-2011-3192: each range was a part, and the parts held the memory of the server."""
    with bounded(server, growth_mib=24, cpu_seconds=1):
        answer = call(server, "GET", f"/v2/{NAME}/blobs/{blob}", f"Range: bytes={wanted}")
    assert answer.status in {200, 206, 416}
    assert len(answer.body) <= 100_000
    if answer.status == 200:
        assert sha256(answer.body) == blob


@pytest.mark.case("H9")
def test_as_many_ranges_as_are_taken_come_in_the_order_asked_for_and_one_more_is_too_many(
    server: Server, blob: str
) -> None:
    def get(count: int) -> tuple[int, int]:
        wanted = ",".join(f"{n}-{n}" for n in range(count))
        answer = call(server, "GET", f"/v2/{NAME}/blobs/{blob}", f"Range: bytes={wanted}")
        return answer.status, answer.body.count(b"Content-Range: bytes ")

    assert get(1024) == (206, 1024)
    assert get(1025) == (200, 0)


@pytest.mark.case("H9")
@pytest.mark.parametrize("name", ["If-None-Match", "If-Match"])
def test_a_bomb_of_conditions_costs_little(server: Server, name: str) -> None:
    """Each tag is asked about, and the header has room for thousands of entity tags."""
    body = image(push_blob(server, NAME, b"{}"), annotations={"for": name})
    tags = "&".join(f"tag=t{number}" for number in range(40))
    target = f"/v2/{NAME}/manifests/{sha256(body)}?{tags}"
    evil = '"x",' * 14_000 + (f'"{sha256(body)}"' if name == "If-Match" else '"y"')
    plain = request("PUT", target, f"Content-Type: {IMAGE}", body=body)

    costs = []
    for sent in (plain, plain.replace(b"\r\n\r\n", f"\r\n{name}: {evil}\r\n\r\n".encode(), 1)):
        before = sum(map(cpu_spent, workers(server)))
        assert ask(server, sent).status == 201
        costs.append(sum(map(cpu_spent, workers(server))) - before)

    assert costs[1] < costs[0] + 0.15


@pytest.mark.case("H9")
@pytest.mark.parametrize(
    "query",
    [
        "n=" + "9" * 20_000,
        "n=-1",
        "n=1e3",
        "n=0x10",
        "n=%D9%A3",
        "n=9223372036854775808",
        "n=18446744073709551616",
        "n=+5",
        "n=1_0",
        "n=",
        "n=%00",
        "last=" + "a" * 30_000,
        "last=%00",
        "last=..%2f..%2f..%2fetc%2fpasswd",
        "last=%2fetc",
        "last=%ff",
        "last=%F4%8F%BF%BF",
        "&" * 30_000,
        "=" * 30_000,
        "a&" * 10_000,
        "n=1&n=2&n=x",
        "%" * 1000,
        "%zz=%zz",
        "n=1;last=a",
    ],
)
def test_no_parameter_overflows_or_escapes(server: Server, query: str) -> None:
    push_image(server, NAME)
    for target in (f"/v2/{NAME}/tags/list", "/v2/_catalog"):
        answer = call(server, "GET", f"{target}?{query}")
        assert answer.status in {200, 400}
        assert b"root:" not in answer.body
        if answer.status == 400:
            assert answer.code == "UNSUPPORTED"


@pytest.mark.case("H9")
def test_more_tags_than_are_taken_at_once_are_refused_before_the_manifest_is_read(server: Server) -> None:
    tags = "&".join(f"tag=x{number}" for number in range(101))
    target = f"/v2/{NAME}/manifests/{sha256(b'{}')}?{tags}"
    with Wire.open(server) as wire:
        wire.send(head("PUT", target, length=1000000000))
        answer = wire.answer()

    assert (answer.status, answer.headers["connection"]) == (414, "close")


@pytest.mark.case("H52")
@pytest.mark.parametrize(
    "credentials",
    ["Bearer x", "Basic Og==", "Basic !!!", "Basic " + "A" * 50_000, "Negotiate \xff", "", "Bearer a.b.c, Basic x:y"],
)
def test_credentials_open_and_close_nothing_since_nothing_reads_them(server: Server, credentials: str) -> None:
    """There is no authentication yet: whatever a client sends must not even be looked at."""
    line = f"Authorization: {credentials}"
    location = call(server, "POST", f"/v2/{NAME}/blobs/uploads/", line).headers["location"]

    assert call(server, "PUT", f"{location}?digest={encoded(sha256(b'x'))}", line, body=b"x").status == 201
    assert call(server, "GET", f"/v2/{NAME}/blobs/{sha256(b'x')}", f"{line[:20]}").status == 200


@pytest.fixture
def many(server: Server) -> Iterator[list[Wire]]:
    """Three hundred connections."""
    wires = [Wire.open(server) for _ in range(300)]
    yield wires
    for wire in wires:
        wire.socket.close()


@pytest.mark.case("H38")
def test_hundreds_of_connections_at_every_stage_are_cheap_and_others_are_served(
    server: Server, many: list[Wire]
) -> None:
    location = begin(server, NAME)
    stages = [
        b"",
        b"G",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 30_000,
        request("PATCH", location, body=b"x" * 100)[:-1],
        request("GET", "/v2/"),
    ]
    with bounded(server, growth_mib=64):
        for number, wire in enumerate(many):
            wire.send(stages[number % len(stages)])
        check = partial(call, server, "GET", "/v2/")
        assert [check().status for _ in range(20)] == [200] * 20
