"""`pierhead audit verify` as an operator meets it: exit codes, and what it prints."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from registry.cli.audit import app
from storage.filesystem import FileSystemDriver
from tests.audit.trails import KEY, push, write
from tests.running import ROOT


class Commands:
    """A store, a trail beside it, and the command on both."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "audit.log"
        self.data = directory / "data"
        self.data.mkdir()

    async def write(self, count: int, **options: object) -> None:
        """Write events."""
        driver = FileSystemDriver(self.data)
        await driver.start()
        await write(self.file, driver, (push(number) for number in range(count)), **options)
        await driver.close()

    def verify(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command: exit code, output, errors."""
        ended = CliRunner().invoke(app, ["verify", "--file", str(self.file), "--data", str(self.data), *arguments])
        return ended.exit_code, ended.stdout, ended.stderr


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def cut(file: Path, count: int) -> None:
    """Take lines from the end of a file."""
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-count]))


def test_the_command_runs_as_a_process(tmp_path: Path) -> None:
    code = "from registry.cli.audit import app; app()"
    command = [sys.executable, "-c", code, "verify", "--file", str(tmp_path / "audit.log"), "--data", str(tmp_path)]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout.splitlines()[0]) == (
        2,
        f"error: head-missing: {tmp_path}/pierhead/audit/head",
    )
    assert "there is no audit trail" in ended.stderr


async def test_a_whole_trail_is_0(commands: Commands) -> None:
    await commands.write(5)

    code, output, errors = await in_thread(commands)

    assert (code, errors) == (0, "")
    time = "1970-01-12T13:46:40.000000Z"
    assert output == f"verified: 5 events, from {time} to {time}, in 1 file: 0 errors, 0 warnings\n"


async def test_a_cut_trail_is_3_and_tells_where(commands: Commands) -> None:
    await commands.write(5)
    cut(commands.file, 2)

    code, output, _ = await in_thread(commands)

    assert code == 3
    assert f"error: truncated: {commands.file}:3\n" in output
    assert "events 4 to 5" in output
    assert "broken: 3 events" in output


async def test_a_torn_line_is_1(commands: Commands) -> None:
    await commands.write(2)
    with commands.file.open("ab") as file:
        file.write(b'{"seq":3,')

    code, output, _ = await in_thread(commands)

    assert code == 1
    assert f"warning: torn: {commands.file}:3\n" in output


async def test_json_is_one_object_a_line_with_the_summary_last(commands: Commands) -> None:
    await commands.write(5, key=KEY)
    cut(commands.file, 1)

    code, output, _ = await in_thread(commands, "--json")

    finding, summary = [json.loads(line) for line in output.splitlines()]
    assert code == 3
    assert (finding["finding"], finding["severity"], finding["line"]) == ("truncated", "error", 4)
    assert (summary["summary"], summary["events"], summary["files"]) == ("broken", 4, 1)
    assert summary["macs"] == {"checked": 0, "unchecked": 4}


async def test_with_a_key_the_macs_are_checked(commands: Commands, tmp_path: Path) -> None:
    await commands.write(3, key=KEY)
    for name, key in (("right", KEY), ("wrong", b"w" * 32)):
        path = tmp_path / name
        path.write_bytes(key)
        path.chmod(0o600)

    assert (await in_thread(commands, "--key", str(tmp_path / "right")))[0] == 0
    assert (await in_thread(commands, "--key", str(tmp_path / "wrong")))[0] == 3
    assert "was not checked: give --key" in (await in_thread(commands))[1]
    (tmp_path / "right").chmod(0o644)
    code, _, errors = await in_thread(commands, "--key", str(tmp_path / "right"))
    assert (code, "chmod 600" in errors) == (2, True)


async def test_file_key_and_store_are_taken_from_the_configuration(commands: Commands, tmp_path: Path) -> None:
    await commands.write(3, key=KEY)
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    config = tmp_path / "pierhead.toml"
    config.write_text(f'data = "{commands.data}"\n[audit]\nfile = "{commands.file}"\nkey_file = "{tmp_path / "key"}"\n')

    ended = await asyncio.to_thread(CliRunner().invoke, app, ["verify", "--config", str(config), "--json"])

    assert (ended.exit_code, json.loads(ended.stdout)["macs"]) == (0, {"checked": 3, "unchecked": 0})


def test_no_file_at_all_is_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    ended = CliRunner().invoke(app, ["verify", "--data", str(tmp_path)])

    assert (ended.exit_code, "--file" in ended.stderr) == (2, True)


async def test_a_missing_head_is_3_unless_it_is_not_asked_for(commands: Commands) -> None:
    await commands.write(3)
    (commands.data / "pierhead/audit/head").unlink()

    code, output, _ = await in_thread(commands)
    assert code == 3
    assert "head-missing" in output

    cut(commands.file, 1)
    assert (await in_thread(commands, "--without-head"))[0] == 0


async def test_a_trail_and_a_store_that_are_not_there_are_2(commands: Commands) -> None:
    assert (await in_thread(commands, "--without-head"))[0] == 2
    assert (await in_thread(commands, "--data", str(commands.data / "missing")))[0] == 2


async def test_what_stands_in_a_name_is_printed_without_control_characters(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    commands.file = tmp_path / "audit\x1b[2J.log"
    await commands.write(3)
    cut(commands.file, 1)

    _, output, _ = await in_thread(commands)

    assert "\x1b" not in output
    assert "audit\\x1b[2J.log:2" in output


async def test_show_prints_the_lines_that_are_asked_for(commands: Commands) -> None:
    await commands.write(12, bytes_max=1500)

    def shown(*arguments: str) -> list[dict[str, object]]:
        ended = CliRunner().invoke(app, ["show", "--file", str(commands.file), *arguments])
        assert ended.exit_code == 0
        return [json.loads(line) for line in ended.stdout.splitlines()]

    entries = shown()
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    assert len(shown("--event", "push")) == 12 < len(entries)
    assert len(shown("--actor", "user:alice", "--repository", "team/app")) == 12
    assert shown("--actor", "user:bob") == []
    assert len(shown("--since", "1970-01-12T13:46")) == len(entries)
    assert shown("--since", "1970-01-13") == []


def test_show_of_a_file_that_is_not_there_is_3(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["show", "--file", str(tmp_path / "audit.log")])

    assert (ended.exit_code, "No such file" in ended.stderr) == (3, True)


async def in_thread(commands: Commands, *arguments: str) -> tuple[int, str, str]:
    """Run the command beside the test's event loop, for it has one of its own."""
    return await asyncio.to_thread(commands.verify, *arguments)
