"""Who is asking, and what they must not learn: oracles, passwords, guesses, headers that lie, and rights."""

import asyncio
import base64
import json
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.app import build
from registry.auth.basic import PASSWORD_BYTES_MAX, USER_BYTES_MAX
from registry.auth.htpasswd import Table, add_user
from registry.auth.passwords import Passwords, hash_password
from registry.auth.throttle import FREE_FAILURES
from registry.config import Settings
from storage.drivers import Page, SmallObject, Stat
from storage.memory import MemoryDriver, MemoryReader
from tests.api.callers import Asked, send
from tests.api.callers import basic as basic_header
from tests.hostile.examples import WIRE
from tests.hostile.people import (
    COST,
    FORM,
    FORMS_OF_SECRETS,
    PASSWORDS,
    WRONG,
    House,
    both_workers,
    call_from,
    challenge_of,
    claims_of,
    error_of,
    open_house,
    put_blob,
    put_image,
)
from tests.hostile.pushing import IMAGE, INDEX, image, index, sha256
from tests.hostile.wire import Answer, Wire, ask, call, encoded, request
from tests.running import Server, eventually

SECRET = b"a blob that only alice may see"
NOWHERE = sha256(b"a digest that is nowhere")
HIDDEN, ABSENT = "secret/app", "secret/nil"
SAMPLES = 60
BCRYPT_SAMPLES = 24
BCRYPT_COST = 8
LOGINS = 200
PING_SECONDS_P99 = 0.5
CHANGE_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(house: House) -> Server:
    """The server that only known people are let into."""
    return house.server


@pytest.fixture(scope="module")
def secret(house: House) -> str:
    """The digest of a blob that lies in the hidden repository only."""
    return put_blob(house.server, HIDDEN, SECRET, house.basic("alice"))


@pytest.fixture(scope="module")
def hidden_image(house: House) -> str:
    """The digest of a manifest in the hidden repository."""
    return put_image(house.server, HIDDEN, "latest", house.basic("alice"))


@pytest.fixture(scope="module")
def team_image(house: House) -> str:
    """The digest of a manifest that the whole team may pull."""
    return put_image(house.server, "team/app", "latest", house.basic("alice"))


def likeness(answer: Answer, *names: str) -> tuple[int, Mapping[str, str], bytes]:
    """An answer without its date, and with each of the names and digests that were asked for replaced."""
    told = {
        name: value for name, value in answer.headers.items() if name not in {"date", "location", "docker-upload-uuid"}
    }
    body = answer.body
    for name in names:
        told = {key: value.replace(name, "ASKED") for key, value in told.items()}
        body = body.replace(name.encode(), b"ASKED")
    return answer.status, told, body


# H12


@pytest.mark.case("H12")
@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.usefixtures("team_image")
def test_a_blob_that_lies_elsewhere_looks_like_one_that_lies_nowhere(
    house: House, server: Server, secret: str, method: str
) -> None:
    for line in (house.basic("bob"), house.bearer(house.token("bob", "repository:team/app:pull"))):
        for kind in ("blobs", "manifests", "referrers"):
            there = call(server, method, f"/v2/team/app/{kind}/{secret}", line)
            nowhere = call(server, method, f"/v2/team/app/{kind}/{NOWHERE}", line)
            assert likeness(there, secret) == likeness(nowhere, NOWHERE)
            assert there.status == (200 if kind == "referrers" else 404)


@pytest.mark.case("H12")
def test_who_has_the_digest_but_not_the_bytes_can_not_have_the_blob(house: House, server: Server, secret: str) -> None:
    """That the bytes lie there already must not save anybody from sending them."""
    line = house.basic("mia")
    place = "/v2/mine/app/blobs"
    begun = call(server, "POST", f"{place}/uploads/", line).headers["location"]

    assert call(server, "PUT", f"{begun}?digest={encoded(secret)}", line).code == "DIGEST_INVALID"
    for body in (b"", b"x" * len(SECRET), SECRET[:-1]):
        answer = call(server, "POST", f"{place}/uploads/?digest={encoded(secret)}", line, body=body)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert call(server, "HEAD", f"{place}/{secret}", line).status == 404


