"""The history of tags: a record of every change, written once, beside the link that is the one authority.

A record is written after the link was swapped and before that is acknowledged. Who dies in between leaves a link that
the newest record does not agree with, as another registry does; the next reader adds what he has observed. So the
history may lack who made a change, and never lies about what the tag points at.

Time, new digest and nothing else stand in the key, so that one listing tells which manifests the histories of a
repository need. The time is taken between the look at the tag and its swap: on one clock, records are in the order of
the swaps. For clocks that differ see storage/timelines.py.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageRefused, StorageUnavailable
from storage.links import LINK_BYTES_MAX
from storage.places import Kind, Place
from storage.timelines import UNKNOWN, Cause, Change, State, Why, filled, in_order
from storage.together import together
from storage.walk import walk

RECORD_BYTES_MAX = 4096
ENTRIES_MAX = 1000
"""So many changes of a tag are read unless more are asked for."""

MARGIN = 20
"""So many records more are read than are asked for: some may turn out to tell what others told already."""

LOOKS = 3
PAUSE_SECONDS = 0.1
"""Between two looks at records and link that do not agree: most likely a change is just being written down."""

WHO_CHARACTERS_MAX = 512


@dataclass(frozen=True, slots=True)
class Mark:
    """What the key of a record tells: the time in microseconds since the epoch, and the new digest or None."""

    key: str
    tag: str
    time: int
    new: Digest | None

    @property
    def folder(self) -> str:
        """Where all records of the tag lie."""
        return self.key.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class _Look:
    """The newest changes of a tag in order, and those among them that have no record."""

    changes: list[Change]
    observed: list[Change]


class HistoryStore:
    """Write-once records of the changes of tags."""

    def __init__(
        self,
        driver: Driver,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._new_id = new_id
        self._pause = pause
        self._last = 0

    def now(self) -> int:
        """The time for a change that is about to be made, in microseconds since the epoch; never the same again."""
        self._last = max(int(self._clock() * 1_000_000), self._last + 1)
        return self._last

    async def append(
        self,
        repository: str,
        tag: str,
        *,
        old: Digest | None,
        new: Digest | None,
        cause: Cause,
        time: int | None = None,
    ) -> None:
        """Write down that a tag was changed from `old` to `new`; None is a tag that is not there.

        `time` is what `now` told ahead of the change.
        """
        time = self.now() if time is None else time
        key = keys.history_record(repository, tag, time=time, new=new, record=self._new_id())
        await self._driver.put(key, _text(Change(time, old, new, cause)))

    async def entries(self, repository: str, tag: str, *, limit: int = ENTRIES_MAX, write: bool = True) -> list[Change]:
        """The newest changes of a tag, the newest of all first; what has no record is added.

        Without `write` it is told, and not written down. Raises StorageUnavailable.
        """
        found = await self._look(repository, tag, limit)
        for _look in range(LOOKS - 1 if write else 0):
            if not found.observed:
                break
            await self._pause(PAUSE_SECONDS)
            found = await self._look(repository, tag, limit)
        for change in found.observed if write else ():
            # Who may only read is told as well.
            with contextlib.suppress(StorageUnavailable):
                await self._write(repository, tag, change)
        return found.changes[: -limit - 1 : -1]

    async def kept(self, repository: str, *, since: float, last: int) -> dict[str, list[Digest]]:
        """By tag the digests that its history keeps, the newest first: of a whole repository, by listing alone.

        They are those of the states that were current at `since`, in seconds since the epoch, or later; and in any case
        of the newest state, and of the last `last` states before that, unless the tag was deleted by then.
        """
        found: dict[str, list[Digest]] = {}
        async for marks in self._tags(keys.histories(repository)):
            digests = [mark.new for mark in window(marks, since=since, last=last) if mark.new is not None]
            if digests:
                found[marks[0].tag] = list(dict.fromkeys(digests))
        return found

    async def prune(self, repository: str, *, since: float, last: int) -> int:
        """Delete the records that keep nothing, see `kept`; returns how many. The newest of a tag always stays."""
        return await self._prune(keys.histories(repository), since=since, last=last)

    async def prune_all(self, *, since: float, last: int) -> int:
        """Do so in all repositories."""
        return await self._prune(keys.OUR_REPOSITORIES, since=since, last=last)

    async def _prune(self, prefix: str, *, since: float, last: int) -> int:
        dropped = 0
        async for marks in self._tags(prefix):
            wanted = {mark.key for mark in window(marks, since=since, last=last)}
            for mark in marks:
                if mark.key not in wanted:
                    await self._driver.delete(mark.key)
                    dropped += 1
        return dropped

    async def marks(self, repository: str, tag: str) -> list[Mark]:
        """What the keys of a tag's records tell, by time."""
        found = [mark async for mark in self._marks(keys.history(repository, tag))]
        return sorted(found, key=lambda mark: (mark.time, mark.key))

    async def all_marks(self, repository: str) -> dict[str, list[Mark]]:
        """By tag what the keys of its records tell, by time: of a whole repository, by listing alone."""
        return {marks[0].tag: marks async for marks in self._tags(keys.histories(repository))}

    async def tags(self, repository: str) -> list[str]:
        """Every tag that has a history, in byte order, whether it is there or was deleted."""
        return sorted([marks[0].tag async for marks in self._tags(keys.histories(repository))])

    async def _tags(self, prefix: str) -> AsyncIterator[list[Mark]]:
        """The records of each tag, by time."""
        tag: list[Mark] = []
        async for mark in self._marks(prefix):
            if tag and tag[0].folder != mark.folder:
                yield sorted(tag, key=lambda mark: (mark.time, mark.key))
                tag = []
            tag.append(mark)
        if tag:
            yield sorted(tag, key=lambda mark: (mark.time, mark.key))

    async def _marks(self, prefix: str) -> AsyncIterator[Mark]:
        async for place in walk(self._driver, prefix):
            if place.kind is Kind.HISTORY:
                yield mark_of(place)

    async def _read(self, repository: str, tag: str, limit: int) -> tuple[list[Change], State]:
        """The newest records, by time, and what the tag pointed at before."""
        marks = await self.marks(repository, tag)
        newest = marks[-limit:]
        read = [partial(self._change, mark) for mark in newest]
        changes = await together(read, self._driver.capabilities.calls_at_once)
        before: State = marks[-limit - 1].new if len(marks) > limit else UNKNOWN
        return [change for change in changes if change is not None], before

    async def _look(self, repository: str, tag: str, limit: int) -> "_Look":
        changes, before = await self._read(repository, tag, limit + MARGIN)
        now, current = self.now(), await self._current(repository, tag)
        ordered = in_order(changes, before=before, current=current)
        whole = filled(ordered, before=before, current=current, now=now)
        return _Look(whole, [change for change in whole if change not in ordered])

    async def _change(self, mark: Mark) -> Change | None:
        try:
            return parse_record((await self._driver.get(mark.key, bytes_max=RECORD_BYTES_MAX)).body, mark)
        except (Corrupt, StorageRefused, ValueError):
            return Change(mark.time, None, mark.new, Cause("", Why.UNKNOWN))
        except NotFound:
            return None  # pruned a moment ago

    async def _current(self, repository: str, tag: str) -> State:
        try:
            found = await self._driver.get(keys.tag_link(repository, tag), bytes_max=LINK_BYTES_MAX)
            return Digest.parse(found.body.decode("ascii").strip())
        except (Corrupt, StorageRefused, ValueError):
            return UNKNOWN  # damaged: it points at nothing, and is not gone
        except NotFound:
            return None

    async def _write(self, repository: str, tag: str, change: Change) -> None:
        await self.append(repository, tag, old=change.old, new=change.new, cause=change.cause, time=max(change.time, 0))


