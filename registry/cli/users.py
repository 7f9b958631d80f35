"""`pierhead user`: the users of an htpasswd file."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from registry.auth.htpasswd import (
    BadUser,
    HtpasswdError,
    NoSuchUser,
    UserExists,
    add_user,
    check_user,
    remove_user,
    set_hash,
    users,
)
from registry.auth.passwords import WeakPassword, hash_password
from registry.cli.configuration import USAGE, Config, load_or_exit
from registry.cli.help import examples
from registry.findings import printable

REFUSED = 1
COULD_NOT = 3
STDIN_BYTES_MAX = 65536

User = Annotated[str, typer.Argument(metavar="USER", help="The user's name.", show_default=False)]
Htpasswd = Annotated[
    Path | None, typer.Option("--htpasswd", metavar="FILE", help="The file of users and passwords (auth.htpasswd).")
]
Stdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input, not a terminal.")]

app = typer.Typer(
    help="Add, change, remove and list the users of an htpasswd file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog=examples(
        "user add alice --htpasswd /etc/pierhead/htpasswd",
        "user add alice --htpasswd /etc/pierhead/htpasswd --password-stdin < password.txt",
    )
)
def add(user: User, htpasswd: Htpasswd = None, config: Config = None, *, password_stdin: Stdin = False) -> None:
    """Add a user, whose password is asked for twice and not shown. A running server knows it within a second or two.

    The file is made if it does not exist. Exit code: 0 added, 1 there is such a user, 2 usage or a password that can't
    be taken, 3 it could not.
    """
    file = _file(htpasswd, config)
    is_new = not file.exists()

    def work() -> None:
        check_user(user)
        if not is_new and any(user == name for name, _ in users(file)):
            raise UserExists(f"{file}: there is a user {user} already: pierhead user passwd sets the password")
        add_user(file, user, _new_hash(user, password_stdin=password_stdin))

    _run("add", work)
    typer.echo(f"added {printable(user)}", err=True)
    if is_new:
        typer.echo(f"made {file}, which its owner alone can read: give it to the user of the server", err=True)


@app.command(epilog=examples("user passwd alice --htpasswd /etc/pierhead/htpasswd"))
def passwd(user: User, htpasswd: Htpasswd = None, config: Config = None, *, password_stdin: Stdin = False) -> None:
    """Set the password of a user. The old one, and what clients have got for it, counts no more.

    Exit code: 0 set, 1 there is no such user, 2 usage or a password that can't be taken, 3 it could not.
    """
    file = _file(htpasswd, config)

    def work() -> None:
        if all(user != name for name, _ in users(file)):
            raise NoSuchUser(f"{file}: there is no user {user}")
        set_hash(file, user, _new_hash(user, password_stdin=password_stdin))

    _run("passwd", work)
    typer.echo(f"set the password of {printable(user)}", err=True)


@app.command(epilog=examples("user remove alice --htpasswd /etc/pierhead/htpasswd"))
def remove(user: User, htpasswd: Htpasswd = None, config: Config = None) -> None:
    """Remove a user.

    Exit code: 0 removed, 1 there is no such user, 2 usage, 3 it could not.
    """
    file = _file(htpasswd, config)
    _run("remove", lambda: remove_user(file, user))
    typer.echo(f"removed {printable(user)}", err=True)


@app.command("list", epilog=examples("user list --htpasswd /etc/pierhead/htpasswd"))
def list_users(htpasswd: Htpasswd = None, config: Config = None) -> None:
    """List the users, one a line, and after a tab why one can't log in.

    Exit code: 0 listed, 1 somebody can't log in, 2 usage, 3 it could not.
    """
    file = _file(htpasswd, config)
    found: list[tuple[str, str]] = []
    _run("list", lambda: found.extend(users(file)))
    for name, reason in found:
        typer.echo(f"{printable(name)}\t{reason}" if reason else printable(name))
    raise typer.Exit(REFUSED if any(reason for _, reason in found) else 0)


def _file(htpasswd: Path | None, config: Path | None) -> Path:
    """The file of users, as the command line or else the configuration has it."""
    found = load_or_exit(config, {"auth.htpasswd": htpasswd}).settings.auth.htpasswd
    if found is None:
        typer.echo("pierhead user: say which file: --htpasswd FILE, or auth.htpasswd in the configuration", err=True)
        raise typer.Exit(USAGE)
    return found


def _run(command: str, work: Callable[[], None]) -> None:
    """Do a command's work; if that can't be, say why in one line and end with the exit code."""
    try:
        work()
    except (BadUser, WeakPassword) as error:
        _end(command, str(error), USAGE)
    except (NoSuchUser, UserExists) as error:
        _end(command, str(error), REFUSED)
    except HtpasswdError as error:
        _end(command, str(error), COULD_NOT)


def _end(command: str, reason: str, code: int) -> None:
    typer.echo(f"pierhead user {command}: {printable(reason)}", err=True)
    raise typer.Exit(code)


def _new_hash(user: str, *, password_stdin: bool) -> str:
    return hash_password(user, _from_stdin() if password_stdin else _asked())


def _from_stdin() -> str:
    """All of standard input but for one line end, as docker login --password-stdin takes it."""
    text = sys.stdin.buffer.read(STDIN_BYTES_MAX)
    try:
        return text.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        raise WeakPassword("the password is not UTF-8") from None


def _asked() -> str:
    if not sys.stdin.isatty():
        raise WeakPassword("there is no terminal to ask for the password: use --password-stdin")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt="The same again", err=True))
