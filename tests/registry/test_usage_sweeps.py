"""A sweep makes the usage of a prefix exact again, whatever was pushed, deleted or lost meanwhile."""

import os

import pytest
import structlog.testing

from registry import usage_sweeps
from registry.names import RepositoryName, Tag
from registry.usage_sweeps import SETTLED_SECONDS
from storage import keys
from storage.digest import SHA512, Digest
from storage.memory import MemoryDriver
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.registry.services import LATEST, OTHER, REPOSITORY, Services, body
from tests.stores import Clock, keys_below

IMAGE_BYTES = len(CONFIG) + len(LAYER) + len(encode(image()))
LARGE = 10_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(clock: Clock) -> Services:
    return Services(clock=clock, quotas={"team": LARGE})


async def additions(services: Services, prefix: str = "team") -> int:
    return len(await keys_below(services.driver, keys.usage_additions(prefix)))


async def test_what_was_there_before_the_quota_is_counted_by_the_first_sweep(clock: Clock) -> None:
    before = Services(clock=clock)
    await before.push(image())
    services = Services(before.driver, clock=clock, quotas={"*": LARGE})

    await services.usage_sweep().sweep()

    assert await services.used("team") == IMAGE_BYTES


async def test_a_count_takes_settled_additions_in_and_leaves_the_others(services: Services, clock: Clock) -> None:
    await services.push(image())
    clock.now += SETTLED_SECONDS + 1
    await services.push_blob(b"young")

    await services.usage_sweep().sweep()

    assert await additions(services) == 1
    assert await services.used("team") == IMAGE_BYTES + 5


async def test_what_is_deleted_is_free_with_the_next_sweep(services: Services, clock: Clock) -> None:
    pushed = await services.push(image())
    clock.now += SETTLED_SECONDS + 1
    sweep = services.usage_sweep(recount_seconds=1e9)
    await sweep.sweep()
    clock.now += 10

    await services.manifests.delete(REPOSITORY, pushed.digest)
    await services.blobs.delete(REPOSITORY, Digest.of(LAYER))
    assert await services.used("team") == IMAGE_BYTES
    await sweep.sweep()

    assert await services.used("team") == len(CONFIG)


async def test_a_deleted_blob_that_another_repository_below_links_to_is_not_free(
    services: Services, clock: Clock
) -> None:
    for repository in (REPOSITORY, OTHER):
        await services.push_blob(b"some bytes", repository=repository)
    clock.now += SETTLED_SECONDS + 1

    await services.blobs.delete(REPOSITORY, Digest.of(b"some bytes"))
    await services.usage_sweep().sweep()

    assert await services.used("team") == 10


async def test_what_was_deleted_a_moment_after_its_push_stays_counted_until_its_addition_has_settled(
    services: Services, clock: Clock
) -> None:
    digest = await services.push_blob(b"some bytes")
    await services.blobs.delete(REPOSITORY, digest)

    await services.usage_sweep().sweep()
    assert await services.used("team") == 10
    clock.now += SETTLED_SECONDS - 1
    await services.usage_sweep(recount_seconds=1e9).sweep()
    assert await services.used("team") == 10
    await services.removals.expire(services.tag_store.forget_if_gone)
    clock.now += 1.1
    await services.usage_sweep(recount_seconds=1e9).sweep()

    assert await services.used("team") == 0


@pytest.mark.parametrize("kind", ["blob", "manifest", "repository", "collection"])
async def test_whatever_removes_links_makes_a_count_by_its_announcement(
    services: Services, clock: Clock, kind: str
) -> None:
    digest = await services.push_blob(b"some bytes", repository=OTHER)
    clock.now += SETTLED_SECONDS + 1
    sweep = services.usage_sweep(recount_seconds=1e9)
    await sweep.sweep()
    announced = {
        "blob": lambda: services.removals.of_blob(OTHER, digest),
        "manifest": lambda: services.removals.of_manifest(OTHER, digest),
        "repository": lambda: services.removals.of_repository(OTHER),
        "collection": lambda: services.removals.of_collection(OTHER, "f" * 32),
    }
    clock.now += 10

    async with announced[kind]():
        await services.driver.delete(keys.layer_link(OTHER, digest))
    await sweep.sweep()

    assert await services.used("team") == 0


