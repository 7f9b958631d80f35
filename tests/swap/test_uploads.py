"""Uploads that were under way when the registry was changed for another one."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.distribution import V2, V3, collect_garbage, serving_distribution
from tests.running import serving
from tests.swap.client import OCI_LAYER, Client, Ledger, digest_of
from tests.swap.commands import run

BODY = bytes(range(256)) * 2000
HALF = len(BODY) // 2
STREAM = {"content-type": "application/octet-stream"}


def begun(client: Client, repository: str) -> str:
    """Begin an upload, send half of it, and return where it goes on."""
    location = client.http.post(f"/v2/{repository}/blobs/uploads/").headers["location"]
    answer = client.http.patch(location, content=BODY[:HALF], headers=STREAM)
    assert answer.status_code == 202
    return httpx.URL(answer.headers["location"]).raw_path.decode()


@pytest.mark.parametrize("program", [V2, V3])
def test_uploads_that_distribution_has_abandoned_do_no_harm(
    tmp_path: Path, require_tool: Callable[[str], str], program: str
) -> None:
    path, data, ledger = require_tool(program), tmp_path / "data", Ledger()
    data.mkdir()
    with serving_distribution(path, data, log=tmp_path / "d.log") as server, Client(server.url, ledger) as client:
        client.push_image("team/app", "v1")
        location = begun(client, "team/app")
    (left,) = (data / "docker/registry/v2/repositories/team/app/_uploads").iterdir()

    adopted = run("adopt", data)

    assert (adopted.code, adopted.findings) == (0, [("upload-abandoned", str(left.relative_to(data)))])
    with serving(data, log=tmp_path / "p.log") as server, Client(server.url, ledger) as client:
        assert client.http.get(location).status_code == 404
        assert client.http.patch(location, content=BODY[HALF:], headers=STREAM).status_code == 404
        client.push_blob("team/app", BODY, OCI_LAYER)  # the client starts over
        client.check(pierhead=True)
    assert (left / "data").read_bytes() == BODY[:HALF]
    assert run("verify", data).code == 0
    with serving_distribution(path, data, log=tmp_path / "d.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)


@pytest.mark.parametrize("program", [V2, V3])
def test_an_upload_to_pierhead_goes_on_after_distribution_had_its_turn(
    tmp_path: Path, require_tool: Callable[[str], str], program: str
) -> None:
    path, data, ledger = require_tool(program), tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "p.log") as server, Client(server.url, ledger) as client:
        client.push_image("team/app", "v1")
        location = begun(client, "team/app")
    with serving_distribution(path, data, log=tmp_path / "d.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)
        client.push_image("team/app", "v2")
    collect_garbage(path, data, log=tmp_path / "gc.log")

    with serving(data, log=tmp_path / "p.log") as server, Client(server.url, ledger) as client:
        assert client.http.get(location).headers["range"] == f"0-{HALF - 1}"
        url = httpx.URL(location).copy_add_param("digest", digest_of(BODY))
        assert client.http.put(url, content=BODY[HALF:], headers=STREAM).status_code == 201
        client.ledger["team/app"].blobs[digest_of(BODY)] = BODY
        client.check(pierhead=True)
