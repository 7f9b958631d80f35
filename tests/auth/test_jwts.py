"""Tokens are read strictly: whatever is not exactly right is refused, with a reason that holds nothing of the token."""

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from registry.auth.jwks import (
    KeySet,
    KeySetInvalid,
    PublicKey,
    libtrust_fingerprint,
    parse_key,
    parse_key_set,
    thumbprint,
    to_jwk,
)
from registry.auth.jwts import JWT, Access, Rules, TokenInvalid, is_token, parse, read_access
from tests.auth.issuing import (
    AUDIENCE,
    Issuer,
    Key,
    assemble,
    base64url,
    ec_key,
    es256,
    jwks,
    public_pem,
    rs256,
    rsa_key,
)

NOW = 1_800_000_000
RULES = Rules(issuer="https://issuer.test", audience=AUDIENCE, lifetime_seconds_max=3600)
ISSUER = Issuer(now=NOW)
RSA, EC = ISSUER.keys
KEYS = parse_key_set(jwks(RSA, EC))


def verify(token: str, rules: Rules = RULES, *, now: float = NOW) -> dict[str, object]:
    unverified = parse(token)
    key = KEYS.find(unverified.kid, unverified.algorithm)
    if key is None:
        raise TokenInvalid("no such key")
    return dict(unverified.verify(key, rules, now=now))


