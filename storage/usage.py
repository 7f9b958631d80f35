"""Usage: how many bytes the repositories at and below a prefix hold, known at any time without a walk or a lock.

There is an exact count of some time ago, with the list of all blobs that it counted, and an *addition* for each link
that was written since. An addition is written before its link, under a key of its own that tells size and digest: one
listing has them all, several of one blob count once, and none for a blob that was counted already. So what is told is
never too low; it is too high by what was deleted since, until the next count.

Additions are read before the count, and taken away only after a count has them: whatever comes between, each is seen
in at least one of the two.
"""

import contextlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import structlog

from storage import keys
from storage.counted_blobs import NO_BLOBS, CountedBlobs, fingerprint
from storage.digest import Digest
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, VersionMismatch
from storage.places import Kind, Place
from storage.walk import walk

HEAD_BYTES_MAX = 65536
COUNTED_BYTES_MAX = 1 << 30
REPORT_BYTES_MAX = 256 << 20
CACHE_BYTES_MAX = 64 << 20
ATTEMPTS_MAX = 5
PARSED_MAX = 16_384

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UsageHead:
    """A count: the name of the list that has its blobs, how many there are, and the bytes of all of them.

    `began` is when the links were last gone through, in seconds since the epoch, and `took` how long that took;
    `warned` the share of the quota, in percent, that was told to the operator. At `again`, if it is not 0, what was
    added and not found linked to will have settled: then it is time to look once more.
    """

    counted: str
    size: int
    blobs: int
    began: float
    took: float
    warned: int = 0
    again: float = 0.0

    def to_json(self) -> bytes:
        """The head as it is stored."""
        return json.dumps({each.name: getattr(self, each.name) for each in fields(self)}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "UsageHead":
        """Read a stored head. Raises ValueError if it is none."""
        try:
            head = cls(**json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        numbers: Sequence[object] = (head.size, head.blobs, head.began, head.took, head.warned, head.again)
        texts: Sequence[object] = (head.counted,)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int | float) for n in numbers):
            raise ValueError("a field is of another type")
        return head


@dataclass(frozen=True, slots=True)
class Addition:
    """A blob that was linked to at `time`, or was about to be: seconds since the epoch, size in bytes."""

    key: str
    time: float
    size: int
    blob: int


@dataclass(frozen=True, slots=True)
class UsageView:
    """What is known of a prefix. Without a `head` it was never counted; `version` is that of the head."""

    head: UsageHead | None
    version: str
    blobs: CountedBlobs
    additions: Sequence[Addition]
    is_whole: bool = True
    """False if the list of the counted blobs is lost: then additions count that may have been counted before."""

    @property
    def used(self) -> int:
        """How many bytes are held, each blob once."""
        added = {addition.blob: addition.size for addition in self.additions if addition.blob not in self.blobs}
        return (0 if self.head is None else self.head.size) + sum(added.values())

    def holds(self, canonical: Digest) -> bool:
        """Tell whether a blob was counted."""
        return fingerprint(canonical) in self.blobs


