"""`pierhead token` as an operator runs it, on the store of a server that may run meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.auth.identities import Action, Grant
from registry.auth.robots import Robots
from storage.filesystem import FileSystemDriver
from storage.robots import RobotStore
from tests.running import ROOT

COMMAND = [sys.executable, "-c", "from registry.cli.robots import app; app(prog_name='pierhead token')"]


def token(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `pierhead token` to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PIERHEAD_", "SUDO_"))}
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env={**inherited, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A store that was opened once."""
    (tmp_path / "pierhead").mkdir()
    return tmp_path


def create(data: Path, *more: str, name: str = "ci") -> str:
    ended = token("create", "--name", name, "--repo", "team/**", "--allow", "pull,push", "--data", data, *more)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def listed(data: Path) -> list[dict[str, object]]:
    ended = token("list", "--json", "--data", data)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def check(data: Path, name: str, text: str) -> tuple[Grant, ...] | None:
    driver = FileSystemDriver(data)
    await driver.start()
    try:
        found = await Robots(RobotStore(driver)).check(name, text)
    finally:
        await driver.close()
    return None if found is None else found.grants


async def test_a_created_token_is_the_only_line_of_output_and_counts(data: Path) -> None:
    ended = token(
        "create", "--name", "ci", "--repo", "team/**", "--repo", "base", "--allow", "pull, push", "--data", data
    )

    assert ended.returncode == 0
    [text] = ended.stdout.splitlines()
    assert text.startswith("phr_")
    assert text not in ended.stderr
    assert "does not expire" in ended.stderr
    assert await check(data, "ci", text) == (Grant(("team/**", "base"), frozenset({Action.PULL, Action.PUSH})),)


async def test_a_list_tells_everything_but_the_token(data: Path) -> None:
    text = create(data, "--expires", "90d")
    await check(data, "ci", text)

    [found] = listed(data)
    plain = token("list", "--data", data).stdout

    assert found["name"] == "ci"
    assert found["grants"] == [{"repositories": ["team/**"], "actions": ["pull", "push"]}]
    assert found["expired"] is False
    assert found["used"] is not None
    assert found["created_by"]
    assert "pull,push in team/**" in plain
    assert str(found["expires"]) in plain
    assert text.rpartition("_")[2] not in plain + json.dumps(found)


def test_who_became_root_is_noted_by_the_own_name(data: Path) -> None:
    ended = token(
        "create", "--name", "ci", "--repo", "a", "--allow", "pull", "--data", data, environment={"SUDO_USER": "alice"}
    )

    assert ended.returncode == 0
    assert listed(data)[0]["created_by"] == "alice"


async def test_tokens_are_revoked_by_id_and_by_name(data: Path) -> None:
    one, two, other = create(data), create(data), create(data, name="cd")

    assert token("revoke", one.split("_")[1], "--data", data).returncode == 0
    assert await check(data, "ci", one) is None
    assert await check(data, "ci", two) is not None
    ended = token("revoke", "ci", "--data", data)
    assert ended.returncode == 0
    assert two.split("_")[1] in ended.stderr
    assert await check(data, "ci", two) is None
    assert await check(data, "cd", other) is not None
    assert token("revoke", "ci", "--data", data).returncode == 1


def test_a_third_token_is_1_and_names_the_two(data: Path) -> None:
    ids = [create(data).split("_")[1] for _ in range(2)]

    ended = token("create", "--name", "ci", "--repo", "a", "--allow", "pull", "--data", data)

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert all(each in ended.stderr for each in ids)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--name", "CI", "no name of a robot"),
        ("--name", "a/b", "no name of a robot"),
        ("--repo", "Team/**", "Team"),
        ("--repo", "/a", "slash"),
        ("--repo", "", "empty"),
        ("--allow", "pull,pus", "'pus' is no action"),
        ("--allow", "", "no action"),
        ("--allow", "admin", "admin"),
        ("--expires", "soon", "--expires"),
        ("--expires", "0", "--expires"),
        ("--expires", "99999999d", "--expires"),
    ],
)
def test_wrong_options_are_2_and_one_line(data: Path, option: str, value: str, said: str) -> None:
    options = {"--name": "ci", "--repo": "team/**", "--allow": "pull", "--expires": "1d", option: value}

    ended = token("create", *(each for pair in options.items() for each in pair), "--data", data)

    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert said in ended.stderr
    assert listed(data) == []


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200), ("90d", 7776000), ("60", 60)])
async def test_times_are_read_with_their_unit(data: Path, text: str, seconds: int) -> None:
    create(data, "--expires", text)
    driver = FileSystemDriver(data)
    await driver.start()

    [found] = [each async for each in RobotStore(driver).list()]

    await driver.close()
    assert found.expires is not None
    assert found.expires - found.created == seconds


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    missing = token("list", "--data", tmp_path / "missing")
    empty = token("revoke", "ci", "--data", tmp_path)

    assert (missing.returncode, empty.returncode) == (2, 3)
    assert list(tmp_path.iterdir()) == []


def test_every_command_shows_an_example() -> None:
    for command in ("create", "list", "revoke"):
        assert f"  pierhead token {command}" in token(command, "--help").stdout.partition("Examples:")[2]
