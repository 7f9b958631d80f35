"""Outside issuers whose tokens are believed: token services of the kind that distribution has, and OIDC providers."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from cryptography import x509

from registry.auth.chains import certified_key
from registry.auth.claims import ClaimRules, flatten, select
from registry.auth.globs import GlobError, Globs
from registry.auth.identities import Identity, Kind
from registry.auth.jwks import KeySet, parse_key_set
from registry.auth.jwts import ID_TOKEN, JWT, Rules, TokenInvalid, UnverifiedToken, parse, read_access
from registry.auth.key_sources import (
    DiscoveredKeys,
    FileKeys,
    IssuerConfigInvalid,
    KeySource,
    KeysUnavailable,
    check_url,
    read_certificates,
    read_certified_keys,
)
from registry.auth.presets import NO_PRESET, PRESETS
from registry.auth.signing import VerifiedToken
from registry.auth.token_cache import TokenCache

LIFETIME_SECONDS_MAX = 86400

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ONLY_STARS = re.compile(r"[*?/]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenServiceConfig:
    """A token service of the kind that CNCF distribution has (`auth.token` in its configuration).

    Its tokens have `issuer` for `iss` and `service` for `aud`. They are signed with a key of one of the `certificates`
    (a file in PEM), with one that a certificate issued by these brings along, or with one of the keys in `jwks_file`.
    """

    name: str
    issuer: str
    service: str
    certificates: Path | None = None
    jwks_file: Path | None = None
    lifetime_seconds_max: int = LIFETIME_SECONDS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcConfig:
    """An OpenID provider whose ID tokens are believed.

    `claims` are a glob for each name of a claim, or several of which one has to match. None leaves it to the preset.
    The keys are those of `jwks_file`, and if there is none, fetched from the issuer.
    """

    name: str
    audience: str
    preset: str | None = None
    issuer: str | None = None
    jwks_file: Path | None = None
    claims: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    identity_claim: str | None = None
    passed_claims: Sequence[str] | None = None
    lifetime_seconds_max: int = LIFETIME_SECONDS_MAX


class TokenServices:
    """Verifies tokens of outside token services, which say themselves what their bearer may do.

    Raises IssuerConfigInvalid.
    """

    def __init__(self, configs: Sequence[TokenServiceConfig], *, clock: Callable[[], float] = time.time) -> None:
        _check_names("auth.issuers", [config.name for config in configs])
        self._services = tuple(_TokenService(config, clock) for config in configs)
        self._clock = clock
        self._cache: TokenCache[VerifiedToken] = TokenCache(clock=clock)
        self._generations = self._look()

    def knows(self, issuer: str) -> bool:
        """Tell whether tokens with this `iss` are verified here."""
        return any(service.issuer == issuer for service in self._services)

    async def verify(self, token: str) -> VerifiedToken:
        """Return what a token says: subject, access, and the name of its issuer. Raises TokenInvalid."""
        generations = self._look()
        if generations != self._generations:
            self._cache.clear()
            self._generations = generations
        found = self._cache.get(token)
        if found is not None:
            return found
        unverified = parse(token)
        reasons: list[TokenInvalid] = []
        for service in self._services:
            if service.issuer != unverified.issuer:
                continue
            try:
                found = await service.verify(unverified, now=self._clock())
            except TokenInvalid as error:
                reasons.append(error)
                continue
            # The keys may have changed while this one was looked up.
            if self._look() == self._generations:
                self._cache.put(token, found, expires=found.expires)
            return found
        raise _first(reasons)

    def _look(self) -> list[int]:
        return [service.look() for service in self._services]


class OidcIssuers:
    """Verifies ID tokens, and tells who their bearers are. Raises IssuerConfigInvalid."""

    def __init__(self, configs: Sequence[OidcConfig], *, clock: Callable[[], float] = time.time) -> None:
        _check_names("auth.oidc", [config.name for config in configs])
        self._issuers = tuple(_OidcIssuer(config, clock) for config in configs)
        self._clock = clock

    def knows(self, issuer: str) -> bool:
        """Tell whether tokens with this `iss` are verified here."""
        return any(known.rules.issuer == issuer for known in self._issuers)

    async def identify(self, token: str) -> Identity:
        """Tell who brings an ID token. Raises TokenInvalid; KeysUnavailable if that can't be found out now."""
        unverified = parse(token)
        reasons: list[TokenInvalid] = []
        for issuer in self._issuers:
            if issuer.rules.issuer != unverified.issuer:
                continue
            try:
                return await issuer.identify(unverified, now=self._clock())
            except TokenInvalid as error:
                reasons.append(error)
        raise _first(reasons)


