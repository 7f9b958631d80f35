"""Nobody holds a connection for nothing: each phase of it has a bound."""

import asyncio
import socket

import pytest

from tests.server.edges import Call, Edge, Starter, until

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_a_connection_that_sends_nothing_is_closed_silently(start_edge: Starter) -> None:
    edge = await start_edge(header_seconds=0.1)
    client = await edge.connect()

    assert await client.ended()
    await until(lambda: not edge.serving.connections)


async def test_a_head_that_trickles_in_is_answered_408(start_edge: Starter) -> None:
    edge = await start_edge(header_seconds=0.2)
    client = await edge.connect()
    trickle = asyncio.create_task(_trickle(client.writer, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 1000))

    got = await client.answer()
    trickle.cancel()

    assert (got.status, got.error, got.headers["connection"]) == (408, "UNSUPPORTED", "close")
    assert edge.application.scopes == []


async def test_the_time_of_a_head_counts_from_its_first_byte_on_a_used_connection(start_edge: Starter) -> None:
    edge = await start_edge(header_seconds=0.2, keep_alive_seconds=60)
    client = await edge.connect()
    client.send(GET)
    assert (await client.answer()).status == 200
    (connection,) = edge.serving.connections
    await until(lambda: connection._seconds > 0.3)
    client.send(GET[:5])
    await until(lambda: connection._held)
    client.send(GET[5:])

    assert (await client.answer()).status == 200
    client.send(GET[:5])
    assert (await client.answer()).status == 408


async def test_an_idle_connection_is_closed_after_keep_alive_seconds(start_edge: Starter) -> None:
    edge = await start_edge(keep_alive_seconds=0.1)
    client = await edge.connect()
    client.send(GET)

    assert (await client.answer()).status == 200
    assert await client.ended()


async def test_a_body_below_the_least_rate_is_answered_408(start_edge: Starter) -> None:
    edge = await start_edge(body_bytes_per_second_min=10_000, body_stall_seconds=0.2)
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
    trickle = asyncio.create_task(_trickle(client.writer, bytes(2000)))

    got = await client.answer()
    trickle.cancel()

    assert (got.status, got.error) == (408, "UNSUPPORTED")
    assert await client.ended()
    await until(lambda: not edge.serving.tasks)


async def test_a_body_above_the_least_rate_may_take_as_long_as_it_likes(start_edge: Starter) -> None:
    edge = await start_edge(body_bytes_per_second_min=10, body_stall_seconds=0.1)
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
    await _trickle(client.writer, b"x" * 100)

    assert (await client.answer()).body == b"x" * 100


async def test_time_that_the_application_takes_is_not_held_against_the_client(start_edge: Starter) -> None:
    edge = await start_edge(body_bytes_per_second_min=1 << 20, body_stall_seconds=0.1)
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await go_on.wait()
        size, more = 0, True
        while more:
            pieces, more = await call.pieces()
            size += sum(map(len, pieces))
        await call.answer(b"%d" % size)

    edge.application.handle = slow
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (8 << 20) + bytes(8 << 20))
    (connection,) = edge.serving.connections
    await until(lambda: connection._flow.read_paused)
    await until(lambda: connection._seconds > 0.5)
    go_on.set()

    assert (await client.answer()).body == b"%d" % (8 << 20)


async def test_a_client_that_was_not_told_to_go_on_may_wait(start_edge: Starter) -> None:
    edge = await start_edge(body_bytes_per_second_min=1 << 20, body_stall_seconds=0.1)
    go_on = asyncio.Event()

    async def slow(call: Call) -> None:
        await go_on.wait()
        await call.answer(status=403)

    edge.application.handle = slow
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n")
    await until(lambda: edge.application.scopes)
    (connection,) = edge.serving.connections
    await until(lambda: connection._seconds > 0.5)
    go_on.set()

    assert (await client.answer()).status == 403


@pytest.mark.parametrize("connection_header", [b"close", b"keep-alive"])
async def test_a_client_that_does_not_read_its_answer_is_cut(start_edge: Starter, connection_header: bytes) -> None:
    edge = await start_edge(body_stall_seconds=0.3)

    async def stream(call: Call) -> None:
        await call.send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % (64 << 20))]}
        )
        for _ in range(64):
            await call.send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        await call.send({"type": "http.response.body", "body": b""})

    edge.application.handle = stream
    with socket.create_connection(edge.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: " + connection_header + b"\r\n\r\n")
        await until(lambda: edge.application.scopes)
        await until(lambda: not edge.serving.connections and not edge.serving.tasks)


async def test_a_client_that_does_not_read_the_end_of_its_answer_is_cut(start_edge: Starter) -> None:
    """The application has finished by then, and what waits is in our buffer only."""
    edge = await start_edge(body_stall_seconds=0.3)
    edge.application.handle = lambda call: call.answer(bytes(16 << 20))
    with socket.create_connection(edge.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await until(lambda: edge.application.scopes)
        await until(lambda: not edge.serving.connections)


async def test_a_slow_reader_that_reads_on_is_not_cut(start_edge: Starter) -> None:
    edge = await start_edge(body_stall_seconds=0.2)
    edge.application.handle = lambda call: call.answer(bytes(8 << 20))
    client = await edge.connect(read_bytes=1 << 12)
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    client.send(GET)
    head = await client.reader.readuntil(b"\r\n\r\n")
    size = 0
    loop = asyncio.get_running_loop()
    began = loop.time()
    while size < 8 << 20:
        size += len(await client.reader.readexactly(1 << 16))
        await asyncio.sleep(0.01)

    assert head.startswith(b"HTTP/1.1 200")
    assert loop.time() - began > 0.6


async def test_connections_above_the_limit_are_told_to_come_back(start_edge: Starter) -> None:
    edge = await start_edge(connections_max=2)
    first, second = await edge.connect(), await edge.connect()
    for client in (first, second):
        client.send(GET)
        assert (await client.answer()).status == 200

    third = await edge.ask(GET)
    assert (third.status, third.error, third.headers["connection"]) == (503, "UNAVAILABLE", "close")
    assert int(third.headers["retry-after"]) > 0

    first.writer.close()
    await until(lambda: len(edge.serving.connections) == 1)
    assert (await edge.ask(GET)).status == 200


async def test_a_client_that_keeps_sending_after_its_refusal_is_cut(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.protocol.DROP_SECONDS", 0.2)
    client = await edge.connect()
    client.send(b"\x00")
    assert (await client.answer()).status == 400
    trickle = asyncio.create_task(_trickle(client.writer, bytes(100_000)))

    await until(lambda: not edge.serving.connections)
    trickle.cancel()


async def test_an_unread_body_that_does_not_end_in_time_ends_the_connection(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.server.protocol.DROP_SECONDS", 0.2)
    edge.application.handle = lambda call: call.answer(b"no", status=403)
    client = await edge.connect()
    client.send(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")

    assert (await client.answer()).status == 403
    assert await client.ended()
    await until(lambda: not edge.serving.connections)


async def _trickle(writer: asyncio.StreamWriter, data: bytes) -> None:
    for byte in data:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.005)
