"""`pierhead check-config`: what holds, and where it comes from, before a restart does."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import typer

from registry.cli.configuration import IN_THE_CLEAR, USAGE, Config, load_or_exit
from registry.cli.redirects import redirect_warnings
from registry.config import Settings
from registry.config_sources import key_paths
from registry.findings import printable
from registry.stores import BucketPlace

SECRETS = frozenset({("s3", "secret_key")})


def check_config(config: Config = None) -> None:
    """Check the configuration that `pierhead serve` would use, and print it.

    Exit code: 0 if it is valid, 2 if not. Each value is printed with what set it.
    """
    found = load_or_exit(config, {})
    for path in key_paths():
        value: object = found.settings
        for name in path:
            value = getattr(value, name)
        text = "set, and not shown" if path in SECRETS and value is not None else _shown(value)
        typer.echo(printable(f"{'.'.join(path)} = {text}  # {found.origins.get(path, 'default')}"))
    _check_files_or_exit(found.settings)
    for warning in _warnings(found.settings):
        typer.echo(f"pierhead: warning: {printable(warning)}", err=True)
    typer.echo("the configuration is valid")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path | BucketPlace):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(str(item)) for item in value)}]"
    return "unset" if value is None else str(value)


def _check_files_or_exit(settings: Settings) -> None:
    """Read the files that the settings name, as `serve` would; if one is wrong, say so and end with USAGE."""
    # Imported late: the other commands need nothing of it.
    from registry.app import check_files  # noqa: PLC0415
    from registry.asgi import CannotStart  # noqa: PLC0415

    try:
        check_files(settings)
    except CannotStart as error:
        typer.echo(f"pierhead: {printable(str(error))}", err=True)
        raise typer.Exit(USAGE) from None


def _warnings(settings: Settings) -> Iterable[str]:
    if settings.sends_passwords_in_the_clear:
        yield IN_THE_CLEAR
    yield from redirect_warnings(settings)
    data = settings.data
    if isinstance(data, BucketPlace):
        return
    there = next(path for path in (data.absolute(), *data.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        yield f"the data directory {data} can't be used: {there} is not a directory"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"the data directory {data} can't be written to: {there} does not let this user"
    elif not data.exists():
        yield f"the data directory {data} does not exist: pierhead serve will make it"
