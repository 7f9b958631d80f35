"""Requests that two parsers could cut differently: refused, closed, and nothing behind them is ever executed.

The proof is in the store: behind every bad request comes a good one that would begin an upload session.
"""

import itertools
import json
from collections.abc import Iterator

import pytest

from tests.hostile import store
from tests.hostile.processes import bounded
from tests.hostile.pushing import begin, finish, offset, push_blob, sha256
from tests.hostile.wire import Ended, Wire, ask, call, head, request, wires_to_both_workers
from tests.running import Server, eventually

HELLO = b"hello"
CHUNKED = "Transfer-Encoding: chunked"
NUMBERS = itertools.count()

HEADS: dict[str, list[str]] = {
    "length_and_coding": ["Content-Length: 5", CHUNKED],
    "coding_and_length": [CHUNKED, "Content-Length: 5"],
    "length_0_and_coding": ["Content-Length: 0", CHUNKED],
    "coding_twice": [CHUNKED, CHUNKED],
    "coding_list": ["Transfer-Encoding: chunked, chunked"],
    "coding_identity_last": ["Transfer-Encoding: chunked, identity"],
    "coding_identity_first": ["Transfer-Encoding: identity, chunked"],
    "coding_gzip": ["Transfer-Encoding: gzip, chunked"],
    "coding_alone_gzip": ["Transfer-Encoding: gzip"],
    "coding_x": ["Transfer-Encoding: xchunked"],
    "coding_suffix": ["Transfer-Encoding: chunked-x"],
    "coding_parameter": ["Transfer-Encoding: chunked;q=1"],
    "coding_quoted": ['Transfer-Encoding: "chunked"'],
    "coding_vertical_tab": ["Transfer-Encoding: \x0bchunked"],
    "coding_form_feed": ["Transfer-Encoding: chunked\x0c"],
    "coding_nul": ["Transfer-Encoding: chunked\x00"],
    "coding_no_break_space": ["Transfer-Encoding: \xa0chunked"],
    "coding_space_before_colon": ["Transfer-Encoding : chunked"],
    "coding_tab_before_colon": ["Transfer-Encoding\t: chunked"],
    "coding_folded": ["Transfer-Encoding:\r\n chunked"],
    "coding_folded_tab": ["X: y\r\n\tTransfer-Encoding: chunked"],
    "coding_behind_bare_lf": ["X: y\nTransfer-Encoding: chunked"],
    "coding_behind_bare_cr": ["X: y\rTransfer-Encoding: chunked"],
    "coding_behind_nul": ["X: y\x00\r\nTransfer-Encoding: chunked"],
    "coding_empty": ["Transfer-Encoding: "],
    "coding_comma": ["Transfer-Encoding: ,chunked"],
    "lengths_differ": ["Content-Length: 5", "Content-Length: 6"],
    "lengths_same": ["Content-Length: 5", "Content-Length: 5"],
    "length_list": ["Content-Length: 5, 5"],
    "length_list_differs": ["Content-Length: 5, 0"],
    "length_plus": ["Content-Length: +5"],
    "length_minus": ["Content-Length: -5"],
    "length_minus_0": ["Content-Length: -0"],
    "length_hex": ["Content-Length: 0x5"],
    "length_octal": ["Content-Length: 0o5"],
    "length_underscore": ["Content-Length: 0_5"],
    "length_float": ["Content-Length: 5.0"],
    "length_exponent": ["Content-Length: 5e0"],
    "length_space_inside": ["Content-Length: 1 0"],
    "length_semicolon": ["Content-Length: 5;"],
    "length_empty": ["Content-Length: "],
    "length_superscript": ["Content-Length: \xb2"],
    "length_quoted": ['Content-Length: "5"'],
    "length_2_63": ["Content-Length: 9223372036854775808"],
    "length_2_64": ["Content-Length: 18446744073709551616"],
    "length_2_64_plus_5": ["Content-Length: 18446744073709551621"],
    "length_endless": ["Content-Length: " + "9" * 5000],
    "length_endless_zeros": ["Content-Length: " + "0" * 5000 + "5"],
    "length_space_before_colon": ["Content-Length : 5"],
    "length_folded": ["Content-Length:\r\n 5"],
    "name_with_space": ["Content Length: 5"],
    "name_with_nul": ["Content-Length\x00: 5"],
    "name_empty": [": 5"],
    "name_not_ascii": ["Content-L\xebngth: 5"],
    "line_without_colon": ["nothing"],
    "host_twice": ["Host: pierhead"],
    "host_differs": ["Host: other"],
    "expectation_unknown": ["Expect: 200-ok", "Content-Length: 5"],
}

