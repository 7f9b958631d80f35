"""A repair lets an immutable tag point at what it points at, or leaves it."""

from dataclasses import replace

import pytest

from registry.immutability import Immutability
from registry.names import Tag
from registry.repair.names import Names
from registry.repair.steps import Tools
from registry.tag_rules import ImmutableTags
from storage import keys
from storage.digest import Digest
from storage.places import read_key
from tests.registry.images import encode, image
from tests.registry.services import REPOSITORY
from tests.repair.test_races import Store

V1 = Tag("v1")
IMMUTABLE = Immutability([ImmutableTags(repositories=("**",), tags=("v*",))])
EARLIER, LATER = image(annotations={"is": "earlier"}), image(annotations={"is": "later"})


@pytest.fixture
async def store() -> Store:
    """Return a store whose tag was moved before a rule made it immutable."""
    made = Store()
    for document in (EARLIER, LATER):
        await made.services.push(document, V1)
    return made


async def repair(tools: Tools) -> bool:
    step = await Names(tools).tag(read_key(keys.tag_link(REPOSITORY, V1)))
    if step is not None:
        await step.do()
    return step is not None


@pytest.mark.parametrize("is_immutable", [False, True])
async def test_an_immutable_tag_never_goes_back_to_another_image(store: Store, is_immutable: bool) -> None:
    later = Digest.of(encode(LATER))
    await store.driver.delete(keys.revision_link(REPOSITORY, later))
    await store.driver.delete(keys.blob(later))
    tools = replace(store.tools, immutability=IMMUTABLE) if is_immutable else store.tools

    assert await repair(tools) is not is_immutable

    expected = later if is_immutable else Digest.of(encode(EARLIER))
    assert await store.services.tag_store.get(REPOSITORY, V1) == expected


async def test_a_damaged_link_of_an_immutable_tag_is_written_again(store: Store) -> None:
    store.driver.write(keys.tag_link(REPOSITORY, V1), b"")

    assert await repair(replace(store.tools, immutability=IMMUTABLE))

    assert await store.services.tag_store.get(REPOSITORY, V1) == Digest.of(encode(LATER))
