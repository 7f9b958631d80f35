"""Histories of tags as people see them: numbered states, and the way back to one of them.

Going back is a push of a manifest that is there already: everything that holds for pushes holds for it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from registry.errors import BadRequest, ManifestUnknown, PreconditionFailed
from registry.manifests import Changes, Manifests
from registry.names import RepositoryName, Tag
from registry.times import utc_time
from storage.digest import Digest
from storage.history import ENTRIES_MAX, HistoryStore
from storage.manifests import ManifestStore
from storage.timelines import Cause, Change, Why
from storage.together import together

_DIGEST_START = re.compile(r"(?:sha256|sha512):[0-9a-f]{4,128}")
TOLD_MAX = 5

Allow = Callable[[Digest | None, Digest], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Which state is meant: so many changes back, or by (the start of) its digest, or what was current at a time.

    `seconds` is a time since the epoch. Without any of them it is the last state that was another one.
    """

    number: int | None = None
    digest: str = ""
    seconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read `3` or `sha256:1f2e...`. Raises BadRequest."""
        if text.isascii() and text.isdigit() and len(text) < 10:
            return cls(number=int(text))
        if _DIGEST_START.fullmatch(text):
            return cls(digest=text)
        raise BadRequest(
            "expected the number of a state, as the history tells it, or the start of a digest, such as sha256:1f2e"
        )


@dataclass(frozen=True, slots=True)
class State:
    """What a tag pointed at from a change on; `number` 0 is now, 1 was before the last change.

    `is_held` says whether it can be pulled and gone back to: that the repository still holds the manifest.
    """

    number: int
    change: Change
    is_held: bool

    @property
    def digest(self) -> Digest | None:
        """What the tag pointed at; None while there was no such tag."""
        return self.change.new


@dataclass(frozen=True, slots=True)
class Way:
    """Where a tag points, and the state that it goes back to."""

    current: Digest | None
    state: State


class Histories:
    """Reads the histories of tags, and goes back in them."""

    def __init__(
        self, history: HistoryStore, manifests: Manifests, held: ManifestStore, *, calls_at_once: int = 1
    ) -> None:
        self._history = history
        self._manifests = manifests
        self._held = held
        self._calls_at_once = calls_at_once

    async def states(
        self, repository: RepositoryName, tag: Tag, *, limit: int, after: int = -1, write: bool = True
    ) -> tuple[list[State], bool]:
        """States whose number is greater than `after`, at most `limit`, the newest first; and whether there are more.

        Without `write`, what was observed is told and not written down. Raises ManifestUnknown if nothing is known of
        such a tag.
        """
        changes = await self._history.entries(repository, tag, limit=after + limit + 2, write=write)
        if not changes:
            raise ManifestUnknown("there is no such tag in this repository, and there never was")
        wanted = list(enumerate(changes))[after + 1 :][:limit]
        digests = list(dict.fromkeys(change.new for _number, change in wanted if change.new is not None))
        looks = [partial(self._held.exists, repository, digest) for digest in digests]
        held = dict(zip(digests, await together(looks, self._calls_at_once), strict=True))
        states = [
            State(number, change, is_held=change.new is not None and held[change.new]) for number, change in wanted
        ]
        return states, len(changes) > after + 1 + limit

    async def tags(self, repository: RepositoryName) -> list[str]:
        """Every tag of which there is a history, also of those that were deleted."""
        return await self._history.tags(repository)

    async def last_set(self, repository: RepositoryName) -> dict[str, dict[Digest | None, float]]:
        """By tag, and by what it has pointed at, when it was last set to that, in seconds since the epoch.

        By one listing of the whole repository; deleted tags are among them.
        """
        marks = await self._history.all_marks(repository)
        return {tag: {mark.new: mark.time / 1_000_000 for mark in each} for tag, each in marks.items()}

    async def find(self, repository: RepositoryName, tag: Tag, target: Target) -> Way:
        """Find where to go back to. Raises ManifestUnknown, BadRequest saying why nothing of the kind is there."""
        changes = await self._history.entries(repository, tag, limit=max(ENTRIES_MAX, (target.number or 0) + 1))
        if not changes:
            raise ManifestUnknown("there is no such tag in this repository, and there never was")
        number = _number(changes, target)
        digest = changes[number].new
        if digest is None:
            raise ManifestUnknown(f"in state {number} the tag was deleted: there is nothing to go back to")
        if not await self._held.exists(repository, digest):
            raise ManifestUnknown(
                f"the manifest of state {number} was deleted, so that nothing can go back to it: {digest}",
                detail={"digest": str(digest)},
            )
        return Way(changes[0].new, State(number, changes[number], is_held=True))

    async def rollback(
        self,
        repository: RepositoryName,
        tag: Tag,
        target: Target,
        *,
        who: str,
        allow: Allow | None = None,
        changes: Changes | None = None,
    ) -> Way:
        """Let a tag point again at what it pointed at in an earlier state, as if that were pushed again.

        Raises what `find`, Manifests.put and `allow` raise; PreconditionFailed if the tag is moved meanwhile.
        """
        way = await self.find(repository, tag, target)
        await self._go(repository, tag, way, Cause(who, Why.ROLLBACK), allow=allow, changes=changes)
        return way

    async def restore(
        self,
        repository: RepositoryName,
        tag: Tag,
        *,
        who: str,
        allow: Allow | None = None,
        changes: Changes | None = None,
    ) -> Way:
        """Bring a deleted tag back to where it pointed last. Raises as rollback does; BadRequest if it is there."""
        found = await self._history.entries(repository, tag)
        if found and found[0].new is not None:
            raise BadRequest("the tag is there, so there is nothing to restore: a rollback takes it to another state")
        number = next((number for number, change in enumerate(found) if change.new is not None), None)
        if number is None:
            raise ManifestUnknown("there is no such tag in this repository, and there never was")
        way = await self.find(repository, tag, Target(number))
        await self._go(repository, tag, way, Cause(who, Why.RESTORE), allow=allow, changes=changes)
        return way

    async def _go(
        self,
        repository: RepositoryName,
        tag: Tag,
        way: Way,
        cause: Cause,
        *,
        allow: Allow | None,
        changes: Changes | None,
    ) -> None:
        digest = way.state.digest
        assert digest is not None, "found because it is there"
        manifest = await self._manifests.get(repository, digest)

        def unmoved(current: Digest | None, new: Digest) -> None:
            if current not in {way.current, new}:
                raise PreconditionFailed(
                    f"the tag has been moved meanwhile, to {current or 'nothing'}: look at its history again"
                )
            if allow is not None:
                allow(current, new)

        await self._manifests.put(
            repository,
            digest,
            manifest.body,
            media_type=manifest.media_type,
            tags=[tag],
            allow=unmoved,
            changes=changes,
            cause=cause,
        )


def told(state: State) -> dict[str, object]:
    """A state in JSON."""
    change = state.change
    return {
        "number": state.number,
        "digest": None if change.new is None else str(change.new),
        "previous": None if change.old is None else str(change.old),
        "time": utc_time(change.seconds),
        "who": change.cause.who,
        "why": change.cause.why.value,
        "held": state.is_held,
    }


def _number(changes: list[Change], target: Target) -> int:
    if target.number is not None:
        if target.number >= len(changes):
            raise ManifestUnknown(f"there is no state {target.number}: the oldest that is known is {len(changes) - 1}")
        return target.number
    if target.digest:
        return _by_digest(changes, target.digest)
    if target.seconds is not None:
        return _at(changes, target.seconds)
    current = changes[0].new
    if current is None:
        raise BadRequest("the tag was deleted: restore it, or say which state to go back to")
    number = next((n for n, change in enumerate(changes) if change.new not in {None, current}), None)
    if number is None:
        raise ManifestUnknown("the tag has never pointed at anything else: there is nothing to go back to")
    return number


def _by_digest(changes: list[Change], text: str) -> int:
    found: dict[Digest, int] = {}
    for number, change in enumerate(changes):
        if change.new is not None and str(change.new).startswith(text):
            found.setdefault(change.new, number)
    if not found:
        raise ManifestUnknown(f"the tag has never pointed at {text}, as far as its history goes")
    if len(found) > 1:
        told = ", ".join(f"{digest} (state {number})" for digest, number in list(found.items())[:TOLD_MAX])
        raise BadRequest(f"{text} may be any of {len(found)} digests, write more of it: {told}")
    return next(iter(found.values()))


def _at(changes: list[Change], seconds: float) -> int:
    number = next((number for number, change in enumerate(changes) if change.seconds <= seconds), None)
    if number is None:
        began = datetime.fromtimestamp(changes[-1].seconds, UTC).isoformat(timespec="seconds")
        raise ManifestUnknown(f"nothing is known of the tag at that time: its history begins at {began}")
    return number