def refuse(token: str, reason: str, rules: Rules = RULES, *, now: float = NOW) -> None:
    with pytest.raises(TokenInvalid, match=reason) as refused:
        verify(token, rules, now=now)
    assert len(str(refused.value)) < 100
    for part in token.split("."):
        assert len(part) < 8 or part not in str(refused.value)


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_a_token_that_is_right_says_what_it_says(key: Key) -> None:
    assert verify(ISSUER.token(key, more="x")) == ISSUER.claims(more="x")


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa_key(), "RS384"),
        (rsa_key(), "RS512"),
        (ec_key(ec.SECP384R1()), "ES384"),
        (ec_key(ec.SECP521R1()), "ES512"),
        (Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_a_key_says_for_which_algorithm_it_is(private: ec.EllipticCurvePrivateKey, algorithm: str) -> None:
    key = Key(private, algorithm, "k")
    found = parse_key(key.jwk())

    assert found is not None
    assert found.algorithm == algorithm
    assert parse(ISSUER.token(key)).verify(found, RULES, now=NOW)["sub"] == "job"


def test_an_expired_token_is_refused_once_the_leeway_is_over() -> None:
    token = ISSUER.token(exp=NOW - 59)

    assert verify(token)
    refuse(token, "expired", now=NOW + 1)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_that_is_not_valid_yet_is_refused(claim: str) -> None:
    token = ISSUER.token_saying({claim: NOW + 61})

    refuse(token, f"not valid yet.*{claim}")
    assert verify(token, now=NOW + 1)


@pytest.mark.parametrize(
    "audience", [None, "", "other", AUDIENCE.upper(), f"{AUDIENCE}/", [], ["other"], [[AUDIENCE]], {AUDIENCE: 1}, True]
)
def test_a_wrong_audience_is_refused(audience: object) -> None:
    refuse(ISSUER.token(aud=audience), "audience")


def test_an_audience_in_a_list_has_to_be_the_only_one_unless_others_are_allowed() -> None:
    assert verify(ISSUER.token(aud=[AUDIENCE]))
    refuse(ISSUER.token(aud=[AUDIENCE, "other"]), "for others as well")
    assert verify(ISSUER.token(aud=["other", AUDIENCE]), replace(RULES, takes_other_audiences=True))
    refuse(ISSUER.token(aud=["other", "third"]), "audience", replace(RULES, takes_other_audiences=True))


@pytest.mark.parametrize(
    "issuer", [None, "", "https://issuer.test/", "https://ISSUER.test", ["https://issuer.test"], 1]
)
def test_a_wrong_issuer_is_refused(issuer: object) -> None:
    refuse(ISSUER.token(iss=issuer), "iss")


@pytest.mark.parametrize("spelling", ["none", "None", "NONE", "nOnE", "none ", "", None, ["none"], True])
def test_an_unsigned_token_is_refused_in_every_spelling_of_none(spelling: object) -> None:
    header = {"alg": spelling, "typ": "JWT", "kid": RSA.kid}
    for key in (None, RSA.private):
        refuse(assemble(header, ISSUER.claims(), key, "RS256"), r"algorithm|base64url")
    whole = assemble({**header, "alg": "RS256"}, ISSUER.claims(), None, "RS256")
    refuse(whole, "base64url")


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_a_public_key_is_no_hmac_secret(key: Key) -> None:
    jwk = json.dumps(key.jwk()).encode()
    for secret in (public_pem(key.private), public_pem(key.private).strip(), jwk, jwks(key), b""):
        for algorithm in ("HS256", "hs256", "RS256", "ES256"):
            token = assemble({"alg": algorithm, "typ": "JWT", "kid": key.kid}, ISSUER.claims(), secret, "HS256")
            refuse(token, r"algorithm|no such key|signature|base64url")


def test_a_key_verifies_no_other_algorithm_than_its_own() -> None:
    for algorithm in ("RS384", "RS512", "ES256", "EdDSA"):
        token = ISSUER.token(RSA, header={"alg": algorithm})
        with pytest.raises(TokenInvalid, match="algorithm"):
            parse(token).verify(KEYS.keys[0], RULES, now=NOW)


def test_algorithms_that_are_not_known_are_refused() -> None:
    for algorithm in ("PS256", "ES256K", "rs256", "RS256 ", "dir", "A128KW"):
        refuse(ISSUER.token(header={"alg": algorithm}), "algorithm")


@pytest.mark.parametrize("kid", ["unknown", "../rsa-first", RSA.kid.upper(), "' OR 1=1 --", EC.kid])
def test_an_unknown_kid_is_refused(kid: str) -> None:
    refuse(ISSUER.token(RSA, header={"kid": kid}), "no such key")


@pytest.mark.parametrize("kid", ["", 1, True, ["rsa-first"], {"k": 1}, "k" * 257])
def test_a_kid_that_can_name_no_key_is_refused(kid: object) -> None:
    refuse(ISSUER.token(header={"kid": kid}), "kid")


def test_without_a_kid_only_the_only_key_can_be_meant() -> None:
    token = ISSUER.token(RSA, header={"kid": None})

    refuse(token, "no such key")
    only = parse_key_set(jwks(RSA)).find(None, "RS256")
    assert only is not None
    assert parse(token).verify(only, RULES, now=NOW)
    with pytest.raises(TokenInvalid, match="kid"):
        parse(token).verify(only, replace(RULES, requires_kid=True), now=NOW)


def test_a_tampered_payload_is_refused() -> None:
    header, _claims, signature = ISSUER.token().split(".")
    other = base64url(json.dumps(ISSUER.claims(sub="root")).encode())

    refuse(f"{header}.{other}.{signature}", "signature")


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_a_tampered_signature_is_refused(key: Key) -> None:
    header, claims, signature = ISSUER.token(key).split(".")
    whole = base64.urlsafe_b64decode(signature + "==")

    for place in (0, len(whole) // 2, len(whole) - 1):
        other = bytearray(whole)
        other[place] ^= 1
        refuse(f"{header}.{claims}.{base64url(bytes(other))}", "signature")
    for other_length in (whole[:-1], whole + b"\0", bytes(len(whole)), b"\0"):
        refuse(f"{header}.{claims}.{base64url(other_length)}", "signature")
    stranger = Key(rsa_key("stranger") if key is RSA else ec_key(), key.algorithm, key.kid)
    refuse(ISSUER.token(stranger), "signature")


def test_duplicate_keys_are_refused_in_header_and_claims() -> None:
    header = json.dumps({"alg": "RS256", "typ": "JWT", "kid": RSA.kid}).encode()
    claims = json.dumps(ISSUER.claims()).encode()

    twice = header[:-1] + b', "alg": "RS256"}'
    refuse(assemble(twice, claims, RSA.private, "RS256"), "header: .*twice")
    twice = claims[:-1] + b', "sub": "root"}'
    refuse(assemble(header, twice, RSA.private, "RS256"), "claims: .*twice")
    nested = claims[:-1] + b', "x": {"y": 1, "y": 1}}'
    refuse(assemble(header, nested, RSA.private, "RS256"), "claims: .*twice")


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [float(NOW), NOW + 0.5, str(NOW), True, [NOW], {"t": NOW}])
def test_times_that_are_no_whole_numbers_are_refused(claim: str, value: object) -> None:
    refuse(ISSUER.token_saying({claim: value}), f"{claim} is not a whole number")


def test_a_null_time_is_refused() -> None:
    for claim in ("exp", "nbf", "iat"):
        claims = ISSUER.claims() | {claim: None}
        token = assemble({"alg": "RS256", "kid": RSA.kid}, claims, RSA.private, "RS256")
        refuse(token, f"{claim} is not a whole number")


def test_a_token_without_an_end_is_refused() -> None:
    refuse(ISSUER.token(exp=None), "does not say when it expires")


def test_a_token_that_would_be_valid_for_too_long_is_refused() -> None:
    assert verify(ISSUER.token(exp=NOW + 3660))
    for expires in (NOW + 3661, 10**18):
        refuse(ISSUER.token(exp=expires), "too long")
    refuse(ISSUER.token(exp=10**30), "claims: .*out of range")


def test_times_that_are_asked_for_have_to_be_there() -> None:
    rules = replace(RULES, requires_times=True)
    for claim in ("nbf", "iat"):
        assert verify(ISSUER.token_saying({claim: None}))
        refuse(ISSUER.token_saying({claim: None}), f"since when.*{claim}", rules)


def test_an_oversized_token_is_refused_before_it_is_looked_at() -> None:
    token = ISSUER.token(more="x" * 16384)

    refuse(token, "more than 16384 bytes")
    refuse("x" * 16385, "more than 16384 bytes")
    refuse(ISSUER.token(more="x" * 6000), "more than 8192 bytes", replace(RULES, bytes_max=8192))
    with pytest.raises(TokenInvalid, match="more than 8192 bytes"):
        parse("." * 8193, bytes_max=8192)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jwk", EC.jwk()),
        ("jku", "https://evil.test/keys"),
        ("x5u", "https://evil.test/chain"),
        ("crit", ["exp"]),
        ("crit", []),
        ("zip", "DEF"),
        ("jwk", None),
    ],
)
def test_a_token_that_brings_a_key_or_an_extension_along_is_refused(name: str, value: object) -> None:
    header = {"alg": "RS256", "typ": "JWT", "kid": RSA.kid, name: value}

    refuse(assemble(header, ISSUER.claims(), RSA.private, "RS256"), "it (brings|asks|is compressed)")


