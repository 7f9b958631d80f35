"""What the commands that read the configuration share: the option --config, and how errors are told."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from registry.config_sources import Configuration, ConfigurationError, load
from registry.findings import printable

USAGE = 2
"""The exit code for a configuration that is wrong, as for a command line that is."""

IN_THE_CLEAR = "passwords are sent in the clear: set tls.certificate, or listen behind a proxy that has one"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="A TOML file with settings. Unless given: PIERHEAD_CONFIG, else ./pierhead.toml if it exists.",
    ),
]


def load_or_exit(config: Path | None, options: Mapping[str, object]) -> Configuration:
    """Read the configuration; if it is wrong, say so, a line for each problem, and end with USAGE."""
    try:
        return load(options=options, environment=os.environ, file=config)
    except ConfigurationError as error:
        for problem in error.problems:
            typer.echo(f"pierhead: {printable(problem)}", err=True)
        raise typer.Exit(USAGE) from None
