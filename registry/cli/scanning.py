"""What adopt and verify share on the command line: who runs them, what they print, how far they are."""

import asyncio
import contextlib
import json
import logging
import os
import pwd
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import islice
from pathlib import Path
from typing import Annotated, TextIO

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from registry.cli.configuration import USAGE
from registry.cli.progress import Speed
from registry.config import Settings
from registry.findings import Finding, Problem, Severity, printable
from registry.hashing import Hasher
from registry.inspection import Inspection
from registry.rechecks import Rechecks
from registry.repair.steps import Outcome
from registry.scan import Parts, Scan, Tally
from registry.stores import Place as StorePlace
from registry.stores import open_driver
from storage import keys
from storage.blobs import BlobStore
from storage.drivers import Driver
from storage.errors import StorageError
from storage.filesystem.survey import survey
from storage.history import HistoryStore
from storage.places import is_object
from storage.removals import RemovalStore

COULD_NOT = 3
INTERRUPTED = 130
REFRESH_SECONDS = 0.2
LINE_SECONDS = 10.0
SURVEYED_MAX = 1000

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, the summary last.")]
Notes = Annotated[bool, typer.Option("--notes", help="List notes as well, such as garbage.")]


class Report:
    """Prints findings as they come, each once, and counts them."""

    def __init__(self, stream: Callable[[], TextIO], *, as_json: bool, notes: bool) -> None:
        self.by_severity: Counter[Severity] = Counter()
        self._by_problem: Counter[Problem] = Counter()
        self._stream = stream
        self._as_json = as_json
        self._notes = notes
        self._told: set[int] = set()

    def finding(self, finding: Finding) -> None:
        """Take a finding; one of the same kind about the same key is passed over."""
        identity = hash((finding.problem, finding.key))
        if identity in self._told:
            return
        self._told.add(identity)
        self.by_severity[finding.severity] += 1
        self._by_problem[finding.problem] += 1
        severity, problem, key = finding.severity.name.lower(), finding.problem, printable(finding.key)
        if self._as_json:
            self._print_json(finding=problem.slug, severity=severity, key=key, text=finding.text, remedy=problem.remedy)
        elif finding.severity > Severity.NOTE or self._notes:
            self.line(f"{severity}: {problem.slug}: {key}")
            self.line(f"    {finding.text}. To do: {problem.remedy}.")

    def outcome(self, outcome: Outcome, *, dry: bool) -> None:
        """Tell what was done about a finding, or would be, or why that did not succeed."""
        finding, word = outcome.finding, ("would repair" if dry else "repaired") if outcome.is_done else "not repaired"
        slug, key = finding.problem.slug, printable(finding.key)
        if self._as_json:
            self._print_json(**{word.replace(" ", "_"): slug}, key=key, text=printable(outcome.text))
        else:
            self.line(f"{word}: {slug}: {key}")
            self.line(f"    {printable(outcome.text)}")

    def summary(self, outcome: str, tally: Tally, **fields: object) -> None:
        """Print the last line: how it went, what was looked at, and what was found."""
        found = {severity.name.lower(): self.by_severity[severity] for severity in reversed(Severity)}
        if self._as_json:
            kinds = {
                problem.slug: count for problem, count in sorted(self._by_problem.items(), key=lambda i: i[0].slug)
            }
            self._print_json(summary=outcome, found=found, kinds=kinds, counts=dict(tally.counts), **fields)
            return
        for name, counts in fields.items():
            if isinstance(counts, dict) and counts:
                self.line(f"{name}: {', '.join(f'{count} {what}' for what, count in counts.items())}")
        self.line(f"looked at: {describe(tally)}")
        notes = [f"{count} {p.slug}" for p, count in self._by_problem.items() if p.severity is Severity.NOTE]
        if notes and not self._notes:
            self.line(f"notes, listed with --notes: {', '.join(notes)}")
        self.line(f"{outcome}: {', '.join(f'{count} {what}s' for what, count in found.items())}")

    def line(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream())

    def _print_json(self, **fields: object) -> None:
        self.line(json.dumps(fields))


def parts(settings: Settings, report: Report, *, condemn: bool) -> Parts:
    """Open the store and connect the parts; with `condemn`, damaged blobs are remembered: they are not served."""
    return parts_on(open_driver(settings), settings.data, report.finding, Tally(), condemn=condemn)


