"""Tokens as weapons: scopes that reach too far, tokens that lie, refresh tokens, and forms at the token endpoint."""

import base64
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.api.tokens import FIELDS_MAX, FORM_BYTES_MAX
from registry.auth.htpasswd import add_user, remove_user, set_hash
from registry.auth.jwks import to_jwk
from registry.auth.jwts import LEEWAY_SECONDS, OWN_BYTES_MAX
from registry.auth.passwords import hash_password
from registry.auth.scopes import SCOPES_MAX
from registry.auth.signing import LIFETIME_SECONDS_MAX
from storage.signing_keys import SigningKeyRecord
from tests.auth.issuing import assemble, base64url, ec_key, public_pem, rsa_key
from tests.hostile import people
from tests.hostile.examples import WIRE
from tests.hostile.people import (
    COST,
    FORM,
    PASSWORDS,
    WRONG,
    House,
    access_in,
    basic,
    both_workers,
    call_from,
    challenge_of,
    claims_of,
    error_of,
    header_of,
    open_house,
    post_token,
    put_blob,
    put_image,
    signing_key,
)
from tests.hostile.pushing import IMAGE, image, sha256
from tests.hostile.wire import Wire, ask, call, chunk, encoded, head, request
from tests.running import Server, eventually, start

ALL = ("pull", "push", "delete")
CHANGE_SECONDS = 5.0


@pytest.fixture(scope="module")
def server(house: House) -> Server:
    """The server that only known people are let into."""
    put_image(house.server, "team/app", "latest", house.basic("alice"))
    put_image(house.server, "secret/app", "latest", house.basic("alice"))
    return house.server


# Scopes


def repository(*actions: str, name: str = "team/app") -> tuple[str, str, tuple[str, ...]]:
    return "repository", name, actions


CATALOG = ("registry", "catalog", ("*",))
SCOPES: Mapping[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "": [],
    "repository:team/app:pull": [repository("pull")],
    "repository:team/app:*": [repository(*ALL)],
    "repository:team/app:pull,pull,push": [repository("pull", "push")],
    "repository:team/app:push,pull": [repository("pull", "push")],
    "repository:team/app:pull,admin,overwrite,root": [repository("pull")],
    "repository:team/app:admin": [],
    "repository:team/app:overwrite": [],
    "repository:team/app:PULL": [],
    "repository:team/app:": [],
    "repository:team/app:,": [],
    "repository:team/app": [],
    "repository:team/app:pull:push": [],
    "repository(plugin):team/app:pull": [repository("pull")],
    "repository():team/app:pull": [],
    "repository(plugin)(plugin):team/app:pull": [],
    "repository(*):team/app:pull": [],
    "Repository:team/app:pull": [],
    "repository :team/app:pull": [],
    "repository*:team/app:pull": [],
    "*:team/app:pull": [],
    "*:*:*": [],
    "*": [],
    "repository:*:pull": [],
    "repository:**:*": [],
    "repository:team/*:pull": [],
    "repository:team/**:*": [],
    "repository:team/app*:pull": [],
    "repository:team/a?p:pull": [],
    "repository:team/[a]pp:pull": [],
    "repository:.*:pull": [],
    "repository::pull": [],
    "repository:/:pull": [],
    "repository:/team/app:pull": [],
    "repository:team/app/:pull": [],
    "repository:team//app:pull": [],
    "repository:..:pull": [],
    "repository:a/../b:pull": [],
    "repository:team/./app:pull": [],
    "repository:team%2Fapp:pull": [],
    "repository:Team/App:pull": [],
    "repository:team\\app:pull": [],
    "repository:team/app,secret/app:pull": [],
    "repository:registry.example:5000/team/app:pull": [],
    "repository:team/app\x00:pull": [],
    "repository:team/app\n:pull": [],
    "repository:\uff54eam/app:pull": [],
    "repository:" + "a" * 256 + ":pull": [],
    "registry:catalog:*": [CATALOG],
    "registry:catalog:*,pull": [CATALOG],
    "registry:catalog:pull": [],
    "registry:*:*": [],
    "registry:catalogue:*": [],
    "registry(x):catalog:*": [],
    "admin:registry:*": [],
    "robot:team/app:pull": [],
    "repository:team/app:pull repository:team/app:push": [repository("pull", "push")],
    "repository:team/app:pull  repository:x/y:delete": [repository("pull"), repository("delete", name="x/y")],
    "repository:team/app:pull\trepository:x/y:pull": [],
    "repository:team/app:pull,repository:x/y:pull": [],
    " ".join(["repository:team/app:pull"] * SCOPES_MAX): [repository("pull")],
}


@pytest.mark.case("H17")
@pytest.mark.parametrize("scope", SCOPES, ids=lambda scope: ascii(scope[:60]))
def test_even_alice_gets_what_a_scope_says_in_the_grammar_and_no_more(house: House, server: Server, scope: str) -> None:
    """She may do everything: what she is not granted here was not understood, and that is never an error."""
    form = {"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"], "scope": scope}
    posted = json.loads(post_token(server, form).body)
    got = house.ask_token("alice", scope)
    for issued in (posted, got):
        assert access_in(house.noted(issued["token"])) == SCOPES[scope]
        assert issued["access_token"] == issued["token"]
    told = " ".join(f"{kind}:{name}:{','.join(actions)}" for kind, name, actions in SCOPES[scope])
    assert posted["scope"] == told


@pytest.mark.case("H8")
@pytest.mark.case("H17")
def test_who_asks_for_everything_gets_what_the_policy_allows(house: House) -> None:
    wanted = [f"repository:{name}:*" for name in ("team/app", "secret/app", "public/app", "team-evil/app", "team")]

    assert access_in(house.token("bob", *wanted)) == [repository("pull")]
    assert access_in(house.token("dora", *wanted)) == [repository("pull", "push")]
    assert access_in(house.token("erin", *wanted)) == [repository("pull", "delete")]
    assert access_in(house.token("carol", *wanted)) == []
    assert access_in(house.token("", *wanted)) == [repository("pull", name="public/app")]
    assert len(access_in(house.token("alice", *wanted))) == len(wanted)


