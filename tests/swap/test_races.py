"""Pushes and deletes that come between two steps of an adoption, one by one."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from registry.adoption import Adoption
from registry.findings import Finding
from registry.hashing import Hasher
from registry.inspection import Inspection
from registry.manifests import Manifests, ManifestStores
from registry.names import RepositoryName, Tag
from registry.rechecks import Rechecks
from registry.referrers import Referrers
from registry.scan import Parts, Scan, Tally
from storage import keys
from storage.blobs import BlobStore
from storage.catalog import CatalogStore
from storage.digest import Digest
from storage.drivers import Driver
from storage.manifests import ManifestStore
from storage.memory import MemoryDriver
from storage.referrers import ReferrerStore
from storage.removals import RemovalStore
from tests.stores import Clock, history_store, tag_store

NAME = RepositoryName("team/app")
SUBJECT = Digest.of(b"whatever it is")
INDEX = (
    b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],'
    b'"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"%s"}}'
) % str(SUBJECT).encode()
DIGEST = Digest.of(INDEX)

Step = Callable[[], Awaitable[None]]

_ids = itertools.count()


class SteppedDriver(MemoryDriver):
    """Lets something happen right before, or right after, the first change of a key."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Step] = {}
        self.after: dict[str, Step] = {}

    async def delete(self, key: str) -> None:
        await self._happen(self.before, key)
        await super().delete(key)
        await self._happen(self.after, key)

    async def put(self, key: str, body: bytes, *, durable: bool = True) -> str:
        await self._happen(self.before, key)
        version = await super().put(key, body, durable=durable)
        await self._happen(self.after, key)
        return version

    async def _happen(self, steps: dict[str, Step], key: str) -> None:
        if step := steps.pop(key, None):
            await step()


class Store:
    """A registry over a driver, and adoptions of it."""

    def __init__(self) -> None:
        self.driver = SteppedDriver()
        self.catalog = CatalogStore(self.driver)
        manifests, referrers = ManifestStore(self.driver), ReferrerStore(self.driver)
        removals = removal_store(self.driver)
        stores = ManifestStores(
            manifests, BlobStore(self.driver), tag_store(self.driver), referrers, self.catalog, removals
        )
        self.manifests = Manifests(stores)
        self.referrers = Referrers(referrers, manifests)

    async def push(self) -> None:
        await self.manifests.put(NAME, Tag("v1"), INDEX, media_type=None)

    async def delete(self) -> None:
        await self.manifests.delete(NAME, DIGEST)

    async def adopt(self) -> list[Finding]:
        found: list[Finding] = []
        await adoption(self.driver, found.append).run()
        return found

    async def listed(self) -> tuple[list[str], int]:
        names, _more = await self.catalog.list(limit=10)
        return names, len((await self.referrers.list(NAME, SUBJECT)).descriptors)


async def nothing() -> AsyncIterator[Finding]:
    findings: list[Finding] = []
    for finding in findings:
        yield finding


async def at_once(_seconds: float) -> None:
    """Do not wait."""


def adoption(driver: Driver, report: Callable[[Finding], None]) -> Adoption:
    """Connect an adoption of a store that is no file system."""
    tally, rechecks = Tally(), Rechecks(report, pause=at_once)
    looks = inspection(driver)
    scan = Scan(driver, looks, rechecks, tally, clock=time.time)
    return Adoption(Parts(driver, looks, scan, removal_store(driver), history_store(driver), rechecks, tally, nothing))


def removal_store(driver: Driver) -> RemovalStore:
    """Removals whose clock stands."""
    return RemovalStore(driver, clock=Clock(), new_id=lambda: f"removal-{next(_ids)}")


def inspection(driver: Driver) -> Inspection:
    """Looks that remember nothing."""
    return Inspection(driver, Hasher(driver, read=lambda _count: None), clock=time.time, condemn=None)


ENTRY, REFERRER = keys.catalog_entry(NAME), keys.referrer(NAME, SUBJECT, DIGEST)


@pytest.fixture
def store() -> Store:
    return Store()


async def test_stale_entries_are_taken_away(store: Store) -> None:
    await store.driver.put(ENTRY, b"")
    await store.driver.put(REFERRER, b"{}")

    await store.adopt()

    found = [entry.key for entry in (await store.driver.list(f"{keys.OURS}/", limit=10)).entries]
    assert [key for key in found if not key.startswith(keys.REMOVALS)] == [keys.IMPORTED]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("key", [ENTRY, REFERRER])
async def test_a_push_beside_the_removal_of_a_stale_entry_keeps_it(store: Store, key: str, when: str) -> None:
    await store.driver.put(ENTRY, b"")
    await store.driver.put(REFERRER, b"{}")
    steps = store.driver.before if when == "before" else store.driver.after
    steps[key] = store.push

    await store.adopt()

    assert await store.listed() == ([NAME], 1)


async def test_a_push_whose_referrer_is_taken_away_before_it_is_visible_puts_it_again(store: Store) -> None:
    async def adopt() -> None:
        await store.adopt()

    store.driver.after[REFERRER] = adopt  # the push has written the entry, and not yet the revision

    await store.push()

    assert await store.listed() == ([NAME], 1)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_delete_beside_the_addition_of_a_referrer_leaves_none(store: Store, when: str) -> None:
    await store.push()
    await store.driver.delete(REFERRER)
    steps = store.driver.before if when == "before" else store.driver.after
    steps[REFERRER] = store.delete
    found: list[Finding] = []

    # Only this step: the last ones of a whole adoption would take a stale entry away again, unless it is killed.
    examined = await inspection(store.driver).revision(NAME, DIGEST)
    await adoption(store.driver, found.append).revision(NAME, DIGEST, examined)

    assert (await store.driver.list(keys.referrers(NAME, SUBJECT), limit=10)).entries == []


async def test_what_is_being_deleted_is_no_finding(store: Store) -> None:
    await store.push()
    await store.driver.put(keys.tag_link(NAME, "gone"), str(SUBJECT).encode())

    async def tidy(_seconds: float) -> None:
        await store.driver.delete(keys.tag_link(NAME, "gone"))

    found: list[Finding] = []
    rechecks = Rechecks(found.append, pause=tidy)
    looks = inspection(store.driver)
    assert await looks.tag(NAME, "gone")
    await rechecks.check(lambda: looks.tag(NAME, "gone"))
    await rechecks.settle()

    assert found == []
