"""Refresh tokens: bound to a user, a service and a password, until they are revoked or nobody uses them."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tests.properties  # noqa: F401  # no deadlines
from storage import keys
from storage.errors import StorageRefused
from storage.refresh_tokens import IDLE_SECONDS, TOKENS_MAX, USED_SECONDS, RefreshToken, RefreshTokenStore
from tests.stores import Clock, StepDriver, body_at, keys_below

SERVICE = "registry.example"


class Fingerprints(dict[str, str]):
    """The fingerprints of all users' passwords."""

    def __call__(self, user: str) -> str | None:
        return self.get(user)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> StepDriver:
    return StepDriver()


@pytest.fixture
def store(driver: StepDriver, clock: Clock) -> RefreshTokenStore:
    return RefreshTokenStore(driver, clock=clock)


@pytest.fixture
def users() -> Fingerprints:
    return Fingerprints(alice="a1", bob="b1")


async def give(store: RefreshTokenStore, user: str = "alice", fingerprint: str = "a1") -> str:
    return await store.create(user, service=SERVICE, fingerprint=fingerprint, client="docker")


async def accepts(
    store: RefreshTokenStore, text: str, users: Callable[[str], str | None], service: str = SERVICE
) -> bool:
    return await store.check(text, service=service, fingerprint_of=users) is not None


async def test_a_token_counts_for_its_user_again_and_again(store: RefreshTokenStore, users: Fingerprints) -> None:
    text = await give(store)

    for _ in range(3):
        found = await store.check(text, service=SERVICE, fingerprint_of=users)
        assert found is not None
        assert (found.user, found.client) == ("alice", "docker")


async def test_it_counts_for_no_other_service(store: RefreshTokenStore, users: Fingerprints) -> None:
    assert not await accepts(store, await give(store), users, service="other.example")


async def test_another_password_or_no_user_any_more_revokes(store: RefreshTokenStore, users: Fingerprints) -> None:
    text = await give(store)

    users["alice"] = "a2"
    assert not await accepts(store, text, users)
    del users["alice"]
    assert not await accepts(store, text, users)


async def test_what_is_stored_is_not_the_token(store: RefreshTokenStore, driver: StepDriver) -> None:
    text = await give(store)

    [key] = await keys_below(driver, keys.REFRESH)
    stored = await body_at(driver, key)

    assert text.startswith("phi_")
    assert text.rpartition("_")[2].encode() not in stored
    assert json.loads(stored)["hash"] not in repr(RefreshToken.from_json(stored))


async def test_one_that_nobody_uses_ends_and_one_that_is_used_does_not(
    store: RefreshTokenStore, users: Fingerprints, clock: Clock
) -> None:
    idle, used = await give(store), await give(store)
    for _ in range(9):
        clock.now += IDLE_SECONDS / 8
        assert await accepts(store, used, users)

    assert not await accepts(store, idle, users)


async def test_a_use_is_written_once_an_hour(
    store: RefreshTokenStore, driver: StepDriver, users: Fingerprints, clock: Clock
) -> None:
    text = await give(store)
    writes: list[str] = []

    async def note(method: str, _key: str) -> None:
        writes.append(method)

    driver.before_write = note
    for _ in range(10):
        await accepts(store, text, users)
    assert writes == []
    clock.now += USED_SECONDS
    for _ in range(10):
        await accepts(store, text, users)

    assert writes == ["replace"]


async def test_a_use_does_not_bring_back_what_is_revoked_meanwhile(
    store: RefreshTokenStore, driver: StepDriver, users: Fingerprints, clock: Clock
) -> None:
    text = await give(store)
    clock.now += USED_SECONDS

    async def revoke(_method: str, _key: str) -> None:
        driver.before_write = None
        await store.revoke(text)

    driver.before_write = revoke
    await accepts(store, text, users)

    assert await keys_below(driver, keys.REFRESH) == []


async def test_a_use_that_can_not_be_noted_is_no_reason_to_refuse(
    store: RefreshTokenStore, driver: StepDriver, users: Fingerprints, clock: Clock
) -> None:
    text = await give(store)
    clock.now += USED_SECONDS

    async def refuse(_method: str, key: str) -> None:
        raise StorageRefused("read-only", key=key)

    driver.before_write = refuse
    with capture_logs() as logs:
        assert await accepts(store, text, users)

    assert len(logs) == 1


async def test_a_revoked_token_is_gone_and_others_are_not(store: RefreshTokenStore, users: Fingerprints) -> None:
    one, two = await give(store), await give(store)

    assert await store.revoke(one)
    assert not await store.revoke(one)
    assert not await store.revoke("phi_nothing")

    assert not await accepts(store, one, users)
    assert await accepts(store, two, users)


