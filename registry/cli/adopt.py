"""`pierhead adopt`: complete what distribution does not write."""

import sys

import typer

from registry.adoption import Adoption
from registry.cli.configuration import Config, load_or_exit
from registry.cli.scanning import Json, Notes, Report, parts, run, shown
from registry.cli.serve import Data
from registry.findings import Severity
from storage.layout import check_layout


def adopt(data: Data = None, config: Config = None, *, as_json: Json = False, notes: Notes = False) -> None:
    """Build catalog, referrers, histories of tags and blob sources of a store that distribution has written to.

    Serving and pushing may go on meanwhile; it may be stopped and run again at any time. Exit code: 0 clean, 1
    adopted, with warnings or errors to look at, 2 usage, 3 it could not.
    """
    settings = load_or_exit(config, {"data": data}).settings
    report = Report(lambda: sys.stdout, as_json=as_json, notes=notes)

    async def work() -> int:
        made = parts(settings, report, condemn=True)
        adoption = Adoption(made)
        try:
            await made.driver.start()
            await check_layout(made.driver)
            async with shown(made.tally):
                await adoption.run()
        finally:
            await made.driver.close()
        changes = adoption.changes
        report.summary("adopted", made.tally, added=dict(changes.added), removed=dict(changes.removed))
        return int(any(report.by_severity[severity] for severity in (Severity.WARNING, Severity.ERROR)))

    raise typer.Exit(run("adopt", settings.data, work))
