"""The first start of a private registry: an admin whose password is shown once, and never a default one."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from registry.auth.htpasswd import users
from tests.running import ROOT, start

SHOWN = re.compile(r"made the user admin with the password (\S+)")


def test_the_first_start_makes_an_admin_and_later_ones_leave_it(tmp_path: Path) -> None:
    arguments = ["--htpasswd", str(tmp_path / "users"), "--init-admin"]
    log = tmp_path / "log"
    server = start(tmp_path / "data", log=log, arguments=arguments)
    shown = SHOWN.findall(log.read_text())
    assert len(shown) == 1
    assert len(shown[0]) >= 20
    assert httpx.get(f"{server.url}/v2/", auth=("admin", shown[0])).status_code == 200
    assert httpx.get(f"{server.url}/v2/", auth=("admin", "admin")).status_code == 401
    assert httpx.get(f"{server.url}/v2/").status_code == 401
    server.stop()

    server = start(tmp_path / "data", log=log, arguments=arguments)

    assert SHOWN.findall(log.read_text()) == shown
    assert httpx.get(f"{server.url}/v2/", auth=("admin", shown[0])).status_code == 200
    server.stop()
    assert users(tmp_path / "users") == [("admin", "")]
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o600
    assert shown[0] not in (tmp_path / "users").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--init-admin"], "--init-admin needs a file of users: add --htpasswd FILE"),
        (["--htpasswd", "absent"], "absent: it can't be read: No such file or directory"),
        (["--listen", "0.0.0.0:0"], "nobody has to say who they are: everybody could push and delete"),
    ],
)
def test_what_would_leave_it_open_or_without_users_is_refused_in_one_line(
    tmp_path: Path, arguments: list[str], told: str
) -> None:
    command = [sys.executable, "-m", "registry", "serve", "--data", str(tmp_path / "data"), *arguments]
    if "--listen" not in arguments:
        command += ["--listen", "127.0.0.1:0"]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode in {1, 2}
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