def test_certificates_are_refused_where_none_are_expected_and_must_be_a_list_of_texts() -> None:
    refuse(ISSUER.token(header={"x5c": ["AAAA"]}), "brings certificates")
    for value in ([], "AAAA", [1], ["A"] * 6, {"0": "A"}):
        refuse(ISSUER.token(header={"x5c": value}), "x5c")


def test_a_token_of_another_kind_is_refused() -> None:
    for kind in ("JWT", "jwt", "at+jwt", "application/at+jwt", None):
        assert verify(ISSUER.token(header={"typ": kind}))
    for kind in ("JOSE", "secevent+jwt", "", "JWT "):
        refuse(ISSUER.token(header={"typ": kind}), "another kind")
    refuse(ISSUER.token(header={"typ": 1}), "typ")
    refuse(ISSUER.token(header={"typ": "at+jwt"}), "another kind", replace(RULES, types=JWT))
    refuse(ISSUER.token(header={"typ": None}), "another kind", replace(RULES, types=JWT))


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token + ".",
        lambda token: "." + token,
        lambda token: token.rpartition(".")[0],
        lambda token: token.replace(".", "..", 1),
        lambda token: token + "=",
        lambda token: token.replace(".", "=.", 1),
        lambda token: token.replace(".", "\n.", 1),
        lambda token: token.replace(".", " .", 1),
        lambda token: " " + token,
        lambda token: token + "\n",
        lambda token: token[:20] + "+" + token[20:],
        lambda token: token[:20] + "\u00e9" + token[20:],
        lambda token: token[:20] + "\udc80" + token[20:],
        lambda _token: "",
        lambda _token: "..",
    ],
)
def test_a_token_is_three_parts_in_base64url_and_nothing_else(change: Callable[[str], str]) -> None:
    with pytest.raises(TokenInvalid, match="base64url"):
        parse(change(ISSUER.token()))


