"""Where settings come from: the command line, the environment, one TOML file, the defaults; in this order."""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from registry.config import Settings

PREFIX = "PIERHEAD_"
CONFIG_VARIABLE = "PIERHEAD_CONFIG"
DEFAULT_FILE = Path("pierhead.toml")

SECTIONS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
)
"""The sections of the file, each with the model of its keys."""

OPTIONS: Mapping[str, str] = MappingProxyType(
    {"tls.certificate": "--tls-cert", "tls.key": "--tls-key", "auth.htpasswd": "--htpasswd", "auth.policy": "--policy"}
)
"""The options that are not named after their key."""

Path_ = tuple[str, ...]
"""Where a key stands: ("limits", "header_seconds")."""


_KUBERNETES = re.compile(r"PIERHEAD_(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT(?:_.*)?)")
"""What Kubernetes puts into every pod beside a Service named `pierhead`. None of our keys looks like it."""


class ConfigurationError(Exception):
    """What is wrong with the configuration: one line each in `problems`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings that hold, and where each key that was set was set."""

    settings: Settings
    file: Path | None
    origins: Mapping[Path_, str]


@dataclass(slots=True)
class _Collected:
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path_, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def set(self, path: Path_, value: object, origin: str) -> None:
        target = self.values
        for part in path[:-1]:
            target = target.setdefault(part, {})
        target[path[-1]] = value
        self.origins[path] = origin


def load(*, options: Mapping[str, object], environment: Mapping[str, str], file: Path | None = None) -> Configuration:
    """Read the configuration; `options` are those of the command line, by their keys: `listen`, `tls.key`.

    The file is the one given, else that of PIERHEAD_CONFIG, else ./pierhead.toml if there is one. Raises
    ConfigurationError with everything that is wrong.
    """
    file = file or (Path(named) if (named := environment.get(CONFIG_VARIABLE)) else None)
    # lexists: one that is there and can't be read is an error, not a reason to go without it.
    if file is None and os.path.lexists(DEFAULT_FILE):
        file = DEFAULT_FILE
    collected = _Collected()
    if file is not None:
        _read_file(file, collected)
    _read_environment(environment, collected)
    for name, value in options.items():
        if value is not None:
            collected.set(tuple(name.split(".")), value, OPTIONS.get(name, f"--{name.replace('_', '-')}"))
    try:
        settings = Settings.model_validate(collected.values)
    except ValidationError as error:
        wrong = [_problem(details, collected.origins) for details in error.errors()]
        raise ConfigurationError(collected.problems + wrong) from None
    if collected.problems:
        raise ConfigurationError(collected.problems)
    return Configuration(settings, file, collected.origins)


def variables() -> dict[str, Path_]:
    """Every variable of the environment that is read, and the key it sets."""
    return {PREFIX + "_".join(path).upper(): path for path in key_paths()}


def key_paths() -> Iterator[Path_]:
    """Every key there is."""
    for name in Settings.model_fields:
        if name in SECTIONS:
            yield from ((name, key) for key in SECTIONS[name].model_fields)
        else:
            yield (name,)


def _read_file(file: Path, collected: _Collected) -> None:
    try:
        with file.open("rb") as opened:
            found = tomllib.load(opened)
    except OSError as error:
        collected.problems.append(f"{file}: the configuration file can't be read: {error.strerror}")
        return
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        collected.problems.append(f"{file}: not TOML: {error}")
        return
    _take(file, found, Settings, (), collected)


def _take(file: Path, found: Mapping[str, Any], model: type[BaseModel], above: Path_, collected: _Collected) -> None:
    for name, value in found.items():
        path = (*above, name)
        where = f"{file}: {'.'.join(path)}"
        if name not in model.model_fields:
            collected.problems += [f"{file}: {problem}" for problem in _unknown(path, value)]
        elif above or name not in SECTIONS:
            collected.set(path, value, where)
        elif isinstance(value, dict):
            _take(file, value, SECTIONS[name], path, collected)
        else:
            collected.problems.append(f"{where}: a section: write [{name}] on a line of its own, and its keys below")


def _unknown(path: Path_, value: object) -> Iterator[str]:
    name = ".".join(path)
    if not isinstance(value, dict):
        yield f"{name}: unknown key{_nearest(name, _dotted())}"
    elif len(path) == 1 and (near := difflib.get_close_matches(name, SECTIONS, n=1)):
        yield f"{name}: unknown section: did you mean [{near[0]}]?"
    elif not value:
        yield f"{name}: unknown section: there are {', '.join(f'[{section}]' for section in SECTIONS)}"
    else:
        # Each key may have a place of its own: [log] level is log_level, [upload] idle is in [limits].
        for below, inner in value.items():
            yield from _unknown((*path, below), inner)


def _read_environment(environment: Mapping[str, str], collected: _Collected) -> None:
    known = variables()
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name == CONFIG_VARIABLE or _KUBERNETES.fullmatch(name):
            continue
        if name in known:
            collected.set(known[name], value, name)
        else:
            collected.problems.append(f"{name}: unknown variable{_nearest(name, [*known, CONFIG_VARIABLE])}")


def _dotted() -> list[str]:
    return [".".join(path) for path in key_paths()]


def _nearest(name: str, known: list[str]) -> str:
    # A key that was written into the wrong section is nearest to the one of its own name.
    same = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]]
    nearest = same or difflib.get_close_matches(name, known, n=1, cutoff=0)
    return f": did you mean {nearest[0]}?" if nearest else ""


def _problem(details: ErrorDetails, origins: Mapping[Path_, str]) -> str:
    path = tuple(str(part) for part in details["loc"])
    key = path
    while key and key not in origins:
        key = key[:-1]
    message = details["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if details["type"] == "extra_forbidden":
        return f"{_where(details, path, key, origins)}: unknown key"
    if not path:
        return message
    return f"{_where(details, path, key, origins)}: {message}{_shown(details['input'], message)}"


def _where(details: ErrorDetails, path: Path_, key: Path_, origins: Mapping[Path_, str]) -> str:
    """Where a key was set; in a list of tables also in which of them, counted from 1, and under which key."""
    if key not in origins:
        return ".".join(path)
    below = (f"entry {part + 1}" if isinstance(part, int) else part for part in details["loc"][len(key) :])
    return ": ".join([origins[key], *below])


def _shown(given: object, message: str) -> str:
    if not isinstance(given, str | int | float) or repr(given) in message:
        return ""
    return f" (it is {str(given).lower() if isinstance(given, bool) else repr(given)})"
