"""What a run of the suite left behind, and whether that is a pass.

The exit code alone proves nothing: it is 0 as well when no check was run (an unknown version, a bad
setting) and when the results could not be written.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conformance.expectations import Counts, Expectation

STATUS = r"(Pass|FAIL|Skip|Disabled|Error|Unknown)"
VERDICT = re.compile(rf"^OCI Conformance Result: {STATUS}\s*$", re.MULTILINE)
COUNT = re.compile(r"^  (Disabled|Skip|Pass|FAIL|Error|Total)\.+: +(\d+)$", re.MULTILINE)
SECTION = re.compile(r"^(apis|data):\n((?:  .*\n)*)", re.MULTILINE)
JUNIT_COUNTS = ("failures", "errors", "skipped", "disabled")
ENTRY = re.compile(rf"^  ([^:\n]+): {STATUS}$", re.MULTILINE)


class Incomplete(Exception):
    """A part of the results is missing or cannot be read."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the suite left: its exit code, what it printed, and the directory of its results."""

    exit_code: int
    printed: str
    directory: Path

    def counts(self) -> Counts:
        """Read the counts from the printed summary. Raises Incomplete if one is missing or the sum is wrong."""
        verdict = VERDICT.search(self.printed)
        if not verdict:
            raise Incomplete("no line 'OCI Conformance Result' was printed")
        summary = self.printed[verdict.end() :].strip("\n").partition("\n\n")[0]
        found = {name: int(number) for name, number in COUNT.findall(summary + "\n")}
        try:
            counts = Counts(found["Pass"], found["FAIL"], found["Error"], found["Skip"], found["Disabled"])
            total = found["Total"]
        except KeyError as absent:
            raise Incomplete(f"the printed summary lacks {absent}") from None
        if counts.total != total:
            raise Incomplete(f"the printed counts do not add up to {total}: {counts}")
        return counts

    def junit_counts(self) -> Counts:
        """Read the counts that junit.xml states. Raises Incomplete if it is missing or damaged."""
        try:
            suites = ET.parse(self.directory / "junit.xml").getroot()
        except (OSError, ET.ParseError) as failure:
            raise Incomplete(f"junit.xml: {failure}") from None
        suite = suites.find("testsuite")
        if suite is None:
            raise Incomplete("junit.xml holds no testsuite")
        # A number that is 0 is left out.
        failed, errors, skipped, disabled = (int(suite.get(name, 0)) for name in JUNIT_COUNTS)
        passed = int(suite.get("tests", 0)) - failed - errors - skipped - disabled
        return Counts(passed, failed, errors, skipped, disabled)

    def sections(self) -> dict[str, dict[str, str]]:
        """Read `apis` and `data` of results.yaml, name to status. Raises Incomplete if it cannot be read."""
        try:
            text = (self.directory / "results.yaml").read_text()
        except OSError as failure:
            raise Incomplete(f"results.yaml: {failure.strerror}") from None
        return {section: dict(ENTRY.findall(entries)) for section, entries in SECTION.findall(text)}

    def failures(self) -> list[str]:
        """Name each check that failed, with the first line of why, from junit.xml; empty without one."""
        try:
            suites = ET.parse(self.directory / "junit.xml").getroot()
        except (OSError, ET.ParseError):
            return []
        return [f"{case.get('name')}: {_reason(case)}" for case in suites.iter("testcase") if _failed(case)]


def differences(run: Run, expected: Expectation) -> list[str]:
    """Everything in which a run differs from that of a registry that conforms, one line each; empty is a pass."""
    found = [] if run.exit_code == 0 else [f"exit code {run.exit_code}"]
    verdict = VERDICT.search(run.printed)
    if verdict and verdict[1] != "Pass":
        found.append(f"the suite says {verdict[1]}")
    for what, read in (("printed", run.counts), ("junit.xml", run.junit_counts)):
        try:
            if (counts := read()) != expected.counts:
                found.append(f"{what}: {counts}, expected {expected.counts}")
        except Incomplete as incomplete:
            found.append(str(incomplete))
    if not (run.directory / "report.html").is_file():
        found.append("report.html is missing")
    try:
        sections = run.sections()
    except Incomplete as incomplete:
        return [*found, str(incomplete)]
    return [
        *found,
        *_section_differences("apis", sections.get("apis", {}), expected.apis),
        *_section_differences("data", sections.get("data", {}), expected.data),
    ]


def _section_differences(section: str, found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    return [
        f"results.yaml, {section}, {name}: {found.get(name, 'missing')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


def _failed(case: ET.Element) -> bool:
    return case.get("status") in {"failure", "error"}


def _reason(case: ET.Element) -> str:
    text = case.findtext("system-out") or "no reason given"
    return text.strip().partition("\n")[0][:300]
