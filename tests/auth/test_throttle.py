"""Limits against guessing and haste: whom they stop, whom they spare, and that all processes count together."""

import multiprocessing

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401  # no deadlines
from registry.auth.throttle import (
    BLOCK_SECONDS,
    BLOCK_SECONDS_MAX,
    FORGET_SECONDS,
    FREE_FAILURES,
    FREE_FAILURES_OF_ADDRESS,
    REMEMBERED,
    WAYS,
    WINDOW_SECONDS,
    RateLimit,
    Throttle,
    _pair,
)
from tests.stores import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock=clock)


def guess(throttle: Throttle, count: int, *, user: str = "alice", address: str = HERE, start: int = 0) -> None:
    for number in range(start, start + count):
        throttle.failed(user, address, f"guess {number}")


def test_some_wrong_passwords_are_free_and_the_next_one_blocks(throttle: Throttle) -> None:
    guess(throttle, FREE_FAILURES)
    assert throttle.wait_seconds("alice", HERE) == 0

    guess(throttle, 1, start=FREE_FAILURES)

    assert throttle.wait_seconds("alice", HERE) == BLOCK_SECONDS


def test_other_users_and_the_same_user_elsewhere_are_not_blocked(throttle: Throttle) -> None:
    guess(throttle, FREE_FAILURES + 5)

    assert throttle.wait_seconds("alice", HERE) > 0
    assert throttle.wait_seconds("bob", HERE) == 0
    assert throttle.wait_seconds("alice", THERE) == 0


def test_each_further_failure_doubles_the_wait_up_to_its_limit(throttle: Throttle, clock: Clock) -> None:
    guess(throttle, FREE_FAILURES)
    waits = []
    for number in range(14):
        guess(throttle, 1, start=1000 + number)
        waits.append(throttle.wait_seconds("alice", HERE))
        clock.now += waits[-1]
        assert throttle.wait_seconds("alice", HERE) == 0

    assert waits == [min(BLOCK_SECONDS * 2**n, BLOCK_SECONDS_MAX) for n in range(14)]
    assert waits[-1] == BLOCK_SECONDS_MAX


def test_a_push_with_a_stale_password_that_repeats_it_blocks_nobody(throttle: Throttle, clock: Clock) -> None:
    for _ in range(500):
        throttle.failed("alice", HERE, "stale")
        clock.now += 0.1

    assert throttle.wait_seconds("alice", HERE) == 0


def test_clients_that_send_each_password_twice_have_as_many_tries(throttle: Throttle) -> None:
    for number in range(FREE_FAILURES):
        throttle.failed("alice", HERE, f"guess {number}")
        throttle.failed("alice", HERE, f"guess {number}")

    assert throttle.wait_seconds("alice", HERE) == 0


def test_several_clients_with_stale_passwords_of_one_user_block_nobody(throttle: Throttle) -> None:
    for _ in range(50):
        guess(throttle, REMEMBERED)

    assert throttle.wait_seconds("alice", HERE) == 0


def test_many_machines_behind_one_address_with_stale_passwords_block_nobody(throttle: Throttle) -> None:
    for _ in range(20):
        for machine in range(FREE_FAILURES_OF_ADDRESS):
            throttle.failed(f"robot {machine}", HERE, "stale")

    assert throttle.wait_seconds("robot 1", HERE) == 0


def test_one_password_tried_on_many_users_blocks_the_address(throttle: Throttle) -> None:
    for number in range(FREE_FAILURES_OF_ADDRESS + 1):
        throttle.failed(f"user {number}", HERE, "123456")

    assert throttle.wait_seconds("another", HERE) == BLOCK_SECONDS
    assert throttle.wait_seconds("another", THERE) == 0


def test_free_failures_are_forgotten_after_the_window(throttle: Throttle, clock: Clock) -> None:
    guess(throttle, FREE_FAILURES)
    clock.now += WINDOW_SECONDS
    guess(throttle, FREE_FAILURES, start=100)

    assert throttle.wait_seconds("alice", HERE) == 0