async def test_a_deleted_tag_alone_makes_no_count(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.push(image(), tags=[])
    sweep = services.usage_sweep()
    await sweep.sweep()
    clock.now += 100
    await services.manifests.delete(REPOSITORY, LATEST)

    async def count(*_arguments: object) -> None:
        raise AssertionError("it was counted")

    monkeypatch.setattr(sweep, "_count", count)
    await sweep.sweep()


async def test_many_additions_are_merged_without_a_walk(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_sweeps, "MERGED_MIN", 3)
    sweep = services.usage_sweep(recount_seconds=1e9)
    await services.push_blob(b"0")
    await sweep.sweep()
    for text in (b"22", b"333", b"22"):
        await services.quotas.reserve(REPOSITORY, Digest.of(text), len(text))
    clock.now += SETTLED_SECONDS + 1

    monkeypatch.setattr(sweep, "_count", None)
    await sweep.sweep()

    assert await additions(services) == 0
    assert await services.used("team") == 1 + 2 + 3
    assert (await services.usage.view("team")).holds(Digest.of(b"333"))


async def test_a_blob_that_is_known_by_two_digests_counts_once(services: Services) -> None:
    content = b"some bytes"
    for digest in (Digest.of(content), Digest.of(content, SHA512)):
        await services.uploads.put(REPOSITORY, digest, body(content))

    assert await services.used("team") == 10
    await services.usage_sweep().sweep()

    assert (await services.usage.view("team")).head is not None
    assert await services.used("team") == 10


async def test_a_link_whose_bytes_are_gone_takes_no_space_until_they_are_back(services: Services, clock: Clock) -> None:
    digest = await services.push_blob(b"some bytes")
    await services.driver.delete(keys.blob(digest))
    clock.now += SETTLED_SECONDS + 1
    sweep = services.usage_sweep(recount_seconds=60)
    await sweep.sweep()
    assert await services.used("team") == 10  # its addition knows the size
    clock.now += 100
    await sweep.sweep()

    await services.driver.put(keys.blob(digest), b"some bytes")
    clock.now += 100
    await sweep.sweep()

    assert await services.used("team") == 10


async def test_a_push_that_comes_while_links_are_counted_is_not_lost(clock: Clock) -> None:
    driver = MemoryDriver()
    services, counting = (Services(driver, clock=clock, quotas={"team": LARGE}) for _ in range(2))
    await services.push_blob(b"there before")
    clock.now += SETTLED_SECONDS + 1
    walked = driver.list
    pushed = False

    async def push_behind_the_walk(prefix: str, **options: object) -> object:
        nonlocal pushed
        page = await walked(prefix, **options)  # type: ignore[arg-type]
        if prefix == f"{keys.REPOSITORIES}team/" and not pushed:
            pushed = True
            await services.push_blob(b"meanwhile", repository=RepositoryName("team/aaa"))
        return page

    driver.list = push_behind_the_walk  # type: ignore[method-assign,assignment]
    await counting.usage_sweep().sweep()

    assert pushed
    assert await services.used("team") == len(b"there before") + len(b"meanwhile")


async def test_a_prefix_rests_after_a_count_that_took_long(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.push(image())
    sweep = services.usage_sweep(recount_seconds=1)
    linked = sweep._linked

    async def slowly(*arguments: object) -> object:
        clock.now += 60
        return await linked(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "_linked", slowly)
    began = clock.now
    await sweep.sweep()
    clock.now = began + 1100
    await sweep.sweep()
    assert (await services.usage.view("team")).head.began == began  # type: ignore[union-attr]
    clock.now = began + 1201
    await sweep.sweep()

    assert (await services.usage.view("team")).head.began == began + 1201  # type: ignore[union-attr]


async def test_what_is_removed_while_a_prefix_rests_is_free_when_it_has_rested(
    services: Services, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await services.push_blob(b"some bytes")
    await services.push_blob(b"others")
    clock.now += SETTLED_SECONDS + 1
    sweep = services.usage_sweep(recount_seconds=1e9)
    linked = sweep._linked

    async def slowly(*arguments: object) -> object:
        clock.now += 60
        return await linked(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "_linked", slowly)
    began = clock.now
    await sweep.sweep()
    await services.blobs.delete(REPOSITORY, digest)
    await sweep.sweep()
    clock.now = began + 1100
    await services.removals.expire(services.tag_store.forget_if_gone)
    assert await keys_below(services.driver, keys.REMOVALS) == []
    await sweep.sweep()
    assert await services.used("team") == len(b"some bytesothers")
    clock.now = began + 1201

    await sweep.sweep()

    assert await services.used("team") == len(b"others")


async def test_a_deleted_repository_is_free_and_what_was_known_of_its_prefix_goes(
    services: Services, clock: Clock
) -> None:
    await services.push(image())
    clock.now += SETTLED_SECONDS + 1
    sweep = services.usage_sweep(recount_seconds=1e9)
    await sweep.sweep()
    clock.now += 10

    await services.repositories.delete(REPOSITORY)
    await sweep.sweep()

    assert await services.used("team") == 0
    assert await keys_below(services.driver, keys.USAGE) == []


async def test_a_prefix_that_is_at_rest_is_looked_at_once_a_sweep(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    await services.push(image())
    await services.usage_sweep().sweep()
    for key in await keys_below(services.driver, keys.usage_additions("team")):
        await services.driver.delete(key)
    sweep = services.usage_sweep()

    async def view(_prefix: str) -> None:
        raise AssertionError("more than its head was looked at")

    monkeypatch.setattr(services.usage, "view", view)
    await sweep.sweep()


async def test_what_is_stored_of_a_prefix_goes_with_its_quota(services: Services) -> None:
    await services.push(image())
    await services.usage_sweep().sweep()
    other = Services(services.driver, quotas={"another": LARGE})

    assert await other.usage_sweep().sweep() > 1

    assert await keys_below(services.driver, keys.USAGE) == []


async def test_a_prefix_of_which_nothing_is_left_comes_to_nothing(services: Services, clock: Clock) -> None:
    await services.push(image())
    clock.now += SETTLED_SECONDS + 1
    await services.usage_sweep().sweep()
    for key in await keys_below(services.driver, "docker/registry/v2/repositories/"):
        await services.driver.delete(key)
    await services.driver.delete(keys.catalog_entry(REPOSITORY))
    clock.now += 4000

    await services.usage_sweep().sweep()

    assert await services.used("team") == 0


async def test_the_log_warns_once_for_each_share_that_is_passed(clock: Clock) -> None:
    services = Services(clock=clock, quotas={"team": 100})
    sweep = services.usage_sweep(warn_percent=(50, 80))
    told = []
    for size in (49, 5, 5, 25, 1):
        await services.push_blob(os.urandom(size))
        with structlog.testing.capture_logs() as logs:
            await sweep.sweep()
            await sweep.sweep()
        told.append([line["percent"] for line in logs if line["log_level"] == "warning"])

    assert told == [[], [54], [], [84], []]


async def test_a_tag_that_is_set_again_costs_nothing_of_the_quota(services: Services, clock: Clock) -> None:
    pushed = await services.push(image())
    for tag in ("a", "b", "c"):
        await services.manifests.put(REPOSITORY, Tag(tag), encode(image()), media_type=None)
    clock.now += SETTLED_SECONDS + 1
    await services.usage_sweep().sweep()

    assert await services.used("team") == IMAGE_BYTES
    assert await services.manifest_store.exists(REPOSITORY, pushed.digest)