def test_bits_left_over_at_the_end_of_a_part_are_refused() -> None:
    header, claims, signature = ISSUER.token(EC).split(".")
    assert len(signature) % 4 == 2  # of the last character four bits say nothing
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = signature[:-1] + alphabet[alphabet.index(signature[-1]) + 1]

    assert verify(f"{header}.{claims}.{signature}")
    refuse(f"{header}.{claims}.{other}", "base64url")


@pytest.mark.parametrize(
    "body", [b"[]", b"1", b"null", b"{", b"{}x", b"\xff", b'{"a": NaN}', b"[" * 5000, b"\xef\xbb\xbf{}"]
)
def test_header_and_claims_are_json_objects(body: bytes) -> None:
    good = {"alg": "RS256", "kid": RSA.kid}

    refuse(assemble(body, ISSUER.claims(), RSA.private, "RS256"), "header: ")
    refuse(assemble(good, body, RSA.private, "RS256"), "claims: ")


def test_access_is_read_as_distribution_writes_it() -> None:
    access = [
        {"type": "repository", "class": "", "name": "team/app", "actions": ["pull", "push"]},
        {"type": "registry", "name": "catalog", "actions": None},
    ]

    assert read_access({"access": access}) == (
        Access("repository", "team/app", ("pull", "push")),
        Access("registry", "catalog", ()),
    )
    assert read_access({}) == read_access({"access": None}) == ()


@pytest.mark.parametrize(
    "access",
    [
        {},
        "x",
        [1],
        [[]],
        [{"type": "repository", "name": "a"}] * 257,
        [{"type": 1, "name": "a", "actions": []}],
        [{"type": "repository", "actions": ["pull"]}],
        [{"type": "repository", "name": "a", "actions": "pull"}],
        [{"type": "repository", "name": "a", "actions": [1]}],
    ],
)
def test_malformed_access_is_refused(access: object) -> None:
    with pytest.raises(TokenInvalid, match="access"):
        read_access({"access": access})


def test_a_token_is_told_from_a_password() -> None:
    assert is_token(ISSUER.token())
    assert not any(is_token(text) for text in ("", "secret", "eyJ", "eyJhbGciOiJ9", "a.b.c", "eyJ.a.b.c"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
names = st.sampled_from(
    ["alg", "kid", "typ", "x5c", "jwk", "crit", "iss", "aud", "sub", "exp", "nbf", "iat", "access"]
) | st.text(max_size=5)
objects = st.dictionaries(names, json_values | st.sampled_from(["RS256", "ES256", RSA.kid, "JWT", AUDIENCE, NOW]))


@given(st.text() | st.text(alphabet="eyJ.-_=AZaz09", max_size=200))
def test_no_text_makes_the_decoder_fail_in_another_way(text: str) -> None:
    with pytest.raises(TokenInvalid):
        verify(text)


@given(objects, objects, st.booleans())
def test_no_json_makes_the_decoder_fail_in_another_way(
    header: dict[str, object], claims: dict[str, object], complete: bool
) -> None:
    if complete:
        header = {"alg": "RS256", "kid": RSA.kid, **header}
        claims = {**ISSUER.claims(), **claims}
    token = assemble(header, claims, RSA.private, "RS256")
    try:
        found = verify(token, replace(RULES, takes_other_audiences=True))
        read_access(found)
    except TokenInvalid:
        return
    assert found["iss"] == "https://issuer.test"
    assert header["alg"] == "RS256"


@given(st.data())
def test_no_change_of_one_character_leaves_a_token_valid(data: st.DataObject) -> None:
    token = ISSUER.token(EC)
    place = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.sampled_from("ABCXYZabcxyz0189-_.=+/ ").filter(lambda c: c != token[place]))

    with pytest.raises(TokenInvalid):
        verify(token[:place] + character + token[place + 1 :])


def test_a_key_set_holds_what_tokens_can_be_signed_with_and_passes_over_the_rest() -> None:
    mixed = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"},
        {**RSA.jwk(), "kid": "encryption", "use": "enc"},
        {**RSA.jwk(), "kid": "signs", "key_ops": ["sign"]},
        {**RSA.jwk(), "kid": "pss", "alg": "PS256"},
        {**RSA.jwk(), "kid": "confused", "alg": "HS256"},
        {**RSA.jwk(), "kid": "confused", "alg": "ES256"},
        {**RSA.jwk(), "kid": "list", "alg": ["RS256"]},
        {**EC.jwk(), "kid": "confused", "alg": "RS256"},
        {**EC.jwk(), "kid": "off the curve", "x": EC.jwk()["y"]},
        {**EC.jwk(), "kid": "k1", "crv": "secp256k1"},
        {**RSA.jwk(), "kid": 7},
        {"kty": "RSA", "kid": "none"},
        {"kty": ["RSA"]},
        "text",
        None,
        EC.jwk(),
    ]

    found = parse_key_set(json.dumps({"keys": mixed}).encode())

    assert [(key.kid, key.algorithm) for key in found.keys] == [(EC.kid, "ES256")]


