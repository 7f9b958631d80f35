"""One data directory that is served in turn by distribution 2.8, Pierhead, distribution 3 and Pierhead again."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.distribution import V2, V3, collect_garbage, serving_distribution
from tests.running import serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import run

APP = "team/app"
BASE = "team/app/base"


@contextmanager
def turn(program: str | None, data: Path, ledger: Ledger, log: Path) -> Iterator[Client]:
    """Serve the data by a program, or by Pierhead after an adoption; everything is checked when it ends."""
    if program is None:
        assert run("adopt", data).code == 0
    served = serving(data, log=log) if program is None else serving_distribution(program, data, log=log)
    with served as server, Client(server.url, ledger) as client:
        client.check(pierhead=program is None)
        yield client
        client.check(pierhead=program is None)


def use(client: Client, name: str, *, sha512: bool = True) -> None:
    """Do everything that clients do: push, move tags, delete tags and manifests, mount."""
    base = client.push_image(BASE, f"{name}-base")
    layer = client.push_blob(BASE, client.ledger.random.randbytes(5000), "application/vnd.oci.image.layer.v1.tar+gzip")
    client.mount(APP, layer, BASE)
    first = client.push_image(APP, name, layers=[layer])
    client.push_image(APP, "latest")
    client.push_image(APP, "latest", docker=True)
    arm = client.push_image(APP, None)
    client.push_index(APP, f"{name}-index", [first, arm])
    schema2 = client.push_image(APP, f"{name}-docker", docker=True)
    client.push_index(APP, f"{name}-list", [schema2], docker=True)
    if sha512:
        client.push_image(APP, f"{name}-sha512", algorithm="sha512")
    client.push_artifact(APP, first, "application/vnd.example.sbom.v1+json")
    client.push_artifact(APP, first, "application/vnd.example.signature.v1")
    client.push_artifact(BASE, base, "application/vnd.example.sbom.v1+json")
    doomed = client.push_image(APP, f"{name}-doomed")
    client.delete_manifest(APP, str(doomed["digest"]))


def store(data: Path) -> Path:
    """Make the directory of a store that was never adopted."""
    (data / "docker/registry/v2").mkdir(parents=True)
    return data


def forget_unreferenced(ledger: Ledger) -> None:
    """Take from the ledger the blobs that no manifest refers to: a collector may remove them."""
    for contents in ledger.repositories.values():
        text = b"".join(body for _media_type, body in contents.manifests.values()).decode()
        contents.blobs = {digest: body for digest, body in contents.blobs.items() if digest in text}


def contents_of(ledger: Ledger, tag: str) -> Mapping[str, object]:
    """Return the manifest that a tag of the application points at."""
    fields: Mapping[str, object] = json.loads(ledger[APP].manifests[ledger[APP].tags[tag]][1])
    return fields


@pytest.mark.timeout(300)  # seven servers, and every byte is read fourteen times
def test_every_turn_serves_what_all_others_have_written(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    v2, v3 = require_tool(V2), require_tool(V3)
    data, ledger = tmp_path / "data", Ledger()
    data.mkdir()

    for number, program in enumerate((v2, None, v3, None, v2, v3, None)):
        with turn(program, data, ledger, tmp_path / f"{number}.log") as client:
            use(client, f"turn{number}")
            if program is None:
                client.push_manifest(APP, contents_of(ledger, "latest"), algorithm="sha512")
            if number > 1:
                # What others have pushed, at least two turns ago, is moved and deleted as well.
                client.push_manifest(APP, contents_of(ledger, f"turn{number - 1}"), tag=f"turn{number - 2}")
                client.delete_manifest(APP, ledger[APP].tags[f"turn{number - 1}-sha512"])
            if number > 1 and program != v2:  # which takes no tag from its manifest
                client.push_image(APP, f"turn{number}-untagged")
                for tag in (f"turn{number}-untagged", f"turn{number - 1}-index", f"turn{number - 2}-docker"):
                    client.delete_tag(APP, tag)

    outcome = run("verify", data)
    assert outcome.code == 0, outcome.findings
    assert {kind for kind, _key in outcome.findings} <= {"blob-unlinked", "tag-leftover"}


@pytest.mark.parametrize("name", [V2, V3])
def test_the_collector_of_distribution_keeps_what_pierhead_has_written(
    tmp_path: Path, require_tool: Callable[[str], str], name: str
) -> None:
    program, data, ledger = require_tool(name), tmp_path / "data", Ledger()
    with turn(None, store(data), ledger, tmp_path / "first.log") as client:
        use(client, "first", sha512=False)  # which distribution's collector does not understand
        garbage = client.push_blob(APP, b"nobody refers to this", "application/octet-stream")

    collect_garbage(program, data, log=tmp_path / "gc.log")

    # Untagged manifests, and so referrers, are kept: they go only where --delete-untagged is given.
    forget_unreferenced(ledger)
    adopted = run("adopt", data)
    # 2.8 leaves the links to what it has removed.
    assert {kind for kind, _key in adopted.findings} <= {"link-dangling"}
    with serving(data, log=tmp_path / "second.log") as server, Client(server.url, ledger) as client:
        client.check(pierhead=True)
        assert client.http.head(f"/v2/{APP}/blobs/{garbage['digest']}").status_code == 404
        client.push_blob(APP, b"nobody refers to this", "application/octet-stream")
    with turn(program, data, ledger, tmp_path / "third.log"):
        pass
