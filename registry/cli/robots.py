"""`pierhead token`: the tokens of robots, in the store."""

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable
from registry.auth.globs import GlobError
from registry.auth.identities import Grant
from registry.auth.robots import RobotError, Robots, TooManyTokens, check_robot_name, parse_actions
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.opening import OpenedStore, opened_store
from registry.cli.operator import operator_name
from registry.cli.scanning import COULD_NOT, run
from registry.cli.serve import Data
from registry.findings import printable
from registry.quantities import parse_seconds
from storage.robots import RobotStore, RobotToken

REFUSED = 1
EXPIRES_SECONDS_MAX = 100 * 366 * 86400.0

Record = Callable[[EventKind, RobotToken], Awaitable[None]]
Work = Callable[[Robots, Record], Awaitable[int]]

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="The robot's name.", show_default=False)]
Repositories = Annotated[
    list[str],
    typer.Option(
        "--repo", metavar="GLOB", help="Repositories, such as 'team/**'. May be given again.", show_default=False
    ),
]
Allow = Annotated[
    str,
    typer.Option("--allow", metavar="ACTIONS", help="pull,push,overwrite,delete, or * for all.", show_default=False),
]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="After which time it ends, such as 12h or 90d (never).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Target = Annotated[str, typer.Argument(metavar="NAME|ID", help="A robot, or one token's id.", show_default=False)]

app = typer.Typer(
    help="Create, list and revoke the tokens of robots.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog=examples(
        "token create --name ci --repo 'team/**' --allow pull,push --expires 90d --data /srv/images",
        "token create --name mirror --repo '**' --allow pull --data /srv/images",
    )
)
def create(
    *, name: Name, repo: Repositories, allow: Allow, expires: Expires = None, data: Data = None, config: Config = None
) -> None:
    """Create a token and print it, once: what is stored is its hash.

    A robot may have two tokens at a time, so that one can take the place of the other. To push images, clients need
    pull as well. Exit code: 0 created, 1 the robot has two tokens, 2 usage, 3 it could not.
    """
    try:
        check_robot_name(name)
        actions = parse_actions([text.strip() for text in allow.split(",") if text.strip()])
        seconds = None if expires is None else _seconds(expires)
    except RobotError as error:
        _say("create", str(error))
        raise typer.Exit(USAGE) from None
    # Asked before the command becomes the owner of the store.
    grants, operator = [Grant(tuple(repo), actions)], operator_name()

    async def work(robots: Robots, record: Record) -> int:
        try:
            text, token = await robots.create(name, grants, expires_seconds=seconds, created_by=operator)
        except (RobotError, GlobError) as error:
            _say("create", str(error))
            return REFUSED if isinstance(error, TooManyTokens) else USAGE
        try:
            await record(EventKind.TOKEN_CREATED, token)
        except AuditUnavailable:
            await robots.revoke(token.id)
            raise
        typer.echo(f"created token {token.id} of {name}, which {_ends(token)}; it is not shown again", err=True)
        typer.echo(text)
        return 0

    _work("create", data, config, work)


@app.command("list", epilog=examples("token list --data /srv/images", "token list --json --data /srv/images"))
def list_tokens(*, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List tokens: name, id, what they allow, and when they end and were last used (to the hour).

    Exit code: 0 listed, 2 usage, 3 it could not.
    """

    async def work(robots: Robots, _record: Record) -> int:
        async for token in robots.list():
            typer.echo(_json(token) if as_json else _line(token))
        return 0

    _work("list", data, config, work)


@app.command(epilog=examples("token revoke ci --data /srv/images", "token revoke 3kTz9QxW0aBc --data /srv/images"))
def revoke(target: Target, data: Data = None, config: Config = None) -> None:
    """Revoke all tokens of a robot, or one by its id. A running server refuses them within two seconds.

    Exit code: 0 revoked, 1 there was none, 2 usage, 3 it could not.
    """

    async def work(robots: Robots, record: Record) -> int:
        found = await robots.revoke(target)
        for token in found:
            await record(EventKind.TOKEN_REVOKED, token)
            typer.echo(f"revoked token {token.id} of {token.name}", err=True)
        if not found:
            _say("revoke", f"there is no robot and no token {target}")
        return 0 if found else REFUSED

    _work("revoke", data, config, work)


def _work(command: str, data: str | None, config: Path | None, work: Work) -> None:
    """Do a command's work on the store, as its owner, and end with the exit code."""
    from registry.asgi import CannotStart  # noqa: PLC0415  # --help needs nothing of it

    settings, operator = load_or_exit(config, {"data": data}).settings, operator_name()

    async def opened() -> int:
        try:
            async with opened_store(settings, changes=command != "list") as store:
                return await work(Robots(RobotStore(store.driver)), partial(_record, store, operator))
        except (AuditUnavailable, CannotStart) as error:
            _say(command, str(error))
            return COULD_NOT

    raise typer.Exit(run(f"token {command}", settings.data, opened))


async def _record(store: OpenedStore, operator: str, kind: EventKind, token: RobotToken) -> None:
    """Write down in the audit trail, if there is one, what was done with a token. Raises AuditUnavailable."""
    grants = "; ".join(f"{','.join(grant.actions)} in {','.join(grant.repositories)}" for grant in token.grants)
    detail = {"robot": token.name, "token": token.id, "grants": grants}
    await store.record(Event(kind, actor=f"operator:{operator}", detail=detail))


def _say(command: str, text: str) -> None:
    typer.echo(f"pierhead token {command}: {printable(text)}", err=True)


def _seconds(text: str) -> float:
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise RobotError(f"--expires {text!r}: {error}") from None
    if not isinstance(seconds, float) or not 0 < seconds <= EXPIRES_SECONDS_MAX:
        raise RobotError(f"--expires {text!r}: expected a time above 0 and below a hundred years")
    return seconds


def _ends(token: RobotToken) -> str:
    return "does not expire" if token.expires is None else f"expires {_time(token.expires)}"


def _line(token: RobotToken) -> str:
    state = _ends(token) if token.is_live(time.time()) else f"has expired {_time(token.expires)}"
    used = "never used" if token.used is None else f"used {_time(token.used)}"
    allowed = "; ".join(f"{','.join(grant.actions)} in {' '.join(grant.repositories)}" for grant in token.grants)
    by = f" by {token.created_by}" if token.created_by else ""
    return printable(f"{token.name}  {token.id}  {allowed}  {state}, created {_time(token.created)}{by}, {used}")


def _json(token: RobotToken) -> str:
    return json.dumps(
        {
            "name": token.name,
            "id": token.id,
            "grants": [{"repositories": list(g.repositories), "actions": list(g.actions)} for g in token.grants],
            "created": _time(token.created),
            "created_by": token.created_by,
            "expires": None if token.expires is None else _time(token.expires),
            "expired": not token.is_live(time.time()),
            "used": None if token.used is None else _time(token.used),
        }
    )


def _time(seconds: float | None) -> str:
    """A time as RFC 3339 has it; what no date is, such as a damaged record holds, as it stands."""
    try:
        return datetime.fromtimestamp(seconds or 0, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