def test_an_rsa_key_that_does_not_say_for_what_is_for_rs256_only() -> None:
    jwk = {name: value for name, value in RSA.jwk().items() if name != "alg"}
    found = parse_key(jwk)

    assert found is not None
    assert found.algorithm == "RS256"


def test_a_short_rsa_key_is_passed_over() -> None:
    short = Key(rsa_key("short", 1024), "RS256", "short")

    assert parse_key(short.jwk()) is None


def test_a_private_half_in_a_key_set_is_not_looked_at() -> None:
    found = parse_key({**EC.jwk(), "d": "not even base64"})

    assert found is not None
    assert isinstance(found.key, ec.EllipticCurvePublicKey)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b'{"keys": [], "keys": []}',
        json.dumps({"keys": [EC.jwk()] * 101}).encode(),
    ],
)
def test_what_holds_no_keys_is_no_key_set(body: bytes) -> None:
    with pytest.raises(KeySetInvalid):
        parse_key_set(body)


jwk_members = st.dictionaries(
    st.sampled_from(["kty", "crv", "alg", "use", "kid", "key_ops", "n", "e", "x", "y", "d"]),
    st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "RS256", "ES256", "sig", "AQAB", "AAAA", "A", "*", ""])
    | json_values,
)


@given(jwk_members, st.sampled_from([{}, RSA.jwk(), EC.jwk()]))
def test_no_jwk_makes_the_reader_fail(members: dict[str, object], base: dict[str, object]) -> None:
    found = parse_key({**base, **members})

    assert found is None or found.verifies(b"message", b"signature") is False


def test_a_key_without_a_kid_is_named_by_its_thumbprint() -> None:
    anonymous = KeySet([PublicKey(None, "RS256", RSA.public), PublicKey(None, "ES256", EC.public)])

    found = anonymous.find(thumbprint(EC.public), "ES256")

    assert found is not None
    assert found.key == EC.public
    assert anonymous.find(None, "ES256") is None
    assert anonymous.find("anything", "ES256") is None
    assert KeySet([PublicKey(None, "ES256", EC.public)]).find("anything", "ES256") is not None
    assert KeySet([PublicKey("its own", "ES256", EC.public)]).find("anything", "ES256") is None


def test_a_thumbprint_is_that_of_the_rfc() -> None:
    # RFC 7638 section 3.1.
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3ok"
        "njhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6"
        "qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awa"
        "pJzKnqDKgw"
    )
    found = parse_key({"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})

    assert found is not None
    assert thumbprint(found.key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert to_jwk(found.key) == {"kty": "RSA", "n": modulus, "e": "AQAB"}


def test_a_fingerprint_of_libtrust_is_twelve_groups_of_four() -> None:
    groups = libtrust_fingerprint(rs256().public).split(":")

    assert len(groups) == 12
    assert all(len(group) == 4 and set(group) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for group in groups)
    assert libtrust_fingerprint(es256().public) != libtrust_fingerprint(es256().public)
