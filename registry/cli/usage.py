"""`pierhead usage`: what repositories and prefixes hold, and how much of their quotas that is."""

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.opening import opened_store
from registry.cli.scanning import run, shown
from registry.cli.serve import Data
from registry.config import Settings
from registry.errors import NameInvalid
from registry.findings import printable
from registry.names import parse_name
from registry.quantities import short_bytes
from registry.recounts import Held, Recounting, UsageReport
from registry.scan import Tally
from storage.drivers import Driver
from storage.errors import StorageUnavailable
from storage.usage import UsageStore

WIDTH_MIN = 100

Prefix = Annotated[str, typer.Argument(metavar="PREFIX", help="Only what lies at and below it, such as team/app.")]
Depth = Annotated[
    int, typer.Option("--depth", metavar="N", min=0, help="How many components below the prefix get a line each.")
]
Recount = Annotated[
    bool,
    typer.Option("--recount", help="Count now, and quotas with it. Else the last count is shown, if there is one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. `used` is what counts against the quota now, `held` what there was at the last count."""

    prefix: str
    held: Held
    limit: int | None
    used: int | None


def usage(
    prefix: Prefix = "",
    data: Data = None,
    config: Config = None,
    *,
    depth: Depth = 1,
    recount: Recount = False,
    as_json: Json = False,
) -> None:
    """Tell how many bytes repositories hold, and how much of their quotas that is.

    A line stands for a prefix: a repository and everything below it. A blob counts once for it, as unique if nobody
    outside links to it, else as shared. Without a count of earlier on, the store is walked through. Serving and pushing
    may go on meanwhile. Exit code: 0, 2 usage, 3 it could not look.
    """
    if prefix:
        try:
            parse_name(prefix)
        except NameInvalid as error:
            typer.echo(f"pierhead usage: {error.message}", err=True)
            raise typer.Exit(USAGE) from None
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        async with opened_store(settings, changes=False) as opened:
            report, rows = await _look(opened.driver, settings, prefix, depth=depth, recount=recount)
        if as_json:
            typer.echo(_as_json(report, rows))
        else:
            _print_table(report, rows)
        return 0

    raise typer.Exit(run("usage", settings.data, work))


async def _look(
    driver: Driver, settings: Settings, prefix: str, *, depth: int, recount: bool
) -> tuple[UsageReport, list[Row]]:
    from registry.operations import Operations  # noqa: PLC0415  # --help needs nothing of it

    operations = Operations(settings, driver)
    store, rules = operations.usage, operations.quota_rules
    report = None if recount else await _last(store)
    if report is None:
        tally = Tally()
        async with shown(tally):
            report = await Recounting(driver, tally).run(time.time())
        with contextlib.suppress(StorageUnavailable):  # it can be read all the same
            await store.put_report(report.to_json())
    shown_rows = [(prefix, report.held.get(prefix, Held())), *report.below(prefix, depth=depth)]
    if recount and (sweep := operations.usage_sweep()) is not None:
        for name in report.held:
            if name and rules.of_prefix(name) is not None:
                await sweep.count(name)
    rows = []
    for name, held in shown_rows:
        limit = rules.of_prefix(name) if name else None
        if limit is None:
            rows.append(Row(name, held, None, None))
            continue
        view = await store.view(name)
        rows.append(Row(name, held, limit.bytes, held.total if view.head is None else view.used))
    return report, rows


async def _last(store: UsageStore) -> UsageReport | None:
    text = await store.report()
    if text is None:
        return None
    try:
        return UsageReport.from_json(text)
    except ValueError:
        return None  # damaged, or of another version: counted anew


def _as_json(report: UsageReport, rows: Iterable[Row]) -> str:
    return json.dumps(
        {
            "counted": datetime.fromtimestamp(report.began, UTC).isoformat(timespec="seconds"),
            "prefixes": [
                {
                    "prefix": row.prefix,
                    "tags": row.held.tags,
                    "manifests": row.held.manifests,
                    "unique_bytes": row.held.unique,
                    "shared_bytes": row.held.shared,
                    "bytes": row.held.total,
                    "quota_bytes": row.limit,
                    "quota_used_bytes": row.used,
                }
                for row in rows
            ],
        }
    )


def _print_table(report: UsageReport, rows: Iterable[Row]) -> None:
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("PREFIX", overflow="fold")
    for title in ("TAGS", "MANIFESTS", "UNIQUE", "SHARED", "TOTAL", "QUOTA", "USED"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            printable(row.prefix) or "(everything)",
            str(row.held.tags),
            str(row.held.manifests),
            *map(short_bytes, (row.held.unique, row.held.shared, row.held.total)),
            "" if row.limit is None else short_bytes(row.limit),
            "" if row.limit is None or row.used is None else f"{row.used * 100 // row.limit} %",
        )
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, WIDTH_MIN)
    console.print(table)
    console.print(f"counted {datetime.fromtimestamp(report.began, UTC):%Y-%m-%d %H:%M:%S} UTC")