def window(marks: Sequence[Mark], *, since: float, last: int) -> list[Mark]:
    """Those of a tag's records, given by time, that keep what they lead to; the newest first, which always does.

    A state is kept if the tag was in it at `since` or later, or if it is one of the last `last` before the newest. Of a
    tag that is gone since then, no state is: else what is dropped for good, a tag for each build say, would never go.
    """
    kept, states, start = list[Mark](), 0, int(since * 1_000_000)
    if marks and marks[-1].new is None and marks[-1].time <= start:
        return [marks[-1]]
    for mark in reversed(marks):
        is_new = not kept or kept[-1].new != mark.new
        if kept and is_new and kept[-1].time <= start and states >= last:
            break
        states += is_new and mark.new is not None and bool(kept)
        kept.append(mark)
    return kept


def mark_of(place: Place) -> Mark:
    """What the key of a record tells."""
    return Mark(place.key, place.name, int(place.key.rpartition("/")[2].partition(".")[0]), place.digest)


def parse_record(text: bytes, mark: Mark) -> Change:
    """Read the text of a record. Raises ValueError if it is damaged, or another one's."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    old, new = (_digest(fields.get(name)) for name in ("old", "new"))
    if new != mark.new:
        raise ValueError("it is another one's")
    return Change(mark.time, old, new, Cause(str(fields.get("who", "")), Why(fields.get("why"))))


def _text(change: Change) -> bytes:
    fields = {
        "who": change.cause.who[:WHO_CHARACTERS_MAX],
        "old": None if change.old is None else str(change.old),
        "new": None if change.new is None else str(change.new),
        "why": change.cause.why.value,
        "when": datetime.fromtimestamp(change.seconds, UTC).isoformat(timespec="microseconds"),
    }
    return json.dumps(fields).encode()


def _digest(value: object) -> Digest | None:
    return None if value is None else Digest.parse(str(value))
