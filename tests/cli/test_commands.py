"""The command as a person runs it: exit codes, one line a problem, no traceback."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from registry.cli.redirects import ENDPOINT_VARIABLES, redirect_warnings
from registry.config_sources import load
from tests.conftest import Starter
from tests.running import ROOT


def pierhead(*arguments: str, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `pierhead` to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "registry", *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_valid_configuration_is_printed_with_what_set_each_value(tmp_path: Path) -> None:
    (tmp_path / "pierhead.toml").write_text("workers = 7\n")

    ended = pierhead("check-config", cwd=tmp_path, environment={"PIERHEAD_LISTEN": "127.0.0.1:1"})

    assert ended.returncode == 0
    assert 'listen = "127.0.0.1:1"  # PIERHEAD_LISTEN' in ended.stdout
    assert "workers = 7  # pierhead.toml: workers" in ended.stdout
    assert "delete = true  # default" in ended.stdout
    assert "the configuration is valid" in ended.stdout
    assert "does not exist: pierhead serve will make it" in ended.stderr


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_wrong_configuration_is_told_line_by_line_with_exit_code_2(tmp_path: Path, command: str) -> None:
    ended = pierhead(command, cwd=tmp_path, environment={"PIERHEAD_WORKER": "1", "PIERHEAD_DELETE": "perhaps"})

    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert lines[0] == "pierhead: PIERHEAD_WORKER: unknown variable: did you mean PIERHEAD_WORKERS?"
    assert lines[1].startswith("pierhead: PIERHEAD_DELETE: input should be a valid boolean")
    assert len(lines) == 2


def test_an_address_that_others_reach_is_refused_unless_asked_for_by_name(tmp_path: Path) -> None:
    ended = pierhead("serve", "--listen", "0.0.0.0:0", cwd=tmp_path)

    assert ended.returncode == 2
    assert "--allow-anonymous" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_address_that_is_taken_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = pierhead("serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", cwd=tmp_path)

    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert "in use" in line


def test_an_unknown_command_names_the_nearest_and_an_unknown_option_is_named(tmp_path: Path) -> None:
    assert "serve" in pierhead("srve", cwd=tmp_path).stderr
    wrong = pierhead("serve", "--listn", "x", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--listn" in wrong.stderr


def test_what_stands_in_a_file_can_not_forge_a_line(tmp_path: Path) -> None:
    (tmp_path / "pierhead.toml").write_text('"a\\nb\\u001b[1m" = 1\n')

    ended = pierhead("check-config", cwd=tmp_path)

    assert re.fullmatch(
        r"pierhead: pierhead\.toml: a\\nb\\x1b\[1m: unknown key: did you mean [a-z._]+\?\n", ended.stderr
    )


def test_a_data_directory_that_can_not_be_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = pierhead("check-config", cwd=tmp_path, environment={"PIERHEAD_DATA": str(tmp_path / "file" / "data")})

    assert ended.returncode == 0
    assert ended.stderr.splitlines() == [
        f"pierhead: warning: the data directory {tmp_path}/file/data can't be used: {tmp_path}/file is not a directory"
    ]


LOCAL, NEAR, SAFE = "http://127.0.0.1:8333", "http://10.0.0.9:8333", "https://store.example"
REMEDY = "set s3.redirect_endpoint, or s3.redirect = false"
UNREACHABLE = f"clients get blobs from {LOCAL}, which only this machine reaches: {REMEDY}"
IN_THE_CLEAR = f"clients get blobs in the clear, from {NEAR}: {REMEDY}"
PUBLIC = {"PIERHEAD_ALLOW_ANONYMOUS_PUSH": "true", "PIERHEAD_LISTEN": ":5000"}


@pytest.mark.parametrize(
    ("environment", "warnings"),
    [
        ({"PIERHEAD_S3_ENDPOINT": LOCAL}, []),
        ({"PIERHEAD_S3_ENDPOINT": LOCAL, **PUBLIC}, [UNREACHABLE]),
        ({"PIERHEAD_S3_ENDPOINT": LOCAL, "PIERHEAD_TRUSTED_PROXIES": "127.0.0.1"}, [UNREACHABLE]),
        ({"AWS_ENDPOINT_URL": LOCAL, "PIERHEAD_LISTEN": "unix:/run/x.sock"}, [UNREACHABLE]),
        ({"AWS_ENDPOINT_URL": LOCAL, "AWS_ENDPOINT_URL_S3": SAFE, **PUBLIC}, []),
        ({"PIERHEAD_S3_ENDPOINT": LOCAL, "PIERHEAD_S3_REDIRECT_ENDPOINT": SAFE, **PUBLIC}, []),
        ({"PIERHEAD_S3_ENDPOINT": LOCAL, "PIERHEAD_S3_REDIRECT": "false", **PUBLIC}, []),
        ({"PIERHEAD_S3_ENDPOINT": LOCAL, "PIERHEAD_S3_REDIRECT_NETWORKS": "127.0.0.0/8, ::1", **PUBLIC}, []),
        ({"PIERHEAD_S3_ENDPOINT": NEAR, **PUBLIC}, []),
        ({"PIERHEAD_S3_ENDPOINT": NEAR, "PIERHEAD_AUTH_URL": "https://registry.example"}, [IN_THE_CLEAR]),
        ({"PIERHEAD_S3_ENDPOINT": "http://[", **PUBLIC}, []),
        (PUBLIC, []),
        (
            {"PIERHEAD_S3_REDIRECT": "false", "PIERHEAD_S3_REDIRECT_SECONDS": "60"},
            ["s3.redirect_seconds has no effect: s3.redirect is false"],
        ),
        (
            {"PIERHEAD_DATA": "data", "PIERHEAD_S3_REDIRECT_NETWORKS": "::1"},
            ["s3.redirect_networks has no effect: the data are in no bucket"],
        ),
    ],
)
def test_what_will_be_wrong_with_redirects_is_told_before(
    environment: dict[str, str], warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        if name in environment:
            monkeypatch.setenv(name, environment[name])
    given = {"PIERHEAD_DATA": "s3://images", **environment}
    settings = load(options={}, environment={k: v for k, v in given.items() if k.startswith("PIERHEAD_")}).settings

    assert list(redirect_warnings(settings)) == warnings


def test_check_config_prints_the_settings_of_redirects_and_warns(tmp_path: Path) -> None:
    given = {"PIERHEAD_DATA": "s3://images", "PIERHEAD_S3_ENDPOINT": LOCAL, **PUBLIC}

    ended = pierhead("check-config", cwd=tmp_path, environment={**given, "PIERHEAD_S3_REDIRECT_NETWORKS": "10.0.0.0/8"})

    assert ended.returncode == 0
    assert f"pierhead: warning: {UNREACHABLE}" in ended.stderr.splitlines()
    for line in (
        "s3.redirect = true  # default",
        "s3.redirect_endpoint = unset  # default",
        's3.redirect_networks = ["10.0.0.0/8"]  # PIERHEAD_S3_REDIRECT_NETWORKS',
        "s3.redirect_seconds = 1200.0  # default",
    ):
        assert line in ended.stdout.splitlines()


def test_a_file_that_is_named_and_absent_is_exit_code_2(tmp_path: Path) -> None:
    ended = pierhead("serve", "--config", "absent.toml", cwd=tmp_path)

    assert ended.returncode == 2
    assert ended.stderr == "pierhead: absent.toml: the configuration file can't be read: No such file or directory\n"


def test_a_server_takes_its_settings_from_file_environment_and_options(start_pierhead: Starter, tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('log_format = "text"\nprefix = "/file"\nworkers = 200\n')

    server = start_pierhead(
        arguments=["--config", str(file), "--prefix", "/option"],
        environment={"PIERHEAD_PREFIX": "/environment", "PIERHEAD_LOG_FORMAT": "json"},
    )

    with urllib.request.urlopen(f"{server.url}/option/v2/", timeout=10) as answer:
        assert answer.status == 200
    assert server.stop() == 0
    logged = [line for line in server.log.read_text().splitlines() if not line.startswith("serving ")]
    assert json.loads(logged[-1])["event"].startswith("stopped")


def test_the_version_and_the_help_are_there(tmp_path: Path) -> None:
    assert pierhead("--version", cwd=tmp_path).stdout.startswith("pierhead 0.")
    assert "check-config" in pierhead("--help", cwd=tmp_path).stdout
