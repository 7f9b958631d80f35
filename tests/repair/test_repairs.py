"""Repairs by themselves: of indexes and leftovers, of what may not be repaired, and beside pushes and deletes."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Starter
from tests.running import ROOT, serving
from tests.swap.client import OCI_LAYER, Client, Ledger, digest_of
from tests.swap.commands import command, run
from tests.swap.scars import Image, pushed, rotten, whole
from tests.swap.test_in_use import push_and_delete, pushing


@pytest.fixture
def image(tmp_path: Path) -> Image:
    data = tmp_path / "data"
    with serving(data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        return pushed(client, data, "team/app")


def test_indexes_are_built_again_and_what_is_stale_is_removed(tmp_path: Path) -> None:
    data, ledger = tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "log") as server, Client(server.url, ledger) as client:
        subject = client.push_image("team/app", "v1")
        client.push_artifact("team/app", subject, "application/vnd.example.sbom.v1+json")
        client.push_image("team/other", "v1")
    digest = str(subject["digest"])
    shutil.rmtree(data / "pierhead/repositories/team/app/_referrers")
    (data / "pierhead/catalog/team/other!").unlink()
    (data / "pierhead/catalog/team/gone!").write_text("")
    marker = data / f"pierhead/damaged/sha256/{digest[7:9]}/{digest[7:]}"
    marker.parent.mkdir(parents=True)
    marker.write_text("1 2.0")
    types = data / f"pierhead/repositories/team/app/_types/sha256/{'0' * 64}"
    types.parent.mkdir(parents=True)
    types.write_text("text/plain")
    leftover = data / f"docker/registry/v2/repositories/team/app/_manifests/tags/old/index/sha256/{digest[7:]}/link"
    leftover.parent.mkdir(parents=True)
    leftover.write_text(digest)
    record = data / f"pierhead/uploads/{'a' * 32}"
    record.write_text("{")

    outcome = run("verify", data, "--repair")

    assert (outcome.code, outcome.findings) == (0, [])
    assert outcome.summary["repaired"] == {
        "catalog-missing": 1,
        "catalog-stale": 1,
        "referrer-missing": 1,
        "marker-stale": 1,
        "type-stale": 1,
        "tag-leftover": 1,
        "upload-damaged": 1,
    }
    assert not any(path.exists() for path in (marker, types, leftover, record))
    with serving(data, log=tmp_path / "served") as server, Client(server.url, ledger) as client:
        client.check(pierhead=True)


def test_a_store_that_pierhead_never_opened_is_adopted(image: Image) -> None:
    shutil.rmtree(image.data / "pierhead")

    outcome = run("verify", image.data, "--repair")

    assert outcome.code == 0
    assert outcome.summary["added"]["catalog"] == 1


def test_a_marker_of_a_blob_that_is_whole_is_removed(image: Image) -> None:
    path = image.data / image.blob(image.layer)
    marker = image.data / f"pierhead/damaged/sha256/{image.layer[7:9]}/{image.layer[7:]}"
    marker.parent.mkdir(parents=True)
    marker.write_text(f"{path.stat().st_size} {path.stat().st_mtime!r}")

    outcome = run("verify", image.data, "--repair")

    assert (outcome.code, outcome.findings, marker.exists()) == (0, [], False)


def test_each_repair_is_a_line(image: Image) -> None:
    (image.data / image.layer_link).write_text("")
    arguments = [*command("verify", image.data), "--repair"]

    ended = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ended.returncode == 0
    assert f"repaired: link-empty: {image.layer_link}\n    the link was written again\n" in ended.stdout
    assert "repaired: 1 link-empty\n" in ended.stdout
    assert "verified: 0 errors, 0 warnings, 0 notes" in ended.stdout


def test_a_missing_link_is_not_written_where_manifests_may_name_what_their_pusher_never_had(image: Image) -> None:
    (image.data / image.layer_link).unlink()
    sparse = image.data.parent / "pierhead.toml"
    sparse.write_text("sparse = true\n")

    outcome = run("verify", image.data, "--repair", "--config", str(sparse))

    assert outcome.code == 3
    assert not (image.data / image.layer_link).exists()
    assert run("verify", image.data, "--repair").code == 0


def test_a_missing_link_to_damaged_bytes_is_not_written(image: Image) -> None:
    rotten(image)
    (image.data / image.layer_link).unlink()

    outcome = run("verify", image.data, "--repair")

    assert outcome.code == 3
    assert not (image.data / image.layer_link).exists()


def test_a_link_is_not_written_to_what_no_manifest_of_the_repository_needs(image: Image, tmp_path: Path) -> None:
    with serving(image.data, log=tmp_path / "log") as server, Client(server.url, Ledger(7)) as client:
        secret = client.push_blob("secret/app", b"a secret layer", OCI_LAYER)

    outcome = run("verify", image.data, "--repair")

    assert outcome.code == 0
    encoded = str(secret["digest"]).partition(":")[2]
    assert not (image.data / image.home / "_layers/sha256" / encoded).exists()


def test_a_link_by_another_algorithm_is_found_by_hashing_what_the_repository_holds(tmp_path: Path) -> None:
    data, body, ledger = tmp_path / "data", os.urandom(5000), Ledger()
    with serving(data, log=tmp_path / "log") as server, Client(server.url, ledger) as client:
        pushed(client, data, "team/app")
        client.push_blob("team/app", body, OCI_LAYER, algorithm="sha512")
    digest = digest_of(body, "sha512")
    link = data / f"docker/registry/v2/repositories/team/app/_layers/{digest.replace(':', '/')}/link"
    link.write_text("")

    outcome = run("verify", data, "--repair")

    assert outcome.code == 0
    assert link.read_text() == digest_of(body)
    with serving(data, log=tmp_path / "served") as server, Client(server.url, ledger) as client:
        assert client.http.get(f"/v2/team/app/blobs/{digest}").content == body


def test_a_damaged_tag_goes_back_to_the_last_state_that_is_whole_and_its_history_says_so(tmp_path: Path) -> None:
    data, ledger = tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "log") as server, Client(server.url, ledger) as client:
        digests = [str(client.push_image("team/app", "v1")["digest"]) for _ in range(3)]
    tag = data / "docker/registry/v2/repositories/team/app/_manifests/tags/v1/current/link"
    tag.write_text("")
    manifest = data / f"docker/registry/v2/blobs/sha256/{digests[2][7:9]}/{digests[2][7:]}/data"
    manifest.write_text("")

    outcome = run("verify", data, "--repair")

    assert tag.read_text() == digests[1]
    assert outcome.summary["repaired"] == {"link-empty": 1}
    records = sorted((data / "pierhead/repositories/team/app/_history/v1").iterdir())
    told = json.loads(records[-1].read_text())
    assert (told["who"], told["why"], told["new"]) == ("operator", "restore", digests[1])


def test_a_tag_that_was_deleted_is_not_brought_back(tmp_path: Path) -> None:
    data, ledger = tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "log") as server, Client(server.url, ledger) as client:
        client.push_image("team/app", "v1")
        client.delete_tag("team/app", "v1")
    tag = data / "docker/registry/v2/repositories/team/app/_manifests/tags/v1/current/link"
    tag.parent.mkdir(parents=True, exist_ok=True)
    tag.write_text("")

    outcome = run("verify", data, "--repair")

    assert outcome.code == 3
    assert tag.read_text() == ""


def test_repair_beside_pushes_and_deletes_loses_nothing_and_brings_nothing_back(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2)
    with Client(server.url, Ledger(99)) as client:
        damaged = pushed(client, server.data, "damaged/app")
        other = pushed(client, server.data, "damaged/other")
        with pushing(server, push_and_delete, 3) as ledgers:
            outcomes = []
            for _ in range(3):
                (server.data / damaged.layer_link).write_text("")
                (server.data / other.revision_link).unlink()
                outcomes.append(run("verify", server.data, "--repair"))
        whole(client, damaged)
        assert client.get_manifest("damaged/other", "v1").status_code == 200

    assert [outcome.code for outcome in outcomes] == [0, 0, 0], outcomes
    assert all(outcome.summary["repaired"]["link-empty"] == 1 for outcome in outcomes)
    for each in ledgers:
        with Client(server.url, each) as client:
            client.check(pierhead=True)
    assert run("verify", server.data).code == 0
