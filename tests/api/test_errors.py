"""Whatever goes wrong is one envelope: OCI's code, a line that says what to do, and nothing of the system."""

import json

import pytest
from structlog.testing import capture_logs

from registry import errors
from registry.api.errors import render
from registry.errors import RegistryError
from storage.errors import (
    Busy,
    Corrupt,
    NotFound,
    StorageFull,
    StorageReadOnly,
    StorageRefused,
    StorageUnavailable,
)
from tests.api.client import REPOSITORY, Client, check_envelope, refusal
from tests.stores import StepDriver

KEY = "docker/registry/v2/secret/place"
WHOSE = {"method": "GET", "path": "/v2/a/blobs/x", "client": "192.0.2.1"}
KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, RegistryError)
    and kind not in (errors.RangeInvalid, errors.ManifestBlobUnknown)
]
ONE_OF_EACH = [kind("what went wrong: do this") for kind in KINDS] + [
    errors.RangeInvalid("go on there", size=5),
    errors.ManifestBlobUnknown(["sha256:a", "sha256:b"]),
]


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_refusal_is_an_envelope_with_a_known_code(error: RegistryError) -> None:
    answer = render(error, **WHOSE)

    assert answer.status == error.status
    assert isinstance(answer.body, bytes)
    check_envelope(answer.status, answer.body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageFull("ENOSPC", key=KEY), 507, "UNAVAILABLE"),
        (StorageReadOnly("EROFS", key=KEY), 503, "UNAVAILABLE"),
        (StorageRefused("EACCES", key=KEY), 503, "UNAVAILABLE"),
        (StorageUnavailable("EIO", key=KEY), 503, "UNAVAILABLE"),
        (NotFound("nobody expected this", key=KEY), 500, "UNKNOWN"),
        (Corrupt("nor this", key=KEY), 500, "UNKNOWN"),
        (Busy("nor this", key=KEY), 500, "UNKNOWN"),
        (ZeroDivisionError("division by zero at " + KEY), 500, "UNKNOWN"),
        (UnicodeEncodeError("latin-1", "\u2713", 0, 1, KEY), 500, "UNKNOWN"),
    ],
)
def test_a_fault_of_ours_is_logged_with_whose_request_it_hit_and_told_without_its_inside(
    error: Exception, status: int, code: str
) -> None:
    with capture_logs() as logs:
        answer = render(error, **WHOSE)

    assert isinstance(answer.body, bytes)
    check_envelope(status, answer.body)
    assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (status, code)
    for inside in ("secret", "docker/", "division", "EACCES", "latin-1"):
        assert inside not in answer.body.decode()
    (line,) = logs
    assert (line["log_level"], line["status"]) == ("error", status)
    assert {key: line[key] for key in WHOSE} == WHOSE
    assert KEY in line["reason"]
    assert (line["exc_info"] is error) == (status == 500)


def test_a_refusal_is_nothing_to_log() -> None:
    with capture_logs() as logs:
        render(errors.BlobUnknown("this repository holds no such blob"), **WHOSE)

    assert logs == []


async def test_an_unexpected_error_in_the_middle_is_500_and_the_next_request_is_served(
    client: Client, driver: StepDriver
) -> None:
    await client.push_manifest()

    async def fail(_method: str, _key: str) -> None:
        raise ZeroDivisionError(KEY)

    driver.before_write = fail
    with capture_logs() as logs:
        answer = await client.http.delete(f"{REPOSITORY}/manifests/latest")
    driver.before_write = None

    assert refusal(answer) == (500, "UNKNOWN")
    assert "secret" not in answer.text
    assert logs[0]["client"] == "127.0.0.1"
    assert (await client.http.get(f"{REPOSITORY}/manifests/latest")).status_code == 200


async def test_head_is_refused_as_get_is_without_the_body(client: Client) -> None:
    for path in (
        f"{REPOSITORY}/manifests/latest",
        f"{REPOSITORY}/blobs/x",
        "a/../b",
        "/nowhere",
        f"{REPOSITORY}/tags/list",
    ):
        raw = (path if path.startswith("/") else f"/v2/{path}").encode()
        head, got = await client.ask("HEAD", raw), await client.ask("GET", raw)
        assert head.status == got.status >= 400
        assert head.headers == got.headers
        assert head.body == b""