async def test_a_token_can_be_revoked_only_by_showing_all_of_it(store: RefreshTokenStore, users: Fingerprints) -> None:
    from storage.opaque_tokens import OpaqueToken

    text = await give(store)
    prefix, token, _ = text.split("_")
    forged = OpaqueToken.create(prefix, owner=token[:16])
    body = f"{token}_{'0' * 43}"
    from storage.opaque_tokens import _checksum

    shown = f"{prefix}_{body}{_checksum(body)}"

    assert OpaqueToken.parse(prefix, shown) is not None
    for wrong in (shown, forged.text):
        assert not await store.revoke(wrong)
        assert not await accepts(store, wrong, users)
    assert await accepts(store, text, users)


@pytest.mark.parametrize("user", ["alice", "a/../b", ".", "é" * 100, "\ud800", "x" * 255])
async def test_all_tokens_of_a_user_can_be_revoked_whatever_the_name(store: RefreshTokenStore, user: str) -> None:
    users = Fingerprints({user: "a1", "bob": "b1"})
    texts = [await give(store, user) for _ in range(3)]
    other = await give(store, "bob", "b1")

    assert await accepts(store, texts[0], users)
    assert await store.revoke_all(user) == 3

    assert not any([await accepts(store, text, users) for text in texts])
    assert await accepts(store, other, users)
    assert await store.revoke_all(user) == 0


async def test_a_user_whose_name_hashes_to_the_same_folder_keeps_its_tokens(
    store: RefreshTokenStore, driver: StepDriver
) -> None:
    await give(store)
    [key] = await keys_below(driver, keys.REFRESH)
    record = RefreshToken.from_json(await body_at(driver, key))
    other = keys.refresh_token(_folder_of("alice"), _folder_of("alice") + "0" * 12)
    await driver.put(other, replace(record, id=other.rpartition("/")[2], user="eve").to_json())

    assert await store.revoke_all("alice") == 1

    assert await keys_below(driver, keys.REFRESH) == [other]


async def test_a_user_has_a_bounded_number_and_the_one_not_used_longest_goes(
    store: RefreshTokenStore, users: Fingerprints, clock: Clock
) -> None:
    texts = []
    for _ in range(TOKENS_MAX):
        texts.append(await give(store))
        clock.now += USED_SECONDS
    assert await accepts(store, texts[0], users)

    await give(store)

    assert len([token async for token in store.list("alice")]) == TOKENS_MAX
    assert await accepts(store, texts[0], users)
    assert not await accepts(store, texts[1], users)


async def test_a_sweep_drops_what_is_idle_or_damaged_and_nothing_else(
    store: RefreshTokenStore, driver: StepDriver, users: Fingerprints, clock: Clock
) -> None:
    await give(store)
    clock.now += IDLE_SECONDS
    text = await give(store)
    [kept] = [key for key in await keys_below(driver, keys.REFRESH) if text.split("_")[1] in key]
    await driver.put(keys.refresh_token("0" * 16, "0" * 28), b"{}")
    await driver.put(f"{keys.REFRESH}stray", b"{}")
    await store.create("bob", service=SERVICE, fingerprint="b1")
    [refused] = await keys_below(driver, keys.refresh_tokens(_folder_of("bob")))
    driver.refused = {refused}

    with capture_logs() as logs:
        assert await store.expire() == 2

    assert set(await keys_below(driver, keys.REFRESH)) == {kept, refused, f"{keys.REFRESH}stray"}
    assert [line["key"] for line in logs if line["event"] == "unreadable refresh token"] == [refused]
    assert await accepts(store, text, users)


async def test_a_token_that_is_used_while_it_is_swept_stays(
    store: RefreshTokenStore, driver: StepDriver, clock: Clock
) -> None:
    await give(store)
    [key] = await keys_below(driver, keys.REFRESH)
    clock.now += IDLE_SECONDS

    async def use(_method: str, _key: str) -> None:
        driver.before_write = None
        await driver.put(key, await body_at(driver, key))

    driver.before_write = use
    assert await store.expire() == 0

    assert await keys_below(driver, keys.REFRESH) == [key]


@given(st.text(max_size=80) | st.from_regex(r"phi_[0-9A-Za-z]{12,30}_[0-9A-Za-z]{49}", fullmatch=True))
async def test_no_text_from_outside_is_more_than_refused(text: str) -> None:
    store = RefreshTokenStore(StepDriver(), clock=Clock())

    assert not await accepts(store, text, Fingerprints())
    assert not await store.revoke(text)


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.none())


@given(
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(dict.fromkeys(RefreshToken.__slots__, json_values)).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_are_anything_but_a_record_or_damaged(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json has its own words
        RefreshToken.from_json(text)


def _folder_of(user: str) -> str:
    import hashlib

    return hashlib.sha256(user.encode()).hexdigest()[:16]
