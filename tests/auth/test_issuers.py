"""Outside issuers: their tokens are believed as far as their keys and the configuration say, and no further."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from registry.auth.claims import ClaimRules, flatten, select
from registry.auth.globs import Globs
from registry.auth.identities import Identity, Kind
from registry.auth.issuers import OidcConfig, OidcIssuers, TokenServiceConfig, TokenServices
from registry.auth.jwks import libtrust_fingerprint, public_key, thumbprint
from registry.auth.jwts import Access, TokenInvalid
from registry.auth.key_sources import DOCUMENT_BYTES_MAX, IssuerConfigInvalid, KeysUnavailable, is_loopback
from registry.auth.presets import GITHUB, GITLAB, KUBERNETES
from tests.auth.issuing import (
    AUDIENCE,
    Certified,
    Issuer,
    Key,
    PrivateKey,
    assemble,
    certify,
    ec_key,
    es256,
    jwks,
    public_pem,
    rs256,
    rsa_key,
    serve,
)
from tests.stores import Clock

DISCOVERY = "/.well-known/openid-configuration"
ACCESS = [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]


@pytest.fixture
def clock() -> Clock:
    return Clock(1_800_000_000.0)


@pytest.fixture
def issuer(clock: Clock) -> Iterator[Issuer]:
    with serve(Issuer(now=clock.now)) as served:
        yield served


def oidc(issuer: Issuer, clock: Clock, **others: object) -> OidcIssuers:
    fields: dict[str, object] = {"name": "ci", "issuer": issuer.url, "audience": AUDIENCE, **others}
    return OidcIssuers([OidcConfig(**fields)], clock=clock)  # type: ignore[arg-type]  # each test says which


async def test_a_token_of_an_issuer_that_publishes_its_keys_names_a_workload(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)

    for key in issuer.keys:
        found = await issuers.identify(issuer.token(key, project="x", protected=True, run=7))
        assert found == Identity(
            Kind.WORKLOAD,
            "ci:job",
            claims={"sub": "job", "project": "x", "protected": "true", "run": "7", "issuer": "ci"},
        )
    assert issuer.asked == [DISCOVERY, "/keys"]


async def test_nothing_is_asked_before_a_token_comes_and_nothing_for_a_token_of_somebody_else(
    issuer: Issuer, clock: Clock
) -> None:
    issuers = oidc(issuer, clock)

    for token in ("", "secret", issuer.token(iss="https://other.test"), issuer.token(iss=None)):
        with pytest.raises(TokenInvalid):
            await issuers.identify(token)

    assert issuer.asked == []
    assert issuers.knows(issuer.url)
    assert not issuers.knows("https://other.test")


async def test_what_is_wrong_with_a_token_is_refused_whoever_issued_it(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    rsa, _ec = issuer.keys
    now = int(clock.now)
    wrong: dict[str, str] = {
        issuer.token(exp=now - 60): "expired",
        issuer.token(nbf=now + 61): "not valid yet",
        issuer.token(iat=now + 61): "not valid yet",
        issuer.token(aud="other"): "audience",
        issuer.token(aud=[AUDIENCE, "other"]): "for others",
        issuer.token(exp=float(now + 300)): "whole number",
        issuer.token(exp=str(now + 300)): "whole number",
        issuer.token(exp=now + 10 * 86400): "too long",
        issuer.token(header={"alg": "none"}): "algorithm",
        issuer.token(header={"alg": "HS256"}): "algorithm",
        issuer.token(header={"kid": "other"}): "does not have",
        issuer.token(header={"kid": None}): "does not have",
        issuer.token(header={"x5c": [certify("x").x5c]}): "certificates",
        issuer.token(header={"jwk": rsa.jwk()}): "brings a key",
        issuer.token(header={"jku": f"{issuer.url}/keys"}): "address of a key",
        issuer.token(header={"crit": ["x"]}): "extension",
        issuer.token(more="x" * 16384): "16384 bytes",
        issuer.token(Key(rsa_key("stranger"), "RS256", rsa.kid)): "signature",
        issuer.token(sub=None): "who its bearer is",
        issuer.token(sub=""): "who its bearer is",
        issuer.token(sub=["job"]): "who its bearer is",
        issuer.token(sub="job\nadmin"): "who its bearer is",
    }
    for secret in (public_pem(rsa.private), json.dumps(rsa.jwk()).encode()):
        header = {"alg": "HS256", "typ": "JWT", "kid": rsa.kid}
        wrong[assemble(header, issuer.claims(), secret, "HS256")] = "algorithm"

    for token, reason in wrong.items():
        with pytest.raises(TokenInvalid, match=reason):
            await issuers.identify(token)
    assert issuer.asked.count("/keys") == 1


async def test_a_key_that_the_issuer_begins_to_use_is_picked_up(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    await issuers.identify(issuer.token())
    clock.now += 60

    issuer.keys = [es256()]

    await issuers.identify(issuer.token())


async def test_a_key_that_the_issuer_gives_up_is_forgotten_within_the_hour(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    old = issuer.keys[0]
    await issuers.identify(issuer.token(old))
    issuer.keys = [es256()]

    clock.now += 3600
    issuer.now = clock.now

    with pytest.raises(TokenInvalid, match="does not have"):
        await issuers.identify(issuer.token(old))


async def test_tokens_with_unknown_keys_ask_the_issuer_once_a_minute(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    await issuers.identify(issuer.token())

    async def refused(number: int) -> None:
        with pytest.raises(TokenInvalid, match="does not have"):
            await issuers.identify(issuer.token(header={"kid": f"unknown-{number}"}))

    await refused(0)
    assert issuer.asked.count("/keys") == 1  # they were fetched just now
    clock.now += 60
    await asyncio.gather(*(refused(number) for number in range(20)))
    assert issuer.asked.count("/keys") == 2
    clock.now += 59
    await refused(0)
    assert issuer.asked.count("/keys") == 2


async def test_many_that_come_first_wait_for_one_answer(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)

    found = await asyncio.gather(*(issuers.identify(issuer.token()) for _ in range(20)))

    assert len(found) == 20
    assert issuer.asked == [DISCOVERY, "/keys"]


async def test_somebody_who_hangs_up_takes_the_answer_from_nobody(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    first = asyncio.create_task(issuers.identify(issuer.token()))
    second = asyncio.create_task(issuers.identify(issuer.token()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()

    assert (await second).name == "ci:job"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_while_the_issuer_is_down_its_keys_stay_in_use(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)
    await issuers.identify(issuer.token())
    issuer.is_down = True

    for _ in range(3):
        clock.now += 4000
        issuer.now = clock.now
        with capture_logs() as logs:
            await issuers.identify(issuer.token())
            await issuers.identify(issuer.token())
        assert [(line["log_level"], line["issuer"]) for line in logs] == [("warning", issuer.url)]


async def test_an_issuer_that_was_never_reached_is_unavailable_and_asked_again_soon(
    issuer: Issuer, clock: Clock
) -> None:
    issuers = oidc(issuer, clock)
    issuer.is_down = True
    with pytest.raises(KeysUnavailable):
        await issuers.identify(issuer.token())
    issuer.is_down = False
    with pytest.raises(KeysUnavailable):
        await issuers.identify(issuer.token())

    clock.now += 10

    await issuers.identify(issuer.token())


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (DISCOVERY, (404, {}, b"{}")),
        (DISCOVERY, (302, {"location": "/elsewhere"}, b"")),
        (DISCOVERY, (200, {}, b"<html>")),
        (DISCOVERY, (200, {}, b"{}")),
        (DISCOVERY, (200, {}, b'{"issuer": "https://other.test", "jwks_uri": "URL/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": 1}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "file:///etc/passwd"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "http://192.0.2.1/keys"}')),
        (DISCOVERY, (200, {}, b'{"issuer": "URL", "jwks_uri": "/keys"}')),
        (DISCOVERY, (200, {"content-encoding": "gzip"}, b"{}")),
        ("/keys", (500, {}, b"")),
        ("/keys", (200, {}, b'{"keys": []}')),
        ("/keys", (200, {}, jwks(rs256()) + b" " * DOCUMENT_BYTES_MAX)),
    ],
)
async def test_an_answer_that_is_not_right_gives_no_keys(
    issuer: Issuer, clock: Clock, path: str, answer: tuple[int, Mapping[str, str], bytes]
) -> None:
    issuer.answers[path] = (answer[0], answer[1], answer[2].replace(b"URL", issuer.url.encode()))

    with capture_logs() as logs, pytest.raises(KeysUnavailable):
        await oidc(issuer, clock).identify(issuer.token())

    assert len(logs) == 1
    assert "/elsewhere" not in issuer.asked


async def test_keys_are_not_fetched_where_they_could_be_replaced_on_the_way(issuer: Issuer, clock: Clock) -> None:
    document = {"issuer": issuer.url, "jwks_uri": "http://192.0.2.1/keys"}
    issuer.answers[DISCOVERY] = (200, {}, json.dumps(document).encode())

    with capture_logs() as logs, pytest.raises(KeysUnavailable):
        await oidc(issuer, clock).identify(issuer.token())

    assert "https://" in str(logs[0]["reason"])


def test_only_this_machine_is_this_machine() -> None:
    for url in ("http://127.0.0.1:1/x", "http://127.9.9.9", "http://[::1]/x", "http://localhost/x"):
        assert is_loopback(url)
    for url in ("https://127.0.0.1.evil.test/", "https://10.0.0.1/", "https://localhost.evil.test", "https://127.1"):
        assert not is_loopback(url)


async def test_keys_in_a_file_need_no_network(issuer: Issuer, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    issuers = oidc(issuer, clock, jwks_file=file)

    for key in issuer.keys:
        assert (await issuers.identify(issuer.token(key))).name == "ci:job"
    with pytest.raises(TokenInvalid, match="not known to have"):
        await issuers.identify(issuer.token(header={"kid": "other"}))
    assert issuer.asked == []


async def test_keys_in_a_file_are_read_again_when_it_changes(issuer: Issuer, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old, new = rs256(), es256()
    file.write_bytes(jwks(old))
    issuers = oidc(issuer, clock, jwks_file=file)
    with pytest.raises(TokenInvalid):
        await issuers.identify(issuer.token(new))

    replace(file, jwks(new))
    clock.now += 1

    await issuers.identify(issuer.token(new))
    with pytest.raises(TokenInvalid):
        await issuers.identify(issuer.token(old))


@pytest.mark.parametrize("body", [b"", b"{", b'{"keys": []}', b" " * (1 << 20) + b"{}", None])
async def test_a_file_that_is_broken_later_leaves_the_keys_in_use(
    issuer: Issuer, clock: Clock, tmp_path: Path, body: bytes | None
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    issuers = oidc(issuer, clock, jwks_file=file)

    if body is None:
        file.unlink()
    else:
        replace(file, body)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += 1
            await issuers.identify(issuer.token())

    assert [(line["log_level"], line["file"]) for line in logs] == [("error", str(file))]


async def test_of_two_configurations_for_one_issuer_the_one_that_fits_is_taken(
    issuer: Issuer, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    configs = [
        OidcConfig(name=name, issuer=issuer.url, audience=AUDIENCE, jwks_file=file, claims={"team": [name]})
        for name in ("red", "blue")
    ]
    issuers = OidcIssuers(configs, clock=clock)

    assert (await issuers.identify(issuer.token(team="blue"))).name == "blue:job"
    assert (await issuers.identify(issuer.token(team="red"))).claims["issuer"] == "red"
    with pytest.raises(TokenInvalid, match="the team"):
        await issuers.identify(issuer.token(team="green"))


@pytest.mark.parametrize(
    ("claims", "is_taken"),
    [
        ({"repository": ["acme/app"], "ref": ["refs/heads/main"]}, True),
        ({"repository": ["acme/*"]}, True),
        ({"repository": "acme/*"}, True),
        ({"repository": "other/*"}, False),
        ({"repository": ["other/*", "acme/*"]}, True),
        ({"sub": ["repo:acme/app:ref:**"]}, None),
        ({"sub": ["repo:acme/**"]}, True),
        ({"run_id": ["7"], "ref_protected": ["true"]}, True),
        ({"repository": ["acme"]}, False),
        ({"repository": ["acme/app"], "ref": ["refs/heads/release"]}, False),
        ({"repository": ["ACME/app"]}, False),
        ({"repository": ["acme/ap"]}, False),
        ({"repository": ["*"]}, False),
        ({"missing": ["**"]}, False),
        ({"groups": ["**"]}, False),
        ({"score": ["**"]}, False),
    ],
)
async def test_every_claim_that_is_asked_for_has_to_be_there_and_match(
    issuer: Issuer, clock: Clock, claims: Mapping[str, str | Sequence[str]], is_taken: bool | None
) -> None:
    token = issuer.token(
        sub="repo:acme/app:ref:refs/heads/main",
        repository="acme/app",
        ref="refs/heads/main",
        ref_protected=True,
        run_id=7,
        groups=["a"],
        score=1.5,
    )
    if is_taken is None:
        with pytest.raises(IssuerConfigInvalid, match="the claim sub"):
            oidc(issuer, clock, claims=claims)
        return
    issuers = oidc(issuer, clock, claims=claims)
    if is_taken:
        await issuers.identify(token)
        return
    with pytest.raises(TokenInvalid, match="does not claim"):
        await issuers.identify(token)


async def test_a_claim_called_issuer_is_not_the_issuer(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock)

    assert (await issuers.identify(issuer.token(issuer="trusted"))).claims["issuer"] == "ci"


async def test_two_issuers_can_not_name_the_same_workload(issuer: Issuer, clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    configs = [
        OidcConfig(name="one", issuer="https://one.test", audience=AUDIENCE, jwks_file=file),
        OidcConfig(name="two", issuer="https://two.test", audience=AUDIENCE, jwks_file=file),
    ]
    issuers = OidcIssuers(configs, clock=clock)

    found = {(await issuers.identify(issuer.token(iss=config.issuer))).name for config in configs}

    assert found == {"one:job", "two:job"}


async def test_which_claim_is_the_name_and_which_are_passed_on_can_be_said(issuer: Issuer, clock: Clock) -> None:
    issuers = oidc(issuer, clock, identity_claim="email", passed_claims=["team", "absent"])

    found = await issuers.identify(issuer.token(email="ada@example.test", team="red", other="x"))

    assert found.name == "ci:ada@example.test"
    assert found.claims == {"team": "red", "issuer": "ci"}


GITHUB_CLAIMS: dict[str, object] = {
    "sub": "repo:acme/app:ref:refs/heads/main",
    "repository": "acme/app",
    "repository_owner": "acme",
    "repository_owner_id": "1234",
    "ref": "refs/heads/main",
    "workflow": "build",
    "run_number": "17",
}
GITLAB_CLAIMS: dict[str, object] = {
    "sub": "project_path:acme/app:ref_type:branch:ref:main",
    "namespace_path": "acme",
    "project_path": "acme/app",
    "ref_protected": "true",
    "user_email": "ada@example.test",
}
KUBERNETES_CLAIMS: dict[str, object] = {
    "aud": [AUDIENCE],
    "sub": "system:serviceaccount:ci:builder",
    "namespace": "forged",
    "kubernetes.io": {
        "namespace": "ci",
        "serviceaccount": {"name": "builder", "uid": "u-1"},
        "pod": {"name": "builder-0", "uid": "u-2"},
        "warnafter": 1_800_000_100,
    },
}


@pytest.mark.parametrize(
    ("preset", "url", "claims", "rules", "passed"),
    [
        (
            "github",
            GITHUB,
            GITHUB_CLAIMS,
            {"repository_owner": ["acme"]},
            {name: str(GITHUB_CLAIMS[name]) for name in list(GITHUB_CLAIMS)[:5]},
        ),
        (
            "gitlab",
            GITLAB,
            GITLAB_CLAIMS,
            {"project_path": ["acme/*"], "ref_protected": ["true"]},
            {name: str(GITLAB_CLAIMS[name]) for name in list(GITLAB_CLAIMS)[:4]},
        ),
        (
            "kubernetes",
            KUBERNETES,
            KUBERNETES_CLAIMS,
            {"namespace": ["ci"], "kubernetes.io.pod.name": ["builder-*"]},
            {
                "sub": "system:serviceaccount:ci:builder",
                "namespace": "ci",
                "serviceaccount": "builder",
                "serviceaccount_uid": "u-1",
                "pod": "builder-0",
            },
        ),
    ],
)
async def test_a_preset_knows_the_issuer_and_what_matters_of_its_claims(
    clock: Clock,
    tmp_path: Path,
    *,
    preset: str,
    url: str,
    claims: dict[str, object],
    rules: Mapping[str, Sequence[str]],
    passed: Mapping[str, str],
) -> None:
    issuer = Issuer(url=url, now=clock.now)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    config = OidcConfig(name="ci", preset=preset, audience=AUDIENCE, jwks_file=file, claims=rules)

    found = await OidcIssuers([config], clock=clock).identify(issuer.token_saying(claims))

    assert found.name == f"ci:{claims['sub']}"
    assert found.claims == {**passed, "issuer": "ci"}


def configured(**fields: object) -> OidcIssuers:
    defaults: dict[str, object] = {"name": "ci", "issuer": "https://issuer.test", "audience": AUDIENCE}
    return OidcIssuers([OidcConfig(**{**defaults, **fields})])  # type: ignore[arg-type]  # each test says which


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "CI"}, "expected a name of lower-case"),
        ({"name": "a:b"}, "expected a name of lower-case"),
        ({"name": ""}, "expected a name of lower-case"),
        ({"preset": "githib"}, "no preset 'githib': expected one of github, gitlab, kubernetes"),
        ({"issuer": None}, "say what its tokens have for iss"),
        ({"audience": ""}, "audience must not be empty"),
        ({"issuer": "http://issuer.test"}, "https://"),
        ({"issuer": "ftp://issuer.test"}, "https://"),
        ({"issuer": "issuer.test"}, "not a plain URL"),
        ({"issuer": "https://user:secret@issuer.test"}, "not a plain URL"),
        ({"issuer": "https://issuer.test?x=1"}, "not a plain URL"),
        ({"issuer": "https://issuer.test:x"}, "not a URL"),
        ({"issuer": "https://[issuer.test"}, "not a URL"),
        ({"claims": {"sub": []}}, "no text is given for the claim sub"),
        ({"claims": {"sub": [""]}}, "the claim sub: '' is an empty glob"),
        ({"jwks_file": Path("/no/such/file")}, "/no/such/file: it can't be read: No such file"),
        ({"preset": "github", "issuer": None, "claims": {"sub": "**"}}, "everybody can get a token"),
        ({"preset": "github", "issuer": None}, "everybody can get a token"),
        ({"preset": "gitlab", "issuer": None, "claims": {"ref": ["main"]}}, "everybody can get a token"),
        ({"preset": "github", "issuer": None, "claims": {"repository": ["*/*"]}}, "everybody can get a token"),
        ({"preset": "github", "issuer": None, "claims": {"repository": ["acme/*", "**"]}}, "everybody can get a token"),
    ],
)
def test_a_configuration_that_can_not_be_meant_is_refused_in_one_line(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(IssuerConfigInvalid) as refused:
        configured(**fields)

    message = str(refused.value)
    assert reason in message
    assert message.startswith("[[auth.oidc]]")
    assert "\n" not in message
    assert "secret" not in message


def test_two_issuers_have_two_names() -> None:
    config = OidcConfig(name="ci", issuer="https://issuer.test", audience=AUDIENCE)

    with pytest.raises(IssuerConfigInvalid, match="two with this name"):
        OidcIssuers([config, config])


def test_a_github_or_gitlab_of_ones_own_may_let_everybody_in() -> None:
    configured(preset="github", issuer="https://github.example/_services/token")
    configured(preset="gitlab", issuer="https://gitlab.example")
    configured(preset="github", issuer=None, claims={"repository_owner": "acme"})


def test_claims_are_flattened_to_text() -> None:
    claims: dict[str, object] = {
        "text": "x",
        "yes": True,
        "number": 7,
        "outer": {"inner": {"most": "y"}},
        "list": ["x"],
        "none": None,
        "fraction": 1.5,
        "empty": "",
        "long": "x" * 1025,
        "control": "a\x1b[31m",
    }

    assert flatten(claims) == {"text": "x", "yes": "true", "number": "7", "outer.inner.most": "y"}


def test_claims_that_would_get_one_name_are_refused() -> None:
    with pytest.raises(TokenInvalid, match="one name"):
        flatten({"a.b": "x", "a": {"b": "y"}})


def test_too_many_claims_are_refused() -> None:
    with pytest.raises(TokenInvalid, match="more than 200"):
        flatten({"a": {str(number): "x" for number in range(201)}})


def test_without_a_preset_what_is_passed_on_is_bounded() -> None:
    many = {f"c{number:03}": "x" for number in range(100)} | {"a long one": "x" * 257, "exp": "1", "iss": "x"}

    found = select(many, None)

    assert list(found) == [f"c{number:03}" for number in range(32)]


claim_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=3), claim_values))
def test_no_claims_make_the_rules_fail_in_another_way(claims: dict[str, object]) -> None:
    try:
        found = flatten(claims)
        ClaimRules({"a": Globs.of_texts(["**"])}).check(found)
    except TokenInvalid:
        return
    assert all(text.isprintable() for text in found.values())


# Token services of the kind that distribution has.


def service(clock: Clock, tmp_path: Path, *bundle: Certified, **others: object) -> TokenServices:
    fields: dict[str, object] = {"name": "old", "issuer": "https://issuer.test", "service": AUDIENCE, **others}
    if bundle:
        (tmp_path / "bundle.pem").write_bytes(b"".join(one.pem for one in bundle))
        fields["certificates"] = tmp_path / "bundle.pem"
    return TokenServices([TokenServiceConfig(**fields)], clock=clock)  # type: ignore[arg-type]  # each test says which


def replace(file: Path, body: bytes) -> None:
    other = file.with_name("other")
    other.write_bytes(body)
    other.replace(file)


def key_of(certified: Certified, kid: str) -> Key:
    pinned = public_key(certified.key.public_key())
    assert pinned is not None
    return Key(certified.key, pinned.algorithm, kid)


@pytest.fixture
def now() -> Clock:
    """The time by which certificates are made."""
    return Clock(float(int(time.time())))


@pytest.mark.parametrize("private", [rsa_key(), ec_key(), ec_key(ec.SECP384R1())], ids=["RSA", "P-256", "P-384"])
async def test_a_token_service_names_its_key_as_any_distribution_does(
    now: Clock, tmp_path: Path, private: PrivateKey
) -> None:
    certified = certify("auth", key=private)
    services = service(now, tmp_path, certified, certify("another", key=rsa_key("another")))
    issuer = Issuer(now=now.now)

    public = private.public_key()
    kids = [libtrust_fingerprint(public), thumbprint(public)]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        kids.append(thumbprint(ec.derive_private_key(1, private.curve).public_key()))
    for kid in kids:
        found = await services.verify(issuer.token(key_of(certified, kid), sub="ada", access=ACCESS))
        assert (found.subject, found.issuer) == ("ada", "old")
        assert found.access == (Access("repository", "team/app", ("pull", "push")),)
    with pytest.raises(TokenInvalid, match="not known to have"):
        await services.verify(issuer.token(key_of(certified, "other")))
    with pytest.raises(TokenInvalid, match="signature"):
        await services.verify(forged(issuer, kids[0], private))


def forged(issuer: Issuer, kid: str, private: PrivateKey) -> str:
    if isinstance(private, ec.EllipticCurvePrivateKey):
        algorithm = "ES256" if isinstance(private.curve, ec.SECP256R1) else "ES384"
        return issuer.token(Key(ec.generate_private_key(private.curve), algorithm, kid))
    return issuer.token(Key(rsa_key("stranger"), "RS256", kid))


async def test_what_token_services_really_write_is_read(now: Clock, tmp_path: Path) -> None:
    certified = certify("auth", key=rsa_key())
    services = service(now, tmp_path, certified)
    issuer = Issuer(now=now.now)
    key = key_of(certified, libtrust_fingerprint(certified.key.public_key()))

    assert (await services.verify(issuer.token(key, header={"typ": None}))).access == ()
    assert (await services.verify(issuer.token(key, aud=["other", AUDIENCE], access=None))).access == ()
    assert (await services.verify(issuer.token(key, sub="", nbf=0))).subject == ""
    assert (await services.verify(issuer.token(key, sub=None))).subject == ""


async def test_a_token_service_is_held_to_issuer_service_and_time(now: Clock, tmp_path: Path) -> None:
    certified = certify("auth")
    services = service(now, tmp_path, certified)
    issuer = Issuer(now=now.now)
    key = key_of(certified, thumbprint(certified.key.public_key()))

    wrong: list[tuple[dict[str, object], str]] = [
        ({"iss": "https://other.test"}, "not known here"),
        ({"aud": "other"}, "audience"),
        ({"exp": int(now.now) - 60}, "expired"),
        ({"nbf": int(now.now) + 61}, "not valid yet"),
        ({"sub": 7}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"access": {}}, "access"),
        ({"access": [{"type": "repository", "name": 1, "actions": []}]}, "access"),
    ]
    for claims, reason in wrong:
        with pytest.raises(TokenInvalid, match=reason):
            await services.verify(issuer.token_saying(claims, key))
    assert services.knows("https://issuer.test")
    assert not services.knows("https://other.test")


async def test_a_chain_of_certificates_leads_to_the_bundle(now: Clock, tmp_path: Path) -> None:
    root = certify("root", is_authority=True)
    between = certify("between", by=root, is_authority=True, path_length=0)
    leaf = certify("leaf", by=between, extensions=[(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)])
    direct = certify("direct", by=root)
    services = service(now, tmp_path, root)
    issuer = Issuer(now=now.now)

    for chain in ([leaf, between], [leaf, between, root], [direct], [direct, root], [root]):
        token = issuer.token(key_of(chain[0], "any"), header={"x5c": [one.x5c for one in chain]}, access=ACCESS)
        assert (await services.verify(token)).access


async def test_a_chain_that_leads_elsewhere_is_refused(now: Clock, tmp_path: Path) -> None:
    root = certify("root", is_authority=True)
    evil = certify("root", is_authority=True)
    no_authority = certify("no authority", by=root)
    short = certify("short", by=root, is_authority=True, path_length=0)
    below_short = certify("below", by=short, is_authority=True)
    constrained = certify(
        "constrained",
        by=root,
        is_authority=True,
        extensions=[(x509.NameConstraints([x509.DNSName("example.test")], None), True)],
    )
    no_signer = certify(
        "no signer", by=root, is_authority=True, extensions=[(usage(digital_signature=True, key_cert_sign=False), True)]
    )
    chains = [
        [certify("leaf")],
        [certify("leaf", by=evil)],
        [certify("leaf", by=evil), evil],
        [certify("leaf", by=evil), root],
        [certify("leaf", by=no_authority), no_authority],
        [certify("leaf", by=below_short), below_short, short],
        [certify("leaf", by=constrained), constrained],
        [certify("leaf", by=no_signer), no_signer],
        [certify("leaf", by=root, days=(-10, -1))],
        [certify("leaf", by=root, days=(1, 10))],
        [certify("leaf", by=root, extensions=[(usage(digital_signature=False, key_cert_sign=False), True)])],
        [certify("leaf", by=root, key=rsa_key("short", 1024))],
        [certify("leaf"), root],
    ]
    services = service(now, tmp_path, root)
    issuer = Issuer(now=now.now)

    for chain in chains:
        key = Key(chain[0].key, "ES256", "any") if isinstance(chain[0].key, ec.EllipticCurvePrivateKey) else rs256()
        token = issuer.token(key, header={"x5c": [one.x5c for one in chain]})
        with pytest.raises(TokenInvalid, match="certificate"):
            await services.verify(token)


async def test_a_root_that_has_expired_vouches_for_nobody(now: Clock, tmp_path: Path) -> None:
    root = certify("root", is_authority=True, days=(-30, -1))
    leaf = certify("leaf", by=root)
    services = service(now, tmp_path, root)

    with pytest.raises(TokenInvalid, match="do not lead"):
        await services.verify(Issuer(now=now.now).token(key_of(leaf, "any"), header={"x5c": [leaf.x5c]}))


async def test_a_chain_does_not_help_who_has_not_the_key(now: Clock, tmp_path: Path) -> None:
    root = certify("root", is_authority=True)
    leaf = certify("leaf", by=root)
    services = service(now, tmp_path, root)
    token = Issuer(now=now.now).token(es256(), header={"x5c": [leaf.x5c]})

    with pytest.raises(TokenInvalid, match="signature"):
        await services.verify(token)


@pytest.mark.parametrize("text", ["", "AAAA", "MIIB", "not base64", "é"])
async def test_what_is_no_certificate_is_refused(now: Clock, tmp_path: Path, text: str) -> None:
    services = service(now, tmp_path, certify("root", is_authority=True))
    token = Issuer(now=now.now).token(es256(), header={"x5c": [text]})

    with pytest.raises(TokenInvalid, match=r"certificates|x5c"):
        await services.verify(token)


async def test_a_certificate_of_an_unknown_version_is_refused(now: Clock, tmp_path: Path) -> None:
    root = certify("root", is_authority=True)
    other = base64.b64decode(root.x5c).replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020101"), 1)
    token = Issuer(now=now.now).token(es256(), header={"x5c": [base64.b64encode(other).decode()]})

    with pytest.raises(TokenInvalid, match=r"certificates|x5c"):
        await service(now, tmp_path, root).verify(token)


def usage(*, digital_signature: bool, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


async def test_a_token_service_can_have_a_key_set_and_brings_no_certificates_then(now: Clock, tmp_path: Path) -> None:
    issuer = Issuer(now=now.now)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    services = service(now, tmp_path, jwks_file=file)

    await services.verify(issuer.token(access=ACCESS))
    with pytest.raises(TokenInvalid, match="certificates"):
        await services.verify(issuer.token(header={"x5c": [certify("x").x5c]}))


async def test_a_token_that_was_verified_is_remembered_until_its_key_goes(now: Clock, tmp_path: Path) -> None:
    issuer = Issuer(now=now.now)
    file = tmp_path / "keys.json"
    file.write_bytes(jwks(*issuer.keys))
    services = service(now, tmp_path, jwks_file=file)
    token = issuer.token(access=ACCESS)

    assert await services.verify(token) is await services.verify(token)
    replace(file, jwks(es256()))
    now.now += 1
    with pytest.raises(TokenInvalid, match="not known to have"):
        await services.verify(token)


async def test_a_certificate_that_leaves_the_bundle_is_trusted_no_more(now: Clock, tmp_path: Path) -> None:
    root, other = certify("root", is_authority=True), certify("other", is_authority=True)
    leaf = certify("leaf", by=root)
    services = service(now, tmp_path, root)
    token = Issuer(now=now.now).token(key_of(leaf, "any"), header={"x5c": [leaf.x5c]})
    await services.verify(token)

    replace(tmp_path / "bundle.pem", other.pem)
    now.now += 1

    with pytest.raises(TokenInvalid, match="do not lead"):
        await services.verify(token)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "give either certificates or jwks_file"),
        ({"certificates": Path("a"), "jwks_file": Path("b")}, "give either certificates or jwks_file"),
        ({"certificates": Path("/no/such/file")}, "/no/such/file: it can't be read: No such file"),
        ({"jwks_file": Path(__file__)}, "not JSON"),
        ({"certificates": Path(__file__)}, "expected certificates in PEM"),
        ({"issuer": "", "jwks_file": Path("b")}, "must not be empty"),
        ({"service": "", "jwks_file": Path("b")}, "must not be empty"),
        ({"name": "Old", "jwks_file": Path("b")}, "expected a name"),
    ],
)
def test_a_token_service_that_can_not_be_meant_is_refused_in_one_line(
    clock: Clock, tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    with pytest.raises(IssuerConfigInvalid) as refused:
        service(clock, tmp_path, **fields)

    assert reason in str(refused.value)
    assert str(refused.value).startswith("[[auth.issuers]]")
    assert "\n" not in str(refused.value)


async def test_no_text_makes_the_issuers_fail_in_another_way(issuer: Issuer, clock: Clock) -> None:
    issuers, services = oidc(issuer, clock), TokenServices([], clock=clock)

    for text in ("", "a.b.c", "\udc80", "..", "eyJ" * 1000, "é"):
        with pytest.raises(TokenInvalid):
            await issuers.identify(text)
        with pytest.raises(TokenInvalid):
            await services.verify(text)
