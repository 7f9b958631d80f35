"""Robots: names for machines, whose tokens carry what they may do.

With Basic, a robot's name stands for the user and its token for the password. The token alone would tell whose it is;
the name has to be right as well, so that a token in the wrong place is noticed.
"""

import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

from registry.auth.globs import Globs
from registry.auth.identities import Action, Grant, Identity, Kind
from storage.errors import NotFound
from storage.opaque_tokens import OpaqueToken
from storage.robots import RobotGrant, RobotStore, RobotToken

PREFIX = "phr"
CACHE_SECONDS = 2.0
"""How long a revoked token may still count."""

CACHED_MAX = 1000
LIVE_MAX = 2
"""Tokens of a robot at one time: the one in use, and the one that takes its place."""

ACTIONS = tuple(action for action in Action if action is not Action.ADMIN)
"""What a token can allow. ADMIN is asked with no repository, so no grant of a token reaches it."""

_NAME = re.compile(r"[a-z0-9]++(?:[._-][a-z0-9]++)*+")
NAME_CHARACTERS_MAX = 64


class RobotError(ValueError):
    """A token can't be created as asked. One line."""


class TooManyTokens(RobotError):
    """The robot has as many tokens as it may have."""


def is_robot_token(text: str) -> bool:
    """Tell whether a password is meant to be a robot's token, right or wrong."""
    return text.startswith(f"{PREFIX}_")


def check_robot_name(text: str) -> str:
    """Return the name if a robot may have it. Raises RobotError."""
    if len(text) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(text):
        raise RobotError(
            f"{text[:NAME_CHARACTERS_MAX]!r} is no name of a robot: expected at most {NAME_CHARACTERS_MAX} lower-case "
            "letters and digits, separated by one . or _ or -"
        )
    return text


def parse_actions(texts: Sequence[str]) -> frozenset[Action]:
    """Read names of actions, at least one. Raises RobotError."""
    known = {action.value: action for action in ACTIONS}
    if not texts:
        raise RobotError(f"no action is named: expected some of {', '.join(known)}, or * for all of them")
    if "*" in texts:
        return frozenset(ACTIONS)
    for text in texts:
        if text == Action.ADMIN.value:
            raise RobotError("admin concerns the registry as a whole, and no token can allow it")
        if text not in known:
            raise RobotError(f"{text!r} is no action: expected some of {', '.join(known)}, or * for all of them")
    return frozenset(known[text] for text in texts)


class Robots:
    """Creates, checks and revokes the tokens of robots.

    A token that expires, or is revoked by any process, is refused within CACHE_SECONDS.
    """

    def __init__(
        self,
        store: RobotStore,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._cache: OrderedDict[str, tuple[RobotToken, float]] = OrderedDict()

    async def check(self, user: str, token: str) -> Identity | None:
        """Whose token this is; None for one that is unknown, revoked, expired or another robot's, all the same.

        Raises StorageUnavailable.
        """
        shown = OpaqueToken.parse(PREFIX, token)
        if shown is None or len(user) > NAME_CHARACTERS_MAX or not _NAME.fullmatch(user):
            return None
        found = await self._find(user, shown.id)
        # Compared also if the id is unknown: a hash is made in either case.
        is_right = shown.has_hash(found.hash if found is not None else "")
        now = self._clock()
        if found is None or not is_right or not found.is_live(now):
            return None
        noted = await self._store.use(found, now)
        if noted is not found:
            self._exchange(noted)
        return Identity(Kind.ROBOT, found.name, _grants(found))

    async def find(self, name: str, token: str) -> Identity | None:
        """Who holds the token with an id, which was checked before; None if it was revoked or has expired since.

        Raises StorageUnavailable.
        """
        if not _NAME.fullmatch(name) or not token.isalnum():
            return None  # they become parts of a key
        found = await self._find(name, token)
        if found is None or not found.is_live(self._clock()):
            return None
        return Identity(Kind.ROBOT, found.name, _grants(found))

    async def create(
        self, name: str, grants: Sequence[Grant], *, expires_seconds: float | None = None, created_by: str = ""
    ) -> tuple[str, RobotToken]:
        """Make a token: its text, which can't be read again, and its record.

        Raises RobotError, TooManyTokens, GlobError.
        """
        check_robot_name(name)
        now = self._clock()
        if not grants or any(not grant.repositories or not grant.actions for grant in grants):
            raise RobotError("a token that allows nothing is of no use: name repositories and actions")
        if any(Action.ADMIN in grant.actions for grant in grants):
            raise RobotError("admin concerns the registry as a whole, and no token can allow it")
        if expires_seconds is not None and expires_seconds <= 0:
            raise RobotError("a token that has expired already is of no use: name a time above 0")
        for grant in grants:
            Globs.of_names(grant.repositories)
        await self._refuse_if_too_many(name, now)
        token = OpaqueToken.create(PREFIX)
        record = RobotToken(
            name=name,
            id=token.id,
            hash=token.hash,
            grants=tuple(_stored(grant) for grant in grants),
            created=now,
            expires=None if expires_seconds is None else now + expires_seconds,
            created_by=created_by,
        )
        await self._store.create(record)
        try:
            # Again, for somebody may have made another one meanwhile; if so, both of us step back.
            await self._refuse_if_too_many(name, now, besides=token.id)
        except TooManyTokens:
            await self._store.revoke(name, token.id)
            raise
        return token.text, record

    async def revoke(self, name_or_id: str) -> list[RobotToken]:
        """Delete all tokens of a robot, or the one with this id; returns those that were deleted."""
        found = [token async for token in self._store.list() if name_or_id in (token.id, token.name)]
        for token in found:
            await self._store.revoke(token.name, token.id)
            self._cache.pop(_cache_key(token.name, token.id), None)
        return found

    def list(self, name: str = "") -> AsyncIterator[RobotToken]:
        """All tokens of all robots, or of one, expired ones included."""
        return self._store.list(name)

    async def _refuse_if_too_many(self, name: str, now: float, *, besides: str = "") -> None:
        live = [token.id async for token in self._store.list(name) if token.id != besides and token.is_live(now)]
        if len(live) >= LIVE_MAX:
            raise TooManyTokens(
                f"{name} has {len(live)} tokens already, and {LIVE_MAX} is the limit: revoke one of {', '.join(live)}"
            )

    async def _find(self, name: str, token: str) -> RobotToken | None:
        key, asked = _cache_key(name, token), self._monotonic()
        cached = self._cache.get(key)
        if cached is not None and asked < cached[1]:
            return cached[0]
        try:
            found = await self._store.get(name, token)
        except NotFound:
            self._cache.pop(key, None)
            return None
        self._cache[key] = found, asked + CACHE_SECONDS
        self._cache.move_to_end(key)
        if len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)
        return found

    def _exchange(self, token: RobotToken) -> None:
        """Cache what became of a record, no longer than the record itself."""
        key = _cache_key(token.name, token.id)
        if cached := self._cache.get(key):
            self._cache[key] = token, cached[1]


def _cache_key(name: str, token: str) -> str:
    return f"{name}/{token}"


def _stored(grant: Grant) -> RobotGrant:
    return RobotGrant(tuple(grant.repositories), tuple(sorted(action.value for action in grant.actions)))


def _grants(token: RobotToken) -> tuple[Grant, ...]:
    """What a token allows. An action of a later version, which means nothing to this one, allows nothing."""
    known = {action.value: action for action in ACTIONS}
    return tuple(
        Grant(grant.repositories, frozenset(known[text] for text in grant.actions if text in known))
        for grant in token.grants
    )
