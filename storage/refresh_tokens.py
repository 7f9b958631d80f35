"""Refresh tokens: what a client keeps in place of a user's password, as `docker login` may do.

One object each, which holds a hash and never the token. A token counts for one user and one service, and only as long
as the user's password is the one that it was given for. The id of a token begins with a hash of its user's name, so
that those of one user lie together.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageError, StorageRefused, VersionMismatch
from storage.opaque_tokens import HASH, ID_CHARACTERS, OpaqueToken
from storage.places import Kind, Place
from storage.walk import walk

PREFIX = "phi"
OWNER_CHARACTERS = 16
RECORD_BYTES_MAX = 16384
IDLE_SECONDS = 90 * 86400.0
USED_SECONDS = 3600.0
"""How exact the time of the last use is."""

TOKENS_MAX = 100
"""Tokens of one user: a job that logs in each time it runs must not fill the store. The one not used longest goes."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A token of `user` for `service`, given for the password with this fingerprint; times are seconds since the epoch.

    `hash` is the hexadecimal SHA-256 of the token.
    """

    id: str
    user: str
    service: str
    fingerprint: str = field(repr=False)
    hash: str = field(repr=False)
    created: float
    used: float
    client: str = ""

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "RefreshToken":
        """Read a stored record. Raises ValueError if it is none, whatever has become of its bytes."""
        try:
            record = cls(**json.loads(text))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"it is no record of a token: {error}") from None
        texts = (record.id, record.user, record.service, record.fingerprint, record.hash, record.client)
        times = (record.created, record.used)
        if not all(isinstance(text, str) for text in texts) or not all(type(time) in (int, float) for time in times):
            raise ValueError("a field is of another type")
        if not HASH.fullmatch(record.hash):
            raise ValueError("the hash is none of SHA-256")
        return record


class RefreshTokenStore:
    """All refresh tokens of all users."""

    def __init__(self, driver: Driver, *, clock: Callable[[], float], idle_seconds: float = IDLE_SECONDS) -> None:
        self._driver = driver
        self._clock = clock
        self._idle_seconds = idle_seconds

    async def create(self, user: str, *, service: str, fingerprint: str, client: str = "") -> str:
        """Make a token and return it: it can't be read again. `client` is what the client calls itself."""
        token, now = OpaqueToken.create(PREFIX, owner=_owner(user)), self._clock()
        await self._make_room(user)
        record = RefreshToken(token.id, user, service, fingerprint, token.hash, now, now, client)
        await self._driver.create(_key(token.id), record.to_json())
        return token.text

    async def check(
        self, text: str, *, service: str, fingerprint_of: Callable[[str], str | None]
    ) -> RefreshToken | None:
        """The token, if it counts, for the use that is made of it now; the reason why it does not is not told.

        `fingerprint_of` gives the fingerprint of a user's password now, None if there is no such user.
        """
        token = OpaqueToken.parse(PREFIX, text)
        if token is None or len(token.id) != OWNER_CHARACTERS + ID_CHARACTERS:
            return None
        try:
            record, version = await self._get(token.id)
        except NotFound:
            return None
        now = self._clock()
        if not token.has_hash(record.hash) or record.service != service or self._is_idle(record, now):
            return None
        if fingerprint_of(record.user) != record.fingerprint:
            return None
        await self._use(record, version, now)
        return record

    async def revoke(self, text: str) -> bool:
        """Delete a token that somebody shows (RFC 7009); False if it is none."""
        token = OpaqueToken.parse(PREFIX, text)
        if token is None:
            return False
        try:
            record, _ = await self._get(token.id)
        except NotFound:
            return False
        if not token.has_hash(record.hash):
            return False
        await self._driver.delete(_key(token.id))
        return True

    async def revoke_all(self, user: str) -> int:
        """Delete every token of a user; returns how many there were."""
        count = 0
        async for record in self.list(user):
            await self._driver.delete(_key(record.id))
            count += 1
        return count

    async def list(self, user: str) -> AsyncIterator[RefreshToken]:
        """The tokens of a user, idle ones included; damaged ones are logged and left out."""
        async for place in self._places(keys.refresh_tokens(_owner(user))):
            try:
                record, _ = await self._get(place.name)
            except NotFound:
                continue
            except StorageRefused as error:
                _cannot_read(error)
                continue
            if record.user == user:
                yield record

    async def expire(self) -> int:
        """Delete those that nobody has used for `idle_seconds`, and damaged ones; returns how many."""
        count = 0
        async for place in self._places(keys.REFRESH):
            try:
                record, version = await self._get(place.name)
                if self._is_idle(record, self._clock()):
                    await self._driver.delete_version(place.key, version=version)
                    count += 1
            except Corrupt:
                await self._driver.delete(place.key)
                count += 1
            except (NotFound, VersionMismatch):
                continue  # gone, or used just now
            except StorageRefused as error:
                _cannot_read(error)
        return count

    def _is_idle(self, record: RefreshToken, now: float) -> bool:
        return now - record.used >= self._idle_seconds

    async def _use(self, record: RefreshToken, version: str, now: float) -> None:
        if 0 <= now - record.used < min(USED_SECONDS, self._idle_seconds / 2):
            return
        key = _key(record.id)
        try:
            # By compare-and-swap: it must not bring back what is being revoked.
            await self._driver.replace(key, replace(record, used=now).to_json(), version=version)
        except VersionMismatch:
            return  # noted by another worker, or revoked
        except StorageError as error:
            log.warning("the last use of a token can't be noted", key=key, reason=str(error))

    async def _make_room(self, user: str) -> None:
        records = [record async for record in self.list(user)]
        records.sort(key=lambda record: record.used)
        for record in records[: max(0, len(records) + 1 - TOKENS_MAX)]:
            await self._driver.delete(_key(record.id))

    async def _places(self, prefix: str) -> AsyncIterator[Place]:
        async for place in walk(self._driver, prefix):
            if place.kind is Kind.REFRESH_TOKEN:
                yield place

    async def _get(self, token: str) -> tuple[RefreshToken, str]:
        key = _key(token)
        found = await self._driver.get(key, bytes_max=RECORD_BYTES_MAX)
        try:
            record = RefreshToken.from_json(found.body)
            if record.id != token:
                raise ValueError("it is another token's")
        except ValueError as error:
            log.error("damaged refresh token", key=key, reason=str(error), remedy="none: the user logs in again")
            raise Corrupt("the record of the token is damaged", key=key) from error
        return record, found.version


def _cannot_read(error: StorageRefused) -> None:
    # One file of another owner must not keep the others from being looked at.
    log.error("unreadable refresh token", key=error.key, remedy="check owner and mode of the file")


def _key(token: str) -> str:
    return keys.refresh_token(token[:OWNER_CHARACTERS], token)


def _owner(user: str) -> str:
    # A user's name may hold anything, and a component of a key may not.
    return hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:OWNER_CHARACTERS]
