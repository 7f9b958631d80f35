"""Calls that do not depend on each other, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

Answer = TypeVar("Answer")


async def together(calls: Sequence[Callable[[], Awaitable[Answer]]], at_once: int) -> list[Answer]:
    """Make the calls, at most `at_once` of them at the same time, and return what they return, in their order.

    The first that raises ends the others, and its error is raised.
    """
    if at_once == 1 or len(calls) < 2:
        return [await call() for call in calls]
    answers: list[Answer | None] = [None] * len(calls)
    waiting = iter(enumerate(calls))

    async def work() -> None:
        for place, call in waiting:
            answers[place] = await call()

    tasks = [asyncio.create_task(work()) for _ in range(min(at_once, len(calls)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return answers  # type: ignore[return-value]  # each has its answer by now
