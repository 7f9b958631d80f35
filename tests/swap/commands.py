"""`pierhead adopt` and `pierhead verify` as processes."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.running import ROOT


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, its findings (kind and key), and its summary."""

    code: int
    findings: list[tuple[str, str]]
    summary: dict[str, Any]
    errors: str


def command(name: str, data: Path, *arguments: str, module: str = "registry") -> Sequence[str]:
    """Return the command line."""
    return [sys.executable, "-m", module, name, "--data", str(data), *arguments]


def run(name: str, data: Path, *arguments: str, module: str = "registry") -> Outcome:
    """Run a command to its end, and read what it found."""
    ended = subprocess.run(
        command(name, data, "--json", *arguments, module=module),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    findings = [(line["finding"], line["key"]) for line in lines if "finding" in line]
    summary: dict[str, Any] = next((line for line in lines if "summary" in line), {})
    return Outcome(ended.returncode, findings, summary, ended.stderr)
