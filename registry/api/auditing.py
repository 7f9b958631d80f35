"""What of the requests goes into the audit trail."""

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import structlog

from registry.api.requests import Request
from registry.audit.events import Event, EventKind
from registry.audit.trails import AuditUnavailable, Trail
from storage.digest import Digest

_NO_DETAIL: Mapping[str, str] = MappingProxyType({})

FAILED_LOGINS_PER_SECOND = 10

log = structlog.get_logger(__name__)


class Auditor:
    """Writes events to the trail, if there is one. Where it is not `required`, a trail that fails is only logged."""

    def __init__(self, trail: Trail | None, *, required: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail = trail
        self._required = required
        self._clock = clock
        self._second = 0
        self._written = 0
        self._left_out = 0

    @property
    def is_on(self) -> bool:
        """Whether events go anywhere."""
        return self._trail is not None

    async def record(
        self,
        request: Request,
        kind: EventKind,
        *,
        reference: str = "",
        old: Digest | None = None,
        new: Digest | None = None,
        detail: Mapping[str, str] = _NO_DETAIL,
    ) -> None:
        """Write down what a request has done. Raises AuditUnavailable: it is done, and its client does not know."""
        if self._trail is None:
            return
        caller = request.caller
        event = Event(
            kind,
            actor=str(caller.identity),
            address=caller.address,
            repository=request.repository,
            reference=reference,
            old="" if old is None else str(old),
            new="" if new is None else str(new),
            detail=detail,
        )
        await self._write(event)

    async def write(self, kind: EventKind, *, actor: str, address: str, detail: Mapping[str, str] = _NO_DETAIL) -> None:
        """Write down what concerns no repository. Raises AuditUnavailable."""
        if self._trail is not None:
            await self._write(Event(kind, actor=actor, address=address, detail=detail))

    async def event(self, event: Event) -> None:
        """Write down what no request has done. Raises AuditUnavailable."""
        if self._trail is not None:
            await self._write(event)

    async def login_failed(self, address: str, user: str, reason: str) -> None:
        """Write down that somebody was not let in, who may have said that they are `user`.

        Anybody can bring this about as often as they like, so each process writes at most FAILED_LOGINS_PER_SECOND; the
        next line tells how many were left out.
        """
        if self._trail is None:
            return
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
        if self._written >= FAILED_LOGINS_PER_SECOND:
            self._left_out += 1
            return
        self._written += 1
        detail = {"reason": reason, **({"user": user} if user else {})}
        if self._left_out:
            detail["left_out"] = str(self._left_out)
            self._left_out = 0
        await self.write(EventKind.LOGIN_FAILED, actor="anonymous", address=address, detail=detail)

    async def _write(self, event: Event) -> None:
        assert self._trail is not None
        try:
            # A request that is cut off when the server stops has done what it has done.
            await asyncio.shield(self._trail.write(event))
        except AuditUnavailable:
            if self._required:
                raise
            log.error("an event is not in the audit trail", event_kind=event.kind.value, actor=event.actor)
