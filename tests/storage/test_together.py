"""Calls that are made at the same time: how many, in which order they answer, and what becomes of an error."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from storage.together import together


def call(number: int, running: set[int], most: list[int]) -> Callable[[], Awaitable[int]]:
    async def answer() -> int:
        running.add(number)
        most.append(len(running))
        for _ in range(10 - number):  # the first ones take longest
            await asyncio.sleep(0)
        running.discard(number)
        return number

    return answer


@pytest.mark.parametrize(("at_once", "expected"), [(1, 1), (3, 3), (100, 10)])
async def test_answers_come_in_the_order_of_the_calls_and_so_many_run_at_once(at_once: int, expected: int) -> None:
    running: set[int] = set()
    most: list[int] = []

    answers = await together([call(number, running, most) for number in range(10)], at_once)

    assert answers == list(range(10))
    assert max(most) == expected


async def test_the_first_error_is_raised_and_nothing_goes_on() -> None:
    running: set[int] = set()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise ValueError("the second")

    with pytest.raises(ValueError, match="the second"):
        await together([call(0, running, []), fail, call(1, running, [])], 3)
    before = set(running)
    await asyncio.sleep(0.01)
    assert running == before
