"""Tokens of other token services are taken as distribution takes them; issuers that can't be meant are not served."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from registry.auth.jwks import CryptographyKey, libtrust_fingerprint, thumbprint
from storage.digest import Digest
from tests.auth.issuing import (
    Certified,
    Issuer,
    Key,
    assemble,
    certify,
    ec_key,
    es256,
    jwks,
    public_pem,
    rs256,
    rsa_key,
)
from tests.conftest import tool_or_skip
from tests.distribution import V2, V3
from tests.private.serving import (
    Place,
    Visitor,
    assert_log_is_silent,
    basic,
    code_of,
    private,
    serving_distribution_with,
    with_basic_at_token,
    with_form_at_token,
)
from tests.running import ROOT, eventually

NAME, SERVICE = "auth.test", "registry.test"
"""What the tokens have for `iss` and `aud`."""

DENY_ALL = '[[rules]]\nwho = ["everyone"]\nrepositories = ["**"]\ndeny = ["pull", "push", "overwrite", "delete"]\n'
"""The policy is for those whom the registry knows itself; what a token of the service says is not its business."""


def access(name: str, *actions: str, kind: str = "repository") -> list[dict[str, object]]:
    """A claim `access` with one entry."""
    return [{"type": kind, "name": name, "actions": list(actions)}]


def curve_key() -> ec.EllipticCurvePrivateKey:
    """A key whose numbers have no zero in front, which distribution 3 would leave out of the thumbprint."""
    while True:
        key = ec_key()
        numbers = key.public_key().public_numbers()
        if min(numbers.x, numbers.y) >> 248:
            return key


class TokenService:
    """A token service with an RSA key and one on a curve, both certified, and a CA that certifies further ones."""

    def __init__(self) -> None:
        self.rsa = certify("rsa", key=rsa_key("service"))
        self.curve = certify("curve", key=curve_key())
        self.root = certify("root", is_authority=True)
        self.issuer = Issuer(url=NAME, keys=[])
        self.kid_of: Callable[[CryptographyKey], str] = thumbprint

    def before(self, program: str) -> "TokenService":
        """The same one, naming its keys as that version of distribution does."""
        found = copy.copy(self)
        found.kid_of = libtrust_fingerprint if program == V2 else thumbprint
        return found

    @property
    def bundle(self) -> bytes:
        """What distribution calls rootcertbundle."""
        return b"".join(each.pem for each in (self.rsa, self.curve, self.root))

    @property
    def key_set(self) -> bytes:
        """What distribution calls jwks."""
        return jwks(self.key(self.rsa, "rsa-1"), self.key(self.curve, "curve-1"))

    def key(self, certified: Certified, kid: str | None = None, *, algorithm: str = "") -> Key:
        """A certified key under a kid."""
        ours = "RS256" if certified is self.rsa else "ES256"
        return Key(certified.key, algorithm or ours, kid or self.kid(certified))

    def kid(self, certified: Certified) -> str:
        """The kid of a certified key."""
        return self.kid_of(certified.key.public_key())

    def token(self, key: Key | None = None, *, header: Mapping[str, object] | None = None, **claims: object) -> str:
        """A token to pull from and push to team/app."""
        self.issuer.now = time.time()
        given = {"sub": "ada", "aud": SERVICE, "access": access("team/app", "pull", "push"), **claims}
        return self.issuer.token(key or self.key(self.rsa), header=header, **given)

    def chained(self, *chain: Certified, kid: str | None = None, **claims: object) -> str:
        """A token that brings its certificates along."""
        header = {"x5c": [each.x5c for each in chain], "kid": kid}
        return self.token(self.key(chain[0], "x"), header=header, **claims)


def now() -> int:
    return int(time.time())


def with_secret(service: TokenService) -> str:
    """HMAC with the public key for a secret, which verifies where the key's kind is not looked at."""
    claims = {**service.issuer.claims(sub="ada", aud=SERVICE), "access": access("team/app", "pull", "push")}
    kid = service.kid(service.rsa)
    return assemble({"alg": "HS256", "typ": "JWT", "kid": kid}, claims, public_pem(service.rsa.key), "HS256")


