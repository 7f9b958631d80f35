"""`python -m benchmarks`: measure in turns, print medians and ratios, say which goals hold."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers import Peer, Place, available, serving_store
from benchmarks.report import Rounds, as_json, lines, machine, shown, verdicts
from benchmarks.scenarios import SCENARIOS, Bench, Figures, Scenario
from benchmarks.wire import Unexpected
from tests.s3.weed import Store

LOG_SHOWN_CHARACTERS = 4000


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was chosen; return 0 if every goal holds, 1 if one is missed, 2 if it cannot be measured."""
    chosen = _parser().parse_args(arguments)
    scenarios = [scenario for scenario in SCENARIOS if not chosen.only or scenario.name in chosen.only]
    try:
        peers, missing = available()
        for line in missing:
            print(line, file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="pierhead-bench-", dir=chosen.directory) as place:
            measured = {
                one.name: _measure(one, peers, chosen.rounds, chosen.mebibytes, Path(place)) for one in scenarios
            }
    except Unexpected as failure:
        print(failure, file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(as_json(measured, mebibytes=chosen.mebibytes), indent=2))
    else:
        _print(scenarios, measured)
    return 0 if all(holds for _, _, holds in verdicts(measured)) else 1


def _parser() -> argparse.ArgumentParser:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Pierhead against distribution v3 (and zot, if it is on the PATH) on this machine, in "
        "turns: every round starts each of them on an empty directory of the same file system, or on an empty prefix "
        "of a bucket of SeaweedFS.",
        epilog="Exit code 0: every goal holds. 1: a goal is missed. 2: it could not be measured.",
    )
    parser.add_argument("--only", action="append", choices=names, help="only this scenario (may be repeated)")
    parser.add_argument("--rounds", type=_positive, default=5, help="how often each is measured (5)")
    parser.add_argument("--mebibytes", type=_positive, default=1024, help="the size of the large blob (1024)")
    parser.add_argument("--directory", type=Path, help="where the data lies, on a real disk (the system's /tmp)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON instead of the table")
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return number


def _measure(scenario: Scenario, all_peers: Sequence[Peer], count: int, mebibytes: int, place: Path) -> Rounds:
    peers = [peer for peer in all_peers if scenario.measures(peer.name)]
    rounds: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
    for number in range(count):
        first = number % len(peers)  # nobody is always the one who comes after a certain other
        with _store(scenario, place / "store") as store:
            for peer in [*peers[first:], *peers[:first]]:
                print(f"{scenario.name}, round {number + 1} of {count}, {peer.name}", file=sys.stderr)
                directory = place / peer.name
                directory.mkdir()
                rounds[peer.name].append(_once(scenario, peer, Place(directory, store), mebibytes))
                _remove(directory)
    return rounds


@contextlib.contextmanager
def _store(scenario: Scenario, directory: Path) -> Iterator[Store | None]:
    """The store for one round, if there is to be one: a new one each time, so that no round adds to the disk."""
    if not scenario.over_bucket:
        yield None
        return
    with serving_store(directory) as store:
        yield store
    _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory)
    os.sync()  # what one has left to write must not be written at the cost of the next


def _once(scenario: Scenario, peer: Peer, place: Place, mebibytes: int) -> Figures:
    with peer.serving(place) as server:
        try:
            return scenario.run(Bench(server, mebibytes, place.store, peer.collector))
        except Unexpected as failure:
            log = server.log.read_text(errors="replace")
            raise Unexpected(f"{failure}\nthe log of {peer.name}:\n{log[-LOG_SHOWN_CHARACTERS:]}") from None


def _print(scenarios: Sequence[Scenario], measured: dict[str, Rounds]) -> None:
    print(", ".join(f"{name}: {value}" for name, value in machine().items()))
    for scenario in scenarios:
        print("", *lines(scenario, measured[scenario.name]), sep="\n")
    print()
    for goal, figure, holds in verdicts(measured):
        reading = f"{figure:.2f}" if goal.ratio else shown(figure, goal.unit)
        print(f"{'holds ' if holds else 'MISSED'}  {goal} (measured: {reading})")


if __name__ == "__main__":
    sys.exit(main())