class Noting(MemoryDriver):
    """Notes what is asked of storage before anything is written: what takes time of which a client could learn."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        self.asked.append(f"get {key}")
        return await super().get(key, bytes_max=bytes_max)

    async def stat(self, key: str) -> Stat:
        self.asked.append(f"stat {key}")
        return await super().stat(key)

    async def open(self, key: str) -> MemoryReader:
        self.asked.append(f"open {key}")
        return await super().open(key)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        self.asked.append(f"list {prefix}")
        return await super().list(prefix, after=after, limit=limit, fold=fold)


@pytest.mark.case("H12")
async def test_storage_is_asked_nothing_about_what_somebody_may_not_see(tmp_path: Path) -> None:
    """Time is told by what is done: for what is hidden and for what is not there it has to be the same."""
    driver = Noting()
    users, policy = tmp_path / "htpasswd", tmp_path / "policy.toml"
    for user in ("alice", "mia"):
        add_user(users, user, hash_password(user, PASSWORDS[user], cost=COST))
    policy.write_text(
        '[[rules]]\nwho = ["alice"]\nrepositories = ["**"]\nallow = ["*"]\n'
        '[[rules]]\nwho = ["mia"]\nrepositories = ["mine/**"]\nallow = ["pull", "push"]\n'
    )
    registry = build(Settings.model_validate({"auth": {"htpasswd": str(users), "policy": str(policy)}}), driver)
    await registry.start()
    alice, mia = (basic_header(user, PASSWORDS[user]) for user in ("alice", "mia"))
    there = sha256(SECRET)
    pushed = await send(registry, Asked("POST", f"/v2/{HIDDEN}/blobs/uploads/", f"digest={there}", SECRET, alice))
    assert pushed.status == 201

    def normalised(text: str) -> str:
        for digest in (there, NOWHERE):
            text = text.replace(digest[7:], "DIGEST").replace(f"/{digest[7:9]}/", "/DI/")
        return text

    async def asked(method: str, path: str, query: str = "") -> list[str]:
        driver.asked.clear()
        await send(registry, Asked(method, path, query, headers=mia))
        return [normalised(each) for each in driver.asked]

    uploads = "/v2/mine/app/blobs/uploads/"
    for query in ("mount={}", "mount={}&from=" + HIDDEN, "mount={}&from=" + ABSENT):
        of_there, of_nowhere = [await asked("POST", uploads, query.format(d)) for d in (there, NOWHERE)]
        assert not any("secret" in each for each in of_there)
        # The hint where bytes may lie is read in both cases; what it says is not followed.
        assert of_there == of_nowhere
    for method in ("GET", "HEAD", "DELETE"):
        for kind, reference in (("blobs", there), ("manifests", "latest"), ("manifests", there)):
            for name in (HIDDEN, ABSENT):
                assert await asked(method, f"/v2/{name}/{kind}/{reference}") == []
        for kind in ("blobs", "manifests"):
            mine = [await asked(method, f"/v2/mine/app/{kind}/{digest}") for digest in (there, NOWHERE)]
            assert mine[0] == mine[1]
            assert bool(mine[0]) == (method != "DELETE"), "she may not delete, whatever there is"
    await registry.close()


@pytest.mark.case("H12")
def test_mounts_that_fail_take_the_same_time_whatever_is_hidden(house: House, server: Server, secret: str) -> None:
    line = house.basic("mia")
    queries = {
        "hidden": f"mount={encoded(secret)}&from={HIDDEN}",
        "forbidden": f"mount={encoded(NOWHERE)}&from={HIDDEN}",
        "absent": f"mount={encoded(secret)}&from={ABSENT}",
        "anywhere": f"mount={encoded(secret)}",
        "nowhere": f"mount={encoded(NOWHERE)}",
    }
    took: dict[str, list[float]] = {name: [] for name in queries}
    with Wire.open(server) as wire:
        for _ in range(SAMPLES):
            for name, query in queries.items():
                began = time.perf_counter()
                wire.send(request("POST", f"/v2/mine/app/blobs/uploads/?{query}", line))
                assert wire.answer().status == 202
                took[name].append(time.perf_counter() - began)

    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    # What one may see is looked through without a source, so that these two are slower; both alike.
    for one, other in (("hidden", "forbidden"), ("hidden", "absent"), ("anywhere", "nowhere")):
        assert max(medians[one], medians[other]) < 1.5 * min(medians[one], medians[other]) + 0.001, medians


# H13


@pytest.mark.case("H13")
@pytest.mark.parametrize(
    "source",
    [
        "",
        f"&from={HIDDEN}",
        f"&from={ABSENT}",
        "&from=mine/nil",
        "&from=mine/app",
        "&from=",
        "&from=..",
        "&from=Secret%2FApp",
        f"&from={HIDDEN}%00",
        "&from=" + "a/" * 200,
        f"&from={HIDDEN}&from=mine/app",
        f"&from=mine/nil&from={HIDDEN}",
        f"&from=mine/nil&mount={NOWHERE}",
        f"&from=team%2Fapp%20{HIDDEN}",
    ],
)
@pytest.mark.usefixtures("team_image")
def test_a_mount_that_may_not_be_is_an_ordinary_session(house: House, server: Server, secret: str, source: str) -> None:
    means = [
        house.basic("mia"),
        house.bearer(
            house.token("mia", "repository:mine/app:pull,push", f"repository:{HIDDEN}:*", "repository:mine/nil:pull")
        ),
    ]
    for line in means:
        answer = call(server, "POST", f"/v2/mine/app/blobs/uploads/?mount={encoded(secret)}{source}", line)

        expected = call(server, "POST", "/v2/mine/app/blobs/uploads/", line)
        assert likeness(answer) == likeness(expected)
        assert answer.status == 202
        assert call(server, "GET", answer.headers["location"], line).status == 204
        assert call(server, "HEAD", f"/v2/mine/app/blobs/{secret}", line).status == 404


@pytest.mark.case("H13")
@pytest.mark.usefixtures("team_image")
def test_a_mount_needs_a_token_that_reaches_the_source(house: House, server: Server) -> None:
    """Mia may pull the blob; her token does not say so, and a token is handed on to who may do less."""
    digest = put_blob(server, "team/lib", b"for the team", house.basic("alice"))
    place = f"/v2/mine/mounted/blobs/uploads/?mount={encoded(digest)}"
    short = house.bearer(house.token("mia", "repository:mine/mounted:pull,push"))
    pushes_only = house.bearer(house.token("mia", "repository:mine/mounted:pull,push", "repository:team/lib:push"))
    long = house.bearer(house.token("mia", "repository:mine/mounted:pull,push", "repository:team/lib:pull"))

    for line in (short, pushes_only):
        assert call(server, "POST", place, line).status == 202
        # No 202: she may have a token that reaches it, and clients ask for one when they are told so.
        told = challenge_of(call(server, "POST", f"{place}&from=team/lib", line))
        assert told["error"] == "insufficient_scope"
        assert told["scope"] == "repository:mine/mounted:pull,push repository:team/lib:pull"
    assert call(server, "HEAD", f"/v2/mine/mounted/blobs/{digest}", short).status == 404
    assert call(server, "POST", f"{place}&from=team/lib", long).status == 201
    assert call(server, "HEAD", f"/v2/mine/mounted/blobs/{digest}", short).status == 200


@pytest.mark.case("H13")
def test_a_blob_is_mounted_only_from_where_it_is_linked(house: House, server: Server, secret: str) -> None:
    """Stored somewhere, and a source that one may pull from: both together are not enough."""
    put_blob(server, "team/lib", b"for the team", house.basic("alice"))
    line = house.basic("mia")
    answer = call(server, "POST", f"/v2/mine/app/blobs/uploads/?mount={encoded(secret)}&from=team/lib", line)

    assert answer.status == 202
    assert call(server, "HEAD", f"/v2/mine/app/blobs/{secret}", line).status == 404


# H14, H15


@pytest.mark.case("H14")
def test_a_manifest_gives_nobody_a_blob_of_another_repository(house: House, server: Server, secret: str) -> None:
    line = house.basic("mia")
    config = put_blob(server, "mine/app", b"{}", line)
    target = "/v2/mine/app/manifests/theft"

    answers = []
    for digest in (secret, NOWHERE):
        for body in (image(config, [digest]), image(digest), image(config, [config, digest])):
            answer = call(server, "PUT", target, f"Content-Type: {IMAGE}", line, body=body)
            assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
            answers.append(likeness(answer, digest))
        assert call(server, "HEAD", f"/v2/mine/app/blobs/{digest}", line).status == 404
    assert answers[:3] == answers[3:]
    assert call(server, "HEAD", target, line).status == 404


@pytest.mark.case("H15")
def test_an_index_gives_nobody_a_manifest_of_another_repository(
    house: House, server: Server, hidden_image: str
) -> None:
    line = house.basic("mia")
    answers = []
    for digest in (hidden_image, NOWHERE):
        body = index({"mediaType": IMAGE, "digest": digest, "size": 300})
        answer = call(server, "PUT", "/v2/mine/app/manifests/theft", f"Content-Type: {INDEX}", line, body=body)
        assert (answer.status, answer.code) == (404, "MANIFEST_BLOB_UNKNOWN")
        answers.append(likeness(answer, digest))
        assert call(server, "HEAD", f"/v2/mine/app/manifests/{digest}", line).status == 404
    assert answers[0] == answers[1]


@pytest.mark.case("H15")
def test_referrers_are_those_of_one_repository(house: House, server: Server, hidden_image: str) -> None:
    """A subject need not be there: whoever names a hidden manifest learns nothing of it, and adds nothing to it."""
    subject = {"mediaType": IMAGE, "digest": hidden_image, "size": 300}
    theirs = put_image(server, HIDDEN, "signature", house.basic("alice"), subject=subject, annotations={"by": "alice"})
    mine = put_image(server, "mine/app", "signature", house.basic("mia"), subject=subject, annotations={"by": "mia"})

    def listed(name: str, line: str) -> list[str]:
        answer = call(server, "GET", f"/v2/{name}/referrers/{hidden_image}", line)
        assert answer.status == 200
        return [entry["digest"] for entry in json.loads(answer.body)["manifests"]]

    assert listed("mine/app", house.basic("mia")) == [mine]
    assert listed(HIDDEN, house.basic("alice")) == [theirs]
    assert listed("team/app", house.basic("bob")) == []


# H16


@pytest.mark.case("H16")
@pytest.mark.parametrize("who", ["", "bob", "carol", "token", "empty token"])
def test_what_is_forbidden_and_what_is_not_there_get_one_answer(
    house: House, server: Server, secret: str, hidden_image: str, who: str
) -> None:
    lines: list[str] = []
    if who in PASSWORDS:
        lines = [house.basic(who)]
    elif who:
        lines = [house.bearer(house.token("bob", *(["repository:team/app:pull"] if who == "token" else [])))]
    for method, below in (
        ("GET", "tags/list"),
        ("GET", f"blobs/{secret}"),
        ("HEAD", f"blobs/{secret}"),
        ("DELETE", f"blobs/{secret}"),
        ("GET", "manifests/latest"),
        ("HEAD", f"manifests/{hidden_image}"),
        ("PUT", "manifests/latest"),
        ("DELETE", f"manifests/{hidden_image}"),
        ("GET", f"referrers/{hidden_image}"),
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?mount={secret}"),
        ("GET", f"blobs/uploads/{'0' * 32}"),
        ("PATCH", f"blobs/uploads/{'0' * 32}"),
        ("DELETE", f"blobs/uploads/{'0' * 32}"),
        ("GET", "_oci/ext/discover"),
        ("GET", "_pierhead/tags/latest/history"),
        ("POST", "_pierhead/tags/latest/rollback"),
        ("POST", "_pierhead/tags/latest/restore"),
    ):
        found = [
            likeness(call(server, method, f"/v2/{name}/{below}", *lines, body=b"x" if method == "PATCH" else b""), name)
            for name in (HIDDEN, ABSENT, "secret/Nil".lower())
        ]
        assert found[0] == found[1] == found[2], (method, below)
        assert found[0][0] == (403 if who in PASSWORDS else 401)


@pytest.mark.case("H16")
@pytest.mark.usefixtures("hidden_image", "team_image")
def test_the_catalog_names_what_somebody_may_pull_and_nothing_else(house: House, server: Server) -> None:
    put_image(server, "public/app", "latest", house.basic("alice"))
    put_image(server, "mine/app", "latest", house.basic("alice"))

    def names(*lines: str, query: str = "") -> list[str]:
        return list(json.loads(call(server, "GET", f"/v2/_catalog{query}", *lines).body)["repositories"])

    assert HIDDEN in names(house.basic("alice"))
    assert {name.partition("/")[0] for name in names(house.basic("bob"))} == {"team"}
    assert {name.partition("/")[0] for name in names(house.basic("mia"))} == {"team", "mine"}
    assert names(house.basic("carol")) == []
    assert {name.partition("/")[0] for name in names()} == {"public"}
    assert names(house.bearer(house.token("bob", "registry:catalog:*"))) == names(house.basic("bob"))
    # By pages, and from behind a hidden name: neither shows it, nor that there is one.
    for query in ("?n=1", f"?n=1&last={HIDDEN}", f"?last={HIDDEN}x"):
        assert not any(name.startswith("secret") for name in names(house.basic("bob"), query=query))


# H21


@pytest.mark.case("H21")
def test_the_answer_to_an_unknown_user_is_that_to_a_wrong_password(house: House, server: Server) -> None:
    for method, target in (("GET", "/v2/"), ("GET", "/token"), ("GET", "/v2/team/app/tags/list")):
        found = [
            likeness(call_from(house.stranger(), server, method, target, house.basic(user, WRONG)))
            for user in ("alice", "carol", "nobody-of-that-name", "alice2", "Alice")
        ]
        assert all(each == found[0] for each in found)
        assert found[0][0] == 401


@pytest.mark.case("H21")
async def test_an_unknown_user_is_compared_as_often_and_at_the_same_cost() -> None:
    compared: list[bytes] = []

    def compare(_password: bytes, stored: bytes) -> bool:
        compared.append(stored)
        return True  # even if the stand-in had a password, it must open nothing

    hashes = {user: hash_password(user, PASSWORDS[user], cost=5) for user in ("alice", "bob")}

    class Users:
        def current(self) -> Table:
            return Table(hashes, cost=5)

    passwords = Passwords(Users(), compare=compare)
    assert not await passwords.check("nobody", WRONG)
    assert await passwords.check("alice", "whatever")
    unknown, known = compared
    assert unknown[:7] == known[:7] == b"$2b$05$"
    assert len(unknown) == len(known)
    await passwords.close()


@pytest.mark.case("H21")
async def test_an_unknown_user_takes_the_time_of_a_wrong_password(tmp_path: Path) -> None:
    """By the processor's clock over all threads: how busy the machine is does not count."""
    users = tmp_path / "htpasswd"
    add_user(users, "alice", hash_password("alice", PASSWORDS["alice"], cost=BCRYPT_COST))
    registry = build(Settings.model_validate({"auth": {"htpasswd": str(users)}}), MemoryDriver())
    await registry.start()
    took: dict[str, list[float]] = {"alice": [], "nobody": []}
    for number in range(BCRYPT_SAMPLES):
        for user, seconds in took.items():
            headers = basic_header(user, f"{WRONG}-{number}")
            began = time.process_time()
            answer = await send(registry, Asked("GET", "/token", headers=headers, peer=f"10.{number}.0.1"))
            seconds.append(time.process_time() - began)
            assert answer.status == 401
    await registry.close()

    known, unknown = (statistics.median(seconds) for seconds in took.values())
    assert known > 0.005, "no bcrypt was done"
    assert 0.8 < unknown / known < 1.25


