"""`pierhead scrub`: what the background scrub has come to."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.configuration import Config, load_or_exit
from registry.cli.help import examples
from registry.cli.scanning import COULD_NOT, format_bytes, run
from registry.cli.serve import Data
from registry.config import Scrub, Settings
from registry.scrubbing import due
from registry.stores import open_driver
from registry.times import local_time
from storage import keys
from storage.blobs import BlobStore
from storage.digest import SHA256, Digest
from storage.drivers import Driver
from storage.errors import NotFound, StorageUnavailable
from storage.markers import DamagedMarkers
from storage.scrubs import SHARDS, Cursor, ScrubStore, ShardRecord

ALIVE_SECONDS = 120.0
"""A scrub whose cursor was moved since is at work; a large blob may take it longer."""

app = typer.Typer(
    help="Tell what the background scrub has read and found.", no_args_is_help=True, rich_markup_mode=None
)


@dataclass(frozen=True, slots=True)
class Status:
    """What the records of the scrub say. `damaged` are copies that lie there now."""

    shards: Mapping[str, ShardRecord]
    cursor: Cursor | None
    damaged: Sequence[Digest]
    now: float

    @property
    def unreadable(self) -> Sequence[Digest]:
        """Blobs that could not be read when their shard was, as far as they are named."""
        return [Digest(SHA256, encoded) for shard in self.shards.values() for encoded in shard.unreadable]

    @property
    def unreadable_count(self) -> int:
        """How many could not be read."""
        return sum(shard.unreadable_count for shard in self.shards.values())

    @property
    def is_clean(self) -> bool:
        """Whether nothing is damaged or unreadable, as far as is known."""
        return not self.damaged and not self.unreadable_count

    @property
    def oldest(self) -> tuple[str, float]:
        """The shard that was read the longest ago, and when: 0 if it never was."""
        oldest = min(SHARDS, key=self._ended)
        return oldest, self._ended(oldest)

    def _ended(self, shard: str) -> float:
        return self.shards[shard].ended if shard in self.shards else 0.0


@app.command("status", epilog=examples("scrub status --data /srv/images", "scrub status --json"))
def status(
    data: Data = None,
    config: Config = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell how far the scrub is, how long ago each part of the store was read, and what is damaged.

    The servers of the store scrub, see [scrub] in the configuration; this reads what they have written down. Exit
    code: 0 nothing is damaged as far as it was read, 2 usage, 3 something is damaged or unreadable, or it could not
    look.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        driver = open_driver(settings)
        try:
            if not isinstance(settings.data, Path):
                await driver.start()  # a directory may be one that can't be written to
            found = await look(driver)
        finally:
            await driver.close()
        typer.echo(_as_json(found, settings.scrub) if as_json else "\n".join(_as_text(found, settings)))
        return 0 if found.is_clean else COULD_NOT

    raise typer.Exit(run("scrub status", settings.data, work))


async def look(driver: Driver) -> Status:
    """Read the records of the scrub, and changes nothing."""
    store, blobs = ScrubStore(driver, clock=time.time), BlobStore(driver)
    damaged: list[Digest] = []
    async for digest in DamagedMarkers(driver).marked():
        try:
            if await blobs.is_condemned(digest, await driver.stat(keys.blob(digest))):
                damaged.append(digest)
        except StorageUnavailable:
            damaged.append(digest)
        except NotFound:
            continue
    return Status(await store.shards(), await store.cursor(), damaged, time.time())


def _as_text(found: Status, settings: Settings) -> list[str]:
    scrub, (oldest, ended) = settings.scrub, found.oldest
    verified = len(SHARDS) - due(found.shards, found.now, scrub.period_seconds)
    blobs, read = _totals(found)
    lines = [
        f"read within the last {_span(scrub.period_seconds)}: {verified} of {len(SHARDS)} parts of the store",
        f"when each was read last: {blobs} blobs, {format_bytes(read)}",
        f"read the longest ago: part {oldest}, {_ago(ended, found.now)}",
        _doing(found, scrub, verified),
    ]
    if found.damaged:
        lines.append(
            f"damaged, not served until pushed again, or repaired by pierhead verify --repair: {len(found.damaged)}"
        )
        lines += [f"    {digest}" for digest in found.damaged]
    if found.unreadable_count:
        lines.append(f"could not be read, check the disk, owners and modes: {found.unreadable_count}")
        lines += [f"    {digest}" for digest in found.unreadable]
    if found.is_clean:
        lines.append("damaged: none found")
    return lines


def _doing(found: Status, scrub: Scrub, verified: int) -> str:
    if not scrub.enabled:
        return "switched off: scrub.enabled is false"
    cursor = found.cursor
    if cursor is not None:
        part = f"in part {cursor.shard}, {cursor.found.blobs} blobs and {format_bytes(cursor.found.bytes)} of it done"
        is_alive = found.now - cursor.touched < ALIVE_SECONDS
        return f"now: {part}" if is_alive else f"stopped {_ago(cursor.touched, found.now)} {part}; goes on there"
    return "now: nothing is due" if verified == len(SHARDS) else "now: waits for a server, or has just begun a part"


def _as_json(found: Status, scrub: Scrub) -> str:
    oldest, ended = found.oldest
    blobs, read = _totals(found)
    cursor = found.cursor
    told = {
        "enabled": scrub.enabled,
        "period_seconds": scrub.period_seconds,
        "rate": scrub.rate,
        "parts": len(SHARDS),
        "parts_verified": len(SHARDS) - due(found.shards, found.now, scrub.period_seconds),
        "blobs": blobs,
        "bytes": read,
        "oldest": {"part": oldest, "read": ended or None},
        "current": None
        if cursor is None
        else {
            "part": cursor.shard,
            "after": cursor.after or None,
            "touched": cursor.touched,
            "blobs": cursor.found.blobs,
            "bytes": cursor.found.bytes,
        },
        "damaged": [str(digest) for digest in found.damaged],
        "unreadable": [str(digest) for digest in found.unreadable],
        "unreadable_count": found.unreadable_count,
    }
    return json.dumps(told)


def _totals(found: Status) -> tuple[int, int]:
    return sum(shard.blobs for shard in found.shards.values()), sum(shard.bytes for shard in found.shards.values())


def _ago(then: float, now: float) -> str:
    if not then:
        return "never"
    return f"{_span(max(now - then, 0))} ago ({local_time(then)})"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
