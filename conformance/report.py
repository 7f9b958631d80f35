"""The results as a table, for the terminal and for README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.expectations import Counts
from conformance.results import Incomplete, Run

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- results: written by `python -m conformance --write` -->\n"
END = "<!-- end of results -->\n"
HEAD = ("variant", "version", "pass", "fail", "error", "skip", "disabled", "result")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one version of the suite against one variant; no differences is a pass."""

    variant: str
    version: str
    run: Run
    differences: Sequence[str]

    @property
    def passed(self) -> bool:
        """Whether the run is that of a registry that conforms."""
        return not self.differences

    @property
    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        verdict = "conforms" if self.passed else "DIFFERS"
        return (self.variant, self.version, *_numbers(self.run), verdict)


def table(results: Sequence[Result]) -> str:
    """Render a Markdown table whose columns also line up in a terminal."""
    rows = [HEAD, *(result.cells for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def write(results: Sequence[Result], *, suite: str, readme: Path = README) -> None:
    """Put the table into `readme`, between its two marks. `suite` is the module and version of the suite.

    Raises ValueError if the marks are not there.
    """
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the marks between which the results go")
    readme.write_text(f"{before}{begin}\nWith `{suite}`:\n\n{table(results)}\n\n{end}{after}")


def _numbers(run: Run) -> tuple[str, ...]:
    try:
        counts: Counts = run.counts()
    except Incomplete:
        return ("?",) * 5
    return tuple(str(n) for n in (counts.passed, counts.failed, counts.errors, counts.skipped, counts.disabled))