def tampered(service: TokenService) -> str:
    """A token to pull whose claims were changed into one to push."""
    header, _, signature = service.token(access=access("team/app", "pull")).split(".")
    return f"{header}.{service.token().split('.')[1]}.{signature}"


def unsigned(service: TokenService, algorithm: str) -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": service.kid(service.rsa)}
    claims = {**service.issuer.claims(sub="ada", aud=SERVICE), "access": access("team/app", "pull", "push")}
    return assemble(header, claims, None, "none")


def leaf_of(service: TokenService) -> Certified:
    return certify("leaf", by=service.root)


def chain_of(service: TokenService) -> tuple[Certified, ...]:
    between = certify("between", by=service.root, is_authority=True)
    return certify("leaf", by=between), between


def namesake() -> tuple[Certified, ...]:
    """Certificates of a CA that calls itself like the one in the bundle."""
    root = certify("root", is_authority=True)
    return certify("leaf", by=root), root


TAKEN: Mapping[str, Callable[[TokenService], str]] = {
    "RSA, thumbprint": lambda s: s.token(),
    "on a curve, thumbprint": lambda s: s.token(s.key(s.curve)),
    "leaf that the CA has issued": lambda s: s.chained(leaf_of(s)),
    "leaf and the one between": lambda s: s.chained(*chain_of(s)),
    "leaf with any kid": lambda s: s.chained(leaf_of(s), kid="anything"),
    "certificate of the bundle itself": lambda s: s.chained(s.root),
    "expired within the minute": lambda s: s.token(exp=now() - 30),
    "valid within the minute": lambda s: s.token(nbf=now() + 30),
    "without typ": lambda s: s.token(header={"typ": None}),
    "for nobody": lambda s: s.token(sub=""),
    "with what is not known": lambda s: s.token(
        access=[*access("team/app", "pull", "push", "fly"), *access("x", "y", kind="moon")]
    ),
    "in two entries": lambda s: s.token(access=[*access("team/app", "pull"), *access("team/app", "push")]),
    "for every action": lambda s: s.token(access=access("team/app", "*")),
    "to pull": lambda s: s.token(access=access("team/app", "pull")),
    "to delete": lambda s: s.token(access=access("team/app", "pull", "delete")),
    "for another repository": lambda s: s.token(access=access("team/other", "pull", "push")),
    "for the catalog": lambda s: s.token(access=access("catalog", "*", kind="registry")),
    "for a repository called catalog": lambda s: s.token(access=access("catalog", "*")),
    "for nothing": lambda s: s.token(access=[]),
    "for nothing, as Go writes it": lambda s: s.token(
        access=access("team/app") and [{"type": "repository", "name": "team/app", "actions": None}]
    ),
}
"""What both take, and how far each reaches."""

REFUSED: Mapping[str, Callable[[TokenService], str]] = {
    "expired": lambda s: s.token(exp=now() - 90),
    "without an end": lambda s: s.token(exp=None),
    "not yet valid": lambda s: s.token(nbf=now() + 90),
    "for another service": lambda s: s.token(aud="other.test"),
    "for no service": lambda s: s.token(aud=None),
    "of another issuer": lambda s: s.token(iss="auth.evil.test"),
    "of no issuer": lambda s: s.token(iss=None),
    "foreign key under a known kid": lambda s: s.token(Key(rsa_key("stranger"), "RS256", s.kid(s.rsa))),
    "foreign key": lambda s: s.token(es256()),
    "foreign chain": lambda s: s.chained(*namesake()),
    "foreign chain with a known kid": lambda s: s.chained(*namesake(), kid=s.kid(s.rsa)),
    "foreign key behind a certificate of the bundle": lambda s: s.token(es256(), header={"x5c": [s.curve.x5c]}),
    "leaf that is no CA": lambda s: s.chained(certify("below", by=leaf_of(s)), leaf_of(s)),
    "leaf that has expired": lambda s: s.chained(certify("leaf", by=s.root, days=(-9, -1))),
    "leaf that is not valid yet": lambda s: s.chained(certify("leaf", by=s.root, days=(1, 9))),
    "certificate that is none": lambda s: s.token(header={"x5c": ["AAAA"]}),
    "foreign key brought along": lambda s: s.token(
        Key(rsa_key("stranger"), "RS256", "x"), header={"jwk": rs256("stranger").jwk(), "kid": None}
    ),
    "HMAC with the public key": with_secret,
    "tampered with": tampered,
    "alg none": lambda s: unsigned(s, "none"),
    "alg NONE": lambda s: unsigned(s, "NONE"),
    "no signature": lambda s: unsigned(s, "RS256"),
    "end that is a text": lambda s: s.token(exp=str(now() + 300)),
    "access that is an object": lambda s: s.token(access={"type": "repository"}),
    "no kid": lambda s: s.token(header={"kid": None}),
}
"""What neither takes."""