def parts_on(
    driver: Driver, data: StorePlace, report: Callable[[Finding], None], tally: Tally, *, condemn: bool
) -> Parts:
    """Connect the parts on an open store, as `parts` does; what is found goes to `report`."""

    def count(read: int) -> None:
        tally.counts["bytes hashed"] += read

    inspection = Inspection(
        driver,
        Hasher(driver, read=count),
        clock=time.time,
        condemn=BlobStore(driver).condemn if condemn else None,
    )
    rechecks = Rechecks(report)

    async def look_at_files() -> AsyncIterator[Finding]:
        if not isinstance(data, Path):
            return  # in a bucket there is nothing but objects
        odd = survey(str(data.absolute()), is_object=is_object)
        while batch := await asyncio.to_thread(list, islice(odd, SURVEYED_MAX)):
            for each in batch:
                yield Finding(Problem[each.oddity.name], each.key)

    return Parts(
        driver,
        inspection,
        Scan(driver, inspection, rechecks, tally, clock=time.time),
        RemovalStore(driver, clock=time.time, new_id=_new_id),
        HistoryStore(driver, time.time, _new_id),
        rechecks,
        tally,
        look_at_files,
    )


def _new_id() -> str:
    return secrets.token_hex(16)


def run(name: str, data: StorePlace, work: Callable[[], Coroutine[None, None, int]]) -> int:
    """Run a command's work as the owner of the store and return its exit code."""
    if isinstance(data, Path) and not data.is_dir():
        typer.echo(f"pierhead {name}: {data} is no directory: name the data directory with --data", err=True)
        return USAGE
    # What the stores log about each scar is what the command reports anyway.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        if isinstance(data, Path):
            _check(data)
            _become_owner(data)
        return asyncio.run(work())
    except (StorageError, OSError) as error:
        typer.echo(f"pierhead {name}: {printable(str(error))}", err=True)
        return COULD_NOT
    except KeyboardInterrupt:
        typer.echo(f"pierhead {name}: interrupted; run it again, what it has done so far stays", err=True)
        return INTERRUPTED


@contextlib.asynccontextmanager
async def shown(tally: Tally) -> AsyncIterator[None]:
    """Show on stderr how far a scan is: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    shower = asyncio.create_task(_bar(tally, console) if console.is_terminal else _lines(tally))
    try:
        yield
    finally:
        shower.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await shower


def describe(tally: Tally) -> str:
    """What was looked at so far, in words."""
    counts = [_bytes(name, count) if "bytes" in name else f"{count} {name}" for name, count in tally.counts.items()]
    return ", ".join(counts) or "nothing"


async def _bar(tally: Tally, console: Console) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
    )
    speed = Speed()
    # Findings go to stdout: above the bar where that is the same terminal, and untouched where it is not.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("", total=None, counts="", speed="")
        while True:
            total = None if tally.fraction is None else 1.0
            progress.update(
                task,
                description=tally.stage,
                total=total,
                completed=tally.fraction or 0,
                counts=describe(tally),
                speed=speed.text(tally, format_bytes),
            )
            await asyncio.sleep(REFRESH_SECONDS)


async def _lines(tally: Tally) -> None:
    speed = Speed()
    while True:
        speed.text(tally, format_bytes)
        await asyncio.sleep(LINE_SECONDS)
        share = "" if tally.fraction is None else f" {tally.fraction:.0%}"
        parts = [f"{tally.stage}{share}: {describe(tally)}", speed.text(tally, format_bytes)]
        typer.echo("; ".join(part for part in parts if part), err=True)


def format_bytes(count: int) -> str:
    """A number of bytes in the largest unit of which there is one, rounded down."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1 << 10:
            return f"{count} {unit}"
        count >>= 10
    return f"{count} TiB"


def _bytes(name: str, count: int) -> str:
    return f"{format_bytes(count)} {name.removesuffix('bytes').removeprefix('bytes').strip()}".strip()


def _check(data: Path) -> None:
    """Refuse a directory that is no store: most likely it is a wrong level of one."""
    if (data / keys.ROOT).is_dir() or (data / keys.OURS).is_dir():
        return
    for above in data.absolute().parents:
        if data.absolute().is_relative_to(above / "docker") and (above / keys.ROOT).is_dir():
            raise NotADirectoryError(f"{data} lies inside of a store: use --data {above}")
    raise FileNotFoundError(f"{data} is no store: there is neither {keys.ROOT} nor {keys.OURS} in it")


def _become_owner(data: Path) -> None:
    """Give up root for the owner of the store: what root makes, a server that is not root can't replace."""
    ours = data / keys.OURS
    owner = (ours if ours.is_dir() else data).stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    try:
        name = pwd.getpwuid(owner.st_uid).pw_name
    except KeyError:
        name = str(owner.st_uid)
    typer.echo(f"working as {name}, who owns the store", err=True)
