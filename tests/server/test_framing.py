"""Nothing that two parsers could read differently is taken (RFC 9112)."""

import contextlib

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.server.framing import ChunkedBody, Head, Refused, parse_head
from tests.server.edges import Edge, Starter, ignore, until

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


def post(*lines: bytes, body: bytes = b"") -> bytes:
    """A POST with these header lines beside Host."""
    return b"\r\n".join([b"POST /first HTTP/1.1", b"Host: x", *lines, b"", b""]) + body


CHUNKED = b"Transfer-Encoding: chunked"

REFUSED: dict[str, tuple[bytes, int]] = {
    # RFC 9112 section 6.1 to 6.3: where the body ends
    "length_and_coding": (post(b"Content-Length: 4", CHUNKED, body=b"0\r\n\r\n"), 400),
    "coding_and_length": (post(CHUNKED, b"Content-Length: 4", body=b"0\r\n\r\n"), 400),
    "two_codings": (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    "coding_twice": (post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 501),
    "chunked_chunked": (post(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"), 501),
    "identity": (post(b"Transfer-Encoding: identity"), 501),
    "xchunked": (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 501),
    "quoted_chunked": (post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"), 501),
    "empty_coding": (post(b"Transfer-Encoding:", body=b"0\r\n\r\n"), 501),
    "vertical_tab_before_chunked": (post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"), 400),
    "coding_in_http_1_0": (
        b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "two_lengths": (post(b"Content-Length: 4", b"Content-Length: 5", body=b"abcd"), 400),
    "same_length_twice": (post(b"Content-Length: 4", b"Content-Length: 4", body=b"abcd"), 400),
    "list_of_lengths": (post(b"Content-Length: 4, 4", body=b"abcd"), 400),
    "plus": (post(b"Content-Length: +4", body=b"abcd"), 400),
    "minus": (post(b"Content-Length: -1"), 400),
    "hexadecimal": (post(b"Content-Length: 0x4", body=b"abcd"), 400),
    "underscore": (post(b"Content-Length: 0_4", body=b"abcd"), 400),
    "no_digits": (post(b"Content-Length:"), 400),
    "endless_length": (post(b"Content-Length: " + b"9" * 30), 400),
    "superscript_digit": (post(b"Content-Length: \xb2", body=b"ab"), 400),
    # RFC 9112 section 2.2 and 5: lines and fields
    "bare_lf": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare_lf_between_fields": (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "bare_cr_in_value": (post(b"A: b\rContent-Length: 4"), 400),
    "folded_line": (post(b"A: b", b" c: d"), 400),
    "folded_coding": (post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"), 400),
    "space_before_colon": (post(b"Content-Length : 4", body=b"abcd"), 400),
    "no_colon": (post(b"nothing"), 400),
    "no_name": (post(b": value"), 400),
    "space_before_first_field": (b"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "nul_in_value": (post(b"A: b\x00c"), 400),
    "nul_in_name": (post(b"A\x00: b"), 400),
    "control_character_in_value": (post(b"A: b\x1bc"), 400),
    "delete_in_value": (post(b"A: b\x7fc"), 400),
    "non_ascii_name": (post(b"\xc3\xa4: b"), 400),
    "empty_lines_first": (b"\r\n\r\n" + HIDDEN, 400),
    # RFC 9112 section 3: the request line
    "http_0_9": (b"GET /\r\n", 400),
    "http_2_preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "http_2": (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "http_3_digits": (b"GET / HTTP/1.10\r\nHost: x\r\n\r\n", 400),
    "lower_case_version": (b"GET / http/1.1\r\nHost: x\r\n\r\n", 400),
    "tls_client_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "non_ascii_target": (b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "nul_in_target": (b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "tab_in_target": (b"GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "space_in_target": (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two_spaces": (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "relative_target": (b"GET v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "connect": (b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 400),
    "other_scheme": (b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "user_in_target": (b"GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    # RFC 9112 section 3.2: the host
    "no_host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two_hosts": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
    "same_host_twice": (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
    "host_with_path": (b"GET / HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    "host_list": (b"GET / HTTP/1.1\r\nHost: x, y\r\n\r\n", 400),
    "host_with_quotes": (b'GET / HTTP/1.1\r\nHost: x"y\r\n\r\n', 400),
    "unknown_expectation": (post(b"Expect: 200-ok"), 417),
}

BROKEN_CHUNKS: dict[str, bytes] = {
    "no_size": b"\r\nabcd\r\n",
    "plus": b"+4\r\nabcd\r\n0\r\n\r\n",
    "minus": b"-4\r\nabcd\r\n0\r\n\r\n",
    "prefix": b"0x4\r\nabcd\r\n0\r\n\r\n",
    "underscore": b"0_4\r\nabcd\r\n0\r\n\r\n",
    "space_before_size": b" 4\r\nabcd\r\n0\r\n\r\n",
    "space_after_size": b"4 \r\nabcd\r\n0\r\n\r\n",
    "overflow": b"10000000000000004\r\nabcd\r\n0\r\n\r\n",
    "bare_lf_after_size": b"4\nabcd\r\n0\r\n\r\n",
    "bare_cr_after_size": b"4\rabcd\r\n0\r\n\r\n",
    "bare_lf_after_data": b"4\r\nabcd\n0\r\n\r\n",
    "data_longer_than_size": b"4\r\nabcdef\r\n0\r\n\r\n",
    "bare_lf_in_extension": b"4;a=\nb\r\nabcd\r\n0\r\n\r\n",
    "nul_in_extension": b"4;a=\x00\r\nabcd\r\n0\r\n\r\n",
    "long_extension": b"4;" + b"a" * 300 + b"\r\nabcd\r\n0\r\n\r\n",
    "endless_extension": b"4;" + b"a" * 300,
    "many_extensions": (b"1;" + b"a" * 200 + b"\r\nx\r\n") * 50 + b"0\r\n\r\n",
    "folded_trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "bare_lf_in_trailer": b"0\r\nA: b\nC: d\r\n\r\n",
}


def named(cases: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", cases)


@named({**REFUSED})
async def test_a_malformed_head_is_refused_once_and_nothing_after_it_is_executed(edge: Edge, name: str) -> None:
    request, status = REFUSED[name]
    client = await edge.connect()
    client.send(request + HIDDEN)

    answer = await client.answer()

    assert (answer.status, answer.error) == (status, "UNSUPPORTED")
    assert answer.headers["connection"] == "close"
    assert await client.ended()
    assert edge.application.scopes == []


@named({**BROKEN_CHUNKS})
async def test_a_malformed_chunk_is_refused_once_and_nothing_after_it_is_executed(edge: Edge, name: str) -> None:
    client = await edge.connect()
    client.send(post(CHUNKED, body=BROKEN_CHUNKS[name] + HIDDEN))

    answer = await client.answer()

    assert (answer.status, answer.error) == (400, "UNSUPPORTED")
    assert answer.headers["connection"] == "close"
    assert await client.ended()
    assert edge.application.paths == [b"/first"]


async def test_trailers_are_read_past_up_to_a_bound(edge: Edge) -> None:
    client = await edge.connect()
    client.send(post(CHUNKED, body=b"4\r\nabcd\r\n0\r\nContent-Length: 9\r\nHost: y\r\n\r\n" + HIDDEN))

    assert (await client.answer()).body == b"abcd"
    assert (await client.answer()).status == 200
    assert edge.application.paths == [b"/first", b"/hidden"]
    assert edge.application.scopes[0]["headers"] == [(b"host", b"x"), (b"transfer-encoding", b"chunked")]

    flood = await edge.ask(post(CHUNKED, body=b"0\r\n" + b"A: b\r\n" * 3000))
    assert flood.status == 431


async def test_chunks_are_put_together_however_they_are_cut(edge: Edge) -> None:
    client = await edge.connect()
    for byte in (
        post(b"Transfer-Encoding: Chunked", body=b"4;a=b\r\nabcd\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n") + HIDDEN
    ):
        client.send(bytes([byte]))
        await client.writer.drain()

    assert (await client.answer()).body == b"abcd0123456789"
    assert (await client.answer()).body == b""


async def test_pipelined_requests_are_answered_one_at_a_time_and_in_order(edge: Edge) -> None:
    bodies = [b"%d" % number for number in range(50)]
    client = await edge.connect()
    client.send(b"".join(post(b"Content-Length: %d" % len(body), body=body) for body in bodies))
    client.send(post(CHUNKED, body=b"3\r\nend\r\n0\r\n\r\n") + b"GET  / HTTP/1.1\r\n\r\n" + HIDDEN)

    answers = [await client.answer() for _ in range(52)]

    assert [answer.body for answer in answers[:51]] == [*bodies, b"end"]
    assert answers[51].status == 400
    assert await client.ended()
    assert b"/hidden" not in edge.application.paths


async def test_bytes_after_a_request_that_closes_are_not_executed(edge: Edge) -> None:
    client = await edge.connect()
    client.send(post(b"Connection: close") + HIDDEN)

    assert (await client.answer()).headers["connection"] == "close"
    assert await client.ended()
    assert edge.application.paths == [b"/first"]


async def test_a_wish_to_switch_protocols_is_ignored_and_the_body_stays_a_body(edge: Edge) -> None:
    upgrade = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"]
    client = await edge.connect()
    client.send(post(*upgrade, b"Content-Length: %d" % len(HIDDEN), body=HIDDEN))
    client.send(post(b"Connection: upgrade", b"Upgrade: websocket"))

    assert (await client.answer()).body == HIDDEN
    assert (await client.answer()).status == 200
    assert edge.application.paths == [b"/first", b"/first"]


async def test_the_host_of_an_absolute_target_counts(edge: Edge) -> None:
    """RFC 9112 section 3.2.2: a server must take the absolute form, and ignore Host then."""
    await edge.ask(b"GET http://one.example:5000/v2/?n=1 HTTP/1.1\r\nHost: other\r\nA: b\r\n\r\n")
    await edge.ask(b"GET HTTP://one.example HTTP/1.1\r\nHost: other\r\n\r\n")

    first, second = edge.application.scopes
    assert (first["raw_path"], first["query_string"]) == (b"/v2/", b"n=1")
    assert first["headers"] == [(b"host", b"one.example:5000"), (b"a", b"b")]
    assert (second["raw_path"], second["query_string"]) == (b"/", b"")


async def test_http_1_0_gets_an_answer_and_the_end_of_the_connection(edge: Edge) -> None:
    client = await edge.connect()
    client.send(b"POST /old HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nabcd")

    answer = await client.answer()

    assert (answer.body, answer.headers["connection"]) == (b"abcd", "close")
    assert await client.ended()
    assert edge.application.scopes[0]["http_version"] == "1.0"


async def test_a_framing_error_in_a_body_that_nobody_reads_ends_the_connection(edge: Edge) -> None:
    edge.application.handle = ignore
    client = await edge.connect()
    client.send(post(CHUNKED, body=b"4\r\nabcd"))

    assert (await client.answer()).status == 403
    client.send(b"wrong\r\n" + HIDDEN)
    assert await client.ended()
    await until(lambda: not edge.serving.tasks)
    assert edge.application.paths == [b"/first"]


async def test_headers_may_be_long_and_many_up_to_their_limits(start_edge: Starter) -> None:
    edge = await start_edge(header_bytes_max=20_000, header_count_max=10)
    enough = await edge.ask(post(b"Range: bytes=" + b"0-1," * 3800 + b"9-9"))
    too_long = await edge.ask(post(b"A: " + b"a" * 20_000))
    never_ending = await edge.ask(b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 30_000)
    ten = await edge.ask(post(*[b"A: b"] * 9))
    eleven = await edge.ask(post(*[b"A: b"] * 10))

    assert [answer.status for answer in (enough, too_long, never_ending, ten, eleven)] == [200, 431, 431, 200, 431]


async def test_an_endless_request_line_is_refused(edge: Edge) -> None:
    assert (await edge.ask(b"GET /" + b"a" * 40_000)).status == 414
    assert (await edge.ask(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")).status == 414


LINES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Host: x",
                b"Content-Length: 3",
                b"Content-Length: 03",
                b"Transfer-Encoding: chunked",
                b"Transfer-Encoding: chunked ",
                b"Connection: close",
                b"Connection: keep-alive, Upgrade",
                b"Upgrade: h2c",
                b" folded",
                b"A : b",
            ]
        ),
        st.binary(max_size=12),
    ),
    max_size=5,
)


@given(LINES, st.sampled_from([b"\r\n", b"\n", b"\r"]))
@example([b"Transfer-Encoding: chunked"], b"\r\n")
def test_what_is_taken_means_the_same_to_another_parser(lines: list[bytes], ending: bytes) -> None:
    """llhttp, which Node.js uses, is the other one."""
    block = b"\r\n".join([b"POST /a?b HTTP/1.1", b"Host: x", ending.join(lines)]) + b"\r\n\r\n"
    try:
        head = parse_head(block, fields_max=100)
    except Refused:
        return

    other = Other()
    parser = httptools.HttpRequestParser(other)
    with contextlib.suppress(httptools.HttpParserUpgrade):
        parser.feed_data(block)

    assert [(name.lower(), value.strip(b" \t")) for name, value in other.fields] == head.headers
    assert other.target == b"/a?b"
    assert _ends_after(head, b"3\r\nabc\r\n0\r\n\r\n") == (b"abc" if head.length is None else b"3\r\n"[: head.length])


class Other:
    """What llhttp made of a head."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.target = b""

    def on_url(self, part: bytes) -> None:
        self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))


def _ends_after(head: Head, wire: bytes) -> bytes:
    if head.length is not None:
        return wire[: head.length]
    parts: list[bytes] = []
    body = ChunkedBody()
    body.feed(wire, 0, len(wire), lambda part: parts.append(bytes(part)))
    assert body.ended
    return b"".join(parts)
