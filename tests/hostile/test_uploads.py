"""Upload sessions under fire: bytes are never interleaved, GET tells the truth, and a lie ends nothing but itself."""

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from tests.hostile import store
from tests.hostile.pushing import begin, finish, offset, push_blob, sha256
from tests.hostile.together import at_once
from tests.hostile.wire import LAST_CHUNK, Answer, Wire, ask, call, chunk, encoded, head, request, wires_to_both_workers
from tests.running import Server, eventually

HELLO = b"hello"
NAME = "uploads"
MIB = 1 << 20


def patch(
    server: Server, location: str, body: bytes, content_range: str | None = None, *, chunked: bool = False
) -> Answer:
    lines = [] if content_range is None else [f"Content-Range: {content_range}"]
    return call(server, "PATCH", location, *lines, body=body, chunked=chunked)


def assert_out_of_order(answer: Answer, location: str, size: int) -> None:
    """416 with what a client needs to go on at once."""
    assert (answer.status, answer.code) == (416, "BLOB_UPLOAD_INVALID")
    assert answer.headers["range"] == f"0-{max(0, size - 1)}"
    assert answer.headers["location"] == location


@pytest.mark.case("H41")
def test_of_two_writers_through_two_workers_the_second_is_told_where_the_session_ends(server: Server) -> None:
    location = begin(server, NAME)
    with wires_to_both_workers(server) as (first, second):
        first.send(head("PATCH", location) + chunk(b"first"))
        eventually(lambda: offset(server, location) == 5)

        for method, target in (("PATCH", location), ("PUT", f"{location}?digest={encoded(sha256(b'second'))}")):
            second.send(request(method, target, body=b"second"))
            assert_out_of_order(second.answer(), location, 5)

        first.send(chunk(b" only") + LAST_CHUNK)
        assert first.answer().headers["range"] == "0-9"
        second.send(request("PATCH", location, body=b", then second"))
        assert second.answer().status == 202
    assert finish(server, location, sha256(b"first only, then second")).status == 201


@pytest.mark.case("H41")
def test_of_many_writers_at_once_bytes_are_never_interleaved(server: Server) -> None:
    location = begin(server, NAME)
    bodies = [bytes([65 + number]) * 300_000 for number in range(16)]

    answers = at_once([partial(patch, server, location, body) for body in bodies])

    size = 0
    for answer in answers:
        assert answer.status in {202, 416}
    won = [body for body, answer in zip(bodies, answers, strict=True) if answer.status == 202]
    assert won
    size = offset(server, location)
    assert size == 300_000 * len(won)
    # Whole bodies one after the other: some order of the winners is what the session holds.
    ends = sorted(int(a.headers["range"][2:]) + 1 for a in answers if a.status == 202)
    assert ends == [300_000 * (number + 1) for number in range(len(won))]
    by_end = {int(a.headers["range"][2:]): body for body, a in zip(bodies, answers, strict=True) if a.status == 202}
    whole = b"".join(by_end[end] for end in sorted(by_end))
    assert finish(server, location, sha256(whole)).status == 201


@pytest.mark.case("H41")
def test_of_many_equal_chunks_at_once_one_is_taken(server: Server) -> None:
    """A client that repeats itself impatiently must not have its bytes twice."""
    location = begin(server, NAME)

    answers = at_once([partial(patch, server, location, bytes(200_000), "0-199999")] * 12)

    assert sorted(answer.status for answer in answers) == [202] + [416] * 11
    assert offset(server, location) == 200_000
    assert finish(server, location, sha256(bytes(200_000))).status == 201


@pytest.mark.case("H41")
def test_a_writer_that_vanishes_lets_the_session_go(server: Server) -> None:
    location = begin(server, NAME)
    for number in range(4):
        with Wire.open(server) as wire:
            wire.send(head("PATCH", location) + chunk(b"xy"))
            eventually(lambda size=2 * number + 2: offset(server, location) == size)  # type: ignore[misc] # bound
            wire.vanish()
        eventually(lambda: patch(server, location, b"").status == 202)
    assert finish(server, location, sha256(b"xyxyxyxy")).status == 201


