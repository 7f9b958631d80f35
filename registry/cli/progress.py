"""How fast a scan is, and how long its stage will still take."""

import time
from collections.abc import Callable

from registry.scan import Tally

TOLD_AFTER_SECONDS = 1.0
FRACTION_MIN = 0.005
"""What is told from less of a stage is a guess."""


class Speed:
    """Watches a tally, one stage after the other."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._since = 0.0
        self._bytes = 0

    def text(self, tally: Tally, format_bytes: Callable[[int], str]) -> str:
        """Bytes a second in this stage, and the time that is left if that can be told; empty at its beginning."""
        now, read = self._clock(), sum(count for name, count in tally.counts.items() if name.startswith("bytes"))
        if tally.stage != self._stage:
            self._stage, self._since, self._bytes = tally.stage, now, read
        seconds = now - self._since
        if seconds < TOLD_AFTER_SECONDS:
            return ""
        told = []
        if read > self._bytes:
            told.append(f"{format_bytes(int((read - self._bytes) / seconds))}/s")
        if tally.fraction is not None and tally.fraction >= FRACTION_MIN:
            told.append(f"about {_span(seconds / tally.fraction * (1 - tally.fraction))} left")
        return ", ".join(told)


def _span(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
