"""A tag is a linearizable register, whatever worker a request reaches.

`PIERHEAD_TEST_CALLS` is how many calls are looked at: 4,000 unless it is set.
"""

import os

import pytest

from tests.conftest import Starter
from tests.races.linearizability import Call, is_linearizable
from tests.races.tag_histories import CLIENTS, record

CALLS = int(os.environ.get("PIERHEAD_TEST_CALLS") or 4_000)


def test_the_checker_takes_a_history_with_overlapping_calls() -> None:
    history = [Call("put", "a", 0, 10), Call("get", None, 1, 3), Call("get", "a", 2, 12), Call("delete", "x", 11, 14)]

    assert is_linearizable(history)


@pytest.mark.parametrize("answer", ["a", None])
def test_the_checker_takes_both_ends_of_a_call_that_may_not_have_happened(answer: str | None) -> None:
    assert is_linearizable([Call("again", "a", 0, 1), Call("get", answer, 2, 3)])


@pytest.mark.parametrize(
    "history",
    [
        [Call("put", "a", 0, 1), Call("get", None, 2, 3)],
        [Call("put", "a", 0, 1), Call("put", "b", 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 9), Call("get", "a", 1, 2), Call("get", None, 3, 4)],
        [Call("put", "a", 0, 1), Call("delete", "x", 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 1), Call("delete", None, 2, 3)],
        [Call("again", "a", 0, 1), Call("get", None, 2, 3), Call("get", "a", 4, 5)],
        [Call("put", "a", 0, 1), Call("seen", None, 2, 3)],
        [Call("seen", "present", 0, 1)],
    ],
)
def test_the_checker_refuses_what_no_register_can_have_answered(history: list[Call]) -> None:
    assert not is_linearizable(history)


@pytest.mark.timeout(60 + CALLS / 50)
def test_thousands_of_calls_by_sixteen_clients_on_two_workers_are_linearizable(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2)

    history = record(server.address, calls=CALLS)

    assert sum(map(len, history.values())) >= CALLS - CLIENTS
    assert [tag for tag, calls in history.items() if not is_linearizable(calls)] == []


@pytest.mark.timeout(120)
def test_a_server_that_remembers_tags_for_a_moment_is_found_out(start_pierhead: Starter) -> None:
    server = start_pierhead(workers=2, module="tests.races.stale")

    history = record(server.address, calls=3000)

    assert any(not is_linearizable(calls) for calls in history.values())
