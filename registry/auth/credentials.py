"""Credentials that people and robots send, and who they are thereby."""

import time
from dataclasses import dataclass

import structlog

from registry.auth.basic import Credentials
from registry.auth.identities import Identity, Kind
from registry.auth.issuers import OidcIssuers
from registry.auth.jwts import TokenInvalid, is_token
from registry.auth.key_sources import KeysUnavailable
from registry.auth.passwords import Passwords
from registry.auth.robots import PREFIX, Robots, is_robot_token
from registry.auth.throttle import Throttle
from registry.errors import TooManyRequests, Unauthorized, Unavailable
from storage.opaque_tokens import OpaqueToken

WRONG = "user or password is wrong"
"""For an unknown user, a wrong password, a token that was revoked: nobody learns which it was."""

RETRY_SECONDS = 5
TELL_SECONDS = 1.0
"""How often the log says why a token is not believed: anybody can send any number of them."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody whose credentials were right.

    `credential` is a text that changes with the user's password, or the id of the robot's token: as long as it is
    valid, tokens that were issued for it are.
    """

    identity: Identity
    credential: str = ""


class CredentialChecks:
    """Looks at user and password: of a user, of a robot, or with an ID token for a password."""

    def __init__(self, passwords: Passwords | None, robots: Robots, oidc: OidcIssuers, throttle: Throttle) -> None:
        self._passwords = passwords
        self._robots = robots
        self._oidc = oidc
        self._throttle = throttle
        self._told = -TELL_SECONDS
        self._untold = 0

    async def check(self, credentials: Credentials, *, address: str) -> Known:
        """Tell who it is. Raises Unauthorized; TooManyRequests if too many guesses were made; Unavailable."""
        user, password = credentials.user, credentials.password
        wait = self._throttle.wait_seconds(user, address)
        if wait > 0:
            raise TooManyRequests(
                "too many wrong passwords: wait before the next one", headers=[("retry-after", str(int(wait) + 1))]
            )
        known = await self._check(user, password)
        if known is None:
            self._throttle.failed(user, address, password)
            raise Unauthorized(WRONG)
        self._throttle.succeeded(user, address)
        return known

    async def is_valid(self, identity: Identity, credential: str) -> Identity | None:
        """Who a token that was issued before is for, as of now; None if what it was issued for is valid no more."""
        if identity.kind is Kind.USER:
            return identity if self.fingerprint(identity.name) == credential else None
        if identity.kind is Kind.ROBOT:
            return await self._robots.find(identity.name, credential)
        return identity

    def fingerprint(self, user: str) -> str | None:
        """A text that changes with the user's password, None for an unknown user."""
        return None if self._passwords is None else self._passwords.fingerprint(user)

    async def _check(self, user: str, password: str) -> Known | None:
        if is_robot_token(password):
            shown = OpaqueToken.parse(PREFIX, password)
            robot = await self._robots.check(user, password)
            return None if robot is None or shown is None else Known(robot, shown.id)
        if is_token(password):
            return await self.identify(password)
        if self._passwords is None:
            return None
        before = self._passwords.fingerprint(user)
        if not await self._passwords.check(user, password):
            return None
        # Changed while it was compared: it may be the old one that was right.
        if before is None or before != self._passwords.fingerprint(user):
            return None
        return Known(Identity(Kind.USER, user), before)

    async def identify(self, token: str) -> Known | None:
        """Who brings an ID token, None if it is none that is believed. Raises Unavailable."""
        try:
            return Known(await self._oidc.identify(token))
        except KeysUnavailable as error:
            raise Unavailable(
                "the keys of the token's issuer can't be fetched: try again, then tell the registry's operator",
                headers=[("retry-after", str(RETRY_SECONDS))],
            ) from error
        except TokenInvalid as error:
            self.tell(error)
            return None

    def tell(self, error: TokenInvalid) -> None:
        """Say in the log why a token is not believed; its bearer does not learn it."""
        now = time.monotonic()
        if now - self._told < TELL_SECONDS:
            self._untold += 1
            return
        log.info("a token is not believed", reason=str(error), others_untold=self._untold)
        self._told, self._untold = now, 0

    async def close(self) -> None:
        """Let go of threads."""
        if self._passwords is not None:
            await self._passwords.close()
