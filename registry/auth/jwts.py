"""JSON Web Tokens read strictly (RFC 7519, RFC 8725): the one decoder, for tokens of our own and of others.

What a token says of itself decides nothing. Its algorithm has to be the one that its key is pinned to, so that there
is no way to have a public key taken for an HMAC secret; keys, and addresses of keys, that it brings along are refused.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from registry.auth.jwks import ALGORITHMS, KID_LENGTH_MAX, PublicKey
from registry.strict_json import parse_object

OWN_BYTES_MAX = 8192
"""What fits into a header line everywhere."""
OUTSIDE_BYTES_MAX = 16384
LEEWAY_SECONDS = 60
"""By how much the clocks of an issuer and of ours may differ."""
ACCESS_MAX = 256
CERTIFICATES_MAX = 5

JWT = frozenset({"jwt"})
ID_TOKEN = frozenset({"jwt", "at+jwt", None})

_REFUSED_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "crit": "it asks for an extension that is not known here",
        "jku": "it brings the address of a key along",
        "x5u": "it brings the address of a certificate along",
        "jwk": "it brings a key along",
        "zip": "it is compressed",
    }
)


class TokenInvalid(ValueError):
    """A token is not believed. The message is a short reason, and holds nothing of the token."""


@dataclass(frozen=True, slots=True)
class Access:
    """An entry of the `access` claim of distribution's tokens: these actions on that resource."""

    type: str
    name: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a token has to say to be believed, besides being signed.

    `types` are the values of the header `typ` in lower case, None for a token without it. A token may be valid for
    `lifetime_seconds_max` from now on, and no longer.
    """

    issuer: str
    audience: str
    lifetime_seconds_max: int
    bytes_max: int = OUTSIDE_BYTES_MAX
    types: frozenset[str | None] = ID_TOKEN
    leeway_seconds: int = LEEWAY_SECONDS
    requires_kid: bool = False
    requires_times: bool = False
    """Whether `iat` and `nbf` have to be there, and not only to be right."""
    takes_certificates: bool = False
    takes_other_audiences: bool = False
    """Whether a token that is also for others is taken; whoever they are, they could use it here."""


@dataclass(frozen=True, slots=True)
class UnverifiedToken:
    """A token taken apart. Anybody can have written it: `issuer` may serve to choose a key, and nothing else."""

    algorithm: str
    kid: str | None
    type: str | None
    certificates: tuple[str, ...]
    issuer: str
    size: int
    _claims: Mapping[str, object] = field(repr=False)
    _message: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    def verify(self, key: PublicKey, rules: Rules, *, now: float) -> Mapping[str, object]:
        """Return the claims. Raises TokenInvalid unless the key's owner has signed them and every rule holds."""
        _check_header(self, rules)
        if self.algorithm != key.algorithm:
            raise TokenInvalid("its algorithm is not the one that its key is for")
        if not key.verifies(self._message, self._signature):
            raise TokenInvalid("its signature is wrong")
        _check_parties(self._claims, rules)
        _check_times(self._claims, rules, now)
        return self._claims


def parse(token: str, *, bytes_max: int = OUTSIDE_BYTES_MAX) -> UnverifiedToken:
    """Take a token in compact form (RFC 7515 section 7.1) apart. Raises TokenInvalid."""
    if len(token) > bytes_max:
        raise TokenInvalid(f"it has more than {bytes_max} bytes")
    if not token.isascii():
        raise TokenInvalid("it is not made of three parts in base64url")
    parts = token.split(".")
    if len(parts) != 3:
        raise TokenInvalid("it is not made of three parts in base64url")
    header = _read_object("header", parts[0])
    algorithm, kid, kind, certificates = _read_header(header)
    claims = _read_object("claims", parts[1])
    issuer = claims.get("iss")
    if not isinstance(issuer, str):
        raise TokenInvalid("it does not say who issued it (iss)")
    message = f"{parts[0]}.{parts[1]}".encode()
    signature = _decode("signature", parts[2])
    return UnverifiedToken(algorithm, kid, kind, certificates, issuer, len(token), claims, message, signature)


def is_token(text: str) -> bool:
    """Tell whether text looks like a token at all, such as to tell one that is given as a password from a password."""
    return text.startswith("eyJ") and text.count(".") == 2


def read_access(claims: Mapping[str, object]) -> tuple[Access, ...]:
    """Read the `access` claim; absent or null, it gives nothing. Raises TokenInvalid if it is malformed."""
    entries = claims.get("access")
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > ACCESS_MAX:
        raise TokenInvalid(f"access is not a list of at most {ACCESS_MAX} entries")
    return tuple(_read_entry(entry) for entry in entries)


