"""What becomes of calls in the event loop when the answer is an unusual one, a broken one, or none."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import pytest
from botocore.credentials import ReadOnlyCredentials

from storage.s3.exchanges import BODY_BYTES_MAX, HEAD_BYTES_MAX, TRAILERS_MAX
from storage.s3.failures import Answer
from storage.s3.short_calls import Place, Response, ShortCalls
from tests.s3.canned import HANG, Canned, Last, Said, canned, read, turns

SECONDS = 0.3
CUT = "its answer was cut off"
CLOSED = "the connection was closed"


def ok(body: bytes = b"hello", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def error(status: bytes, body: bytes = b"", *headers: bytes) -> bytes:
    return ok(body, *headers).replace(b"200 OK", status)


def coded(code: bytes) -> bytes:
    return b"<?xml version='1.0'?><Error><Code>" + code + b"</Code><Message>m</Message></Error>"


def chunked(*lines: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"\r\n".join([*lines, b""])


class Caller:
    """Makes calls to a canned server."""

    def __init__(self, short: ShortCalls) -> None:
        self.short = short

    async def get(self, **parameters: object) -> Response | Answer | None:
        return await self.short.call("get_object", {"Key": "k", **parameters}, read)

    async def body(self) -> bytes:
        found = await self.get()
        assert isinstance(found, dict), found
        body: bytes = found["Body"]
        return body

    async def broken(self) -> str:
        found = await self.get()
        assert isinstance(found, Answer), found
        return found.broken

    async def head(self) -> Response | Answer | None:
        return await self.short.call("head_object", {"Key": "k"}, None)

    async def put(self, body: bytes = b"1") -> Response | Answer | None:
        return await self.short.call("put_object", {"Key": "k", "Body": body}, None)


def caller(port: int, *, calls_max: int = 9, seconds: float = 30.0, path: str = "/bucket/") -> Caller:
    return Caller(
        ShortCalls(
            Place(f"http://127.0.0.1:{port}{path}", "us-east-1", None),
            lambda: ReadOnlyCredentials("key", "secret", None),
            calls_max=calls_max,
            connect_seconds=seconds,
            read_seconds=seconds,
        )
    )


@contextlib.asynccontextmanager
async def calling(*answers: Said, held: bool = False, **given: float) -> AsyncIterator[tuple[Canned, Caller]]:
    """Serve answers and make calls to them, for the length of a block."""
    async with AsyncExitStack() as opened:
        server = await opened.enter_async_context(canned(*answers, held=held))
        made = caller(server.port, **given)  # type: ignore[arg-type]  # calls_max is no fraction
        opened.callback(made.short.close)
        yield server, made


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (ok(), b"hello"),
        (ok(b""), b""),
        (ok(b"x" * BODY_BYTES_MAX), b"x" * BODY_BYTES_MAX),
        (ok(b"hello", b'ETAG:\t"1" ', b"X-Empty:"), b"hello"),
        (ok(b"hello", b"Content-Length: 5"), b"hello"),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n1", b"1"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + ok(), b"hello"),
        (b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok(), b"hello"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n1", b"1"),
        (chunked(b"5", b"hello", b"0", b""), b"hello"),
        (chunked(b"0", b""), b""),
        (chunked(b"3;name=value", b"hel", b"02 ; x", b"lo", b"0;last", b"Trailer: 1", b"Other: 2", b""), b"hello"),
        (chunked(b"A", b"0123456789", b"a", b"0123456789", b"0", b""), b"0123456789" * 2),
        (chunked(*[b"1", b"x"] * 50_000, b"0", b""), b"x" * 50_000),
    ],
)
async def test_an_answer_is_read_to_its_end_and_the_connection_kept(answer: bytes, body: bytes) -> None:
    async with calling(answer, ok(b"next"), ok(b"last")) as (server, calls):
        assert await calls.body() == body
        assert await calls.body() == b"next"
        assert await calls.body() == b"last"

        assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"hello", b"Connection: close"),
        ok(b"hello", b"Connection: Keep-Alive", b"Connection: Close"),
        ok().replace(b"HTTP/1.1", b"HTTP/1.0"),
        chunked(b"5", b"hello", b"0", b"").replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1),
        ok() + b"\r\n",
        ok() + ok(b"another answer"),
        chunked(b"5", b"hello", b"0", b"") + ok(b"another answer"),
        error(b"404 Not Found") + ok(b"another answer"),
        error(b"304 Not Modified").replace(b"Content-Length: 0", b"Content-Length: 5") + b"hello",
    ],
)
async def test_a_connection_is_not_used_again_after(answer: bytes) -> None:
    async with calling(answer, ok(b"next")) as (server, calls):
        await calls.get()

        assert await calls.body() == b"next"
        assert server.connections == 2


async def test_what_a_store_says_unasked_is_no_answer() -> None:
    async with calling(ok(), ok(b"next")) as (server, calls):
        await calls.get()
        await server.say(ok(b"unasked"))

        assert await calls.body() == b"next"
        assert server.connections == 2


async def test_a_body_after_head_is_no_answer_to_the_next_call() -> None:
    async with calling(ok(b"hello"), ok(b"next")) as (server, calls):
        found = await calls.head()

        assert isinstance(found, dict)
        assert found["ContentLength"] == 5
        assert await calls.body() == b"next"
        assert server.connections == 2


async def test_the_answer_to_head_has_a_length_and_no_body() -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 12345678\r\nETag: "e"\r\n\r\n'
    async with calling(head, ok(b"next")) as (server, calls):
        found = await calls.head()

        assert isinstance(found, dict)
        assert (found["ContentLength"], found["ETag"]) == (12345678, '"e"')
        assert await calls.body() == b"next"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "broken"),
    [
        (b"", CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-Le", CUT),
        (ok()[:-1], CUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", CUT),
        (b"HTTP/1.1 100 Continue\r\n\r\n", CUT),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", CUT),
        (chunked(b"5", b"hel")[:-2], CUT),
        (chunked(b"5", b"hello", b"0")[:-2], CUT),
    ],
)
async def test_an_answer_that_breaks_off_may_have_had_its_effect(said: bytes, broken: str) -> None:
    async with calling(Last(said), Last(said), ok(b"next")) as (_server, calls):
        assert await calls.broken() == broken
        found = await calls.put()
        assert isinstance(found, Answer)
        assert found.may_have_worked
        assert found.may_pass
        assert await calls.body() == b"next"


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: 1\r\nETag: 2\r\n\r\n1",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 1\r\n\r\n1",
        chunked(b"-1", b"", b"0", b""),
        chunked(b"0x1", b"1", b"0", b""),
        chunked(b"1_0", b"0123456789abcdef", b"0", b""),
        chunked(b"", b"", b"0", b""),
        chunked(b"f" * 16, b"1", b"0", b""),
        chunked(b"2", b"123", b"0", b""),
        chunked(b"1;" + b"x" * 10_000, b"1", b"0", b""),
        chunked(b"0", *[b"T: 1"] * (TRAILERS_MAX + 1), b""),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX + b"\r\nContent-Length: 0\r\n\r\n",
        b"x" * (2 * HEAD_BYTES_MAX),
    ],
)
async def test_what_is_no_answer_is_refused_at_once(said: bytes) -> None:
    async with calling(said, ok(b"next")) as (server, calls):
        assert await calls.broken() == CUT
        assert await calls.body() == b"next"
        assert server.connections == 2


@pytest.mark.parametrize(
    "said",
    [
        ok(b"x" * (BODY_BYTES_MAX + 1)),
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        chunked(b"%x" % (BODY_BYTES_MAX + 1), b"begun"),
        chunked(b"1", b"x", b"%x" % BODY_BYTES_MAX, b"begun"),
    ],
)
async def test_a_long_body_is_left_to_boto3_unless_the_call_has_had_its_effect(said: bytes) -> None:
    """A conditional PUT that boto3 makes once more is refused by what the first one has written."""
    async with calling(said, said, ok(b"next")) as (server, calls):
        assert await calls.get() is None
        put = await calls.put()
        assert isinstance(put, Answer)
        assert put.may_have_worked
        assert await calls.body() == b"next"
        assert server.connections == 3


@pytest.mark.parametrize(
    "said",
    [
        error(b"301 Moved Permanently", coded(b"PermanentRedirect")),
        error(b"302 Found"),
        error(b"307 Temporary Redirect", coded(b"TemporaryRedirect"), b"Location: http://127.0.0.1:1/"),
        error(b"308 Permanent Redirect"),
        error(b"403 Forbidden", coded(b"RequestTimeTooSkewed")),
        error(b"400 Bad Request", coded(b"AuthorizationHeaderMalformed")),
        error(b"400 Bad Request"),
    ],
)
async def test_what_boto3_knows_to_correct_is_left_to_it(said: bytes) -> None:
    async with calling(said, said, ok(b"next")) as (server, calls):
        assert await calls.get() is None
        assert await calls.put() is None
        assert await calls.body() == b"next"
        assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (error(b"503 Slow Down", coded(b"SlowDown"), b"Retry-After: 7"), Answer("SlowDown", 503, retry_after=7.0)),
        (error(b"503 Slow Down", coded(b"SlowDown"), b"Retry-After: soon"), Answer("SlowDown", 503)),
        (error(b"503 Slow Down", coded(b"SlowDown"), b"Retry-After: \xb2"), Answer("SlowDown", 503)),
        (error(b"404 Not Found", coded(b"NoSuchKey")), Answer("NoSuchKey", 404)),
        (
            error(
                b"404 Not Found",
                b'<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>NoSuchKey</Code></Error>',
            ),
            Answer("NoSuchKey", 404),
        ),
        (error(b"502 Bad Gateway", b"<html><p>nginx<br></html>"), Answer("502", 502)),
        (error(b"502 Bad Gateway", b"\xff\xfe\x00"), Answer("502", 502)),
        (error(b"500 Error", b"<?xml version='1.0' encoding='no-such'?><Error/>"), Answer("500", 500)),
        (error(b"500 Error", b"<?xml version='1.0' encoding='utf-7'?><Error/>"), Answer("500", 500)),
        (error(b"403 Forbidden"), Answer("403", 403)),
        (error(b"304 Not Modified"), Answer("304", 304)),
    ],
)
async def test_an_error_says_what_it_says(said: bytes, answer: Answer) -> None:
    async with calling(said, ok(b"next")) as (server, calls):
        assert await calls.get() == answer
        assert await calls.body() == b"next"
        assert server.connections == 1


async def test_an_answer_whose_time_is_none_is_refused() -> None:
    async with calling(ok(b"1", b"Last-Modified: yesterday")) as (_server, calls):
        assert await calls.broken() == CUT


async def test_no_answer_in_time() -> None:
    async with calling(HANG, seconds=SECONDS) as (_server, calls):
        assert await calls.broken() == "no answer in time"


async def test_half_an_answer_in_time() -> None:
    async with calling(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ok(b"next"), seconds=SECONDS) as (
        server,
        calls,
    ):
        assert await calls.broken() == "no answer in time"
        assert await calls.body() == b"next"
        assert server.connections == 2


async def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))

        assert await caller(unused.getsockname()[1]).broken() == "no connection"


async def test_no_connection_in_time() -> None:
    """What a full queue does not take is not answered (listen(2))."""
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listening.getsockname()[1]
        for _ in range(3):
            filling = opened.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", port))

        assert await caller(port, seconds=SECONDS).broken() == "no connection in time"


async def test_idle_connections_that_the_store_closes_are_replaced() -> None:
    async with calling(*[ok()] * 3, ok(b"next"), held=True) as (server, calls):
        begun = [asyncio.ensure_future(calls.get()) for _ in range(3)]
        await turns()
        server.open.set()
        await asyncio.gather(*begun)
        await server.hang_up()

        assert await calls.body() == b"next"
        assert server.connections == 4


@pytest.mark.parametrize("unasked", [b"", ok(b"unasked")])
async def test_what_the_store_did_while_the_loop_was_busy_is_seen_before_a_request_is_sent(unasked: bytes) -> None:
    """boto3 looks too: else a store that was restarted would fail as many calls as there are idle connections."""
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def answer_one(text: bytes) -> socket.socket:
            connection, _address = listening.accept()
            connection.recv(1 << 16)
            connection.sendall(text)
            return connection

        calls = caller(listening.getsockname()[1])
        first = pool.submit(answer_one, ok(b"first"))
        assert await calls.body() == b"first"
        second = pool.submit(answer_one, ok(b"second"))

        with first.result() as connection:  # no await from here to the call: the loop knows nothing of it
            if unasked:
                connection.sendall(unasked)
            else:
                connection.shutdown(socket.SHUT_RDWR)
            assert await calls.body() == b"second"

        second.result().close()
        calls.short.close()
        await turns()


async def test_a_connection_closed_just_as_the_request_came_may_have_had_its_effect() -> None:
    async with calling(ok(), Last(b""), ok(b"next")) as (server, calls):
        await calls.get()

        assert await calls.put() == Answer(broken=CLOSED)
        assert len(server.requests) == 2
        assert await calls.body() == b"next"


async def test_connections_that_were_idle_for_long_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.s3.short_calls.IDLE_SECONDS", 0.0)
    async with calling(ok(), ok(b"next")) as (server, calls):
        await calls.get()

        assert await calls.body() == b"next"
        assert server.connections == 2


async def test_closing_closes_connections_in_use_once_their_calls_have_ended() -> None:
    async with calling(ok(), held=True) as (server, calls):
        call = asyncio.ensure_future(calls.body())
        await server.arrived.wait()
        calls.short.close()
        server.open.set()

        assert await call == b"hello"
        await turns()
        assert not server._writers


async def test_no_more_calls_at_once_than_allowed() -> None:
    async with calling(*[ok()] * 6, held=True, calls_max=2) as (server, calls):
        begun = [asyncio.ensure_future(calls.body()) for _ in range(6)]
        await server.arrived.wait()
        await turns()
        assert len(server.requests) == 2
        server.open.set()

        assert await asyncio.gather(*begun) == [b"hello"] * 6
        assert (server.waiting_max, server.connections) == (2, 2)


async def test_a_cancelled_call_has_ended_when_the_cancellation_is_raised() -> None:
    async with calling(ok(b""), ok(b"next"), held=True) as (server, calls):
        put = asyncio.ensure_future(calls.put())
        await server.arrived.wait()
        for _ in range(3):
            put.cancel()
            await turns()
        assert not put.done()
        server.open.set()
        with pytest.raises(asyncio.CancelledError):
            await put

        assert server.waiting == 0
        assert await calls.body() == b"next"
        assert server.connections == 1


async def test_a_call_cancelled_before_its_turn_is_not_made() -> None:
    async with calling(ok(b"first"), ok(b"next"), held=True, calls_max=1) as (server, calls):
        first = asyncio.ensure_future(calls.body())
        await server.arrived.wait()
        second = asyncio.ensure_future(calls.put())
        await turns()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        server.open.set()

        assert await first == b"first"
        assert await calls.body() == b"next"
        assert not any(request.startswith(b"PUT") for request in server.requests)


async def test_what_the_end_of_a_call_raises_is_raised_and_the_connection_kept() -> None:
    def fail(_response: Response) -> None:
        raise LookupError("not this one")

    async with calling(ok(), ok(b"next")) as (server, calls):
        with pytest.raises(LookupError, match="not this one"):
            await calls.short.call("get_object", {"Key": "k"}, fail)

        assert await calls.body() == b"next"
        assert server.connections == 1
