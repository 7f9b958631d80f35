"""What the tests of the audit trail share: a trail that was written, and what is found wrong with it."""

from collections.abc import Callable, Iterable
from pathlib import Path

from registry.audit import Event, EventKind, Trail
from registry.audit.chain import Mark, read_head
from registry.audit.verification import Break, Verification
from storage import keys
from storage.drivers import Driver
from storage.memory import MemoryDriver
from tests.stores import Clock

KEY = b"k" * 32


def push(number: int) -> Event:
    """An event with every field in use."""
    return Event(
        EventKind.PUSH,
        actor="user:alice",
        address="192.0.2.1",
        repository="team/app",
        reference=f"v{number}",
        old="sha256:" + "0" * 64,
        new="sha256:" + "1" * 64,
        detail={"agent": "docker"},
    )


async def write(path: Path, driver: Driver | None, events: Iterable[Event], **options: object) -> None:
    """Open a trail, write the events one after the other, and close it."""
    trail = await opened(path, driver, **options)
    try:
        for event in events:
            await trail.write(event)
    finally:
        await trail.close()


async def opened(path: Path | None, driver: Driver | None = None, **options: object) -> Trail:
    """Open a trail."""
    options.setdefault("clock", Clock())
    trail = Trail(path, driver=driver, **options)  # type: ignore[arg-type]
    await trail.start()
    return trail


async def head_of(driver: Driver, key: bytes | None = None) -> Mark:
    """The head record."""
    mark = read_head((await driver.get(keys.audit_head(), bytes_max=512)).body, key)
    assert mark is not None
    return mark


class Written:
    """A trail on a disk, with its head in a store of its own."""

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        self.path = path
        self.key = key
        self.driver = MemoryDriver()

    async def write(self, count: int, *, first: int = 1, **options: object) -> None:
        """Write events."""
        events = (push(number) for number in range(first, first + count))
        await write(self.path, self.driver, events, key=self.key, **options)

    async def breaks(self, *, with_head: bool = True, begins: int = 1) -> list[Break]:
        """What is wrong with it."""
        head = await head_of(self.driver, self.key) if with_head else None
        return list(Verification(self.path, head=head, key=self.key, begins=begins).run())

    async def flaws(self, *, with_head: bool = True, begins: int = 1) -> list[str]:
        """The kinds of what is wrong with it."""
        return [each.flaw.slug for each in await self.breaks(with_head=with_head, begins=begins)]

    @property
    def lines(self) -> list[bytes]:
        """The lines of the current file."""
        return self.path.read_bytes().splitlines(keepends=True)

    def rewrite(self, change: Callable[[list[bytes]], list[bytes]]) -> None:
        """Do something to the lines of the current file."""
        self.path.write_bytes(b"".join(change(self.lines)))

    @property
    def files(self) -> list[Path]:
        """The rotated files, oldest first."""
        return sorted(self.path.parent.glob(f"{self.path.name}.0*"))