def test_the_window_does_not_move_with_each_failure(throttle: Throttle, clock: Clock) -> None:
    # One failure a minute is no guessing, however long it goes on.
    for number in range(200):
        throttle.failed("alice", HERE, f"guess {number}")
        clock.now += 60

    assert throttle.wait_seconds("alice", HERE) == 0


def test_one_who_was_blocked_is_forgotten_only_after_a_long_time(throttle: Throttle, clock: Clock) -> None:
    guess(throttle, FREE_FAILURES + 5)
    clock.now += FORGET_SECONDS - 1
    assert throttle.wait_seconds("alice", HERE) == 0
    guess(throttle, 1, start=100)
    assert throttle.wait_seconds("alice", HERE) == BLOCK_SECONDS * 2**5

    clock.now += FORGET_SECONDS
    guess(throttle, 1, start=200)
    assert throttle.wait_seconds("alice", HERE) == 0


def test_success_forgets_the_users_failures_but_not_those_of_the_address(throttle: Throttle) -> None:
    guess(throttle, FREE_FAILURES + 1)
    throttle.succeeded("alice", HERE)
    assert throttle.wait_seconds("alice", HERE) == 0

    for number in range(FREE_FAILURES_OF_ADDRESS):
        throttle.failed(f"user {number}", HERE, "123456")
        throttle.succeeded("mallory", HERE)

    assert throttle.wait_seconds("alice", HERE) > 0


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unix", "unix", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "unix", False),
    ],
)
def test_addresses_of_one_site_count_as_one(throttle: Throttle, one: str, other: str, is_same: bool) -> None:
    guess(throttle, FREE_FAILURES + 1, address=one)

    assert (throttle.wait_seconds("alice", other) > 0) == is_same


def test_a_user_s_name_can_not_be_taken_for_another_address(throttle: Throttle) -> None:
    guess(throttle, FREE_FAILURES + 1, user="b\0c", address="a")

    assert throttle.wait_seconds("c", "a\0b") == 0
    assert throttle.wait_seconds("c", "a") == 0


def test_in_a_full_table_the_one_that_was_used_least_lately_is_lost(clock: Clock) -> None:
    throttle = Throttle(slots=WAYS, clock=clock)
    for number in range(WAYS):
        guess(throttle, FREE_FAILURES + 1, user=f"user {number}")
        clock.now += 0.01

    guess(throttle, 1, user="one more", address=THERE)

    assert [throttle.wait_seconds(f"user {number}", HERE) > 0 for number in range(WAYS)] == [False] + [True] * (
        WAYS - 1
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "succeeded", "wait", "later"]),
            st.sampled_from(["alice", "bob", "\ud800", ""]),
            st.sampled_from([HERE, "::1", "unix", ""]),
            st.text(max_size=3),
        )
    )
)
def test_a_wait_is_always_within_its_limits(steps: list[tuple[str, str, str, str]]) -> None:
    clock = Clock()
    throttle = Throttle(slots=16, clock=clock)
    for step, user, address, password in steps:
        if step == "failed":
            throttle.failed(user, address, password)
        elif step == "succeeded":
            throttle.succeeded(user, address)
            assert throttle.wait_seconds(user, address) <= BLOCK_SECONDS_MAX
        elif step == "later":
            clock.now += len(password) * 100
        else:
            assert 0 <= throttle.wait_seconds(user, address) <= BLOCK_SECONDS_MAX


