"""The token service: credentials in, an access token out (CNCF distribution, "Token Authentication Specification")."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.auth.access_tokens import access_of, claims_of
from registry.auth.authenticator import refuse_if_too_many
from registry.auth.basic import Credentials
from registry.auth.credentials import CredentialChecks, Known
from registry.auth.identities import ANONYMOUS, Identity, Kind
from registry.auth.policy import Policy
from registry.auth.scopes import Scopes
from registry.auth.signing import Signer
from registry.auth.throttle import RateLimit
from registry.errors import BadRequest, Unauthorized
from storage.refresh_tokens import RefreshTokenStore


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client asks for, and with which credentials; `service` is empty if it names none."""

    scopes: Scopes
    service: str
    address: str
    credentials: Credentials | None = None
    refresh_token: str | None = None
    certified: Identity | None = None
    offline: bool = False
    client: str = ""


@dataclass(frozen=True, slots=True)
class Issued:
    """An access token and for whom it is. `granted` may be less than was asked for, and nothing at all."""

    identity: Identity
    token: str
    seconds: int
    granted: Scopes
    refresh_token: str | None


class TokenService:
    """Grants what is both asked for and allowed."""

    def __init__(
        self,
        checks: CredentialChecks,
        signer: Signer,
        refresh_tokens: RefreshTokenStore,
        *,
        policy: Callable[[], Policy],
        service: str,
        seconds: int,
        rate: RateLimit | None,
    ) -> None:
        self._checks = checks
        self._signer = signer
        self._refresh_tokens = refresh_tokens
        self._policy = policy
        self._service = service
        self._seconds = seconds
        self._rate = rate

    async def issue(self, asked: TokenRequest) -> Issued:
        """Issue a token. Raises Unauthorized, BadRequest, TooManyRequests, Unavailable, StorageUnavailable."""
        if asked.service not in {"", self._service}:
            raise BadRequest(f"tokens are issued for the service {self._service!r} here, not for {asked.service!r}")
        known = await self._identify(asked)
        refuse_if_too_many(self._rate, known.identity, asked.address)
        granted = self._grant(known.identity, asked.scopes)
        subject = "" if known.identity == ANONYMOUS else str(known.identity)
        try:
            token = await self._signer.issue(
                subject,
                access_of(granted),
                lifetime_seconds=self._seconds,
                claims=claims_of(known),
            )
        except ValueError as error:
            raise BadRequest(str(error)) from error
        return Issued(known.identity, token, self._seconds, granted, await self._refresh_token(asked, known))

    async def _identify(self, asked: TokenRequest) -> Known:
        if asked.refresh_token is not None:
            found = await self._refresh_tokens.check(
                asked.refresh_token, service=self._service, fingerprint_of=self._checks.fingerprint
            )
            fingerprint = None if found is None else self._checks.fingerprint(found.user)
            if found is None or fingerprint is None:
                raise Unauthorized("the refresh token is not valid, or not any more: log in again")
            return Known(Identity(Kind.USER, found.user), fingerprint)
        if asked.credentials is not None:
            return await self._checks.check(asked.credentials, address=asked.address)
        return Known(asked.certified or ANONYMOUS)

    def _grant(self, identity: Identity, scopes: Scopes) -> Scopes:
        policy = self._policy()
        granted = {
            name: allowed
            for name, actions in scopes.repositories.items()
            if (allowed := frozenset(action for action in actions if policy.allows(identity, action, name)))
        }
        return Scopes(granted, scopes.catalog and policy.may_list(identity))

    async def _refresh_token(self, asked: TokenRequest, known: Known) -> str | None:
        # Robots and workloads have a token of their own already, which is what they would keep.
        if not asked.offline or asked.credentials is None or known.identity.kind is not Kind.USER:
            return None
        return await self._refresh_tokens.create(
            known.identity.name, service=self._service, fingerprint=known.credential, client=asked.client
        )