class UsageStore:
    """The counts and additions of all prefixes, and the report of the last count of everything."""

    def __init__(self, driver: Driver, *, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self._driver = driver
        self._clock = clock
        self._new_id = new_id
        self._lists: OrderedDict[str, CountedBlobs] = OrderedDict()
        self._lists_bytes = 0

    async def add(self, prefix: str, canonical: Digest, size: int) -> str:
        """Write down, durably, that a link to a blob is about to be written; returns the key of the addition."""
        time = f"{int(self._clock() * 1_000_000):016}"
        key = f"{keys.usage_additions(prefix)}{time}-{size}-{canonical.hex}-{self._new_id()}"
        await self._driver.create(key, b"")
        return key

    async def take_back(self, key: str) -> None:
        """Drop an addition whose link will not be written."""
        await self._driver.delete(key)

    async def view(self, prefix: str) -> UsageView:
        """Look what is known of a prefix now."""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            additions = [addition async for addition in self._additions(prefix)]
            head, version = await self._head(prefix)
            if head is None:
                return UsageView(None, version, NO_BLOBS, additions)
            blobs = await self._list(prefix, head)
            if blobs is not None:
                return UsageView(head, version, blobs, additions)
            if attempt == ATTEMPTS_MAX:  # not just replaced in between
                return UsageView(head, version, NO_BLOBS, additions, is_whole=False)
        raise AssertionError("unreachable")

    async def view_of_head(self, prefix: str) -> UsageView:
        """Look at the last count of a prefix alone, neither at its list nor at what was added since."""
        head, version = await self._head(prefix)
        return UsageView(head, version, NO_BLOBS, ())

    async def put(self, prefix: str, view: UsageView, head: UsageHead, blobs: CountedBlobs | None) -> bool:
        """Replace the count that `view` saw, and its list if `blobs` is given; tells whether nobody else did before.

        The name of the list is chosen here.
        """
        if blobs is not None:
            name = f"{int(self._clock()):010}-{self._new_id()}"
            await self._driver.create(keys.usage_counted(prefix, name), blobs.to_bytes())
            head = replace(head, counted=name, size=blobs.total, blobs=len(blobs))
        key, text = keys.usage_head(prefix), head.to_json()
        try:
            if view.version:
                await self._driver.replace(key, text, version=view.version)
            else:
                await self._driver.create(key, text)
        except (VersionMismatch, AlreadyExists):
            if blobs is not None:
                await self._driver.delete(keys.usage_counted(prefix, head.counted))
            return False
        if blobs is not None and view.head is not None:
            await self._driver.delete(keys.usage_counted(prefix, view.head.counted))
        return True

    async def drop(self, additions: Iterable[Addition]) -> None:
        """Drop additions that a count has taken in."""
        for addition in additions:
            await self._driver.delete(addition.key)

    def places(self) -> AsyncIterator[Place]:
        """Yield everything that is stored about prefixes."""
        return walk(self._driver, keys.USAGE)

    async def drop_lost_lists(self, prefix: str, lists: Iterable[str], *, older_than_seconds: float) -> None:
        """Drop those lists of counted blobs, by their names, that no head leads to."""
        head, _version = await self._head(prefix)
        for name in lists:
            written = int(name[:10]) if name[:10].isdecimal() else 0
            is_ours = head is not None and head.counted == name
            if not is_ours and self._clock() - written > older_than_seconds:
                await self._driver.delete(keys.usage_counted(prefix, name))

    async def forget(self, place: Place) -> None:
        """Drop something that `places` has told."""
        await self._driver.delete(place.key)

    async def forget_count(self, prefix: str, head: UsageHead) -> None:
        """Drop a count of nothing: whoever links to something meanwhile has left an addition, which stays."""
        await self._driver.delete(keys.usage_head(prefix))
        await self._driver.delete(keys.usage_counted(prefix, head.counted))

    async def put_report(self, text: bytes) -> None:
        """Store the report of a count of everything."""
        await self._driver.put(keys.USAGE_REPORT, text, durable=False)

    async def report(self) -> bytes | None:
        """The report of the last count of everything, if there was one."""
        with contextlib.suppress(NotFound):
            return (await self._driver.get(keys.USAGE_REPORT, bytes_max=REPORT_BYTES_MAX)).body
        return None

    async def _additions(self, prefix: str) -> AsyncIterator[Addition]:
        folder, after = keys.usage_additions(prefix), ""
        limit = self._driver.capabilities.page_entries
        while True:
            page = await self._driver.list(folder, after=after, limit=limit)
            for entry in page.entries:
                addition = _addition(entry.key, entry.key.removeprefix(folder))
                if addition is not None:
                    yield addition
            if not page.more:
                return
            after = page.entries[-1].key

    async def _head(self, prefix: str) -> tuple[UsageHead | None, str]:
        """The head, None if there is none that can be read; and its version, empty if there is nothing."""
        key = keys.usage_head(prefix)
        try:
            found = await self._driver.get(key, bytes_max=HEAD_BYTES_MAX)
        except NotFound:
            return None, ""
        try:
            return UsageHead.from_json(found.body), found.version
        except ValueError as error:
            log.error("damaged count of usage", key=key, reason=str(error), remedy="none: it is counted anew")
            return None, found.version

    async def _list(self, prefix: str, head: UsageHead) -> CountedBlobs | None:
        key = keys.usage_counted(prefix, head.counted)
        if key in self._lists:
            self._lists.move_to_end(key)
            return self._lists[key]
        try:
            text = (await self._driver.get(key, bytes_max=COUNTED_BYTES_MAX)).body
            blobs = CountedBlobs.from_bytes(text)
        except (NotFound, Corrupt, ValueError):
            return None
        if key in self._lists:  # two have read it at once
            return blobs
        self._lists[key] = blobs
        self._lists_bytes += blobs.memory_bytes
        while self._lists_bytes > CACHE_BYTES_MAX and len(self._lists) > 1:
            _key, dropped = self._lists.popitem(last=False)
            self._lists_bytes -= dropped.memory_bytes
        return blobs


@lru_cache(maxsize=PARSED_MAX)  # each push reads those of the last half hour again
def _addition(key: str, name: str) -> Addition | None:
    match name.split("-"):
        case [time, size, encoded, _id]:
            try:
                return Addition(key, int(time) / 1_000_000, int(size), int(encoded[:16], 16))
            except ValueError:
                return None
    return None


def is_removal_of_bytes(place: Place) -> bool:
    """Tell whether a removal may have taken links to bytes, and not only a tag."""
    return place.kind is Kind.REMOVAL and not (place.name and place.digest is None)
