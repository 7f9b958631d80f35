"""A recount tells of every prefix what it alone holds and what it shares, as the plainest sum has it."""

import os
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import recounts
from registry.names import RepositoryName
from registry.recounts import Held, Recount, Recounting, UsageReport
from registry.scan import Tally
from storage import keys
from storage.digest import SHA512, Digest
from storage.drivers import Sized
from tests.registry.images import CONFIG, LAYER, encode, image
from tests.registry.services import OTHER, REPOSITORY, Services, body

NAMES = ["a", "a/b", "a/b/c", "a/bb", "b", "b/b", "c/d/e"]
DIGESTS = [Digest.of(bytes([number])) for number in range(12)]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 11))))
def test_it_is_the_plainest_sum(links: Sequence[tuple[str, int]]) -> None:
    recount = Recount()
    for number, digest in enumerate(DIGESTS):
        recount.size(digest, 1 << number)
    for name, number in links:
        recount.link(name, DIGESTS[number], is_manifest=False)

    report = recount.report(7.0)

    for prefix in ("", "a", "a/b", "a/b/c", "a/bb", "b", "b/b", "c", "c/d", "c/d/e"):
        inside = {number for name, number in links if not prefix or f"{name}/".startswith(f"{prefix}/")}
        outside = {number for name, number in links if prefix and not f"{name}/".startswith(f"{prefix}/")}
        found = report.held.get(prefix, Held())
        assert found.unique == sum(1 << number for number in inside - outside), prefix
        assert found.shared == sum(1 << number for number in inside & outside), prefix
    assert UsageReport.from_json(report.to_json()) == report


async def test_a_store_is_counted_by_a_walk() -> None:
    services = Services()
    await services.push(image())
    await services.push(image(annotations={"a": "b"}))
    await services.push(image(), repository=OTHER)
    await services.push_blob(b"alone", repository=RepositoryName("another"))
    await services.uploads.put(RepositoryName("another"), Digest.of(b"alone", SHA512), body(b"alone"))
    await services.driver.put(keys.blob(Digest.of(b"garbage")), b"garbage")

    report = await Recounting(services.driver, Tally()).run(1.0)

    one, two = len(encode(image())), len(encode(image(annotations={"a": "b"})))
    both = len(CONFIG) + len(LAYER) + one
    assert report.held == {
        "": Held(tags=2, manifests=3, unique=both + two + 5),
        "team": Held(tags=2, manifests=3, unique=both + two),
        REPOSITORY: Held(tags=1, manifests=2, unique=two, shared=both),
        OTHER: Held(tags=1, manifests=1, shared=both),
        "another": Held(unique=5),
    }


async def test_a_blob_that_is_pushed_between_the_two_walks_has_its_size() -> None:
    services = Services()
    sizes = services.driver.sizes

    async def late() -> AsyncIterator[Sized]:
        async for each in sizes():
            yield each
        await services.push_blob(b"late")

    services.driver.sizes = late  # type: ignore[method-assign]

    assert (await Recounting(services.driver, Tally()).run(1.0)).held["team"] == Held(unique=4)


async def test_the_report_is_kept_and_work_in_the_background_gives_way_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recounts, "REST_EACH", 2)
    services, rests = Services(), []
    await services.push(image())

    async def rest() -> None:
        rests.append(1)

    tally = Tally()
    report = await Recounting(services.driver, tally, rest=rest).run_and_store(services.usage, clock=services.clock)

    assert UsageReport.from_json(await services.usage.report() or b"") == report
    assert report.began == services.clock.now
    assert len(rests) == tally.counts["objects"] // 2 + tally.counts["links"] // 2 > 2


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"version": 2}', b'{"version": 1, "began": 1, "held": {"a": 1}}']
)
def test_a_damaged_report_is_none(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        UsageReport.from_json(text)


def test_rows_below_a_prefix_come_the_largest_first() -> None:
    held = {name: Held(unique=size) for name, size in zip(("", *NAMES), range(8), strict=True)}
    report = UsageReport(1.0, held)

    assert [name for name, _ in report.below("", depth=1)] == ["b", "a"]
    assert [name for name, _ in report.below("a", depth=1)] == ["a/bb", "a/b"]
    assert [name for name, _ in report.below("a", depth=2)] == ["a/bb", "a/b/c", "a/b"]
    assert list(report.below("", depth=0)) == []


def test_a_link_takes_twelve_bytes() -> None:
    recount = Recount()
    digests = [Digest.of(os.urandom(8)) for _ in range(2000)]
    for digest in digests:
        for name in NAMES[:5]:
            recount.link(name, digest, is_manifest=False)

    assert sum(len(array) * array.itemsize for bucket in recount._links for array in bucket) == 12 * len(digests) * 5
