"""What others do between the look and the repair: a repair gives nobody back what was taken meanwhile."""

from collections.abc import Awaitable, Callable

import pytest

from registry.errors import ManifestUnknown
from registry.hashing import Hasher
from registry.inspection import Inspection
from registry.names import Tag
from registry.repair.contents import Contents
from registry.repair.leftovers import Leftovers
from registry.repair.names import Names
from registry.repair.remotes import Remotes
from registry.repair.steps import Tools, Unrepaired
from registry.scan import Tally
from storage import keys
from storage.digest import Digest
from storage.errors import NotFound
from storage.places import read_key
from tests.registry.images import LAYER, encode, image
from tests.registry.services import LATEST, REPOSITORY, Services
from tests.stores import StepDriver, body_at

MANIFEST = Digest.of(encode(image()))
LAYER_LINK = keys.layer_link(REPOSITORY, Digest.of(LAYER))
REVISION_LINK = keys.revision_link(REPOSITORY, MANIFEST)

Act = Callable[[], Awaitable[object]]


class Store:
    """A registry over a driver that others may use ahead of a write, and the tools that repair it."""

    def __init__(self) -> None:
        self.driver = StepDriver()
        self.services = Services(self.driver)
        self.tools = Tools(
            self.driver,
            self.services.manifests._stores,
            self.services.manifests,
            self.services.uploads,
            self.services.history,
            Inspection(self.driver, self._hasher(), clock=self.services.clock, condemn=None),
            self._hasher(),
            Remotes([]),
            Tally(),
            sparse=False,
        )

    def ahead_of(self, method: str, key: str, act: Act) -> None:
        """Let something happen once, right before a write."""

        async def before(written: str, at: str) -> None:
            if (written, at) == (method, key):
                self.driver.before_write = None
                await act()

        self.driver.before_write = before

    def _hasher(self) -> Hasher:
        return Hasher(self.driver, read=lambda _count: None)


@pytest.fixture
async def store() -> Store:
    made = Store()
    await made.services.push(image())
    return made


async def is_there(store: Store, key: str) -> bool:
    try:
        await store.driver.stat(key)
    except NotFound:
        return False
    return True


async def test_a_link_is_taken_back_if_the_manifest_that_needs_it_was_deleted_meanwhile(store: Store) -> None:
    await store.driver.delete(LAYER_LINK)
    step = await Contents(store.tools).incomplete(read_key(REVISION_LINK))
    assert step is not None
    store.ahead_of("put", LAYER_LINK, lambda: store.services.manifests.delete(REPOSITORY, MANIFEST))

    with pytest.raises(Unrepaired, match="deleted meanwhile"):
        await step.do()

    assert not await is_there(store, LAYER_LINK)


async def test_a_link_stays_if_nothing_happens(store: Store) -> None:
    await store.driver.delete(LAYER_LINK)
    step = await Contents(store.tools).incomplete(read_key(REVISION_LINK))
    assert step is not None

    await step.do()

    assert await body_at(store.driver, LAYER_LINK) == str(Digest.of(LAYER)).encode()


async def test_a_damaged_link_that_was_deleted_meanwhile_stays_deleted(store: Store) -> None:
    await store.driver.put(LAYER_LINK, b"")
    step = await Contents(store.tools).layer_link(read_key(LAYER_LINK))
    assert step is not None
    store.ahead_of("replace", LAYER_LINK, lambda: store.driver.delete(LAYER_LINK))

    await step.do()

    assert not await is_there(store, LAYER_LINK)


async def test_a_tag_that_was_pushed_meanwhile_is_left_alone(store: Store) -> None:
    link = keys.tag_link(REPOSITORY, LATEST)
    await store.driver.put(link, b"")
    step = await Names(store.tools).tag(read_key(link))
    assert step is not None
    other = await store.services.push(image(annotations={"n": "2"}), Tag("other"))

    async def push() -> None:
        await store.services.push(image(annotations={"n": "2"}), LATEST)

    store.ahead_of("replace", link, push)

    with pytest.raises(Unrepaired, match="set meanwhile"):
        await step.do()

    assert (await store.services.manifests.get(REPOSITORY, LATEST)).digest == other.digest


async def test_a_manifest_that_only_a_tag_knows_is_held_again_with_everything_it_needs(store: Store) -> None:
    await store.driver.delete(REVISION_LINK)
    step = await Names(store.tools).tag(read_key(keys.tag_link(REPOSITORY, LATEST)))
    assert step is not None

    await step.do()

    assert (await store.services.manifests.get(REPOSITORY, LATEST)).digest == MANIFEST


async def test_a_tag_that_leads_to_another_repositorys_layer_gives_no_right_to_it(store: Store) -> None:
    secret = await store.services.push_blob(b"no manifest, but somebody's secret")
    link = keys.tag_link(REPOSITORY, Tag("odd"))
    await store.driver.put(link, str(secret).encode())
    step = await Names(store.tools).tag(read_key(link))
    assert step is not None

    with pytest.raises(Exception, match=r"(?i)manifest|json"):
        await step.do()

    with pytest.raises(ManifestUnknown):
        await store.services.manifests.get(REPOSITORY, secret)


async def test_the_media_type_of_a_manifest_that_is_pushed_meanwhile_stays(store: Store) -> None:
    key = keys.media_type(REPOSITORY, MANIFEST)
    await store.driver.delete(REVISION_LINK)
    await store.driver.put(key, b"text/plain")
    step = Leftovers(store.tools).media_type(read_key(key))
    assert step is not None
    store.ahead_of("delete", key, lambda: store.driver.put(REVISION_LINK, str(MANIFEST).encode()))

    await step.do()

    assert await body_at(store.driver, key) == b"text/plain"
