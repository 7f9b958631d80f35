"""Paths, names, digests and ids: nothing but what the grammars allow gets as far as a look-up."""

import itertools

import pytest

from tests.hostile import store
from tests.hostile.processes import bounded
from tests.hostile.pushing import (
    IMAGE,
    begin,
    finish,
    image,
    push_blob,
    push_image,
    put_manifest,
    sha256,
)
from tests.hostile.wire import Answer, ask, call, encoded, request
from tests.running import Server

HELLO = b"hello"
ZEROS = "0" * 64

EVIL_NAMES = [
    # dot segments, as they are and encoded in every way
    "..",
    ".",
    "../etc",
    "a/..",
    "a/./b",
    "a/../../b",
    "a/../b",
    "...",
    "%2e%2e",
    "%2E%2E",
    "%2e.",
    ".%2E",
    "a/%2e%2e/%2E%2e/b",
    "a/.%2e/b",
    # separators that somebody decodes later
    "a%2fb",
    "a%2Fb",
    "a%2f..%2fb",
    "..%2f..%2fetc",
    "a%5cb",
    "..%5C..%5Cetc",
    "a\\b",
    "..\\..\\etc",
    "a;b",
    "a;/b",
    "..;/b",
    "a//b",
    "/a",
    "a/",
    # decoded twice
    "a%252fb",
    "%252e%252e",
    "%25252e%25252e",
    "a%25b",
    # bytes that end a C string, a line, or a terminal's patience
    "a%00",
    "a%00b",
    "%00",
    "a%0d%0ab",
    "a%0a",
    "a%0d",
    "a%1b[31m",
    "a%7f",
    "a%09",
    "a%20",
    # UTF-8: overlong, cut, surrogates, out of range
    "a%c0%afb",
    "a%c0%aeb",
    "%c0%ae%c0%ae",
    "%e0%80%af",
    "%f0%80%80%af",
    "%f8%80%80%80%af",
    "a%c3",
    "a%ed%a0%80",
    "a%f4%90%80%80",
    "a%ff",
    "a%fe",
    # broken escapes stay what they are
    "a%",
    "a%2",
    "a%zz",
    "a%u002f",
    "%%35c",
    # IIS, shells, URLs
    "a:b",
    "a~1",
    "$HOME",
    "a&b",
    "a|b",
    "*",
    "http:",
    "a@b",
    "a+b",
    "a=b",
]

EVIL_TAILS = [
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2fx",
    "a%2fb",
    "a%5cb",
    "a%00",
    "a%0a",
    "a%0d%0aset-cookie:x",
    "a%c0%ae",
    "a%ff",
    "a%252f",
    "%20a",
    "a%20",
    "-a",
    ".a",
    "a" * 129,
    "%c3%a4",
    "%ef%bd%81",
    "a;b",
    "a=b",
    "a*b",
    "_state=x&a",
]

EVIL_IDS = [*EVIL_TAILS, "a.b", "a:b", "a" * 65, "a" * 5000, "..", "../x", "%2e%2e%2fx"]

EVIL_DIGESTS = [
    f"sha256:{ZEROS[1:]}A",
    f"sha256:{'AB' * 32}",
    f"SHA256:{ZEROS}",
    f"Sha256:{ZEROS}",
    f"sha256:{ZEROS[1:]}",
    f"sha256:{ZEROS}0",
    f"sha256:{ZEROS}%0a",
    f"sha256:{ZEROS}%0d",
    f"sha256:{ZEROS}%20",
    f"%20sha256:{ZEROS}",
    f"sha256:%20{ZEROS[1:]}",
    f"sha256:{ZEROS[1:]}%00",
    f"sha256%00:{ZEROS}",
    f"sha256:{ZEROS[1:]}%d9%a0",  # ARABIC-INDIC DIGIT ZERO
    f"sha256:{ZEROS[1:]}%ef%bc%90",  # FULLWIDTH DIGIT ZERO
    f"sha256:{ZEROS[1:]}%ef%bd%81",  # FULLWIDTH LATIN SMALL LETTER A
    f"%c5%bfha256:{ZEROS}",  # LATIN SMALL LETTER LONG S
    "sha256:",
    "sha256::",
    f"sha256::{ZEROS}",
    f"sha256:{ZEROS}:",
    f"sha256:{ZEROS}:{ZEROS}",
    f"sha256:sha256:{ZEROS}",
    f":{ZEROS}",
    ":",
    f"sha256:{'g' * 64}",
    f"sha256:{'0x' + ZEROS[2:]}",
    f"sha256:+{ZEROS[1:]}",
    f"sha256:-{ZEROS[1:]}",
    f"sha256:{ZEROS[:30]}_{ZEROS[:33]}",
    f"sha256:{'0' * 20_000}",
]

