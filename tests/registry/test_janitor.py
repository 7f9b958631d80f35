"""The janitor sweeps as long as it lives, whatever a sweep comes to."""

import asyncio
import random

import pytest
from structlog.testing import capture_logs

from registry.janitor import Janitor


class Sweeps:
    """Counts sweeps; each returns or raises what stands next in `results`."""

    def __init__(self, *results: int | Exception) -> None:
        self.results = list(results)
        self.all_done = asyncio.Event()

    async def __call__(self) -> int:
        result = self.results.pop(0) if self.results else 0
        if not self.results:
            self.all_done.set()
        if isinstance(result, Exception):
            raise result
        return result


async def test_a_sweep_that_fails_is_logged_and_followed_by_the_next() -> None:
    sweeps = Sweeps(OSError("the disk is gone"), 0, 3, ValueError("odd"), 0)
    janitor = Janitor({"things": sweeps, "others": Sweeps()}, sweep_seconds=0)

    with capture_logs() as logs:
        janitor.start()
        await asyncio.wait_for(sweeps.all_done.wait(), 10)
        await janitor.close()

    assert [line["log_level"] for line in logs] == ["error", "info", "error"]
    assert (logs[1]["what"], logs[1]["count"]) == ("things", 3)


async def test_it_waits_between_half_of_its_interval_and_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        bounds.append((low, high))
        return 0.0

    monkeypatch.setattr(random, "uniform", uniform)
    sweeps = Sweeps(0, 0)
    janitor = Janitor({"things": sweeps}, sweep_seconds=1000)
    janitor.start()
    await asyncio.wait_for(sweeps.all_done.wait(), 10)
    await janitor.close()

    assert bounds[0] == (0.5, 1)


async def test_closing_ends_it_before_and_after_it_was_started() -> None:
    janitor = Janitor({"things": Sweeps()}, sweep_seconds=1000)
    await janitor.close()
    janitor.start()

    await asyncio.wait_for(janitor.close(), 10)
    await janitor.close()