@pytest.mark.case("H17")
def test_more_scopes_than_are_taken_are_refused_however_they_come(house: House, server: Server) -> None:
    many = [f"repository:team/app{number}:pull" for number in range(SCOPES_MAX + 1)]
    queries = [
        urlencode([("scope", scope) for scope in many]),
        urlencode([("scope", " ".join(many))]),
        urlencode([("scope", " ".join(many[:20])), ("scope", " ".join(many[20:]))]),
        urlencode([("scope", "repository:team/app:pull")] * (SCOPES_MAX + 1)),
    ]
    for query in queries:
        answer = call(server, "GET", f"/token?{query}", house.basic("alice"))
        assert (answer.status, answer.code) == (400, "UNSUPPORTED")
        body = f"grant_type=password&username=alice&password={PASSWORDS['alice']}&{query}".encode()
        assert call(server, "POST", "/token", FORM, body=body).status == 400
    assert call(server, "GET", "/token?" + urlencode([("scope", " ".join(many[:-1]))])).status == 200
    # As many as are taken, with the longest names there are: no token grows beyond what a header line holds.
    longest = [f"repository:{'/'.join(['a' * 84, f'b{number:083}', 'c' * 84])}:*" for number in range(SCOPES_MAX)]
    answer = call(server, "GET", "/token?" + urlencode([("scope", " ".join(longest))]), house.basic("alice"))
    assert answer.status == 400 or len(json.loads(answer.body)["token"]) <= OWN_BYTES_MAX


@pytest.mark.case("H17")
def test_a_token_reaches_exactly_what_it_names(house: House, server: Server) -> None:
    line = house.bearer(house.token("alice", "repository:team/app:pull"))
    config = sha256(b"{}")
    for name in ("team/app/x", "team", "team/ap", "team/app2", "team-app", "app", "secret/app", "team/app__x"):
        answer = call(server, "GET", f"/v2/{name}/tags/list", line)
        assert challenge_of(answer)["scope"] == f"repository:{name}:pull"
        assert error_of(answer) == "insufficient_scope"
    for method, below in (
        ("PUT", "manifests/x"),
        ("DELETE", "manifests/latest"),
        ("DELETE", f"blobs/{config}"),
        ("POST", "blobs/uploads/"),
        ("POST", f"blobs/uploads/?mount={encoded(config)}&from=team/app"),
        ("PATCH", f"blobs/uploads/{'0' * 32}"),
        ("PUT", f"blobs/uploads/{'0' * 32}?digest={encoded(config)}"),
        ("DELETE", f"blobs/uploads/{'0' * 32}"),
        ("GET", f"blobs/uploads/{'0' * 32}"),
    ):
        answer = call(server, method, f"/v2/team/app/{below}", line)
        assert error_of(answer) == "insufficient_scope", (method, below)
    assert error_of(call(server, "GET", "/v2/_catalog", line)) == "insufficient_scope"
    assert call(server, "GET", "/v2/team/app/manifests/latest", line).status == 200


@pytest.mark.case("H17")
@pytest.mark.parametrize("alone", ["push", "delete"])
def test_a_token_for_one_action_is_no_token_for_another(house: House, server: Server, alone: str) -> None:
    line = house.bearer(house.token("alice", f"repository:team/app:{alone}"))

    assert error_of(call(server, "GET", "/v2/team/app/manifests/latest", line)) == "insufficient_scope"
    assert error_of(call(server, "POST", "/v2/team/app/blobs/uploads/", line)) == "insufficient_scope"


@pytest.mark.case("H17")
def test_a_token_does_not_keep_what_the_policy_has_taken(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        line = house.bearer(house.token("bob", "repository:team/app:pull"))
        put_image(house.server, "team/app", "latest", house.basic("alice"))
        assert call(house.server, "GET", "/v2/team/app/manifests/latest", line).status == 200

        (tmp_path / "policy.toml").write_text('[[rules]]\nwho = ["alice"]\nrepositories = ["**"]\nallow = ["*"]\n')

        target = "/v2/team/app/manifests/latest"
        with both_workers(house.server, "127.0.0.1") as wires:
            for wire in wires:
                eventually(lambda wire=wire: _status(wire, target, line) == 401, seconds=CHANGE_SECONDS)  # type: ignore[misc]
        assert house.leaked() == []


def _status(wire: Wire, target: str, line: str) -> int:
    wire.send(request("GET", target, line))
    return wire.answer().status


# For whom a token is


@pytest.mark.case("H18")
@pytest.mark.parametrize(
    "service", ["other", "Pierhead", "pierhead ", "pierhead,other", "registry.example", "\x00", "*"]
)
def test_a_token_for_another_service_is_not_to_be_had(house: House, server: Server, service: str) -> None:
    got = call(server, "GET", f"/token?service={quote(service)}", house.basic("alice"))
    form = {"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"], "service": service}

    for answer in (got, post_token(server, form)):
        assert (answer.status, answer.code) == (400, "UNSUPPORTED")
        assert b"eyJ" not in answer.body


