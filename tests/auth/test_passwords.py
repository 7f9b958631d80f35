"""Passwords: right ones are found, wrong ones and unknown users look the same, and the work is bounded."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401  # no deadlines
from registry.auth.htpasswd import Table, parse
from registry.auth.passwords import (
    BCRYPT_BYTES,
    REMEMBERED_SECONDS,
    Passwords,
    WeakPassword,
    hash_password,
)
from registry.errors import TooManyRequests
from tests.stores import Clock

COST = 4


def hashed(password: str, cost: int = COST) -> str:
    return bcrypt.hashpw(password.encode()[:BCRYPT_BYTES], bcrypt.gensalt(cost)).decode()


class Users:
    """A table that can be exchanged."""

    def __init__(self, **stored: str) -> None:
        self.set(**stored)

    def set(self, **stored: str) -> None:
        self.table = parse("\n".join(f"{user}:{text}" for user, text in stored.items()).encode())

    def current(self) -> Table:
        return self.table


class Comparisons:
    """bcrypt, with a note of what was compared, which waits while `gate` is closed."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, password: bytes, stored: bytes) -> bool:
        self.seen.append((password, stored))
        assert self.gate.wait(30)
        return bcrypt.checkpw(password, stored)


Build = Callable[..., Passwords]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def compared() -> Comparisons:
    return Comparisons()


@pytest.fixture
async def build(clock: Clock, compared: Comparisons) -> AsyncIterator[Build]:
    made: list[Passwords] = []

    def builder(users: Users, *, waiting_max: int = 20) -> Passwords:
        made.append(Passwords(users, clock=clock, compare=compared, waiting_max=waiting_max))
        return made[-1]

    yield builder
    compared.gate.set()
    for each in made:
        await each.close()


async def test_the_right_password_is_found_and_no_other(build: Build) -> None:
    passwords = build(Users(alice=hashed("secret one"), bob=hashed("secret two")))

    assert await passwords.check("alice", "secret one")
    assert not await passwords.check("alice", "secret two")
    assert not await passwords.check("alice", "")
    assert not await passwords.check("carol", "secret one")
    assert not await passwords.check("", "")
    assert not await passwords.check("alice", "\ud800")
    assert not await passwords.check("\ud800", "secret one")


@pytest.mark.parametrize("letter", ["a", "b", "y"])
async def test_hashes_of_all_letters_are_compared(build: Build, letter: str) -> None:
    passwords = build(Users(alice=hashed("secret").replace("$2b$", f"$2{letter}$")))

    assert await passwords.check("alice", "secret")


async def test_of_a_long_password_as_much_is_compared_as_bcrypt_does(build: Build) -> None:
    passwords = build(Users(alice=hashed("x" * BCRYPT_BYTES)))

    assert await passwords.check("alice", "x" * (BCRYPT_BYTES + 5))
    assert not await passwords.check("alice", "x" * (BCRYPT_BYTES - 1))


async def test_an_unknown_user_costs_what_a_wrong_password_costs(build: Build, compared: Comparisons) -> None:
    passwords = build(Users(alice=hashed("secret", 5), bob=hashed("secret", 5), carol=hashed("secret", 4)))

    assert not await passwords.check("alice", "guess")
    assert not await passwords.check("nobody", "guess")

    [alice, nobody] = compared.seen
    assert alice[0] == nobody[0]
    assert alice[1][:7] == nobody[1][:7].replace(b"$2b$", b"$2b$") == b"$2b$05$"


async def test_the_password_behind_the_stand_in_for_unknown_users_opens_nothing() -> None:
    passwords = Passwords(Users(), compare=lambda *_: True)

    assert not await passwords.check("nobody", "guess")
    await passwords.close()


async def test_an_outcome_is_remembered_for_a_minute(build: Build, compared: Comparisons, clock: Clock) -> None:
    passwords = build(Users(alice=hashed("secret")))

    for _ in range(5):
        assert await passwords.check("alice", "secret")
        assert not await passwords.check("alice", "guess")
    assert len(compared.seen) == 2
    clock.now += REMEMBERED_SECONDS
    assert await passwords.check("alice", "secret")
    assert len(compared.seen) == 3


