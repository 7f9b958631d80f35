"""A store as the command line works on it, opened and closed again, with the audit trail if something is changed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from registry.audit.events import Event
from registry.audit.trails import Trail
from registry.config import Settings
from registry.stores import open_driver
from storage.drivers import Driver
from storage.layout import check_layout


class OpenedStore:
    """A store whose layout was checked. What is recorded goes to the audit trail, if there is one."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.trail: Trail | None = None

    async def record(self, event: Event) -> None:
        """Write an event down. Raises AuditUnavailable."""
        if self.trail is not None:
            await self.trail.write(event)


@asynccontextmanager
async def opened_store(settings: Settings, *, changes: bool) -> AsyncIterator[OpenedStore]:
    """Open the store for the length of a `with` block; with `changes`, the audit trail that the settings ask for too.

    Raises StorageError, AuditUnavailable, and CannotStart if the key of the trail can't be used.
    """
    from registry.app import make_trail  # noqa: PLC0415  # --help needs nothing of it

    opened = OpenedStore(open_driver(settings))
    try:
        await opened.driver.start()
        await check_layout(opened.driver)
        trail = make_trail(settings, opened.driver) if changes else None
        if trail is not None:
            opened.trail = trail
            await trail.start()
        yield opened
    finally:
        if opened.trail is not None:
            await opened.trail.close()
        await opened.driver.close()
