"""One run of the suite's program against a registry that is running."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from conformance.results import Run
from tests.tools import pinned_tools, require

PROGRAM = "conformance"
SECONDS_MAX = 300


def pinned_version() -> str:
    """Return the module and version of the suite that `make tools` installs."""
    return pinned_tools()[PROGRAM]


def run_suite(address: str, version: str, directory: Path, *, environment: Mapping[str, str] | None = None) -> Run:
    """Run the suite in `version` against the registry at `address` (host:port), results going to `directory`.

    What it prints is kept there too, as `printed.txt`. Raises NotInstalled without the program, and
    subprocess.TimeoutExpired if it does not end.
    """
    program = require(PROGRAM)
    directory.mkdir(parents=True)
    settings = {
        "OCI_VERSION": version,
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_REPO1": "conformance/one",
        "OCI_REPO2": "conformance/two",
        "OCI_RESULTS_DIR": str(directory),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OCI_")}
    finished = subprocess.run(
        [program],
        cwd=directory,  # where there is no oci-conformance.yaml to be taken up by accident
        env={**inherited, **settings, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=SECONDS_MAX,
        check=False,
    )
    printed = finished.stdout.decode(errors="replace")
    (directory / "printed.txt").write_text(printed)
    return Run(finished.returncode, printed, directory)
