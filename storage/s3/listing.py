"""Listings in byte order of whole keys, from stores that list so and from those that list directory by directory.

The protocol asks for byte order, in which `a-b/x` comes before `a/x`. A store that keeps objects in directories
lists `a/` first and then `a-b/`: the names of one directory are in byte order, without the slash. From such pages
the right order is made by holding a directory back until its *lower siblings* are through: the names that begin
with its own, followed by a character below the slash. A further call is needed only where a page ends before it
is known whether there are any.
"""

from bisect import bisect_right
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from storage.drivers import Entry, Page, Stat
from storage.s3.client import Bucket, Response
from storage.s3.failures import Refusal, is_too_long, refused

PAGE_MAX = 1000
LOOK_AHEAD = 64

_LAST = "\U0010ffff"
"""Sorts after every other character. UTF-8 sorts as code points do, so that strings can be compared as they are."""

_BELOW_SLASH = "."
"""The greatest character below the slash."""


async def list_in_byte_order(bucket: Bucket, prefix: str, *, after: str, limit: int, fold: bool) -> Page:
    """One page of a listing, from a store that lists as the protocol says."""
    entries: list[Entry] = []
    start = {"StartAfter": bucket.full(_sendable(_past_folded(prefix, after) if fold else after))}
    if not after or after < prefix:
        start = {}
    elif not after.startswith(prefix):
        return Page([], more=False)
    while True:
        wanted = min(PAGE_MAX, max(limit, 1) - len(entries))
        response = await _call(bucket, prefix, fold=fold, MaxKeys=wanted, **start)
        entries += [entry for entry in _entries(bucket, response) if entry.key > after]
        more = bool(response.get("IsTruncated"))
        if len(entries) >= limit or not more:
            return Page(entries[: max(limit, 0)], more=more or len(entries) > limit)
        start = {"ContinuationToken": str(response["NextContinuationToken"])}


async def list_from_directories(bucket: Bucket, prefix: str, *, after: str, limit: int, fold: bool) -> Page:
    """One page of a listing, from a store that lists directory by directory."""
    pages = _Pages(bucket, fold=fold, least=min(PAGE_MAX, max(limit, 0) + LOOK_AHEAD))
    entries: list[Entry] = []
    async for entry in _Walk(pages, fold=fold).after(prefix, after):
        if len(entries) >= limit:
            return Page(entries, more=True)
        entries.append(entry)
    return Page(entries, more=False)


async def listed(bucket: Bucket, prefix: str) -> AsyncIterator[dict[str, Any]]:
    """Everything below a prefix, as the store tells it and in the store's order: name, size, time, entity tag."""
    parameters: dict[str, str] = {}
    while True:
        response = await bucket.ask("list_objects_v2", "", Prefix=bucket.full(prefix), **parameters)
        for found in response.get("Contents", []):
            yield found
        if not response.get("IsTruncated"):
            return
        parameters = {"ContinuationToken": str(response["NextContinuationToken"])}


async def lists_in_byte_order(bucket: Bucket, prefix: str, expected: list[str]) -> bool:
    """Tell in which of the two orders a store lists what lies below a prefix."""
    response = await _call(bucket, prefix, fold=False, MaxKeys=PAGE_MAX)
    found = [bucket.own(each["Key"]) for each in response.get("Contents", [])]
    return [key for key in found if key in expected] == sorted(expected)


@dataclass(frozen=True, slots=True)
class _Range:
    """What is known to lie after `low` and up to `high`, in the order of directories."""

    prefix: str
    low: list[str]
    high: list[str] | None
    places: list[list[str]]
    keys: list[str]


class _Pages:
    """Asks for the next key after a place, and remembers the pages that came."""

    def __init__(self, bucket: Bucket, *, fold: bool, least: int) -> None:
        self._bucket = bucket
        self._fold = fold
        self._least = least
        self._ranges: list[_Range] = []
        self.stats: dict[str, Stat] = {}

    async def next(self, prefix: str, low: str) -> str | None:
        """The first key with that prefix after a place, in the order of directories."""
        place = low.split("/")
        for known in self._ranges:
            if prefix.startswith(known.prefix) and known.low <= place and (not known.high or place < known.high):
                index = bisect_right(known.places, place)
                found = known.keys[index] if index < len(known.keys) else None
                return found if found is not None and found.startswith(prefix) else None
        return await self._ask(prefix, low, place)

    async def _ask(self, prefix: str, low: str, place: list[str]) -> str | None:
        start = {}
        if low > prefix:
            # After an object of that name comes a directory of that name, which such a store passes over.
            inside = "" if low.endswith(("/", _LAST)) else "/\x01" if self._fold else "/"
            start = {"StartAfter": self._bucket.full(_sendable(low) + inside)}
        response = await _call(self._bucket, prefix, fold=self._fold, MaxKeys=self._least, **start)
        self._least = PAGE_MAX
        entries = _entries(self._bucket, response)
        self.stats |= {entry.key: entry.found for entry in entries if entry.found is not None}
        found = {self._folded(prefix, entry.key) for entry in entries}
        keys = sorted((key for key in found if key.split("/") > place), key=lambda key: key.split("/"))
        more = bool(response.get("IsTruncated")) and bool(keys)
        places = [key.split("/") for key in keys]
        high = places[-1] if more else None
        self._ranges.append(_Range(prefix, place, high, places, keys))
        return keys[0] if keys else None

    def _folded(self, prefix: str, key: str) -> str:
        """The entry that a key is folded into: a store that begins inside a directory folds one level too low."""
        name, slash, _rest = key.removeprefix(prefix).partition("/")
        return f"{prefix}{name}{slash}" if self._fold else key


