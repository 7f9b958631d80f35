"""Pierhead passes the official suite in every variant, and the checker can't be fooled."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.__main__ import main
from conformance.expectations import EXPECTATIONS, Expectation
from conformance.report import BEGIN, END, README, Result, table, write
from conformance.results import Run, differences
from conformance.suite import run_suite
from conformance.variants import VARIANTS, Variant
from tests.conftest import refuse, tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.running import ROOT
from tests.tools import NotInstalled

EXPECTED = EXPECTATIONS["1.1"]
VERDICT = "OCI Conformance Result: Pass\n"


RUNS = [(variant, version) for variant in VARIANTS for version in variant.versions]


@pytest.mark.parametrize(("variant", "version"), RUNS, ids=[f"{variant.name}-{version}" for variant, version in RUNS])
def test_the_official_suite_passes_with_exactly_the_counts_of_a_registry_that_conforms(
    variant: Variant, version: str, tmp_path: Path
) -> None:
    try:
        with variant.serving(tmp_path / "server") as address:
            run = run_suite(address, version, tmp_path / "results", environment=variant.login)
    except NotInstalled as missing:
        refuse(str(missing))

    assert not [*differences(run, EXPECTATIONS[version]), *run.failures()[:10]]


def test_a_registry_that_does_not_conform_is_found_out(tmp_path: Path) -> None:
    tool_or_skip("conformance")
    program = tool_or_skip(V3)

    with serving_distribution(program, tmp_path / "data", log=tmp_path / "log") as peer:
        run = run_suite(peer.address, "1.1", tmp_path / "results")

    found = differences(run, EXPECTED)
    assert {"exit code 1", "the suite says FAIL", "results.yaml, apis, Referrers: FAIL, expected Pass"} <= set(found)
    assert any("referrers" in failure for failure in run.failures())


def test_a_suite_that_refuses_its_settings_ends_with_exit_code_0_and_is_no_pass(tmp_path: Path) -> None:
    tool_or_skip("conformance")

    run = run_suite("127.0.0.1:1", "no such version", tmp_path / "results")

    assert run.exit_code == 0
    assert "no line 'OCI Conformance Result' was printed" in differences(run, EXPECTED)


def fabricate(directory: Path, expected: Expectation) -> Run:
    """Write what the suite leaves after a run of a registry that conforms."""
    counts = expected.counts
    directory.mkdir(parents=True)
    (directory / "report.html").write_text("<html></html>")
    (directory / "junit.xml").write_text(
        f'<testsuites><testsuite tests="{counts.total}" failures="0" disabled="{counts.disabled}">'
        f"<testcase name='a' status='passed'/></testsuite></testsuites>"
    )
    sections = {"apis": expected.apis, "data": expected.data}
    (directory / "results.yaml").write_text(
        "config:\n  registry: 127.0.0.1:5000\n"
        + "".join(
            f"{section}:\n" + "".join(f"  {name}: {status}\n" for name, status in sorted(entries.items()))
            for section, entries in sections.items()
        )
    )
    numbers = {
        "Disabled": counts.disabled,
        "Skip": 0,
        "Pass": counts.passed,
        "FAIL": 0,
        "Error": 0,
        "Total": counts.total,
    }
    printed = "Test results\n" + VERDICT + "".join(f"  {f'{k}':.<30}: {v:10}\n" for k, v in numbers.items()) + "\n"
    return Run(0, printed, directory)


@pytest.mark.parametrize("version", EXPECTATIONS)
def test_the_fabricated_run_that_the_tests_below_damage_is_a_pass(version: str, tmp_path: Path) -> None:
    assert not differences(fabricate(tmp_path / "results", EXPECTATIONS[version]), EXPECTATIONS[version])


@pytest.mark.parametrize("name", ["results.yaml", "junit.xml", "report.html"])
def test_a_missing_file_is_no_pass_whatever_the_exit_code(name: str, tmp_path: Path) -> None:
    run = fabricate(tmp_path / "results", EXPECTED)
    (run.directory / name).unlink()

    assert any(name in line for line in differences(run, EXPECTED))


def test_an_empty_directory_with_exit_code_0_is_no_pass(tmp_path: Path) -> None:
    assert differences(Run(0, "", tmp_path), EXPECTED)


def rewrite(name: str, old: str, new: str) -> Callable[[Run], Run]:
    """Return a damage: the first `old` in a file of the results becomes `new`."""

    def damage(run: Run) -> Run:
        path = run.directory / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return run

    return damage


def reprint(old: str, new: str) -> Callable[[Run], Run]:
    """Return a damage: the first `old` in what was printed becomes `new`."""

    def damage(run: Run) -> Run:
        assert old in run.printed
        return Run(run.exit_code, run.printed.replace(old, new, 1), run.directory)

    return damage


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: Run(1, run.printed, run.directory), "exit code 1"),
        (reprint("Result: Pass", "Result: FAIL"), "the suite says FAIL"),
        (reprint("Result: Pass", "Result: Skip"), "the suite says Skip"),
        (reprint(VERDICT, ""), "no line 'OCI Conformance Result' was printed"),
        (reprint("860", "859"), "do not add up"),
        (reprint("  Skip", "  Slip"), "the printed summary lacks 'Skip'"),
        (rewrite("junit.xml", 'failures="0"', 'failures="1"'), "junit.xml: Counts(passed=859, failed=1"),
        (rewrite("junit.xml", "disabled=", 'skipped="3" disabled='), "skipped=3"),
        (rewrite("junit.xml", 'tests="862"', 'tests="12"'), "junit.xml: Counts(passed=10"),
        (rewrite("junit.xml", "</testsuites>", ""), "junit.xml"),
        (rewrite("results.yaml", "Blob get: Pass", "Blob get: FAIL"), "Blob get: FAIL, expected Pass"),
        (rewrite("results.yaml", "Blob get: Pass", "Blob get: Skip"), "Blob get: Skip, expected Pass"),
        (rewrite("results.yaml", "  Nested Index: Pass\n", ""), "Nested Index: missing, expected Pass"),
        (rewrite("results.yaml", "Tag Param: Disabled", "Tag Param: Pass"), "Tag Param: Pass, expected Disabled"),
        (rewrite("results.yaml", "data:\n", "data: {}\n"), "Artifact: missing"),
    ],
)
def test_each_kind_of_failure_is_told_although_the_rest_looks_well(
    damage: Callable[[Run], Run], told: str, tmp_path: Path
) -> None:
    run = damage(fabricate(tmp_path / "results", EXPECTED))

    assert told in "\n".join(differences(run, EXPECTED))


def test_a_run_of_fewer_checks_is_no_pass_even_if_all_of_them_passed(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "results", EXPECTATIONS["1.1"])

    assert differences(run, EXPECTATIONS["dev"])


def test_failed_checks_are_named_with_their_reason(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "results", EXPECTED)
    failed = '<testcase name="b/push" status="failure"><system-out>status 500\nmore</system-out></testcase>'
    rewrite("junit.xml", "</testsuite>", failed + "</testsuite>")(run)

    assert run.failures() == ["b/push: status 500"]


def test_the_table_shows_the_counts_and_marks_what_differs(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "results", EXPECTED)

    good, bad = Result("v", "1.1", run, []), Result("w", "1.1", Run(0, "", tmp_path), ["no verdict"])

    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table([good, bad]).splitlines()]
    assert lines[2] == ["v", "1.1", "860", "0", "0", "0", "2", "conforms"]
    assert lines[3] == ["w", "1.1", "?", "?", "?", "?", "?", "DIFFERS"]


def test_the_table_is_written_between_its_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    shutil.copy(README, readme)
    results = [Result("v", "1.1", fabricate(tmp_path / "results", EXPECTED), [])]

    write(results, suite="suite@v1", readme=readme)
    once = readme.read_text()
    write(results, suite="suite@v1", readme=readme)

    before, _, after = README.read_text().partition(BEGIN)
    assert readme.read_text() == once
    assert once.startswith(before)
    assert once.endswith(after.partition(END)[2])
    assert table(results) in once


def test_a_part_of_the_matrix_is_not_written_as_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--write", "--version", "1.1"]) == 2
    assert "whole run" in capsys.readouterr().err


def test_a_variant_is_not_run_with_a_version_that_it_can_not_conform_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--variant", "s3-2-workers-redirects", "--version", "dev"]) == 2
    assert capsys.readouterr().err == "s3-2-workers-redirects is run with version 1.1 only\n"


def test_the_command_explains_itself() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "conformance", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    for word in ("--variant", "--version", "--keep", "--write", *EXPECTATIONS, *(v.name for v in VARIANTS)):
        assert word in shown
