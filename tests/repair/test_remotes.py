"""What is fetched from other registries, by anonymous and by named callers, is what was asked for."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from registry.auth.htpasswd import add_user
from registry.auth.passwords import hash_password
from registry.repair.remotes import Target, opened, parse_target
from tests.conftest import tool_or_skip
from tests.distribution import V3, serving_distribution
from tests.running import serving, start
from tests.swap.client import Client, Ledger
from tests.swap.commands import Outcome, run
from tests.swap.scars import Image, pushed, rotten, whole

PASSWORD = "correct horse"


class Lossy:
    """A store whose image has lost its layer and its manifest, and a whole copy of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data, self.copy = directory / "data", directory / "copy"
        self.ledger = Ledger()
        with serving(self.data, log=directory / "log") as server, Client(server.url, self.ledger) as client:
            self.image: Image = pushed(client, self.data, "team/app")
        self._copy()
        for digest in (self.image.layer, self.image.digest):
            (self.data / self.image.blob(digest)).unlink()

    def _copy(self) -> None:
        shutil.copytree(self.data, self.copy)

    def repair(self, *arguments: str) -> Outcome:
        """Run `verify --repair`."""
        return run("verify", self.data, "--repair", *arguments)

    def is_whole(self) -> None:
        """See that the image can be pulled."""
        with serving(self.data, log=self.directory / "served") as server, Client(server.url, self.ledger) as client:
            whole(client, self.image)


@pytest.fixture
def lossy(tmp_path: Path) -> Lossy:
    return Lossy(tmp_path)


def test_a_registry_with_users_is_asked_as_a_user_by_its_token_service(lossy: Lossy) -> None:
    users, policy = lossy.directory / "users", lossy.directory / "policy.toml"
    add_user(users, "puller", hash_password("puller", PASSWORD, cost=4))
    policy.write_text('[[rules]]\nwho = ["puller"]\nrepositories = ["team/*"]\nallow = ["pull"]\n')
    password, wrong = lossy.directory / "password", lossy.directory / "wrong"
    password.write_text(f"{PASSWORD}\n")
    wrong.write_text("another")
    environment = {"PIERHEAD_AUTH_HTPASSWD": str(users), "PIERHEAD_AUTH_POLICY": str(policy)}
    source = start(lossy.copy, log=lossy.directory / "source", environment=environment)
    try:
        named = source.url.replace("://", "://puller@")
        refused = lossy.repair("--from", named, "--from-insecure", "--from-password-file", str(wrong))
        nobody = lossy.repair("--from", source.url, "--from-insecure")
        fetched = lossy.repair("--from", named, "--from-insecure", "--from-password-file", str(password))
    finally:
        source.stop()

    assert (refused.code, nobody.code, fetched.code) == (3, 3, 0)
    assert "manifest-missing" in refused.summary["not_repaired"]
    assert fetched.summary["counts"]["bytes fetched"] > 3000
    lossy.is_whole()


@pytest.mark.parametrize("is_private", [False, True], ids=["open", "basic"])
def test_distribution_is_a_source(lossy: Lossy, is_private: bool) -> None:
    program = tool_or_skip(V3)
    users, password = lossy.directory / "users", lossy.directory / "password"
    add_user(users, "puller", hash_password("puller", PASSWORD, cost=4))
    password.write_text(PASSWORD)
    auth = {"htpasswd": {"realm": "here", "path": str(users)}} if is_private else None
    with serving_distribution(program, lossy.copy, log=lossy.directory / "theirs", auth=auth) as source:
        named = source.url.replace("://", "://puller@") if is_private else source.url
        fetched = lossy.repair("--from", named, "--from-insecure", "--from-password-file", str(password))

    assert fetched.code == 0, fetched
    lossy.is_whole()