REQUEST_LINES: dict[str, bytes] = {
    "http_0_9": b"GET /v2/",
    "http_0_9_with_space": b"GET /v2/ ",
    "http_1_2_digits": b"GET /v2/ HTTP/1.10",
    "http_2": b"GET /v2/ HTTP/2.0",
    "http_2_preface": b"PRI * HTTP/2.0",
    "http_0_9_told": b"GET /v2/ HTTP/0.9",
    "http_lower_case": b"GET /v2/ http/1.1",
    "http_no_slash": b"GET /v2/ HTTP 1.1",
    "http_trailing_space": b"GET /v2/ HTTP/1.1 ",
    "http_leading_space": b" GET /v2/ HTTP/1.1",
    "two_spaces": b"GET  /v2/ HTTP/1.1",
    "tab": b"GET\t/v2/ HTTP/1.1",
    "space_in_target": b"GET /v2/ /v2/ HTTP/1.1",
    "nul_in_target": b"GET /v2/\x00 HTTP/1.1",
    "raw_utf8_in_target": b"GET /v2/\xc3\xa4/tags/list HTTP/1.1",
    "bare_cr_in_target": b"GET /v2/\rX: HTTP/1.1",
    "fragment": b"GET /v2/#x HTTP/1.1",
    "no_slash": b"GET v2/ HTTP/1.1",
    "asterisk": b"OPTIONS * HTTP/1.1",
    "connect": b"CONNECT pierhead:5000 HTTP/1.1",
    "connect_path": b"CONNECT /v2/ HTTP/1.1 x",
    "absolute_ftp": b"GET ftp://pierhead/v2/ HTTP/1.1",
    "absolute_file": b"GET file:///etc/passwd HTTP/1.1",
    "absolute_user": b"GET http://user:password@pierhead/v2/ HTTP/1.1",
    "absolute_no_host": b"GET http:///v2/ HTTP/1.1",
    "authority": b"GET pierhead:5000 HTTP/1.1",
    "method_with_colon": b"GE:T /v2/ HTTP/1.1",
    "method_too_long": b"G" * 33 + b" /v2/ HTTP/1.1",
    "tls_hello": b"\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03" + bytes(range(32)),
    "ssh": b"SSH-2.0-OpenSSH_9.2",
    "proxy_protocol": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2",
    "proxy_protocol_2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
    "redis": b"*1",
    "json": b'{"jsonrpc": "2.0"}',
}

CHUNKS: dict[str, bytes] = {
    "no_size": b"\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space_before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space_after": b"5 \r\nhello\r\n0\r\n\r\n",
    "tab_after": b"5\t\r\nhello\r\n0\r\n\r\n",
    "no_semicolon": b"5 a=b\r\nhello\r\n0\r\n\r\n",
    "not_hex": b"5g\r\nhello\r\n0\r\n\r\n",
    "quoted": b'"5"\r\nhello\r\n0\r\n\r\n',
    "float": b"5.0\r\nhello\r\n0\r\n\r\n",
    "unicode_digit": "\u0665\r\nhello\r\n0\r\n\r\n".encode(),
    "2_63": b"8000000000000000\r\nhello\r\n0\r\n\r\n",
    "2_64_plus_5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "endless_size": b"f" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    "endless_zeros": b"0" * 5000 + b"5\r\nhello\r\n0\r\n\r\n",
    "bare_lf": b"5\nhello\n0\n\n",
    "bare_lf_after_size": b"5\nhello\r\n0\r\n\r\n",
    "bare_cr_after_size": b"5\rhello\r\n0\r\n\r\n",
    "bare_lf_after_data": b"5\r\nhello\n0\r\n\r\n",
    "nothing_after_data": b"5\r\nhello0\r\n\r\n",
    "data_too_long": b"4\r\nhello\r\n0\r\n\r\n",
    "data_too_short": b"6\r\nhello\r\n0\r\n\r\n",
    "bare_lf_in_extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "bare_cr_in_extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "nul_in_extension": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    "long_extension": b"5;" + b"a" * 10_000 + b"\r\nhello\r\n0\r\n\r\n",
    "extensions_flood": (b"1;" + b"a" * 250 + b"\r\nh\r\n") * 40 + b"0\r\n\r\n",
    "last_extension_flood": b"0;" + b"a" * 10_000 + b"\r\n\r\n",
    "long_trailer": b"5\r\nhello\r\n0\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "many_trailers": b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "folded_trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "trailer_without_colon": b"5\r\nhello\r\n0\r\nnothing\r\n\r\n",
    "trailer_space_before_colon": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "bare_lf_in_trailer": b"5\r\nhello\r\n0\r\nX: y\nZ: z\r\n\r\n",
    "bare_lf_at_the_end": b"5\r\nhello\r\n0\r\n\n",
    "raw_body": b"hello",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\r\n\r\n",
}


