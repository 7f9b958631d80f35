"""Jobs of CI systems push with their ID tokens what the policy lets them push, and nobody else gets in with one."""

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from registry.auth.presets import GITHUB, GITLAB, KUBERNETES
from tests.auth.issuing import (
    AUDIENCE,
    Issuer,
    Key,
    assemble,
    base64url,
    certify,
    es256,
    jwks,
    public_pem,
    rs256,
    rsa_key,
    serve,
)
from tests.clients.layouts import Layout
from tests.private.serving import (
    HURRIED,
    WAYS,
    Config,
    Place,
    Visitor,
    Way,
    as_bearer,
    assert_log_is_silent,
    basic,
    code_of,
    private,
    scope_of,
    with_basic_at_token,
)
from tests.races.workers import worker_of
from tests.running import Server, eventually

SEALED = "https://sealed.test"
"""An issuer that nobody can reach: its keys are in a file."""

POLICY = """\
[[rules]]
name = "jobs push what is their team's"
who = ["workload:*"]
issuer = "ci"
claims = { project = "red/*" }
repositories = ["red/**"]
allow = ["pull", "push"]

[[rules]]
name = "main moves tags"
who = ["workload:*"]
issuer = "ci"
claims = { project = "red/app", ref = "main" }
repositories = ["red/app"]
allow = ["overwrite"]

[[rules]]
name = "the sealed network"
who = ["workload:*"]
issuer = "sealed"
repositories = ["sealed/**"]
allow = ["pull", "push"]

[[rules]]
who = ["authenticated"]
repositories = ["shared/base"]
allow = ["pull"]
"""

FORBIDDEN = ("blue/app", "red", "red-evil/app", "redder/app", "sealed/app", "shared/base")

ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """A registry with two workers, the issuer that it asks for keys, and one that it can't ask."""

    place: Place
    issuer: Issuer
    sealed: Issuer

    @property
    def server(self) -> Server:
        """The registry."""
        return self.place.server

    def job(self, key: Key | None = None, *, header: Mapping[str, object] | None = None, **claims: object) -> str:
        """A token of a job of the issuer."""
        self.issuer.now = time.time()
        return self.issuer.token(key, header=header, **{"project": "red/app", "ref": "fix", **claims})

    def claims(self, **claims: object) -> dict[str, object]:
        """The claims of such a token."""
        self.issuer.now = time.time()
        return self.issuer.claims(**{"project": "red/app", "ref": "fix", **claims})

    def of_sealed(self, key: Key, **claims: object) -> str:
        """A token of the other issuer."""
        self.sealed.now = time.time()
        return self.sealed.token(key, header=None, **claims)

    def guests(self) -> list[Visitor]:
        """One visitor at each worker, whom the throttle does not know yet."""
        return self.place.guests()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    sealed = Issuer(url=SEALED, keys=[rs256("sealed"), es256()])
    (directory / "sealed.json").write_bytes(jwks(*sealed.keys))
    with serve(Issuer()) as issuer:
        oidc: list[Config] = [
            {"name": "ci", "issuer": issuer.url, "audience": AUDIENCE, "claims": {"project": ["red/*", "blue/*"]}},
            {"name": "sealed", "issuer": SEALED, "audience": AUDIENCE, "jwks_file": str(directory / "sealed.json")},
        ]
        with private(directory, policy=POLICY, oidc=oidc) as place:
            yield Site(place, issuer, sealed)


def repository(prefix: str) -> str:
    """A repository that nobody has pushed to."""
    return f"{prefix}/x{secrets.token_hex(4)}"


def log_in(way: Way, visitor: Visitor, token: str, *repositories: str, actions: str = "pull,push") -> str:
    """Show a token, and return what to send from then on."""
    answer, authorization = way(visitor, token, scope_of(*repositories, actions=actions))
    assert answer.status == 200, answer
    return authorization


# What a token is good for.


@ways
@pytest.mark.parametrize("number", [0, 1], ids=["RS256", "ES256"])
def test_a_job_pushes_with_its_id_token_and_another_worker_takes_what_the_first_has_issued(
    site: Site, way: Way, number: int
) -> None:
    first, second = site.guests()
    assert worker_of(site.server, first.client) != worker_of(site.server, second.client)
    own = repository("red")
    token = site.job(site.issuer.keys[number])

    authorization = log_in(way, first, token, own)

    assert second.push(authorization, own, "1") == 201
    assert second.pull(authorization, own, "1") == 200
    assert first.pull(authorization, own, "1") == 200
    assert worker_of(site.server, first.client) != worker_of(site.server, second.client)
    assert_log_is_silent(site.server, token, authorization)


