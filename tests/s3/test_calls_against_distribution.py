"""Each request takes at most as many calls to the bucket as in distribution v3, and the page says how many."""

from pathlib import Path

import pytest

from tests.conftest import tool_or_skip
from tests.distribution import V3
from tests.s3.counting import PAGE, Row, count, counted, page_text
from tests.s3.weed import Store

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def rows(weed: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return count(weed, tool_or_skip(V3), Path(tmp_path_factory.mktemp("calls")))


def test_no_request_takes_more_calls_than_in_distribution(rows: list[Row]) -> None:
    compared = [row for row in rows if row.operation.is_compared]

    assert len(compared) > 8
    assert all(row.theirs.total() for row in compared)
    more = {row.operation.name: row.ours.total() - row.theirs.total() for row in compared}
    assert {name: calls for name, calls in more.items() if calls > 0} == {}


def test_listings_of_ten_thousand_take_few_calls(rows: list[Row]) -> None:
    listings = [row for row in rows if not row.operation.is_compared]

    assert [row.ours.keys() for row in listings] == [{"ListObjectsV2"}] * 3
    tags, first_page, hundred = [row.ours.total() for row in listings]
    assert tags <= 11
    assert first_page <= 2
    assert hundred <= 2


def test_the_page_has_what_is_counted(rows: list[Row]) -> None:
    assert counted(PAGE.read_text()) == page_text(rows), "python -m tests.s3.counting writes it anew"
