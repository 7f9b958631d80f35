"""A scheduler over the store in memory: several workers at once, and before every call to the store another may go on.

Coroutines are driven by hand, without an event loop: each call to the driver, and each pause of whoever waits for an
announced removal, is a point at which the scheduler chooses who goes on.
"""

import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.tag_rules import ImmutableTags
from storage.drivers import Capabilities, Page, SmallObject, Stat
from storage.memory import MemoryDriver
from tests.registry.services import Services
from tests.stores import Clock, Power

DIRECTORY = Capabilities()
BUCKET = Capabilities(folders_hold_objects=True, durable_at_once=True, looks_cost_calls=True, rare_seconds=5.0)
STEPS_MAX = 20_000
WAITED_SECONDS = 1.0
"""By how much the clock goes on when everybody waits."""


class _Turn:
    """Awaited, it gives the turn back; `pauses` says that its owner waits for something."""

    def __init__(self, *, pauses: bool = False) -> None:
        self.pauses = pauses

    def __await__(self) -> Generator["_Turn", None, None]:
        yield self


@dataclass(slots=True)
class Actor:
    """One request: what it was answered, or what it raised. `crash_at` is the call at which its worker dies."""

    name: str
    work: Coroutine[Any, Any, object]
    crash_at: int | None = None
    outcome: object = None
    done: bool = False
    crashed: bool = False
    waits: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether it was acknowledged."""
        return self.done and not self.crashed and not isinstance(self.outcome, BaseException)


class ScheduledDriver(MemoryDriver):
    """Gives the turn back before every call, once somebody is scheduled."""

    actor: Actor | None = None

    def __init__(self, capabilities: Capabilities = DIRECTORY) -> None:
        super().__init__()
        self.capabilities = capabilities

    async def _step(self) -> None:
        actor = self.actor
        if actor is None:
            return
        await _Turn()
        if actor.crash_at is not None:
            actor.crash_at -= 1
            if actor.crash_at < 0:
                actor.crashed = True
        if actor.crashed:
            raise Power  # and at every further call, of whatever tidies up

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        await self._step()
        return await super().get(key, bytes_max=bytes_max)

    async def create(self, key: str, body: bytes) -> str:
        await self._step()
        return await super().create(key, body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        await self._step()
        return await super().replace(key, body, version=version)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        await self._step()
        return await super().put(key, body, durable=durable)

    async def delete(self, key: str) -> None:
        await self._step()
        await super().delete(key)

    async def delete_version(self, key: str, *, version: str) -> None:
        await self._step()
        await super().delete_version(key, version=version)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        await self._step()
        return await super().list(prefix, after=after, limit=limit, fold=fold)

    async def stat(self, key: str) -> Stat:
        await self._step()
        return await super().stat(key)


@dataclass(slots=True)
class Schedule:
    """One run. `chance` decides who goes on; everything else is the same each time."""

    chance: random.Random
    driver: ScheduledDriver = field(default_factory=ScheduledDriver)
    clock: Clock = field(default_factory=Clock)
    actors: list[Actor] = field(default_factory=list)
    immutable: Sequence[ImmutableTags] = ()
    skew_seconds: float = 0.0
    ticks: Iterator[int] = field(default_factory=itertools.count)
    steps_max: int = STEPS_MAX

    def worker(self) -> Services:
        """Return another worker on the store, whose waits are turns."""
        services = Services(self.driver, clock=self.clock, immutable=self.immutable, pause=_pause)
        services.removals._pause = services.history._pause = _pause
        # No clock stands still between two calls, and those of servers differ.
        ahead = self.chance.uniform(-self.skew_seconds, self.skew_seconds)
        services.history._clock = lambda: self.clock() + ahead + next(self.ticks) / 1e6
        return services

    def add(self, name: str, work: Callable[[Services], Coroutine[Any, Any, object]], crash_at: int | None) -> None:
        """Let a worker of its own do something."""
        self.actors.append(Actor(name, work(self.worker()), crash_at))

    def run(self) -> None:
        """Run until everybody is done."""
        stickiness = self.chance.choice([0.03, 0.1, 0.25, 0.5])
        current: Actor | None = None
        for _step in range(self.steps_max):
            self.between()
            going = [actor for actor in self.actors if not actor.done]
            if not going:
                return
            ready = [actor for actor in going if not actor.waits]
            if not ready:
                self.clock.now += WAITED_SECONDS
                for actor in going:
                    actor.waits = False
                continue
            if current not in ready or self.chance.random() < stickiness:
                current = self.chance.choice(ready)
            assert current is not None
            self._go_on(current)
            for actor in going:
                # Who waits looks again after a while.
                actor.waits = actor.waits and self.chance.random() < 0.7
        raise AssertionError(f"it never ends: {[actor.name for actor in self.actors if not actor.done]}")

    def between(self) -> None:
        """Do something between two steps: nothing."""

    def _go_on(self, actor: Actor) -> None:
        self.driver.actor = actor
        try:
            turn = actor.work.send(None)
            actor.waits = isinstance(turn, _Turn) and turn.pauses
        except StopIteration as end:
            actor.done, actor.outcome = True, end.value
        except (Exception, Power) as error:
            actor.done, actor.outcome = True, error
        finally:
            self.driver.actor = None


def finish(work: Coroutine[Any, Any, object]) -> object:
    """Run something that nobody disturbs to its end."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        return end.value


async def _pause(_seconds: float) -> None:
    await _wait()


def _wait() -> Awaitable[None]:
    return _Turn(pauses=True)
