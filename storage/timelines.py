"""The changes of one tag in the order in which they were made, whatever the clocks of their writers said.

Each change tells what the tag pointed at before. Where the records do not fit together in the order of their times,
others that were made about then are tried in between: clocks of servers differ a little, and a writer may be slow
between the look at his clock and the change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, unique

from storage.digest import Digest

SKEW_MICROSECONDS = 60_000_000
"""By how much records may stand in the wrong order."""

NEIGHBOURS_MAX = 50
"""So many records are looked through for one that fits."""

STEPS_MAX = 10_000
"""So many attempts are made to find an order."""


@unique
class Why(Enum):
    """Why a tag has changed. The last three say that nobody was there when it did."""

    PUSH = "push"
    ROLLBACK = "rollback"
    RESTORE = "restore"
    DELETE = "delete"
    RETENTION = "retention"
    OBSERVED = "observed"
    """Found out later: by then, at the latest, it had changed."""
    IMPORTED = "imported"
    """Told by the index of a tag that another registry has written."""
    UNKNOWN = "unknown"
    """Its record is damaged. Never written."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Who has changed a tag, as the audit trail names them, and why."""

    who: str
    why: Why


PUSHED = Cause("", Why.PUSH)
OBSERVED = Cause("", Why.OBSERVED)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a tag at `time`, in microseconds since the epoch: None for `old` or `new` is a tag that is not there.

    What a damaged record cannot tell is `who` and `old`, which is None then.
    """

    time: int
    old: Digest | None
    new: Digest | None
    cause: Cause

    @property
    def seconds(self) -> float:
        """The time in seconds since the epoch."""
        return self.time / 1_000_000

    @property
    def is_observed(self) -> bool:
        """Whether it was only found out later."""
        return self.cause.why is Why.OBSERVED

    @property
    def is_damaged(self) -> bool:
        """Whether its record can't be read."""
        return self.cause.why is Why.UNKNOWN

    def follows(self, state: "State") -> bool:
        """Tell whether it may have been made to a tag that pointed there."""
        return self.is_damaged or isinstance(state, Unknown) or self.old == state


class Unknown:
    """What nobody knows of a tag."""


State = Digest | Unknown | None
UNKNOWN = Unknown()


def in_order(changes: Sequence[Change], *, before: State = UNKNOWN, current: State = UNKNOWN) -> list[Change]:
    """The changes, given by time, as they were made to a tag that pointed at `before`; without those told twice.

    `current` is what the tag points at now, as far as that is known.
    """
    found, state, clusters = list[Change](), before, _clusters(changes)
    for together in clusters:
        for change in _arranged(together, state, current if together is clusters[-1] else UNKNOWN):
            if change.new == state and not isinstance(state, Unknown):
                # Told twice: who observed it has missed the record of it by an instant.
                if change.is_observed or not found:
                    continue
                if found[-1].is_observed:
                    found[-1] = change
                    continue
            if not change.follows(state) and change.is_observed and _is_told(change, together):
                continue
            found.append(change)
            state = change.new
    return found


def filled(changes: Sequence[Change], *, before: State, current: State, now: int) -> list[Change]:
    """The changes, given in order, with those that must have been made and have no record, as observed.

    `current` is what the tag points at `now`, or nothing that is known.
    """
    found, state = list[Change](), before
    for change in changes:
        if not change.follows(state):
            assert not isinstance(state, Unknown), "whatever follows it"
            found.append(Change(change.time - 1, state, change.old, OBSERVED))
        found.append(change)
        state = change.new
    known = None if isinstance(state, Unknown) else state
    if not isinstance(current, Unknown) and current != known:
        found.append(Change(now, known, current, OBSERVED))
    return found


def _clusters(changes: Sequence[Change]) -> list[list[Change]]:
    """The changes in groups whose order may be another than that of their times."""
    clusters: list[list[Change]] = []
    for change in changes:
        if not clusters or change.time - clusters[-1][-1].time > SKEW_MICROSECONDS:
            clusters.append([])
        clusters[-1].append(change)
    return clusters


def _arranged(cluster: list[Change], state: State, end: State) -> Sequence[Change]:
    """A cluster in an order in which each change was made to what the one before has left, as far as there is one."""
    trimmed = [change for change in cluster if not (change.is_observed and _is_told(change, cluster))]
    # Where nothing is known of what was before, most likely nothing was.
    starts: list[State] = [None, UNKNOWN] if isinstance(state, Unknown) else [state, UNKNOWN]
    for start in starts:
        trails = [trail for each in (trimmed, cluster) if (trail := _trail(start, each)) is not None]
        if trails:
            return next((trail for trail in trails if trail[-1].new == end), trails[0])
    return cluster


def _trail(start: State, changes: Sequence[Change]) -> list[Change] | None:
    """All changes in an order that begins at `start` and fits; of several the one that is nearest to that by time."""
    if not changes:
        return None
    used, path, steps = [False] * len(changes), list[int](), 0
    untried = [_next(start, changes, used)]
    while untried:
        place = next(untried[-1], None)
        steps += 1
        if place is None:
            untried.pop()
            if path:
                used[path.pop()] = False
            continue
        if steps > STEPS_MAX + 2 * len(changes):
            return None
        used[place] = True
        path.append(place)
        if len(path) == len(changes):
            return [changes[each] for each in path]
        untried.append(_next(changes[place].new, changes, used))
    return None


def _next(state: State, changes: Sequence[Change], used: list[bool]) -> Iterator[int]:
    first = used.index(False)
    for place in range(first, min(first + NEIGHBOURS_MAX, len(changes))):
        if changes[place].time - changes[first].time > SKEW_MICROSECONDS:
            return
        if not used[place] and changes[place].follows(state):
            yield place


def _is_told(observed: Change, changes: Sequence[Change]) -> bool:
    return any(
        change.new == observed.new and not change.is_observed and abs(change.time - observed.time) <= SKEW_MICROSECONDS
        for change in changes
    )
