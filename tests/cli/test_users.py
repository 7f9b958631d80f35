"""`pierhead user` as a person runs it: passwords are asked for unseen, and every refusal is one line."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest

from registry.auth.htpasswd import parse
from tests.running import ROOT

COMMAND = [sys.executable, "-c", "from registry.cli.users import app; app(prog_name='pierhead user')"]


def user(*arguments: str | Path, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Run `pierhead user` to its end."""
    ended = subprocess.run(
        [*COMMAND, *arguments],
        cwd=ROOT,
        input=stdin if isinstance(stdin, bytes) else stdin.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def add(path: Path, name: str, password: str = "correct horse") -> None:
    ended = user("add", name, "--htpasswd", path, "--password-stdin", stdin=password)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "htpasswd"


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"])
def test_a_password_from_standard_input_is_taken_without_its_line_end(path: Path, line_end: str) -> None:
    ended = user("add", "alice", "--htpasswd", path, "--password-stdin", stdin=f"correct horse {line_end}")

    assert ended.returncode == 0
    assert ended.stdout == ""
    stored = parse(path.read_bytes()).hashes["alice"]
    assert bcrypt.checkpw(b"correct horse ", stored.encode())
    assert stored.startswith("$2b$12$")


def test_a_new_file_is_told_and_an_old_one_is_not(path: Path) -> None:
    first = user("add", "alice", "--htpasswd", path, "--password-stdin", stdin="correct horse")
    second = user("add", "bob", "--htpasswd", path, "--password-stdin", stdin="correct horse")

    assert first.stderr.splitlines()[0] == second.stderr.replace("bob", "alice").strip() == "added alice"
    assert "give it to the user of the server" in first.stderr
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_user_is_not_added_twice_and_the_password_is_not_even_read(path: Path) -> None:
    add(path, "alice")
    before = path.read_bytes()

    ended = user("add", "alice", "--htpasswd", path)

    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "passwd" in ended.stderr
    assert path.read_bytes() == before


def test_a_password_is_changed_and_the_others_stay(path: Path) -> None:
    add(path, "alice")
    add(path, "bob")
    before = parse(path.read_bytes()).hashes

    ended = user("passwd", "alice", "--htpasswd", path, "--password-stdin", stdin="another horse")

    after = parse(path.read_bytes()).hashes
    assert ended.returncode == 0
    assert after["bob"] == before["bob"]
    assert bcrypt.checkpw(b"another horse", after["alice"].encode())


def test_a_user_is_removed_and_what_is_not_there_is_1(path: Path) -> None:
    add(path, "alice")

    assert user("remove", "alice", "--htpasswd", path).returncode == 0
    assert path.read_text() == ""
    for command in ("remove", "passwd"):
        ended = user(command, "alice", "--htpasswd", path)
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert "there is no user alice" in ended.stderr


@pytest.mark.parametrize("password", [b"", b"short\n", b"alicealice", b"two\nlines here", b"\xff" * 9, b"x" * 73])
def test_a_password_that_can_not_be_taken_is_2_and_not_shown(path: Path, password: bytes) -> None:
    ended = user("add", "alicealice", "--htpasswd", path, "--password-stdin", stdin=password)

    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "short" not in ended.stderr
    assert not path.exists()


@pytest.mark.parametrize("name", ["a:b", "", " a", "a\nb", "#a", "x" * 256])
def test_a_name_that_no_user_can_have_is_2(path: Path, name: str) -> None:
    for command in ("add", "passwd"):
        ended = user(command, name, "--htpasswd", path, "--password-stdin", stdin="correct horse")
        assert ended.returncode in ((2,) if command == "add" else (2, 3))
        assert ended.stderr.count("\n") == 1
    assert not path.exists()


def test_a_file_that_is_absent_or_no_htpasswd_is_3(path: Path) -> None:
    assert user("list", "--htpasswd", path).returncode == 3
    path.write_text("\x1b[2J what is this\n")

    for arguments in (["list"], ["remove", "alice"], ["add", "alice", "--password-stdin"]):
        ended = user(*arguments, "--htpasswd", path, stdin="correct horse")
        assert (ended.returncode, ended.stderr.count("\n")) == (3, 1)
        assert "line 1" in ended.stderr


def test_the_list_tells_who_can_not_log_in_and_why(path: Path) -> None:
    add(path, "alice")
    assert user("list", "--htpasswd", path).stdout == "alice\n"
    path.write_text(path.read_text() + "b\u202eob:$apr1$secret\n")

    ended = user("list", "--htpasswd", path)

    assert ended.returncode == 1
    assert ended.stdout.splitlines()[0] == "alice"
    assert ended.stdout.splitlines()[1].startswith("b\\u202eob\tthe hash is not bcrypt")
    assert "secret" not in ended.stdout


def test_without_a_terminal_the_option_is_named(path: Path) -> None:
    ended = user("add", "alice", "--htpasswd", path)

    assert ended.returncode == 2
    assert "--password-stdin" in ended.stderr


def test_on_a_terminal_the_password_is_asked_for_twice_and_not_shown(path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "add", "alice", "--htpasswd", str(path)],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    for prompt in (b"Password: ", b"The same again: "):
        while prompt not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, b"correct horse\n")
    shown += _rest(ours)

    assert process.wait(30) == 0
    assert b"horse" not in shown
    assert bcrypt.checkpw(b"correct horse", parse(path.read_bytes()).hashes["alice"].encode())


def _rest(descriptor: int) -> bytes:
    text = b""
    try:
        while more := os.read(descriptor, 1000):
            text += more
    except OSError:
        pass  # EIO: the other side is closed
    os.close(descriptor)
    return text


def test_every_command_shows_an_example() -> None:
    for command in ("add", "passwd", "remove", "list"):
        assert f"  pierhead user {command}" in user(command, "--help").stdout.partition("Examples:")[2]