STRICTER: Mapping[str, Callable[[TokenService], str]] = {
    "known key brought along": lambda s: s.token(
        header={"jwk": {**s.key(s.rsa).jwk(), "kid": s.kid(s.rsa)}, "kid": None}
    ),
    "RSA key with another algorithm": lambda s: s.token(s.key(s.rsa, algorithm="RS512")),
    "valid for a week": lambda s: s.token(exp=now() + 7 * 86400),
    "issued in the future": lambda s: s.token(iat=now() + 90),
}
"""What distribution may take, and this registry does not."""

ASKED: Mapping[str, tuple[str, str]] = {
    "who": ("GET", "/v2/"),
    "pull": ("GET", "/v2/team/app/tags/list"),
    "push": ("POST", "/v2/team/app/blobs/uploads/"),
    "delete": ("DELETE", f"/v2/team/app/manifests/{Digest.of(b'x')}"),
    "pull elsewhere": ("GET", "/v2/team/other/tags/list"),
    "push elsewhere": ("POST", "/v2/team/other/blobs/uploads/"),
    "push to a namesake": ("POST", "/v2/team/app/web/blobs/uploads/"),
    "catalog": ("GET", "/v2/_catalog"),
}


def admitted(visitor: Visitor, token: str) -> set[str]:
    """What the bearer may do: everything that is answered in another way than by 401."""
    found = set()
    for what, (method, path) in ASKED.items():
        answer = visitor.send(method, path, f"Bearer {token}", body=b"" if method == "POST" else None)
        assert answer.status < 500, (what, answer)
        assert answer.status not in (400, 403), (what, answer)
        if answer.status != 401:
            found.add(what)
        elif what != "who":
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
    return found


@dataclass(frozen=True, slots=True)
class Town:
    """A token service and the registry that believes it."""

    service: TokenService
    place: Place
    directory: Path


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    directory, service = tmp_path_factory.mktemp("town"), TokenService()
    (directory / "bundle.pem").write_bytes(service.bundle)
    (directory / "keys.json").write_bytes(service.key_set)
    issuers = [
        {"name": "old", "issuer": NAME, "service": SERVICE, "certificates": str(directory / "bundle.pem")},
        {"name": "keys", "issuer": "keys.test", "service": SERVICE, "jwks_file": str(directory / "keys.json")},
    ]
    with private(directory, policy=DENY_ALL, issuers=issuers) as place:
        yield Town(service, place, directory)


@pytest.fixture(scope="module", params=[V3, V2])
def distribution(request: pytest.FixtureRequest, town: Town) -> Iterator[tuple[str, Visitor]]:
    program: str = request.param
    auth = {
        "realm": "http://127.0.0.1:1/token",
        "service": SERVICE,
        "issuer": NAME,
        "rootcertbundle": str(town.directory / "bundle.pem"),
    }
    with serving_distribution_with({"token": auth}, tool_or_skip(program), town.directory / program) as server:
        visitor = Visitor(server)
        yield program, visitor
        visitor.client.close()


# With a certificate bundle, beside the real distribution.


def test_a_token_pushes_what_its_access_says(town: Town) -> None:
    token = town.service.token(access=[*access("team/app", "pull", "push", "delete"), *access("base", "pull")])
    for number, visitor in enumerate(town.place.guests()):
        authorization, tag = f"Bearer {token}", f"v{number}"

        assert visitor.push(authorization, "team/app", tag) == 201
        assert visitor.push(authorization, "team/app", tag, note="moved") == 201
        assert visitor.pull(authorization, "team/app", tag) == 200
        assert visitor.push(authorization, "base") == 401
        assert visitor.pull(authorization, "base") == 404
        assert visitor.pull(authorization, "team/application") == 401
        assert visitor.send("DELETE", f"/v2/team/app/manifests/{tag}", authorization).status == 202
    assert_log_is_silent(town.place.server, token)


