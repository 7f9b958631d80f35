"""Files and directories that belong to somebody else, as a store has them whose registry ran as root."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.running import serving, start
from tests.swap.client import Client, Ledger
from tests.swap.commands import run
from tests.swap.scars import Image, pushed, whole

UNPRIVILEGED = "tests.swap.unprivileged"

pytestmark = pytest.mark.usefixtures("setpriv")


@pytest.fixture
def setpriv(require_tool: object) -> None:
    assert callable(require_tool)
    require_tool("setpriv")


@contextmanager
def locked(path: Path, mode: int) -> Iterator[Path]:
    """Give a path a mode for the length of a `with` block."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield path
    finally:
        if path.exists():
            path.chmod(before)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "pushed.log") as server, Client(server.url, Ledger()) as client:
        return pushed(client, data, "team/app")


@pytest.mark.parametrize("what", ["tag", "revision", "layer"])
def test_a_file_that_may_not_be_read_is_reported_answers_404_and_is_mended_by_a_push(
    tmp_path: Path, image: Image, what: str
) -> None:
    key = {"tag": image.tag_link, "revision": image.revision_link, "layer": image.blob(image.layer)}[what]
    url = {
        "tag": f"/v2/{image.repository}/manifests/v1",
        "revision": f"/v2/{image.repository}/manifests/{image.digest}",
        "layer": f"/v2/{image.repository}/blobs/{image.layer}",
    }[what]
    with locked(image.data / key, 0):
        assert ("unreadable", key) in run("verify", image.data, module=UNPRIVILEGED).findings
        adopted = run("adopt", image.data, module=UNPRIVILEGED)
        assert (adopted.code, ("unreadable", key) in adopted.findings) == (1, True)
        server = start(image.data, log=tmp_path / "served.log", module=UNPRIVILEGED)
        try:
            with Client(server.url, Ledger()) as client:
                assert client.http.get(url).status_code == 404
                assert client.http.head(url).status_code == 404
                assert client.http.get(f"/v2/{image.repository}/tags/list").status_code == 200
                assert client.catalog() == [image.repository]
                pushed(client, image.data, image.repository)  # the ledger's seed makes it the same image
                whole(client, image)
        finally:
            server.stop()


def test_a_directory_that_may_not_be_used_is_reported_and_costs_what_is_in_it(tmp_path: Path, image: Image) -> None:
    folder = Path(image.tag_link).parent.parent
    with locked(image.data / folder, 0):
        assert ("unreadable", str(folder)) in run("verify", image.data, module=UNPRIVILEGED).findings
        server = start(image.data, log=tmp_path / "served.log", module=UNPRIVILEGED)
        try:
            with Client(server.url, Ledger()) as client:
                assert client.get_manifest(image.repository, "v1").status_code == 404
                assert client.get_manifest(image.repository, image.digest).status_code == 200
                assert client.http.get(f"/v2/{image.repository}/tags/list").json()["tags"] == []
                media_type, body = (
                    (answer := client.get_manifest(image.repository, image.digest)).headers["content-type"],
                    answer.content,
                )
                url = f"/v2/{image.repository}/manifests/v1"
                assert client.http.put(url, content=body, headers={"content-type": media_type}).status_code == 503
        finally:
            server.stop()


def test_a_directory_that_may_not_be_written_to_is_reported(image: Image) -> None:
    folder = Path(image.tag_link).parent
    with locked(image.data / folder, 0o555):
        assert ("unwritable", str(folder)) in run("verify", image.data, module=UNPRIVILEGED).findings