def encoded_basic(content: bytes) -> str:
    return "Authorization: Basic " + base64.b64encode(content).decode()


BROKEN_CREDENTIALS: Mapping[str, str] = {
    "not UTF-8": encoded_basic(b"alice:\xff\xfe"),
    "a user that is not UTF-8": encoded_basic(b"\xc3\x28:x"),
    "overlong UTF-8": encoded_basic(b"al\xc0\xafce:x"),
    "half of a surrogate pair": encoded_basic(b"alice:\xed\xa0\x80"),
    "NUL in the user": encoded_basic(b"alice\x00:may-do-everything"),
    "NUL in the password": encoded_basic(b"alice:may-do-everything\x00"),
    "a line break": encoded_basic(b"alice\r\nX: y:pass"),
    "an escape": encoded_basic(b"\x1b[2J:x"),
    "C1": encoded_basic("alice:\x9b".encode()),
    "no colon": encoded_basic(b"alice"),
    "nothing": "Authorization: Basic",
    "nothing but a space": "Authorization: Basic ",
    "no base64": "Authorization: Basic !!!!",
    "base64url": encoded_basic(b"alice:\xfb\xff").replace("+", "-").replace("/", "_"),
    "base64 without its padding": encoded_basic(b"alice:x").rstrip("="),
    "too much padding": encoded_basic(b"alice:xy") + "==",
    "bits left over": "Authorization: Basic YWxpY2U6eB==",
    "a long user": encoded_basic(b"a" * (USER_BYTES_MAX + 1) + b":x"),
    "a long password": encoded_basic(b"alice:" + b"x" * (PASSWORD_BYTES_MAX + 1)),
    "a very long password": encoded_basic(b"alice:" + b"x" * 20_000),
    "another scheme": "Authorization: Digest username=alice",
    "no scheme": "Authorization: alice:may-do-everything",
    "an empty header": "Authorization:",
    "a password of no user": encoded_basic(b":may-do-everything"),
    "a user without a password": encoded_basic(b"alice:"),
    "a password and more": encoded_basic(b"alice:may-do-everything:more"),
    "white space about it": encoded_basic(b" alice : may-do-everything "),
    "another case": encoded_basic(b"ALICE:may-do-everything"),
    "two at once": "Authorization: Basic Og==, Basic YWxpY2U6bWF5LWRvLWV2ZXJ5dGhpbmc=",
}


