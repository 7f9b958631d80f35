"""Records of changes are told in the order of the changes, whatever the clocks of their writers said."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from storage.digest import Digest
from storage.timelines import SKEW_MICROSECONDS, UNKNOWN, Cause, Change, Why, filled, in_order

A, B, C, D, E = (Digest.of(body) for body in (b"a", b"b", b"c", b"d", b"e"))
SECOND = 1_000_000
NOW = 1_000 * SECOND


def change(second: float, old: Digest | None, new: Digest | None, why: Why = Why.PUSH) -> Change:
    return Change(int(second * SECOND), old, new, Cause("user:alice", why))


def states(changes: list[Change]) -> list[Digest | None]:
    return [each.new for each in changes]


def test_records_of_one_clock_are_in_order_already() -> None:
    changes = [change(1, None, A), change(2, A, B), change(3, B, None), change(4, None, A)]

    assert in_order(changes) == changes
    assert filled(changes, before=UNKNOWN, current=A, now=NOW) == changes


def test_a_record_whose_clock_was_behind_is_put_where_it_fits() -> None:
    changes = [change(1, None, A), change(2.5, B, C), change(3, A, B), change(9, C, D)]

    assert states(in_order(changes)) == [A, B, C, D]


def test_a_first_push_that_looked_at_its_clock_ahead_of_a_deletion_comes_after_it() -> None:
    changes = [change(1, None, A), change(2, None, B), change(3, A, None)]

    assert states(in_order(changes)) == [A, None, B]


def test_a_way_that_comes_by_the_same_state_again_is_found_whole() -> None:
    changes = [change(1, None, A), change(2, A, C), change(3, A, B), change(4, B, A)]

    assert states(in_order(changes)) == [A, B, A, C]


def test_what_has_no_order_at_all_ends_in_time() -> None:
    changes = [change(place / 1000, (A, B, C)[place % 3], (B, A, D)[place % 3]) for place in range(400)]

    assert len(in_order(changes)) > 100


@given(st.permutations(range(5)))
def test_up_to_five_records_in_a_row_may_stand_in_any_order(order: list[int]) -> None:
    chain = [None, A, B, C, D, E]
    changes = [change(10 + place, chain[step], chain[step + 1]) for place, step in enumerate(order)]

    assert states(in_order([change(1, E, None), *changes], before=E)) == [None, A, B, C, D, E]


def test_nothing_is_put_in_order_over_more_than_clocks_differ() -> None:
    late = 10 + 2 * SKEW_MICROSECONDS / SECOND
    changes = [change(1, None, A), change(10, B, C), change(late, A, B)]

    assert states(in_order(changes)) == [A, C, B]


def test_what_was_observed_an_instant_too_early_is_told_once_and_by_its_record() -> None:
    told = [change(1, None, A), change(2, A, B)]
    for observed in (change(1.9, A, B, Why.OBSERVED), change(2.1, A, B, Why.OBSERVED)):
        found = in_order(sorted([*told, observed], key=lambda each: each.time))

        assert found == told


def test_what_was_observed_and_overtaken_is_not_told_after_what_has_overtaken_it() -> None:
    told = [change(1, None, A), change(2, A, B), change(3, B, C)]

    assert in_order([*told, change(3.1, A, B, Why.OBSERVED)]) == told


def test_what_was_observed_long_after_it_was_told_has_happened_again() -> None:
    told = [change(1, None, A), change(2, A, B), change(3, B, A), change(3600, A, B, Why.OBSERVED)]

    assert in_order(told) == told


def test_a_change_without_a_record_is_seen_by_the_one_that_follows() -> None:
    changes = [change(1, None, A), change(3, B, C)]

    whole = filled(changes, before=UNKNOWN, current=C, now=NOW)

    assert whole == [changes[0], Change(3 * SECOND - 1, A, B, Cause("", Why.OBSERVED)), changes[1]]
    assert in_order(whole) == whole


def test_a_last_change_without_a_record_is_seen_by_what_the_tag_points_at() -> None:
    assert filled([change(1, None, A)], before=UNKNOWN, current=None, now=NOW) == [
        change(1, None, A),
        Change(NOW, A, None, Cause("", Why.OBSERVED)),
    ]
    assert filled([], before=UNKNOWN, current=A, now=NOW) == [Change(NOW, None, A, Cause("", Why.OBSERVED))]
    assert filled([], before=UNKNOWN, current=None, now=NOW) == []
    assert filled([change(1, None, A)], before=UNKNOWN, current=UNKNOWN, now=NOW) == [change(1, None, A)]


def test_the_same_change_twice_has_another_one_in_between() -> None:
    changes = [change(1, None, A), change(3, None, A)]

    assert states(filled(in_order(changes), before=UNKNOWN, current=A, now=NOW)) == [A, None, A]


def test_a_damaged_record_breaks_no_chain() -> None:
    changes = [change(1, None, A), Change(2 * SECOND, None, B, Cause("", Why.UNKNOWN)), change(3, B, C)]

    assert in_order(changes) == changes
    assert filled(changes, before=UNKNOWN, current=C, now=NOW) == changes


@given(
    st.lists(st.sampled_from([None, A, B, C]), min_size=1, max_size=12),
    st.lists(st.integers(-3, 3), min_size=12, max_size=12),
    st.sets(st.integers(0, 11)),
)
@example([B, None, A, B, None, B], [0, -2, *[0] * 10], {4})
def test_whatever_is_lost_or_told_in_the_wrong_order_the_end_is_what_the_tag_points_at(
    targets: list[Digest | None], skews: list[int], lost: set[int]
) -> None:
    chain = [key for key, _group in itertools.groupby([None, *targets])]
    told = [
        change(100 + place + skews[place], old, new)
        for place, (old, new) in enumerate(itertools.pairwise(chain))
        if place not in lost
    ]
    looks = list[list[Change]]()
    for look in range(4):
        ordered = in_order(sorted(looks[-1] if looks else told, key=lambda each: each.time), current=chain[-1])
        looks.append(filled(ordered, before=UNKNOWN, current=chain[-1], now=NOW + look))

    whole = looks[0]
    for found in looks:
        assert not found or found[-1].new == chain[-1]
        assert {each.new for each in told} <= {each.new for each in found}
        assert all(newer.old == older.new for older, newer in itertools.pairwise(found))
    assert len(looks[-1]) == len(looks[-2]), "each look adds to what was observed before"
    if not {place for place in lost if place < len(chain) - 1}:
        assert len(whole) == len(told)


@pytest.mark.parametrize("before", [A, None])
def test_what_the_tag_pointed_at_before_the_first_record_counts(before: Digest | None) -> None:
    changes = [change(1, B, C), change(2, before, B)]

    assert states(in_order(changes, before=before)) == [B, C]