@ways
@pytest.mark.parametrize("number", [0, 1], ids=["RS256", "ES256"])
def test_keys_in_a_file_are_enough_where_the_issuer_can_not_be_reached(site: Site, way: Way, number: int) -> None:
    own = repository("sealed")
    token = site.of_sealed(site.sealed.keys[number])
    for visitor in site.guests():
        authorization = log_in(way, visitor, token, own)

        assert visitor.push(authorization, own, "1") == 201
        assert visitor.pull(authorization, own, "1") == 200
    assert_log_is_silent(site.server, token)


@ways
def test_a_job_pushes_to_nothing_but_what_its_claims_allow(site: Site, way: Way) -> None:
    for visitor in site.guests():
        authorization = log_in(way, visitor, site.job(), "red/app", *FORBIDDEN)
        for other in FORBIDDEN:
            assert visitor.push(authorization, other) == WAYS[way], other
        for other in FORBIDDEN[:-1]:
            assert visitor.pull(authorization, other) == WAYS[way], other
        assert visitor.pull(authorization, "shared/base") == 404

        # Right in everything but the claim that the rule asks for.
        authorization = log_in(way, visitor, site.job(project="blue/app"), "red/app", "blue/app")
        assert visitor.push(authorization, "red/app") == WAYS[way]
        assert visitor.push(authorization, "blue/app") == WAYS[way]


@ways
def test_a_claim_that_is_called_issuer_makes_nobody_a_workload_of_another_issuer(site: Site, way: Way) -> None:
    for visitor in site.guests():
        authorization = log_in(way, visitor, site.job(issuer="sealed", name="sealed"), "sealed/app")

        assert visitor.push(authorization, "sealed/app") == WAYS[way]


@ways
def test_a_tag_is_moved_by_the_job_whose_claims_allow_it_and_by_no_other(site: Site, way: Way) -> None:
    visitor, _ = site.guests()
    tag = secrets.token_hex(4)
    fix = log_in(way, visitor, site.job(), "red/app")
    main = log_in(way, visitor, site.job(ref="main"), "red/app")
    assert visitor.push(fix, "red/app", tag, note="first") == 201

    assert visitor.push(fix, "red/app", tag, note="second") == 403
    assert visitor.push(main, "red/app", tag, note="third") == 201


@ways
def test_a_token_of_sixteen_kibibytes_does_for_a_password(site: Site, way: Way) -> None:
    visitor, _ = site.guests()
    large = site.job(more="x" * 11_800)
    assert 16_000 < len(large) <= 16_384
    own = repository("red")

    assert visitor.push(log_in(way, visitor, large, own), own) == 201


def test_an_access_token_grants_what_was_asked_for_and_is_allowed_and_nothing_else(site: Site) -> None:
    first, second = site.guests()
    asked = "repository:red/app:pull,push,delete repository:blue/app:pull,push repository:shared/base:pull,push"

    answer, authorization = with_basic_at_token(first, site.job(), asked)

    assert answer.status == 200
    claims = json.loads(base64.urlsafe_b64decode(authorization.split(".")[1] + "=="))
    assert claims["access"] == [
        {"type": "repository", "name": "red/app", "actions": ["pull", "push"]},
        {"type": "repository", "name": "shared/base", "actions": ["pull"]},
    ]
    assert second.push(authorization, "red/other") == 401, "the job may, but its token was not asked for it"


@ways
def test_listings_show_a_job_what_it_may_pull(site: Site, way: Way) -> None:
    own, others = repository("red"), repository("sealed")
    visitor, other = site.guests()
    job, key = site.job(), site.sealed.keys[0]
    assert visitor.push(log_in(way, visitor, job, own), own, "1") == 201
    assert visitor.push(log_in(way, visitor, site.of_sealed(key), others), others, "1") == 201

    scope = f"registry:catalog:* {scope_of(own, others, actions='pull')}"
    for each in (visitor, other):
        answer, authorization = way(each, job, scope)
        assert answer.status == 200
        listed = json.loads(each.send("GET", "/v2/_catalog?n=10000", authorization).body)["repositories"]
        assert own in listed
        assert all(name.startswith("red/") or name == "shared/base" for name in listed)
        tags = each.send("GET", f"/v2/{own}/tags/list", authorization)
        assert (tags.status, json.loads(tags.body)["tags"]) == (200, ["1"])
        assert each.send("GET", f"/v2/{others}/tags/list", authorization).status == WAYS[way]


