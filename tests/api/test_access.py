"""Every endpoint, asked by everybody there is, for what is there and what is not."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from registry.certificates import ClientCertificate
from storage.digest import Digest
from tests.api.callers import CERTIFICATE, PASSWORDS, Asked, House, basic, bearer, send
from tests.api.client import Answer
from tests.registry.images import LAYER, encode, image

DIGEST = Digest.of(encode(image()))
BLOB = Digest.of(LAYER)
NEW = b"a new blob"
UPLOAD = "0" * 32

# method, path, query, body, and what it takes
ENDPOINTS: tuple[tuple[str, str, str, bytes, str], ...] = (
    ("GET", "/v2/", "", b"", "any"),
    ("HEAD", "/v2/", "", b"", "any"),
    ("GET", "/v2/_oci/ext/discover", "", b"", "any"),
    ("GET", "/v2/_catalog", "", b"", "catalog"),
    ("GET", "/v2/{name}/_oci/ext/discover", "", b"", "pull"),
    ("GET", "/v2/{name}/tags/list", "", b"", "pull"),
    ("GET", "/v2/{name}/referrers/{digest}", "", b"", "pull"),
    ("GET", "/v2/{name}/manifests/latest", "", b"", "pull"),
    ("HEAD", "/v2/{name}/manifests/latest", "", b"", "pull"),
    ("GET", "/v2/{name}/manifests/{digest}", "", b"", "pull"),
    ("GET", "/v2/{name}/blobs/{blob}", "", b"", "pull"),
    ("HEAD", "/v2/{name}/blobs/{blob}", "", b"", "pull"),
    ("GET", "/v2/{name}/_pierhead/tags/latest/history", "", b"", "pull"),
    ("POST", "/v2/{name}/_pierhead/tags/latest/rollback", "", b'{"to": 0}', "push"),
    ("POST", "/v2/{name}/_pierhead/tags/latest/restore", "", b"", "push"),
    ("PUT", "/v2/{name}/manifests/new", "", encode(image()), "push"),
    ("POST", "/v2/{name}/blobs/uploads/", "", b"", "push"),
    ("POST", "/v2/{name}/blobs/uploads/", f"digest={Digest.of(NEW)}", NEW, "push"),
    ("PATCH", "/v2/{name}/blobs/uploads/{upload}", "", NEW, "push"),
    ("PUT", "/v2/{name}/blobs/uploads/{upload}", f"digest={Digest.of(NEW)}", NEW, "push"),
    ("GET", "/v2/{name}/blobs/uploads/{upload}", "", b"", "push"),
    ("DELETE", "/v2/{name}/blobs/uploads/{upload}", "", b"", "push"),
    ("DELETE", "/v2/{name}/manifests/latest", "", b"", "delete"),
    ("DELETE", "/v2/{name}/manifests/{digest}", "", b"", "delete"),
    ("DELETE", "/v2/{name}/blobs/{blob}", "", b"", "delete"),
    ("DELETE", "/v2/{name}/_pierhead/repository", "", b"", "delete"),
)
REPOSITORIES = ("team/app", "team/absent", "secret/app", "secret/absent", "public/app", "team-evil/app")

LOG_IN = (401, "UNAUTHORIZED", None)
INVALID = (401, "UNAUTHORIZED", "invalid_token")
INSUFFICIENT = (401, "UNAUTHORIZED", "insufficient_scope")
DENIED = (403, "DENIED", None)
Refusal = tuple[int, str, str | None]


@dataclass(frozen=True, slots=True)
class Somebody:
    """How somebody asks, what they may do below which path, and how they are refused.

    `headers` names a user, a robot, or `token:USER:SCOPES` for one who has asked for a token before.
    """

    headers: str
    rights: Mapping[str, set[str]]
    refused: Refusal
    known: bool = True
    catalog: bool = True
    certificate: ClientCertificate | None = None

    def may(self, need: str, name: str) -> bool:
        """Whether they may do what an endpoint takes."""
        if need == "any":
            return self.known
        if need == "catalog":
            return self.catalog
        return any(name.startswith(f"{below}/") and need in actions for below, actions in self.rights.items())


EVERYTHING = {"team": {"pull", "push", "delete"}, "secret": {"pull", "push", "delete"}}
ALL = {**EVERYTHING, "public": {"pull", "push", "delete"}, "team-evil": {"pull", "push", "delete"}}
PULLS = {"team": {"pull"}}
PUBLIC = {"public": {"pull"}}
PUSHES = {"team": {"pull", "push"}}
APP = "repository:{name}:pull,push,delete"

PEOPLE: Mapping[str, Somebody] = {
    "nobody": Somebody("", PUBLIC, LOG_IN, known=False, catalog=True),
    "nobody, by an empty password": Somebody("basic::", PUBLIC, LOG_IN, known=False, catalog=True),
    "alice by password": Somebody("basic:alice:correct horse", ALL, DENIED),
    "alice by a token for everything": Somebody(f"token:alice:{APP} registry:catalog:*", ALL, INSUFFICIENT),
    "alice by a token for pulling": Somebody(
        "token:alice:repository:{name}:pull", {name: {"pull"} for name in ALL}, INSUFFICIENT, catalog=False
    ),
    "alice by a token for the repository above": Somebody(
        "token:alice:repository:team:pull,push,delete repository:secret:*", {}, INSUFFICIENT, catalog=False
    ),
    "alice by a token for nothing": Somebody("token:alice:", {}, INSUFFICIENT, catalog=False),
    "bob by password": Somebody("basic:bob:battery staple", PULLS, DENIED),
    "bob by a token that he asked too much for": Somebody(f"token:bob:{APP} registry:catalog:*", PULLS, INSUFFICIENT),
    "carol, who may nothing, by password": Somebody("basic:carol:nothing at all", {}, DENIED),
    "carol by a token": Somebody(f"token:carol:{APP}", {}, INSUFFICIENT, catalog=False),
    "dora by a token": Somebody(f"token:dora:{APP}", PUSHES, INSUFFICIENT, catalog=False),
    "a robot by its token as password": Somebody("robot", PUSHES, DENIED),
    "a robot by an access token": Somebody(f"token:robot:{APP}", PUSHES, INSUFFICIENT, catalog=False),
    "a client with a certificate": Somebody("", PULLS, DENIED, certificate=CERTIFICATE),
    "nobody, by a token": Somebody(f"token::{APP}", PUBLIC, INSUFFICIENT, catalog=False),
    "an unknown user": Somebody("basic:mallory:whatever else", {}, LOG_IN, known=False, catalog=False),
    "alice by a wrong password": Somebody("basic:alice:wrong horse", {}, LOG_IN, known=False, catalog=False),
    "a robot by another token": Somebody("basic:ci:phr_0000_0000", {}, LOG_IN, known=False, catalog=False),
    "a token that is none": Somebody("bearer:abc", {}, INVALID, known=False, catalog=False),
    "a token of another registry": Somebody("foreign", {}, INVALID, known=False, catalog=False),
    "another scheme": Somebody("raw:Digest username=alice", {}, LOG_IN, known=False, catalog=False),
}


async def test_who_has_pushed_is_told_to_those_alone_who_have_shown_who_they_are(house: House) -> None:
    """Everybody may pull what is public."""
    registry = await house.open()
    headers = basic("alice", PASSWORDS["alice"])
    other = encode({**image(), "annotations": {"another": "one"}})
    path = "/v2/public/app"
    assert (await send(registry, Asked("PUT", f"{path}/manifests/latest", body=other, headers=headers))).status == 201
    asked = Asked("GET", f"{path}/_pierhead/tags/latest/history")

    for sent, who in ((asked, ["", "anonymous"]), (replace(asked, headers=headers), ["user:alice", "anonymous"])):
        told = await send(registry, sent)
        assert (told.status, [state["who"] for state in told.json()["states"]]) == (200, who)
    await registry.close()


async def test_a_rollback_that_moves_a_tag_takes_the_right_to_overwrite(house: House) -> None:
    """As a push that moves it does; dora may push."""
    registry = await house.open()
    path, headers = "/v2/team/app", basic("alice", PASSWORDS["alice"])
    other = encode({**image(), "annotations": {"another": "one"}})
    assert (await send(registry, Asked("PUT", f"{path}/manifests/latest", body=other, headers=headers))).status == 201
    asked = Asked("POST", f"{path}/_pierhead/tags/latest/rollback")

    refused = await send(registry, replace(asked, headers=basic("dora", PASSWORDS["dora"])))
    done = await send(registry, replace(asked, headers=headers))
    told = await send(registry, Asked("GET", f"{path}/_pierhead/tags/latest/history", headers=headers))

    assert (refused.status, refused.code) == (403, "DENIED")
    assert refused.json()["errors"][0]["detail"] == {"current": str(Digest.of(other))}
    assert (done.status, done.json()["digest"]) == (200, str(DIGEST))
    assert [(each["who"], each["why"]) for each in told.json()["states"]] == [
        ("user:alice", "rollback"),
        ("user:alice", "push"),
        ("anonymous", "push"),
    ]
    deleted = await send(registry, Asked("DELETE", f"{path}/manifests/latest", headers=headers))
    back = await send(
        registry, Asked("POST", f"{path}/_pierhead/tags/latest/restore", headers=basic("dora", PASSWORDS["dora"]))
    )
    assert (deleted.status, back.status) == (202, 200)
    await registry.close()


@pytest.fixture
async def house(tmp_path: Path) -> House:
    made = House(tmp_path)
    await made.fill("team/app", "secret/app", "public/app", "team-evil/app")
    return made


async def headers_of(house: House, somebody: Somebody, name: str) -> Mapping[str, str]:
    """What somebody sends, for a repository. Tokens are asked for of another process on the same store."""
    kind, _, rest = somebody.headers.partition(":")
    user, _, more = rest.partition(":")
    if kind == "basic":
        return basic(user, more)
    if kind == "robot":
        return basic("ci", house.robot)
    if kind == "bearer":
        return bearer(rest)
    if kind == "raw":
        return {"authorization": rest}
    if kind == "token":
        return bearer(await token_on(house, credentials_of(house, user), more.format(name=name)))
    if kind == "foreign":
        other = House(house.users.parent)
        await other.fill()
        return bearer(await token_on(other, basic("alice", PASSWORDS["alice"]), APP.format(name=name)))
    return {}


def credentials_of(house: House, user: str) -> Mapping[str, str]:
    if user == "robot":
        return basic("ci", house.robot)
    return basic(user, PASSWORDS[user]) if user else {}


async def token_on(house: House, credentials: Mapping[str, str], scopes: str) -> str:
    """Ask for a token; what the service keeps stays in the store of the house, as it would on a disk."""
    copies, house.copy = house.copy, lambda: house.driver  # type: ignore[method-assign]
    try:
        registry = await house.open()
        token = await house.token(registry, credentials, *scopes.split())
        await registry.close()
    finally:
        house.copy = copies  # type: ignore[method-assign]
    return token


@pytest.mark.parametrize("who", PEOPLE)
async def test_every_endpoint_answers_everybody_as_it_is_written_here(house: House, who: str) -> None:
    somebody = PEOPLE[who]
    for name in REPOSITORIES:
        headers = await headers_of(house, somebody, name)
        for method, path, query, body, need in ENDPOINTS:
            place = path.format(name=name, digest=DIGEST, blob=BLOB, upload=UPLOAD)
            asked = Asked(
                method, place, query, body, {"content-type": IMAGE_TYPE, **headers}, certificate=somebody.certificate
            )
            answer = await answer_of(house, asked, auth=True)
            if somebody.may(need, name):
                open_answer = await answer_of(house, asked, auth=False)
                expected = seen_by(somebody, open_answer) if need == "catalog" else shape(open_answer)
                assert shape(answer) == expected, (method, place)
            else:
                assert refusal(answer, method) == without_code(somebody.refused, method), (method, place, answer.body)
                assert scope_of(answer) in {None, wanted(need, name)}
                assert (scope_of(answer) is None) == (answer.status == 403 or need == "any")


IMAGE_TYPE = str(image()["mediaType"])


async def answer_of(house: House, asked: Asked, *, auth: bool) -> Answer:
    registry = await house.open(auth=auth)
    try:
        return await send(registry, asked)
    finally:
        await registry.close()


def shape(answer: Answer) -> tuple[int, Mapping[str, str], object]:
    """What has to be alike in the answers of two registries: ids of sessions differ."""
    ids = re.compile(r"[0-9a-f]{32}(?![0-9a-f])")
    headers = {name: ids.sub("ID", value) for name, value in answer.headers.items()}
    return answer.status, headers, answer.body


def seen_by(somebody: Somebody, answer: Answer) -> tuple[int, Mapping[str, str], object]:
    """The catalog as it has to look for somebody: without what they may not pull."""
    names = [name for name in answer.json()["repositories"] if somebody.may("pull", name)]
    if somebody.headers.startswith("token:alice"):
        names = answer.json()["repositories"]
    if somebody.headers.startswith("token:bob"):
        names = [name for name in answer.json()["repositories"] if name.startswith("team/")]
    body = json.dumps({"repositories": names}, separators=(",", ":")).encode()
    return answer.status, {**answer.headers, "content-length": str(len(body))}, body


def refusal(answer: Answer, method: str) -> Refusal:
    told = re.search(r'error="(\w+)"', answer.headers.get("www-authenticate", ""))
    return answer.status, "" if method == "HEAD" else answer.code, told[1] if told else None


def without_code(refused: Refusal, method: str) -> Refusal:
    return (refused[0], "", refused[2]) if method == "HEAD" else refused


def scope_of(answer: Answer) -> str | None:
    """The scope of the challenge, after a look at the rest of it."""
    challenge = answer.headers.get("www-authenticate")
    assert (challenge is not None) == (answer.status == 401)
    if challenge is None:
        return None
    assert answer.headers["cache-control"] == "no-store"
    assert challenge.startswith('Bearer realm="http://registry.example/token",service="pierhead"')
    found = re.search(r'scope="([^"]+)"', challenge)
    return found[1] if found else None


def wanted(need: str, name: str) -> str:
    asked = {"pull": "pull", "push": "pull,push", "delete": "delete"}
    return "registry:catalog:*" if need == "catalog" else f"repository:{name}:{asked.get(need)}"


async def test_what_is_forbidden_and_what_is_not_there_look_alike(house: House) -> None:
    for credentials in (basic("bob", PASSWORDS["bob"]), {}):
        for method, path, query, body, need in ENDPOINTS:
            if need in {"any", "catalog"}:
                continue
            answers = []
            for name in ("secret/app", "secret/nil"):
                place = path.format(name=name, digest=DIGEST, blob=BLOB, upload=UPLOAD)
                asked = Asked(method, place, query, body, {"content-type": IMAGE_TYPE, **credentials})
                answer = await answer_of(house, asked, auth=True)
                headers = {key: value.replace(name, "NAME") for key, value in answer.headers.items()}
                answers.append((answer.status, headers, answer.body))
            assert answers[0] == answers[1], (method, path)


async def test_the_challenge_names_the_configured_addresses_and_no_header_changes_them(house: House) -> None:
    named = {"host": "evil.example", "x-forwarded-host": "evil.example", "x-forwarded-proto": "https"}
    for settings, realm in (
        ({}, "http://evil.example/token"),  # what the client itself has named: nobody else is told it
        ({"url": "https://registry.example"}, "https://registry.example/token"),
        ({"realm": "https://tokens.example/auth"}, "https://tokens.example/auth"),
    ):
        house.auth |= {"url": "", "realm": "", **settings}
        registry = await house.open()
        answer = await send(registry, Asked("GET", "/v2/", headers=named))
        await registry.close()

        assert answer.headers["www-authenticate"] == f'Bearer realm="{realm}",service="pierhead"'


async def test_who_makes_too_many_requests_is_told_when_to_come_again_and_others_are_not(house: House) -> None:
    house.auth |= {"requests_per_second": 0.5, "requests_burst": 5}
    registry = await house.open()
    alice, bob = basic("alice", PASSWORDS["alice"]), basic("bob", PASSWORDS["bob"])

    answers = [await send(registry, Asked("GET", "/v2/", headers=alice)) for _ in range(7)]

    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    assert answers[-1].code == "TOOMANYREQUESTS"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 3
    assert (await send(registry, Asked("GET", "/token", "service=pierhead", headers=alice))).status == 429
    assert (await send(registry, Asked("GET", "/v2/", headers=bob))).status == 200
    # Whoever has no name is counted by address.
    pulls = [Asked("GET", "/v2/public/app/tags/list", peer=f"192.0.2.{number % 2 + 1}") for number in range(12)]
    assert [(await send(registry, asked)).status for asked in pulls] == [200] * 10 + [429] * 2
    await registry.close()
