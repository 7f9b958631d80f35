"""Histories of tags over HTTP, below `/v2/<name>/_pierhead/tags/<tag>/`: an extension of the specification."""

from collections.abc import Callable

from registry.api.auditing import Auditor
from registry.api.extensions import read_json
from registry.api.manifests import tag_conditions
from registry.api.paging import next_page, page_size
from registry.api.requests import Request
from registry.api.responses import Header, Response, json_response
from registry.audit.events import EventKind
from registry.auth.identities import ANONYMOUS
from registry.errors import BadRequest
from registry.histories import Histories, State, Target, Way, told
from registry.manifests import Changes
from registry.names import Tag, parse_tag
from registry.times import parse_time
from storage.digest import Digest

STATES_MAX = 1000
STATES_UNASKED = 100
NO_STORE: Header = (b"cache-control", b"private, no-store")


class HistoryEndpoints:
    """GET of a history, POST of a rollback and of a restoration."""

    def __init__(self, histories: Histories, auditor: Auditor) -> None:
        self._histories = histories
        self._auditor = auditor

    async def history(self, request: Request) -> Response:
        """GET `history?n=&last=`: the states of a tag whose numbers are greater than `last`, the newest first."""
        tag = parse_tag(request.tail)
        limit, after = max(1, min(page_size(request, unasked=STATES_UNASKED), STATES_MAX)), _after(request)
        states, more = await self._histories.states(request.repository, tag, limit=limit, after=after)
        headers = [NO_STORE]
        if more and states:
            path = f"/v2/{request.repository}/_pierhead/tags/{tag}/history"
            headers += next_page(request, path, [("n", limit), ("last", states[-1].number)])
        content = {"name": request.repository, "tag": tag, "states": [_shown(request, state) for state in states]}
        return json_response(content, headers=headers)

    async def rollback(self, request: Request) -> Response:
        """POST `rollback` with `{"to": 3}`, `{"to": "sha256:..."}`, `{"at": "2026-11-01T12:00:00Z"}` or nothing."""
        tag, target = parse_tag(request.tail), _target(await read_json(request, "to", "at"))
        changes = Changes()
        try:
            way = await self._histories.rollback(
                request.repository, tag, target, who=_who(request), allow=_allow(request), changes=changes
            )
        finally:
            await self._record(request, EventKind.TAG_ROLLED_BACK, changes)
        return _answer(request, tag, way)

    async def restore(self, request: Request) -> Response:
        """POST `restore`: a deleted tag points again where it pointed last."""
        tag = parse_tag(request.tail)
        await read_json(request)
        changes = Changes()
        try:
            way = await self._histories.restore(
                request.repository, tag, who=_who(request), allow=_allow(request), changes=changes
            )
        finally:
            await self._record(request, EventKind.TAG_RESTORED, changes)
        return _answer(request, tag, way)

    async def _record(self, request: Request, kind: EventKind, changes: Changes) -> None:
        """Write down in the audit trail what was done, also if it failed half-way."""
        for tag, before in changes.tagged:
            if before != changes.pushed:
                await self._auditor.record(request, kind, reference=tag, old=before, new=changes.pushed)
        for tag, before in changes.untagged:
            await self._auditor.record(request, EventKind.TAG_DELETED, reference=tag, old=before)


def _shown(request: Request, state: State) -> dict[str, object]:
    """A state in JSON; who works here is no business of those who have not shown who they are."""
    fields, anonymous = told(state), str(ANONYMOUS)
    is_hidden = request.caller.identity == ANONYMOUS and fields["who"] != anonymous
    return {**fields, "who": ""} if is_hidden else fields


def _answer(request: Request, tag: Tag, way: Way) -> Response:
    content = {
        "name": request.repository,
        "tag": tag,
        "state": way.state.number,
        "digest": str(way.state.digest),
        "previous": None if way.current is None else str(way.current),
    }
    return json_response(content, headers=[NO_STORE])


def _target(fields: dict[str, object]) -> Target:
    to, at = fields.get("to"), fields.get("at")
    if to is not None and at is not None:
        raise BadRequest("say either to which state to go back (to), or to which time (at)")
    if isinstance(at, str):
        try:
            return Target(seconds=parse_time(at))
        except ValueError as error:
            raise BadRequest(str(error)) from error
    if at is not None or isinstance(to, bool) or not isinstance(to, int | str | None):
        raise BadRequest('expected {"to": 3}, {"to": "sha256:..."} or {"at": "2026-11-01T12:00:00Z"}')
    return Target() if to is None else Target.parse(str(to))


def _after(request: Request) -> int:
    text = request.query.first("last")
    if text is None:
        return -1
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest("last has to be the number of a state")
    return int(text)


def _allow(request: Request) -> Callable[[Digest | None, Digest], None] | None:
    return tag_conditions(request, is_told=True)


def _who(request: Request) -> str:
    return str(request.caller.identity)
