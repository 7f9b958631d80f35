"""A request's body reaches the application in the pieces it came in, and no faster than it is taken."""

import asyncio
import resource
from collections.abc import Sequence

import pytest
from starlette.requests import ClientDisconnect, Request

from registry.server import exchanges
from registry.server.serving import READ_BYTES
from tests.server.edges import Call, Client, Edge, ignore, until

MIB = 1 << 20


async def test_a_large_body_comes_in_batches_of_about_the_high_water_mark(edge: Edge) -> None:
    batches: list[Sequence[bytes]] = []

    async def collect(call: Call) -> None:
        more = True
        while more:
            pieces, more = await call.pieces()
            batches.append(pieces)
        await call.answer()

    edge.application.handle = collect
    chunk = b"8000\r\n" + bytes(32768) + b"\r\n"
    client = await edge.connect()
    client.send(b"PATCH / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 512 + b"0\r\n\r\n")

    assert (await client.answer()).status == 200
    sizes = [sum(map(len, pieces)) for pieces in batches]
    assert sum(sizes) == 16 * MIB
    assert max(sizes) <= exchanges.BATCH_BYTES + READ_BYTES
    assert len(sizes) < 16 * 3
    assert max(len(piece) for pieces in batches for piece in pieces) <= 32768


async def test_a_slow_client_is_not_waited_for_until_a_batch_is_full(edge: Edge) -> None:
    seen: list[bytes] = []

    async def collect(call: Call) -> None:
        more = True
        while more:
            pieces, more = await call.pieces()
            seen.extend(pieces)
        await call.answer()

    edge.application.handle = collect
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
    await until(lambda: seen == [b"abc"])
    client.send(b"def")

    assert (await client.answer()).status == 200
    assert seen == [b"abc", b"def"]


async def test_a_client_that_outruns_the_application_is_made_to_wait(edge: Edge) -> None:
    """The memory that one body may take is bounded, however large it is and however slow the application."""
    go_on = asyncio.Event()
    held: list[int] = []

    async def slow(call: Call) -> None:
        await go_on.wait()
        more = True
        while more:
            pieces, more = await call.pieces()
            held.append(sum(map(len, pieces)))
        await call.answer()

    edge.application.handle = slow
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (256 * MIB))
    block = bytes(MIB)
    sending = asyncio.create_task(_send(client, block, times=256))
    (connection,) = edge.serving.connections
    await until(lambda: connection._flow.read_paused)
    assert not sending.done()
    go_on.set()
    await sending

    assert (await client.answer()).status == 200
    assert sum(held) == 256 * MIB
    assert max(held) <= exchanges.BATCH_BYTES + READ_BYTES
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


async def test_chunks_of_a_few_bytes_do_not_take_a_hundred_times_their_size(edge: Edge) -> None:
    never = asyncio.Event()

    async def hang(_: Call) -> None:
        await never.wait()

    edge.application.handle = hang
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * 500_000)
    (connection,) = edge.serving.connections
    await until(lambda: connection._flow.read_paused)

    exchange = connection._exchange
    assert exchange is not None
    assert exchange.received_bytes < 2 * (exchanges.BATCH_BYTES + READ_BYTES * 10) // exchanges.PIECE_OVERHEAD_BYTES


async def test_the_standard_way_to_the_body_works_too(edge: Edge) -> None:
    messages: list[str] = []

    async def standard(call: Call) -> None:
        body = await Request(call.scope, call.receive).body()
        await call.answer(body)
        messages.append((await call.receive())["type"])

    edge.application.handle = standard
    got = await edge.ask(
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
    )

    assert got.body == b"abcd"
    await until(lambda: messages == ["http.disconnect"])


@pytest.mark.parametrize("framing", [b"Content-Length: 10", b"Transfer-Encoding: chunked"])
async def test_a_client_that_vanishes_in_its_body_is_an_error_for_the_reader(edge: Edge, framing: bytes) -> None:
    seen: list[object] = []

    async def read(call: Call) -> None:
        fetch = call.pieces
        seen.append(await fetch())
        with pytest.raises(ClientDisconnect):
            await fetch()
        seen.append((await call.receive())["type"])
        await call.answer()

    edge.application.handle = read
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n3\r\nabc")
    await until(lambda: seen)
    client.writer.close()

    await until(lambda: not edge.serving.tasks)
    assert seen == [([b"3\r\nabc"] if b"Length" in framing else [b"abc"], True), "http.disconnect"]


async def test_receive_tells_an_application_without_a_body_that_the_client_has_left(edge: Edge) -> None:
    seen: list[str] = []

    async def wait(call: Call) -> None:
        seen.append((await call.receive())["type"])
        seen.append((await call.receive())["type"])

    edge.application.handle = wait
    client = await edge.connect()
    client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: seen)
    client.writer.transport.abort()

    await until(lambda: seen == ["http.request", "http.disconnect"])


async def test_a_client_that_shuts_down_its_side_still_gets_the_answer(edge: Edge) -> None:
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
    client.writer.write_eof()

    assert (await client.answer()).body == b"abc"
    assert await client.ended()


EXPECTING = b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"


async def test_a_client_that_waits_for_100_is_told_to_go_on_when_the_body_is_wanted(edge: Edge) -> None:
    client = await edge.connect()
    client.send(EXPECTING)
    async with asyncio.timeout(10):
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"abc")

    assert (await client.answer()).body == b"abc"


async def test_a_refusal_goes_out_instead_of_100(edge: Edge) -> None:
    """RFC 9110 section 10.1.1: nobody knows whether the body follows, so the connection ends."""
    edge.application.handle = ignore
    client = await edge.connect()
    client.send(EXPECTING)

    assert await client.reader.readuntil(b"\r\n") == b"HTTP/1.1 403 Forbidden\r\n"
    assert b"connection: close" in await client.reader.read()


async def test_no_100_is_sent_for_a_body_that_came_already(edge: Edge) -> None:
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")

    assert await client.reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"


async def test_a_short_unread_body_is_dropped_and_the_connection_goes_on(edge: Edge) -> None:
    edge.application.handle = ignore
    client = await edge.connect()
    client.send(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n" + bytes(100))
    first = await client.answer()
    client.send(bytes(500_000 - 100) + b"GET /b HTTP/1.1\r\nHost: x\r\n\r\n")
    second = await client.answer()

    assert "connection" not in first.headers
    assert (first.status, second.status) == (403, 403)
    assert edge.application.paths == [b"/a", b"/b"]


@pytest.mark.parametrize("framing", [b"Content-Length: 8388608", b"Transfer-Encoding: chunked"])
async def test_a_client_that_sends_a_long_unwanted_body_can_read_the_answer(edge: Edge, framing: bytes) -> None:
    """A reset for the unread bytes would take the answer out of its hands (RFC 9112 section 9.6)."""
    edge.application.handle = ignore
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
    body = bytes(8 * MIB) if b"Length" in framing else (b"100000\r\n" + bytes(MIB) + b"\r\n") * 8 + b"0\r\n\r\n"
    # Not a look at the answer before everything is sent, as many HTTP libraries do it.
    client.send(body)
    await client.writer.drain()
    got = await client.answer()

    assert (got.status, got.body, got.headers["connection"]) == (403, b"no", "close")
    assert await client.ended()
    client.writer.close()
    await until(lambda: not edge.serving.connections)


async def _send(client: Client, block: bytes, *, times: int) -> None:
    for _ in range(times):
        client.send(block)
        await client.writer.drain()