@pytest.mark.case("H18")
def test_tokens_of_another_service_open_nothing_though_the_store_and_its_keys_are_the_same(
    house: House, server: Server, tmp_path: Path
) -> None:
    """A test environment on a copy of the production's data: its tokens must not count in production."""
    other = start(
        server.data,
        log=tmp_path / "log",
        environment={"PIERHEAD_AUTH_HTPASSWD": str(house.htpasswd), "PIERHEAD_AUTH_SERVICE": "other"},
    )
    try:
        there = House(other, house.htpasswd, house.audit, house.secrets)
        foreign = there.ask_token("alice", "repository:team/app:pull", service="other", offline_token="true")
        mine = house.ask_token("alice", "repository:team/app:pull", service="pierhead", offline_token="true")
        assert header_of(foreign["token"])["kid"] == header_of(mine["token"])["kid"]
        for here, right, wrong in ((server, mine, foreign), (other, foreign, mine)):
            target = "/v2/team/app/manifests/latest"
            assert call(here, "GET", target, house.bearer(right["token"])).status == 200
            assert error_of(call(here, "GET", target, house.bearer(wrong["token"]))) == "invalid_token"
            form = {"grant_type": "refresh_token", "refresh_token": wrong["refresh_token"]}
            assert post_token(here, form).status == 401
    finally:
        other.stop()


@pytest.mark.case("H18")
def test_an_account_is_only_said_and_credentials_decide(house: House, server: Server) -> None:
    for account in ("alice", "", "bob", "user:alice", "robot:x", "a" * 5000, "\x00"):
        token = house.ask_token("bob", "repository:team/app:*", account=account)["token"]
        assert (claims_of(token)["sub"], access_in(token)) == ("user:bob", [repository("pull")])
        assert claims_of(house.ask_token("", account=account)["token"])["sub"] == ""
    form = {"grant_type": "password", "username": "bob", "password": PASSWORDS["bob"], "account": "alice"}
    answer = post_token(server, form, house.basic("alice"))
    assert claims_of(house.noted(json.loads(answer.body)["token"]))["sub"] == "user:bob"
    answer = post_token(server, {"grant_type": "password", "account": "alice", "client_id": "alice"})
    assert answer.status == 400


# Tokens that lie