@pytest.mark.case("H21")
@pytest.mark.parametrize("name", BROKEN_CREDENTIALS)
def test_credentials_that_are_none_are_401(house: House, server: Server, name: str) -> None:
    line, address = BROKEN_CREDENTIALS[name], house.stranger()
    for target in ("/v2/", "/token", "/v2/public/app/tags/list"):
        answer = call_from(address, server, "GET", target, line)
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), answer
        challenge_of(answer)
    lines = [line, house.basic("alice")]
    assert call_from(address, server, "GET", "/v2/", *lines).status in {400, 401}
    assert call_from(address, server, "GET", "/v2/", *reversed(lines)).status in {400, 401}


@pytest.mark.case("H21")
def test_an_empty_user_with_an_empty_password_is_nobody(house: House, server: Server) -> None:
    put_image(server, "public/app", "latest", house.basic("alice"))
    line = "Authorization: Basic Og=="

    assert call(server, "GET", "/v2/", line).status == 401
    assert call(server, "GET", "/v2/public/app/manifests/latest", line).status == 200
    assert call(server, "GET", "/v2/team/app/manifests/latest", line).status == 401
    token = json.loads(call(server, "GET", "/token?scope=repository:team/app:pull", line).body)["token"]
    assert (claims_of(token)["sub"], claims_of(token)["access"]) == ("", [])


