"""What distribution serves after Pierhead has deleted a repository."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distribution import V2, V3, collect_garbage, serving_distribution
from tests.running import serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import run
from tests.swap.test_turns import APP, BASE, forget_unreferenced, use


@pytest.mark.parametrize("program", [V3, V2])
def test_distribution_serves_everything_else_after_a_repository_was_deleted(
    tmp_path: Path, require_tool: Callable[[str], str], program: str
) -> None:
    path, data, ledger = require_tool(program), tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "p.log") as server, Client(server.url, ledger) as client:
        use(client, "first", sha512=False)
        client.mount("other/app", {"digest": next(iter(ledger[BASE].blobs))}, BASE)
        client.push_image("other/app", "v1")
        answer = client.http.delete(f"/v2/{APP}/_pierhead/repository")
        assert answer.json()["gone"], answer.text
        del ledger.repositories[APP]  # the repository inside it stays
        client.check(pierhead=True)
        assert client.catalog() == ["other/app", BASE]
    assert run("verify", data).code == 0

    with serving_distribution(path, data, log=tmp_path / "d.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)
        assert sorted(client.catalog()) == ["other/app", BASE]
        client.push_image(APP, "again")
    forget_unreferenced(ledger)
    collect_garbage(path, data, log=tmp_path / "g.log")
    with serving_distribution(path, data, log=tmp_path / "d2.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=False)
