"""`pierhead verify`: does the store keep its promises."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.configuration import Config, load_or_exit
from registry.cli.scanning import COULD_NOT, Json, Notes, Report, parts, run, shown
from registry.cli.serve import Data
from registry.findings import Severity
from registry.verification import Verification

JOBS_MAX = 4

Quick = Annotated[bool, typer.Option("--quick", help="Do not read the blobs: look at names, links and sizes only.")]
Condemn = Annotated[
    bool, typer.Option("--condemn", help="Remember damaged blobs, so that clients are told to push them again.")
]


def verify(
    data: Data = None,
    config: Config = None,
    *,
    quick: Quick = False,
    condemn: Condemn = False,
    as_json: Json = False,
    notes: Notes = False,
) -> None:
    """Look at everything in a store, and hash every blob.

    Serving and pushing may go on meanwhile; nothing is changed, unless --condemn is given. Exit code: 0 nothing
    wrong, 1 warnings only, 2 usage, 3 errors, or it could not look.
    """
    settings = load_or_exit(config, {"data": data}).settings
    report = Report(lambda: sys.stdout, as_json=as_json, notes=notes)

    async def work() -> int:
        made = parts(settings, report, condemn=condemn)
        verification = Verification(made)
        try:
            if not isinstance(settings.data, Path):
                await made.driver.start()  # a directory may be one that can't be written to
            async with shown(made.tally):
                await verification.run(jobs=0 if quick else min(JOBS_MAX, len(os.sched_getaffinity(0))))
        finally:
            await made.driver.close()
        report.summary("verified", made.tally)
        if report.by_severity[Severity.ERROR]:
            return COULD_NOT
        return int(report.by_severity[Severity.WARNING] > 0)

    raise typer.Exit(run("verify", settings.data, work))