class _Walk:
    """Gives entries in byte order."""

    def __init__(self, pages: _Pages, *, fold: bool) -> None:
        self._pages = pages
        self._fold = fold

    async def after(self, top: str, after: str) -> AsyncIterator[Entry]:
        """Everything below `top` whose key is greater than `after`."""
        if after and after > top and not after.startswith(top):
            return
        name, slash, _rest = after.removeprefix(top).partition("/") if after > top else ("", "", "")
        if not name:
            async for entry in self._run(top, top, _any):
                yield entry
            return
        low = top + name
        if slash:
            if not self._fold:
                async for entry in self.after(f"{low}/", after):
                    yield entry
            low += _BELOW_SLASH + _LAST
        # Directories whose lower siblings we are among: they come later, but the store lists them before.
        for end in range(len(name) - 1, 0, -1):
            if name[end] < "/":
                holder = name[:end]
                async for entry in self._run(top, low, _lower(holder)):
                    yield entry
                async for entry in self._directory(f"{top}{holder}/"):
                    yield entry
                low = top + holder + _BELOW_SLASH + _LAST
        async for entry in self._run(top, low, _any):
            yield entry

    async def _run(self, top: str, low: str, belongs: Callable[[str], bool]) -> AsyncIterator[Entry]:
        """Everything below `top`, from a place on, as long as the names belong to it."""
        while (key := await self._pages.next(top, low)) is not None:
            name, slash, _rest = key.removeprefix(top).partition("/")
            if not belongs(name):
                return
            if not slash:
                yield Entry(key, found=self._pages.stats.get(key))
                low = key
                continue
            directory = f"{top}{name}/"
            async for entry in self._run(top, directory + _LAST, _lower(name)):
                yield entry
            async for entry in self._directory(directory):
                yield entry
            low = top + name + _BELOW_SLASH + _LAST

    async def _directory(self, directory: str) -> AsyncIterator[Entry]:
        if self._fold:
            top = directory[: directory.rstrip("/").rfind("/") + 1]
            found = await self._pages.next(top, directory.removesuffix("/"))
            if found == directory:
                yield Entry(directory, is_prefix=True)
            return
        async for entry in self._run(directory, directory, _any):
            yield entry


def _any(_name: str) -> bool:
    return True


def _lower(directory: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(directory) and len(name) > len(directory) and name[len(directory)] < "/"


def _past_folded(prefix: str, after: str) -> str:
    """The place after everything that is folded into one entry with `after`."""
    name, slash, _rest = after.removeprefix(prefix).partition("/")
    return f"{prefix}{name}/{_LAST}" if after.startswith(prefix) and slash else after


def _sendable(place: str) -> str:
    """A place that can be sent: half a surrogate pair is not a character, but it sorts like one."""
    for index, character in enumerate(place):
        if "\ud800" <= character <= "\udfff":
            return f"{place[:index]}\ud7ff{_LAST}"
    return place


async def _call(bucket: Bucket, prefix: str, *, fold: bool, **parameters: object) -> Response:
    if fold:
        parameters["Delimiter"] = "/"
    try:
        return await bucket.call("list_objects_v2", "", Prefix=bucket.full(prefix), **parameters)
    except Refusal as error:
        if error.status in {400, 404} and is_too_long(prefix) and error.code != "NoSuchBucket":
            return {}
        raise refused(error, prefix) from error


def _stat(found: dict[str, Any]) -> Stat | None:
    """Size and time as a listing tells them; of an object that is read elsewhere it tells nothing."""
    try:
        return Stat(int(found["Size"]), found["LastModified"].timestamp())
    except (KeyError, ValueError, AttributeError):
        return None


def _entries(bucket: Bucket, response: Response) -> list[Entry]:
    objects = [Entry(bucket.own(found["Key"]), found=_stat(found)) for found in response.get("Contents", [])]
    folded = [Entry(bucket.own(found["Prefix"]), is_prefix=True) for found in response.get("CommonPrefixes", [])]
    # An object whose name ends in a slash is a directory that some tool has made visible: no key of ours.
    entries = [entry for entry in objects if not entry.key.endswith("/")] + folded
    return sorted(entries, key=lambda entry: entry.key)