async def test_a_changed_line_counts_at_once_though_the_old_password_is_remembered(build: Build) -> None:
    users = Users(alice=hashed("old"))
    passwords = build(users)
    assert await passwords.check("alice", "old")
    assert not await passwords.check("alice", "new")

    users.set(alice=hashed("new"))
    assert not await passwords.check("alice", "old")
    assert await passwords.check("alice", "new")

    users.set()
    assert not await passwords.check("alice", "new")


async def test_what_is_remembered_for_one_pair_does_not_count_for_another(build: Build) -> None:
    same = hashed("bsecret")
    passwords = build(Users(a=same, ab=same))

    assert await passwords.check("a", "bsecret")
    assert not await passwords.check("ab", "secret")


async def test_equal_comparisons_at_the_same_time_are_one(build: Build, compared: Comparisons) -> None:
    passwords = build(Users(alice=hashed("secret")), waiting_max=1)
    compared.gate.clear()
    checks = [asyncio.create_task(passwords.check("alice", "secret")) for _ in range(50)]
    await asyncio.sleep(0)
    compared.gate.set()

    assert all(await asyncio.gather(*checks))
    assert len(compared.seen) == 1


async def test_one_who_leaves_does_not_take_the_answer_from_the_others(build: Build, compared: Comparisons) -> None:
    passwords = build(Users(alice=hashed("secret")))
    compared.gate.clear()
    first, second = (asyncio.create_task(passwords.check("alice", "secret")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    compared.gate.set()

    assert await second
    assert first.cancelled()


async def test_beyond_the_limit_others_are_told_when_to_come_back(build: Build, compared: Comparisons) -> None:
    passwords = build(Users(alice=hashed("secret")), waiting_max=3)
    compared.gate.clear()
    checks = [asyncio.create_task(passwords.check("alice", f"guess {number}")) for number in range(3)]
    await asyncio.sleep(0)

    with pytest.raises(TooManyRequests) as refused:
        await passwords.check("alice", "secret")

    assert ("retry-after", "1") in refused.value.headers
    compared.gate.set()
    assert not any(await asyncio.gather(*checks))
    assert await passwords.check("alice", "secret")


async def test_a_comparison_that_fails_is_not_remembered() -> None:
    failures = [OSError("broken")]

    def compare(_password: bytes, _stored: bytes) -> bool:
        if failures:
            raise failures.pop()
        return True

    passwords = Passwords(Users(alice=hashed("secret")), compare=compare)
    with pytest.raises(OSError, match="broken"):
        await passwords.check("alice", "secret")

    assert await passwords.check("alice", "secret")
    await passwords.close()


async def test_nothing_that_is_kept_holds_a_password(build: Build) -> None:
    passwords = build(Users(alice=hashed("secret one")))
    await passwords.check("alice", "secret one")
    await passwords.check("alice", "secret two")

    kept = repr([vars(passwords), vars(passwords._right), vars(passwords._wrong)])

    assert "secret" not in kept


async def test_the_fingerprint_is_the_one_of_the_users_line(build: Build) -> None:
    users = Users(alice=hashed("secret"))
    passwords = build(users)

    assert passwords.fingerprint("alice") == users.table.fingerprint("alice") is not None
    assert passwords.fingerprint("bob") is None


# New passwords


@pytest.mark.parametrize("password", ["", "short", "xxxxxxxxxxxx", "Long.Name", "with\nline end", "x\0" * 8, "é" * 40])
def test_a_password_that_can_not_be_taken_is_refused_without_being_shown(password: str) -> None:
    with pytest.raises(WeakPassword) as refused:
        hash_password("long.name", password, cost=COST)

    assert not password or password not in str(refused.value)


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=8, max_size=18))
async def test_other_passwords_are_hashed_and_found_again(password: str) -> None:
    if len(set(password)) == 1:
        return
    passwords = Passwords(Users(alice=hash_password("alice", password, cost=COST)))

    assert await passwords.check("alice", password)
    assert not await passwords.check("alice", password[:-1])
    await passwords.close()


def test_hashes_of_one_password_differ() -> None:
    assert hash_password("alice", "correct horse", cost=COST) != hash_password("alice", "correct horse", cost=COST)