def test_what_does_not_hash_to_the_digest_is_not_taken_and_the_next_source_is_asked(lossy: Lossy) -> None:
    whole_copy = lossy.copy
    with liar() as url:
        lied_to = lossy.repair("--from", url, "--from-insecure")
        assert lied_to.code == 3
        assert lied_to.summary["not_repaired"]
        assert not (lossy.data / lossy.image.blob(lossy.image.layer)).exists()
        assert not list((lossy.data / "docker/registry/v2/repositories/team/app").glob("_uploads/*/data"))
        with serving(whole_copy, log=lossy.directory / "source") as source:
            fetched = lossy.repair("--from", url, "--from", source.url, "--from-insecure")

    assert fetched.code == 0
    lossy.is_whole()


def test_a_source_that_is_down_is_told_and_changes_nothing(lossy: Lossy) -> None:
    outcome = lossy.repair("--from", "http://127.0.0.1:9", "--from-insecure")

    assert outcome.code == 3
    assert outcome.summary["not_repaired"]
    assert not outcome.summary["repaired"]


def test_everything_that_can_be_missing_of_an_image_is_fetched_from_a_source(tmp_path: Path) -> None:
    data, ledger = tmp_path / "data", Ledger()
    with serving(data, log=tmp_path / "log") as server, Client(server.url, ledger) as client:
        images = [client.push_image("team/app", None) for _ in range(2)]
        client.push_index("team/app", "v1", images)
    shutil.copytree(data, tmp_path / "copy")
    manifests = data / "docker/registry/v2/repositories/team/app/_manifests"
    shutil.rmtree(manifests / "revisions")
    shutil.rmtree(data / "docker/registry/v2/blobs")
    shutil.rmtree(data / "docker/registry/v2/repositories/team/app/_layers")

    with serving(tmp_path / "copy", log=tmp_path / "source") as source:
        outcome = run("verify", data, "--repair", "--from", source.url, "--from-insecure")

    assert outcome.code == 0, outcome
    with serving(data, log=tmp_path / "served") as server, Client(server.url, ledger) as client:
        client.check(pierhead=True)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://host", "no address"),
        ("https://", "no address"),
        ("http://host", "--from-insecure"),
        ("https://me:secret@host", "--from-password-file"),
        ("https://me@host", "--from-password-file"),
    ],
)
def test_a_wrong_address_is_wrong_usage_and_no_password_is_repeated(lossy: Lossy, url: str, told: str) -> None:
    outcome = lossy.repair("--from", url)

    assert outcome.code == 2
    assert told in outcome.errors
    assert "secret" not in outcome.errors


def test_a_source_needs_repair(lossy: Lossy) -> None:
    assert run("verify", lossy.data, "--from", "https://host").code == 2
    assert run("verify", lossy.data, "--dry-run").code == 2


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("registry.example", "https://registry.example"),
        ("https://registry.example:5000/", "https://registry.example:5000"),
        ("https://registry.example/mirror/v2/", "https://registry.example/mirror"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_addresses_are_read_as_people_write_them(url: str, address: str) -> None:
    assert parse_target(url, insecure=True, password=None) == Target(address)


async def test_a_password_is_not_sent_to_a_token_service_without_tls() -> None:
    async with opened([Target("https://registry.example")], insecure=False) as remotes:
        with pytest.raises(Exception, match="not reached by https"):
            await remotes.all[0]._token("team/app", {"realm": "http://tokens.example/"})


def test_a_damaged_layer_that_a_source_has_lost_as_well_stays_told(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    with serving(data, log=tmp_path / "log") as server, Client(server.url, Ledger()) as client:
        image = pushed(client, data, "team/app")
    rotten(image)
    with serving(copy, log=tmp_path / "source") as source:
        outcome = run("verify", data, "--repair", "--from", source.url, "--from-insecure")

    assert outcome.code == 3
    assert ("blob-damaged", image.blob(image.layer)) in outcome.findings


@contextmanager
def liar() -> Iterator[str]:
    """Serve a registry that has everything, and gives the same few bytes for all of it."""

    class Lies(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(b"lies")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Lies)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
