"""A directory with every scar: each costs its own object and nothing else, is reported, and is mended by a push."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from registry.findings import printable
from tests.running import serving
from tests.swap.client import Client, Ledger
from tests.swap.commands import Outcome, run
from tests.swap.scars import SCARS, Image, Scar, lost, pushed, whole

CODES = {"manifests": "MANIFEST_UNKNOWN", "blobs": "BLOB_UNKNOWN"}

by_name = pytest.mark.parametrize("scar", SCARS, ids=lambda scar: scar.name)


@dataclass(frozen=True, slots=True)
class Scarred:
    """A served store with every scar, and what the commands said of it before it was served."""

    client: Client
    images: dict[str, Image]
    keys: dict[str, str]
    verified: Outcome
    quickly_verified: Outcome
    adopted: Outcome
    data: Path
    log: Path


@pytest.fixture(scope="module")
def scarred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scarred]:
    place = tmp_path_factory.mktemp("scars")
    data, ledger = place / "data", Ledger()
    with serving(data, log=place / "pushed.log") as server, Client(server.url, ledger) as client:
        images = {scar.name: pushed(client, data, f"scars/{scar.name}") for scar in SCARS}
        pushed(client, data, "scars")
        pushed(client, data, "zzz/intact")
    keys = {scar.name: printable(scar.damage(images[scar.name])) for scar in SCARS}
    quickly_verified = run("verify", data, "--quick")
    verified = run("verify", data)
    adopted = run("adopt", data)
    log = place / "served.log"
    with serving(data, log=log) as server, Client(server.url, ledger) as client:
        yield Scarred(client, images, keys, verified, quickly_verified, adopted, data, log)


@by_name
def test_each_scar_is_reported_by_its_key(scarred: Scarred, scar: Scar) -> None:
    finding = (scar.finding, scarred.keys[scar.name])

    assert finding in scarred.verified.findings
    assert (finding in scarred.quickly_verified.findings) is scar.quick
    assert (finding in scarred.adopted.findings) is scar.quick


def test_nothing_but_scars_is_reported(scarred: Scarred) -> None:
    consequences = {
        "manifest-incomplete",
        "blob-unlinked",
        "link-dangling",
        "tag-dangling",
        "tag-leftover",
        "source-stale",
    }

    other = {finding for finding in scarred.verified.findings if finding[1] not in scarred.keys.values()}

    assert {kind for kind, _key in other} <= consequences, other
    assert not [key for _kind, key in other if "intact" in key or "/scars/_" in key]


def test_exit_codes_say_that_there_are_scars(scarred: Scarred) -> None:
    assert (scarred.verified.code, scarred.quickly_verified.code, scarred.adopted.code) == (3, 3, 1)


@by_name
def test_each_scar_costs_its_own_object_and_answers_404(scarred: Scarred, scar: Scar) -> None:
    image = scarred.images[scar.name]

    if scar.name == "layer-rotten":
        # Nobody has read it since: the first reader is cut off, all others are told.
        with pytest.raises(httpx.TransportError, match=r"closed|incomplete|disconnected"):
            scarred.client.http.get(lost(image, scar.loses)[0])
    for path in lost(image, scar.loses):
        answer = scarred.client.http.get(path)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, CODES[path.split("/")[4]])
        assert scarred.client.http.head(path).status_code == 404
    if scar.loses is None:
        whole(scarred.client, image)
    assert scarred.client.http.get(f"/v2/{image.repository}/tags/list").status_code == 200


def test_listings_hold_everything_that_is_intact(scarred: Scarred) -> None:
    names = scarred.client.catalog()
    bad_tag = scarred.images["tag-refused"].repository
    odd_tag = scarred.images["tag-odd-bytes"].repository

    assert names == sorted(["scars", "zzz/intact", *(image.repository for image in scarred.images.values())])
    for repository in (bad_tag, odd_tag, "scars", "zzz/intact"):
        assert scarred.client.http.get(f"/v2/{repository}/tags/list").json()["tags"] == ["v1"]


def test_an_abandoned_upload_can_neither_be_seen_nor_appended_to(scarred: Scarred) -> None:
    upload = scarred.keys["upload-abandoned"].rpartition("/")[2]
    url = f"/v2/{scarred.images['upload-abandoned'].repository}/blobs/uploads/{upload}"

    for answer in (scarred.client.http.get(url), scarred.client.http.patch(url, content=b"more")):
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_intact_images_are_served_to_the_byte(scarred: Scarred) -> None:
    for repository in ("scars", "zzz/intact"):
        contents = scarred.client.ledger[repository]
        assert scarred.client.get_manifest(repository, "v1").content == contents.manifests[contents.tags["v1"]][1]
        for digest, body in contents.blobs.items():
            assert scarred.client.http.get(f"/v2/{repository}/blobs/{digest}").content == body


@by_name
def test_a_push_mends_what_it_can_and_is_told_what_it_cannot(scarred: Scarred, scar: Scar) -> None:
    client, image = scarred.client, scarred.images[scar.name]
    contents = client.ledger[image.repository]

    answers = []
    for digest, body in list(contents.blobs.items()):
        if client.http.head(f"/v2/{image.repository}/blobs/{digest}").status_code == 404:
            begun = client.http.post(f"/v2/{image.repository}/blobs/uploads/", params={"digest": digest}, content=body)
            answers.append(begun.status_code)
    media_type, body = contents.manifests[image.digest]
    url = f"/v2/{image.repository}/manifests/v1"
    answers.append(client.http.put(url, content=body, headers={"content-type": media_type}).status_code)

    if scar.heals:
        assert set(answers) == {201}
        whole(client, image)
    else:
        assert set(answers) & {503}
        assert set(answers) <= {201, 404, 503}


def test_what_was_mended_is_no_longer_reported(scarred: Scarred) -> None:
    mended = {scarred.keys[scar.name] for scar in SCARS if scar.heals and scar.loses}

    outcome = run("verify", scarred.data)

    assert not [finding for finding in outcome.findings if finding[1] in mended]


def test_no_request_ended_in_an_unexpected_error(scarred: Scarred) -> None:
    log = scarred.log.read_text()

    assert "damaged link" in log
    assert "status=500" not in log
