"""The first user of a registry, made at its first start."""

import secrets
from pathlib import Path

import typer

from registry.auth.htpasswd import HtpasswdError, UserExists, add_user, users
from registry.auth.passwords import hash_password
from registry.cli.configuration import USAGE
from registry.findings import printable

ADMIN = "admin"
PASSWORD_BYTES = 18


def init_admin(htpasswd: Path | None) -> None:
    """Make the user `admin` and print the password, if the file has no user yet; else do nothing.

    It may stand in a unit file for ever. Ends with USAGE if there is no file to write to, with 1 if it can't be.
    """
    if htpasswd is None:
        typer.echo("pierhead: --init-admin needs a file of users: add --htpasswd FILE", err=True)
        raise typer.Exit(USAGE)
    try:
        if htpasswd.exists() and users(htpasswd):
            return
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        add_user(htpasswd, ADMIN, hash_password(ADMIN, password))
    except UserExists:
        return  # by another server that was started at the same time
    except (HtpasswdError, OSError) as error:
        typer.echo(printable(f"pierhead: --init-admin: {error}"), err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"made the user {ADMIN} with the password {password}\n"
        f"It is not shown again. To change it: pierhead user passwd {ADMIN} --htpasswd {htpasswd}"
    )
