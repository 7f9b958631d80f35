"""The registry's own tokens: signed by keys that all processes share and that take turns, verified on every request."""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType

import jwt
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from registry.auth.jwks import PublicKey, thumbprint, to_jwk
from registry.auth.jwts import JWT, OWN_BYTES_MAX, Access, Rules, TokenInvalid, parse, read_access
from registry.auth.token_cache import TokenCache
from storage.errors import AlreadyExists, StorageError
from storage.signing_keys import SigningKeyRecord, SigningKeyStore, StoredKey

ALGORITHM = "ES256"
UNKNOWN_KEY_SECONDS = 1.0
"""How often tokens with unknown keys, which anybody can send, may make a process look into storage."""
ATTEMPTS_MAX = 10
LIFETIME_SECONDS_MAX = 86400
"""A token that says it is valid for longer was not made here."""

_REGISTERED = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """When keys come and go, in seconds.

    A key signs once it is `propagation_seconds` old, when every process has read it: they read every `refresh_seconds`.
    After `rotate_seconds` the next one is made. The old one is deleted when it is `overlap_seconds` older than that and
    the next one is `overlap_seconds` old, so that no token outlives its key.

    Raises ValueError if these do not fit together.
    """

    rotate_seconds: int = 30 * 86400
    overlap_seconds: int = 2 * LIFETIME_SECONDS_MAX
    propagation_seconds: int = 300
    refresh_seconds: int = 60

    def __post_init__(self) -> None:
        if not 0 < self.refresh_seconds < self.propagation_seconds < self.overlap_seconds < self.rotate_seconds:
            raise ValueError(
                "keys are read more often than they begin to sign, kept longer than they take to begin, and replaced "
                "less often than that: expected refresh < propagation < overlap < rotate"
            )


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair, and when it was made (seconds since the epoch)."""

    kid: str
    created: int
    private: ec.EllipticCurvePrivateKey = field(repr=False, compare=False)
    public: PublicKey


class KeyRing:
    """The signing keys as this process has last read them.

    Storage is the authority. Processes differ for `refresh_seconds` at most in what they hold, and a token of a key
    that is not known yet makes one read at once.
    """

    def __init__(self, store: SigningKeyStore, *, clock: Callable[[], float], rotation: Rotation | None = None) -> None:
        self._store = store
        self._clock = clock
        self._rotation = rotation if rotation is not None else Rotation()
        self._lock = asyncio.Lock()
        self._keys: tuple[SigningKey, ...] = ()
        self._by_kid: dict[str, SigningKey] = {}
        self._read_at: float | None = None
        self.on_removal: list[Callable[[], None]] = []
        """Called when a key has gone, so that nobody goes on believing what it signed."""

    async def start(self) -> None:
        """Read the keys, and make the first one. Raises StorageError if there is none and none can be made."""
        async with self._lock:
            await self._read()

    def public_jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWKS (RFC 7517 section 5), for whoever else wants to verify our tokens."""
        return {
            "keys": [{**to_jwk(key.public.key), "kid": key.kid, "alg": ALGORITHM, "use": "sig"} for key in self._keys]
        }

    @property
    def is_due(self) -> bool:
        """Whether it is time to read storage again."""
        return self._is_older(self._rotation.refresh_seconds)

    async def refresh(self) -> None:
        """Read storage if it is time. If that fails the keys stay as they are."""
        # Whoever comes while another reads goes on with the keys that there are.
        if self.is_due and not self._lock.locked():
            async with self._lock:
                await self._read_or_log()

    async def signing_key(self) -> SigningKey:
        """The key to sign with: the newest that everybody knows. Raises StorageError if there is none."""
        await self.refresh()
        if not self._keys:
            await self.start()
        settled = self._clock() - self._rotation.propagation_seconds
        # If none is settled yet, everything began just now: then the one that all others will find first.
        return next((key for key in self._keys if key.created <= settled), self._keys[-1])

    async def find(self, kid: str | None) -> SigningKey:
        """The key with a kid. Raises TokenInvalid."""
        await self.refresh()
        found = self._by_kid.get(kid or "")
        if found is None:
            async with self._lock:
                # Those who have waited for the lock find what was read meanwhile.
                if self._is_older(UNKNOWN_KEY_SECONDS):
                    await self._read_or_log()
            found = self._by_kid.get(kid or "")
        if found is None:
            raise TokenInvalid("it is signed with a key that is not known here")
        return found

    def _is_older(self, seconds: float) -> bool:
        # A clock that was set back must not stop the reading until it has caught up.
        return self._read_at is None or not 0 <= self._clock() - self._read_at < seconds

    async def _read_or_log(self) -> None:
        try:
            await self._read()
        except StorageError as error:
            # Also if it failed: a store that is down is not asked by every request.
            self._read_at = self._clock()
            log.warning("the signing keys can't be read: going on with those that were read before", reason=str(error))

    async def _read(self) -> None:
        found = await self._list()
        if not found or self._clock() - found[0][1].created >= self._rotation.rotate_seconds:
            found = await self._rotate(found)
        found = await self._retire(found)
        keys = tuple(key for _stored, key in found)
        removed = self._by_kid.keys() - {key.kid for key in keys}
        self._keys = keys
        self._by_kid = {key.kid: key for key in keys}
        self._read_at = self._clock()
        if removed:
            for forget in self.on_removal:
                forget()

    async def _list(self) -> list[tuple[StoredKey, SigningKey]]:
        found = []
        for stored in await self._store.list():
            key = self._by_kid.get(stored.record.kid)
            try:
                if key is None or key.created != stored.record.created:
                    key = _load(stored.record)
            except ValueError as error:
                self._store.report(stored.key, str(error))
                continue
            found.append((stored, key))
        return found

    async def _rotate(self, found: list[tuple[StoredKey, SigningKey]]) -> list[tuple[StoredKey, SigningKey]]:
        """Make the next key, unless another process has just done so."""
        newest = found[0][1].kid if found else None
        record = _make(int(self._clock()))
        try:
            for attempt in range(ATTEMPTS_MAX):
                try:
                    await self._store.add(record, after=newest, attempt=attempt)
                except AlreadyExists:
                    again = await self._list()
                    if again and again[0][1].kid != newest:
                        return again
                    continue  # what lies in the slot is damaged: it stays as it is, and the next slot is tried
                log.info("made a new signing key", kid=record.kid)
                return await self._list()
            raise StorageError(f"{ATTEMPTS_MAX} damaged signing keys lie in the way: remove them")
        except StorageError as error:
            if not found:
                raise
            log.warning("no new signing key can be made: the old one stays in use", reason=str(error))
            return found

    async def _retire(self, found: list[tuple[StoredKey, SigningKey]]) -> list[tuple[StoredKey, SigningKey]]:
        now, overlap = self._clock(), self._rotation.overlap_seconds
        kept = found[:1]
        for (_, newer), (stored, key) in pairwise(found):
            if now - key.created > self._rotation.rotate_seconds + overlap and now - newer.created > overlap:
                try:
                    await self._store.remove(stored)
                except StorageError as error:
                    log.warning("an old signing key can't be deleted", key=stored.key, reason=str(error))
                else:
                    log.info("deleted an old signing key", kid=key.kid)
                continue
            kept.append((stored, key))
        return kept


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a token says that was verified. `expires` in seconds since the epoch; `claims` are all of them.

    `issuer` is the configured name of an outside issuer, and empty for our own tokens.
    """

    subject: str
    expires: int
    access: tuple[Access, ...]
    claims: Mapping[str, object]
    issuer: str = ""


class Signer:
    """Issues tokens of one registry: `issuer` is its name, `service` that of the audience."""

    def __init__(
        self,
        ring: KeyRing,
        *,
        issuer: str,
        service: str,
        clock: Callable[[], float],
        make_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._ring = ring
        self._issuer = issuer
        self._service = service
        self._clock = clock
        self._make_id = make_id

    async def issue(
        self,
        subject: str,
        access: Sequence[Access],
        *,
        lifetime_seconds: int,
        claims: Mapping[str, object] = MappingProxyType({}),
    ) -> str:
        """Sign a token (CNCF distribution, "Token Authentication Implementation"); `claims` are private ones.

        Raises ValueError if it would be longer than OWN_BYTES_MAX or valid for longer than LIFETIME_SECONDS_MAX, or if
        a private claim has the name of a registered one; StorageError if there is no key.
        """
        if not 0 < lifetime_seconds <= LIFETIME_SECONDS_MAX:
            raise ValueError(f"a token is valid for 1 to {LIFETIME_SECONDS_MAX} seconds")
        if not _REGISTERED.isdisjoint(claims):
            raise ValueError("a private claim has the name of a registered one")
        key = await self._ring.signing_key()
        now = int(self._clock())
        payload = {
            **claims,
            "iss": self._issuer,
            "sub": subject,
            "aud": self._service,
            "exp": now + lifetime_seconds,
            "nbf": now,
            "iat": now,
            "jti": self._make_id(),
            "access": [{"type": a.type, "name": a.name, "actions": list(a.actions)} for a in access],
        }
        token = jwt.encode(payload, key.private, algorithm=ALGORITHM, headers={"kid": key.kid})
        if len(token) > OWN_BYTES_MAX:
            raise ValueError(f"the token would have more than {OWN_BYTES_MAX} bytes: ask for fewer scopes at once")
        return token


class Verifier:
    """Verifies what Signer issued, and remembers what it has verified until it expires."""

    def __init__(self, ring: KeyRing, *, issuer: str, service: str, clock: Callable[[], float]) -> None:
        self._ring = ring
        self._clock = clock
        self._rules = Rules(
            issuer=issuer,
            audience=service,
            lifetime_seconds_max=LIFETIME_SECONDS_MAX,
            bytes_max=OWN_BYTES_MAX,
            types=JWT,
            requires_kid=True,
            requires_times=True,
        )
        self._cache: TokenCache[VerifiedToken] = TokenCache(clock=clock)
        ring.on_removal.append(self._cache.clear)

    async def verify(self, token: str) -> VerifiedToken:
        """Return what a token says. Raises TokenInvalid."""
        if self._ring.is_due:
            await self._ring.refresh()
        found = self._cache.get(token)
        if found is None:
            found = await self._verify(token)
        return found

    async def _verify(self, token: str) -> VerifiedToken:
        unverified = parse(token, bytes_max=OWN_BYTES_MAX)
        # Before its key is looked for, which may read the store: those of other issuers come here as well.
        if unverified.issuer != self._rules.issuer:
            raise TokenInvalid("it is from another issuer (iss)")
        key = await self._ring.find(unverified.kid)
        claims = unverified.verify(key.public, self._rules, now=self._clock())
        subject, expires = claims.get("sub"), claims["exp"]
        if not isinstance(subject, str):
            raise TokenInvalid("it does not say whom it is for (sub)")
        assert isinstance(expires, int)
        found = VerifiedToken(subject, expires, read_access(claims), MappingProxyType(dict(claims)))
        self._cache.put(token, found, expires=expires + self._rules.leeway_seconds)
        return found


def _make(created: int) -> SigningKeyRecord:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKeyRecord(thumbprint(private.public_key()), created, pem.decode())


def _load(record: SigningKeyRecord) -> SigningKey:
    """Read a stored key. Raises ValueError, which tells nothing of the key."""
    try:
        private = load_pem_private_key(record.private_pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("it is no private key in PEM") from None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ValueError("it is not a private key on the curve P-256")
    public = private.public_key()
    if thumbprint(public) != record.kid:
        raise ValueError("its kid is that of another key")
    return SigningKey(record.kid, record.created, private, PublicKey(record.kid, ALGORITHM, public))
