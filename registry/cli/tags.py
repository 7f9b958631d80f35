"""`pierhead tags`: what tags have pointed at, and the way back, on the store itself."""

import difflib
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.opening import opened_store
from registry.cli.operator import operator_name
from registry.cli.scanning import COULD_NOT, run
from registry.cli.serve import Data
from registry.errors import BadRequest, ManifestInvalid, NameInvalid, RegistryError
from registry.findings import printable
from registry.histories import Histories, State, Target, Way, told
from registry.manifests import Changes
from registry.names import RepositoryName, Tag, is_tag, parse_name, parse_tag
from registry.times import local_time, parse_time, utc_time
from storage.digest import Digest
from storage.tags import TagStore

REFUSED = 1
NEAR_MAX = 3
SHORT_HEX = 12
STATES_SHOWN = 30
WIDTH = 120
"""Of a table that goes into a file."""

Reference = Annotated[str, typer.Argument(metavar="REPOSITORY:TAG", help="Such as team/app:prod.", show_default=False)]
Repository = Annotated[str, typer.Argument(metavar="REPOSITORY", help="Such as team/app.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]

app = typer.Typer(
    help="Tell what tags have pointed at, and let them go back.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A store that a command works on."""

    tags: TagStore
    histories: Histories
    who: str
    record: Callable[[Event], Awaitable[None]]


Work = Callable[[Opened], Awaitable[int]]


@app.command("list", epilog=examples("tags list team/app --data /srv/images", "tags list team/app --deleted"))
def list_tags(
    repository: Repository,
    *,
    deleted: Annotated[bool, typer.Option("--deleted", help="Tags that were deleted as well.")] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the tags of a repository: where each points, and since when.

    Exit code: 0 listed, 1 there are none, 2 usage, 3 it could not.
    """
    name = _name_or_exit("list", repository)

    async def work(opened: Opened) -> int:
        times = await opened.histories.last_set(name)
        rows = []
        for tag in sorted({*filter(is_tag, await opened.tags.names(name)), *(times if deleted else ())}):
            digest = await opened.tags.current(name, tag)
            if deleted or digest is not None:
                rows.append((tag, digest, times.get(tag, {}).get(digest)))
        if not rows:
            _say("list", f"{name} has no tags: it may be misspelt, or of another store")
            return REFUSED
        if as_json:
            for tag, digest, since in rows:
                typer.echo(
                    json.dumps({"tag": tag, "digest": digest and str(digest), "time": since and utc_time(since)})
                )
        else:
            cells = [(tag, _short(digest), "-" if since is None else local_time(since)) for tag, digest, since in rows]
            _print(("tag", "digest", "since"), cells)
        return 0

    _work("list", data, config, work)


@app.command(
    epilog=examples("tags history team/app:prod --data /srv/images", "tags history team/app:prod --json --limit 500")
)
def history(
    reference: Reference,
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="At most so many.")] = (
        STATES_SHOWN
    ),
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Tell what a tag has pointed at: number 0 is now, 1 what was before the last change, and so on.

    Times are shown in the zone of this machine. Exit code: 0 told, 1 there never was such a tag, 2 usage, 3 it could
    not.
    """
    name, tag = _reference_or_exit("history", reference)

    async def work(opened: Opened) -> int:
        states, more = await opened.histories.states(name, tag, limit=limit)
        if as_json:
            for state in states:
                typer.echo(json.dumps(told(state)))
            return 0
        _print(("no", "digest", "since", "by", "why"), [_cells(state) for state in states])
        if more:
            typer.echo(f"and more: see --limit, which is {limit}", err=True)
        return 0

    _work("history", data, config, work, near=(name, tag))


@app.command(
    epilog=examples(
        "tags rollback team/app:prod --data /srv/images",
        "tags rollback team/app:prod --to 3 --dry-run",
        "tags rollback team/app:prod --to sha256:9c1e",
        "tags rollback team/app:prod --at 2026-11-01T12:00",
    )
)
def rollback(
    reference: Reference,
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="STATE", help="The number of a state, or its digest, or the start of that."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="What was current then; without a zone, in that of this machine."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    data: Data = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Let a tag point again where it pointed in an earlier state; without one, in the last that was another.

    It is as if that image were pushed again: everything that it needs has to be there, and the rollback is in the
    history itself. Servers may run meanwhile. Exit code: 0 done, 1 there is nothing to go back to, 2 usage, 3 it could
    not.
    """
    name, tag = _reference_or_exit("rollback", reference)
    target = _target_or_exit(to, at)

    async def work(opened: Opened) -> int:
        if dry_run:
            _told_way("would point", name, tag, await opened.histories.find(name, tag, target), as_json=as_json)
            return 0
        way = await _going(opened, EventKind.TAG_ROLLED_BACK, name, tag, target)
        _told_way("points", name, tag, way, as_json=as_json)
        return 0

    _work("rollback", data, config, work, near=(name, tag), changes=not dry_run)


@app.command(epilog=examples("tags restore team/app:prod --data /srv/images"))
def restore(reference: Reference, *, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """Bring back a tag that was deleted, to where it pointed last.

    Exit code: 0 done, 1 there is nothing to bring back, 2 usage, 3 it could not.
    """
    name, tag = _reference_or_exit("restore", reference)

    async def work(opened: Opened) -> int:
        way = await _going(opened, EventKind.TAG_RESTORED, name, tag, None)
        _told_way("points", name, tag, way, as_json=as_json)
        return 0

    _work("restore", data, config, work, near=(name, tag), changes=True)


async def _going(opened: Opened, kind: EventKind, name: RepositoryName, tag: Tag, target: Target | None) -> Way:
    """Go back, and write down what was done, also if it failed half-way."""
    changes, who = Changes(), opened.who
    try:
        if target is None:
            return await opened.histories.restore(name, tag, who=who, changes=changes)
        return await opened.histories.rollback(name, tag, target, who=who, changes=changes)
    finally:
        for moved, before in changes.tagged:
            old, new = ("" if each is None else str(each) for each in (before, changes.pushed))
            if old != new:
                await opened.record(Event(kind, actor=who, repository=name, reference=moved, old=old, new=new))


def _work(
    command: str,
    data: str | None,
    config: Path | None,
    work: Work,
    *,
    near: tuple[RepositoryName, Tag] | None = None,
    changes: bool = False,
) -> None:
    """Do a command's work on the store, as its owner, and end with the exit code."""
    from registry.asgi import CannotStart  # noqa: PLC0415  # --help needs nothing of it
    from registry.operations import Operations  # noqa: PLC0415  # as above

    settings = load_or_exit(config, {"data": data}).settings
    who = f"operator:{operator_name()}"  # asked before the command becomes the owner of the store

    async def opened() -> int:
        try:
            async with opened_store(settings, changes=changes) as store:
                operations = Operations(settings, store.driver)
                try:
                    return await work(Opened(operations.stores.tags, operations.histories, who, store.record))
                except BadRequest as error:
                    _say(command, error.message)
                    return REFUSED
                except RegistryError as error:
                    for message, _detail in error.lines:
                        _say(command, message)
                    if near is not None:
                        await _say_near(command, operations.stores.tags, operations.histories, *near)
                    return REFUSED
        except (AuditUnavailable, CannotStart) as error:
            _say(command, str(error))
            return COULD_NOT

    raise typer.Exit(run(f"tags {command}", settings.data, opened))


async def _say_near(command: str, tags: TagStore, histories: Histories, name: RepositoryName, tag: Tag) -> None:
    known = sorted({*await tags.names(name), *await histories.tags(name)})
    if tag in known:
        return
    if not known:
        _say(command, f"{name} has no tags at all: is its name right?")
    elif nearest := difflib.get_close_matches(tag, known, n=NEAR_MAX, cutoff=0.6):
        _say(command, f"did you mean {' or '.join(nearest)}?")


def _reference_or_exit(command: str, text: str) -> tuple[RepositoryName, Tag]:
    name, colon, tag = text.rpartition(":")
    if not colon or "@" in text:
        _say(command, f"{text}: expected REPOSITORY:TAG, such as team/app:prod")
        raise typer.Exit(USAGE)
    try:
        return _name_or_exit(command, name), parse_tag(tag)
    except ManifestInvalid as error:
        _say(command, f"{tag}: {error.message}")
        raise typer.Exit(USAGE) from None


def _name_or_exit(command: str, text: str) -> RepositoryName:
    try:
        return parse_name(text)
    except NameInvalid as error:
        _say(command, f"{text}: {error.message}")
        raise typer.Exit(USAGE) from None


def _target_or_exit(to: str | None, at: str | None) -> Target:
    try:
        if to is not None and at is not None:
            raise ValueError("say either --to or --at")
        if at is not None:
            return Target(seconds=parse_time(at, is_local=True))
        return Target() if to is None else Target.parse(to)
    except (BadRequest, ValueError) as error:
        _say("rollback", error.message if isinstance(error, BadRequest) else str(error))
        raise typer.Exit(USAGE) from None


def _told_way(verb: str, name: RepositoryName, tag: Tag, way: Way, *, as_json: bool) -> None:
    before = None if way.current is None else str(way.current)
    if as_json:
        state = way.state
        fields = {"name": name, "tag": tag, "state": state.number, "digest": str(state.digest), "previous": before}
        typer.echo(json.dumps(fields))
        return
    since = local_time(way.state.change.seconds)
    if before == str(way.state.digest):
        typer.echo(f"{name}:{tag} points at {before} already")
        return
    typer.echo(f"{name}:{tag} {verb} at {way.state.digest}, as in state {way.state.number}, of {since}")
    typer.echo(f"before: {before or 'nothing'}")


def _cells(state: State) -> tuple[str, ...]:
    change = state.change
    digest = _short(change.new)
    if change.new is not None and not state.is_held:
        digest += " (gone)"
    cause = change.cause
    return str(state.number), digest, local_time(change.seconds), cause.who or "-", cause.why.value


def _short(digest: Digest | None) -> str:
    return "deleted" if digest is None else f"{digest.algorithm}:{digest.hex[:SHORT_HEX]}"


def _print(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(printable, row))
    width = None if sys.stdout.isatty() else WIDTH
    Console(markup=False, highlight=False, width=width).print(table)


def _say(command: str, text: str) -> None:
    typer.echo(f"pierhead tags {command}: {printable(text)}", err=True)
