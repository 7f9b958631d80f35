"""docs/reference/audit-trail.md says what the code does."""

import re

from registry.audit import EventKind
from registry.audit.events import FIELDS_MAX
from registry.audit.verification import Flaw
from tests.running import ROOT

PAGE = (ROOT / "docs" / "reference" / "audit-trail.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def test_every_event_is_told_and_no_other() -> None:
    section = PAGE.partition("\n## Events\n")[2].partition("\n## ")[0]
    told = [name for line in section.splitlines() if line.startswith("| `") for name in names(line.split("|")[1])]

    assert sorted(told) == sorted(kind.value for kind in EventKind)


def test_every_finding_is_told_with_its_severity_and_meaning() -> None:
    told = {row[0].strip("`"): row[1:] for row in ROWS if row[1] in {"error", "warning"}}

    assert told == {flaw.slug: [flaw.severity.name.lower(), flaw.meaning] for flaw in Flaw}


def test_the_limits_of_the_fields_are_told() -> None:
    told = {name: row[2] for row in ROWS if len(row) == 3 for name in names(row[0])}

    for name, bytes_max in FIELDS_MAX.items():
        assert told[name].removesuffix(" each") == str(bytes_max)


def names(cell: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", cell)
