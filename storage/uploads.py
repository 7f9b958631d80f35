"""Upload sessions as they lie in storage: a record, and staged bytes that have one writer at a time.

Nothing of a session is kept in memory, so any worker may take the next request of it. The record is that of the
staged bytes: it changes together with them, and leads the sweep to them.
"""

import base64
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import UnionType

import structlog

from storage import keys
from storage.digest import Digest, RunningHash
from storage.drivers import Driver, StagedWriter, check_key
from storage.errors import Busy, Corrupt, NotFound, StorageRefused
from storage.walk import walk

RECORD_STORED_BYTES_MAX = 4 << 20
"""A driver may keep more in the object than the record."""

SWEEP_PAGE = 500

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadRecord:
    """What a session knows of itself.

    `hashed` bytes have gone into the running hashes whose exported states are in `states` (by algorithm).
    A session whose `digest` is set has ended well at `touched`; times are seconds since the epoch.
    """

    id: str
    repository: str
    algorithms: tuple[str, ...]
    created: float
    touched: float
    hashed: int = 0
    states: dict[str, str] = field(default_factory=dict)
    digest: str | None = None

    def to_json(self) -> bytes:
        """The record as it is stored."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "UploadRecord":
        """Read a stored record. Raises ValueError if it is none, whatever has become of its bytes."""
        try:
            fields = json.loads(text.partition(b"\n")[0])
            record = cls(**{**fields, "algorithms": tuple(fields["algorithms"])})
            texts = (record.id, record.repository, *record.algorithms, *record.states, *record.states.values())
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        typed: tuple[tuple[tuple[object, ...], type | UnionType], ...] = (
            (texts, str),
            ((record.created, record.touched), int | float),
            ((record.hashed,), int),
            ((record.digest,), str | None),
        )
        if not all(isinstance(value, kind) for values, kind in typed for value in values):
            raise ValueError("a field is of another type")
        check_key(keys.upload_bytes(record.repository, record.id))
        return record


@dataclass(frozen=True, slots=True)
class Upload:
    """A session as a client may see it: its record and the bytes kept so far."""

    record: UploadRecord
    size: int


class UploadStore:
    """All sessions of all repositories."""

    def __init__(self, driver: Driver, *, clock: Callable[[], float]) -> None:
        self._driver = driver
        self._clock = clock

    async def begin(self, repository: str, upload: str, *, algorithms: Sequence[str]) -> Upload:
        """Begin an empty session. A power cut may lose it until its first bytes are acknowledged."""
        now = self._clock()
        record = UploadRecord(upload, repository, tuple(algorithms), created=now, touched=now)
        if self._driver.capabilities.staged_in_place:
            started = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").encode()
            await self._driver.put(keys.upload_started(repository, upload), started, durable=False)
        await self._driver.stage(
            keys.upload_bytes(repository, upload), text=record.to_json(), record=keys.upload_record(upload)
        )
        return Upload(record, 0)

    async def find(self, repository: str, upload: str) -> Upload:
        """Look at an open session. Raises NotFound, also for a session of another repository."""
        record = await self.record(repository, upload)
        if record.digest is not None:
            raise NotFound("the upload session has ended", key=keys.upload_record(upload))
        staged = await self._driver.stat_staged(
            keys.upload_bytes(repository, upload), record=keys.upload_record(upload)
        )
        return Upload(record, staged.size)

    async def record(self, repository: str, upload: str) -> UploadRecord:
        """Read the record of a session, ended ones included. Raises NotFound."""
        record = await self._read(upload)
        _check_repository(record, repository)
        return record

    async def write(self, repository: str, upload: str) -> "UploadWriter":
        """Become the session's writer. Raises NotFound, also for another repository's, or Busy if it has one."""
        key = keys.upload_record(upload)
        staged = await self._driver.open_staged(keys.upload_bytes(repository, upload), record=key)
        try:
            record = self._parse(upload, staged.record)
            _check_repository(record, repository)
            if record.digest is not None:
                raise NotFound("the upload session has ended", key=key)
            hashes = await _resume(record, staged)
        except BaseException:
            await staged.close()
            raise
        return UploadWriter(record, staged, hashes)

    async def save(self, writer: "UploadWriter") -> None:
        """Make the bytes so far durable, and with them their hash states."""
        states = writer.states()
        hashed = writer.size if states else 0
        record = replace(writer.record, touched=self._clock(), hashed=hashed, states=states)
        await writer.staged.flush(record.to_json())

    def ended(self, writer: "UploadWriter", digest: Digest) -> bytes:
        """The record of a session that has ended well with `digest`, for the commit of its bytes."""
        ended = replace(writer.record, touched=self._clock(), hashed=0, states={}, digest=str(digest))
        return ended.to_json()

    async def finish(self, writer: "UploadWriter") -> None:
        """Drop what only open sessions have; the bytes have been committed before."""
        if self._driver.capabilities.staged_in_place:
            await self._driver.delete(keys.upload_started(writer.record.repository, writer.record.id))

    async def cancel(self, repository: str, upload: str) -> None:
        """End a session and drop its bytes, also from under a writer."""
        if self._driver.capabilities.staged_in_place:
            await self._driver.delete(keys.upload_started(repository, upload))
        await self._driver.discard(keys.upload_bytes(repository, upload), record=keys.upload_record(upload))

    async def of_repository(self, repository: str) -> list[str]:
        """The open sessions of a repository, by a look at all sessions of the store."""
        return [record.id async for record in self._open() if record.repository == repository]

    async def open_since(self) -> dict[str, float]:
        """When the oldest open session of each repository was begun; damaged and unreadable ones are left out."""
        found: dict[str, float] = {}
        async for record in self._open():
            found[record.repository] = min(record.created, found.get(record.repository, record.created))
        return found

    async def _open(self) -> AsyncIterator[UploadRecord]:
        """The records of all sessions that are open and can be read."""
        async for place in walk(self._driver, keys.UPLOADS):
            try:
                record = await self._read(place.name)
            except (NotFound, StorageRefused):
                continue
            if record.digest is None:
                yield record

    async def expire(self, *, idle_seconds: float, lifetime_seconds: float, ended_seconds: float) -> int:
        """Drop sessions that nobody uses any more, and forget ended ones; returns how many."""
        dropped, after = 0, ""
        while True:
            page = await self._driver.list(keys.UPLOADS, after=after, limit=SWEEP_PAGE)
            for entry in page.entries:
                upload = entry.key.removeprefix(keys.UPLOADS)
                dropped += await self._expire_one(upload, idle_seconds, lifetime_seconds, ended_seconds)
            if not page.more:
                return dropped
            after = page.entries[-1].key

    async def _expire_one(
        self, upload: str, idle_seconds: float, lifetime_seconds: float, ended_seconds: float
    ) -> bool:
        now = self._clock()
        try:
            record = await self._read(upload)
        except Corrupt:
            await self._driver.delete(keys.upload_record(upload))
            return True
        except NotFound:
            return False
        except StorageRefused as error:
            # One file of another owner must not keep all other sessions from being swept.
            log.error("unreadable upload record", key=error.key, remedy="check owner and mode of the file")
            return False
        if record.digest is not None:
            if now - record.touched < ended_seconds:
                return False
            await self._driver.delete(keys.upload_record(upload))
            return True
        if not await self._is_unused(record, idle_seconds, lifetime_seconds):
            return False
        try:
            writer = await self._driver.open_staged(
                keys.upload_bytes(record.repository, upload), record=keys.upload_record(upload)
            )
        except Busy:
            return False
        except NotFound:
            await self.cancel(record.repository, upload)
            return True
        try:
            # Looked at again under the lock: a request may have come and gone since.
            if not await self._is_unused(await self._read(upload), idle_seconds, lifetime_seconds):
                return False
            await self.cancel(record.repository, upload)
        except NotFound:
            return False  # ended by somebody else meanwhile
        finally:
            await writer.close()
        return True

    async def _is_unused(self, record: UploadRecord, idle_seconds: float, lifetime_seconds: float) -> bool:
        used = record.touched
        with contextlib.suppress(NotFound):
            staged = await self._driver.stat_staged(
                keys.upload_bytes(record.repository, record.id), record=keys.upload_record(record.id)
            )
            used = max(used, staged.modified)
        now = self._clock()
        return record.digest is None and (now - used >= idle_seconds or now - record.created >= lifetime_seconds)

    async def _read(self, upload: str) -> UploadRecord:
        key = keys.upload_record(upload)
        try:
            text = (await self._driver.get(key, bytes_max=RECORD_STORED_BYTES_MAX)).body
        except Corrupt as error:
            raise _damaged(key, error) from error
        return self._parse(upload, text)

    def _parse(self, upload: str, text: bytes) -> UploadRecord:
        key = keys.upload_record(upload)
        try:
            record = UploadRecord.from_json(text)
            if record.id != upload:
                raise ValueError("it is another session's")
        except ValueError as error:
            raise _damaged(key, error) from error
        return record


class UploadWriter:
    """The one writer of a session: appends bytes and hashes each of them once, in the thread that writes."""

    def __init__(self, record: UploadRecord, staged: StagedWriter, hashes: list[RunningHash]) -> None:
        self.record = record
        self.staged = staged
        self.hashes = hashes
        self._opened = (staged.size, self.states())

    @property
    def size(self) -> int:
        """Bytes kept so far."""
        return self.staged.size

    async def append(self, pieces: Sequence[bytes]) -> None:
        """Append pieces at the end. Raises NotFound if the session was cancelled meanwhile."""
        await self.staged.write(pieces, self._hash)

    async def roll_back(self, size: int) -> None:
        """Take back everything after the first `size` bytes.

        The running hashes go back as well if `size` is what the writer began with; else they are void.
        """
        await self.staged.truncate(size)
        opened, states = self._opened
        algorithms = [running.algorithm for running in self.hashes]
        if size == 0:
            self.hashes = [RunningHash(algorithm) for algorithm in algorithms]
        elif size == opened and states.keys() >= set(algorithms):
            self.hashes = [_restored(states, algorithm) for algorithm in algorithms]
        else:
            self.hashes = []

    def also_hash(self, algorithm: str) -> None:
        """Compute a further digest while bytes arrive; too late once there are any."""
        if self.size == 0 and all(running.algorithm != algorithm for running in self.hashes):
            self.hashes.append(RunningHash(algorithm))

    async def digest(self, algorithm: str) -> Digest:
        """The digest of all bytes kept, from the running hash if there is one, else by reading them."""
        for running in self.hashes:
            if running.algorithm == algorithm and running.count == self.size:
                return running.digest()
        running = RunningHash(algorithm)
        await _read_into([running], self.staged, 0)
        return running.digest()

    def states(self) -> dict[str, str]:
        """The running hashes as text, by algorithm; empty where they can't be exported.

        A write that failed half-way has hashed bytes that were not kept: such a state is worth nothing.
        """
        exported = {h.algorithm: h.export() for h in self.hashes if h.count == self.size}
        return {algorithm: _encode(state) for algorithm, state in exported.items() if state is not None}

    async def close(self) -> None:
        """Release the session to the next writer."""
        await self.staged.close()

    def _hash(self, pieces: Sequence[bytes]) -> None:
        for running in self.hashes:
            for piece in pieces:
                running.update(piece)


def _check_repository(record: UploadRecord, repository: str) -> None:
    if record.repository != repository:
        raise NotFound("no such upload session in this repository", key=keys.upload_record(record.id))


def _damaged(key: str, error: Exception) -> Corrupt:
    log.error("damaged upload record", key=key, reason=str(error), remedy="push the blob again")
    return Corrupt("the upload record is damaged", key=key)


async def _resume(record: UploadRecord, staged: StagedWriter) -> list[RunningHash]:
    """The running hashes as of the last byte kept, or none if they are to be had only by reading it all.

    A server that was killed in the middle of a request leaves bytes that no saved state covers: they are
    read once more. Where states cannot be exported nothing is hashed before the end, for reading everything
    again at each chunk would make many chunks quadratic.
    """
    if record.hashed > staged.size:
        return []  # a power cut took bytes that the state covers
    try:
        hashes = [
            _restored(record.states, algorithm) if record.hashed else RunningHash(algorithm)
            for algorithm in record.algorithms
        ]
    except (KeyError, ValueError):
        return []
    if staged.size > record.hashed:
        if any(running.export() is None for running in hashes):
            return []
        await _read_into(hashes, staged, record.hashed)
    return hashes


def _restored(states: Mapping[str, str], algorithm: str) -> RunningHash:
    return RunningHash.restore(algorithm, base64.b64decode(states[algorithm]))


async def _read_into(hashes: Sequence[RunningHash], staged: StagedWriter, start: int) -> None:
    async for piece in staged.pieces(start, staged.size - start):
        for running in hashes:
            running.update(piece)


def _encode(state: bytes) -> str:
    return base64.b64encode(state).decode("ascii")
