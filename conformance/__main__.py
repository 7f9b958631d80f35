"""`python -m conformance`: run the suite, compare with what a registry that conforms gets, print a table."""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance.expectations import EXPECTATIONS
from conformance.report import Result, table, write
from conformance.results import differences
from conformance.suite import pinned_version, run_suite
from conformance.variants import VARIANTS, Variant
from tests.tools import NotInstalled

FAILURES_SHOWN_MAX = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was chosen; return 0 if everything conforms, 1 if something differs, 2 if it cannot be run."""
    chosen = _parser().parse_args(arguments)
    variants = [variant for variant in VARIANTS if not chosen.variant or variant.name in chosen.variant]
    versions = [version for version in EXPECTATIONS if not chosen.version or version in chosen.version]
    if chosen.write and (len(variants), len(versions)) != (len(VARIANTS), len(EXPECTATIONS)):
        print("--write is for a whole run: leave --variant and --version out", file=sys.stderr)
        return 2
    runs = [(variant, version) for variant in variants for version in versions if version in variant.versions]
    if not runs:
        print(f"{variants[0].name} is run with version {' and '.join(variants[0].versions)} only", file=sys.stderr)
        return 2
    directory = Path(tempfile.mkdtemp(prefix="pierhead-conformance-"))
    try:
        results = [_run(variant, version, directory) for variant, version in runs]
    except NotInstalled as missing:
        print(missing, file=sys.stderr)
        return 2
    for result in results:
        _explain(result)
    print(table(results))
    passed = all(result.passed for result in results)
    if chosen.keep or not passed:
        print(f"results are in {directory}")
    else:
        shutil.rmtree(directory)
    if chosen.write and passed:
        write(results, suite=pinned_version())
    return 0 if passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conformance",
        description="Run the official OCI conformance suite against Pierhead: every version of the suite against "
        "every variant, each with a new server and an empty store.",
        epilog="Exit code 0: everything conforms. 1: something differs. 2: it could not be run.",
    )
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variant", action="append", choices=names, help="only this variant (may be repeated)")
    parser.add_argument(
        "--version",
        action="append",
        choices=list(EXPECTATIONS),
        help="only this version of the suite (may be repeated)",
    )
    parser.add_argument("--keep", action="store_true", help="keep the results, and print where they are")
    parser.add_argument("--write", action="store_true", help="write the table into conformance/README.md on success")
    return parser


def _run(variant: Variant, version: str, directory: Path) -> Result:
    place = directory / f"{variant.name}-{version}"
    with variant.serving(place) as address:
        run = run_suite(address, version, place / "results", environment=variant.login)
    shutil.rmtree(place / "data")
    return Result(variant.name, version, run, differences(run, EXPECTATIONS[version]))


def _explain(result: Result) -> None:
    if result.passed:
        return
    print(f"{result.variant}, suite {result.version}, {result.run.directory}:")
    failures = result.run.failures()
    for line in [*result.differences, *failures[:FAILURES_SHOWN_MAX]]:
        print(f"  {line}")
    if (hidden := len(failures) - FAILURES_SHOWN_MAX) > 0:
        print(f"  and {hidden} more failed checks: see report.html")
    print()


if __name__ == "__main__":
    sys.exit(main())
