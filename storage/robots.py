"""The tokens of robots as they lie in storage: one object each, which holds a hash and never the token.

An object is changed by compare-and-swap only, so that noting a use can't bring back a token that was revoked.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from types import UnionType
from typing import Any

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageError, StorageRefused, VersionMismatch
from storage.opaque_tokens import HASH
from storage.places import Kind
from storage.walk import walk

RECORD_BYTES_MAX = 65536
USED_SECONDS = 3600.0
"""How exact the time of the last use is: a write for each use would be too much."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RobotGrant:
    """Globs over repositories and names of actions, as texts: what they mean is not storage's to know."""

    repositories: tuple[str, ...]
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RobotToken:
    """A token of the robot `name`. `hash` is the hexadecimal SHA-256 of it; times are seconds since the epoch."""

    name: str
    id: str
    hash: str = field(repr=False)
    grants: tuple[RobotGrant, ...]
    created: float
    expires: float | None = None
    created_by: str = ""
    used: float | None = None

    def is_live(self, now: float) -> bool:
        """Tell whether it has not expired."""
        return self.expires is None or now < self.expires

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "RobotToken":
        """Read a stored record. Raises ValueError if it is none, whatever has become of its bytes."""
        try:
            fields = json.loads(text)
            grants = tuple(RobotGrant(_texts(g["repositories"]), _texts(g["actions"])) for g in _list(fields["grants"]))
            record = cls(**{**fields, "grants": grants})
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is no record of a token: {error}") from None
        typed: tuple[tuple[object, type | UnionType], ...] = (
            *((each, str) for each in (record.name, record.id, record.hash, record.created_by)),
            (record.created, int | float),
            (record.expires, int | float | None),
            (record.used, int | float | None),
        )
        if not all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in typed):
            raise ValueError("a field is of another type")
        if not HASH.fullmatch(record.hash):
            raise ValueError("the hash is none of SHA-256")
        return record


class RobotStore:
    """All tokens of all robots. Names and ids are components of keys and were checked by whoever calls."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def create(self, token: RobotToken) -> None:
        """Keep a new token. Raises AlreadyExists."""
        await self._driver.create(keys.robot_token(token.name, token.id), token.to_json())

    async def get(self, name: str, token: str) -> RobotToken:
        """Read a token. Raises NotFound; Corrupt, and logs it, if its record is damaged."""
        return (await self._get(name, token))[0]

    async def revoke(self, name: str, token: str) -> None:
        """Delete a token; deleting what is absent is fine."""
        await self._driver.delete(keys.robot_token(name, token))

    async def use(self, token: RobotToken, now: float) -> RobotToken:
        """Note that a token is used, unless that was noted within the last hour; returns it as noted. Never fails."""
        if _is_noted(token, now):
            return token
        key = keys.robot_token(token.name, token.id)
        try:
            current, version = await self._get(token.name, token.id)
            if _is_noted(current, now):
                return current
            noted = replace(current, used=now)
            await self._driver.replace(key, noted.to_json(), version=version)
        except (VersionMismatch, NotFound):
            return token  # noted by another worker at this moment, or revoked
        except StorageError as error:
            log.warning("the last use of a token can't be noted", key=key, reason=str(error))
            return replace(token, used=now)
        return noted

    async def list(self, name: str = "") -> AsyncIterator[RobotToken]:
        """The tokens of a robot, or of all, in byte order of names and ids; damaged ones are logged and left out."""
        async for place in walk(self._driver, keys.robot_tokens(name) if name else keys.ROBOTS):
            if place.kind is not Kind.ROBOT_TOKEN:
                continue  # put there by hand
            try:
                yield await self.get(place.name, place.key.rpartition("/")[2])
            except NotFound:
                continue  # damaged, or revoked since
            except StorageRefused as error:
                log.error("unreadable token of a robot", key=error.key, remedy="check owner and mode of the file")

    async def _get(self, name: str, token: str) -> tuple[RobotToken, str]:
        key = keys.robot_token(name, token)
        found = await self._driver.get(key, bytes_max=RECORD_BYTES_MAX)
        try:
            record = RobotToken.from_json(found.body)
            if (record.name, record.id) != (name, token):
                raise ValueError("it is another token's")
        except ValueError as error:
            log.error("damaged token of a robot", key=key, reason=str(error), remedy="revoke it and create another")
            raise Corrupt("the record of the token is damaged", key=key) from error
        return record, found.version


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _texts(value: object) -> tuple[str, ...]:
    # A text is a sequence of texts as well: "**" would be taken for two globs.
    texts = _list(value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not a list of texts")
    return tuple(texts)


def _is_noted(token: RobotToken, now: float) -> bool:
    return token.used is not None and 0 <= now - token.used < USED_SECONDS
