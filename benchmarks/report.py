"""Medians with their spread, ratios by pairs, and whether the goals hold."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers import BASELINE, PRIVATE, SUBJECT
from benchmarks.scenarios import SCENARIOS, Figures, Metric, Scenario

Rounds = Mapping[str, Sequence[Figures]]
"""By peer, the figures of each round; the n-th of one peer was measured beside the n-th of another."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some figures."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Sum up one figure or more."""
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise about Pierhead with its default number of workers, in one scenario.

    It is about a ratio to the baseline, or else about a figure in `unit`.
    """

    scenario: str
    metric: str
    limit: float
    ratio: bool
    at_least: bool = False
    unit: str = "bytes"
    subject: str = SUBJECT
    baseline: str = BASELINE

    def __str__(self) -> str:
        what = self.metric
        if self.ratio:
            what += f" as a ratio to {self.baseline}"
        elif self.unit == "bytes":
            what += " beyond idle"
        limit = f"{self.limit:g}" if self.ratio else shown(self.limit, self.unit)
        return f"{self.scenario}: {what} {'at least' if self.at_least else 'at most'} {limit}"

    def measured(self, rounds: Rounds) -> float:
        """Return the median that is held against the limit."""
        if self.ratio:
            return ratios(rounds, self.subject, self.metric, self.baseline).median
        return Spread.of([figures[self.metric] for figures in rounds[self.subject]]).median

    def holds(self, rounds: Rounds) -> bool:
        """Whether the median keeps to the limit."""
        measured = self.measured(rounds)
        return measured >= self.limit if self.at_least else measured <= self.limit


GOALS = (
    Goal("push-large", "wall", 1.0, ratio=True),
    Goal("push-large", "memory", 150e6, ratio=False),
    Goal("get-manifest", "rate", 1.0, ratio=True, at_least=True),
    Goal("push-private", "cpu", 1.15, ratio=True, subject=PRIVATE, baseline=SUBJECT),
    Goal("gc-untagged", "wall", 1.0, ratio=True),
    Goal("gc-untagged", "slowdown", 2.0, ratio=False, unit="times"),
    Goal("gc-deleted", "wall", 1.0, ratio=True),
    Goal("gc-deleted", "slowdown", 2.0, ratio=False, unit="times"),
    Goal("push-large-s3", "wall", 0.8, ratio=True),
    Goal("push-large-s3", "finish", 0.25, ratio=True),
    Goal("push-small-s3", "rate", 1.5, ratio=True, at_least=True),
)


def ratios(rounds: Rounds, peer: str, metric: str, baseline: str = BASELINE) -> Spread:
    """Sum up the ratios of a peer's figures to the baseline's, each to the one measured beside it."""
    pairs = zip(rounds[peer], rounds[baseline], strict=True)
    return Spread.of([one[metric] / other[metric] if other[metric] else float("inf") for one, other in pairs])


def lines(scenario: Scenario, rounds: Rounds) -> list[str]:
    """Render one scenario: a line for each metric and peer."""
    rows = [("", "median", "min - max", f"ratio to {scenario.baseline}", "min - max")]
    rows += [
        _row(metric, peer, rounds, scenario.baseline)
        for metric in scenario.metrics
        for peer in rounds
        if all(metric.name in figures for figures in rounds[peer])
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [scenario.title, *("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]


def verdicts(measured: Mapping[str, Rounds]) -> list[tuple[Goal, float, bool]]:
    """Return each goal whose scenario was run, with its figure and whether it holds."""
    return [
        (goal, goal.measured(measured[goal.scenario]), goal.holds(measured[goal.scenario]))
        for goal in GOALS
        if goal.scenario in measured
    ]


def machine() -> dict[str, str | int]:
    """Return what the absolute figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def as_json(measured: Mapping[str, Rounds], *, mebibytes: int) -> dict[str, object]:
    """Everything that was measured, for a program to read."""
    return {
        "machine": machine(),
        "mebibytes": mebibytes,
        "baselines": {scenario.name: scenario.baseline for scenario in SCENARIOS if scenario.name in measured},
        "figures": measured,
        "goals": [
            {"goal": str(goal), "measured": figure, "holds": holds} for goal, figure, holds in verdicts(measured)
        ],
    }


def shown(figure: float, unit: str) -> str:
    """Render a figure in a unit that reads well."""
    if unit == "bytes":
        return f"{figure / 1e6:.1f} MB"
    if unit == "s each":
        return f"{figure * 1e6:.0f} us each"
    if unit == "ms":
        return f"{figure * 1e3:.3g} ms"
    return f"{figure:.0f}{unit}" if unit == "/s" else f"{figure:.2f} {unit}"


def _row(metric: Metric, peer: str, rounds: Rounds, baseline: str) -> tuple[str, str, str, str, str]:
    spread = Spread.of([figures[metric.name] for figures in rounds[peer]])
    reading = (
        f"{metric.name}, {peer}",
        shown(spread.median, metric.unit),
        f"{shown(spread.least, metric.unit)} - {shown(spread.greatest, metric.unit)}",
    )
    if peer == baseline:
        return (*reading, "1", "")
    if any(metric.name not in figures for figures in rounds[baseline]):
        return (*reading, "", "")
    ratio = ratios(rounds, peer, metric.name, baseline)
    return (*reading, f"{ratio.median:.2f}", f"{ratio.least:.2f} - {ratio.greatest:.2f}")