@given(st.binary(min_size=96 * 8, max_size=96 * 8))
def test_whatever_workers_that_write_at_once_have_left_crashes_nothing(garbage: bytes) -> None:
    throttle, limit = Throttle(slots=8, clock=Clock()), RateLimit(1, 5, slots=8, clock=Clock())
    fingerprint = throttle._of_users._table.find(_pair("alice", HERE), 0)[0]
    memory, size = throttle._of_users._table._memory, len(throttle._of_users._table._memory)
    memory[:size] = (fingerprint.to_bytes(8, "little") + garbage)[:size]
    limit._table._memory[:192] = (limit._table.find("alice", 0)[0].to_bytes(8, "little") + garbage)[:192]

    assert 0 <= throttle.wait_seconds("alice", HERE) <= BLOCK_SECONDS_MAX
    throttle.failed("alice", HERE, "guess")
    assert 0 <= throttle.wait_seconds("alice", HERE) <= BLOCK_SECONDS_MAX
    limit.take("alice")
    throttle.succeeded("alice", HERE)
    assert throttle.wait_seconds("alice", HERE) == 0


def test_a_time_that_is_still_to_come_blocks_nobody_for_ever(clock: Clock) -> None:
    throttle, limit = Throttle(clock=clock), RateLimit(1, 1, clock=clock)
    clock.now += 10_000
    guess(throttle, FREE_FAILURES + 5)
    limit.take("alice")
    clock.now -= 10_000

    assert throttle.wait_seconds("alice", HERE) == 0
    assert limit.take("alice") == 0


def test_processes_that_were_forked_count_together() -> None:
    throttle = Throttle()
    for worker in range(3):
        process = multiprocessing.get_context("fork").Process(target=lambda: guess(throttle, 5, start=100 * worker))  # noqa: B023  # forked at once
        process.start()
        process.join(30)
        assert process.exitcode == 0

    assert throttle.wait_seconds("alice", HERE) > 0


def test_processes_that_count_at_the_same_time_crash_nothing() -> None:
    throttle, limit = Throttle(slots=16), RateLimit(1000, 1000, slots=16)

    def work() -> None:
        for number in range(2000):
            throttle.failed(f"user {number % 50}", HERE, str(number))
            assert 0 <= throttle.wait_seconds("user 1", HERE) <= BLOCK_SECONDS_MAX
            limit.take(f"user {number % 50}")

    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work) for _ in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(60)

    assert [each.exitcode for each in workers] == [0, 0, 0]
    assert throttle.wait_seconds("user 1", HERE) > 0


# Rates


def test_a_burst_passes_and_then_what_the_rate_allows(clock: Clock) -> None:
    limit = RateLimit(2, 5, clock=clock)

    assert [limit.take("alice") for _ in range(6)] == [0, 0, 0, 0, 0, 0.5]
    assert limit.take("bob") == 0
    clock.now += 0.5
    assert [limit.take("alice") for _ in range(2)] == [0, 0.5]


def test_one_who_is_told_to_wait_takes_nothing_meanwhile(clock: Clock) -> None:
    limit = RateLimit(1, 1, clock=clock)
    limit.take("alice")

    for _ in range(10):
        assert limit.take("alice") > 0
        clock.now += 0.1

    clock.now += 0.01
    assert limit.take("alice") == 0


def test_what_is_saved_is_no_more_than_a_burst(clock: Clock) -> None:
    limit = RateLimit(100, 3, clock=clock)
    limit.take("alice")
    clock.now += 3600

    assert [limit.take("alice") == 0 for _ in range(4)] == [True, True, True, False]


@given(st.floats(0.1, 50), st.integers(1, 20), st.lists(st.floats(0, 5), max_size=100))
def test_no_more_passes_in_any_time_than_burst_and_rate_allow(rate: float, burst: int, pauses: list[float]) -> None:
    clock = Clock(0)
    limit = RateLimit(rate, burst, clock=clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += limit.take("alice") == 0
        assert passed <= burst + rate * clock.now + 0.001


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (1, 0)])
def test_a_rate_that_lets_nothing_through_is_refused(rate: float, burst: int) -> None:
    with pytest.raises(ValueError, match="lets something through"):
        RateLimit(rate, burst)