CONFUSED_DIGESTS = [
    f"sha512:{ZEROS}",
    f"sha256:{ZEROS}{ZEROS}",
    f"sha384:{'0' * 96}",
    f"md5:{'0' * 32}",
    f"sha1:{'0' * 40}",
    f"sha224:{'0' * 56}",
    f"blake3:{ZEROS}",
    f"sha3-256:{ZEROS}",
    f"sha512-256:{ZEROS}",
    f"sha256+b64:{ZEROS}",
    f"multihash+base58:{ZEROS}",
    f"shake_128:{ZEROS}",
    "unknown:abc",
]


def refused(answer: Answer) -> bool:
    """Whether an answer says no with an envelope that clients can read."""
    return answer.status in {400, 404, 405} and (answer.body == b"" or answer.code != "UNKNOWN")


@pytest.mark.case("H1")
@pytest.mark.parametrize("name", EVIL_NAMES)
def test_a_name_that_is_none_is_refused_and_nothing_is_read_or_written(server: Server, name: str) -> None:
    before, around = store.files(server), store.outside(server)
    body = image(sha256(b"{}"))

    answers = [
        call(server, "GET", f"/v2/{name}/manifests/latest"),
        call(server, "HEAD", f"/v2/{name}/blobs/sha256:{ZEROS}"),
        call(server, "GET", f"/v2/{name}/tags/list"),
        call(server, "GET", f"/v2/{name}/referrers/sha256:{ZEROS}"),
        call(server, "POST", f"/v2/{name}/blobs/uploads/"),
        call(server, "POST", f"/v2/{name}/blobs/uploads/?digest={encoded(sha256(HELLO))}", body=HELLO),
        call(server, "PUT", f"/v2/{name}/manifests/latest", f"Content-Type: {IMAGE}", body=body),
        call(server, "DELETE", f"/v2/{name}/manifests/latest"),
    ]

    assert all(map(refused, answers)), answers
    assert store.files(server) == before
    assert store.outside(server) == around


@pytest.mark.case("H1")
@pytest.mark.parametrize(
    "target",
    [
        "/v2/../etc/passwd",
        "/v2/../../../../etc/passwd",
        "/../v2/",
        "/v2/..%2f",
        "/%76%32/",
        "/v2%2f",
        "/V2/",
        "//v2/",
        "/v2//",
        "/v2/./",
        "/v2/..",
        "/v2/%2e%2e/v2/",
        "/v2/a/blobs/../manifests/x",
        "/v2/a/b/../manifests/latest",
        "/v2/_catalog/..",
        "/v2/_catalog%2f",
        "/v2/.git/config",
        "/v2/a/tags/list/..",
        "/v2/a/tags/list%00",
        "/v2/" + "a/" * 16_000 + "tags/list",
        "/v2/" + "a" * 30_000 + "/tags/list",
        "/v2/" + "%2e%2e/" * 4000,
        "/v2/" + "../" * 8000,
        "/" + "/" * 30_000,
    ],
)
def test_a_path_that_is_no_address_leads_nowhere(server: Server, target: str) -> None:
    push_image(server, "a")

    answer = call(server, "GET", target)

    assert answer.status in {400, 404}
    assert b"root:" not in answer.body


@pytest.mark.case("H1")
def test_a_slash_that_is_encoded_does_not_lead_to_another_repository(server: Server) -> None:
    """A framework that decodes the path first would read one name, and whoever judges the raw one another."""
    push_image(server, "one/two")

    assert call(server, "GET", "/v2/one/two/manifests/latest").status == 200
    for name in ("one%2ftwo", "one%252ftwo", "one%5ctwo", "one/./two", "one/x/../two", "one//two", "one/two%00"):
        assert call(server, "GET", f"/v2/{name}/manifests/latest").status == 400
    # One and the same name in other spellings of the same characters is that name.
    assert call(server, "GET", "/v2/%6fne/tw%6F/manifests/l%61test").status == 200


