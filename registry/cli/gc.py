"""`pierhead gc`: collect garbage, look what would go, put it back, and what has gone; `pierhead why`."""

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.opening import opened_store
from registry.cli.scanning import format_bytes, run, shown
from registry.cli.serve import Data
from registry.collector.background import LEASE
from registry.collector.collection import Collection
from registry.collector.reports import Outcome, Report, last_report
from registry.collector.undo import Undo
from registry.collector.why import Why
from registry.config import Settings
from registry.findings import printable
from registry.scan import Tally
from registry.times import local_time
from storage.blobs import BlobStore
from storage.collected import CollectedStore, Taken
from storage.digest import Digest
from storage.drivers import Driver
from storage.leases import LEASE_SECONDS, LeaseStore
from storage.runs import state_of

NOT_DONE = 1
GENTLE_SHARE = 0.1
POLITE = 10
"""How much nicer than others a collection by hand is: a server on the same machine gets the processor first."""

RUN_CHARACTERS = 8
LOOK_SECONDS = 1.0

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

app = typer.Typer(
    help="Collect garbage: what no tag, no history and no manifest leads to.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("plan", epilog=examples("gc plan --data /srv/images", "gc plan --json --data /srv/images"))
def plan(data: Data = None, config: Config = None, *, as_json: AsJson = False) -> None:
    """Look what a collection would take now, and take nothing.

    Exit code: 0 looked, 1 some repositories would be kept whole, 2 usage, 3 it could not look.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        async with opened_store(settings, changes=False) as store:
            tally = Tally()
            collection = _collection(settings, store.driver, tally, gentle=False)
            async with shown(tally):
                report = await collection.plan()
        for repository, manifests, layers in collection.garbage():
            if as_json:
                typer.echo(json.dumps({"repository": repository, "manifests": manifests, "layers": layers}))
            else:
                typer.echo(printable(f"{repository}: {manifests} manifests, {layers} links to blobs"))
        _show(report, as_json=as_json)
        return NOT_DONE if report.kept else 0

    raise typer.Exit(run("gc plan", settings.data, work))


@app.command("run", epilog=examples("gc run --data /srv/images", "gc run --gentle --data /srv/images"))
def collect(
    data: Data = None,
    config: Config = None,
    *,
    no_brake: Annotated[
        bool, typer.Option("--no-brake", help="Take also more than gc.brake_share of the store: see gc plan first.")
    ] = False,
    gentle: Annotated[bool, typer.Option("--gentle", help="Take a tenth of a processor at most.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect garbage now. Serving and pushing go on meanwhile, and go first where the processor is short.

    What is taken can be put back for gc.trash_seconds, see gc undo; only then its bytes go. Exit code: 0 collected, 1
    another process collects, the brake has stopped it, or something was kept that can't be read; 2 usage, 3 it could
    not.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        os.nice(POLITE)  # ahead of the threads that delete
        async with opened_store(settings, changes=False) as store:
            tally, reports = Tally(), list[Report]()

            async def once() -> None:
                reports.append(await _collection(settings, store.driver, tally, gentle=gentle).run(brake=not no_brake))

            async with shown(tally):
                if not await _leased(store.driver, once):
                    return NOT_DONE
        _show(reports[0], as_json=as_json)
        return 0 if reports[0].outcome == Outcome.DONE.value and not reports[0].kept else NOT_DONE

    raise typer.Exit(run("gc run", settings.data, work))


@app.command("status", epilog=examples("gc status --data /srv/images"))
def status(data: Data = None, config: Config = None, *, as_json: AsJson = False) -> None:
    """Tell whether a collection is under way, and what the latest one has come to.

    Exit code: 0 all is well or there was none yet, 1 the latest did not end well or kept repositories whole, 2 usage, 3
    it could not look.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        async with opened_store(settings, changes=False) as store:
            state, report = await state_of(store.driver, now=time.time()), await last_report(store.driver)
        if as_json:
            typer.echo(json.dumps({"running": state.run if state.is_on else None}))
        else:
            typer.echo(f"now: collection {state.run[:RUN_CHARACTERS]}" if state.is_on else "now: no collection")
        if report is None:
            return 0
        _show(report, as_json=as_json)
        return 0 if report.outcome == Outcome.DONE.value and not report.kept else NOT_DONE

    raise typer.Exit(run("gc status", settings.data, work))


@app.command(
    "undo",
    epilog=examples("gc undo team/app --data /srv/images", "gc undo --run 3f9c2a11 --data /srv/images"),
)
def undo(
    target: Annotated[str, typer.Argument(metavar="[REPOSITORY|DIGEST]", help="What to put back.")] = "",
    data: Data = None,
    config: Config = None,
    *,
    of_run: Annotated[str, typer.Option("--run", metavar="ID", help="Only what this run took, see gc log.")] = "",
    as_json: AsJson = False,
) -> None:
    """Put back what collections have taken: all of a repository or a run, or a manifest or blob with all it needs.

    It is young then, and goes again unless something leads to it when gc.grace_seconds are over. Exit code: 0 put back,
    1 there was nothing, or not all of its bytes are there; 2 usage, 3 it could not.
    """
    digest = _digest_or_exit(target) if ":" in target else None
    if not target and not of_run:
        typer.echo("pierhead gc undo: say what to put back: a repository, a digest, or --run ID", err=True)
        raise typer.Exit(USAGE)
    settings = load_or_exit(config, {"data": data}).settings

    def is_meant(taken: Taken) -> bool:
        return taken.run.startswith(of_run) and (not target or digest is not None or taken.repository == target)

    async def work() -> int:
        from registry.operations import Operations  # noqa: PLC0415  # --help needs nothing of it

        async with opened_store(settings, changes=False) as store:
            stores, _rules = Operations(settings, store.driver).collector(share=1.0)
            undoing = Undo(stores, BlobStore(store.driver), clock=time.time)

            async def once() -> None:
                await undoing.run(is_meant, digest)

            if not await _leased(store.driver, once):
                return NOT_DONE
        done = undoing.undone
        if as_json:
            typer.echo(json.dumps({"manifests": done.manifests, "layers": done.layers, "gone": done.gone}))
        else:
            typer.echo(f"put back: {done.manifests} manifests, {done.layers} links to blobs; bytes gone of {done.gone}")
        return NOT_DONE if done.gone or not done.manifests + done.layers else 0

    raise typer.Exit(run("gc undo", settings.data, work))


@app.command("log", epilog=examples("gc log --data /srv/images", "gc log --json --data /srv/images"))
def show_log(data: Data = None, config: Config = None, *, as_json: AsJson = False) -> None:
    """Tell what collections have taken within gc.log_seconds: a line for each manifest, link and blob.

    Exit code: 0 told, 1 some records are damaged, 2 usage, 3 it could not look.
    """
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        damaged = 0
        async with opened_store(settings, changes=False) as store:
            async for taken in CollectedStore(store.driver).since(0):
                damaged += taken is None
                if taken is not None:
                    _show_taken(taken, as_json=as_json)
        if damaged:
            typer.echo(f"pierhead gc log: {damaged} records are damaged", err=True)
        return NOT_DONE if damaged else 0

    raise typer.Exit(run("gc log", settings.data, work))


def why(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Of a manifest or a blob.", show_default=False)],
    data: Data = None,
    config: Config = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Tell what keeps a manifest or a blob, in each repository that has it; or what has become of it.

    Exit code: 0 something keeps it, 1 nothing does, 2 usage, 3 it could not look.
    """
    wanted = _digest_or_exit(digest)
    settings = load_or_exit(config, {"data": data}).settings

    async def work() -> int:
        from registry.operations import Operations  # noqa: PLC0415  # as above

        kept = 0
        async with opened_store(settings, changes=False) as store:
            stores, rules = Operations(settings, store.driver).collector(share=1.0)
            async for reason in Why(stores, rules, clock=time.time).tell(wanted):
                kept += reason.is_kept
                if as_json:
                    fields = {"repository": reason.repository, "kept": reason.is_kept, "why": reason.text}
                    typer.echo(json.dumps(fields))
                else:
                    typer.echo(printable(f"{reason.repository}: {reason.text}"))
        if not kept and not as_json:
            typer.echo("nothing keeps it")
        return 0 if kept else NOT_DONE

    raise typer.Exit(run("why", settings.data, work))


def _collection(settings: Settings, driver: Driver, tally: Tally, *, gentle: bool) -> Collection:
    from registry.operations import Operations  # noqa: PLC0415  # as above

    return Operations(settings, driver).collection(share=GENTLE_SHARE if gentle else 1.0, tally=tally)


async def _leased(driver: Driver, work: Callable[[], Awaitable[None]]) -> bool:
    """Do the work as the only one; False, after saying so, if another process is at it."""
    leases = LeaseStore(driver, new_id=lambda: secrets.token_hex(16))
    until = time.monotonic() + LEASE_SECONDS + 2 * LOOK_SECONDS
    while not await leases.run(LEASE, work):
        if time.monotonic() > until:
            typer.echo("pierhead gc: another process collects: see pierhead gc status", err=True)
            return False
        await asyncio.sleep(LOOK_SECONDS)  # it may have died: its lease is free after a while
    return True


def _show(report: Report, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(json.loads(report.to_json())))
        return
    for repository, reason in report.kept.items():
        typer.echo(printable(f"kept whole: {repository}: {reason}"), err=True)
    typer.echo(
        f"garbage: {report.garbage_manifests} of {report.manifests} manifests, {report.garbage_layers} links to blobs, "
        f"{report.garbage_blobs} of {report.blobs} blobs with {format_bytes(report.garbage_bytes)}"
    )
    if report.outcome != Outcome.PLANNED.value:
        typer.echo(
            f"taken: {report.taken_manifests} manifests, {report.taken_layers} links to blobs; "
            f"deleted: {report.deleted_blobs} blobs with {format_bytes(report.deleted_bytes)}"
        )
    told = f"{report.outcome}: run {report.run[:RUN_CHARACTERS]} at {local_time(report.started)}"
    seconds = max(report.ended - report.started, 0.0)
    typer.echo(printable(f"{told}, {seconds:.1f} seconds" + (f"; {report.reason}" if report.reason else "")))
    if report.outcome == Outcome.BRAKED.value:
        typer.echo("To do: look at pierhead gc plan; if that is right, pierhead gc run --no-brake.", file=sys.stderr)


def _show_taken(taken: Taken, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"name": taken.name, **json.loads(taken.to_json())}))
        return
    start = f"{local_time(taken.when)} {taken.run[:RUN_CHARACTERS]}"
    undone = f", put back at {local_time(taken.undone)}" if taken.undone else ""
    for what, pairs in (("manifest", taken.manifests), ("link to blob", taken.layers)):
        for digest, _canonical in pairs:
            typer.echo(printable(f"{start} {taken.repository} {what} {digest}: nothing led to it{undone}"))
    for digest in taken.blobs:
        typer.echo(f"{start} bytes {digest}: no repository linked to them")


def _digest_or_exit(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        typer.echo(f"pierhead: {printable(text)}: {error}", err=True)
        raise typer.Exit(USAGE) from None
