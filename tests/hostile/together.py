"""Several clients at the same moment."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")

JOIN_SECONDS = 60


def at_once(calls: Sequence[Callable[[], R]]) -> list[R]:
    """Make all calls at the same moment, and return what each has come to."""
    ready = threading.Barrier(len(calls))

    def start(each: Callable[[], R]) -> R:
        ready.wait(JOIN_SECONDS)
        return each()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(JOIN_SECONDS) for future in [pool.submit(start, each) for each in calls]]
