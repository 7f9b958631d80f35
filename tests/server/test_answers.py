"""What goes out: one write for a small answer, framed by the server, never more than the client takes."""

import asyncio
from collections.abc import Sequence

import pytest

from registry.server.protocol import WRITE_BUFFER_BYTES_MAX
from tests.server.edges import Call, Edge, Handle, until

MIB = 1 << 20
GET = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"


def answering(status: int, headers: Sequence[tuple[bytes, bytes]], *bodies: bytes) -> Handle:
    """An application that sends exactly this."""

    async def handle(call: Call) -> None:
        await call.send({"type": "http.response.start", "status": status, "headers": headers})
        for body in bodies:
            await call.send({"type": "http.response.body", "body": body, "more_body": True})
        await call.send({"type": "http.response.body", "body": b""})

    return handle


async def test_the_scope_is_what_was_sent(edge: Edge) -> None:
    await edge.ask(b"GET /v2/a%2Fb/%C3%A4?n=%31&n HTTP/1.1\r\nHOST: x:5000\r\nX-Odd:\t a  b \t\r\n\r\n")

    (scope,) = edge.application.scopes
    assert (scope["type"], scope["http_version"], scope["method"], scope["scheme"]) == ("http", "1.1", "GET", "http")
    assert (scope["raw_path"], scope["path"], scope["query_string"]) == (b"/v2/a%2Fb/%C3%A4", "/v2/a/b/ä", b"n=%31&n")
    assert scope["headers"] == [(b"host", b"x:5000"), (b"x-odd", b"a  b")]
    assert scope["server"] == edge.address
    assert scope["client"][0] == "127.0.0.1"
    assert scope["root_path"] == ""


async def test_an_answer_carries_a_date_and_no_name_of_the_server(edge: Edge) -> None:
    got = await edge.ask(GET)

    assert got.headers == {"date": "Thu, 01 Jan 1970 00:00:00 GMT", "content-length": "0"}


async def test_head_is_answered_with_the_length_and_without_the_body(edge: Edge) -> None:
    edge.application.handle = answering(200, [(b"Content-Length", b"5")], b"hello")
    client = await edge.connect()
    client.send(GET.replace(b"GET", b"HEAD") + GET)

    head = await client.answer(head_only=True)
    assert (head.status, head.headers["content-length"]) == (200, "5")
    assert (await client.answer()).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_cannot_have_a_body_has_neither_body_nor_length(edge: Edge, status: int) -> None:
    edge.application.handle = answering(status, [])
    client = await edge.connect()
    client.send(GET + GET)

    for _ in range(2):
        got = await client.answer()
        assert (got.status, set(got.headers)) == (status, {"date"})


async def test_a_client_that_asks_for_it_gets_the_end_of_the_connection(edge: Edge) -> None:
    for wish in (b"close", b"Close", b"keep-alive, CLOSE"):
        client = await edge.connect()
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + wish + b"\r\n\r\n")

        assert (await client.answer()).headers["connection"] == "close"
        assert await client.ended()


async def test_the_application_may_end_the_connection(edge: Edge) -> None:
    edge.application.handle = answering(200, [(b"connection", b"close"), (b"content-length", b"0")])
    client = await edge.connect()
    client.send(GET)

    assert (await client.answer()).headers["connection"] == "close"
    assert await client.ended()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"location", b"/a\r\nset-cookie: b")],
        [(b"location", b"/a\nset-cookie: b")],
        [(b"location", b"/a\rb")],
        [(b"lo\r\ncation", b"/a")],
        [(b"transfer-encoding", b"chunked")],
    ],
)
async def test_an_answer_that_would_smuggle_a_header_becomes_a_500(
    edge: Edge, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    edge.application.handle = answering(302, headers)
    got = await edge.ask(GET)

    assert (got.status, got.error, got.headers["connection"]) == (500, "UNKNOWN", "close")
    assert "set-cookie" not in got.headers


async def test_an_application_that_fails_or_says_nothing_is_a_500_that_tells_nothing(edge: Edge) -> None:
    async def fail(_: Call) -> None:
        raise ValueError("the password is 1234")

    async def say_nothing(_: Call) -> None:
        pass

    for handle in (fail, say_nothing):
        edge.application.handle = handle
        got = await edge.ask(GET)
        assert (got.status, got.error) == (500, "UNKNOWN")
        assert b"1234" not in got.body


@pytest.mark.parametrize("bodies", [[b"abc"], [b"abc", b"defghijk"], []])
async def test_an_answer_of_the_wrong_length_is_cut_and_never_looks_whole(edge: Edge, bodies: list[bytes]) -> None:
    edge.application.handle = answering(200, [(b"content-length", b"10")], *bodies)
    client = await edge.connect()
    client.send(GET)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.answer()


async def test_an_application_that_fails_in_its_body_leaves_an_incomplete_answer(edge: Edge) -> None:
    async def fail(call: Call) -> None:
        await call.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await call.send({"type": "http.response.body", "body": b"abc", "more_body": True})
        raise OSError("the disk is gone")

    edge.application.handle = fail
    client = await edge.connect()
    client.send(GET)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await client.answer()


async def test_a_large_answer_arrives_whole_and_only_a_bounded_part_of_it_waits(edge: Edge) -> None:
    pieces = [bytes([number]) * MIB for number in range(64)]
    waiting: list[int] = []

    async def stream(call: Call) -> None:
        (connection,) = edge.serving.connections
        await call.send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 * MIB))]}
        )
        for piece in pieces:
            await call.send({"type": "http.response.body", "body": piece, "more_body": True})
            waiting.append(connection._transport.get_write_buffer_size())
        await call.send({"type": "http.response.body", "body": b""})

    edge.application.handle = stream
    got = await edge.ask(GET)

    assert got.body == b"".join(pieces)
    assert max(waiting) <= WRITE_BUFFER_BYTES_MAX


async def test_an_application_whose_client_has_left_may_go_on_sending(edge: Edge) -> None:
    done: list[bool] = []
    started, left = asyncio.Event(), asyncio.Event()

    async def persist(call: Call) -> None:
        started.set()
        await left.wait()
        await call.answer(b"nobody")
        done.append(True)

    edge.application.handle = persist
    client = await edge.connect()
    client.send(GET)
    await started.wait()
    client.reset()
    await until(lambda: not edge.serving.connections)
    left.set()

    await until(lambda: done)
