"""Who gets a blob of a bucket is sent to the store, by a URL that works there and lasts for a while."""

import os
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from storage.digest import Digest
from tests.running import eventually
from tests.s3.replicas import Replicas
from tests.s3.test_serving import REPOSITORY, push_blob

BODY = os.urandom(100_000)
LARGE = 20 << 20
USER, PASSWORD = "alice", "correct horse"


def serve(replicas: Replicas, settings: Mapping[str, str]) -> httpx.Client:
    """Start a server with these settings."""
    replicas.environment |= settings
    return replicas.add()


def get(client: httpx.Client, digest: Digest, **headers: str) -> httpx.Response:
    """Ask for a blob, and follow nothing."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/v2/{REPOSITORY}/blobs/{digest}", headers=named, follow_redirects=False)


@pytest.mark.parametrize("body", [b"", BODY, os.urandom(LARGE)], ids=["empty", "one put", "multipart"])
def test_the_store_gives_the_bytes_whole_and_in_ranges(replicas: Replicas, body: bytes) -> None:
    client = serve(replicas, {})
    digest = push_blob([client], body)

    # A blob of several parts comes from the server until it is at its place.
    eventually(lambda: get(client, digest).status_code == 307, seconds=30)
    answer = get(client, digest)
    head = client.head(f"/v2/{REPOSITORY}/blobs/{digest}", follow_redirects=False)

    assert (answer.status_code, answer.content) == (307, b"")
    assert answer.headers["location"].startswith(f"{replicas.weed.endpoint}/")
    assert answer.headers["docker-content-digest"] == str(digest)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(body)))
    assert httpx.get(answer.headers["location"]).content == body
    if body:
        ranged = get(client, digest, range="bytes=5-14")
        part = httpx.get(ranged.headers["location"], headers={"range": "bytes=5-14"})
        assert (ranged.status_code, part.status_code) == (307, 206)
        assert part.content == body[5:15]
        assert part.headers["content-range"] == f"bytes 5-14/{len(body)}"


def test_a_browser_that_is_sent_to_the_store_does_not_run_what_was_pushed(replicas: Replicas) -> None:
    client = serve(replicas, {})
    digest = push_blob([client], b"<script>alert(1)</script>")

    answer = httpx.get(get(client, digest).headers["location"], headers={"accept": "text/html"})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


def test_with_redirects_switched_off_the_bytes_come_from_the_server(replicas: Replicas) -> None:
    client = serve(replicas, {"PIERHEAD_S3_REDIRECT": "false"})
    digest = push_blob([client], BODY)

    answer, part = get(client, digest), get(client, digest, range="bytes=-4")

    assert (answer.status_code, answer.content) == (200, BODY)
    assert (part.status_code, part.content) == (206, BODY[-4:])


def test_the_url_is_signed_for_the_endpoint_that_clients_use(replicas: Replicas) -> None:
    outside = replicas.weed.endpoint.replace("127.0.0.1", "localhost")
    client = serve(replicas, {"PIERHEAD_S3_REDIRECT_ENDPOINT": outside})
    digest = push_blob([client], BODY)

    location = get(client, digest, host="evil.example", x_forwarded_host="evil.example").headers["location"]

    assert location.startswith(f"{outside}/")
    assert httpx.get(location).content == BODY
    # The host is part of what was signed.
    assert httpx.get(location.replace("localhost", "127.0.0.1")).status_code == 403


def test_only_clients_of_the_networks_leave_the_server(replicas: Replicas) -> None:
    environment = {"PIERHEAD_TRUSTED_PROXIES": "127.0.0.1", "PIERHEAD_S3_REDIRECT_NETWORKS": "10.0.0.0/8, fd00::/8"}
    client = serve(replicas, environment)
    digest = push_blob([client], BODY)

    inside = [get(client, digest, x_forwarded_for=address) for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1")]
    outside = [get(client, digest, x_forwarded_for=address) for address in ("192.0.2.1", "fe80::1", "10.1.2.3, ::1")]

    assert [answer.status_code for answer in inside] == [307] * 3
    assert [(answer.status_code, answer.content) for answer in outside] == [(200, BODY)] * 3
    assert httpx.get(inside[0].headers["location"]).content == BODY


def test_a_client_that_connects_itself_is_known_by_its_own_address(replicas: Replicas) -> None:
    near = serve(replicas, {"PIERHEAD_S3_REDIRECT_NETWORKS": "127.0.0.0/8"})
    far = serve(replicas, {"PIERHEAD_S3_REDIRECT_NETWORKS": "10.0.0.0/8"})
    digest = push_blob([near], BODY)

    assert get(near, digest, x_forwarded_for="192.0.2.1").status_code == 307
    assert get(far, digest, x_forwarded_for="10.1.2.3").status_code == 200


def test_a_url_is_good_for_one_blob_and_for_reading(replicas: Replicas) -> None:
    client = serve(replicas, {})
    digest, other = push_blob([client], BODY), push_blob([client], b"another blob")

    location = get(client, digest).headers["location"]

    assert (
        httpx.get(location.replace(digest.hex[:2] + "/" + digest.hex, other.hex[:2] + "/" + other.hex)).status_code
        == 403
    )
    assert httpx.get(location.replace("X-Amz-Expires=1200&", "X-Amz-Expires=9999&")).status_code == 403
    assert httpx.put(location, content=b"other bytes").status_code == 403
    assert httpx.delete(location).status_code == 403
    assert httpx.get(location).content == BODY


def test_the_store_refuses_a_url_that_has_expired(replicas: Replicas) -> None:
    client = serve(replicas, {"PIERHEAD_S3_REDIRECT_SECONDS": "1"})
    digest = push_blob([client], BODY)

    location = get(client, digest).headers["location"]
    assert eventually(lambda: httpx.get(location).is_error)

    refused = httpx.get(location)
    assert refused.status_code == 403
    assert "expired" in refused.text.lower()


def test_nobody_gets_a_url_without_the_right_to_pull(replicas: Replicas, tmp_path: Path) -> None:
    users = tmp_path / "users"
    add_user(users, USER, hash_password(USER, PASSWORD, cost=4))
    client = serve(replicas, {"PIERHEAD_AUTH_HTPASSWD": str(users)})
    client.auth = (USER, PASSWORD)
    digest = push_blob([client], BODY)

    allowed, absent = get(client, digest), get(client, Digest.of(b"absent"))
    with httpx.Client(base_url=client.base_url) as stranger:
        refused = get(stranger, digest)

    assert (allowed.status_code, absent.status_code, refused.status_code) == (307, 404, 401)
    assert "location" not in refused.headers
    assert "location" not in absent.headers