def test_a_real_client_pushes_with_an_id_token_for_a_password(
    site: Site, require_tool: Callable[[str], str], tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "layout")
    layout.image([b"\0" * 10_240], tag="1")
    own = repository("red")
    token = site.job()

    def copy(target: str) -> subprocess.CompletedProcess[str]:
        command = [require_tool("skopeo"), "--insecure-policy", "copy", "--dest-tls-verify=false"]
        reference = f"docker://{site.server.address}/{target}:1"
        return subprocess.run(
            [*command, f"--dest-creds=ci:{token}", f"oci:{layout.reference('1')}", reference],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    pushed = copy(own)
    refused = copy(repository("blue"))

    assert pushed.returncode == 0, pushed.stderr
    assert refused.returncode != 0
    assert "denied" in refused.stderr or "unauthorized" in refused.stderr
    visitor, _ = site.guests()
    assert visitor.send("GET", f"/v2/{own}/manifests/1", f"Bearer {token}").status == 200
    assert_log_is_silent(site.server, token)


# What is refused.


def tampered(token: str, **changes: object) -> str:
    """The same token with other claims, and the signature that it had."""
    header, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return ".".join([header, base64url(json.dumps({**claims, **changes}).encode()), signature])


def resigned(token: str, signature: bytes) -> str:
    """The same token with another signature."""
    return f"{token.rpartition('.')[0]}.{base64url(signature)}"


def signature_of(token: str) -> bytes:
    return base64.urlsafe_b64decode(token.rpartition(".")[2] + "==")


def flipped(token: str) -> str:
    """The same token with one bit of its signature turned over."""
    signature = bytearray(signature_of(token))
    signature[9] ^= 1
    return resigned(token, bytes(signature))


def without_signature(site: Site, algorithm: object) -> str:
    header = {"alg": algorithm, "typ": "JWT", "kid": site.issuer.keys[0].kid}
    return assemble(header if algorithm is not None else {"typ": "JWT"}, site.claims(), None, "none")


def with_secret(site: Site, secret: bytes, *, number: int = 0) -> str:
    header = {"alg": "HS256", "typ": "JWT", "kid": site.issuer.keys[number].kid}
    return assemble(header, site.claims(), secret, "HS256")


def der(key: Key) -> bytes:
    return key.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def in_der(site: Site) -> str:
    token = site.job(site.issuer.keys[1])
    raw = signature_of(token)
    return resigned(token, encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")))


def swapped(site: Site) -> str:
    """A token with the kid of the RSA key, signed on a curve."""
    stranger = es256()
    return site.job(Key(stranger.private, "ES256", site.issuer.keys[0].kid))


def now() -> int:
    return int(time.time())


def raw_claims(site: Site, before: str, after: str) -> str:
    """A token whose claims are no plain JSON, well signed."""
    key = site.issuer.keys[0]
    text = json.dumps(site.claims())
    assert before in text
    return assemble(
        {"alg": "RS256", "typ": "JWT", "kid": key.kid}, text.replace(before, after, 1).encode(), key.private, "RS256"
    )


REFUSED: Mapping[str, Callable[[Site], str]] = {
    "expired": lambda site: site.job(exp=now() - 61),
    "expired long ago": lambda site: site.job(exp=now() - 10**6, nbf=now() - 2 * 10**6, iat=now() - 2 * 10**6),
    "without an end": lambda site: site.job(exp=None),
    "valid for a year": lambda site: site.job(exp=now() + 365 * 86400),
    "end is a text": lambda site: site.job(exp=str(now() + 300)),
    "end is a fraction": lambda site: site.job(exp=now() + 300.5),
    "end is true": lambda site: site.job(exp=True),
    "not yet valid": lambda site: site.job(nbf=now() + 90),
    "issued in the future": lambda site: site.job(iat=now() + 90),
    "audience of another": lambda site: site.job(aud="https://sts.example"),
    "audience begins like ours": lambda site: site.job(aud=f"{AUDIENCE}.evil.test"),
    "audience in other letters": lambda site: site.job(aud=AUDIENCE.upper()),
    "no audience": lambda site: site.job(aud=None),
    "audience of nobody": lambda site: site.job(aud=[]),
    "audience of several": lambda site: site.job(aud=[AUDIENCE, "https://sts.example"]),
    "audience in an object": lambda site: site.job(aud={AUDIENCE: AUDIENCE}),
    "unknown issuer": lambda site: site.job(iss="https://issuer.evil.test"),
    "issuer with a slash": lambda site: site.job(iss=f"{site.issuer.url}/"),
    "no issuer": lambda site: site.job(iss=None),
    "issuer in a list": lambda site: site.job(iss=[site.issuer.url]),
    "issuer is another one that is trusted": lambda site: site.job(iss=SEALED),
    "issuer and kid of another one that is trusted": lambda site: site.job(
        Key(site.issuer.keys[0].private, "RS256", site.sealed.keys[0].kid), iss=SEALED
    ),
    "signed by another issuer that is trusted": lambda site: site.job(site.sealed.keys[0]),
    "our own name for issuer": lambda site: site.job(iss="pierhead", aud="pierhead"),
    "alg none": lambda site: without_signature(site, "none"),
    "alg None": lambda site: without_signature(site, "None"),
    "alg NONE": lambda site: without_signature(site, "NONE"),
    "alg nOnE": lambda site: without_signature(site, "nOnE"),
    "alg none with a space": lambda site: without_signature(site, "none "),
    "alg empty": lambda site: without_signature(site, ""),
    "alg null": lambda site: site.job(header={"alg": None}),
    "alg in a list": lambda site: without_signature(site, ["none", "RS256"]),
    "no alg": lambda site: without_signature(site, None),
    "alg none with a signature": lambda site: resigned(
        without_signature(site, "none"), signature_of(site.job(site.issuer.keys[0]))
    ),
    "alg right and no signature": lambda site: without_signature(site, "RS256"),
    "alg in small letters": lambda site: site.job(header={"alg": "rs256"}),
    "HS256 with the key in PEM": lambda site: with_secret(site, public_pem(site.issuer.keys[0].private)),
    "HS256 with the key in DER": lambda site: with_secret(site, der(site.issuer.keys[0])),
    "HS256 with the key as JWK": lambda site: with_secret(site, json.dumps(site.issuer.keys[0].jwk()).encode()),
    "HS256 with the key on a curve": lambda site: with_secret(site, public_pem(site.issuer.keys[1].private), number=1),
    "HS256 with an empty secret": lambda site: with_secret(site, b""),
    "RS256 said to be PS256": lambda site: site.job(header={"alg": "PS256"}),
    "RS256 said to be RS512": lambda site: site.job(header={"alg": "RS512"}),
    "ES256 with the kid of the RSA key": swapped,
    "unknown kid": lambda site: site.job(header={"kid": secrets.token_hex(8)}),
    "kid is a path": lambda site: site.job(header={"kid": "../../../../dev/null"}),
    "kid is empty": lambda site: site.job(header={"kid": ""}),
    "kid is a number": lambda site: site.job(header={"kid": 0}),
    "no kid where there are two keys": lambda site: site.job(header={"kid": None}),
    "key of a stranger": lambda site: site.job(Key(rsa_key("stranger"), "RS256", site.issuer.keys[0].kid)),
    "key brought along": lambda site: site.job(
        Key(rsa_key("stranger"), "RS256", "x"), header={"jwk": rs256("stranger").jwk()}
    ),
    "address of a key": lambda site: site.job(header={"jku": f"{site.issuer.url}/keys"}),
    "address of a certificate": lambda site: site.job(header={"x5u": f"{site.issuer.url}/keys"}),
    "certificate brought along": lambda site: site.job(header={"x5c": [certify("x").x5c]}),
    "unknown extension": lambda site: site.job(header={"crit": ["b64"], "b64": False}),
    "another kind of token": lambda site: site.job(header={"typ": "logout+jwt"}),
    "claims tampered with": lambda site: tampered(site.job(), project="red/other"),
    "later end tampered in": lambda site: tampered(site.job(exp=now() - 61), exp=now() + 300),
    "claims of one and signature of another": lambda site: resigned(
        site.job(ref="main"), signature_of(site.job(ref="fix"))
    ),
    "signature with a bit turned, RS256": lambda site: flipped(site.job(site.issuer.keys[0])),
    "signature with a bit turned, ES256": lambda site: flipped(site.job(site.issuer.keys[1])),
    "signature cut short": lambda site: site.job()[:-8],
    "signature made longer": lambda site: resigned(site.job(), signature_of(site.job()) + b"\0"),
    "signature of zeros, RS256": lambda site: resigned(site.job(site.issuer.keys[0]), bytes(256)),
    "signature of zeros, ES256": lambda site: resigned(site.job(site.issuer.keys[1]), bytes(64)),
    "signature in DER": in_der,
    "signature with padding": lambda site: site.job(site.issuer.keys[1]) + "==",
    "signature in the other alphabet": lambda site: site.job(site.issuer.keys[1]) + "+/",
    "claim that the configuration asks for is another": lambda site: site.job(project="green/app"),
    "claim that the configuration asks for is missing": lambda site: site.job(project=None),
    "claim that the configuration asks for is a list": lambda site: site.job(project=["red/app"]),
    "claim that the configuration asks for goes deeper": lambda site: site.job(project="red/app/x"),
    "nobody's": lambda site: site.job(sub=None),
    "claims with one name twice": lambda site: raw_claims(site, '"project"', '"project": "blue/app", "project"'),
    "claims that go deep": lambda site: raw_claims(site, '"red/app"', "[" * 5000 + "]" * 5000),
    "claims with a long number": lambda site: raw_claims(site, '"red/app"', "1" * 5000),
    "claims with NaN": lambda site: raw_claims(site, '"red/app"', "NaN"),
    "claims that are a list": lambda site: assemble(
        {"alg": "RS256", "kid": site.issuer.keys[0].kid}, [site.claims()], site.issuer.keys[0].private, "RS256"
    ),
    "claims that are no JSON": lambda site: raw_claims(site, "{", ""),
    "claims that are not UTF-8": lambda site: assemble(
        {"alg": "RS256", "kid": site.issuer.keys[0].kid}, b'{"iss": "\xff"}', site.issuer.keys[0].private, "RS256"
    ),
    "encrypted": lambda site: site.job() + ".eyJ4IjoxfQ.eyJ4IjoxfQ",
    "without claims": lambda site: site.job().replace(".", "..", 1),
    "of dots": lambda _: "eyJ..",
    "too long": lambda site: site.job(more="x" * 16_384),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_token_is_refused_however_it_is_shown(site: Site, what: str) -> None:
    token = REFUSED[what](site)
    for visitor in site.guests():
        for way in WAYS:
            answer, _ = way(visitor, token, scope_of("red/app"))

            assert (answer.status, code_of(answer)) == (401, "UNAUTHORIZED"), (way, answer)
            assert answer.headers["www-authenticate"].startswith("Bearer realm=")
            assert token.encode() not in answer.body
        for authorization in (f"Bearer {token}", basic("ci", token)):
            assert visitor.push(authorization, "red/app") == 401
            assert visitor.pull(authorization, "shared/base") == 401
            assert visitor.send("GET", "/v2/_catalog", authorization).status == 401
    assert_log_is_silent(site.server, token)


def test_the_tokens_that_are_refused_differ_in_what_is_wrong_with_them_alone(site: Site) -> None:
    visitor, _ = site.guests()

    for key in site.issuer.keys:
        assert as_bearer(visitor, site.job(key), "")[0].status == 200


def test_a_token_that_was_taken_is_refused_once_it_has_expired(site: Site) -> None:
    # A minute is what clocks may differ by: this one has five seconds left.
    token = site.job(exp=now() - 55)
    for visitor in site.guests():
        for way in WAYS:
            assert way(visitor, token, scope_of("red/app"))[0].status == 200

    for visitor in site.guests():
        eventually(lambda: as_bearer(visitor, token, "")[0].status == 401, seconds=20)  # noqa: B023  # called at once
        for way in WAYS:
            assert way(visitor, token, scope_of("red/app"))[0].status == 401
        assert visitor.push(f"Bearer {token}", "red/app") == 401


def test_the_log_says_why_a_token_is_not_believed_and_the_client_does_not_learn_it(site: Site) -> None:
    def is_told() -> bool:
        for visitor in site.guests():
            for way in WAYS:
                answer, _ = way(visitor, site.job(aud="https://sts.example"), "")
                assert b"audience" not in answer.body
        return "it is for another audience (aud)" in site.server.log.read_text()[before:]

    before = len(site.server.log.read_text())

    eventually(is_told)


def test_an_access_token_is_no_password(site: Site) -> None:
    for visitor in site.guests():
        access = log_in(with_basic_at_token, visitor, site.job(), "red/app").removeprefix("Bearer ")

        assert with_basic_at_token(visitor, access, scope_of("red/app"))[0].status == 401


# Presets.


@dataclass(frozen=True, slots=True)
class System:
    """A system with a preset: what its tokens look like, and those of others with the status for their login."""

    issuer: Issuer
    claims: Mapping[str, object]
    others: tuple[tuple[Mapping[str, object], int], ...]
    header: Mapping[str, object]
    own: str


def github() -> System:
    """A job of GitHub Actions ("OpenID Connect reference" of its documentation)."""
    claims = {
        "jti": secrets.token_hex(8),
        "sub": "repo:octo-org/octo-repo:environment:prod",
        "environment": "prod",
        "aud": AUDIENCE,
        "ref": "refs/heads/main",
        "sha": "1f0c3a" * 6 + "abcd",
        "repository": "octo-org/octo-repo",
        "repository_owner": "octo-org",
        "actor_id": "12",
        "repository_visibility": "private",
        "repository_id": "74",
        "repository_owner_id": "65",
        "run_id": "6271983214",
        "run_number": "10",
        "run_attempt": "2",
        "runner_environment": "github-hosted",
        "actor": "octocat",
        "workflow": "build",
        "workflow_ref": "octo-org/octo-repo/.github/workflows/build.yml@refs/heads/main",
        "workflow_sha": "1f0c3a" * 6 + "abcd",
        "head_ref": "",
        "base_ref": "",
        "event_name": "push",
        "ref_protected": "true",
        "ref_type": "branch",
        "job_workflow_ref": "octo-org/octo-automation/.github/workflows/oidc.yml@refs/heads/main",
    }
    others = (
        ({"repository_owner": "octo-org-evil", "repository": "octo-org-evil/octo-repo"}, 401),
        ({"repository_owner_id": "66"}, 401),
        ({"ref": "refs/pull/7/merge", "ref_protected": "false"}, 200),
        ({"job_workflow_ref": "octo-org/octo-repo/.github/workflows/mine.yml@refs/heads/main"}, 200),
    )
    return System(Issuer(GITHUB, [rs256("github")]), claims, others, {"x5t": "example"}, "octo-org/octo-repo")


def gitlab() -> System:
    """A job of GitLab CI ("OpenID Connect (OIDC) Authentication Using ID Tokens")."""
    claims = {
        "namespace_id": "72",
        "namespace_path": "my-group",
        "project_id": "20",
        "project_path": "my-group/my-project",
        "user_id": "1",
        "user_login": "sample-user",
        "user_email": "sample-user@example.com",
        "user_identities": [{"provider": "github", "extern_uid": "2435223452345"}],
        "user_access_level": "developer",
        "pipeline_id": "574",
        "pipeline_source": "push",
        "job_id": "302",
        "ref": "main",
        "ref_type": "branch",
        "ref_path": "refs/heads/main",
        "ref_protected": "true",
        "groups_direct": ["mygroup/mysubgroup", "myothergroup/myothersubgroup"],
        "environment": "production",
        "environment_protected": "true",
        "deployment_tier": "production",
        "environment_action": "start",
        "runner_id": 1,
        "runner_environment": "self-hosted",
        "sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "project_visibility": "public",
        "ci_config_ref_uri": "gitlab.com/my-group/my-project//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "714a629c0b401fdce83e847fc9589983fc6f46bc",
        "jti": "235b3a54-b797-45c7-ae9a-f72d7bc6ef5b",
        "sub": "project_path:my-group/my-project:ref_type:branch:ref:main",
    }
    others = (
        ({"project_path": "my-group-evil/my-project", "namespace_path": "my-group-evil"}, 401),
        ({"project_path": "my-group/my-project/fork"}, 401),
        ({"ref_protected": "false"}, 401),
        ({"ref": "wip"}, 200),
        ({"environment_protected": "false"}, 200),
    )
    return System(Issuer(GITLAB, [rs256("gitlab")]), claims, others, {}, "my-group/my-project")


def kubernetes() -> System:
    """A projected service account token (pkg/serviceaccount of Kubernetes): no typ, a list of one audience."""
    claims = {
        "aud": [AUDIENCE],
        "jti": "e51f1fbc-4733-4b85-a59f-ba80c0523874",
        "kubernetes.io": _kubernetes("ci", "builder"),
        "sub": "system:serviceaccount:ci:builder",
    }
    others = (
        ({"kubernetes.io": _kubernetes("default", "builder"), "sub": "system:serviceaccount:default:builder"}, 401),
        ({"kubernetes.io": _kubernetes("ci", "default"), "sub": "system:serviceaccount:ci:default"}, 200),
        ({"kubernetes.io": _kubernetes("prod", "builder"), "namespace": "ci"}, 401),
        ({"kubernetes.io": None, "namespace": "ci", "serviceaccount": "builder"}, 401),
    )
    return System(Issuer(KUBERNETES, [rs256("cluster")]), claims, others, {"typ": None}, "ci/images")


def _kubernetes(namespace: str, account: str) -> Mapping[str, object]:
    return {
        "namespace": namespace,
        "node": {"name": "worker-1", "uid": "517eb86e-b863-451b-bf70-86cb61439a3a"},
        "pod": {"name": "builder-0", "uid": "0d8b260e-ef0e-45fb-be8e-ff44f97722e8"},
        "serviceaccount": {"name": account, "uid": "e6a8680e-d103-4cce-80ea-03acbbeacf7d"},
        "warnafter": 1717674962,
    }


PRESET_CLAIMS: Mapping[str, Mapping[str, object]] = {
    "github": {"repository_owner": "octo-org", "repository_owner_id": "65"},
    "gitlab": {"project_path": "my-group/*", "ref_protected": "true"},
    "kubernetes": {"namespace": "ci"},
}
PRESET_POLICY = """\
[[rules]]
who = ["workload:*"]
issuer = "my-github"
repositories = ["octo-org/octo-repo"]
allow = ["pull", "push"]
[rules.claims]
repository = "octo-org/octo-repo"
ref = ["refs/heads/main", "refs/tags/*"]
job_workflow_ref = "octo-org/octo-automation/.github/workflows/oidc.yml@refs/**"

[[rules]]
who = ["workload:*"]
issuer = "my-gitlab"
claims = { project_path = "my-group/my-project", ref = "main", ref_type = "branch", environment_protected = "true" }
repositories = ["my-group/my-project"]
allow = ["pull", "push"]

[[rules]]
who = ["workload:my-kubernetes:system:serviceaccount:ci:builder"]
claims = { namespace = "ci", serviceaccount = "builder", node = "worker-*" }
repositories = ["ci/**"]
allow = ["pull", "push"]
"""
SYSTEMS: Mapping[str, Callable[[], System]] = {"github": github, "gitlab": gitlab, "kubernetes": kubernetes}


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("presets")
    oidc = []
    for name, system in SYSTEMS.items():
        file = directory / f"{name}.json"
        file.write_bytes(jwks(*system().issuer.keys))
        oidc.append(
            {
                "name": f"my-{name}",
                "preset": name,
                "audience": AUDIENCE,
                "jwks_file": str(file),
                "claims": PRESET_CLAIMS[name],
            }
        )
    with private(directory, policy=PRESET_POLICY, oidc=oidc) as place:
        yield place


@ways
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_job_of_a_system_with_a_preset_pushes_what_is_its_own(presets: Place, name: str, way: Way) -> None:
    system = SYSTEMS[name]()
    own = f"{system.own}/x{secrets.token_hex(4)}" if name == "kubernetes" else system.own
    token = system.issuer.token(None, header=system.header, **system.claims)

    for visitor in presets.guests():
        authorization = log_in(way, visitor, token, own, "somebody/else")
        assert visitor.push(authorization, own, "1") == 201
        assert visitor.pull(authorization, own, "1") == 200
        assert visitor.push(authorization, "somebody/else") == WAYS[way]
    assert_log_is_silent(presets.server, token)


@pytest.mark.parametrize("name", SYSTEMS)
def test_somebody_else_on_a_system_with_a_preset_pushes_nothing(presets: Place, name: str) -> None:
    system = SYSTEMS[name]()
    visitor, _ = presets.guests()

    for other, status in system.others:
        token = system.issuer.token(None, header=system.header, **{**system.claims, **other})
        for way in WAYS:
            answer, authorization = way(visitor, token, scope_of(system.own))
            assert answer.status == status, other
            if answer.status == 200:
                assert visitor.push(authorization, system.own, "2") == WAYS[way], other
                assert visitor.pull(authorization, system.own, "1") == WAYS[way], other


def test_a_token_of_one_system_is_none_of_another(presets: Place) -> None:
    visitor, _ = presets.guests()
    cluster, octo = kubernetes(), github()

    token = cluster.issuer.token(None, header=None, **{**octo.claims, "iss": GITHUB})

    assert as_bearer(visitor, token, "")[0].status == 401


# Keys that change, and issuers that do not answer.


HURRIED_POLICY = '[[rules]]\nwho = ["workload:*"]\nrepositories = ["**"]\nallow = ["pull", "push"]\n'


def takes(visitor: Visitor, token: str) -> Callable[[], bool]:
    """A question for `eventually`."""
    return lambda: as_bearer(visitor, token, "")[0].status == 200


def test_new_keys_of_an_issuer_are_picked_up_and_old_ones_forgotten_without_a_restart(tmp_path: Path) -> None:
    with serve(Issuer()) as issuer:
        oidc = [{"name": "ci", "issuer": issuer.url, "audience": AUDIENCE}]
        with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc, module=HURRIED) as place:
            both, server = place.visitors, place.server
            old, new = issuer.keys[0], es256()
            for visitor in both:
                assert visitor.push(f"Bearer {issuer.token(old)}", "app") == 201
                assert as_bearer(visitor, issuer.token(new), "")[0].status == 401

            issuer.keys = [new]

            for visitor in both:
                eventually(takes(visitor, issuer.token(new)))
                assert visitor.push(f"Bearer {issuer.token(new)}", "app") == 201
                for way in WAYS:
                    assert way(visitor, issuer.token(old), "")[0].status == 401
            assert_log_is_silent(server, issuer.token(old), issuer.token(new))


def test_new_keys_in_a_file_are_picked_up_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    issuer, file = Issuer(url=SEALED), tmp_path / "keys.json"
    old, new = issuer.keys
    file.write_bytes(jwks(old))
    oidc = [{"name": "ci", "issuer": SEALED, "audience": AUDIENCE, "jwks_file": str(file)}]
    with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc) as place:
        both, server = place.visitors, place.server
        for visitor in both:
            assert as_bearer(visitor, issuer.token(old), "")[0].status == 200
            assert as_bearer(visitor, issuer.token(new), "")[0].status == 401

        (tmp_path / "next.json").write_bytes(jwks(new))
        (tmp_path / "next.json").replace(file)
        for visitor in both:
            eventually(takes(visitor, issuer.token(new)))
            assert as_bearer(visitor, issuer.token(old), "")[0].status == 401

        file.write_text("{")
        for visitor in both:
            eventually(lambda: _is_told(server, visitor, issuer.token(old), "a file can't be used"))  # noqa: B023
            assert as_bearer(visitor, issuer.token(new), "")[0].status == 200


def test_while_an_issuer_is_down_its_known_keys_work_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    with serve(Issuer()) as issuer:
        oidc = [{"name": "ci", "issuer": issuer.url, "audience": AUDIENCE}]
        with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc, module=HURRIED) as place:
            both, server = place.visitors, place.server
            known, unknown = issuer.token(), issuer.token(es256())
            for visitor in both:
                assert as_bearer(visitor, known, "")[0].status == 200

            issuer.is_down = True
            for visitor in both:
                # Until it was asked in vain: before that nobody would notice.
                eventually(lambda: _is_told(server, visitor, unknown, "the keys of an issuer can't be fetched"))  # noqa: B023
                for way in WAYS:
                    assert way(visitor, unknown, "")[0].status == 401
                    assert way(visitor, known, "")[0].status == 200
                assert visitor.push(f"Bearer {known}", "app") == 201
            assert_log_is_silent(server, known, unknown)