@pytest.mark.case("H21")
def test_many_logins_at_once_hold_up_nobody_who_has_a_token(tmp_path: Path) -> None:
    """What bcrypt costs is bounded in each worker: whoever comes beyond that is told to come back."""
    with open_house(tmp_path, cost=10) as house:
        line = house.bearer(house.token("alice"))
        statuses, pings = asyncio.run(_storm(house, line))
        assert set(statuses) <= {401, 429}
        assert len(statuses) == LOGINS
        assert 401 in statuses
        assert 429 in statuses
        assert len(pings) >= 50
        assert sorted(pings)[int(0.99 * len(pings))] < PING_SECONDS_P99, sorted(pings)[-10:]
        assert call(house.server, "GET", "/v2/", house.basic("bob")).status == 200


async def _storm(house: House, line: str) -> tuple[list[int], list[float]]:
    """Log in with many wrong passwords at once, each from an address of its own, and ask with a token meanwhile."""
    host, _, port = house.server.address.rpartition(":")

    async def status(address: str, *lines: str) -> int:
        reader, writer = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
        writer.write(request("GET", "/v2/", "Connection: close", *lines))
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ", 2)[1])

    logins = [
        asyncio.create_task(status(house.stranger(), house.basic("alice", f"{WRONG}-{number}")))
        for number in range(LOGINS)
    ]
    pings: list[float] = []
    while not all(login.done() for login in logins) or len(pings) < 50:
        began = time.perf_counter()
        assert await status("127.0.0.1", line) == 200
        pings.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    return [await login for login in logins], pings


# H22


def guess(house: House, address: str, number: int, *lines: str, user: str = "zoe", target: str = "/v2/") -> Answer:
    return call_from(address, house.server, "GET", target, house.basic(user, f"{WRONG}-{number}"), *lines)


@pytest.mark.case("H22")
@pytest.mark.parametrize("target", ["/v2/", "/token"])
def test_who_guesses_has_to_wait_and_others_need_not(house: House, server: Server, target: str) -> None:
    address, elsewhere = house.stranger(), house.stranger()
    for number in range(FREE_FAILURES + 1):
        assert guess(house, address, number, target=target).status == 401

    answer = guess(house, address, 99, target=target)

    assert (answer.status, answer.code) == (429, "TOOMANYREQUESTS")
    assert int(answer.headers["retry-after"]) >= 1
    assert call_from(address, server, "GET", target, house.basic("zoe")).status == 429
    assert call_from(elsewhere, server, "GET", target, house.basic("zoe")).status == 200
    assert call_from(address, server, "GET", target, house.basic("bob")).status == 200
    eventually(lambda: call_from(address, server, "GET", target, house.basic("zoe")).status == 200)


@pytest.mark.case("H22")
def test_one_push_with_a_stale_password_locks_nobody_out(house: House, server: Server) -> None:
    address = house.stranger()

    for _ in range(50):
        assert guess(house, address, 0).status == 401

    assert call_from(address, server, "GET", "/v2/", house.basic("zoe")).status == 200


@pytest.mark.case("H22")
def test_both_workers_count_together(house: House, server: Server) -> None:
    address = house.stranger()
    with both_workers(server, address) as (one, other):
        for number in range(FREE_FAILURES + 1):
            one.send(request("GET", "/v2/", house.basic("zoe", f"{WRONG}-{number}")))
            assert one.answer().status == 401
        other.send(request("GET", "/v2/", house.basic("zoe", f"{WRONG}-99")))
        assert other.answer().status == 429


@pytest.mark.case("H22")
def test_headers_that_name_other_addresses_do_not_make_guesses_free(house: House) -> None:
    address = house.stranger()
    statuses = []
    for number in range(FREE_FAILURES + 4):
        lines = [
            f"X-Forwarded-For: 10.0.0.{number}",
            f"X-Real-IP: 10.0.0.{number}",
            f"Forwarded: for=10.0.0.{number}",
            f"Client-IP: 10.0.0.{number}",
        ]
        statuses.append(guess(house, address, number, *lines).status)

    assert 429 in statuses


@pytest.mark.case("H22")
def test_one_who_logs_in_between_guesses_does_not_make_guesses_at_others_free(house: House, server: Server) -> None:
    address = house.stranger()
    statuses = []
    for number in range(FREE_FAILURES + 4):
        assert call_from(address, server, "GET", "/v2/", house.basic("bob")).status == 200
        statuses.append(guess(house, address, number).status)

    assert 429 in statuses


@pytest.mark.case("H22")
def test_the_same_guess_by_other_roads_is_still_counted(house: House, server: Server) -> None:
    """GET /token, POST /token and /v2/ are one lock."""
    address = house.stranger()
    statuses = []
    for number in range(FREE_FAILURES + 4):
        form = f"grant_type=password&username=zoe&password={WRONG}-{number}".encode()
        roads: list[Callable[[], Answer]] = [
            partial(call_from, address, server, "POST", "/token", FORM, body=form),
            partial(guess, house, address, number),
            partial(guess, house, address, number, target="/token"),
        ]
        statuses.append(roads[number % 3]().status)

    assert 429 in statuses


# H23


