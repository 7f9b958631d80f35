"""`pierhead retention`: what the rules would drop and why, and dropping it now."""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from registry.audit.events import Event
from registry.audit.trails import AuditUnavailable
from registry.auth.globs import GlobError, Globs
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.opening import opened_store
from registry.cli.operator import operator_name
from registry.cli.scanning import COULD_NOT, run
from registry.cli.serve import Data
from registry.findings import printable
from registry.retention.plans import Plan, Untagged
from registry.retention.runs import Outcome, Retention
from registry.retention.verdicts import Verdict, format_seconds
from storage.retention import RetentionState

PIPE_COLUMNS = 240

Work = Callable[[Retention], Awaitable[int]]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Repository = Annotated[
    str | None, typer.Option("--repo", metavar="GLOB", help="Only these repositories, such as 'team/**' (all).")
]
Drops = Annotated[bool, typer.Option("--drops", help="Show only what is dropped.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

app = typer.Typer(
    help="Show what the rules of retention drop and why, and drop it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog=examples("retention plan --config /etc/pierhead.toml", "retention plan --repo 'team/**' --drops --json")
)
def plan(
    *,
    repo: Repository = None,
    drops: Drops = False,
    as_json: AsJson = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show what the rules would do now to each tag, and to each manifest without one, and which rule says so.

    Nothing is changed. Exit code: 0 shown, 2 usage, 3 it could not.
    """
    wanted = _globs("plan", repo)

    async def work(retention: Retention) -> int:
        state, shown = await retention.state(), Outcome()
        async for found in retention.plans(state, wanted=wanted, uncovered=not drops):
            _show(found, drops=drops, as_json=as_json)
            shown.add(found, tags=len(found.dropped_tags), manifests=len(found.dropped_manifests))
        if as_json:
            typer.echo(json.dumps({"summary": "planned", **shown.fields(), **_waiting(retention, state)}))
        else:
            typer.echo(f"planned: {_describe(shown)}")
            typer.echo(_waiting_text(retention, state))
        return 0

    _work("plan", data, config, work)


@app.command("run", epilog=examples("retention run --config /etc/pierhead.toml", "retention run --yes --json"))
def run_now(*, yes: Yes = False, as_json: AsJson = False, data: Data = None, config: Config = None) -> None:
    """Drop now what the rules drop, whether or not they have held for long enough for the server.

    Shows what goes and asks, unless told --yes. Serving and pushing may go on meanwhile. Exit code: 0 dropped, 1 there
    are problems, 2 usage, 3 it could not.
    """

    async def work(retention: Retention) -> int:
        if not yes:
            doomed = 0
            async for found in retention.plans(await retention.state()):
                _show(found, drops=True, as_json=False, to_stderr=as_json)
                doomed += len(found.dropped_tags) + len(found.dropped_manifests)
            if doomed and not (sys.stdin.isatty() and typer.confirm(f"Drop these {doomed}?", err=True)):
                _say("run", "nothing was dropped: answer y, or say --yes")
                return USAGE
        outcome = await retention.run_now()
        if as_json:
            typer.echo(json.dumps({"summary": "dropped", **outcome.fields()}))
        else:
            typer.echo(f"dropped: {_describe(outcome)}")
            for problem in outcome.problems:
                typer.echo(printable(problem), err=True)
        return int(bool(outcome.problems))

    _work("run", data, config, work)


@app.command(epilog=examples("retention status --config /etc/pierhead.toml", "retention status --json"))
def status(*, as_json: AsJson = False, data: Data = None, config: Config = None) -> None:
    """Show since when the rules hold, when the server drops by them, and what the last run has come to.

    Exit code: 0 shown, 2 usage, 3 it could not.
    """

    async def work(retention: Retention) -> int:
        state = await retention.state()
        if as_json:
            typer.echo(json.dumps({"last": dict(state.last), **_waiting(retention, state)}))
            return 0
        typer.echo(_waiting_text(retention, state))
        if not state.last:
            typer.echo("no run yet")
            return 0
        last = dict(state.last)
        at, carried_out = last.pop("at", 0.0), last.pop("carried_out", False)
        problems = last.pop("problems", [])
        typer.echo(f"last run {_time(at)}, {'carried out' if carried_out else 'planned only'}:")
        for name, count in last.items():
            typer.echo(printable(f"  {name.replace('_', ' ')}: {count}"))
        for problem in problems if isinstance(problems, list) else []:
            typer.echo(printable(f"  problem: {problem}"))
        return 0

    _work("status", data, config, work)


def _work(command: str, data: str | None, config: Path | None, work: Work) -> None:
    """Do a command's work on the store, as its owner, and end with the exit code."""
    from registry.asgi import CannotStart  # noqa: PLC0415  # --help needs nothing of it
    from registry.operations import Operations  # noqa: PLC0415  # as above

    settings, operator = load_or_exit(config, {"data": data}).settings, operator_name()
    if not settings.retention.rules:
        _say(command, "there are no rules: write [[retention.rules]] into the configuration, and name it with --config")
        raise typer.Exit(USAGE)

    async def opened() -> int:
        try:
            async with opened_store(settings, changes=command == "run") as store:

                async def record(event: Event) -> None:
                    await store.record(_by(event, operator))

                return await work(Operations(settings, store.driver).retention(record))
        except (AuditUnavailable, CannotStart) as error:
            _say(command, str(error))
            return COULD_NOT

    raise typer.Exit(run(f"retention {command}", settings.data, opened))


def _by(event: Event, operator: str) -> Event:
    return replace(event, actor=f"operator:{operator}")


def _globs(command: str, text: str | None) -> Callable[[str], bool]:
    if text is None:
        return lambda _repository: True
    try:
        return Globs.of_names([text]).match
    except GlobError as error:
        _say(command, str(error))
        raise typer.Exit(USAGE) from None


def _show(found: Plan, *, drops: bool, as_json: bool, to_stderr: bool = False) -> None:
    tags = [each for each in found.tags if not (drops and each.is_kept)]
    untagged = [each for each in found.untagged if not (drops and each.is_kept)]
    if as_json:
        for verdict in tags:
            image = verdict.image
            times = {"set": _time(image.since), "pulled": None if image.pulled is None else _time(image.pulled)}
            _print_json(found, verdict, tag=image.tag, digest=str(image.digest), **times)
        for each in untagged:
            _print_json(found, each, tag=None, digest=str(each.digest))
        return
    if not tags and not untagged:
        return
    table = Table("", "tag", "set", "why", "rule", title=found.repository, title_justify="left", box=None)
    for verdict in tags:
        row = [str(verdict.image.tag), _time(verdict.image.since), verdict.why, verdict.rule]
        table.add_row("keep" if verdict.is_kept else "drop", *map(printable, row))
    for each in untagged:
        row = [str(each.digest)[:19], "", each.why, each.rule]
        table.add_row("keep" if each.is_kept else "drop", *map(printable, row))
    console = Console(stderr=to_stderr, markup=False, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=to_stderr, markup=False, highlight=False, width=PIPE_COLUMNS)
    console.print(table)
    if found.problem:
        console.print(printable(f"no manifest without a tag is dropped: {found.problem}"))


def _print_json(found: Plan, each: Verdict | Untagged, **fields: str | None) -> None:
    told = {"repository": found.repository, **fields}
    typer.echo(json.dumps({**told, "kept": each.is_kept, "rule": each.rule, "why": each.why}))


def _waiting(retention: Retention, state: RetentionState) -> dict[str, object]:
    return {"rules_since": _time(state.since), "drops_from": _time(time.time() + retention.waits_seconds(state))}


def _waiting_text(retention: Retention, state: RetentionState) -> str:
    waits = retention.waits_seconds(state)
    if not waits:
        return f"the rules hold since {_time(state.since)}: the server drops by them at its next run"
    return (
        f"the rules hold since {_time(state.since)}: the server drops by them from {_time(time.time() + waits)}, "
        f"in {format_seconds(round(waits))}"
    )


def _describe(outcome: Outcome) -> str:
    return (
        f"{outcome.dropped_tags} tags and {outcome.dropped_manifests} manifests without a tag are dropped, "
        f"{outcome.kept_tags} and {outcome.kept_untagged} kept, in {outcome.repositories} repositories"
    )


def _time(seconds: object) -> str:
    with suppress(ValueError, OverflowError, OSError, TypeError):
        return datetime.fromtimestamp(float(str(seconds)), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(seconds)


def _say(command: str, text: str) -> None:
    typer.echo(f"pierhead retention {command}: {printable(text)}", err=True)
