"""Stored blobs read again, to see whether they still hash to their digest."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from storage import keys
from storage.digest import Digest, RunningHash
from storage.drivers import Driver, Reader, Stat
from storage.errors import NotFound

IN_LOOP_BYTES_MAX = 1 << 16
"""Hashing that much takes less time than handing it to a thread."""
ATTEMPTS_MAX = 3


@dataclass(frozen=True, slots=True)
class Hashed:
    """One copy of a blob, told by size and time, and whether it is whole."""

    found: Stat
    is_whole: bool


class Hasher:
    """Holds one piece of a blob at a time. `read` is called with the number of bytes of each piece.

    With `pace`, which is awaited with the same number, there is no hurry: then what is read is not kept in caches.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        read: Callable[[int], None],
        pace: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._driver = driver
        self._read = read
        self._pace = pace

    async def check(self, canonical: Digest) -> Hashed | None:
        """Hash a blob; None if it is gone. Raises StorageUnavailable if it can't be read.

        A copy is only called damaged if it still lies there afterwards: a push may have replaced it.
        """
        checked: Hashed | None = None
        identity = ""
        for _attempt in range(ATTEMPTS_MAX):
            try:
                reader = await self._driver.open(keys.blob(canonical))
            except NotFound:
                return None
            try:
                if checked is not None and reader.identity == identity:
                    return checked
                identity = reader.identity
                is_whole = await self._hash(reader, canonical.algorithm) == canonical
                checked = Hashed(Stat(reader.size, reader.modified), is_whole)
            finally:
                await reader.close()
            if is_whole:
                return checked
        return checked

    async def _hash(self, reader: Reader, algorithm: str) -> Digest | None:
        """The digest of the bytes; None if some of them are missing: cut off under our eyes, or a part is gone."""
        running = RunningHash(algorithm)
        if self._pace is not None:
            reader.read_once()
        try:
            async for piece in reader.pieces(0, reader.size):
                await _add(running, piece)
                self._read(len(piece))
                if self._pace is not None:
                    await self._pace(len(piece))
        except NotFound:
            return None
        return running.digest()


async def _add(running: RunningHash, piece: bytes) -> None:
    if len(piece) <= IN_LOOP_BYTES_MAX:
        running.update(piece)
    else:
        await asyncio.to_thread(running.update, piece)
