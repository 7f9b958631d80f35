"""The trail as the registry uses it: events in, lines out, and the head record in the store."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from registry.audit.chain import GENESIS, HEAD_BYTES_MAX, Mark, read_head, seal, write_head
from registry.audit.endings import GROUP_MAX
from registry.audit.events import Event, EventKind
from registry.audit.files import Stamped, TrailFile
from registry.audit.outputs import Output
from registry.errors import Unavailable
from storage import keys
from storage.drivers import Driver
from storage.errors import Corrupt, NotFound, StorageError
from storage.threads import Threads

WAITING_MAX = 10_000
"""How many events may wait to be appended; more are refused."""

log = structlog.get_logger(__name__)


class AuditUnavailable(Unavailable):
    """An event could not be recorded. Why is in the log: the message goes to clients."""

    def __init__(self) -> None:
        super().__init__("the registry's audit trail can't be written: tell its operator, and try again later")


class Head:
    """How far the chain has come, kept in the store: elsewhere than the lines."""

    def __init__(self, driver: Driver, key: bytes | None, name: str, *, sync: bool) -> None:
        self._driver = driver
        self._key = key
        self._at = keys.audit_head(name)
        self._sync = sync

    async def get(self) -> Mark | None:
        """What was recorded last; None before the first time. Raises StorageError if it can't be told."""
        try:
            body = (await self._driver.get(self._at, bytes_max=HEAD_BYTES_MAX)).body
        except Corrupt:
            raise
        except NotFound:
            return None
        if mark := read_head(body, self._key):
            return mark
        raise Corrupt("no head record, or not of this key: verify the trail, then remove it", key=self._at)

    async def put(self, mark: Mark) -> None:
        """Record how far the chain has come. Raises StorageError."""
        await self._driver.put(self._at, write_head(mark, self._key), durable=self._sync)


class Trail:
    """Every event that was awaited is in the trail: in the file, which is the trail, or without one on stdout.

    Any number of processes may write to one file at once. `driver` is where the head record goes, `name` which one it
    is among those of several machines that share a store. With `key`, each line and the head carry an HMAC. With
    `sync` an event survives a power cut. A file that has reached `bytes_max` is rotated, and of the rotated ones the
    `keep` newest are kept (all of them unless given).
    """

    def __init__(
        self,
        path: Path | None,
        *,
        stdout: bool = False,
        driver: Driver | None = None,
        clock: Callable[[], float] = time.time,
        key: bytes | None = None,
        sync: bool = False,
        bytes_max: int | None = None,
        keep: int | None = None,
        name: str = "head",
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError("at least one rotated file is kept")
        self._clock = clock
        self._key = key
        self._output = Output() if stdout else None
        self._head = Head(driver, key, name, sync=sync) if driver and path else None
        self._file: TrailFile | None = None
        if path is not None:
            self._file = TrailFile(
                path, key=key, clock=clock, output=self._output, sync=sync, bytes_max=bytes_max, keep=keep
            )
        self._threads = Threads(1, name="audit")
        self._waiting: deque[tuple[Stamped, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._failures = 0
        self._printed = GENESIS
        self._chain = secrets.token_hex(8)

    async def start(self) -> None:
        """See that the trail can be written to. Raises OSError or StorageError saying what is wrong if not."""
        if self._file is not None:
            try:
                await self._threads.run(self._file.acquire)
                await self._threads.run(self._file.ending, await self._head.get() if self._head else None)
            finally:
                self._file.release()
        self._task = asyncio.create_task(self._append_for_ever())

    async def close(self) -> None:
        """Append what waits, and let go of the file. Nothing can be written afterwards. Safe to call twice."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
            self._task = None
        if self._file is not None:
            self._file.close()
        await self._threads.close()

    async def write(self, event: Event) -> None:
        """Return when the event is recorded. Raises AuditUnavailable.

        A caller that is cancelled meanwhile does not take it back.
        """
        if self._closing or self._task is None or len(self._waiting) >= WAITING_MAX:
            raise AuditUnavailable
        recorded = asyncio.get_running_loop().create_future()
        self._waiting.append(((self._clock(), event.fields()), recorded))
        self._wake.set()
        await recorded

    async def _append_for_ever(self) -> None:
        while not self._closing or self._waiting:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(GROUP_MAX, len(self._waiting)))]
                try:
                    await self._append([stamped for stamped, _ in group])
                except (OSError, StorageError) as error:
                    self._fail(group, error)
                except Exception as error:  # a background job must survive
                    log.exception("appending to the audit trail failed")
                    self._fail(group, error)
                else:
                    self._succeed(group)

    async def _append(self, events: Sequence[Stamped]) -> None:
        if self._file is None:
            await self._threads.run(self._print, events)
            return
        try:
            mark = await self._threads.run(self._file.acquire_and_append, events)
            if mark is None:
                mark = await self._append_after_others(self._file, events)
            if self._head:
                await self._head.put(mark)
        except BaseException:
            self._file.forget()
            raise
        finally:
            # Held until the head is recorded, so that nobody ever finds two groups ahead of it.
            self._file.release()

    async def _append_after_others(self, file: TrailFile, events: Sequence[Stamped]) -> Mark:
        head = await self._head.get() if self._head else None
        ending = await self._threads.run(file.ending, head)
        if self._head and ending.is_ahead:
            await self._head.put(ending.mark)
        for note in ending.notes:
            tell = log.info if note.kind is EventKind.ROTATED else log.error
            tell("the audit trail was not as it was left", event_kind=note.kind.value, **note.detail)
        return await self._threads.run(file.append, ending.mark, ending.notes, events, newline=ending.lacks_newline)

    def _print(self, events: Sequence[Stamped]) -> None:
        """Without a file there is nothing that processes could share: each has a chain of its own, named `chain`."""
        lines, mark = [], self._printed
        for at, fields in events:
            line, mark = seal({"chain": self._chain, **fields}, mark, time=at, key=self._key)
            lines.append(line)
        if self._output is not None:
            self._output.write(lines)
        self._printed = mark

    def _fail(self, group: Sequence[tuple[Stamped, asyncio.Future[None]]], error: Exception) -> None:
        if not self._failures:
            log.error("the audit trail can't be written", reason=str(error) or type(error).__name__)
        self._failures += len(group)
        for _, recorded in group:
            if not recorded.done():
                recorded.set_exception(AuditUnavailable())

    def _succeed(self, group: Sequence[tuple[Stamped, asyncio.Future[None]]]) -> None:
        if self._failures:
            log.warning("the audit trail can be written again", events_lost=self._failures)
            self._failures = 0
        for _, recorded in group:
            if not recorded.done():
                recorded.set_result(None)
