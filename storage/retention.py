"""What is known of retention between two runs: since when its rules hold, and what the last run has done."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import structlog

from storage import keys
from storage.drivers import Driver
from storage.errors import AlreadyExists, Corrupt, NotFound, VersionMismatch

STATE_BYTES_MAX = 4 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionState:
    """Times are seconds since the epoch, 0 if it never happened.

    `rules` is a hash of the rules, which hold unchanged since `since`; pulls are counted in `counting` (a hash of which
    repositories) since `pulls_since`. `last` is what the last run has come to, as it is shown.
    """

    rules: str = ""
    since: float = 0.0
    counting: str = ""
    pulls_since: float = 0.0
    last: Mapping[str, object] = field(default_factory=dict)

    def under(self, rules: str, counting: str, *, now: float) -> "RetentionState":
        """The state once these rules were seen: what has changed begins now."""
        state = self
        if state.rules != rules or state.since > now:
            state = replace(state, rules=rules, since=now)
        if state.counting != counting or state.pulls_since > now:
            state = replace(state, counting=counting, pulls_since=now)
        return state


class RetentionStore:
    """One small object, which is lost at no greater cost than that its rules count as new."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def read(self) -> tuple[RetentionState, str | None]:
        """The state, and the version to write it over: None if there is none."""
        try:
            found = await self._driver.get(keys.RETENTION, bytes_max=STATE_BYTES_MAX)
        except Corrupt:
            await self._driver.delete(keys.RETENTION)
            return RetentionState(), None
        except NotFound:
            return RetentionState(), None
        try:
            return _parse(found.body), found.version
        except ValueError as error:
            log.error("damaged state of retention", key=keys.RETENTION, reason=str(error), remedy="none: begun anew")
            return RetentionState(), found.version

    async def write(self, state: RetentionState, version: str | None) -> bool:
        """Write the state over that version; tells whether nobody else has written meanwhile."""
        text = json.dumps(asdict(state)).encode()
        try:
            if version is None:
                await self._driver.create(keys.RETENTION, text)
            else:
                await self._driver.replace(keys.RETENTION, text, version=version)
        except (AlreadyExists, VersionMismatch):
            return False
        return True


def _parse(text: bytes) -> RetentionState:
    fields: object = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    since, pulls_since, last = (fields.get(name) for name in ("since", "pulls_since", "last"))
    if not isinstance(since, int | float) or not isinstance(pulls_since, int | float) or not isinstance(last, dict):
        raise ValueError("a field is of another type")
    return RetentionState(str(fields.get("rules")), since, str(fields.get("counting")), pulls_since, last)
