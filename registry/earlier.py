"""Earlier states of a tag by names of their own, for clients that know nothing but names: `prod.-1`, `prod.at-...Z`.

Such a name is looked at only where there is no tag of exactly that name, and nothing can be pushed under it: else who
may push and not overwrite could put something else in the place of what was there.
"""

import re
from datetime import UTC, datetime

from registry.errors import Denied
from registry.histories import Target
from registry.names import RepositoryName, Tag
from storage.digest import Digest
from storage.history import ENTRIES_MAX, HistoryStore
from storage.tags import TagStore

# Not all of a history: each of its states that is looked at is a read, and whoever may pull may ask.
_NUMBERED = re.compile(r"(?P<tag>.+)\.-(?P<number>[1-9][0-9]?)", re.ASCII)
_DATED = re.compile(r"(?P<tag>.+)\.at-(?P<date>\d{8})T(?P<time>\d{4}(?:\d\d)?)Z", re.ASCII)


class EarlierStates:
    """Finds what the name of an earlier state stands for; without `enabled` no name does."""

    def __init__(self, tags: TagStore, history: HistoryStore, *, enabled: bool = True) -> None:
        self._tags = tags
        self._history = history
        self._enabled = enabled

    async def find(self, repository: RepositoryName, name: Tag) -> Digest | None:
        """What the name stands for, or None; a tag of the very name stands for itself, and for nothing here."""
        parsed = self._parse(name)
        if parsed is None:
            return None
        found = await self._tags.see(repository, name)
        if found is None or found.link is not None:
            return None
        tag, target = parsed
        number = target.number
        limit = ENTRIES_MAX if number is None else number + 1
        changes = await self._history.entries(repository, tag, limit=limit, write=False)
        if number is not None:
            return changes[number].new if number < len(changes) else None
        seconds = target.seconds
        return next((change.new for change in changes if seconds is not None and change.seconds <= seconds), None)

    def refuse(self, name: Tag) -> None:
        """Raise Denied if a push under this name would hide an earlier state, or pass for one."""
        parsed = self._parse(name)
        if parsed is not None:
            raise Denied(
                f"{name} stands for an earlier state of {parsed[0]}, and is only pulled: push under another tag, "
                "or set history.references = false on the server"
            )

    def _parse(self, name: Tag) -> tuple[Tag, Target] | None:
        if not self._enabled or (".-" not in name and ".at-" not in name):
            return None
        if found := _NUMBERED.fullmatch(name):
            return Tag(found["tag"]), Target(number=int(found["number"]))
        if found := _DATED.fullmatch(name):
            text = f"{found['date']}{found['time']:0<6}"
            try:
                when = datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
            except ValueError:
                return None
            return Tag(found["tag"]), Target(seconds=when.timestamp())
        return None
