"""`pierhead`: one line a command."""

from importlib.metadata import version
from typing import Annotated

import typer

from registry.cli.adopt import adopt
from registry.cli.audit import app as audit
from registry.cli.check_config import check_config
from registry.cli.gc import app as gc
from registry.cli.gc import why
from registry.cli.help import examples
from registry.cli.policy import policy
from registry.cli.repositories import app as repositories
from registry.cli.retention import app as retention
from registry.cli.robots import app as tokens
from registry.cli.scrub import app as scrub
from registry.cli.serve import serve
from registry.cli.storage import app as storage
from registry.cli.tags import app as tags
from registry.cli.tls import app as tls
from registry.cli.usage import usage
from registry.cli.users import app as users
from registry.cli.verify import verify

app = typer.Typer(
    name="pierhead",
    help="A private container registry: the receiving side of docker push.",
    epilog="Documentation is in docs/ of the project. Start with: pierhead serve",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # [v6]:port is no markup
    context_settings={"help_option_names": ["-h", "--help"]},
)

SERVE_EXAMPLES = (
    "serve --listen 127.0.0.1:8080 --data /srv/images --workers 4",
    "serve --listen :443 --tls-cert server.crt --tls-key server.key --htpasswd users --init-admin",
    "serve --config /etc/pierhead.toml",
    "serve --listen unix:/run/pierhead/pierhead.sock",
)


app.command("serve", epilog=examples("serve", *SERVE_EXAMPLES))(serve)
app.command("check-config", epilog=examples("check-config", "check-config --config /etc/pierhead.toml"))(check_config)
app.command("adopt", epilog=examples("adopt --data /srv/images"))(adopt)
app.command("verify", epilog=examples("verify --data /srv/images", "verify --data /srv/images --quick"))(verify)
app.command("usage", epilog=examples("usage --data /srv/images", "usage acme --depth 2", "usage --recount --json"))(
    usage
)

app.command("why", epilog=examples("why sha256:9f86... --data /srv/images"))(why)

app.add_typer(users, name="user")
app.add_typer(tokens, name="token")
app.add_typer(policy, name="policy")
app.add_typer(repositories, name="repo")
app.add_typer(retention, name="retention")
app.add_typer(tls, name="tls")
app.add_typer(audit, name="audit")
app.add_typer(storage, name="storage")
app.add_typer(tags, name="tags")
app.add_typer(scrub, name="scrub")
app.add_typer(gc, name="gc")


def _print_version(value: bool) -> None:  # noqa: FBT001  # called by typer
    if value:
        typer.echo(f"pierhead {version('pierhead')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A private container registry: the receiving side of docker push."""


def main() -> None:
    """Run the command line."""
    app(prog_name="pierhead")