@pytest.mark.case("H23")
@pytest.mark.parametrize(
    "target",
    [
        "/v2",
        "/v2//",
        "//evil.example/v2/",
        "/\\evil.example/v2/",
        "/v2/..//evil.example/",
        "/v2/team/app/manifests/latest/",
        "/v2/team/app/tags/list/",
        "/token/",
        "/",
        "http://evil.example/v2/",
        "/v2/?next=https://evil.example/",
    ],
)
def test_nobody_who_sends_credentials_is_sent_elsewhere(house: House, server: Server, target: str) -> None:
    for line in (house.basic("alice"), house.bearer(house.token("alice"))):
        for method in ("GET", "POST", "HEAD"):
            answer = call(server, method, target, line)
            assert not 300 <= answer.status < 400
            assert answer.headers.get("location", "/v2/").startswith("/v2/")
            assert "refresh" not in answer.headers


@pytest.mark.case("H23")
def test_content_comes_from_here_and_no_shared_cache_keeps_it(house: House, server: Server, team_image: str) -> None:
    line = house.basic("bob")
    config = sha256(b"{}")
    for target in (f"manifests/{team_image}", "manifests/latest", f"blobs/{config}", "tags/list"):
        answer = call(server, "GET", f"/v2/team/app/{target}", line)
        assert answer.status == 200
        # A request with Authorization is kept by a shared cache only if the answer says so (RFC 9111 section 3.5).
        kept = answer.headers.get("cache-control", "")
        assert not any(word in kept for word in ("public", "s-maxage", "must-revalidate"))
        assert "max-age" not in kept or "private" in kept


# H24


EVIL_HOSTS = [
    'evil"',
    'a",realm="https://evil.example',
    'x", error="insufficient_scope',
    "evil.example/token?",
    "alice:pw@evil.example",
    "evil.example,good.example",
    "evil.example basic",
    "[::1",
    "[::1]evil",
    "a b",
    "\xff",
    "a" * 1000,
    "evil.example:99999999",
    "evil.example:",
    "",
    "%22",
    "http://evil.example",
    "x\ty",
]


def with_host(server: Server, host: str, *lines: str, target: str = "/v2/") -> Answer:
    sent = "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]).encode("latin-1")
    return ask(server, sent)


@pytest.mark.case("H24")
@pytest.mark.parametrize("host", EVIL_HOSTS)
def test_a_host_that_is_none_gets_into_no_challenge(server: Server, host: str) -> None:
    for target, lines in (("/v2/", []), ("/token", ["Authorization: Basic !"]), ("/v2/team/app/tags/list", [])):
        answer = with_host(server, host, *lines, target=target)
        assert answer.status in {400, 401}
        if answer.status == 401:
            told = challenge_of(answer)
            assert told["realm"] == f"{server.url}/token"
            assert told["service"] == "pierhead"


@pytest.mark.case("H24")
@pytest.mark.parametrize(
    "line",
    [
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Prefix: /evil",
        "X-Forwarded-Server: evil.example",
        "X-Forwarded-Port: 4443",
        "X-Original-Host: evil.example",
        "X-Original-URL: /evil",
        "X-Rewrite-URL: /token",
        "X-Host: evil.example",
        "Forwarded: for=127.0.0.1;host=evil.example;proto=https",
        "Origin: https://evil.example",
        "Referer: https://evil.example/",
        'X-Forwarded-Proto: https",realm="https://evil.example',
    ],
)
def test_what_a_stranger_says_of_the_address_is_not_believed(house: House, server: Server, line: str) -> None:
    told = challenge_of(with_host(server, "registry.example", line))
    assert told["realm"] == "http://registry.example/token"
    told = challenge_of(with_host(server, "registry.example", line, target="/v2/team/app/tags/list"))
    assert told["realm"] == "http://registry.example/token"
    begun = with_host(server, "registry.example", line, house.basic("dora"), target="/v2/team/app/tags/list")
    assert not any("evil" in value for value in begun.headers.values())
    begun = call(server, "POST", "/v2/team/app/blobs/uploads/", house.basic("dora"), line)
    assert begun.headers["location"].startswith("/v2/team/app/blobs/uploads/")


@pytest.mark.case("H24")
def test_a_configured_address_is_told_whatever_anybody_says(tmp_path: Path) -> None:
    with open_house(tmp_path, workers=1, PIERHEAD_AUTH_URL="https://registry.example:8443") as house:
        for host in ("evil.example", "registry.example", *EVIL_HOSTS):
            answer = with_host(house.server, host, "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http")
            if answer.status != 400:
                assert challenge_of(answer)["realm"] == "https://registry.example:8443/token"


@pytest.mark.case("H24")
def test_a_trusted_proxy_is_believed_what_can_be_an_address(tmp_path: Path) -> None:
    with open_house(tmp_path, workers=1, PIERHEAD_TRUSTED_PROXIES="127.0.0.1") as house:
        server = house.server
        lines = ["X-Forwarded-Host: registry.example:8443", "X-Forwarded-Proto: https"]
        assert challenge_of(with_host(server, "inside", *lines))["realm"] == "https://registry.example:8443/token"
        assert challenge_of(call_from("127.0.0.2", server, "GET", "/v2/", *lines))["realm"] == "http://pierhead/token"
        for host in EVIL_HOSTS:
            # What the proxy passes on of its own client may be as evil.
            told = challenge_of(with_host(server, "inside", f"X-Forwarded-Host: {host}", "X-Forwarded-Proto: gopher"))
            assert told["realm"] in {f"{server.url}/token", "http://inside/token"}


@pytest.mark.case("H24")
def test_challenges_and_tokens_are_kept_by_no_cache(house: House, server: Server) -> None:
    answers = [
        call(server, "GET", "/v2/"),
        call(server, "HEAD", "/v2/"),
        call(server, "GET", "/v2/team/app/manifests/latest"),
        call(server, "GET", "/v2/", "Authorization: Bearer x"),
        call_from(house.stranger(), server, "GET", "/token", house.basic("alice", WRONG)),
        call(server, "GET", "/token"),
        call(server, "GET", "/token?offline_token=true", house.basic("alice")),
    ]
    house.noted(json.loads(answers[-1].body)["refresh_token"])
    assert [answer.status for answer in answers] == [401] * 5 + [200] * 2
    assert {answer.headers["cache-control"] for answer in answers} == {"no-store"}


