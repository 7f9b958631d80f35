"""Bytes that no repository links to: found while nothing is taken, and deleted when every link to them is gone."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import structlog

from registry.collector.listing import digests_below
from registry.collector.rules import CollectorStores, Rules
from registry.scan import LinkedDigests
from storage import keys
from storage.collected import Taken
from storage.digest import Digest
from storage.drivers import Stat
from storage.errors import NotFound, StorageRefused
from storage.runs import Run
from storage.unlinked import Noted, Since
from storage.walk import is_empty

BATCH_MIN, BATCH_FIRST, BATCH_MAX = 50, 200, 1000
"""So many blobs are announced at once. How many a disk deletes within the time that an announcement lasts shows."""

EASY_SECONDS, HARD_SECONDS = 0.3, 1.0
"""A batch that took less is followed by a larger one, one that took more by a smaller one."""

PIECE = 250

log = structlog.get_logger(__name__)


class Digests:
    """Many sha256 digests in 32 bytes each."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._sizes = array("q")

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, digest: Digest, size: int) -> None:
        """Take a digest in, and how many bytes it stands for."""
        self._raw += bytes.fromhex(digest.hex)
        self._sizes.append(size)

    def __iter__(self) -> Iterator[tuple[Digest, int]]:
        """Yield them in the order of digests."""
        order = sorted(range(len(self)), key=lambda place: self._raw[32 * place : 32 * place + 32])
        for place in order:
            yield Digest("sha256", self._raw[32 * place : 32 * place + 32].hex()), self._sizes[place]

    @property
    def size(self) -> int:
        """All bytes together."""
        return sum(self._sizes)


@dataclass(slots=True)
class Unlinked:
    """How many blobs there are, how many of them are garbage, and which of those may be deleted now.

    Of the others it is `noted` since when no link leads to them.
    """

    blobs: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    found: Digests = field(default_factory=Digests)
    noted: Noted = field(default_factory=Noted)


async def find_unlinked(
    stores: CollectorStores,
    rules: Rules,
    *,
    linked: LinkedDigests,
    held: LinkedDigests,
    trash: LinkedDigests,
    before: Since,
    now: float,
) -> Unlinked:
    """Look at all blobs. `held` are not to be deleted yet, and `trash` those among them that are garbage already.

    `before` is what an earlier look has noted. Whatever has taken the links, bytes stay for the trash window.
    """
    unlinked = Unlinked()
    for prefix in (keys.POINTERS, keys.BLOBS):
        below = prefix if prefix == keys.BLOBS else keys.pointer(keys.BLOBS)
        async for page in digests_below(stores.driver, below):
            await stores.pace.rest()
            for digest, found in page:
                unlinked.blobs += 1
                stores.tally.counts["blobs"] += 1
                if digest in linked:
                    continue
                noted = before.get(digest)
                since = now if noted is None else min(noted, now)
                if digest in trash:
                    unlinked.noted.add(digest, since)
                    continue
                # What a pointer takes is no matter of the blob.
                stat = await _stat(stores, digest, found if prefix == keys.BLOBS else None)
                if stat is None:
                    unlinked.blobs -= 1
                    continue
                unlinked.garbage += 1
                unlinked.garbage_bytes += stat.size
                await stores.pace.rest()
                old = min(now - rules.grace_seconds, now)
                if digest in held or stat.modified > old or since > now - rules.trash_seconds:
                    unlinked.noted.add(digest, since)
                    continue
                unlinked.found.add(digest, stat.size)
    return unlinked


async def delete_unlinked(
    stores: CollectorStores, run: Run, found: Digests, *, spared: set[str], clock: Callable[[], float]
) -> tuple[int, int]:
    """Delete bytes, unless somebody has come to rely on them; returns how many blobs, and how many bytes."""
    count = size = 0
    has_sources = not await is_empty(stores.driver, keys.SOURCES)
    has_damaged = not await is_empty(stores.driver, keys.DAMAGED)
    wanted = [(digest, each) for digest, each in found if str(digest) not in spared]
    start, many = 0, BATCH_FIRST
    while batch := wanted[start : start + many]:
        start += many
        await stores.pace.rest()
        began = clock()
        async with run.deleting(batch[0][0].hex, batch[-1][0].hex) as removal:
            fresh = await run.fresh()
            relied = fresh.blobs | fresh.manifests
            gone = [(digest, each) for digest, each in batch if str(digest) not in relied]
            if not gone:
                continue
            total = sum(each for _digest, each in gone)
            record = Taken(run.id, clock(), blobs=[str(digest) for digest, _each in gone], size=total)
            await stores.collected.add(record)
            for piece in _pieces(gone):
                removal.check_time()
                await stores.driver.delete_many([keys.blob(digest) for digest in piece], durable=False)
                count += len(piece)
            size += total
            if removal.is_late and (missed := await _missed(run, gone)):
                log.error("deleted bytes late", digests=sorted(missed)[:10], remedy="push these blobs again")
        many = _next(many, clock() - began)
        # Only hints, and notes about bytes that are gone.
        extra = [keys.blob_source(digest) for digest, _each in gone if has_sources]
        extra += [keys.damaged(digest) for digest, _each in gone if has_damaged]
        await stores.driver.delete_many(extra, durable=False)
        stores.tally.counts["blobs deleted"] = count
        stores.tally.fraction = count / len(wanted)
    await stores.driver.settle()
    return count, size


async def _missed(run: Run, gone: Iterable[tuple[Digest, int]]) -> set[str]:
    fresh = await run.fresh()
    return (fresh.blobs | fresh.manifests) & {str(digest) for digest, _each in gone}


def _next(many: int, seconds: float) -> int:
    """How many to announce next, after so many took that long."""
    if seconds < EASY_SECONDS:
        return min(BATCH_MAX, many * 2)
    return max(BATCH_MIN, many // 2) if seconds > HARD_SECONDS else many


def _pieces(gone: list[tuple[Digest, int]]) -> Iterator[list[Digest]]:
    for start in range(0, len(gone), PIECE):
        yield [digest for digest, _size in gone[start : start + PIECE]]


async def _stat(stores: CollectorStores, digest: Digest, found: Stat | None) -> Stat | None:
    try:
        return found or await stores.driver.stat(keys.blob(digest))
    except (NotFound, StorageRefused):
        return None
