"""`pierhead repo`: repositories as a whole, on the store itself."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.cli.opening import opened_store
from registry.cli.operator import operator_name
from registry.cli.scanning import COULD_NOT, run
from registry.cli.serve import Data
from registry.errors import DigestInvalid, ManifestInvalid, NameInvalid, RegistryError
from registry.findings import printable
from registry.manifests import Changes, Manifests
from registry.names import Reference, RepositoryName, parse_digest, parse_name, parse_tag
from registry.repositories import Deleted, Repositories, Summary
from storage.timelines import Cause, Why

REFUSED = 1

Record = Callable[[Event], Awaitable[None]]
Work = Callable[[Manifests, Repositories, Record], Awaitable[int]]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
Target = Annotated[
    str,
    typer.Argument(
        metavar="NAME[:TAG|@DIGEST]", help="A repository; or a tag, or a manifest of it.", show_default=False
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Force = Annotated[bool, typer.Option("--force", help="Delete also what is immutable.")]

app = typer.Typer(
    help="List and delete repositories.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list", epilog=examples("repo list --data /srv/images", "repo list --json --data s3://images/registry"))
def list_repositories(*, data: Data = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the repositories of the catalog, and how many tags and manifests each has.

    Exit code: 0 listed, 2 usage, 3 it could not.
    """

    async def work(_manifests: Manifests, repositories: Repositories, _record: Record) -> int:
        async for found in repositories.list():
            typer.echo(_json(found) if as_json else f"{found.name}  {found.tags} tags, {found.manifests} manifests")
        return 0

    _work("list", data, config, work)


@app.command(
    epilog=examples(
        "repo delete team/old --data /srv/images",
        "repo delete team/app:v1.2 --force --yes --data /srv/images",
    )
)
def delete(target: Target, *, yes: Yes = False, force: Force = False, data: Data = None, config: Config = None) -> None:
    """Delete a repository with everything in it, or one tag, or one manifest with its tags.

    Serving and pushing may go on meanwhile: what is pushed into the repository after this has begun stays. Bytes that
    no repository links to any more are taken by the collector. A repository that lies inside of this one stays. What is
    immutable is refused, unless forced. Run again, it goes on where it was cut off. Exit code: 0 deleted, 1 refused,
    or something was pushed meanwhile, 2 usage, 3 it could not.
    """
    try:
        name, reference = parse_target(target)
    except (NameInvalid, ManifestInvalid, DigestInvalid) as error:
        _say("delete", error.message)
        raise typer.Exit(USAGE) from None
    if not yes and not _confirmed(target):
        _say("delete", "nothing was deleted: answer y, or say --yes")
        raise typer.Exit(USAGE)
    operator = operator_name()

    async def work(manifests: Manifests, repositories: Repositories, record: Record) -> int:
        try:
            if reference is None:
                return await _delete_repository(repositories, name, record, operator=operator, force=force)
            return await _delete_reference(manifests, name, reference, record, operator=operator, force=force)
        except RegistryError as error:
            _say("delete", error.message)
            return REFUSED

    _work("delete", data, config, work)


def parse_target(text: str) -> tuple[RepositoryName, Reference | None]:
    """Read a repository, with a tag or digest behind it or none. Raises NameInvalid, ManifestInvalid, DigestInvalid."""
    name, at, digest = text.partition("@")
    if at:
        return parse_name(name), parse_digest(digest)
    name, colon, tag = text.partition(":")
    return parse_name(name), parse_tag(tag) if colon else None


async def _delete_repository(
    repositories: Repositories, name: RepositoryName, record: Record, *, operator: str, force: bool
) -> int:
    deleted, actor = Deleted(), f"operator:{operator}"
    try:
        await repositories.delete(name, force=force, deleted=deleted, cause=Cause(actor, Why.DELETE))
    finally:
        if deleted.is_gone or any(deleted.counts().values()):
            detail = {**deleted.told(), "forced": "yes" if force else "no"}
            await record(Event(EventKind.REPOSITORY_DELETED, actor=actor, repository=name, detail=detail))
    told = ", ".join(f"{count} {what}" for what, count in deleted.counts().items())
    if deleted.is_gone:
        typer.echo(f"deleted {name}: {told}")
        return 0
    typer.echo(f"deleted from {name}: {told}; what was pushed meanwhile is there")
    return REFUSED


async def _delete_reference(
    manifests: Manifests,
    name: RepositoryName,
    reference: Reference,
    record: Record,
    *,
    operator: str,
    force: bool,
) -> int:
    changes, actor = Changes(), f"operator:{operator}"
    try:
        await manifests.delete(name, reference, force=force, changes=changes, cause=Cause(actor, Why.DELETE))
    finally:
        for tag, before in changes.untagged:
            old = "" if before is None else str(before)
            await record(Event(EventKind.TAG_DELETED, actor=actor, repository=name, reference=tag, old=old))
            typer.echo(f"deleted the tag {name}:{tag}, which pointed at {before or 'nothing'}")
        if changes.deleted is not None:
            digest = str(changes.deleted)
            await record(Event(EventKind.MANIFEST_DELETED, actor=actor, repository=name, reference=digest))
            typer.echo(f"deleted the manifest {name}@{digest}")
    return 0


def _work(command: str, data: str | None, config: Path | None, work: Work) -> None:
    """Do a command's work on the store, as its owner, and end with the exit code."""
    from registry.asgi import CannotStart  # noqa: PLC0415  # --help needs nothing of it
    from registry.operations import Operations  # noqa: PLC0415  # as above

    settings = load_or_exit(config, {"data": data}).settings

    async def opened() -> int:
        try:
            async with opened_store(settings, changes=command != "list") as store:
                operations = Operations(settings, store.driver)
                return await work(operations.manifests, operations.repositories, store.record)
        except (AuditUnavailable, CannotStart) as error:
            _say(command, str(error))
            return COULD_NOT

    raise typer.Exit(run(f"repo {command}", settings.data, opened))


def _confirmed(target: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return typer.confirm(f"Delete {printable(target)} for good?", err=True)


def _json(found: Summary) -> str:
    return json.dumps({"name": found.name, "tags": found.tags, "manifests": found.manifests})


def _say(command: str, text: str) -> None:
    typer.echo(f"pierhead repo {command}: {printable(text)}", err=True)