# H25


@pytest.mark.case("H25")
@pytest.mark.usefixtures("team_image")
def test_what_a_browser_would_send_along_opens_nothing(house: House, server: Server) -> None:
    """Cookies, addresses with a password, and tokens in addresses: whoever makes a page can have them sent."""
    token = house.token("alice", "repository:team/app:pull")
    header = house.basic("alice").partition(": ")[2]
    target = "/v2/team/app/manifests/latest"
    for line in (
        f"Cookie: token={token}",
        f"Cookie: session={token}; access_token={token}; Authorization={quoted(header)}",
        f"Proxy-Authorization: {header}",
        f"X-Authorization: {header}",
        f"X-Registry-Auth: {header}",
        f"X-Access-Token: {token}",
        "X-Remote-User: alice",
        "Remote-User: alice",
        "X-Forwarded-User: alice",
        "X-SSL-Client-S-DN: CN=alice",
        "X-Forwarded-Client-Cert: Subject=CN=alice",
    ):
        for place in (target, "/v2/", "/v2/_catalog?n=1000"):
            answer = call(server, "GET", place, line)
            assert answer.status == 401 or b"team/app" not in answer.body
            assert answer.status != 200 or place.startswith("/v2/_catalog")
        issued = json.loads(call(server, "GET", "/token?scope=repository:team/app:pull", line).body)
        assert claims_of(issued["token"])["sub"] == ""
    for query in (f"access_token={token}", f"token={token}", f"authorization={quoted(header)}", f"jwt={token}"):
        assert call(server, "GET", f"{target}?{query}").status == 401
    password = PASSWORDS["alice"]
    issued = json.loads(call(server, "GET", f"/token?account=alice&username=alice&password={password}").body)
    assert claims_of(issued["token"])["sub"] == ""
    body = f"access_token={token}".encode()
    assert call(server, "POST", "/v2/team/app/blobs/uploads/", FORM, body=body).status == 401
    userinfo = ask(server, f"GET http://alice:{password}@pierhead{target} HTTP/1.1\r\nHost: pierhead\r\n\r\n".encode())
    assert userinfo.status in {400, 401}


@pytest.mark.case("H25")
@pytest.mark.usefixtures("team_image")
def test_no_answer_sets_a_cookie_or_lets_other_origins_read_it(house: House, server: Server) -> None:
    origin = ["Origin: https://evil.example", "Access-Control-Request-Method: PUT"]
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        for target in ("/v2/", "/token", "/v2/team/app/manifests/latest", "/v2/_catalog"):
            for lines in ([], [house.basic("alice")]):
                answer = call(server, method, target, *origin, *lines)
                assert not any(name.startswith("access-control-") for name in answer.headers)
                assert "set-cookie" not in answer.headers
                assert answer.status < 500


def quoted(header: str) -> str:
    return header.replace(" ", "%20")


# H26


