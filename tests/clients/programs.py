"""Runs other people's programs with a home of their own, so that nothing of the machine's user counts."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KEPT = ("PATH", "LANG", "LC_ALL", "TZ")
OUTPUT_SHOWN_CHARACTERS = 4000


class ProgramFailed(AssertionError):
    """A program ended otherwise than it should have; the message holds the command and what it said."""


class Programs:
    """A place that programs take for their home, with the configuration that they look for below it.

    They get no variable of ours but PATH and the locale, whatever HOME is.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        for variable, name in (("HOME", "home"), ("XDG_RUNTIME_DIR", "run"), ("TMPDIR", "tmp")):
            (directory / name).mkdir(mode=0o700, parents=True)
            self.environment[variable] = str(directory / name)
        self.environment |= {
            "REGCTL_CONFIG": str(directory / "home" / "regctl.json"),
        }
        self._configure_containers()

    def program(self, path: str) -> "Program":
        """Return the program at `path` as something to call."""
        return Program(path, self)

    def run(
        self, *command: str | Path, seconds: float = 100, environment: Mapping[str, str] | None = None, text: str = ""
    ) -> str:
        """Return what a program prints to its standard output; `text` is its input.

        Raises ProgramFailed if its exit code isn't 0, and subprocess.TimeoutExpired.
        """
        finished = self._finish(command, seconds, environment, text)
        if finished.returncode:
            raise ProgramFailed(_told(finished))
        return finished.stdout.decode()

    def fail(self, *command: str | Path, seconds: float = 100) -> str:
        """Return what a program prints that must not succeed. Raises ProgramFailed if its exit code is 0."""
        finished = self._finish(command, seconds, None, "")
        if not finished.returncode:
            raise ProgramFailed(_told(finished))
        return (finished.stdout + finished.stderr).decode(errors="replace")

    def _finish(
        self, command: tuple[str | Path, ...], seconds: float, environment: Mapping[str, str] | None, text: str
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            cwd=self.directory / "tmp",
            env={**self.environment, **(environment or {})},
            input=text.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )

    def _configure_containers(self) -> None:
        """For podman, buildah and skopeo: no signatures, no registry to search, nothing shared with the machine."""
        configuration = self.directory / "home" / ".config" / "containers"
        configuration.mkdir(parents=True)
        (configuration / "policy.json").write_text(json.dumps({"default": [{"type": "insecureAcceptAnything"}]}))
        registries = configuration / "registries.conf"
        registries.write_text("unqualified-search-registries = []\n")
        storage = configuration / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "vfs"\n'
            f'graphroot = "{self.directory / "graph"}"\nrunroot = "{self.directory / "run" / "containers"}"\n'
        )
        engine = configuration / "containers.conf"
        engine.write_text(
            '[engine]\nevents_logger = "none"\ncgroup_manager = "cgroupfs"\n'
            f'tmp_dir = "{self.directory / "run" / "libpod"}"\n'
            f'static_dir = "{self.directory / "libpod"}"\nvolume_path = "{self.directory / "volumes"}"\n'
        )
        self.environment |= {
            "CONTAINERS_REGISTRIES_CONF": str(registries),
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(engine),
            "BUILDAH_ISOLATION": "chroot",
        }


@dataclass(frozen=True, slots=True)
class Program:
    """One program: `skopeo("copy", ...)` runs it."""

    path: str
    programs: Programs

    def __call__(self, *arguments: str | Path, text: str = "") -> str:
        """Return what it prints to its standard output; `text` is its input. Raises ProgramFailed."""
        return self.programs.run(self.path, *arguments, text=text)

    def fail(self, *arguments: str | Path) -> str:
        """Return what it prints when it must not succeed. Raises ProgramFailed if it does."""
        return self.programs.fail(self.path, *arguments)


def _told(finished: subprocess.CompletedProcess[bytes]) -> str:
    said = (finished.stdout + finished.stderr).decode(errors="replace")[-OUTPUT_SHOWN_CHARACTERS:]
    command = " ".join(map(str, finished.args))
    return f"exit code {finished.returncode} of: {command}\n{said}"
