"""docker pulls what a tag was rolled back to, and what it pointed at earlier, to the byte."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from registry.collector.reports import Report
from registry.config import Settings
from registry.operations import Operations
from registry.stores import open_driver
from tests.clients.contents import Contents, Manifest
from tests.clients.daemon import Docker
from tests.clients.layouts import blobs_of, fresh_tar
from tests.conftest import Starter
from tests.running import Server
from tests.swap.commands import run

REPOSITORY = "team/app"
STATES = 11
"""What the tag points at, and the last ten states before that."""


@pytest.fixture
def built(docker: Docker, tmp_path: Path) -> Iterator[list[str]]:
    """Build small images, and return what docker calls each of them."""
    identifiers = []
    for number in range(STATES + 1):
        context = tmp_path / f"{number}"
        context.mkdir()
        (context / "layer.tar").write_bytes(fresh_tar(f"file-{number}"))
        (context / "Dockerfile").write_text("FROM scratch\nADD layer.tar /\n")
        identifiers.append(docker("build", "--quiet", context))
    yield identifiers
    docker("system", "prune", "--all", "--force")


def collect(server: Server, **history: object) -> Report:
    """Collect everything that nothing leads to by now, and see that nothing is missing."""
    given = {"grace_seconds": 0, "trash_seconds": 0}
    settings = Settings.model_validate({"data": str(server.data), "gc": given, "history": history})

    async def work() -> Report:
        driver = open_driver(settings)
        await driver.start()
        try:
            return await Operations(settings, driver).collection(share=1.0).run()
        finally:
            await driver.close()

    report = asyncio.run(work())
    assert run("verify", server.data).code == 0
    return report


@pytest.mark.timeout(600)
def test_a_rollback_to_each_of_the_last_ten_states_is_pulled_as_it_was_pushed(
    docker: Docker, built: list[str], start_pierhead: Starter
) -> None:
    server = start_pierhead(workers=2)
    contents, name = Contents(server.address), f"{server.address}/{REPOSITORY}"
    pushed: list[Manifest] = []
    for identifier in built:
        docker("tag", identifier, f"{name}:prod")
        docker("push", "--quiet", f"{name}:prod")
        pushed.insert(0, contents.manifest(REPOSITORY, "prod"))
    docker("system", "prune", "--all", "--force")
    forgotten = pushed.pop()

    # No state is kept for its age, and so the oldest is one too many.
    assert collect(server, keep_seconds=0, keep_last=STATES - 1).taken_manifests == 1

    assert not contents.has_manifest(REPOSITORY, forgotten.digest)
    for back in range(1, STATES):
        assert pulled(docker, f"{name}:prod.-{back}") == blobs_of(pushed[back].body)[0]
    for back in range(1, STATES):
        # Each rollback is a state itself: what was so far back is two further back after the next one.
        answer = httpx.post(
            f"{server.url}/v2/{REPOSITORY}/_pierhead/tags/prod/rollback", json={"to": pushed[back].digest}, timeout=60
        )
        assert answer.status_code == 200, answer.text
        assert collect(server).taken_manifests == 0

        assert contents.manifest(REPOSITORY, "prod") == pushed[back]
        assert pulled(docker, f"{name}:prod") == blobs_of(pushed[back].body)[0] == built[STATES - back]

    states = httpx.get(f"{server.url}/v2/{REPOSITORY}/_pierhead/tags/prod/history").json()["states"]
    assert [state["why"] for state in states] == ["rollback"] * (STATES - 1) + ["push"] * (STATES + 1)
    assert [state["digest"] for state in states[: STATES - 1]] == [each.digest for each in pushed[:0:-1]]


def pulled(docker: Docker, name: str) -> str:
    """Pull an image, and return its id, which is the digest of its config."""
    docker("pull", "--quiet", name)
    (image,) = json.loads(docker("image", "inspect", name))
    docker("image", "rm", "--force", image["Id"])
    return str(image["Id"])
