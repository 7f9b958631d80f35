"""Tokens that were verified a moment ago: clients send one and the same with every request."""

from collections.abc import Callable
from hashlib import sha256
from typing import Generic, TypeVar

ENTRIES_MAX = 4096

T = TypeVar("T")


class TokenCache(Generic[T]):
    """What each verified token says, until it expires. Holds hashes of tokens, never a token.

    Only what was verified gets in, so that nobody can fill it who was not given that many tokens. When it is full the
    oldest entry makes room.
    """

    def __init__(self, *, clock: Callable[[], float], entries_max: int = ENTRIES_MAX) -> None:
        self._clock = clock
        self._entries_max = entries_max
        self._entries: dict[bytes, tuple[T, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str) -> T | None:
        """Return what a token says, or None if that has to be found out."""
        try:
            key = sha256(token.encode("ascii")).digest()
        except UnicodeEncodeError:
            return None
        found = self._entries.get(key)
        if found is None:
            return None
        value, expires = found
        if self._clock() >= expires:
            del self._entries[key]
            return None
        return value

    def put(self, token: str, value: T, *, expires: float) -> None:
        """Remember what a token says until `expires`, in seconds since the epoch."""
        while len(self._entries) >= self._entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[sha256(token.encode("ascii")).digest()] = (value, expires)

    def clear(self) -> None:
        """Forget everything: a key that some of it was verified with is not trusted any more."""
        self._entries.clear()
