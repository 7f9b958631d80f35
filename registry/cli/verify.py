"""`pierhead verify`: does the store keep its promises."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.repairs import make_rounds, parse_sources, told_counts
from registry.cli.scanning import COULD_NOT, Json, Notes, Report, parts, run, shown
from registry.cli.serve import Data
from registry.config import Settings
from registry.findings import Severity
from registry.repair.remotes import Remotes, opened
from registry.scan import Tally
from registry.stores import open_driver
from registry.verification import Verification

JOBS_MAX = 4

Quick = Annotated[bool, typer.Option("--quick", help="Do not read the blobs: look at names, links and sizes only.")]
Condemn = Annotated[
    bool, typer.Option("--condemn", help="Remember damaged blobs, so that clients are told to push them again.")
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Put right what can be, then say what is still wrong. Implies --condemn.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --repair: say what would be done, and do nothing.")]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="URL",
        help="With --repair: a registry to fetch what is damaged or missing from, such as https://USER@host. "
        "May be repeated.",
    ),
]
SourcePassword = Annotated[
    Path | None,
    typer.Option("--from-password-file", metavar="FILE", help="The password of the user in --from, in a file."),
]
SourceInsecure = Annotated[
    bool,
    typer.Option("--from-insecure", help="Take http:// in --from, and do not verify certificates."),
]


def verify(
    data: Data = None,
    config: Config = None,
    *,
    quick: Quick = False,
    condemn: Condemn = False,
    repair: Repair = False,
    dry_run: DryRun = False,
    sources: Sources = None,
    source_password: SourcePassword = None,
    source_insecure: SourceInsecure = False,
    as_json: Json = False,
    notes: Notes = False,
) -> None:
    """Look at everything in a store, hash every blob, and put right what is wrong if that is asked for.

    Serving and pushing may go on meanwhile; nothing is changed, unless --condemn or --repair is given. Exit code: 0
    nothing wrong, or nothing any more, 1 warnings only, 2 usage, 3 errors, or it could not look.
    """
    if not repair and (dry_run or sources):
        typer.echo(f"pierhead verify: {'--dry-run' if dry_run else '--from'} needs --repair", err=True)
        raise typer.Exit(USAGE)
    settings = load_or_exit(config, {"data": data}).settings
    report = Report(lambda: sys.stdout, as_json=as_json, notes=notes)
    jobs = 0 if quick else min(JOBS_MAX, len(os.sched_getaffinity(0)))
    targets = parse_sources(sources or [], insecure=source_insecure, password_file=source_password)

    async def work() -> int:
        if not repair:
            await _verify(settings, report, jobs=jobs, condemn=condemn)
        else:
            async with opened(targets, insecure=source_insecure) as remotes:
                await _repair(settings, report, remotes, jobs=jobs, dry=dry_run)
        if report.by_severity[Severity.ERROR]:
            return COULD_NOT
        return int(report.by_severity[Severity.WARNING] > 0)

    raise typer.Exit(run("verify", settings.data, work))


async def _verify(settings: Settings, report: Report, *, jobs: int, condemn: bool) -> None:
    made = parts(settings, report, condemn=condemn)
    verification = Verification(made)
    try:
        if not isinstance(settings.data, Path):
            await made.driver.start()  # a directory may be one that can't be written to
        async with shown(made.tally):
            await verification.run(jobs=jobs)
    finally:
        await made.driver.close()
    report.summary("verified", made.tally)


async def _repair(settings: Settings, report: Report, remotes: Remotes, *, jobs: int, dry: bool) -> None:
    driver, tally = open_driver(settings), Tally()
    rounds = make_rounds(settings, driver, remotes, report, tally, dry=dry)
    try:
        if not dry or not isinstance(settings.data, Path):
            await driver.start()
        async with shown(tally):
            for finding in await rounds.run(jobs=jobs):
                report.finding(finding)
    finally:
        await driver.close()
    report.summary("verified", tally, **told_counts(rounds))
