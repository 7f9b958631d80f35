"""The benchmarks measure what they say: CPU and memory of whole families, ratios by pairs, goals."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.load import reading
from benchmarks.peers import BASELINE, PRIVATE, SUBJECT
from benchmarks.processes import cpu_seconds, family, peak_bytes, reset_peak, resident_bytes
from benchmarks.report import GOALS, ratios, verdicts
from benchmarks.scenarios import SCENARIOS, percentile
from benchmarks.trees import MANIFEST_TYPE, Shape, count_bytes, write_tree
from benchmarks.wire import CHUNK_BYTES, Content, Unexpected, connected, framed, with_digest
from tests.conftest import refuse, tool_or_skip
from tests.distribution import V3, collect_garbage, serving_distribution
from tests.running import Server, eventually
from tests.s3.weed import BUCKET, Store, find_weed, how_to_get_weed

# A leader whose child waits for a word, then works and takes and frees 64 MiB.
CHILD = """
import sys, time
print("ready", flush=True)
sys.stdin.readline()
held = bytearray(64 << 20)
del held
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("done", flush=True)
sys.stdin.readline()
"""
LEADER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LEADER, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process
        assert process.stdin
        process.stdin.close()


def say(process: subprocess.Popen[str], *, until: str, first: bool = False) -> None:
    assert process.stdin
    assert process.stdout
    if not first:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert process.stdout.readline().strip() == until


def test_work_and_peak_of_a_child_count_for_its_leader(leader: subprocess.Popen[str]) -> None:
    say(leader, until="ready", first=True)
    assert len(family(leader.pid)) == 2
    idle, cpu = resident_bytes(leader.pid), cpu_seconds(leader.pid)
    reset_peak(leader.pid)
    assert peak_bytes(leader.pid) - idle < 8 << 20

    say(leader, until="done")

    assert 0.25 < cpu_seconds(leader.pid) - cpu < 5
    assert 56 << 20 < peak_bytes(leader.pid) - idle < 80 << 20
    assert resident_bytes(leader.pid) - idle < 32 << 20


def test_content_is_fresh_each_time_and_hashes_to_its_digest() -> None:
    one, other = Content(3), Content(3)

    bodies = [bytes(frame).removeprefix(b"100000\r\n").removesuffix(b"\r\n") for frame in one.framed()]

    assert [len(body) for body in bodies] == [CHUNK_BYTES] * 3
    assert len(set(bodies)) == 3
    assert one.digest == f"sha256:{hashlib.sha256(b''.join(bodies)).hexdigest()}"
    assert one.digest != other.digest


def test_a_chunk_is_framed_with_its_length_in_hexadecimal() -> None:
    assert framed(b"a chunk of some bytes") == b"15\r\na chunk of some bytes\r\n"


def test_a_store_tells_how_many_calls_it_has_answered(weed: Store) -> None:
    client = weed.client()
    before = weed.calls()

    client.put_object(Bucket=BUCKET, Key="counted", Body=b"1")  # type: ignore[attr-defined]
    client.delete_object(Bucket=BUCKET, Key="counted")  # type: ignore[attr-defined]

    assert weed.calls() - before == 2


def test_the_digest_joins_the_query_that_a_location_has() -> None:
    assert with_digest("/v2/a/blobs/uploads/1", "sha256:0") == "/v2/a/blobs/uploads/1?digest=sha256:0"
    assert with_digest("/v2/a/blobs/uploads/1?_state=x", "sha256:0") == "/v2/a/blobs/uploads/1?_state=x&digest=sha256:0"


def test_a_ratio_is_of_figures_that_were_measured_side_by_side() -> None:
    rounds = {
        SUBJECT: [{"wall": 1.0}, {"wall": 30.0}, {"wall": 2.0}],
        BASELINE: [{"wall": 2.0}, {"wall": 10.0}, {"wall": 4.0}],
    }

    spread = ratios(rounds, SUBJECT, "wall")

    assert (spread.least, spread.median, spread.greatest) == (0.5, 0.5, 3.0)


@pytest.mark.parametrize("deleted", [False, True])
def test_half_of_a_tree_is_garbage_for_distribution_too(tmp_path: Path, deleted: bool) -> None:
    program = tool_or_skip(V3)
    shape = Shape(manifests=40, blobs=120, repositories=5, deleted=deleted)

    tagged = write_tree(tmp_path / "data", shape)
    before = count_bytes(tmp_path / "data")
    collect_garbage(program, tmp_path / "data", log=tmp_path / "log", delete_untagged=not deleted, quiet=True)

    assert before == 160
    assert count_bytes(tmp_path / "data") == shape.kept == 80
    assert len({each.path for each in tagged}) == 20
    with (
        serving_distribution(program, tmp_path / "data", log=tmp_path / "log") as server,
        connected(server.address) as connection,
    ):
        for each in tagged:
            connection.request("GET", each.path, expected=200, headers={"Accept": MANIFEST_TYPE})


def test_a_percentile_is_a_figure_that_was_measured() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.0
    assert percentile([float(number) for number in range(1, 101)], 99) == 99.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(Unexpected):
        percentile([], 99)


def test_reading_at_a_steady_rate_counts_what_it_got_and_tells_what_it_did_not(pierhead: Server) -> None:
    with reading(pierhead, ["/v2/"], per_second=100, connections=2, accept="*/*") as seconds:
        eventually(lambda: len(seconds) > 10)
    assert all(0 < each < 5 for each in seconds)

    with (
        pytest.raises(Unexpected, match="404"),
        reading(pierhead, ["/v2/nobody/app/manifests/v1"], per_second=100, connections=2, accept="*/*"),
    ):
        time.sleep(0.2)


def figures(*, wall: float = 1, finish: float = 1, memory: float = 1e6, rate: float = 100) -> dict[str, float]:
    return {"wall": wall, "finish": finish, "memory": memory, "rate": rate, "cpu": 1}


@pytest.mark.parametrize(
    ("scenario", "subject", "held"),
    [
        ("push-large", figures(), {"wall": True, "memory": True}),
        ("push-large", figures(wall=1.01), {"wall": False, "memory": True}),
        ("push-large", figures(memory=151e6), {"wall": True, "memory": False}),
        ("get-manifest", figures(), {"rate": True}),
        ("get-manifest", figures(rate=99), {"rate": False}),
        ("push-private", figures(), {"cpu": True}),
        ("push-private", {**figures(), "cpu": 1.16}, {"cpu": False}),
        ("push-large-s3", figures(wall=0.8, finish=0.25), {"wall": True, "finish": True}),
        ("push-large-s3", figures(wall=0.81, finish=0.25), {"wall": False, "finish": True}),
        ("push-large-s3", figures(wall=0.8, finish=0.26), {"wall": True, "finish": False}),
        ("push-small-s3", figures(rate=150), {"rate": True}),
        ("push-small-s3", figures(rate=149), {"rate": False}),
        ("gc-untagged", {**figures(wall=1), "slowdown": 2.0}, {"wall": True, "slowdown": True}),
        ("gc-deleted", {**figures(wall=1.01), "slowdown": 2.01}, {"wall": False, "slowdown": False}),
        ("list-tags", figures(rate=1), {}),
    ],
)
def test_a_goal_is_missed_as_soon_as_its_limit_is_passed(
    scenario: str, subject: dict[str, float], held: dict[str, bool]
) -> None:
    rounds = {SUBJECT: [subject], BASELINE: [figures()]}
    if scenario == "push-private":
        rounds = {PRIVATE: [subject], SUBJECT: [figures()]}

    found = verdicts({scenario: rounds})

    assert {goal.metric: holds for goal, _, holds in found} == held


def test_goals_are_about_scenarios_that_exist() -> None:
    metrics = {scenario.name: {metric.name for metric in scenario.metrics} for scenario in SCENARIOS}

    assert all(goal.metric in metrics[goal.scenario] for goal in GOALS)


@pytest.mark.parametrize(
    "scenario",
    [
        "push-large",
        "pull-large",
        "push-small",
        "push-private",
        "gc-untagged",
        "gc-deleted",
        "push-large-s3",
        "push-small-s3",
    ],
)
def test_a_short_run_measures_every_registry_and_leaves_nothing_behind(
    scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool_or_skip(V3)
    if scenario.endswith("-s3") and find_weed() is None:
        refuse(how_to_get_weed())
    monkeypatch.setattr("benchmarks.scenarios.IMAGES", 16)
    monkeypatch.setattr("benchmarks.scenarios.GARBAGE", Shape(manifests=200, blobs=600, repositories=10))
    monkeypatch.setattr("benchmarks.scenarios.IDLE_SECONDS", 0.5)

    code = main(["--only", scenario, "--rounds", "1", "--mebibytes", "4", "--directory", str(tmp_path), "--json"])

    printed = json.loads(capsys.readouterr().out)
    measured = printed["figures"][scenario]
    assert {SUBJECT, PRIVATE if scenario == "push-private" else BASELINE} <= set(measured)
    counted = {"wall", "rate", "finish", "store calls", "store cpu", "p99", "p99 idle", "slowdown"}
    for rounds in measured.values():
        assert all(figure > 0 for name, figure in rounds[0].items() if name in counted)
        assert ("store calls" in rounds[0]) == scenario.endswith("-s3")
    assert code == (0 if all(goal["holds"] for goal in printed["goals"]) else 1)
    assert not list(tmp_path.iterdir())


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])

    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for word in ("--only", "--rounds", "--json", *(scenario.name for scenario in SCENARIOS)):
        assert word in shown