@dataclass
class Forge:
    """Has the key that the server signs with, and a good token to begin with."""

    record: SigningKeyRecord
    header: dict[str, Any]
    claims: dict[str, Any]
    good: str

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        key = load_pem_private_key(self.record.private_pem.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key.public_key()

    @property
    def message(self) -> str:
        return self.good.rpartition(".")[0]

    @property
    def signature(self) -> bytes:
        text = self.good.rpartition(".")[2]
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    def signed(self, claims: object = None, /, **header: object) -> str:
        """A token whose signature is right; a header of None is left out."""
        fields = {name: value for name, value in {**self.header, **header}.items() if value is not None}
        return people.sign(self.record, fields, self.claims if claims is None else claims)

    def saying(self, **claims: object) -> str:
        """A token whose signature is right and that says something else; a claim of ... is left out."""
        return self.signed({name: value for name, value in {**self.claims, **claims}.items() if value is not ...})

    def by(self, key: Any, algorithm: str, **header: object) -> str:
        """A token that somebody else has signed."""
        fields = {**self.header, "alg": algorithm, **header}
        return assemble({k: v for k, v in fields.items() if v is not None}, self.claims, key, algorithm)


@pytest.fixture(scope="module")
def forge(house: House, server: Server) -> Forge:
    token = house.token("alice", "repository:team/app:pull", "repository:secret/app:pull")
    return Forge(signing_key(server), header_of(token), claims_of(token), token)


TARGET = "/v2/secret/app/manifests/latest"


def is_refused(house: House, token: str, *, error: str = "invalid_token") -> bool:
    """Whether both as a token and as a password a text opens nothing."""
    lines = [f"Authorization: Bearer {token}"]
    for target in ("/v2/", TARGET):
        answer = call(house.server, "GET", target, *lines)
        assert answer.status < 500
        if answer.status == 400:
            continue  # not even a header line
        assert (answer.status, answer.code) == (401, "UNAUTHORIZED"), answer
        if target == TARGET:
            assert error_of(answer) == error
    answer = call_from(house.stranger(), house.server, "GET", TARGET, basic("alice", token))
    assert answer.status in {401, 431}
    return True


@pytest.mark.case("H19")
def test_the_forge_can_make_tokens_that_are_believed(house: House, forge: Forge) -> None:
    """Else no refusal below would mean anything."""
    now = int(time.time())
    for token in (
        forge.good,
        forge.signed(),
        forge.saying(jti="another"),
        forge.saying(exp=now + 60),
        forge.saying(exp=now - LEEWAY_SECONDS // 2),
        forge.signed(typ="jwt"),
    ):
        assert call(house.server, "GET", TARGET, house.bearer(token)).status == 200


@pytest.mark.case("H19")
@pytest.mark.parametrize("spelling", ["none", "None", "NONE", "nOnE", "none ", " none", "", "null"])
def test_a_token_without_a_signature_is_refused_however_none_is_written(
    house: House, forge: Forge, spelling: str
) -> None:
    for rest in ("", forge.good.rpartition(".")[2], "AA"):
        fields = {**forge.header, "alg": spelling}
        message = ".".join(base64url(json.dumps(part).encode()) for part in (fields, forge.claims))
        assert is_refused(house, f"{message}.{rest}")
    assert is_refused(house, forge.message)
    assert is_refused(house, f"{forge.message}.")


@pytest.mark.case("H19")
def test_the_public_key_is_no_secret_of_an_hmac(house: House, forge: Forge) -> None:
    public = forge.public
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    key = ec_key()
    for secret in (
        public_pem(load_key(forge)),
        public_pem(load_key(forge)).rstrip(b"\n"),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        point,
        json.dumps(to_jwk(public)).encode(),
        forge.record.kid.encode(),
        b"\x00",
        b"secret",
        b"pierhead",
    ):
        assert is_refused(house, forge.by(secret, "HS256"))
        assert is_refused(house, forge.by(secret, "HS256", kid=None))
    assert is_refused(house, forge.by(key, "ES256"))


def load_key(forge: Forge) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(forge.record.private_pem.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


@pytest.mark.case("H19")
@pytest.mark.parametrize(
    "algorithm", ["ES384", "RS256", "PS256", "ES512", "EdDSA", "es256", "ES256 ", "HS512", "ES256K"]
)
def test_the_algorithm_is_that_of_the_key_and_not_of_the_token(house: House, forge: Forge, algorithm: str) -> None:
    assert is_refused(house, forge.signed(alg=algorithm))
    if algorithm in {"RS256", "PS256"}:
        assert is_refused(house, forge.by(rsa_key(), algorithm))


@pytest.fixture
def listener() -> Iterator[tuple[str, list[object]]]:
    """An address that a token may name, and who has come there."""
    came: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                try:
                    connection, peer = listening.accept()
                except TimeoutError:
                    continue
                came.append(peer)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/keys", came
        stop.set()
        thread.join()


@pytest.mark.case("H19")
def test_a_token_that_brings_its_key_or_its_address_along_is_refused_and_nobody_goes_there(
    house: House, forge: Forge, listener: tuple[str, list[object]]
) -> None:
    url, came = listener
    attacker = ec_key()
    jwk = to_jwk(attacker.public_key())
    headers: list[dict[str, object]] = [
        {"jwk": jwk},
        {"jwk": jwk, "kid": None},
        {"jwk": to_jwk(forge.public)},
        {"jku": url},
        {"jku": url, "kid": None},
        {"x5u": url},
        {"x5c": [base64.b64encode(b"x").decode()]},
        {"jku": "file:///etc/passwd"},
        {"kid": url},
        {"jwk": jwk, "jku": url, "x5u": url},
    ]
    for header in headers:
        assert is_refused(house, forge.by(attacker, "ES256", **header))
        assert is_refused(house, forge.signed(**header)), "also if the signature is ours"
    assert is_refused(house, people.sign(forge.record, forge.header, {**forge.claims, "iss": url}))
    assert is_refused(house, assemble({**forge.header, "kid": "x"}, {**forge.claims, "iss": url}, attacker, "ES256"))
    assert came == []


KIDS: list[object] = [
    "",
    "first",
    "../../../../dev/null",
    "/dev/null",
    "' OR '1'='1",
    "x' UNION SELECT 'key",
    "\x00",
    "a" * 5000,
    "|touch /tmp/x",
    "é",
    0,
    1.5,
    True,
    [],
    ["first"],
    {"kid": "first"},
]


@pytest.mark.case("H19")
@pytest.mark.parametrize("kid", KIDS, ids=lambda kid: ascii(kid)[:30])
def test_a_kid_names_a_key_and_nothing_else(house: House, forge: Forge, kid: object) -> None:
    assert is_refused(house, forge.signed(kid=kid))
    assert is_refused(house, forge.by(b"\x00", "HS256", kid=kid))


@pytest.mark.case("H19")
def test_headers_that_change_what_is_signed_are_refused(house: House, forge: Forge) -> None:
    assert is_refused(house, forge.signed(kid=None))
    headers: list[dict[str, object]] = [
        {"crit": ["exp"]},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"zip": "DEF"},
        {"typ": None},
        {"typ": "JWE"},
        {"typ": "at+jwt"},
        {"typ": 1},
        {"typ": ["JWT"]},
        {"enc": "A256GCM", "alg": "dir"},
        {"alg": None},
        {"alg": ["ES256"]},
    ]
    for header in headers:
        assert is_refused(house, forge.signed(**header)), header


TIMES: Mapping[str, Mapping[str, object]] = {
    "no end": {"exp": ...},
    "an end that is null": {"exp": None},
    "an end with a fraction": {"exp": 4102444800.0},
    "an end that is a text": {"exp": "4102444800"},
    "an end that is true": {"exp": True},
    "an end in the next century": {"exp": 4102444800},
    "an end beyond all numbers": {"exp": 10**19},
    "an end in a list": {"exp": [4102444800]},
    "a negative end": {"exp": -1},
    "an end in milliseconds": {"exp": int(time.time() * 1000) + 60_000},
    "no beginning": {"nbf": ...},
    "no time of issue": {"iat": ...},
    "a beginning that is a text": {"nbf": "0"},
    "a beginning to come": {"nbf": 4102444800},
    "a time of issue to come": {"iat": 4102444800},
    "a time of issue with a fraction": {"iat": 1.5},
}
PARTIES: Mapping[str, Mapping[str, object]] = {
    "another audience": {"aud": "other"},
    "no audience": {"aud": ...},
    "an empty audience": {"aud": ""},
    "a list of none": {"aud": []},
    "others as well": {"aud": ["pierhead", "other"]},
    "a pattern": {"aud": "*"},
    "another case": {"aud": "Pierhead"},
    "an object": {"aud": {"pierhead": True}},
    "another issuer": {"iss": "other"},
    "no issuer": {"iss": ...},
    "issuers in a list": {"iss": ["pierhead"]},
    "no subject": {"sub": ...},
    "a subject that is a number": {"sub": 0},
}
PEOPLE: Mapping[str, Mapping[str, object]] = {
    "nobody said": {"pierhead": ...},
    "null": {"pierhead": None},
    "a list": {"pierhead": []},
    "nothing in it": {"pierhead": {}},
    "a kind that is not there": {"pierhead": {"kind": "root", "name": "alice", "credential": ""}},
    "a kind that is a list": {"pierhead": {"kind": ["user"], "name": "alice", "credential": ""}},
    "without a credential": {"pierhead": {"kind": "user", "name": "alice"}},
    "with an empty credential": {"pierhead": {"kind": "user", "name": "alice", "credential": ""}},
    "with no credential": {"pierhead": {"kind": "user", "name": "alice", "credential": None}},
    "an unknown user": {"pierhead": {"kind": "user", "name": "nobody", "credential": "None"}},
    "an unknown robot": {"pierhead": {"kind": "robot", "name": "ci", "credential": "x"}},
    "a robot of a hostile name": {"pierhead": {"kind": "robot", "name": "../x", "credential": "../../x"}},
    "claims that are a list": {"pierhead": {"kind": "user", "name": "alice", "credential": "", "claims": [1]}},
}
ACCESS: Mapping[str, Mapping[str, object]] = {
    "an object": {"access": {"type": "repository", "name": "secret/app", "actions": ["pull"]}},
    "a text": {"access": "repository:secret/app:pull"},
    "actions that are a text": {"access": [{"type": "repository", "name": "secret/app", "actions": "pull"}]},
    "an action that is a list": {"access": [{"type": "repository", "name": "secret/app", "actions": [["pull"]]}]},
    "a name that is a list": {"access": [{"type": "repository", "name": ["secret/app"], "actions": ["pull"]}]},
    "no type": {"access": [{"name": "secret/app", "actions": ["pull"]}]},
    "too many": {"access": [{"type": "t", "name": "n", "actions": []}] * 257},
}


@pytest.mark.case("H19")
@pytest.mark.parametrize("name", [*TIMES, *PARTIES, *PEOPLE, *ACCESS])
def test_what_a_token_says_is_looked_at_though_its_signature_is_right(house: House, forge: Forge, name: str) -> None:
    assert is_refused(house, forge.saying(**{**TIMES, **PARTIES, **PEOPLE, **ACCESS}[name]))


@pytest.mark.case("H19")
def test_an_expired_token_is_refused_once_the_leeway_is_over(house: House, forge: Forge) -> None:
    now = int(time.time())
    assert is_refused(house, forge.saying(exp=now - LEEWAY_SECONDS - 1))
    assert is_refused(house, forge.saying(exp=now + LIFETIME_SECONDS_MAX + LEEWAY_SECONDS + 60))
    assert is_refused(house, forge.saying(nbf=now + LEEWAY_SECONDS + 60))


@pytest.mark.case("H19")
@pytest.mark.parametrize("pattern", ["*", "**", "secret/*", "secret/**", "secret", "secret/app/", "SECRET/APP", ""])
def test_names_in_a_token_are_no_patterns(house: House, forge: Forge, pattern: str) -> None:
    token = forge.saying(access=[{"type": "repository", "name": pattern, "actions": ["*"]}])
    answer = call(house.server, "GET", TARGET, f"Authorization: Bearer {token}")
    assert error_of(answer) == "insufficient_scope"


@pytest.mark.case("H19")
def test_a_key_that_stands_twice_is_refused(house: House, forge: Forge) -> None:
    """Whoever reads the first and whoever reads the last see two tokens."""
    text = json.dumps(forge.claims)
    header = json.dumps(forge.header)
    for claims in (
        text[:-1] + ', "sub": "user:bob"}',
        '{"exp": 4102444800, ' + text[1:],
        text[:-1] + ', "access": []}',
        text.replace('"type"', '"type": "x", "type"', 1),
        text.replace('"kind"', '"kind": "user", "kind"', 1),
        text[:-1] + ', "\\u0073ub": "user:bob"}',
    ):
        assert is_refused(house, people.sign(forge.record, header.encode(), claims.encode()))
    for doubled in (header[:-1] + ', "alg": "none"}', '{"alg": "none", ' + header[1:]):
        assert is_refused(house, people.sign(forge.record, doubled.encode(), text.encode()))


@pytest.mark.case("H19")
def test_claims_that_are_bombs_or_no_json_are_refused(house: House, forge: Forge) -> None:
    text = json.dumps(forge.claims)
    for claims in (
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
        b"[" * 3000,
        (text[:-1] + ', "x": ' + "[" * 1000 + "]" * 1000 + "}").encode(),
        (text[:-1] + ', "exp": NaN}').encode(),
        text.replace(str(forge.claims["exp"]), "1e300").encode(),
        text.replace(str(forge.claims["exp"]), "9" * 5000).encode(),
        text.encode() + b"{}",
    ):
        assert is_refused(house, people.sign(forge.record, forge.header, claims))


@pytest.mark.case("H19")
def test_a_token_is_bounded_before_it_is_looked_at(house: House, forge: Forge) -> None:
    for size in (OWN_BYTES_MAX, 20_000, 30_000):
        token = forge.saying(padding="x" * size)
        answer = call(house.server, "GET", TARGET, f"Authorization: Bearer {token}")
        assert answer.status in {401, 431}
        if answer.status == 401:
            assert error_of(answer) == "invalid_token"
    room = OWN_BYTES_MAX - len(forge.saying(padding=""))
    assert (
        call(house.server, "GET", TARGET, f"Authorization: Bearer {forge.saying(padding='x' * (room // 2))}").status
        == 200
    )


@pytest.mark.case("H19")
def test_signatures_that_are_none_are_refused(house: House, forge: Forge) -> None:
    right = forge.signature
    order = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
    r, s = int.from_bytes(right[:32], "big"), int.from_bytes(right[32:], "big")
    for wrong in (
        bytes(64),
        bytes(32) + (1).to_bytes(32, "big"),
        (1).to_bytes(32, "big") * 2,
        order.to_bytes(32, "big") * 2,
        right[:32] + order.to_bytes(32, "big"),
        right[:-1],
        right + b"\x00",
        right[:32],
        right[32:] + right[:32],
        encode_dss_signature(r, s),
        bytes([right[0] ^ 1]) + right[1:],
    ):
        assert is_refused(house, f"{forge.message}.{base64url(wrong)}")
    header, claims, signature = forge.good.split(".")
    other = house.token("bob", "repository:team/app:pull").split(".")
    for mixed in (
        f"{header}.{claims}.{other[2]}",
        f"{header}.{other[1]}.{signature}",
        f"{other[0]}.{claims}.{other[2]}",
        f"{header}.{claims}.{signature}=",
        f"{header}.{claims}.{signature}.",
        f"{header}.{claims}.{signature}.x",
        f".{header}.{claims}.{signature}",
        f"{header}..{claims}.{signature}",
        f"{header}.{claims} .{signature}",
        f"{header}={'.'}{claims}.{signature}",
        json.dumps({"protected": header, "payload": claims, "signature": signature}),
    ):
        assert is_refused(house, mixed)


@pytest.mark.case("H19")
@pytest.mark.parametrize(
    "shape",
    [
        "Bearer {} {}",
        "Bearer {},{}",
        "Bearer {}, Basic Og==",
        "Bearer",
        "Bearer ",
        "Bearer:{}",
        "Token {}",
        "JWT {}",
        "{}",
    ],
)
def test_a_header_with_a_good_token_in_it_is_not_enough(house: House, forge: Forge, shape: str) -> None:
    line = "Authorization: " + shape.replace("{}", forge.good)
    assert call(house.server, "GET", TARGET, line).status == 401
    assert call(
        house.server, "GET", TARGET, f"Authorization: Bearer {forge.good}", "Authorization: Basic Og=="
    ).status in {
        400,
        401,
    }


@pytest.mark.case("H19")
def test_a_token_of_ours_is_no_credential_at_the_token_endpoint(house: House, server: Server, forge: Forge) -> None:
    """A short-lived token must not be turned into further ones."""
    for line in (house.bearer(forge.good), house.basic("alice", forge.good), house.basic("", forge.good)):
        assert call_from(house.stranger(), server, "GET", "/token?offline_token=true", line).status == 401
    for form in (
        {"grant_type": "password", "username": "alice", "password": forge.good},
        {"grant_type": "refresh_token", "refresh_token": forge.good},
    ):
        assert post_token(server, form).status == 401


# Refresh tokens


def refreshed(server: Server, token: str, **further: str) -> tuple[int, Mapping[str, Any]]:
    answer = post_token(server, {"grant_type": "refresh_token", "refresh_token": token, **further})
    return answer.status, json.loads(answer.body)


@pytest.fixture
def fred(house: House) -> Iterator[str]:
    """A user who is known to all workers, and whose line in the file a test may change."""
    name = "fred"
    add_user(house.htpasswd, name, hash_password(name, house.noted("the-first-password"), cost=COST))
    line = house.basic(name, "the-first-password")
    eventually(lambda: seen_by_both(house, line) == {200}, seconds=CHANGE_SECONDS)
    yield line
    if f"{name}:" in house.htpasswd.read_text():
        remove_user(house.htpasswd, name)


def seen_by_both(house: House, *lines: str, target: str = "/v2/") -> set[int]:
    """What both workers answer."""
    with both_workers(house.server, house.stranger()) as wires:
        found = set()
        for wire in wires:
            wire.send(request("GET", target, *lines))
            found.add(wire.answer().status)
        return found


def login(house: House, line: str) -> tuple[str, str]:
    """An access token and a refresh token, as docker login gets them."""
    answer = call(house.server, "GET", "/token?service=pierhead&offline_token=true&client_id=docker", line)
    found = json.loads(answer.body)
    return house.noted(found["token"]), house.noted(found["refresh_token"])


@pytest.mark.case("H20")
def test_a_refresh_token_opens_the_token_endpoint_only(house: House, server: Server) -> None:
    _, token = login(house, house.basic("dora"))

    assert error_of(call(server, "GET", "/v2/", house.bearer(token))) == "invalid_token"
    for user in ("dora", "", "<token>", "00000000-0000-0000-0000-000000000000"):
        for target in ("/v2/", "/v2/team/app/tags/list", "/token"):
            assert call_from(house.stranger(), server, "GET", target, house.basic(user, token)).status == 401
    assert post_token(server, {"grant_type": "password", "username": "dora", "password": token}).status == 401
    assert call(server, "GET", f"/token?grant_type=refresh_token&refresh_token={token}").status == 200
    answer = call(
        server, "GET", f"/token?grant_type=refresh_token&refresh_token={token}&scope=repository:team/app:pull"
    )
    assert access_in(json.loads(answer.body)["token"]) == []


@pytest.mark.case("H20")
def test_a_refresh_token_gives_what_its_user_may_and_no_further_refresh_token(house: House, server: Server) -> None:
    _, token = login(house, house.basic("dora"))
    for _ in range(3):
        status, found = refreshed(
            server, token, scope="repository:team/app:* repository:secret/app:*", service="pierhead"
        )
        assert status == 200
        assert access_in(house.noted(found["token"])) == [repository("pull", "push")]
        assert claims_of(found["token"])["sub"] == "user:dora"
    _, offline = refreshed(
        server, token, access_type="offline", offline_token="true", username="alice", account="alice"
    )
    assert "refresh_token" not in offline
    assert claims_of(offline["token"])["sub"] == "user:dora"
    assert refreshed(server, token, service="other")[0] == 400


@pytest.mark.case("H20")
def test_refresh_tokens_are_secrets_of_256_bits_that_storage_does_not_hold(house: House, server: Server) -> None:
    tokens = {login(house, house.basic("dora"))[1] for _ in range(20)}

    assert len(tokens) == 20
    secrets = [token.rpartition("_")[2] for token in tokens]
    assert len({secret[:8] for secret in secrets}) == 20
    assert all(len(secret) >= 43 for secret in secrets)
    for directory, _, names in os.walk(server.data):
        for file in (Path(directory) / name for name in names):
            content = file.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), file
    token = tokens.pop()
    for changed in (token[:-1], token + "A", token[:-1] + ("A" if token[-1] != "A" else "B"), token.upper(), token[4:]):
        assert refreshed(server, changed)[0] == 401


@pytest.mark.case("H20")
@pytest.mark.parametrize(
    "token",
    ["", "x", "phr_", "../../../../etc/passwd", "\x00", "é", "a" * 60_000, "phf_" + "../" * 20 + "_x", "_", "__", "%"],
    ids=lambda token: ascii(token[:20]),
)
def test_refresh_tokens_that_are_none_are_401(server: Server, token: str) -> None:
    status, found = refreshed(server, token)
    assert status == 401
    assert found["errors"][0]["code"] == "UNAUTHORIZED"


@pytest.mark.case("H20")
@pytest.mark.parametrize("change", ["password", "removal"])
def test_with_the_password_everything_goes_that_was_got_with_it(
    house: House, server: Server, fred: str, change: str
) -> None:
    access, refresh = login(house, fred)
    assert refreshed(server, refresh)[0] == 200
    assert seen_by_both(house, house.bearer(access)) == {200}

    if change == "password":
        set_hash(house.htpasswd, "fred", hash_password("fred", house.noted("the-second-password"), cost=COST))
    else:
        remove_user(house.htpasswd, "fred")

    eventually(lambda: seen_by_both(house, house.bearer(access)) == {401}, seconds=CHANGE_SECONDS)
    eventually(lambda: seen_by_both(house, fred) == {401}, seconds=CHANGE_SECONDS)
    for _ in range(10):
        assert refreshed(server, refresh)[0] == 401
    if change == "password":
        _, again = login(house, house.basic("fred", "the-second-password"))
        assert refreshed(server, again)[0] == 200


@pytest.mark.case("H20")
def test_a_user_who_is_made_anew_has_not_the_tokens_of_the_old_one(house: House, server: Server, fred: str) -> None:
    access, refresh = login(house, fred)
    remove_user(house.htpasswd, "fred")
    add_user(house.htpasswd, "fred", hash_password("fred", "the-first-password", cost=COST))

    eventually(lambda: seen_by_both(house, house.bearer(access)) == {401}, seconds=CHANGE_SECONDS)
    assert refreshed(server, refresh)[0] == 401


@pytest.mark.case("H20")
def test_nobody_gets_a_refresh_token_for_nobody(house: House, server: Server) -> None:
    for line in ([], ["Authorization: Basic Og=="]):
        answer = call(server, "GET", "/token?offline_token=true&access_type=offline&account=alice", *line)
        assert answer.status == 200
        assert "refresh_token" not in json.loads(answer.body)
    answer = post_token(server, {"grant_type": "password", "access_type": "offline", "username": "", "password": ""})
    assert "refresh_token" not in json.loads(answer.body)
    for asked in ("false", "1", "TRUE", "", "true "):
        got = call(server, "GET", f"/token?offline_token={quote(asked)}", house.basic("alice"))
        assert "refresh_token" not in json.loads(got.body)


# Forms

GOOD = {"grant_type": "password", "username": "alice", "password": PASSWORDS["alice"]}
FORMS: Mapping[str, tuple[str, bytes, int]] = {
    "nothing": (FORM, b"", 400),
    "no content type": ("X-Nothing: 1", urlencode(GOOD).encode(), 400),
    "an empty content type": ("Content-Type:", urlencode(GOOD).encode(), 400),
    "JSON": ("Content-Type: application/json", json.dumps(GOOD).encode(), 400),
    "JSON as a form": (FORM, json.dumps(GOOD).encode(), 400),
    "a form of parts": ("Content-Type: multipart/form-data; boundary=x", b"--x--", 400),
    "text": ("Content-Type: text/plain", urlencode(GOOD).encode(), 400),
    "two content types": (f"{FORM}, application/json", urlencode(GOOD).encode(), 400),
    "no grant": (FORM, urlencode({**GOOD, "grant_type": ""}).encode(), 400),
    "a grant that is not there": (FORM, urlencode({**GOOD, "grant_type": "authorization_code"}).encode(), 400),
    "client credentials": (FORM, urlencode({**GOOD, "grant_type": "client_credentials"}).encode(), 400),
    "a grant in capitals": (FORM, urlencode({**GOOD, "grant_type": "PASSWORD"}).encode(), 400),
    "a long grant": (FORM, b"grant_type=" + b"x" * 60_000, 400),
    "two grants": (FORM, b"grant_type=refresh_token&" + urlencode(GOOD).encode(), 401),
    "two users": (FORM, b"username=bob&" + urlencode(GOOD).encode(), 401),
    "another service": (FORM, urlencode({**GOOD, "service": "other"}).encode(), 400),
    "not UTF-8": (FORM, urlencode(GOOD).encode() + b"&x=\xff", 400),
    "escapes that are not UTF-8": (FORM, urlencode(GOOD).encode() + b"&x=%ff", 400),
    "half of a surrogate pair": (FORM, b"grant_type=password&username=alice&password=%ed%a0%80", 400),
    "UTF-16": (FORM, urlencode(GOOD).encode("utf-16"), 400),
    "NUL in a password": (FORM, b"grant_type=password&username=alice&password=may-do-everything%00", 401),
    "a colon in a user": (FORM, b"grant_type=password&username=alice%3Ax&password=x", 401),
    "a long user": (FORM, b"grant_type=password&password=x&username=" + b"a" * 300, 401),
    "a long password": (FORM, b"grant_type=password&username=alice&password=" + b"a" * 5000, 401),
    "no password": (FORM, b"grant_type=password&username=alice", 401),
    "no user": (FORM, b"grant_type=password&password=may-do-everything", 401),
    "a password in capitals": (FORM, b"grant_type=password&username=alice&Password=may-do-everything", 401),
    "no refresh token": (FORM, b"grant_type=refresh_token", 401),
    "many fields": (FORM, b"&".join([urlencode(GOOD).encode(), *[b"a=b"] * FIELDS_MAX]), 400),
    "nothing but separators": (FORM, b"&" * 60_000, 400),
    "semicolons": (FORM, b"grant_type=password;username=alice;password=may-do-everything", 400),
    "more than is taken": (FORM, urlencode(GOOD).encode() + b"&x=" + b"x" * FORM_BYTES_MAX, 413),
    "escapes without end": (FORM, b"grant_type=password&username=%&password=%2", 401),
}


@pytest.mark.case("H20")
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_form_that_is_none_is_refused(house: House, server: Server, name: str, chunked: bool) -> None:
    content_type, body, status = FORMS[name]
    with people.connect(server, house.stranger()) as wire:
        wire.send(request("POST", "/token", content_type, body=body, chunked=chunked))
        answer = wire.answer()

    assert answer.status == status, answer
    assert answer.code
    assert b"eyJ" not in answer.body
    if status == 401:
        challenge_of(answer)


@pytest.mark.case("H20")
def test_a_form_as_clients_send_it_is_taken(house: House, server: Server) -> None:
    body = urlencode([*GOOD.items(), ("scope", "repository:team/app:pull"), ("scope", "repository:team/app:push")])
    for content_type in (
        FORM,
        f"{FORM}; charset=utf-8",
        "content-type:  APPLICATION/X-WWW-FORM-URLENCODED ;charset=utf-8",
    ):
        for pieces in ([body], [body[:5], body[5:]], list(body)):
            sent = (
                head("POST", "/token", content_type)
                + b"".join(chunk(piece.encode()) for piece in pieces)
                + b"0\r\n\r\n"
            )
            found = json.loads(ask(server, sent).body)
            assert access_in(house.noted(found["token"])) == [repository("pull", "push")]


@pytest.mark.case("H20")
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_told_which_there_are(server: Server, method: str) -> None:
    answer = call(server, method, "/token")
    assert answer.status in {400, 405, 501}
    if answer.status == 405:
        assert answer.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.case("H38")
def test_a_form_that_comes_slowly_is_given_up(tmp_path: Path) -> None:
    with open_house(
        tmp_path,
        workers=1,
        PIERHEAD_LIMITS_BODY_STALL_SECONDS="0.5",
        PIERHEAD_LIMITS_BODY_BYTES_PER_SECOND_MIN="1000",
    ) as house:
        form = urlencode(GOOD).encode()
        with Wire.open(house.server) as wire:
            wire.send(head("POST", "/token", FORM, length=len(form)) + form[:-1])
            began = time.monotonic()
            assert wire.answer().status == 408
            assert time.monotonic() - began < 10
        with Wire.open(house.server) as wire:
            wire.send(head("POST", "/token", FORM, length=len(form)) + form[:-1])
            wire.vanish()
        with Wire.open(house.server) as wire:
            wire.send(head("POST", "/token", FORM, length=1 << 40) + form)
            assert wire.answer().status in {408, 413}
        assert call(house.server, "GET", "/v2/", house.basic("alice")).status == 200
        assert house.leaked() == []


# All of it, at random

TEXTS = st.one_of(
    st.sampled_from(
        [
            "repository:team/app:pull",
            "registry:catalog:*",
            "repository:*:*",
            "pierhead",
            "true",
            "alice",
            "password",
            ":",
            " ",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
NAMES = st.sampled_from(
    [
        *("scope", "service", "account", "client_id", "offline_token", "grant_type", "username", "password"),
        *("refresh_token", "access_type", "", "x", "scope[]"),
    ]
)
FIELDS = st.lists(st.tuples(NAMES, TEXTS), max_size=12)
QUERIES = st.one_of(
    st.builds(urlencode, FIELDS),
    st.text(st.sampled_from("scope=&;%+:/*,.abc0123f\"'<>[]{}|\\^`~?@!$()"), max_size=80),
)
BODIES = st.one_of(
    st.builds(lambda fields: urlencode(fields).encode(), FIELDS),
    st.builds(lambda fields: urlencode([("grant_type", "password"), *fields]).encode(), FIELDS),
    st.builds(lambda fields: urlencode([("grant_type", "refresh_token"), *fields]).encode(), FIELDS),
    st.builds(lambda fields, noise: urlencode(fields).encode() + noise, FIELDS, st.binary(max_size=20)),
    st.binary(max_size=200),
)


@pytest.mark.case("H17")
@settings(WIRE, max_examples=400)
@given(query=QUERIES, known=st.booleans())
def test_no_query_makes_the_token_endpoint_fail_or_grant_too_much(house: House, query: str, known: bool) -> None:
    lines = [house.basic("bob")] if known else []
    answer = call(house.server, "GET", f"/token?{query}", *lines)
    assert answer.status in {200, 400}
    if answer.status == 200:
        found = json.loads(answer.body)
        assert claims_of(found["token"])["sub"] == ("user:bob" if known else "")
        assert set(access_in(found["token"])) <= ({repository("pull"), CATALOG} if known else {CATALOG})


@pytest.mark.case("H20")
@settings(WIRE, max_examples=400)
@given(body=BODIES, chunked=st.booleans(), content_type=st.sampled_from([FORM, FORM, FORM, "Content-Type: text/plain"]))
def test_no_form_makes_the_token_endpoint_fail_or_grant_too_much(
    house: House, body: bytes, chunked: bool, content_type: str
) -> None:
    with people.connect(house.server, house.stranger()) as wire:
        wire.send(request("POST", "/token", content_type, body=body, chunked=chunked))
        answer = wire.answer()
    assert answer.status in {200, 400, 401, 429}
    if answer.status == 200:
        found = json.loads(answer.body)
        assert claims_of(found["token"])["sub"] == ""
        assert set(access_in(found["token"])) <= {CATALOG}


@pytest.mark.case("H17")
def test_a_push_by_token_works_after_all_of_this(house: House, server: Server) -> None:
    line = house.bearer(house.token("alice", "repository:team/after:pull,push"))
    config = put_blob(server, "team/after", b"{}", line)
    answer = call(server, "PUT", "/v2/team/after/manifests/latest", f"Content-Type: {IMAGE}", line, body=image(config))
    assert answer.status == 201
    assert not PASSWORDS["alice"].startswith(WRONG)
