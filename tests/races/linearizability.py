"""A checker: tells whether a history of calls on a register can have happened one after the other.

The search of Wing and Gong with the memory of Lowe ("Testing for linearizability", 2017): take the calls one by
one in any order that respects real time, and forget no configuration (the calls taken, the register's value)
that has been tried.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["put", "again", "get", "delete", "seen"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call on one register, with the instants (any clock) when it was sent and when its answer was there.

    put: `value` was written. again: it may have been written, or not. get: `value` was read, None for nothing.
    delete: `value` is "deleted", or None when there was nothing. seen: a listing that showed the register (`value`
    "present") or did not (None).
    """

    kind: Kind
    value: str | None
    start: int
    end: int

    def apply(self, state: str | None) -> tuple[bool, str | None]:
        """Whether the call may be answered as it was in this state, and the state that it leaves."""
        match self.kind:
            case "put" | "again":
                return True, self.value
            case "get":
                return self.value == state, state
            case "delete":
                return (self.value is None) == (state is None), None
            case "seen":
                return (self.value is None) == (state is None), state


def is_linearizable(history: Sequence[Call]) -> bool:
    """Tell whether a history of one register, which holds nothing at first, is linearizable."""
    calls = sorted(history, key=lambda call: call.start)
    everything = (1 << len(calls)) - 1
    tried: set[tuple[int, str | None]] = set()
    pending: list[tuple[int, str | None]] = [(0, None)]
    while pending:
        taken, state = pending.pop()
        if taken == everything:
            return True
        if (taken, state) in tried:
            continue
        tried.add((taken, state))
        pending.extend(_next(calls, taken, state))
    return False


def _next(calls: Sequence[Call], taken: int, state: str | None) -> list[tuple[int, str | None]]:
    # Next can be whatever began before any call that is still open has ended.
    found: list[tuple[int, str | None]] = []
    first_end: int | None = None
    index = (~taken & (taken + 1)).bit_length() - 1  # the first that is not taken
    while index < len(calls):
        call = calls[index]
        if first_end is not None and call.start > first_end:
            break
        if not taken >> index & 1:
            possible, after = call.apply(state)
            if possible:
                found.append((taken | 1 << index, after))
            if call.kind == "again":
                found.append((taken | 1 << index, state))
            first_end = call.end if first_end is None else min(first_end, call.end)
        index += 1
    return found
