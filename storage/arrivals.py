"""What somebody comes to rely on while a garbage collection is under way.

A collection puts up its marker and waits until every process has seen it; only then it looks what is linked to.
Whoever writes a link from then on, or points a tag at a manifest, says so after that, by a record in
`pierhead/gc/fresh/`.
The collection announces what it is about to take and then looks for such records. Both act before they look, so that
one of them sees the other: the collection spares what is fresh, and whoever finds an announcement waits until it is
over, and looks what is left. While no collection is under way, that is one look at its marker before and one after.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import NotFound
from storage.removals import PAUSE_SECONDS, counts, read_announcement
from storage.walk import walk

RUN_SECONDS = 600.0
"""So long after it was written last a marker counts: a collection writes it again all the time."""

RUN_BYTES_MAX = 1024
BLOBS, MANIFESTS = "blobs", "manifests"


@dataclass(frozen=True, slots=True)
class State:
    """The latest collection, and whether it is under way. Two that are equal: none has passed between them."""

    run: str = ""
    is_on: bool = False


class Arrivals:
    """Those who push, and a collection that may be under way."""

    def __init__(
        self,
        driver: Driver,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause
        self._rare_seconds = driver.capabilities.rare_seconds
        self._looking = asyncio.Lock()
        self._seen = State()
        self._until = -1.0

    async def state(self) -> State:
        """The state of the collection, as it was at most `rare_seconds` ago."""
        if not self._rare_seconds:
            return await self._look()
        async with self._looking:
            begun = self._monotonic()
            if begun >= self._until:
                self._seen = await self._look()
                self._until = begun + self._rare_seconds
            return self._seen

    async def tell(self, canonical: Digest, kind: str) -> State:
        """Say that somebody relies on a blob or manifest, and wait until its bytes are about to be deleted no more.

        Returns the state of the collection; if none is under way there is nothing to say.
        """
        state = await self.state()
        if state.is_on:
            await self._driver.put(keys.fresh(state.run, kind, canonical), b"", durable=False)
            while await self._is_deleting(canonical):
                await self._pause(PAUSE_SECONDS)
        return state

    async def wait_for_links(self, repository: str) -> None:
        """Return once no collection is about to take links from the repository."""
        while await self._any_counts(keys.collection_removals(repository)):
            await self._pause(PAUSE_SECONDS)

    async def _look(self) -> State:
        try:
            text = (await self._driver.get(keys.COLLECTION_RUN, bytes_max=RUN_BYTES_MAX)).body
        except NotFound:
            return State()  # or something that no collection has written, and none goes on when it finds that
        return read_state(text, self._clock())

    async def _is_deleting(self, canonical: Digest) -> bool:
        async for place in walk(self._driver, keys.DELETING):
            low, _, rest = place.name.partition("-")
            if low <= canonical.hex <= rest.partition("-")[0] and await self._counts(place.key):
                return True
        return False

    async def _any_counts(self, prefix: str) -> bool:
        async for place in walk(self._driver, prefix):
            if await self._counts(place.key):
                return True
        return False

    async def _counts(self, key: str) -> bool:
        text = await read_announcement(self._driver, key)
        return text is not None and counts(text, self._clock())


def marker_text(run: str, now: float, *, is_on: bool = True) -> bytes:
    """The marker of a collection, as it is stored; the latest one stays when it has ended."""
    return json.dumps({"run": run, "written": now, "on": is_on}).encode()


def read_state(text: bytes, now: float) -> State:
    """What a marker says. A collection whose marker has not been written for too long is not under way."""
    try:
        fields = json.loads(text)
        run, written, is_on = str(fields["run"]), float(fields["written"]), fields["on"] is True
    except (ValueError, TypeError, KeyError):
        return State()
    return State(run, is_on and abs(now - written) <= RUN_SECONDS)
