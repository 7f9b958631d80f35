"""A proxy in a process of its own whose faults come by chance, so that it takes nothing of its test's time.

Run as `python -m tests.s3.storm <store> <seed> <late seconds>`. It prints where it listens; each line of its input is
the chances from then on, in JSON, and is answered by a line with what has come by so far.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import uvloop

from tests.running import ROOT
from tests.s3.faults import Fault, Plan, proxying

END_SECONDS = 10.0
ANY = "any"

Chances = Mapping[str, Mapping[Fault, float]]
"""From the kind of a call, or ANY for those that are not named, to how likely each fault is."""


@dataclass(frozen=True, slots=True)
class Passed:
    """How many calls of each kind have come by, and how many of them met with each fault."""

    calls: dict[str, int]
    faults: dict[str, dict[Fault, int]]

    def __str__(self) -> str:
        """A line for each kind of call."""
        return "\n".join(
            f"{kind}: {count} calls" + "".join(f", {n} {f.name}" for f, n in self.faults.get(kind, {}).items())
            for kind, count in sorted(self.calls.items())
        )


class Storm:
    """A running proxy: `endpoint` instead of the store's."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.endpoint = self._read()

    def blow(self, chances: Chances) -> Passed:
        """Let calls fail by chance from now on; returns what has come by so far."""
        told = {kind: {fault.name: chance for fault, chance in faults.items()} for kind, faults in chances.items()}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._read())
        faults = {kind: {Fault[name]: n for name, n in each.items()} for kind, each in answer["faults"].items()}
        return Passed(answer["calls"], faults)

    def calm(self) -> Passed:
        """Let no more calls fail."""
        return self.blow({})

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the proxy has ended")
        return line.strip()


@contextlib.contextmanager
def storming(target: str, seed: str, *, late_seconds: float) -> Iterator[Storm]:
    """Run a proxy in front of a store, for the length of a block. At first nothing fails."""
    command = [sys.executable, "-m", "tests.s3.storm", target, seed, str(late_seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Storm(process)
    finally:
        with process:
            process.kill()


def by_chance(seed: str, chances: Chances) -> Plan:
    """A fault is decided by the seed, the kind of the call and its number: the same in every run."""

    def plan(kind: str, number: int) -> Fault | None:
        drawn = random.Random(f"{seed} {kind} {number}").random()
        for fault, chance in chances.get(kind, chances.get(ANY, {})).items():
            if drawn < chance:
                return fault
            drawn -= chance
        return None

    return plan


async def main(target: str, seed: str, late_seconds: float) -> None:
    """Serve until the input ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with proxying(target) as proxy:
        proxy.late_seconds = late_seconds
        _say(proxy.endpoint)
        while line := await lines.readline():
            told = json.loads(line)
            chances = {kind: {Fault[name]: chance for name, chance in each.items()} for kind, each in told.items()}
            proxy.plan = by_chance(seed, chances) if chances else None
            faults: dict[str, dict[str, int]] = {}
            for (kind, fault), count in proxy.faults.items():
                faults.setdefault(kind, {})[fault.name] = count
            _say(json.dumps({"calls": proxy.counts, "faults": faults}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
