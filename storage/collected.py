"""What the garbage collection has taken: written before anything goes, and kept as a log and as the way back.

As long as a record is in the trash window, the bytes of what it lists stay.
"""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from storage import keys
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound
from storage.places import Kind
from storage.walk import walk

RECORD_BYTES_MAX = 4 << 20
MICROSECONDS = 1_000_000
LINKS, BYTES = "links", "bytes"

Pair = tuple[str, str]
"""A digest and the canonical one that its bytes lie under, as text."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One batch: links of one repository, children before parents; or `blobs` whose bytes were deleted.

    `when` is in seconds since the epoch; `undone` too, if the links were put back. `types` are stored media types.
    """

    run: str
    when: float
    repository: str = ""
    layers: Sequence[Pair] = ()
    manifests: Sequence[Pair] = ()
    types: dict[str, str] = field(default_factory=dict)
    blobs: Sequence[str] = ()
    size: int = 0
    undone: float = 0.0
    name: str = ""

    def to_json(self) -> bytes:
        """The record as it is stored."""
        fields = {each: getattr(self, each) for each in self.__slots__ if each != "name"}
        return json.dumps({each: value for each, value in fields.items() if value}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes, name: str) -> "Taken":
        """Read a stored record. Raises ValueError if it is none."""
        try:
            fields = json.loads(text)
            layers, manifests = (_pairs(fields.pop(each, ())) for each in ("layers", "manifests"))
            for digest in fields.get("blobs", ()):
                Digest.parse(digest)
            return cls(**fields, layers=layers, manifests=manifests, name=name)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error


class CollectedStore:
    """The records of all runs, by time."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._count = 0

    async def add(self, taken: Taken) -> Taken:
        """Write down what is about to be taken, for Driver.settle to make durable; returns it with its name."""
        self._count += 1
        kind = BYTES if taken.blobs else LINKS
        name = f"{int(taken.when * MICROSECONDS):016d}.{taken.run}.{self._count:06d}.{kind}"
        await self._driver.put(keys.collected(name), taken.to_json(), durable=False)
        return replace(taken, name=name)

    async def rewrite(self, taken: Taken) -> None:
        """Change a record: less was taken than was said, or links of it were put back."""
        await self._driver.put(keys.collected(taken.name), taken.to_json(), durable=False)

    async def since(self, when: float, *, kind: str = "") -> AsyncIterator[Taken | None]:
        """Yield the records of `when` and later, by time, of links or of bytes; None for one that can't be read."""
        async for key, name in self._names():
            if _time(name) >= when and name.endswith(kind):
                try:
                    text = (await self._driver.get(key, bytes_max=RECORD_BYTES_MAX)).body
                    yield Taken.from_json(text, name)
                except (Corrupt, ValueError):
                    yield None
                except NotFound:
                    continue

    async def expire(self, before: float) -> int:
        """Forget what was taken before that; returns how many records there were."""
        old = [key async for key, name in self._names() if _time(name) < before]
        await self._driver.delete_many(old)
        return len(old)

    async def _names(self) -> AsyncIterator[tuple[str, str]]:
        async for place in walk(self._driver, keys.COLLECTED):
            if place.kind is Kind.COLLECTED:
                yield place.key, place.name


def _pairs(found: object) -> list[Pair]:
    if not isinstance(found, list | tuple):
        raise ValueError("it is no list")
    return [(str(Digest.parse(digest)), str(Digest.parse(canonical))) for digest, canonical in found]


def _time(name: str) -> float:
    number = name.partition(".")[0]
    return int(number) / MICROSECONDS if number.isdigit() else float("inf")
