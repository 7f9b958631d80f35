"""The tables of the reference pages as the code has them; `python -m tests.reference` prints them."""

import ast
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import typer.main
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from registry import errors
from registry.cli.main import app
from registry.config import Settings
from registry.config_sources import SECTIONS, variables
from registry.quantities import parse_bytes, parse_rate, parse_seconds
from tests.running import ROOT

UNEXPECTED = "Something that nobody foresaw failed: the log of the server has it."
"""What the root of the errors means when it is sent as it is."""


def configuration_lines() -> Iterator[str]:
    """One line a key: key, variable, type, default, meaning."""
    for variable, path in variables().items():
        model = SECTIONS.get(path[0], Settings)
        field = model.model_fields[path[-1]]
        kind = _type(field.annotation, field.metadata)
        yield f"| `{path[-1]}` | `{variable}` | {kind} | {_default(field)} | {field.description} |"


def error_lines() -> Iterator[str]:
    """One line an error: status, code, meaning."""
    for kind in sorted(_kinds(errors.RegistryError), key=lambda kind: (kind.status, kind.code)):
        assert kind.__doc__
        # The status has a column of its own: "(412, RFC 9110)" is "(RFC 9110)" here.
        meaning = re.sub(rf" \({kind.status}\)|{kind.status}, ", "", kind.__doc__.splitlines()[0])
        meaning = UNEXPECTED if kind is errors.RegistryError else meaning
        yield f"| {kind.status} | `{kind.code}` | {meaning} |"


def server_refusals() -> set[tuple[int, str]]:
    """Status and code of everything that the server refuses before a request reaches the registry."""
    found = set()
    for module in (ROOT / "registry" / "server").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refused":
                found.add(_status_and_code(module, node))
    return found


def _status_and_code(module: Path, call: ast.Call) -> tuple[int, str]:
    status, code = call.args[0], next((word.value for word in call.keywords if word.arg == "code"), None)
    assert isinstance(status, ast.Constant), f"{module}:{call.lineno}: not a literal status"
    assert code is None or isinstance(code, ast.Constant), f"{module}:{call.lineno}: not a literal code"
    return int(str(status.value)), "UNSUPPORTED" if code is None else str(code.value)


def option_lines() -> Iterator[tuple[str, str]]:
    """Each command and each of its options, as `--help` names them."""
    for name, command in commands().items():
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option not in ("-h", "--help"):
                    yield name, option


def commands() -> dict[str, Any]:
    """Every command by its name, `token create` among them; groups of commands are not."""
    group: Any = typer.main.get_command(app)
    found: dict[str, Any] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {below}": each for below, each in command.commands.items()}
        else:
            found[name] = command
    return found


def help_of(command: str) -> str:
    """What `pierhead COMMAND --help` prints, 78 columns wide; of `pierhead --help` if the command is empty."""
    found: Any = commands()[command] if command else typer.main.get_command(app)
    context = click.Context(
        found,
        info_name=f"pierhead {command}".rstrip(),
        terminal_width=78,
        max_content_width=78,
        help_option_names=["-h", "--help"],
    )
    return str(found.get_help(context))


def _type(annotation: Any, metadata: list[Any]) -> str:
    if isinstance(annotation, types.UnionType) or str(annotation).startswith("typing.Optional"):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    metadata = [*metadata, *getattr(annotation, "__metadata__", ())]
    annotation = getattr(annotation, "__origin__", annotation) if hasattr(annotation, "__metadata__") else annotation
    parsers = {item.func for item in metadata if isinstance(item, BeforeValidator)}
    if get_origin(annotation) is Literal:
        return " ".join(f"`{word}`" for word in get_args(annotation))
    if parse_bytes in parsers:
        name = "size"
    elif parse_rate in parsers:
        name = "size a second"
    elif parse_seconds in parsers:
        name = "time"
    else:
        kinds = {
            bool: "true or false", int: "number", float: "number", str: "text", Path: "path", tuple: "list of texts",
        }  # fmt: skip
        kind = get_origin(annotation) or annotation
        of = next(iter(get_args(annotation)), None)
        is_tables = kind is tuple and isinstance(of, type) and issubclass(of, BaseModel)
        name = "tables" if is_tables else kinds[kind]
        if kind is tuple and int in (of, get_origin(of), *get_args(of)):
            name = "list of numbers"
    return name + _bounds(metadata)


def _bounds(metadata: list[Any]) -> str:
    least: Any = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    most: Any = next((item.le for item in metadata if isinstance(item, Le)), None)
    above: Any = next((item.gt for item in metadata if isinstance(item, Gt)), None)
    if most is not None:
        return f", {least} to {most}"
    if above is not None:
        return f", more than {above:g}"
    return "" if least is None else f", at least {least:g}"


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
    if isinstance(default, tuple):
        return f"`{list(default)}`"
    return f"`{default}`"


def _kinds(kind: type[errors.RegistryError]) -> Iterator[type[errors.RegistryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


if __name__ == "__main__":
    print("\n".join([*configuration_lines(), "", *error_lines(), ""]))  # noqa: T201  # what it is for
    for _name in ("", *commands()):
        print(help_of(_name), "\n")  # noqa: T201