@pytest.fixture
def hidden(server: Server) -> Iterator[str]:
    """The name of a repository that must not come into being."""
    name = f"hidden/n{next(NUMBERS)}"
    yield name
    assert call(server, "GET", "/v2/").status == 200
    assert not store.holds(server, name), "the request behind the bad one was executed"


def behind(name: str) -> bytes:
    """The good request that stands behind the bad one."""
    return request("POST", f"/v2/{name}/blobs/uploads/")


@pytest.mark.case("H37")
def test_the_request_behind_would_leave_a_trace_if_it_were_executed(server: Server) -> None:
    with Wire.open(server) as wire:
        wire.send(request("GET", "/v2/") + behind("hidden/control"))

        assert [wire.answer().status, wire.answer().status] == [200, 202]
    assert store.holds(server, "hidden/control")


def assert_refused_once(server: Server, sent: bytes, statuses: set[int]) -> None:
    with Wire.open(server) as wire:
        wire.send(sent)
        answer, *others = wire.answers()

    assert answer.status in statuses
    assert answer.code == "UNSUPPORTED"
    assert answer.headers["connection"] == "close"
    assert others == []


@pytest.mark.case("H37")
@pytest.mark.parametrize("name", HEADS)
def test_headers_that_parsers_read_differently_end_the_connection(server: Server, hidden: str, name: str) -> None:
    location = begin(server, "framing")
    lines = "\r\n".join([f"PATCH {location} HTTP/1.1", "Host: pierhead", *HEADS[name], "", ""])

    assert_refused_once(server, lines.encode("latin-1") + b"5\r\nhello\r\n0\r\n\r\n" + behind(hidden), {400, 417, 501})

    assert offset(server, location) == 0


@pytest.mark.case("H37")
@pytest.mark.parametrize("name", REQUEST_LINES)
def test_request_lines_that_are_none_end_the_connection(server: Server, hidden: str, name: str) -> None:
    sent = REQUEST_LINES[name] + b"\r\nHost: pierhead\r\n\r\n" + behind(hidden)

    assert_refused_once(server, sent, {400, 505})


@pytest.mark.case("H37")
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_that_parsers_read_differently_end_the_connection_and_are_not_committed(
    server: Server, hidden: str, name: str
) -> None:
    digest = sha256(HELLO)
    sent = head("PUT", f"{begin(server, hidden.replace('hidden', 'chunks'))}?digest={digest}")

    assert_refused_once(server, sent + CHUNKS[name] + behind(hidden), {400, 431})

    assert call(server, "HEAD", f"/v2/{hidden.replace('hidden', 'chunks')}/blobs/{digest}").status == 404


@pytest.mark.case("H37")
def test_a_chunk_of_almost_endless_size_is_waited_for_without_memory(server: Server, hidden: str) -> None:
    location = begin(server, "framing/huge")
    sent = head("PATCH", location)
    with bounded(server, growth_mib=32), Wire.open(server) as wire:
        wire.send(sent + b"fffffffffffffff\r\n" + behind(hidden) * 10)
        assert not wire.speaks(seconds=0.2)
        wire.vanish()


@pytest.mark.case("H37")
def test_a_length_of_almost_2_to_the_63_is_waited_for_without_memory(server: Server, hidden: str) -> None:
    sent = head("PATCH", begin(server, "framing/huge"), length=999_999_999_999_999_999)
    with bounded(server, growth_mib=32), Wire.open(server) as wire:
        wire.send(sent + behind(hidden) * 10)
        assert not wire.speaks(seconds=0.2)
        wire.vanish()


