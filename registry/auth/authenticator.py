"""Who makes a request: told by its Authorization header, else by the client's certificate."""

from collections.abc import Callable

from registry.auth.access_tokens import reach_of, read_bearer
from registry.auth.basic import BasicError, parse_basic
from registry.auth.callers import Caller, Means
from registry.auth.credentials import CredentialChecks, Known
from registry.auth.identities import ANONYMOUS, Identity, Kind
from registry.auth.issuers import TokenServices
from registry.auth.jwts import TokenInvalid, parse
from registry.auth.policy import Policy
from registry.auth.signing import Verifier
from registry.auth.throttle import RateLimit, site_of
from registry.certificates import ClientCertificate
from registry.errors import TooManyRequests, Unauthorized

INVALID_TOKEN = "invalid_token"  # noqa: S105  # no password
EXPIRED = "the token is not valid, or not any more: log in again"


def refuse_if_too_many(rate: RateLimit | None, identity: Identity, address: str) -> None:
    """Count a request of somebody; of whoever has no name, one of their address. Raises TooManyRequests."""
    if rate is None:
        return
    wait = rate.take(f"address {site_of(address)}" if identity == ANONYMOUS else str(identity))
    if wait > 0:
        raise TooManyRequests(
            "this identity makes more requests than it may: slow down",
            headers=[("retry-after", str(int(wait) + 1))],
        )


class Authenticator:
    """Tells who makes a request. `policy` gives the policy in force."""

    def __init__(
        self,
        checks: CredentialChecks,
        verifier: Verifier,
        services: TokenServices,
        *,
        policy: Callable[[], Policy],
        name_of: Callable[[ClientCertificate], str | None],
        rate: RateLimit | None,
    ) -> None:
        self._checks = checks
        self._verifier = verifier
        self._services = services
        self._policy = policy
        self._name_of = name_of
        self._rate = rate

    async def identify(
        self, authorization: str | None, certificate: ClientCertificate | None, *, address: str
    ) -> Caller:
        """Tell who it is. Raises Unauthorized, TooManyRequests, Unavailable, StorageUnavailable."""
        caller = await self._identify(authorization, certificate, address)
        refuse_if_too_many(self._rate, caller.identity, address)
        return caller

    async def _identify(self, authorization: str | None, certificate: ClientCertificate | None, address: str) -> Caller:
        if authorization is None:
            return self._without(certificate, address)
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return await self._bearer(value.strip(), address)
            case "basic":
                try:
                    credentials = parse_basic(authorization)
                except BasicError as error:
                    raise Unauthorized(str(error)) from None
                if credentials is None:
                    return self._without(certificate, address)
                known = await self._checks.check(credentials, address=address)
                return Caller(known.identity, Means.PASSWORD, address, self._policy())
        raise Unauthorized("the Authorization header is neither Bearer nor Basic")

    def _without(self, certificate: ClientCertificate | None, address: str) -> Caller:
        name = None if certificate is None else self._name_of(certificate)
        if name is None:
            return Caller(ANONYMOUS, Means.NOTHING, address, self._policy())
        return Caller(Identity(Kind.CERTIFICATE, name), Means.CERTIFICATE, address, self._policy())

    async def _bearer(self, token: str, address: str) -> Caller:
        try:
            bearer = read_bearer(await self._verifier.verify(token))
        except TokenInvalid:
            return await self._outside(token, address)
        identity = await self._checks.is_valid(bearer.known.identity, bearer.known.credential)
        if identity is None:
            raise Unauthorized(EXPIRED, reason=INVALID_TOKEN)
        return Caller(identity, Means.TOKEN, address, self._policy(), bearer.reach)

    async def _outside(self, token: str, address: str) -> Caller:
        """The bearer of a token that is none of ours."""
        try:
            issuer = parse(token).issuer
            if self._services.knows(issuer):
                verified = await self._services.verify(token)
                # Its issuer knows who may do what: the policy here is not asked.
                name = f"{verified.issuer}:{verified.subject}"
                return Caller(Identity(Kind.USER, name), Means.TOKEN, address, None, reach_of(verified.access))
        except TokenInvalid as error:
            self._checks.tell(error)
            raise Unauthorized(EXPIRED, reason=INVALID_TOKEN) from None
        known: Known | None = await self._checks.identify(token)
        if known is None:
            raise Unauthorized(EXPIRED, reason=INVALID_TOKEN)
        return Caller(known.identity, Means.PASSWORD, address, self._policy())