@pytest.mark.case("H2")
def test_names_that_file_systems_treat_specially_are_names_like_others(server: Server) -> None:
    names = ["con", "nul", "aux", "lpt1", "tmp", "data", "link", "locks", "pierhead", "docker/registry/v2", "a.lock"]
    for name in names:
        digest = push_image(server, f"special/{name}")
        assert call(server, "GET", f"/v2/special/{name}/manifests/{digest}").status == 200
    for name in ("_uploads", "_layers/sha256", "a/_manifests/tags", "a/_uploads/x", "_catalog/x"):
        assert call(server, "POST", f"/v2/{name}/blobs/uploads/").code == "NAME_INVALID"


@pytest.mark.case("H2")
def test_the_longest_names_and_tags_fit_and_longer_ones_are_refused(server: Server) -> None:
    longest = f"{'a' * 128}/{'b' * 126}"
    tag = "T" * 128
    digest = push_image(server, longest, tag)

    assert call(server, "GET", f"/v2/{longest}/manifests/{tag}").headers["docker-content-digest"] == digest
    for name in (f"{longest}b", "c" * 129, "/".join("d" * 33)):
        assert call(server, "POST", f"/v2/{name}/blobs/uploads/").code == "NAME_INVALID"
    assert put_manifest(server, longest, f"{tag}T", image(sha256(b"{}"))).code == "MANIFEST_INVALID"


@pytest.mark.case("H2")
def test_tags_that_differ_in_case_are_two_tags(server: Server) -> None:
    upper = push_image(server, "case", "V1", annotations={"spelt": "V1"})
    lower = push_image(server, "case", "v1", annotations={"spelt": "v1"})

    assert upper != lower
    assert call(server, "GET", "/v2/case/manifests/V1").headers["docker-content-digest"] == upper
    assert call(server, "GET", "/v2/case/manifests/v1").headers["docker-content-digest"] == lower


@pytest.mark.case("H3")
def test_session_ids_cannot_be_guessed(server: Server) -> None:
    ids = {begin(server, "ids").rpartition("/")[2] for _ in range(20)}

    assert len(ids) == 20
    assert all(len(each) * 4 >= 122 and set(each) <= set("0123456789abcdef") for each in ids)
    assert len({each[:8] for each in ids}) == 20


@pytest.mark.case("H3")
@pytest.mark.parametrize("upload", EVIL_IDS)
def test_an_id_that_is_none_is_refused_and_nothing_is_read_or_written(server: Server, upload: str) -> None:
    before = store.files(server)
    target = f"/v2/ids/blobs/uploads/{upload}"

    answers = [
        call(server, "GET", target),
        call(server, "PATCH", target, body=HELLO),
        call(server, "PUT", f"{target}?digest={encoded(sha256(HELLO))}", body=HELLO),
        call(server, "DELETE", target),
    ]

    assert all(map(refused, answers)), answers
    assert store.files(server) == before


@pytest.mark.case("H3")
def test_a_session_is_unknown_in_every_repository_but_its_own(server: Server) -> None:
    location = begin(server, "mine/app")
    upload = location.rpartition("/")[2]
    assert call(server, "PATCH", location, body=HELLO).status == 202

    for name in ("mine", "mine/app/x", "theirs", "mine/ap"):
        foreign = f"/v2/{name}/blobs/uploads/{upload}"
        for method in ("GET", "PATCH", "DELETE"):
            answer = call(server, method, foreign, body=b"!" if method == "PATCH" else b"")
            assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
        assert finish(server, foreign, sha256(HELLO)).code == "BLOB_UPLOAD_UNKNOWN"
        assert not store.holds(server, f"{name}/_layers")

    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H3")
def test_a_session_that_has_ended_or_was_cancelled_takes_nothing_more(server: Server) -> None:
    done, cancelled = begin(server, "ended"), begin(server, "ended")
    assert finish(server, done, sha256(HELLO), HELLO).status == 201
    assert call(server, "DELETE", cancelled).status == 204

    for location in (done, cancelled):
        for answer in (
            call(server, "GET", location),
            call(server, "PATCH", location, body=b"!"),
            call(server, "DELETE", location),
            finish(server, location, sha256(b"other"), b"other"),
        ):
            assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert call(server, "GET", f"/v2/ended/blobs/{sha256(HELLO)}").body == HELLO


@pytest.mark.case("H4")
@pytest.mark.parametrize("digest", EVIL_DIGESTS)
def test_a_digest_that_is_none_is_refused_wherever_it_stands(server: Server, digest: str) -> None:
    assert_refused_everywhere(server, digest)


