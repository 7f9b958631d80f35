"""The changes of one tag in the order in which they were made, whatever the clocks of their writers said.

Each change tells what the tag pointed at before. Where the records do not fit together in the order of their times,
others that were made about then are tried in between: clocks of servers differ a little, and a writer may be slow
between the look at his clock and the change.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, unique

from storage.digest import Digest

SKEW_MICROSECONDS = 60_000_000
"""By how much records may stand in the wrong order."""

NEIGHBOURS_MAX = 50
"""So many records are looked through for one that fits."""

MISPLACED_MAX = 5
"""So many records in a row may stand behind one that was made after them."""


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


def in_order(changes: Sequence[Change], *, before: State = UNKNOWN) -> list[Change]:
    """The changes, given by time, as they were made to a tag that pointed at `before`; without those told twice."""
    left, found, state = list(changes), list[Change](), before
    while left:
        chosen = [left[0]] if left[0].follows(state) else _path(state, left)
        for change in chosen:
            left.remove(change)
            if change.new == state and not isinstance(state, Unknown):
                # Told twice: who observed it has missed the record of it by an instant.
                if found and found[-1].is_observed and not change.is_observed:
                    found[-1] = change
                continue
            if not change.follows(state) and change.is_observed and _is_told(change, changes):
                continue
            found.append(change)
            state = change.new
    return found


def filled(changes: Sequence[Change], *, before: State, current: State, now: int) -> list[Change]:
    """What was observed by looking at the changes, in order: those that must have been made and have no record.

    `current` is what the tag points at `now`, or nothing that is known.
    """
    found, state = list[Change](), before
    for change in changes:
        if not change.follows(state):
            assert not isinstance(state, Unknown), "whatever follows it"
            found.append(Change(change.time - 1, state, change.old, Cause("", Why.OBSERVED)))
        state = change.new
    if not isinstance(current, Unknown) and current != (None if isinstance(state, Unknown) else state):
        found.append(Change(now, None if isinstance(state, Unknown) else state, current, Cause("", Why.OBSERVED)))
    return found


def _path(state: State, left: Sequence[Change]) -> list[Change]:
    """The changes ahead of the first that lead to it from `state`, and the first; it alone if there are none such."""
    first = left[0]
    near = [change for change in left[1:NEIGHBOURS_MAX] if change.time - first.time <= SKEW_MICROSECONDS]
    paths: list[tuple[State, list[Change]]] = [(state, [])]
    for _step in range(MISPLACED_MAX):
        longer: list[tuple[State, list[Change]]] = []
        for end, path in paths:
            for change in near:
                if change.old != end or change.is_damaged or change in path:
                    continue
                if change.new == first.old:
                    return [*path, change, first]
                longer.append((change.new, [*path, change]))
        paths = longer[:NEIGHBOURS_MAX]
    return [first]


def _is_told(observed: Change, changes: Sequence[Change]) -> bool:
    return any(
        change.new == observed.new and not change.is_observed and abs(change.time - observed.time) <= SKEW_MICROSECONDS
        for change in changes
    )
