"""`pierhead serve`: serve a data directory."""

from pathlib import Path
from typing import Annotated

import structlog
import typer

from registry.cli.configuration import IN_THE_CLEAR, Config, load_or_exit
from registry.cli.first_admin import init_admin as make_first_admin
from registry.cli.redirects import redirect_warnings
from registry.findings import printable
from registry.logs import set_up_logs

log = structlog.get_logger(__name__)

Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="ADDRESS", help="host:port, [v6]:port, :port or unix:/path (127.0.0.1:5000)."),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="The data directory (./data), or s3://bucket/prefix.")
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Worker processes (one per core).")]
Prefix = Annotated[str | None, typer.Option("--prefix", metavar="PATH", help="A path before /v2/, such as /registry.")]
AllowAnonymous = Annotated[
    bool | None,
    typer.Option("--allow-anonymous-push", help="Listen also where other machines reach it, without authentication."),
]
TlsCertificate = Annotated[
    Path | None, typer.Option("--tls-cert", metavar="FILE", help="Serve HTTPS with this certificate (PEM).")
]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The key of the certificate (PEM).")]
HtpasswdFile = Annotated[
    Path | None, typer.Option("--htpasswd", metavar="FILE", help="Users and passwords; everybody has to log in.")
]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="Who may do what (users everything).")
]
InitAdmin = Annotated[
    bool,
    typer.Option("--init-admin", help="If there is no user yet, make one named admin and print the password."),
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
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    htpasswd: HtpasswdFile = None,
    policy: PolicyFile = None,
    init_admin: InitAdmin = False,
    allow_anonymous_push: AllowAnonymous = None,
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
        "tls.certificate": tls_cert,
        "tls.key": tls_key,
        "auth.htpasswd": htpasswd,
        "auth.policy": policy,
        "allow_anonymous_push": allow_anonymous_push or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = load_or_exit(config, options).settings
    set_up_logs(level=settings.log_level, style=settings.log_format)
    # Imported late: a wrong option is told at once, without the server's modules.
    from registry.app import build, share  # noqa: PLC0415
    from registry.asgi import CannotStart  # noqa: PLC0415
    from registry.server.processes import serve as serve_processes  # noqa: PLC0415

    if init_admin:
        make_first_admin(settings.auth.htpasswd)
    try:
        shared = share(settings)
    except CannotStart as error:
        typer.echo(f"pierhead: {printable(str(error))}", err=True)
        raise typer.Exit(1) from None
    if settings.sends_passwords_in_the_clear:
        log.warning(IN_THE_CLEAR)
    for warning in redirect_warnings(settings):
        log.warning(warning)
    raise typer.Exit(serve_processes(settings, lambda: build(settings, shared=shared), refresh=shared.refresh))
