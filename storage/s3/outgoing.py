"""The parts of one multipart upload: those in the bucket, and those on their way."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from storage.errors import NotFound, StorageError
from storage.s3.multiparts import Multiparts
from storage.s3.records import Multipart, Part, Segment


@dataclass(slots=True)
class _Sending:
    """A part that is not known to be in the bucket: its bytes are kept until it is."""

    number: int
    body: bytes
    task: asyncio.Task[Part] | None = None


class Outgoing:
    """Parts go up side by side; `sent` are those in the bucket, in order, as far as that was noticed.

    A part that could not be sent keeps its bytes, and is sent again by `settle`. `on_sent(size)` is called when the
    bytes of one are let go of.
    """

    def __init__(self, multiparts: Multiparts, upload: Multipart | None, *, on_sent: Callable[[int], None]) -> None:
        self.upload = upload
        self.sent = list(upload.parts) if upload else []
        self.failed = asyncio.Event()
        """Set when one could not be sent: its bytes may be the memory that others wait for."""
        self._multiparts = multiparts
        self._on_sent = on_sent
        self._sending: list[_Sending] = []

    @property
    def next_number(self) -> int:
        """The number of the next part."""
        return self.upload.next_number if self.upload else 1

    @property
    def is_empty(self) -> bool:
        """Whether there is no part at all."""
        return not self.sent and not self._sending

    @property
    def under_way(self) -> int:
        """How many parts are not known to be in the bucket."""
        return len(self._sending)

    def recorded(self) -> Multipart | None:
        """What a record says of it: the parts that are in the bucket."""
        return replace(self.upload, parts=tuple(self.sent)) if self.upload else None

    async def begin(self, key: str, *, nonce: str = "") -> None:
        """Begin a multipart upload of an object at `key`."""
        self.upload = await self._multiparts.begin(key, nonce)

    def send(self, body: bytes) -> None:
        """Begin to send one more part."""
        assert self.upload is not None
        sending = _Sending(self.upload.next_number, body)
        self.upload = replace(self.upload, next_number=sending.number + 1)
        self._sending.append(sending)
        self._start(sending)

    async def wait_for_one(self) -> None:
        """Return when a part has arrived or failed, and take note of it."""
        if running := self._running():
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        self.collect()

    def collect(self) -> None:
        """Take note of the parts that have arrived, in order; raise what went wrong with one."""
        failure: BaseException | None = None
        self.failed.clear()
        for each in self._sending:
            if each.task is not None and each.task.done() and not each.task.cancelled():
                failure = failure or each.task.exception()
                if each.task.exception() is not None:
                    each.task = None
        while self._sending and (task := self._sending[0].task) is not None and task.done():
            self.sent.append(task.result())
            self._sending.pop(0)
        if failure is not None:
            raise failure

    async def settle(self) -> None:
        """Return when all parts are in the bucket; what failed before is sent once more."""
        try:
            self.collect()
        except NotFound:
            raise
        except StorageError:
            pass
        for each in self._sending:
            if each.task is None:
                self._start(each)
        while running := self._running():
            await asyncio.wait(running)
        self.collect()

    async def complete(self) -> Segment:
        """Make an object of the parts, all of which are in the bucket. The next part begins another upload."""
        assert self.upload is not None
        segment = await self._multiparts.complete(self.upload, self.sent)
        self.upload, self.sent = None, []
        return segment

    async def abort(self) -> None:
        """Drop the upload and every part of it."""
        self.cancel()
        upload, self.upload, self.sent = self.upload, None, []
        if upload is not None:
            await self._multiparts.abort(upload)

    def cancel(self) -> None:
        """Send nothing more."""
        for each in self._sending:
            if each.task is not None:
                each.task.cancel()
        self._sending = []

    def _start(self, sending: _Sending) -> None:
        assert self.upload is not None
        upload = self.upload

        async def send() -> Part:
            try:
                part = await self._multiparts.send(upload, sending.number, sending.body)
            except BaseException:
                self.failed.set()
                raise
            sending.body = b""
            self._on_sent(part.size)
            return part

        sending.task = asyncio.get_running_loop().create_task(send())
        # It may be cancelled, or fail, with nobody left to ask for it.
        sending.task.add_done_callback(_retrieve)

    def _running(self) -> list[asyncio.Task[Part]]:
        return [each.task for each in self._sending if each.task is not None and not each.task.done()]


def _retrieve(task: asyncio.Task[Part]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
