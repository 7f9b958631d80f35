"""`pierhead serve`: serve a data directory."""

from pathlib import Path
from typing import Annotated

import typer

from registry.cli.configuration import Config, load_or_exit
from registry.logs import set_up_logs

Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="ADDRESS", help="host:port, [v6]:port, :port or unix:/path (127.0.0.1:5000)."),
]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="The data directory (./data).")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Worker processes (one per core).")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="PATH", help="A path before /v2/, such as /registry.")]
AllowAnonymous = Annotated[
    bool | None,
    typer.Option("--allow-anonymous", help="Listen also where other machines reach it, without authentication."),
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error (info).")
]
LogFormat = Annotated[str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json (text).")]


def serve(
    listen: Listen = None,
    data: Data = None,
    workers: Workers = None,
    config: Config = None,
    prefix: Prefix = None,
    *,
    allow_anonymous: AllowAnonymous = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Serve the registry until SIGTERM or Ctrl-C.

    Nothing has to be given. What can be configured beyond these options stands in
    docs/reference/configuration.md; each key is also a variable PIERHEAD_... of the environment.

    Exit code: 0 after a stop that was asked for, 1 if serving could not begin or go on, 2 for wrong usage or
    configuration.
    """
    options = {
        "listen": listen,
        "data": data,
        "workers": workers,
        "prefix": prefix,
        "allow_anonymous": allow_anonymous or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = load_or_exit(config, options).settings
    set_up_logs(level=settings.log_level, style=settings.log_format)
    # Imported late: a wrong option is told at once, without the server's modules.
    from registry.app import build  # noqa: PLC0415
    from registry.server.processes import serve as serve_processes  # noqa: PLC0415

    raise typer.Exit(serve_processes(settings, lambda: build(settings)))