@pytest.mark.parametrize("what", TAKEN)
def test_a_token_reaches_as_far_as_with_distribution(town: Town, distribution: tuple[str, Visitor], what: str) -> None:
    program, other = distribution
    token = TAKEN[what](town.service.before(program))

    theirs = admitted(other, token)

    assert "who" in theirs
    for visitor in town.place.guests():
        assert admitted(visitor, token) == theirs
    assert_log_is_silent(town.place.server, token)


@pytest.mark.parametrize("what", REFUSED)
def test_a_token_that_distribution_refuses_is_refused(town: Town, distribution: tuple[str, Visitor], what: str) -> None:
    program, other = distribution
    token = REFUSED[what](town.service.before(program))

    assert admitted(other, token) == set()
    for visitor in town.place.guests():
        assert admitted(visitor, token) == set()
    assert_log_is_silent(town.place.server, token)


@pytest.mark.parametrize("what", STRICTER)
def test_a_token_is_refused_though_distribution_may_take_it(town: Town, what: str) -> None:
    token = STRICTER[what](town.service)

    for visitor in town.place.guests():
        assert admitted(visitor, token) == set()


def test_a_key_of_the_bundle_goes_by_each_name_that_distribution_gives_it(
    town: Town, distribution: tuple[str, Visitor]
) -> None:
    program, other = distribution
    service, taken = town.service, 0
    for certified in (service.rsa, service.curve):
        public = certified.key.public_key()
        for kid in (thumbprint(public), libtrust_fingerprint(public)):
            token = service.token(service.key(certified, kid))
            is_taken = "push" in admitted(other, token)
            taken += is_taken
            for visitor in town.place.guests():
                assert "push" in admitted(visitor, token)
    assert taken == 2, f"{program} knows each key by one name"


def test_tokens_are_no_passwords(town: Town) -> None:
    visitor, _ = town.place.guests()
    token = town.service.token()

    for way in (with_basic_at_token, with_form_at_token):
        answer, _ = way(visitor, token, "repository:team/app:pull")
        assert (answer.status, code_of(answer)) == (401, "UNAUTHORIZED")
    assert visitor.send("GET", "/v2/", basic("ada", token)).status == 401
    assert_log_is_silent(town.place.server, token)


def test_a_token_that_does_not_reach_is_answered_with_the_scope_that_it_lacks(town: Town) -> None:
    for visitor in town.place.guests():
        token = town.service.token(access=access("team/app", "pull"))

        answer = visitor.send("POST", "/v2/team/app/blobs/uploads/", f"Bearer {token}", body=b"")

        assert answer.status == 401
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
        assert 'scope="repository:team/app:pull,push"' in answer.headers["www-authenticate"]


def test_listings_show_the_bearer_what_the_token_says(town: Town) -> None:
    visitor, _ = town.place.guests()
    service = town.service
    for repository in ("seen/app", "hidden/app"):
        token = service.token(access=access(repository, "pull", "push"))
        assert visitor.push(f"Bearer {token}", repository, "1") == 201

    token = service.token(access=[*access("catalog", "*", kind="registry"), *access("seen/app", "pull")])
    listed = visitor.send("GET", "/v2/_catalog", f"Bearer {token}")

    assert json.loads(listed.body)["repositories"] == ["seen/app"]
    assert visitor.send("GET", "/v2/hidden/app/tags/list", f"Bearer {token}").status == 401
    assert visitor.send("GET", "/v2/seen/app/tags/list", f"Bearer {token}").status == 200