@pytest.fixture
def name(house: House, request: pytest.FixtureRequest) -> str:
    """A repository of a test's own with an image that two tags name."""
    mine = "team/" + re.sub("[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    put_image(house.server, mine, "latest", house.basic("alice"))
    put_image(house.server, mine, "v1", house.basic("alice"))
    return mine


@pytest.mark.case("H26")
def test_who_may_push_may_not_delete(house: House, server: Server, name: str) -> None:
    config = sha256(b"{}")
    digest = call(server, "HEAD", f"/v2/{name}/manifests/latest", house.basic("dora")).headers["docker-content-digest"]
    token = house.bearer(house.token("dora", f"repository:{name}:pull,push,delete"))
    short = house.bearer(house.token("alice", f"repository:{name}:pull,push"))
    for below in ("manifests/latest", f"manifests/{digest}", f"blobs/{config}"):
        answer = call(server, "DELETE", f"/v2/{name}/{below}", house.basic("dora"))
        assert (answer.status, answer.code) == (403, "DENIED")
        for line in (token, short):
            assert error_of(call(server, "DELETE", f"/v2/{name}/{below}", line)) == "insufficient_scope"
        assert call(server, "HEAD", f"/v2/{name}/{below}", house.basic("dora")).status == 200
    assert call(server, "DELETE", f"/v2/{name}/manifests/latest", house.basic("erin")).status == 202


@pytest.mark.case("H26")
def test_to_cancel_an_upload_takes_the_right_to_push(house: House, server: Server, name: str) -> None:
    begun = call(server, "POST", f"/v2/{name}/blobs/uploads/", house.basic("dora")).headers["location"]
    may_delete = house.bearer(house.token("erin", f"repository:{name}:pull,push,delete"))

    for method in ("DELETE", "GET", "PATCH", "PUT"):
        assert call(server, method, begun, house.basic("erin")).status == 403
        assert error_of(call(server, method, begun, may_delete)) == "insufficient_scope"
    pushes = house.bearer(house.token("dora", f"repository:{name}:pull,push"))
    assert call(server, "GET", begun, pushes).status == 204
    assert call(server, "DELETE", begun, pushes).status == 204


@pytest.mark.case("H26")
@pytest.mark.parametrize("by", ["password", "token"])
def test_to_move_a_tag_takes_the_right_to_overwrite(house: House, server: Server, name: str, by: str) -> None:
    scope = f"repository:{name}:pull,push,delete"
    dora = house.basic("dora") if by == "password" else house.bearer(house.token("dora", scope))
    before = call(server, "GET", f"/v2/{name}/manifests/latest", dora)
    body = image(sha256(b"{}"), annotations={"another": by})
    digest = sha256(body)

    def put(reference: str, *lines: str) -> Answer:
        return call(server, "PUT", f"/v2/{name}/manifests/{reference}", f"Content-Type: {IMAGE}", *lines, body=body)

    for reference in (
        "latest",
        f"{digest}?tag=latest",
        f"{digest}?tag=new&tag=latest",
        f"{digest}?tag=latest&tag=new",
        f"{digest}?tag=new&tag=new&tag=v1",
    ):
        for condition in ([], ["If-Match: *"], [f'If-Match: "{before.headers["docker-content-digest"]}"']):
            answer = put(reference, dora, *condition)
            assert (answer.status, answer.code) in {(403, "DENIED"), (412, "DENIED")}
        assert put(reference, dora).status == 403
        # Refused before anything was done: neither the manifest nor one of the tags is there.
        for absent in (digest, "new"):
            assert call(server, "HEAD", f"/v2/{name}/manifests/{absent}", dora).status == 404
    assert call(server, "GET", f"/v2/{name}/manifests/latest", dora).body == before.body

    assert put(f"{digest}?tag=new&tag=newer", dora).status == 201
    assert put("new", dora).status == 201, "the same again moves nothing"
    assert put("latest", house.basic("alice")).status == 201


@pytest.mark.case("H26")
def test_a_tag_can_not_be_deleted_and_set_anew_without_both_rights(house: House, server: Server, name: str) -> None:
    body = image(sha256(b"{}"), annotations={"another": "one"})
    target = f"/v2/{name}/manifests/latest"
    for who in ("dora", "erin"):
        deleted = call(server, "DELETE", target, house.basic(who)).status
        pushed = call(server, "PUT", target, f"Content-Type: {IMAGE}", house.basic(who), body=body).status
        assert (deleted, pushed) == {"dora": (403, 403), "erin": (202, 403)}[who]


@pytest.mark.case("H52")
@pytest.mark.parametrize("by", ["password", "token"])
def test_a_right_that_is_taken_away_during_an_upload_is_missed_by_the_next_request(tmp_path: Path, by: str) -> None:
    with open_house(tmp_path) as house:
        server, policy = house.server, tmp_path / "policy.toml"
        line = house.basic("dora")
        if by == "token":
            line = house.bearer(house.token("dora", "repository:team/app:pull,push"))
        begun = call(server, "POST", "/v2/team/app/blobs/uploads/", line).headers["location"]
        assert call(server, "PATCH", begun, line, body=b"x").status == 202

        policy.write_text(policy.read_text().replace('allow = ["push"]', 'deny = ["push"]'))

        refused = {"password": 403, "token": 401}[by]
        eventually(lambda: call(server, "GET", begun, line).status == refused, seconds=CHANGE_SECONDS)
        with both_workers(server, "127.0.0.1") as wires:
            for wire in wires:
                eventually(partial(_is_refused, wire, begun, line, refused), seconds=CHANGE_SECONDS)
                for method, target in (("PUT", f"{begun}?digest={encoded(sha256(b'x'))}"), ("DELETE", begun)):
                    wire.send(request(method, target, line))
                    assert wire.answer().status == refused
        assert call(server, "HEAD", f"/v2/team/app/blobs/{sha256(b'x')}", house.basic("alice")).status == 404
        assert call(server, "GET", begun, house.basic("alice")).status == 204
        assert house.leaked() == []


def _is_refused(wire: Wire, target: str, line: str, status: int) -> bool:
    wire.send(request("GET", target, line))
    return wire.answer().status == status


# All of it, at random

SCHEMES = st.sampled_from(["Basic", "basic", "BASIC", "Bearer", "bearer", "Digest", "", "Negotiate", "Basic Basic"])
HEADERS = st.one_of(
    st.builds(
        lambda scheme, content: f"{scheme} {base64.b64encode(content).decode()}", SCHEMES, st.binary(max_size=60)
    ),
    st.builds(
        lambda scheme, user, password: f"{scheme} {base64.b64encode(f'{user}:{password}'.encode()).decode()}",
        SCHEMES,
        st.sampled_from(["alice", "nobody", "", "\x00", "é", "a" * 300]),
        st.text(st.characters(codec="utf-8"), max_size=30),
    ),
    st.builds(
        lambda scheme, text: f"{scheme} {text}",
        SCHEMES,
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=200),
    ),
    st.builds(
        lambda parts, scheme: f"{scheme} {'.'.join(base64.urlsafe_b64encode(p).decode().rstrip('=') for p in parts)}",
        st.lists(st.one_of(st.binary(max_size=40), st.just(b'{"alg":"ES256","kid":"x","typ":"JWT"}')), max_size=4),
        SCHEMES,
    ),
)


@pytest.mark.case("H21")
@settings(WIRE, max_examples=400)
@given(header=HEADERS, target=st.sampled_from(["/v2/", "/token", "/v2/team/app/tags/list", "/v2/_catalog"]))
def test_no_authorization_header_makes_the_server_fail(house: House, header: str, target: str) -> None:
    sent = f"GET {target} HTTP/1.1\r\nHost: pierhead\r\nAuthorization: {header}\r\n\r\n".encode("latin-1")
    answer = ask(house.server, sent) if "\x00" not in header else None
    if answer is not None:
        assert answer.status in {200, 400, 401, 429}
        if answer.status == 200:
            assert target in {"/token", "/v2/_catalog"}
            assert b"team/app" not in answer.body


@pytest.mark.case("H21")
@pytest.mark.parametrize("spelled", FORMS_OF_SECRETS)
def test_a_secret_in_a_log_would_be_found(house: House, tmp_path: Path, spelled: Callable[[str], str]) -> None:
    """What is searched for after each module rests on it."""
    log = tmp_path / "log"
    for secret in (f"{WRONG}-7", PASSWORDS["alice"], house.basic("bob").rpartition(" ")[2], house.token("bob")):
        log.write_text(f"a line\nerror reason='{spelled(secret)}'\n")
        assert replace(house, server=replace(house.server, log=log)).leaked() != []
    log.write_text("a line\n")
    assert replace(house, server=replace(house.server, log=log)).leaked() == []