class _TokenService:
    def __init__(self, config: TokenServiceConfig, clock: Callable[[], float]) -> None:
        self._config = config
        self._roots: tuple[x509.Certificate, ...] = ()
        self._rules = Rules(
            issuer=config.issuer,
            audience=config.service,
            lifetime_seconds_max=config.lifetime_seconds_max,
            # Not all of them say that it is a JWT; distribution does not ask.
            types=JWT | {None},
            takes_certificates=config.certificates is not None,
            takes_other_audiences=True,
        )
        if not config.issuer or not config.service:
            raise _invalid("auth.issuers", config.name, "issuer and service must not be empty")
        with_certificates, with_keys = config.certificates is not None, config.jwks_file is not None
        if with_certificates == with_keys:
            raise _invalid("auth.issuers", config.name, "give either certificates or jwks_file")
        self._keys = self._source(clock)

    @property
    def issuer(self) -> str:
        return self._config.issuer

    def look(self) -> int:
        self._keys.look()
        return self._keys.generation

    async def verify(self, token: UnverifiedToken, *, now: float) -> VerifiedToken:
        if token.certificates and self._roots:
            # The chain is looked at first, as distribution does: a kid says then how the issuer calls its key.
            self._keys.look()
            key = certified_key(token.certificates, self._roots, now=datetime.fromtimestamp(now, UTC))
        else:
            key = await self._keys.find(token.kid, token.algorithm)
        claims = token.verify(key, self._rules, now=now)
        subject, expires = claims.get("sub", ""), claims["exp"]
        if not isinstance(subject, str) or not subject.isprintable():
            raise TokenInvalid("its subject is not a printable text (sub)")
        assert isinstance(expires, int)
        return VerifiedToken(
            subject, expires, read_access(claims), MappingProxyType(dict(claims)), issuer=self._config.name
        )

    def _source(self, clock: Callable[[], float]) -> FileKeys:
        config = self._config
        try:
            if config.certificates is not None:
                return FileKeys(config.certificates, self._read_certificates, clock=clock)
            assert config.jwks_file is not None
            return FileKeys(config.jwks_file, parse_key_set, clock=clock)
        except IssuerConfigInvalid as error:
            raise _invalid("auth.issuers", config.name, str(error)) from None

    def _read_certificates(self, body: bytes) -> KeySet:
        found = read_certified_keys(body)
        self._roots = read_certificates(body)
        return found


class _OidcIssuer:
    def __init__(self, config: OidcConfig, clock: Callable[[], float]) -> None:
        self._name = config.name
        if config.preset is not None and config.preset not in PRESETS:
            raise self._invalid(f"there is no preset {config.preset!r}: expected one of {', '.join(PRESETS)}")
        preset = PRESETS[config.preset] if config.preset is not None else NO_PRESET
        issuer = config.issuer or preset.issuer
        if issuer is None:
            raise self._invalid("say what its tokens have for iss: issuer")
        if not config.audience:
            raise self._invalid("audience must not be empty: it keeps tokens for others from being used here")
        self.rules = Rules(
            issuer=issuer,
            audience=config.audience,
            lifetime_seconds_max=config.lifetime_seconds_max,
            types=ID_TOKEN,
        )
        self._identity_claim = config.identity_claim or preset.identity_claim
        self._passed = preset.claims
        if config.passed_claims is not None:
            aliases = preset.claims or {}
            self._passed = {name: aliases.get(name, name) for name in config.passed_claims}
        self._aliases = preset.claims or {}
        asked = {name: (globs,) if isinstance(globs, str) else tuple(globs) for name, globs in config.claims.items()}
        self._claims = self._claim_rules(asked)
        is_public = issuer.rstrip("/") in preset.public_issuers
        if is_public and not any(_narrows(asked.get(owner, ())) for owner in preset.owners):
            raise self._invalid(
                f"everybody can get a token from {issuer}: say whose are taken, such as "
                f'claims = {{ {preset.owners[-2]} = "..." }}'
            )
        self._keys = self._source(issuer, config.jwks_file, clock)

    async def identify(self, token: UnverifiedToken, *, now: float) -> Identity:
        key = await self._keys.find(token.kid, token.algorithm)
        claims = flatten(token.verify(key, self.rules, now=now))
        # Both names of a claim can be asked for; the shorter one of a preset never means a claim that is called so.
        own = {name: text for name, text in claims.items() if self._aliases.get(name, name) == name}
        named = own | select(claims, self._aliases)
        self._claims.check(named)
        who = named.get(self._identity_claim)
        if who is None:
            raise TokenInvalid(f"it does not say who its bearer is ({self._identity_claim})")
        passed = select(claims, self._passed)
        passed["issuer"] = self._name
        # One issuer must not be able to name somebody whom another one vouches for.
        return Identity(Kind.WORKLOAD, f"{self._name}:{who}", claims=MappingProxyType(passed))

    def _claim_rules(self, claims: Mapping[str, Sequence[str]]) -> ClaimRules:
        found = {}
        for name, texts in claims.items():
            if not texts:
                raise self._invalid(f"no text is given for the claim {name}: no token could be taken")
            try:
                found[name] = Globs.of_texts(texts)
            except GlobError as error:
                raise self._invalid(f"the claim {name}: {error}") from None
        return ClaimRules(MappingProxyType(found))

    def _source(self, issuer: str, path: Path | None, clock: Callable[[], float]) -> KeySource:
        try:
            if path is not None:
                return FileKeys(path, parse_key_set, clock=clock)
            check_url(issuer)
            return DiscoveredKeys(issuer, clock=clock)
        except IssuerConfigInvalid as error:
            raise self._invalid(str(error)) from None

    def _invalid(self, reason: str) -> IssuerConfigInvalid:
        return _invalid("auth.oidc", self._name, reason)


def _narrows(globs: Sequence[str]) -> bool:
    """Tell whether there are globs, and none of them matches just anything."""
    return bool(globs) and not any(_ONLY_STARS.fullmatch(glob) for glob in globs)


def _first(reasons: Sequence[TokenInvalid]) -> TokenInvalid:
    """What to tell: that it can't be found out now, if that is so, else why the first did not take it."""
    for reason in reasons:
        if isinstance(reason, KeysUnavailable):
            return reason
    return reasons[0] if reasons else TokenInvalid("it is from an issuer that is not known here (iss)")


def _check_names(table: str, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise _invalid(table, name, "expected a name of lower-case letters, digits and . _ -, such as ci")
        if name in names[:place]:
            raise _invalid(table, name, "there are two with this name")


def _invalid(table: str, name: str, reason: str) -> IssuerConfigInvalid:
    return IssuerConfigInvalid(f"[[{table}]] {name!r}: {reason}")
