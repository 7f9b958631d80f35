"""Bodies that are held whole are bounded, each and all of them together."""

import contextlib

import pytest
from starlette.requests import ClientDisconnect

from registry.api.bodies import LARGE_MAX, SMALL_BYTES, WholeBodies
from registry.api.requests import Request
from registry.errors import TooLarge, TooManyRequests
from registry.query import NO_QUERY

LARGE = b"x" * (SMALL_BYTES + 1)


def request(*pieces: bytes, vanish: bool = False) -> Request:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.disconnect"} if vanish else {"type": "http.request", "body": b""})

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    return Request({"type": "http", "headers": []}, receive, "PUT", "", None, "", NO_QUERY)


async def read(bodies: WholeBodies, *pieces: bytes, vanish: bool = False) -> bytes:
    async with bodies.read(request(*pieces, vanish=vanish)) as body:
        return body


async def test_a_body_is_joined_up_to_the_limit() -> None:
    bodies = WholeBodies(bytes_max=5)

    assert await read(bodies) == b""
    assert await read(bodies, b"ab", b"", b"cde") == b"abcde"
    with pytest.raises(TooLarge, match="at most 5 bytes"):
        await read(bodies, b"abc", b"def")


async def test_more_large_bodies_at_once_than_the_limit_are_told_to_come_back_and_small_ones_are_taken() -> None:
    bodies = WholeBodies(bytes_max=1 << 20)
    async with contextlib.AsyncExitStack() as held:
        for _ in range(LARGE_MAX):
            await held.enter_async_context(bodies.read(request(LARGE)))

        with pytest.raises(TooManyRequests) as refused:
            await read(bodies, LARGE)
        assert await read(bodies, LARGE[:SMALL_BYTES]) == LARGE[:SMALL_BYTES]

    assert ("retry-after", "1") in refused.value.headers
    assert await read(bodies, LARGE) == LARGE


async def test_a_large_body_that_fails_gives_its_place_back() -> None:
    bodies = WholeBodies(bytes_max=len(LARGE))

    for _ in range(LARGE_MAX + 1):
        with pytest.raises(ClientDisconnect):
            await read(bodies, LARGE, vanish=True)
        with pytest.raises(TooLarge):
            await read(bodies, LARGE, b"more")

    assert await read(bodies, LARGE) == LARGE
