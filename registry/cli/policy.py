"""`pierhead policy`: what a policy file says, before somebody finds out."""

from pathlib import Path
from typing import Annotated

import typer

from registry.auth.identities import Action, Identity
from registry.auth.policy import DEFAULT_WITHOUT_FILE, Policy, PolicyError, parse_identity
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.errors import NameInvalid
from registry.findings import printable
from registry.names import parse_name

DENIED = 1
EXPLAIN_EXAMPLES = (
    "policy explain alice push team/app --policy policy.toml",
    "policy explain anonymous pull public/alpine --policy policy.toml",
    "policy explain workload:ci push acme/app --claim issuer=github --claim repository=acme/app --policy policy.toml",
)
CHECK_EXAMPLES = ("policy check policy.toml",)

policy = typer.Typer(
    name="policy",
    help="Check a policy file, and ask it who may do what.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def explain(
    who: Annotated[str, typer.Argument(metavar="WHO", help="alice, robot:ci, workload:NAME, anonymous, ...")],
    action: Annotated[Action, typer.Argument(metavar="ACTION", help="pull, push, overwrite, delete or admin.")],
    repository: Annotated[
        str | None, typer.Argument(metavar="REPOSITORY", help="The repository; for admin there is none.")
    ] = None,
    *,
    file: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="The policy file (auth.policy).")
    ] = None,
    config: Config = None,
    claim: Annotated[
        list[str] | None, typer.Option("--claim", metavar="NAME=TEXT", help="What the token of a workload claims.")
    ] = None,
) -> None:
    """Say whether somebody may do something, and which rule decides.

    Without a policy file it is what holds without one. A robot may do no more than its token says, which is not looked
    at here. Exit code: 0 allowed, 1 denied, 2 wrong usage or policy
    file.
    """
    identity = _identity_or_exit(who, claim or [])
    if action is not Action.ADMIN:
        _check_name_or_exit(action, repository)
    found = load_or_exit(config, {"auth.policy": file}).settings.auth.policy
    asked = DEFAULT_WITHOUT_FILE if found is None else load_policy_or_exit(found)
    decision = asked.decide(identity, action, repository)
    typer.echo(printable(f"{'allowed' if decision.allowed else 'denied'}: {decision.reason}"))
    raise typer.Exit(0 if decision.allowed else DENIED)


def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")]) -> None:
    """Check a policy file.

    Exit code: 0 if it is valid, 2 if not.
    """
    rules = len(load_policy_or_exit(file).rules)
    typer.echo(printable(f"{file}: ok, {rules} {'rule' if rules == 1 else 'rules'}"))


def load_policy_or_exit(file: Path) -> Policy:
    """Read a policy file; if it is wrong, say so in one line and end with USAGE."""
    try:
        return Policy.load(file)
    except PolicyError as error:
        raise _usage(str(error)) from None


def _identity_or_exit(who: str, claims: list[str]) -> Identity:
    found: dict[str, str] = {}
    for text in claims:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise _usage(f"--claim {text}: expected NAME=TEXT, such as repository=acme/app")
        found[name] = value
    try:
        return parse_identity(who, found)
    except ValueError as error:
        raise _usage(str(error)) from None


def _check_name_or_exit(action: Action, repository: str | None) -> None:
    if repository is None:
        raise _usage(f"{action.value} is asked of a repository: add its name")
    try:
        parse_name(repository)
    except NameInvalid as error:
        raise _usage(f"{repository}: {error.message}") from None


def _usage(problem: str) -> typer.Exit:
    typer.echo(f"pierhead: {printable(problem)}", err=True)
    return typer.Exit(USAGE)


policy.command("explain", epilog=examples(*EXPLAIN_EXAMPLES))(explain)
policy.command("check", epilog=examples(*CHECK_EXAMPLES))(check)
