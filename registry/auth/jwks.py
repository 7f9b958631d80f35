"""Public keys: each for one algorithm only, read from JSON Web Key Sets (RFC 7517) and certificates (RFC 5280)."""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from registry.strict_json import parse_object

RSA_BITS_MIN = 2048
RSA_BITS_MAX = 8192
"""A larger key would cost a verifier as much time as its owner likes."""
KEYS_MAX = 100
KID_LENGTH_MAX = 256

RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512"})
_BY_CURVE: Mapping[str, str] = MappingProxyType({"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"})
_EDDSA = "EdDSA"
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        name: algorithm
        for name, algorithm in get_default_algorithms().items()
        if name in RSA_ALGORITHMS or name in _BY_CURVE.values() or name == _EDDSA
    }
)
"""What a token may be signed with, by its name in RFC 7518 section 3.1 and RFC 8037: asymmetric algorithms alone."""

CryptographyKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey


class KeySetInvalid(ValueError):
    """Text or a file that no keys can be read from: one line, which holds nothing of them."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key and the one algorithm that it verifies: whatever a token says, it can't be used for another."""

    kid: str | None
    algorithm: str
    key: CryptographyKey = field(repr=False)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Tell whether the signature is the owner's, of exactly these bytes."""
        return ALGORITHMS[self.algorithm].verify(message, self.key, signature)


class KeySet:
    """Some public keys. Immutable."""

    def __init__(self, keys: Iterable[PublicKey], *, aliases: Mapping[str, PublicKey] = MappingProxyType({})) -> None:
        self.keys = tuple(keys)
        self._by_kid: dict[tuple[str, str], PublicKey] = {}
        for kid, key in (*((key.kid, key) for key in self.keys), *aliases.items()):
            # Of two with one name the first: which of them is meant nobody can say, and both are the issuer's.
            self._by_kid.setdefault((kid or thumbprint(key.key), key.algorithm), key)

    def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key that a token names, or None.

        A token without a kid means the only key. A key without one has its thumbprint (RFC 7638) for it, and any kid if
        it is the only one.
        """
        if kid is not None and (key := self._by_kid.get((kid, algorithm))) is not None:
            return key
        if len(self.keys) != 1:
            return None
        only = self.keys[0]
        return only if only.algorithm == algorithm and (kid is None or only.kid is None) else None


def parse_key_set(body: bytes) -> KeySet:
    """Read a JWKS (RFC 7517 section 5). Keys of a kind that no token may be signed with are passed over.

    Raises KeySetInvalid, also if no key is left.
    """
    try:
        members = parse_object(body).get("keys")
    except ValueError as error:
        raise KeySetInvalid(str(error)) from None
    if not isinstance(members, list):
        raise KeySetInvalid('expected a JSON object with a list of "keys"')
    if len(members) > KEYS_MAX:
        raise KeySetInvalid(f"there are {len(members)} keys: at most {KEYS_MAX} are taken")
    found = [key for member in members if (key := parse_key(member)) is not None]
    if not found:
        raise KeySetInvalid("there is no key in it that tokens can be verified with (RSA, EC or Ed25519)")
    return KeySet(found)


def parse_key(member: object) -> PublicKey | None:
    """Read one JWK, or return None for one that no token may be signed with. A private half is not looked at."""
    if not isinstance(member, dict) or not _is_for_signatures(member):
        return None
    kid = member.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > KID_LENGTH_MAX):
        return None
    key = _read_key(member)
    if key is None:
        return None
    algorithm = _pin(key, member.get("alg"))
    return None if algorithm is None else PublicKey(kid, algorithm, key)


def public_key(key: object, *, kid: str | None = None) -> PublicKey | None:
    """Pin a key of `cryptography` to its algorithm, or return None for one that no token may be signed with."""
    if not isinstance(key, CryptographyKey):
        return None
    algorithm = _pin(key, None)
    return None if algorithm is None else PublicKey(kid, algorithm, key)


def certified_keys(certificates: Iterable[x509.Certificate]) -> KeySet:
    """The keys of certificates, by each of the names that token services of distribution have for them.

    Those are the fingerprint of libtrust (distribution 2), the RFC 7638 thumbprint (distribution 3), and what
    distribution 3.0 took for the thumbprint of a key on an elliptic curve: that of the curve's generator.
    """
    keys: list[PublicKey] = []
    aliases: dict[str, PublicKey] = {}
    for certificate in certificates:
        key = _key_of(certificate)
        if key is None:
            continue
        keys.append(PublicKey(thumbprint(key.key), key.algorithm, key.key))
        aliases[libtrust_fingerprint(key.key)] = key
    curves = [key for key in keys if isinstance(key.key, ec.EllipticCurvePublicKey)]
    if len(curves) == 1:  # of several nobody could tell which is meant
        aliases[_generator_thumbprint(curves[0].key)] = curves[0]
    return KeySet(keys, aliases=aliases)


def to_jwk(key: CryptographyKey) -> dict[str, str]:
    """The members of a public JWK that make the key (RFC 7518 section 6, RFC 8037 section 2)."""
    found: object
    match key:
        case rsa.RSAPublicKey():
            found = RSAAlgorithm.to_jwk(key, as_dict=True)
        case ec.EllipticCurvePublicKey():
            found = ECAlgorithm.to_jwk(key, as_dict=True)
        case Ed25519PublicKey():
            found = OKPAlgorithm.to_jwk(key, as_dict=True)
    assert isinstance(found, dict)
    return {name: found[name] for name in ("kty", "crv", "e", "n", "x", "y") if name in found}


def thumbprint(key: CryptographyKey) -> str:
    """The name that a key gives itself: RFC 7638, with SHA-256."""
    text = json.dumps(to_jwk(key), sort_keys=True, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def libtrust_fingerprint(key: CryptographyKey) -> str:
    """The name that libtrust gives a key: 240 bits of the SHA-256 of its DER form, in groups of four of base 32."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


def _is_for_signatures(member: Mapping[str, object]) -> bool:
    operations = member.get("key_ops", ["verify"])
    return member.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def _read_key(member: Mapping[str, object]) -> CryptographyKey | None:
    values = {name: member[name] for name in ("kty", "crv", "e", "n", "x", "y") if name in member}
    if not all(isinstance(value, str) and value.isascii() for value in values.values()):
        return None
    try:
        match values.get("kty"):
            case "RSA":
                found: object = RSAAlgorithm.from_jwk(values)
            case "EC":
                found = ECAlgorithm.from_jwk(values)
            case "OKP":
                found = OKPAlgorithm.from_jwk(values)
            case _:
                return None
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm):
        return None  # numbers that are no key
    return found if isinstance(found, CryptographyKey) else None


def _pin(key: CryptographyKey, told: object) -> str | None:
    """The one algorithm that a key is for, or None if that is none that is taken here."""
    if isinstance(key, rsa.RSAPublicKey):
        # Without a word of its owner a key is for what nearly every issuer signs with, and for nothing else.
        algorithm = "RS256" if told is None else told
        is_sound = RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX
        return algorithm if is_sound and isinstance(algorithm, str) and algorithm in RSA_ALGORITHMS else None
    if isinstance(key, ec.EllipticCurvePublicKey):
        only = _BY_CURVE.get(key.curve.name)
        return only if told is None or told == only else None
    return _EDDSA if told in (None, _EDDSA, "Ed25519") else None


def _key_of(certificate: x509.Certificate) -> PublicKey | None:
    try:
        return public_key(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _generator_thumbprint(key: CryptographyKey) -> str:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return thumbprint(ec.derive_private_key(1, key.curve).public_key())