@pytest.mark.case("H5")
@pytest.mark.parametrize("digest", CONFUSED_DIGESTS)
def test_an_algorithm_is_never_guessed_from_a_length_and_no_other_than_two_is_taken(
    server: Server, digest: str
) -> None:
    assert_refused_everywhere(server, digest)


def assert_refused_everywhere(server: Server, digest: str) -> None:
    before = store.files(server)
    location = begin(server, "digests")
    begun = store.files(server)
    in_query = digest.replace(":", "%3A")
    answers = [
        call(server, "GET", f"/v2/digests/blobs/{digest}"),
        call(server, "DELETE", f"/v2/digests/blobs/{digest}"),
        call(server, "GET", f"/v2/digests/referrers/{digest}"),
        call(server, "PUT", f"/v2/digests/manifests/{digest}", f"Content-Type: {IMAGE}", body=b"{}"),
        call(server, "POST", f"/v2/digests/blobs/uploads/?digest={in_query}", body=HELLO),
        call(server, "PUT", f"{location}?digest={in_query}", body=HELLO),
    ]

    for answer in answers:
        assert (answer.status, answer.code) in {(400, "DIGEST_INVALID"), (400, "NAME_INVALID")}, answers
    assert store.files(server) == begun
    # A mount of it is a miss like any other, and the session that was asked to end so goes on.
    mount = call(server, "POST", f"/v2/digests/blobs/uploads/?mount={in_query}&from=digests")
    assert mount.status == 202
    assert call(server, "DELETE", mount.headers["location"]).status == 204
    assert call(server, "DELETE", location).status == 204
    assert store.files(server) == before


@pytest.mark.case("H5")
def test_a_sha512_name_is_a_name_of_its_own_and_is_verified_itself(server: Server) -> None:
    import hashlib

    body = b"known by two names"
    long = f"sha512:{hashlib.sha512(body).hexdigest()}"
    short = push_blob(server, "two", body)

    assert call(server, "HEAD", f"/v2/two/blobs/{long}").status == 404
    lie = call(server, "POST", f"/v2/two/blobs/uploads/?digest={encoded(long)}", body=b"other bytes")
    assert lie.code == "DIGEST_INVALID"
    assert call(server, "HEAD", f"/v2/two/blobs/{long}").status == 404

    for hint in ("sha256", "sha512"):
        begun = call(server, "POST", f"/v2/two{hint}/blobs/uploads/?digest-algorithm={hint}")
        for piece in (body[:5], body[5:]):
            assert call(server, "PATCH", begun.headers["location"], body=piece).status == 202
        ended = finish(server, begun.headers["location"], long)
        assert (ended.status, ended.headers["docker-content-digest"]) == (201, long)
        found = call(server, "GET", f"/v2/two{hint}/blobs/{long}")
        assert (found.body, found.headers["docker-content-digest"]) == (body, long)
    assert call(server, "GET", f"/v2/two/blobs/{short}").headers["docker-content-digest"] == short


@pytest.fixture(scope="module")
def team(server: Server) -> None:
    """The repositories that others try to look like."""
    push_image(server, "team/app")
    push_image(server, "team")


@pytest.mark.case("H6")
@pytest.mark.usefixtures("team")
@pytest.mark.parametrize(
    "name",
    [
        "Team/app",
        "team/APP",
        "t%C3%A9am",
        "te%CC%81am",  # combining acute accent
        "%EF%BD%94eam",  # FULLWIDTH LATIN SMALL LETTER T, which NFKC folds to t
        "t%D0%B5am",  # CYRILLIC SMALL LETTER IE
        "%C5%BFecret",  # LATIN SMALL LETTER LONG S
        "%E2%84%AAube",  # KELVIN SIGN
        "team%E2%80%8B",  # ZERO WIDTH SPACE
        "team%E2%80%AE",  # RIGHT-TO-LEFT OVERRIDE
        "team%C2%AD",  # SOFT HYPHEN
        "xn--%C3%A4",
        "team%EF%BC%8Fapp",  # FULLWIDTH SOLIDUS
        "team%E2%88%95app",  # DIVISION SLASH
        "%F0%9F%90%B3",
    ],
)
def test_names_that_look_like_others_are_refused_and_none_is_folded(server: Server, name: str) -> None:
    for answer in (
        call(server, "GET", f"/v2/{name}/manifests/latest"),
        call(server, "POST", f"/v2/{name}/blobs/uploads/"),
    ):
        assert (answer.status, answer.code) == (400, "NAME_INVALID")
    tag = name.replace("/", "-")
    if "%" in tag:
        assert put_manifest(server, "team", tag, image(sha256(b"{}"))).code in {"MANIFEST_INVALID", "NAME_INVALID"}
        assert call(server, "GET", f"/v2/team/manifests/{tag}").status in {400, 404}