@pytest.mark.case("H37")
def test_extensions_and_trailers_mean_nothing(server: Server) -> None:
    """A trailer that counted as a header could change length, host or credentials behind a proxy's back."""
    location = begin(server, "framing/trailers")
    body = b'5;a="b"\r\nhello\r\n0;c\r\nContent-Length: 100\r\nHost: other\r\nContent-Range: 9-9\r\n\r\n'
    with Wire.open(server) as wire:
        wire.send(head("PATCH", location) + body)
        wire.send(request("GET", location))

        assert wire.answer().status == 202
        assert wire.answer().headers["range"] == "0-4"
    assert finish(server, location, sha256(HELLO)).status == 201


@pytest.mark.case("H37")
def test_a_wish_for_another_protocol_is_ignored_and_its_bytes_stay_a_body(server: Server, hidden: str) -> None:
    location = begin(server, "framing/upgrade")
    upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"]
    body = behind(hidden)
    with Wire.open(server) as wire:
        wire.send(request("PATCH", location, *upgrade, body=body))
        wire.send(request("GET", "/v2/", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"))

        assert [wire.answer().status, wire.answer().status] == [202, 200]
    assert offset(server, location) == len(body)


@pytest.mark.case("H37")
def test_headers_named_in_connection_are_still_read_as_they_are(server: Server) -> None:
    """A hop-by-hop list is for proxies: here it must not make a header vanish that frames or guards."""
    location = begin(server, "framing/hops")
    hops = "Connection: content-length, content-range, host, transfer-encoding"
    answer = call(server, "PATCH", location, hops, "Content-Range: 5-9", body=HELLO)

    assert (answer.status, answer.headers["range"]) == (416, "0-0")


@pytest.mark.case("H37")
def test_the_absolute_form_is_the_path_in_it(server: Server) -> None:
    digest = push_blob(server, "framing/absolute", HELLO)
    path = f"/v2/framing/absolute/blobs/{digest}"

    assert ask(server, request("GET", f"http://elsewhere.example:1/{path[1:]}")).body == HELLO
    assert ask(server, request("GET", f"HTTPS://[::1]{path}")).body == HELLO
    # No address of ours is ever made from a host that a client has sent.
    answer = ask(server, request("POST", "http://evil.example/v2/framing/absolute/blobs/uploads/"))
    assert answer.headers["location"].startswith("/v2/framing/absolute/blobs/uploads/")
    assert "evil" not in str(answer.headers)


@pytest.mark.case("H37")
@pytest.mark.parametrize(
    "host",
    ["a b", "a/b", "a, b", 'a"b', "user@a", "a#b", "a?b", "a\\b", "a:b", "[::1", "::1]", "a:80:80", "<a>", "a\x0bb"],
)
def test_a_host_that_is_none_is_refused(server: Server, hidden: str, host: str) -> None:
    sent = request("GET", "/v2/").replace(b"pierhead", host.encode("latin-1"))
    assert_refused_once(server, sent + behind(hidden), {400})


@pytest.mark.case("H37")
def test_a_request_of_http_1_1_needs_a_host_and_one_of_http_1_0_does_not(server: Server, hidden: str) -> None:
    assert_refused_once(server, b"GET /v2/ HTTP/1.1\r\nA: b\r\n\r\n" + behind(hidden), {400})
    with Wire.open(server) as wire:
        wire.send(b"GET /v2/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + behind(hidden))
        assert [answer.status for answer in wire.answers()] == [200]


@pytest.mark.case("H37")
def test_header_lines_are_bounded_in_number_and_size(server: Server, hidden: str) -> None:
    many = [f"X-{number}: y" for number in range(98)]
    assert call(server, "GET", "/v2/", *many).status == 200
    assert_refused_once(server, request("GET", "/v2/", *many, "A: b", "C: d") + behind(hidden), {431})
    assert_refused_once(server, request("GET", "/v2/", "A: " + "b" * 70_000) + behind(hidden), {431})
    assert_refused_once(server, request("GET", "/v2/", "A" * 70_000 + ": b") + behind(hidden), {431})
    assert_refused_once(server, request("GET", "/v2/" + "a" * 40_000) + behind(hidden), {414})
    assert_refused_once(server, request("GET", "/v2/?" + "a" * 40_000) + behind(hidden), {414})
    assert_refused_once(server, request("G" * 40_000, "/v2/") + behind(hidden), {400, 414})
    assert_refused_once(server, b"\r\n" * 1000 + behind(hidden), {400})


@pytest.mark.case("H37")
def test_a_head_that_never_ends_is_refused_at_its_bound(server: Server) -> None:
    with bounded(server, growth_mib=16), Wire.open(server) as wire:
        wire.send(b"GET /v2/ HTTP/1.1\r\nHost: pierhead\r\n")
        for _ in range(1000):
            wire.send(b"A: " + b"b" * 1000 + b"\r\n")
        assert wire.answer().status == 431
        assert wire.ended()


@pytest.mark.case("H37")
def test_what_is_pipelined_is_answered_in_order_and_cut_at_the_first_bad_one(server: Server, hidden: str) -> None:
    location = begin(server, "framing/pipeline")
    good = [request("PATCH", location, body=b"%03d" % number) for number in range(100)]
    with Wire.open(server) as wire:
        wire.send(b"".join(good) + b"GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n" + behind(hidden) * 3)
        answers = wire.answers()

    assert [answer.status for answer in answers] == [202] * 100 + [400]
    assert [answer.headers["range"] for answer in answers[:100]] == [f"0-{3 * n + 2}" for n in range(100)]
    body = b"".join(b"%03d" % number for number in range(100))
    assert finish(server, location, sha256(body)).status == 201


@pytest.mark.case("H37")
def test_a_flood_of_pipelined_requests_whose_answers_nobody_reads_costs_little(server: Server) -> None:
    with bounded(server, growth_mib=48), Wire.open(server, receive_bytes=4096) as wire:
        wire.socket.settimeout(1)
        try:
            for _ in range(400):
                wire.socket.sendall(request("GET", "/v2/") * 2000)
        except TimeoutError:
            pass
        assert call(server, "GET", "/v2/").status == 200
        wire.vanish()


@pytest.mark.case("H37")
@pytest.mark.parametrize("size", [0, 1, 200_000, 3_000_000])
def test_a_body_that_nobody_asked_for_is_no_request(server: Server, hidden: str, size: int) -> None:
    """GET, HEAD and DELETE may have a body: it is passed over, or the connection ends; it is never executed."""
    body = (behind(hidden) * (size // 50 + 1))[:size]
    for method, chunked in itertools.product(("GET", "HEAD", "DELETE", "BREW"), (False, True)):
        with Wire.open(server) as wire:
            wire.send(request(method, "/v2/framing/nothing/manifests/x", body=body, chunked=chunked))
            answer = wire.answer(method=method)
            assert answer.status in {404, 405}
            if "connection" not in answer.headers:
                wire.send(request("GET", "/v2/"))
                assert wire.answer().status == 200


@pytest.mark.case("H37")
def test_each_byte_in_a_packet_of_its_own_means_the_same(server: Server) -> None:
    body = b"4;a=b\r\nabcd\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n"
    location = begin(server, "framing/bytes")
    sent = head("PATCH", location) + body + request("GET", location)
    with wires_to_both_workers(server) as (first, _second):
        for byte in sent:
            first.send(bytes([byte]))

        assert [first.answer().status, first.answer().headers["range"]] == [202, "0-13"]


@pytest.mark.case("H37")
def test_a_client_that_hangs_up_anywhere_in_a_request_does_no_harm(server: Server, hidden: str) -> None:
    location = begin(server, "framing/cut")
    sent = request("PATCH", location, "Content-Range: 0-4", body=HELLO, chunked=True) + behind(hidden)
    whole = sent.index(b"POST")
    for length in range(0, whole - 1, 3):
        with Wire.open(server) as wire:
            wire.send(sent[:length])
            (wire.vanish if length % 2 else wire.socket.close)()

    # The last of them may hold the session for another instant.
    eventually(lambda: ask(server, sent[:whole]).status == 202)
    assert offset(server, location) == len(HELLO)


@pytest.mark.case("H37")
def test_an_error_has_an_envelope_that_names_no_path_of_the_machine(server: Server) -> None:
    for sent in (
        b"\x00\r\n\r\n",
        request("GET", "/v2/a/manifests/" + "%00"),
        request("PUT", "/v2/a/manifests/x", body=b"{"),
        request("GET", "/etc/passwd"),
    ):
        text = ask(server, sent).body.decode()
        assert json.loads(text)["errors"][0]["message"]
        assert str(server.data) not in text
        assert "Traceback" not in text


@pytest.mark.case("H37")
def test_half_a_tls_handshake_is_told_off_at_once(server: Server) -> None:
    """A client that was told https by mistake must not wait for the header timeout."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with Wire.open(server) as wire:
        wire.socket.settimeout(3)
        with pytest.raises((ssl.SSLError, ConnectionResetError, Ended)):
            context.wrap_socket(wire.socket, server_hostname="pierhead")