def _is_told(server: Server, visitor: Visitor, unknown: str, what: str) -> bool:
    """Whether the log says it, while tokens with an unknown key are refused."""
    assert as_bearer(visitor, unknown, "")[0].status == 401
    return what in server.log.read_text()


@pytest.mark.parametrize("how", ["down", "failing", "talking HTML"])
def test_an_issuer_that_was_never_reached_makes_503_until_it_answers(tmp_path: Path, how: str) -> None:
    discovery = "/.well-known/openid-configuration"
    with serve(Issuer()) as issuer:
        issuer.is_down = how == "down"
        if how != "down":
            issuer.answers[discovery] = (500 if how == "failing" else 200, {}, b"<html>")
        oidc = [{"name": "ci", "issuer": issuer.url, "audience": AUDIENCE}]
        with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc, module=HURRIED) as place:
            both, server, token = place.visitors, place.server, issuer.token()
            for visitor in both:
                for way in WAYS:
                    answer, _ = way(visitor, token, "")
                    assert (answer.status, code_of(answer)) == (503, "UNAVAILABLE")
                    assert int(answer.headers["retry-after"]) > 0
                    assert issuer.url.encode() not in answer.body
                # Others are not made to wait for it.
                assert as_bearer(visitor, Issuer(url=SEALED).token(), "")[0].status == 401

            issuer.is_down = False
            issuer.answers.clear()

            for visitor in both:
                eventually(takes(visitor, token))
            assert all(part not in server.log.read_text() for part in token.split("."))