def _read_entry(entry: object) -> Access:
    if isinstance(entry, dict):
        kind, name, actions = entry.get("type"), entry.get("name"), entry.get("actions")
        # Go writes an empty list as null.
        actions = [] if actions is None else actions
        if isinstance(kind, str) and isinstance(name, str) and isinstance(actions, list):
            texts = tuple(action for action in actions if isinstance(action, str))
            if len(texts) == len(actions):
                return Access(kind, name, texts)
    raise TokenInvalid("an entry of access is not made of type, name and actions")


def _decode(what: str, text: str) -> bytes:
    """Decode base64url without padding (RFC 7515 section 2), of which each text has one form only."""
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise TokenInvalid(f"{what}: not base64url") from None
    # Python passes over what is no base64, and bits that are left over: two texts for one token.
    if not decoded or base64.urlsafe_b64encode(decoded).rstrip(b"=") != text.encode():
        raise TokenInvalid(f"{what}: not base64url")
    return decoded


def _read_object(what: str, text: str) -> Mapping[str, object]:
    body = _decode(what, text)
    try:
        return parse_object(body)
    except ValueError as error:
        raise TokenInvalid(f"{what}: {error}") from None


def _read_header(header: Mapping[str, object]) -> tuple[str, str | None, str | None, tuple[str, ...]]:
    for name, reason in _REFUSED_HEADERS.items():
        if name in header:
            raise TokenInvalid(reason)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise TokenInvalid("it is not signed with an algorithm that is taken here")
    kid = header.get("kid")
    if "kid" in header and (not isinstance(kid, str) or not 0 < len(kid) <= KID_LENGTH_MAX):
        raise TokenInvalid("its kid is not a text that can name a key")
    kind = header.get("typ")
    if "typ" in header and not isinstance(kind, str):
        raise TokenInvalid("its typ is not a text")
    certificates = header.get("x5c", [])
    if not isinstance(certificates, list) or len(certificates) > CERTIFICATES_MAX:
        raise TokenInvalid(f"its x5c is not a list of at most {CERTIFICATES_MAX} certificates")
    texts = tuple(text for text in certificates if isinstance(text, str))
    if len(texts) != len(certificates) or ("x5c" in header and not texts):
        raise TokenInvalid("its x5c is not a list of certificates")
    # Both were checked; the type checker can't know.
    return algorithm, kid if isinstance(kid, str) else None, kind if isinstance(kind, str) else None, texts


def _check_header(token: UnverifiedToken, rules: Rules) -> None:
    if token.size > rules.bytes_max:
        raise TokenInvalid(f"it has more than {rules.bytes_max} bytes")
    if token.certificates and not rules.takes_certificates:
        raise TokenInvalid("it brings certificates along")
    if token.kid is None and rules.requires_kid:
        raise TokenInvalid("it does not say which key it is signed with (kid)")
    # Media types do not tell case apart (RFC 7515 section 4.1.9).
    kind = token.type.lower().removeprefix("application/") if token.type is not None else None
    if kind not in rules.types:
        raise TokenInvalid("it is a token of another kind (typ)")


def _check_parties(claims: Mapping[str, object], rules: Rules) -> None:
    if claims.get("iss") != rules.issuer:
        raise TokenInvalid("it is from another issuer (iss)")
    audience = claims.get("aud")
    audiences: Sequence[object] = audience if isinstance(audience, list) else [audience]
    if rules.audience not in audiences:
        raise TokenInvalid("it is for another audience (aud)")
    if len(audiences) > 1 and not rules.takes_other_audiences:
        raise TokenInvalid("it is for others as well (aud)")


def _check_times(claims: Mapping[str, object], rules: Rules, now: float) -> None:
    expires = _read_time(claims, "exp")
    if expires is None:
        raise TokenInvalid("it does not say when it expires (exp)")
    if now >= expires + rules.leeway_seconds:
        raise TokenInvalid("it has expired (exp)")
    if expires > now + rules.lifetime_seconds_max + rules.leeway_seconds:
        raise TokenInvalid("it would be valid for too long (exp)")
    for name in ("nbf", "iat"):
        since = _read_time(claims, name)
        if since is None and rules.requires_times:
            raise TokenInvalid(f"it does not say since when it is valid ({name})")
        if since is not None and since > now + rules.leeway_seconds:
            raise TokenInvalid(f"it is not valid yet ({name})")


def _read_time(claims: Mapping[str, object], name: str) -> int | None:
    if name not in claims:
        return None
    value = claims[name]
    if type(value) is not int:  # true is an int, and 1e300 a float
        raise TokenInvalid(f"{name} is not a whole number of seconds")
    return value
