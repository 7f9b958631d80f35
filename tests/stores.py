"""What the tests of the stores share: bytes by the shortest way, a clock that stands, a driver that refuses."""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from storage.blobs import BlobStore
from storage.digest import Digest
from storage.drivers import Capabilities, Driver, SmallObject, Stat, check_key
from storage.errors import StorageRefused
from storage.history import HistoryStore
from storage.memory import MemoryDriver, MemoryReader
from storage.tags import TagStore
from storage.uploads import UploadStore

REPOSITORY = "team/app"
OTHER = "team/other"


class Clock:
    """Tells the time that it was set to, in seconds since the epoch."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class RefusingDriver(MemoryDriver):
    """Refuses to read the objects in `refused`, as a file of another owner is refused (EACCES)."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.refused: set[str] = set()

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        self._refuse(key)
        return await super().get(key, bytes_max=bytes_max)

    async def open(self, key: str) -> MemoryReader:
        self._refuse(key)
        return await super().open(key)

    async def stat(self, key: str) -> Stat:
        self._refuse(key)
        return await super().stat(key)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        # rename(2) over a file asks for the directory's mode only.
        self.refused.discard(key)
        return await super().put(key, body, durable=durable)

    def write(self, key: str, body: bytes) -> str:
        self.refused.discard(key)
        return super().write(key, body)

    def _refuse(self, key: str) -> None:
        if key in self.refused:
            raise StorageRefused("permission denied", key=key)


class PresigningDriver(RefusingDriver):
    """Gives URLs of a store that is not there, for all objects but those in `without_url`; notes what is opened."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.capabilities = Capabilities(presigned_urls=True)
        self.without_url: set[str] = set()
        self.opened: list[str] = []

    async def presign(self, key: str, *, seconds: int) -> str | None:
        return None if check_key(key) in self.without_url else f"https://store.example/{key}?seconds={seconds}"

    async def open(self, key: str) -> MemoryReader:
        self.opened.append(key)
        return await super().open(key)


class Power(BaseException):
    """The power was cut: nothing after this happens."""


class StepDriver(RefusingDriver):
    """Calls `before_write(method, key)` ahead of every change of the store, which may act or cut the power."""

    def __init__(self, before_write: Callable[[str, str], Awaitable[None]] | None = None) -> None:
        super().__init__()
        self.before_write = before_write

    async def create(self, key: str, body: bytes) -> str:
        await self._step("create", key)
        return await super().create(key, body)

    async def replace(self, key: str, body: bytes, *, version: str) -> str:
        await self._step("replace", key)
        return await super().replace(key, body, version=version)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        await self._step("put", key)
        return await super().put(key, body, durable=durable)

    async def delete(self, key: str) -> None:
        await self._step("delete", key)
        await super().delete(key)

    async def delete_version(self, key: str, *, version: str) -> None:
        await self._step("delete_version", key)
        await super().delete_version(key, version=version)

    async def _step(self, method: str, key: str) -> None:
        if self.before_write is not None:
            await self.before_write(method, key)


async def joined(pieces: AsyncIterator[bytes]) -> bytes:
    """Read pieces to their end."""
    return b"".join([piece async for piece in pieces])


async def read_large(driver: Driver, key: str) -> bytes:
    """Read an object that may be large, in pieces."""
    reader = await driver.open(key)
    try:
        return await joined(reader.pieces(0, reader.size))
    finally:
        await reader.close()


async def body_at(driver: MemoryDriver, key: str) -> bytes:
    """Return the bytes of an object."""
    return (await driver.get(key, bytes_max=1 << 30)).body


async def keys_below(driver: MemoryDriver, prefix: str) -> list[str]:
    """Return every key below a prefix."""
    return [entry.key for entry in (await driver.list(prefix, limit=10_000)).entries]


def history_store(driver: Driver, *, clock: Callable[[], float] = time.time) -> HistoryStore:
    """Return the histories of a store."""
    return HistoryStore(driver, clock, lambda: secrets.token_hex(16))


def tag_store(driver: Driver, *, clock: Callable[[], float] = time.time) -> TagStore:
    """Return the tags of a store, whose changes are written down."""
    return TagStore(driver, history_store(driver, clock=clock))


async def push(driver: MemoryDriver, body: bytes, *, repository: str = REPOSITORY, algorithm: str = "sha256") -> Digest:
    """Push a blob as the registry does: a session, its bytes, the commit."""
    store = UploadStore(driver, clock=Clock())
    number = len(await keys_below(driver, "pierhead/uploads/"))
    await store.begin(repository, f"push-{number}", algorithms=["sha256"])
    writer = await store.write(repository, f"push-{number}")
    await writer.append([body])
    digest = Digest.of(body, algorithm)
    ended = store.ended(writer, digest)
    await BlobStore(driver).commit(writer.staged, repository, digest, canonical=Digest.of(body), record=ended)
    await store.finish(writer)
    return digest


def damages(logs: Sequence[object]) -> list[str]:
    """Return the keys that were logged as damaged or unreadable."""
    lines = [line for line in logs if isinstance(line, dict)]
    return [str(line["key"]) for line in lines if line["log_level"] == "error" and "key" in line and "remedy" in line]