# The registry's own keys.


def test_access_tokens_outlive_a_restart_and_id_tokens_need_no_issuer_after_it(tmp_path: Path) -> None:
    issuer, file = Issuer(url=SEALED), tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    oidc = [{"name": "ci", "issuer": SEALED, "audience": AUDIENCE, "jwks_file": str(file)}]
    with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc) as place:
        before = [log_in(with_basic_at_token, visitor, issuer.token(), "app") for visitor in place.visitors]
        assert place.visitors[0].push(before[1], "app") == 201

    with private(tmp_path, policy=HURRIED_POLICY, oidc=oidc) as place:
        for visitor in place.visitors:
            for authorization in before:
                assert visitor.pull(authorization, "app") == 200
                assert visitor.push(authorization, "app", "2") == 201


def test_an_access_token_of_another_registry_is_refused(tmp_path: Path) -> None:
    issuer, file = Issuer(url=SEALED), tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    oidc = [{"name": "ci", "issuer": SEALED, "audience": AUDIENCE, "jwks_file": str(file)}]
    with (
        private(tmp_path / "one", policy=HURRIED_POLICY, oidc=oidc, workers=1) as one,
        private(tmp_path / "two", policy=HURRIED_POLICY, oidc=oidc, workers=1) as two,
    ):
        (at_one,), (at_two,) = one.visitors, two.visitors
        authorization = log_in(with_basic_at_token, at_one, issuer.token(), "app")

        assert at_one.push(authorization, "app") == 201
        assert at_two.push(authorization, "app") == 401