@pytest.mark.case("H41")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_stream_that_breaks_off_is_kept_and_a_chunk_that_does_is_taken_back(
    server: Server, method: str, chunked: bool
) -> None:
    for content_range, kept in (([], 300_000), (["Content-Range: 5-1000004"], 0)):
        location = begin(server, NAME)
        assert patch(server, location, HELLO).status == 202
        target = location if method == "PATCH" else f"{location}?digest={encoded(sha256(b''))}"
        if chunked:
            sent = head(method, target, *content_range) + b"f4240\r\n"
        else:
            sent = head(method, target, *content_range, length=1000000)
        with Wire.open(server) as wire:
            wire.send(sent + bytes(300_000))
            eventually(lambda location=location: offset(server, location) > 5)  # type: ignore[misc] # bound
            wire.vanish()

        eventually(lambda location=location, kept=kept: offset(server, location) == 5 + kept)  # type: ignore[misc] # bound
        eventually(lambda location=location: patch(server, location, b"!").status == 202)  # type: ignore[misc] # bound
        assert finish(server, location, sha256(HELLO + bytes(kept) + b"!")).status == 201


@pytest.mark.case("H42")
def test_a_cancellation_wins_against_a_writer(server: Server) -> None:
    location = begin(server, NAME)
    with wires_to_both_workers(server) as (first, second):
        first.send(head("PATCH", location) + chunk(bytes(100_000)))
        eventually(lambda: offset(server, location) == 100_000)
        second.send(request("DELETE", location))
        assert second.answer().status == 204

        first.send(chunk(bytes(100_000)) + LAST_CHUNK)
        answer = first.answer()
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert call(server, "GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert not list(server.data.rglob(location.rpartition("/")[2]))


@pytest.mark.case("H42")
def test_a_writer_that_comes_after_the_end_finds_nothing(server: Server) -> None:
    location = begin(server, NAME)
    assert finish(server, location, sha256(HELLO), HELLO).status == 201

    assert patch(server, location, b"late").code == "BLOB_UPLOAD_UNKNOWN"
    assert patch(server, location, b"late", "5-8").code == "BLOB_UPLOAD_UNKNOWN"
    assert call(server, "GET", f"/v2/{NAME}/blobs/{sha256(HELLO)}").body == HELLO


@pytest.mark.case("H42")
def test_writers_enders_and_cancellers_at_once_leave_a_whole_blob_or_none(server: Server) -> None:
    outcomes = set()
    for number in range(8):
        body = b"race %d " % number * 5000
        location = begin(server, NAME)
        digest = sha256(body)
        calls: list[Callable[[], Answer]] = [
            partial(patch, server, location, b"late"),
            partial(finish, server, location, digest, body),
            partial(call, server, "DELETE", location),
            partial(call, server, "GET", location),
        ]
        answers = at_once(calls[number % 4 :] + calls[: number % 4])
        found = call(server, "GET", f"/v2/{NAME}/blobs/{digest}")

        assert all(answer.status in {201, 202, 204, 400, 404, 416} for answer in answers)
        assert (found.status == 200) == (201 in {answer.status for answer in answers})
        assert found.status == 404 or found.body == body
        outcomes.add(found.status)
        call(server, "DELETE", location)
    assert outcomes <= {200, 404}


@pytest.mark.case("H43")
@pytest.mark.parametrize(
    "content_range",
    [
        # repeated, overlapping, with a gap
        "0-4",
        "4-8",
        "6-10",
        "0-9",
        # nothing, or backwards
        "5-4",
        "0--1",
        "5--1",
        "-5",
        "5-",
        "-",
        "",
        # not numbers
        "a-b",
        "5-9x",
        "+5-9",
        "5-+9",
        "0x5-0x9",
        "5.0-9.0",
        "5_0-9",
        "\xb2-\xb3",
        "5 - 9",
        "5-9,10-14",
        "5-9\t,",
        "bytes=5-9",
        "items 5-9/*",
        "bytes 5-9/10/10",
        "bytes */10",
        # huge
        "9223372036854775807-9223372036854775811",
        "9223372036854775808-9223372036854775812",
        "18446744073709551616-18446744073709551620",
        "18446744073709551621-18446744073709551625",
        "5-99999999999999999999999999",
        "9" * 5000 + "-" + "9" * 5000,
    ],
)
def test_a_range_that_does_not_begin_where_the_session_ends_changes_nothing(server: Server, content_range: str) -> None:
    location = begin(server, NAME)
    assert patch(server, location, HELLO).status == 202

    for chunked in (False, True):
        assert_out_of_order(patch(server, location, b"world", content_range, chunked=chunked), location, 5)
        target = f"{location}?digest={encoded(sha256(HELLO + b'world'))}"
        answer = call(server, "PUT", target, f"Content-Range: {content_range}", body=b"world", chunked=chunked)
        assert_out_of_order(answer, location, 5)

    assert offset(server, location) == 5
    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H43")
@pytest.mark.parametrize("content_range", ["5-8", "5-10", "5-5", "5-9223372036854775806", "5-9999999999999999999"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_range_whose_length_is_not_that_of_the_body_changes_nothing(
    server: Server, content_range: str, chunked: bool
) -> None:
    location = begin(server, NAME)
    assert patch(server, location, HELLO).status == 202

    answer = patch(server, location, b"world", content_range, chunked=chunked)
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    target = f"{location}?digest={encoded(sha256(HELLO + b'world'))}"
    ended = call(server, "PUT", target, f"Content-Range: {content_range}", body=b"world", chunked=chunked)
    assert (ended.status, ended.code) == (400, "SIZE_INVALID")

    assert offset(server, location) == 5
    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H43")
def test_an_empty_chunk_adds_nothing_and_a_range_of_an_empty_body_is_a_lie(server: Server) -> None:
    location = begin(server, NAME)
    for chunked in (False, True):
        assert patch(server, location, b"", chunked=chunked).headers["range"] == "0-0"
        assert patch(server, location, b"", "0-0", chunked=chunked).code == "SIZE_INVALID"
        assert patch(server, location, b"", "0--1", chunked=chunked).status == 416
    assert patch(server, location, HELLO).status == 202
    assert patch(server, location, b"").headers["range"] == "0-4"
    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H43")
def test_a_range_sent_twice_counts_for_nothing(server: Server) -> None:
    location = begin(server, NAME)

    answer = call(server, "PATCH", location, "Content-Range: 0-4", "Content-Range: 5-9", body=HELLO)

    assert_out_of_order(answer, location, 0)


@pytest.mark.case("H44")
def test_a_wrong_digest_ends_the_session_and_leaves_no_blob(server: Server) -> None:
    before = store.files(server)
    location = begin(server, NAME)
    wrong = sha256(b"what was promised")
    assert patch(server, location, b"what came").status == 202

    answer = finish(server, location, wrong)

    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert call(server, "GET", location).code == "BLOB_UPLOAD_UNKNOWN"
    assert finish(server, location, sha256(b"what came")).code == "BLOB_UPLOAD_UNKNOWN"
    for digest in (wrong, sha256(b"what came")):
        assert call(server, "HEAD", f"/v2/{NAME}/blobs/{digest}").status == 404
    assert store.files(server) == before
    assert push_blob(server, NAME, b"what was promised") == wrong


@pytest.mark.case("H44")
@pytest.mark.parametrize(
    "query",
    ["", "?", "?digest", "?digest=", "?Digest=x", "?digest=sha256", "?digest=md5:abc", "?digest=%00", "?digest=%ff"],
)
def test_a_digest_that_is_missing_or_malformed_leaves_the_session_as_it_was(server: Server, query: str) -> None:
    location = begin(server, NAME)
    assert patch(server, location, HELLO).status == 202

    answer = call(server, "PUT", f"{location}{query}", body=b"never read")

    assert answer.status == 400
    assert answer.code in {"DIGEST_INVALID", "UNSUPPORTED"}
    assert offset(server, location) == 5
    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H44")
def test_of_several_digests_the_first_counts(server: Server) -> None:
    location = begin(server, NAME)
    right, wrong = encoded(sha256(HELLO)), encoded(sha256(b"other"))

    assert call(server, "PUT", f"{location}?digest={right}&digest={wrong}&_state=x", body=HELLO).status == 201


@pytest.mark.case("H44")
def test_ending_again_and_again_is_one_end(server: Server) -> None:
    location = begin(server, NAME)
    assert patch(server, location, b"ended often").status == 202
    digest = sha256(b"ended often")

    answers = at_once([partial(finish, server, location, digest)] * 12)

    # Who comes while another is at it is told to wait; whoever comes afterwards is told that it is done.
    assert {answer.status for answer in answers} <= {201, 404, 416}
    assert 201 in {answer.status for answer in answers}
    for _ in range(4):
        assert finish(server, location, digest).status == 201
    assert finish(server, location, sha256(b"other")).code == "BLOB_UPLOAD_UNKNOWN"
    assert call(server, "GET", f"/v2/{NAME}/blobs/{digest}").body == b"ended often"


@pytest.mark.case("H44")
def test_of_several_ends_with_different_digests_exactly_one_is_judged(server: Server) -> None:
    for number in range(6):
        body = b"one of several %d" % number
        location = begin(server, NAME)
        assert patch(server, location, body).status == 202
        digests = [sha256(body), *(sha256(b"wrong %d" % wrong) for wrong in range(5))]
        turned = digests[number:] + digests[:number]

        answers = dict(zip(turned, at_once([partial(finish, server, location, each) for each in turned]), strict=True))

        judged = [answer for answer in answers.values() if answer.status in {201, 400}]
        assert len(judged) == 1
        assert all(answer.status in {404, 416} for answer in answers.values() if answer not in judged)
        assert (call(server, "HEAD", f"/v2/{NAME}/blobs/{sha256(body)}").status == 200) == (judged[0].status == 201)
        assert judged[0].status == 400 or answers[sha256(body)].status == 201


@pytest.mark.case("H45")
def test_twenty_clients_that_push_the_same_blob_at_once_all_succeed(server: Server) -> None:
    body = b"wanted by all" * 50_000
    digest = sha256(body)

    def push(number: int) -> Answer:
        name = f"same/n{number % 4}"
        if number % 2:
            return call(server, "POST", f"/v2/{name}/blobs/uploads/?digest={encoded(digest)}", body=body)
        return finish(server, begin(server, name), digest, body)

    answers = at_once([partial(push, number) for number in range(20)])

    assert [answer.status for answer in answers] == [201] * 20
    for number in range(4):
        assert call(server, "GET", f"/v2/same/n{number}/blobs/{digest}").body == body
    assert not list(server.data.glob("pierhead/tmp/*"))


@pytest.mark.case("H45")
def test_each_client_is_verified_itself_however_well_known_the_digest_is(server: Server) -> None:
    body = b"well known"
    digest = push_blob(server, "verified", body)

    def lie(number: int) -> Answer:
        return finish(server, begin(server, f"liar/n{number}"), digest, b"other %d" % number)

    answers = at_once([partial(lie, number) for number in range(8)])

    assert {(answer.status, answer.code) for answer in answers} == {(400, "DIGEST_INVALID")}
    for number in range(8):
        assert call(server, "HEAD", f"/v2/liar/n{number}/blobs/{digest}").status == 404
    assert call(server, "GET", f"/v2/verified/blobs/{digest}").body == body


@pytest.mark.case("H54")
def test_dates_that_a_client_sends_mean_nothing(server: Server) -> None:
    dates = [f"{name}: Thu, 01 Jan 1970 00:00:00 GMT" for name in ("Date", "If-Modified-Since", "If-Unmodified-Since")]
    answer = call(server, "POST", f"/v2/{NAME}/blobs/uploads/", *dates)
    location = answer.headers["location"]
    assert call(server, "PATCH", location, *dates, body=HELLO).status == 202
    assert call(server, "PUT", f"{location}?digest={encoded(sha256(HELLO))}", *dates).status == 201
    assert call(server, "GET", f"/v2/{NAME}/blobs/{sha256(HELLO)}", *dates).body == HELLO


# Answers before the body


@pytest.mark.case("H39")
@pytest.mark.parametrize("chunked", [False, True])
def test_what_is_wrong_in_the_head_is_said_before_the_body_is_read(server: Server, chunked: bool) -> None:
    location = begin(server, NAME)
    assert patch(server, location, HELLO).status == 202
    right = encoded(sha256(HELLO))
    wrong: list[tuple[str, str, list[str], int]] = [
        ("PATCH", f"/v2/{NAME}/blobs/uploads/unknown", [], 404),
        ("PATCH", location.replace(NAME, "elsewhere"), [], 404),
        ("PATCH", location, ["Content-Range: 0-99"], 416),
        ("PATCH", location, ["Content-Range: x"], 416),
        ("PUT", location, [], 400),
        ("PUT", f"{location}?digest=sha256:abc", [], 400),
        ("PUT", f"{location}?digest={right}", ["Content-Range: 9-99"], 416),
        ("PUT", f"/v2/{NAME}/blobs/uploads/unknown?digest={right}", [], 404),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest=sha256:abc", [], 400),
        ("POST", "/v2/UPPER/blobs/uploads/", [], 400),
        ("PUT", f"/v2/{NAME}/manifests/-bad", [], 400),
        ("PUT", f"/v2/{NAME}/manifests/sha256:abc", [], 400),
        ("PUT", "/v2/", [], 405),
        ("POST", "/nowhere", [], 404),
    ]
    for method, target, lines, status in wrong:
        sent = head(method, target, *lines, length=None if chunked else 10 << 40)
        for expecting in (False, True):
            with Wire.open(server) as wire:
                wire.send(sent.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n") if expecting else sent)
                answer = wire.answer()
                assert answer.status == status, (method, target)
                assert answer.headers["connection"] == "close"
                assert wire.ended()
    assert offset(server, location) == 5


@pytest.mark.case("H39")
@pytest.mark.parametrize("spelling", ["100-continue", "100-Continue"])
def test_a_client_that_asks_first_is_told_to_go_on_only_when_its_body_is_wanted(server: Server, spelling: str) -> None:
    location = begin(server, NAME)
    target = f"{location}?digest={encoded(sha256(HELLO))}"
    with Wire.open(server) as wire:
        wire.send(request("PUT", target, f"Expect: {spelling}", body=HELLO)[: -len(HELLO)])
        assert wire.told_to_go_on()
        wire.send(HELLO + request("GET", "/v2/"))
        assert [wire.answer().status, wire.answer().status] == [201, 200]
    with Wire.open(server) as wire:
        wire.send(request("PUT", f"/v2/{NAME}/manifests/-", f"Expect: {spelling}", body=HELLO)[: -len(HELLO)])
        assert not wire.told_to_go_on()


@pytest.mark.case("H39")
def test_a_refused_client_can_read_its_answer_though_it_goes_on_sending(server: Server) -> None:
    """A reset that overtakes the answer would make it a mystery."""
    sent = head("PATCH", f"/v2/{NAME}/blobs/uploads/unknown", length=8 * MIB)
    for _ in range(10):
        assert ask(server, sent + bytes(8 * MIB)).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.case("H3")
def test_a_mount_from_nonsense_is_a_miss_like_any_other(server: Server) -> None:
    digest = push_blob(server, "mount/source", b"to be mounted")
    sources = ["", "..", "%2e%2e", "UPPER", "a%00", "a%2f..", "mount/none", "mount%2Fsourc", "%ff", "a" * 300]
    for source, mount in itertools.product(sources, (encoded(digest), "sha256:abc", "", "%00")):
        target = f"/v2/mount/target/blobs/uploads/?mount={mount}&from={source}"
        answer = call(server, "POST", target)
        if "%ff" in target:
            assert answer.status == 400
            continue
        assert answer.status == 202
        assert call(server, "DELETE", answer.headers["location"]).status == 204
    assert call(server, "HEAD", f"/v2/mount/target/blobs/{digest}").status == 404
    twice = f"?mount={encoded(digest)}&mount=x&from=mount%2Fsource&from=none"
    assert call(server, "POST", f"/v2/mount/target/blobs/uploads/{twice}").status == 201