def test_a_real_client_pushes_with_a_token_that_it_was_given(
    town: Town, require_tool: Callable[[str], str], tmp_path: Path
) -> None:
    address = town.place.server.address
    layer = tmp_path / "layer.tar"
    layer.write_bytes(b"\0" * 10_240)
    token = town.service.token(town.service.key(town.service.curve))
    (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"registrytoken": token}}}))

    def append(repository: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [require_tool("crane"), "append", "--oci-empty-base", "-f", str(layer), "-t", f"{address}/{repository}:1"],
            env={**os.environ, "DOCKER_CONFIG": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    pushed, refused = append("team/app"), append("team/other")

    assert pushed.returncode == 0, pushed.stderr
    assert refused.returncode != 0
    assert "401 Unauthorized" in refused.stderr
    assert_log_is_silent(town.place.server, token)


# With a file of keys.


@pytest.mark.parametrize("kid", ["rsa-1", "curve-1"])
def test_a_key_in_a_file_goes_by_the_kid_that_stands_there(
    town: Town, require_tool: Callable[[str], str], tmp_path: Path, kid: str
) -> None:
    service = town.service
    key = service.key(service.rsa if kid == "rsa-1" else service.curve, kid)
    auth = {
        "realm": "http://127.0.0.1:1/token",
        "service": SERVICE,
        "issuer": "keys.test",
        "jwks": str(town.directory / "keys.json"),
    }
    tokens = {
        service.token(key, iss="keys.test"): {"who", "pull", "push"},
        service.token(key, iss="keys.test", access=access("team/app", "pull")): {"who", "pull"},
        service.token(Key(key.private, key.algorithm, "other"), iss="keys.test"): set(),
        service.token(Key(es256().private, "ES256", kid), iss="keys.test"): set(),
        service.token(key, iss="keys.test", aud="other.test"): set(),
        service.token(key, iss="keys.test", exp=now() - 90): set(),
    }
    with serving_distribution_with({"token": auth}, require_tool(V3), tmp_path) as server:
        other = Visitor(server)
        for token, expected in tokens.items():
            assert admitted(other, token) == expected
            for visitor in town.place.guests():
                assert admitted(visitor, token) == expected
        other.client.close()


def test_keys_of_one_service_are_not_those_of_another(town: Town) -> None:
    service = town.service
    token = service.token(service.key(service.rsa, "rsa-1"))
    chained = service.chained(leaf_of(service), iss="keys.test")

    for visitor in town.place.guests():
        assert admitted(visitor, token) == set(), "a kid of the file, for the issuer with the bundle"
        assert admitted(visitor, chained) == set(), "a chain, for the issuer with the file"


def test_a_token_that_was_taken_is_refused_once_its_certificate_is_out_of_the_bundle(tmp_path: Path) -> None:
    service, bundle = TokenService(), tmp_path / "bundle.pem"
    bundle.write_bytes(service.bundle)
    issuers = [{"name": "old", "issuer": NAME, "service": SERVICE, "certificates": str(bundle)}]
    with private(tmp_path, issuers=issuers) as place:
        token, chained = service.token(), service.chained(leaf_of(service))
        for visitor in place.visitors:
            assert visitor.push(f"Bearer {token}", "team/app") == 201
            assert visitor.pull(f"Bearer {chained}", "team/app") == 200

        (tmp_path / "next.pem").write_bytes(service.curve.pem)
        (tmp_path / "next.pem").replace(bundle)

        for visitor in place.visitors:
            eventually(lambda: visitor.pull(f"Bearer {token}", "team/app") == 401)  # noqa: B023  # called at once
            assert visitor.pull(f"Bearer {chained}", "team/app") == 401
            assert visitor.pull(f"Bearer {service.token(service.key(service.curve))}", "team/app") == 200
            assert visitor.push(f"Bearer {token}", "team/app") == 401
        assert_log_is_silent(place.server, token, chained)


# What keeps the server from starting.


OIDC: Mapping[str, object] = {"name": "ci", "issuer": "https://issuer.test", "audience": SERVICE}
OLD: Mapping[str, object] = {"name": "old", "issuer": NAME, "service": SERVICE}
PRESET: Mapping[str, object] = {"name": "ci", "audience": SERVICE}


def without(config: Mapping[str, object], name: str) -> dict[str, object]:
    return {key: value for key, value in config.items() if key != name}


WRONG: Mapping[str, tuple[str, object, int, str]] = {
    "unknown preset": ("OIDC", [{**PRESET, "preset": "githib"}], 2, "entry 1: preset: input should be 'github', 'gitl"),
    "no audience": ("OIDC", [without(OIDC, "audience")], 2, "entry 1: audience: field required"),
    "empty audience": ("OIDC", [{**OIDC, "audience": ""}], 1, "'ci': audience must not be empty"),
    "no name": ("OIDC", [OIDC, without(OIDC, "name")], 2, "entry 2: name: field required"),
    "name with a colon": ("OIDC", [{**OIDC, "name": "ci:x"}], 1, "expected a name of lower-case letters"),
    "no issuer": ("OIDC", [without(OIDC, "issuer")], 1, "'ci': say what its tokens have for iss"),
    "issuer over http": ("OIDC", [{**OIDC, "issuer": "http://issuer.test"}], 1, "has to begin with https://"),
    "unknown key": ("OIDC", [{**OIDC, "jwks": "keys.json"}], 2, "entry 1: jwks: unknown key"),
    "no such file": ("OIDC", [{**OIDC, "jwks_file": "/no/such.json"}], 1, "/no/such.json: it can't be read: No such"),
    "directory for a file": ("OIDC", [{**OIDC, "jwks_file": "/"}], 1, "'ci': /: it "),
    "file without keys": ("OIDC", [{**OIDC, "jwks_file": "DIRECTORY/empty"}], 1, "/empty: "),
    "everybody on GitHub": ("OIDC", [{**PRESET, "preset": "github"}], 1, "everybody can get a token from https://tok"),
    "everybody on GitLab": (
        "OIDC",
        [{**PRESET, "preset": "gitlab", "claims": {"ref": "main"}}],
        1,
        "everybody can get a token from https://gitlab.com",
    ),
    "any owner on GitHub": (
        "OIDC",
        [{**PRESET, "preset": "github", "claims": {"repository_owner": "*"}}],
        1,
        "everybody can get a token",
    ),
    "two of one name": ("OIDC", [OIDC, {**OIDC, "issuer": "https://b.test"}], 1, "'ci': there are two with this name"),
    "one for a list": ("OIDC", OIDC, 2, "expected a list of tables"),
    "no JSON": ("OIDC", "ci", 2, "expected a JSON list of objects"),
    "service without keys": ("ISSUERS", [OLD], 1, "'old': give either certificates or jwks_file"),
    "service with both": (
        "ISSUERS",
        [{**OLD, "certificates": "DIRECTORY/empty", "jwks_file": "DIRECTORY/empty"}],
        1,
        "'old': give either certificates or jwks_file",
    ),
    "service without service": ("ISSUERS", [without(OLD, "service")], 2, "entry 1: service: field required"),
    "bundle without certificates": (
        "ISSUERS",
        [{**OLD, "certificates": "DIRECTORY/empty"}],
        1,
        "/empty: expected certificates in PEM",
    ),
    "two services of one name": (
        "ISSUERS",
        [{**OLD, "jwks_file": "DIRECTORY/keys.json"}, {**OLD, "issuer": "b.test", "jwks_file": "DIRECTORY/keys.json"}],
        1,
        "'old': there are two with this name",
    ),
}


def serve_wrong(tmp_path: Path, variable: str, value: object) -> subprocess.CompletedProcess[str]:
    """Run `pierhead serve` with a list of issuers in the environment, to its end."""
    (tmp_path / "keys.json").write_bytes(jwks(es256()))
    (tmp_path / "empty").touch()
    text = value if isinstance(value, str) else json.dumps(value).replace("DIRECTORY", str(tmp_path))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}
    return subprocess.run(
        [sys.executable, "-m", "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(ROOT), f"PIERHEAD_AUTH_{variable}": text},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("what", WRONG)
def test_issuers_that_can_not_be_meant_are_told_in_one_line_and_nothing_is_served(tmp_path: Path, what: str) -> None:
    variable, value, code, message = WRONG[what]

    ended = serve_wrong(tmp_path, variable, value)

    assert ended.returncode == code, ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("pierhead: ")
    assert message in line
    assert "serving" not in ended.stdout


def test_a_table_that_is_wrong_in_the_file_is_told_with_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "pierhead.toml").write_text('[[auth.oidc]]\nname = "ci"\nissuer = "https://issuer.test"\n')
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PIERHEAD_")}

    ended = subprocess.run(
        [sys.executable, "-m", "registry", "serve"],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert ended.stderr == "pierhead: pierhead.toml: auth.oidc: entry 1: audience: field required\n"