@pytest.mark.case("H7")
@pytest.mark.parametrize(
    "name",
    [
        "x/blobs/uploads",
        "x/tags/list",
        "x/manifests/y",
        "manifests/manifests",
        "blobs/blobs",
        "uploads",
        "referrers/referrers",
        "tags/list",
        "v2",
        "v2/v2",
        "blobs/uploads/blobs/uploads",
        "list/manifests",
    ],
)
def test_names_made_of_the_words_of_routes_are_repositories_of_their_own(server: Server, name: str) -> None:
    body = b"blob of " + name.encode()
    blob = push_blob(server, name, body)
    manifest = push_image(server, name, "list", annotations={"of": name})
    push_image(server, name, "uploads", annotations={"of": name})
    push_image(server, name, "referrers", annotations={"of": name})

    assert call(server, "GET", f"/v2/{name}/blobs/{blob}").body == body
    assert call(server, "GET", f"/v2/{name}/manifests/list").headers["docker-content-digest"] == manifest
    assert b'"tags":["list","referrers","uploads"]' in call(server, "GET", f"/v2/{name}/tags/list").body
    assert store.holds(server, f"{name}/_layers")
    # Neither the part before the words nor the words themselves hold anything of it.
    assert call(server, "HEAD", f"/v2/{name.partition('/')[0]}x/blobs/{blob}").status == 404


@pytest.mark.case("H8")
def test_repositories_whose_names_begin_alike_share_nothing(server: Server) -> None:
    secret = push_blob(server, "prefix", b"for the team only")
    manifest = push_image(server, "prefix")

    for name in ("prefix-evil/x", "prefix/x", "prefixes", "prefi", "prefix.x", "prefix__x", "x/prefix"):
        assert call(server, "GET", f"/v2/{name}/blobs/{secret}").code == "BLOB_UNKNOWN"
        assert call(server, "GET", f"/v2/{name}/manifests/{manifest}").code == "MANIFEST_UNKNOWN"
        assert call(server, "GET", f"/v2/{name}/manifests/latest").code == "MANIFEST_UNKNOWN"
        assert call(server, "DELETE", f"/v2/{name}/blobs/{secret}").code == "BLOB_UNKNOWN"
    assert call(server, "GET", f"/v2/prefix/blobs/{secret}").status == 200


@pytest.mark.case("H9")
def test_no_name_makes_its_grammar_slow(server: Server) -> None:
    evil: list[str] = [
        "a" * 254 + "!",
        "a-" * 127,
        "a" + "-" * 253 + "!",
        "a__" * 84 + "!",
        "/".join(["a_a"] * 31) + "!",
        "a." * 127 + "!",
        "-" * 30_000,
        "a-" * 15_000,
        "a" * 30_000 + "!",
        "%61" * 10_000 + "!",
    ]
    with bounded(server, growth_mib=16, cpu_seconds=1):
        for name, tail in itertools.product(evil, ("tags/list", "manifests/x", "blobs/uploads/")):
            assert call(server, "GET", f"/v2/{name}/{tail}").status in {400, 414}


@pytest.mark.case("H7")
@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PROPFIND", "get", "BREW", "PATCH", "X" * 32])
def test_methods_that_no_route_has_are_refused_with_those_that_there_are(server: Server, method: str) -> None:
    answer = ask(server, request(method, f"/v2/a/blobs/sha256:{ZEROS}"))

    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "DELETE, GET, HEAD"


@pytest.mark.case("H7")
def test_a_method_is_the_one_in_the_request_line(server: Server) -> None:
    digest = push_image(server, "override")

    for line in ("X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-HTTP-Method: DELETE"):
        assert call(server, "GET", f"/v2/override/manifests/{digest}", line).status == 200
        assert call(server, "POST", f"/v2/override/manifests/{digest}?_method=DELETE", line).status == 405
    assert call(server, "GET", f"/v2/override/manifests/{digest}").status == 200
