"""The tables of the reference pages as the code has them; `python -m tests.reference` prints them."""

from collections.abc import Iterator
from typing import Any

import click
import typer.main
from pydantic.fields import FieldInfo

from registry import errors
from registry.cli.main import app
from registry.config import Limits, Settings
from registry.config_sources import variables


def configuration_lines() -> Iterator[str]:
    """One line a key: key, variable, default, meaning."""
    for variable, path in variables().items():
        model = Limits if path[0] == "limits" else Settings
        field = model.model_fields[path[-1]]
        yield f"| `{path[-1]}` | `{variable}` | {_default(field)} | {field.description} |"


def error_lines() -> Iterator[str]:
    """One line an error: status, code, meaning."""
    for kind in sorted(_kinds(errors.RegistryError), key=lambda kind: (kind.status, kind.code)):
        assert kind.__doc__
        yield f"| {kind.status} | `{kind.code}` | {kind.__doc__.splitlines()[0]} |"


def option_lines() -> Iterator[tuple[str, str]]:
    """Each command and each of its options, as `--help` names them."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option not in ("-h", "--help"):
                    yield name, option


def help_of(command: str) -> str:
    """What `pierhead COMMAND --help` prints, 78 columns wide."""
    group: Any = typer.main.get_command(app)
    found = group.commands[command]
    context = click.Context(found, info_name=f"pierhead {command}", terminal_width=78, max_content_width=78)
    return str(found.get_help(context))


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "one per core"
    default = field.default
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if default in ("", ()):
        return "none"
    return f"`{default}`"


def _kinds(kind: type[errors.RegistryError]) -> Iterator[type[errors.RegistryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


if __name__ == "__main__":
    print("\n".join([*configuration_lines(), "", *error_lines(), ""]))  # noqa: T201  # what it is for
    for _name in ("serve", "check-config", "adopt", "verify"):
        print(help_of(_name), "\n")  # noqa: T201
