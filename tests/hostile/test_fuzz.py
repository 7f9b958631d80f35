"""Good requests with a few bytes wrong: the server answers in HTTP or hangs up, never fails, and serves on."""

import socket
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hostile.examples import WIRE
from tests.hostile.pushing import IMAGE, begin, image, push_blob, push_image, sha256
from tests.hostile.wire import Ended, Wire, call, encoded, request
from tests.running import Server

NAME = "fuzz"
EXAMPLES_MAX = 1200
NOISE_EXAMPLES_MAX = 200

PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"/",
    b"?",
    b"&",
    b"%",
    b"%2f",
    b"%00",
    b"..",
    b"/../",
    b"//",
    b"+",
    b"-",
    b"0",
    b"9" * 25,
    b"ffffffffffffffff",
    b"\xff",
    b"\xc0\xaf",
    "\u017f".encode(),
    b"HTTP/1.1",
    b"\r\n\r\n",
    b"\r\nContent-Length: 3",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nContent-Range: 0-4",
    b"\r\nRange: bytes=0-0,-1",
    b"\r\nExpect: 100-continue",
    b"\r\nConnection: close",
    b"\r\nIf-Match: *",
    b"0\r\n\r\n",
    b'{"',
    b"[[[[",
    b"\\ud800",
    b"1e999",
]

EDITS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["insert", "replace", "delete", "double", "cut"]),
        st.one_of(st.sampled_from(PIECES), st.binary(min_size=1, max_size=4)),
    ),
    min_size=1,
    max_size=4,
)

TAKEN_FOR_WELL_FORMED = frozenset({200, 201, 202, 204, 206, 304})
REFUSED = frozenset({400, 404, 405, 408, 412, 413, 414, 416, 417, 429, 431, 501, 505})


def mutate(sent: bytes, edits: Sequence[tuple[float, str, bytes]]) -> bytes:
    for where, what, piece in edits:
        place = int(where * len(sent))
        if what == "insert":
            sent = sent[:place] + piece + sent[place:]
        elif what == "replace":
            sent = sent[:place] + piece + sent[place + len(piece) :]
        elif what == "delete":
            sent = sent[:place] + sent[place + len(piece) :]
        elif what == "double":
            sent = sent[: place + 16] + sent[place:]
        else:
            sent = sent[:place]
    return sent


@pytest.fixture(scope="module")
def seeds(server: Server) -> list[bytes]:
    """A good request of every kind."""
    blob = push_blob(server, NAME, b"{}")
    body = image(blob, subject={"mediaType": IMAGE, "digest": sha256(b"s"), "size": 1}, annotations={"a": "b"})
    digest = push_image(server, NAME)
    push_image(server, NAME, "second", annotations={"n": "2"})
    location = begin(server, NAME)
    upload = f"/v2/{NAME}/blobs/uploads/"
    manifest = f"/v2/{NAME}/manifests"
    return [
        request("GET", "/v2/"),
        request("GET", f"/v2/{NAME}/blobs/{blob}", "Range: bytes=0-0", f'If-None-Match: "{digest}"', "Accept: */*"),
        request("GET", f"{manifest}/latest", f"Accept: {IMAGE}", "If-Range: x"),
        request("GET", f"/v2/{NAME}/tags/list?n=1&last=a"),
        request("GET", "/v2/_catalog?n=2&last=a%2Fb"),
        request("GET", f"/v2/{NAME}/referrers/{sha256(b's')}?artifactType=a%2Fb"),
        request("POST", f"{upload}?mount={encoded(blob)}&from={NAME}"),
        request("POST", f"{upload}?digest={encoded(sha256(b'hello'))}", body=b"hello"),
        request("PATCH", location, "Content-Type: application/octet-stream", body=b"hello"),
        request("PATCH", location, "Content-Range: 0-4", body=b"hello", chunked=True),
        request("PUT", f"{location}?digest={encoded(sha256(b'hello'))}", body=b"hello", chunked=True),
        request("GET", location),
        request("PUT", f"{manifest}/fuzzed", f"Content-Type: {IMAGE}", body=body),
        request("PUT", f"{manifest}/{sha256(body)}?tag=a&tag=b", f"Content-Type: {IMAGE}", "If-Match: *", body=body),
        request("PUT", f"{manifest}/chunked", f"Content-Type: {IMAGE}", body=body, chunked=True),
        request("DELETE", f"{manifest}/none"),
        request("GET", "/v2/") + request("PATCH", location, body=b"x", chunked=True) + request("GET", "/v2/"),
    ]


@pytest.mark.case("H37")
def test_a_good_request_with_some_bytes_wrong_is_answered_or_hung_up_on(server: Server, seeds: list[bytes]) -> None:
    outcomes: dict[int, int] = {}

    @settings(WIRE, max_examples=EXAMPLES_MAX)
    @given(st.sampled_from(seeds), EDITS)
    def check(seed: bytes, edits: Sequence[tuple[float, str, bytes]]) -> None:
        with Wire.open(server) as wire:
            wire.send(mutate(seed, edits))
            wire.hang_up()
            # An answer that is cut off, or anything that is not HTTP, fails here; so does silence.
            for answer in wire.answers():
                outcomes[answer.status] = outcomes.get(answer.status, 0) + 1
                assert answer.status in TAKEN_FOR_WELL_FORMED | REFUSED
                if answer.status in REFUSED and answer.body:
                    assert answer.code != "UNKNOWN"
        assert call(server, "GET", "/v2/").status == 200

    check()
    # It was no walk through one kind of refusal only.
    assert outcomes.keys() & TAKEN_FOR_WELL_FORMED
    assert len(outcomes.keys() & REFUSED) > 2


@pytest.mark.case("H37")
@settings(WIRE, max_examples=NOISE_EXAMPLES_MAX)
@given(noise=st.binary(min_size=1, max_size=300))
def test_noise_is_answered_or_hung_up_on(server: Server, noise: bytes) -> None:
    with Wire.open(server) as wire:
        wire.send(noise)
        wire.hang_up()
        for answer in wire.answers():
            assert answer.status in REFUSED
    assert call(server, "GET", "/v2/").status == 200


@pytest.mark.case("H37")
@pytest.mark.parametrize(
    ("sent", "raised"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", Ended),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Ended),
        (b"HTTP/1.1 OK\r\ncontent-length: 0\r\n\r\n", AssertionError),
        (b"HTTP/1.1 200 OK\r\nlocation: /\x1b\r\ncontent-length: 0\r\n\r\n", AssertionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n", AssertionError),
    ],
)
def test_answers_that_are_none_are_noticed_by_this_client(sent: bytes, raised: type[Exception]) -> None:
    """The properties above rest on it."""
    ours, theirs = socket.socketpair()
    with Wire(ours) as wire:
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(raised):
            wire.answer()
