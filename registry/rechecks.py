"""What looks wrong is looked at again before it is reported: a push or a delete may just be passing through."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from registry.findings import Finding

Look = Callable[[], Awaitable[Sequence[Finding]]]

HELD_MAX = 10_000
PAUSES_SECONDS = (0.05, 0.5)


class Rechecks:
    """A finding is reported if every look has shown it: one at once, and one after each pause.

    Writers go from bytes to links to names, so what is between two steps of theirs is soon whole or gone.
    `report` takes what cannot be passing.
    """

    def __init__(
        self, report: Callable[[Finding], None], *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.report = report
        self._pause = pause
        self._held: list[tuple[Look, Sequence[Finding]]] = []

    async def check(self, look: Look, first: Sequence[Finding] | None = None) -> None:
        """Look, and hold what is found for `settle`; `first` is what a look has just found, if there was one."""
        found = await look() if first is None else first
        if found:
            self._held.append((look, found))
        if len(self._held) >= HELD_MAX:
            await self.settle()

    async def settle(self) -> None:
        """Look again at what is held, and report what is still so."""
        held, self._held = self._held, []
        for seconds in PAUSES_SECONDS:
            if not held:
                return
            await self._pause(seconds)
            held = [(look, again) for look, found in held if (again := await _still(look, found))]
        for _look, found in held:
            for finding in found:
                self.report(finding)


async def _still(look: Look, found: Sequence[Finding]) -> list[Finding]:
    before = {(finding.problem, finding.key) for finding in found}
    return [finding for finding in await look() if (finding.problem, finding.key) in before]
