"""`pierhead tls`: certificates for a network of one's own."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.configuration import USAGE
from registry.cli.help import examples
from registry.findings import printable
from registry.tls_authority import AuthorityProblem, Host, Made, parse_host, set_up

FAILED = 3
"""The exit code for files that can't be written, as for a store that can't be looked at."""

app = typer.Typer(
    name="tls",
    help="Make certificates for a network of one's own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

EXAMPLES = (
    "tls init --host registry.lan --host 10.0.0.5 --out /etc/pierhead/tls",
    "tls init --host registry.lan --out /etc/pierhead/tls --force",
)

Hosts = Annotated[
    list[str],
    typer.Option("--host", metavar="HOST", help="A name or an IP address that clients use. May be repeated."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files are written.")]
Days = Annotated[int, typer.Option("--days", metavar="N", min=1, help="How long the certificate is valid.")]
CaDays = Annotated[int, typer.Option("--ca-days", metavar="N", min=1, help="How long a new CA is valid.")]
Port = Annotated[
    int,
    typer.Option("--port", metavar="N", min=1, max=65535, help="The port of the registry, for what is printed."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the server's certificate and key. The CA is kept.")]


@app.callback()
def _tls() -> None:
    """Make certificates for a network of one's own."""


@app.command("init", epilog=examples(*EXAMPLES))
def init(
    host: Hosts,
    out: Out,
    days: Days = 825,
    ca_days: CaDays = 3650,
    port: Port = 5000,
    *,
    force: Force = False,
) -> None:
    """Make a private CA and a certificate for this registry, and say who has to be told of it.

    If the directory has a CA already, it signs the new certificate: clients that trust it need nothing new.

    Exit code: 0 if it went well, 2 if something is asked for that can't be, 3 if a file can't be written.
    """
    try:
        hosts = list(dict.fromkeys(parse_host(text) for text in host))
        made = set_up(out, hosts, days=days, authority_days=ca_days, replace=force, now=datetime.now(UTC))
    except AuthorityProblem as error:
        typer.echo(f"pierhead: {printable(str(error))}", err=True)
        raise typer.Exit(USAGE) from None
    except OSError as error:
        typer.echo(f"pierhead: {printable(f'{error.filename or out}: {error.strerror}')}", err=True)
        raise typer.Exit(FAILED) from None
    for line in _report(made, hosts[0], port):
        typer.echo(printable(line))


def _report(made: Made, host: Host, port: int) -> Iterator[str]:
    name = f"[{host}]" if ":" in str(host) else str(host)
    address = name if port == 443 else f"{name}:{port}"
    authority, certificate, key = made.authority.absolute(), made.certificate.absolute(), made.key.absolute()
    what = "a new CA" if made.is_new else "the CA that was there"
    yield f"{authority}: {what}, valid until {made.authority_ends:%Y-%m-%d}. Clients have to trust it."
    yield f"{made.authority_key.absolute()}: its key. Only the next certificate needs it: keep it elsewhere."
    yield f"{certificate}: the server's certificate, valid until {made.certificate_ends:%Y-%m-%d}."
    yield f"{key}: its key. The user that Pierhead runs as has to be able to read it."
    yield ""
    yield "In pierhead.toml:"
    yield ""
    yield "    [tls]"
    yield f'    certificate = "{certificate}"'
    yield f'    key = "{key}"'
    yield ""
    yield "On each client, ca.crt goes to:"
    yield ""
    yield f"    docker                   /etc/docker/certs.d/{address}/ca.crt"
    yield f"    podman, buildah, skopeo  /etc/containers/certs.d/{address}/ca.crt"
    yield f"    containerd, nerdctl      /etc/containerd/certs.d/{address}/ca.crt"
    yield "    Debian, Ubuntu           /usr/local/share/ca-certificates/pierhead.crt, then: update-ca-certificates"
    yield "    Fedora, RHEL             /etc/pki/ca-trust/source/anchors/pierhead.crt, then: update-ca-trust"
    yield ""
    yield f"containerd needs /etc/containerd/certs.d/{address}/hosts.toml beside it:"
    yield ""
    yield f'    server = "https://{address}"'
    yield f'    ca = "/etc/containerd/certs.d/{address}/ca.crt"'
    yield f'    [host."https://{address}"]'
    yield f'      ca = "/etc/containerd/certs.d/{address}/ca.crt"'
