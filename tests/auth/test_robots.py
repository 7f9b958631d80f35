"""Robots: a token counts for its robot until it expires or is revoked, and nobody has more than two."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tests.properties  # noqa: F401  # no deadlines
from registry.auth.globs import GlobError
from registry.auth.identities import Action, Grant, Identity, Kind
from registry.auth.robots import (
    CACHE_SECONDS,
    CACHED_MAX,
    LIVE_MAX,
    RobotError,
    Robots,
    TooManyTokens,
    check_robot_name,
    is_robot_token,
    parse_actions,
)
from storage import keys
from storage.drivers import SmallObject
from storage.errors import StorageRefused, StorageUnavailable
from storage.opaque_tokens import ALPHABET
from storage.robots import USED_SECONDS, RobotStore
from tests.stores import Clock, RefusingDriver, StepDriver, body_at, keys_below

GRANT = Grant(("team/**",), frozenset({Action.PULL, Action.PUSH}))


class CountingDriver(StepDriver):
    """Counts what is read and written."""

    def __init__(self) -> None:
        super().__init__(self._count)
        self.reads = 0
        self.writes: list[str] = []

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        self.reads += 1
        return await super().get(key, bytes_max=bytes_max)

    async def _count(self, method: str, _key: str) -> None:
        self.writes.append(method)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> CountingDriver:
    return CountingDriver()


@pytest.fixture
def robots(driver: CountingDriver, clock: Clock) -> Robots:
    return Robots(RobotStore(driver), clock=clock, monotonic=clock)


def another(driver: RefusingDriver, clock: Clock) -> Robots:
    """The robots as another process has them."""
    return Robots(RobotStore(driver), clock=clock, monotonic=clock)


async def test_a_token_is_its_robot_with_what_it_was_given(robots: Robots) -> None:
    text, token = await robots.create("ci", [GRANT], created_by="alice")

    assert await robots.check("ci", text) == Identity(Kind.ROBOT, "ci", (GRANT,))
    assert (token.name, token.created_by) == ("ci", "alice")
    assert is_robot_token(text)
    assert text.startswith(f"phr_{token.id}_")


async def test_what_is_stored_and_shown_of_a_token_is_not_the_token(robots: Robots, driver: CountingDriver) -> None:
    text, token = await robots.create("ci", [GRANT])
    secret = text.rpartition("_")[2]

    stored = await body_at(driver, keys.robot_token("ci", token.id))

    assert secret.encode() not in stored
    assert secret not in repr(token)
    assert token.hash not in repr(token)


async def test_the_name_has_to_be_right_as_well(robots: Robots) -> None:
    text, _ = await robots.create("ci", [GRANT])
    await robots.create("cd", [GRANT])

    for user in ("cd", "robot", "", "CI", "ci/", "../ci", "c" * 300, "\ud800"):
        assert await robots.check(user, text) is None


@given(st.integers(0, 65), st.sampled_from(ALPHABET + "_-é"))
async def test_a_token_with_one_wrong_character_is_refused_without_a_look_at_the_store(place: int, by: str) -> None:
    driver, clock = CountingDriver(), Clock()
    robots = another(driver, clock)
    text, _ = await robots.create("ci", [GRANT])
    wrong = text[:place] + by + text[place + 1 :]
    before = driver.reads

    if wrong != text:
        assert await robots.check("ci", wrong) is None
        assert driver.reads == before


async def test_a_well_formed_token_with_a_known_id_and_another_secret_is_refused(robots: Robots, clock: Clock) -> None:
    text, token = await robots.create("ci", [GRANT])
    other, _ = await another(RefusingDriver(), clock).create("ci", [GRANT])
    driver = RefusingDriver()
    await driver.put(keys.robot_token("ci", token.id), token.to_json().replace(token.hash.encode(), b"0" * 64))

    assert await another(driver, clock).check("ci", text) is None
    assert await robots.check("ci", other) is None


@given(
    st.text(max_size=80), st.text(max_size=80) | st.from_regex(r"phr_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", fullmatch=True)
)
async def test_no_user_and_no_token_from_outside_is_more_than_refused(user: str, token: str) -> None:
    assert await another(RefusingDriver(), Clock()).check(user, token) is None


async def test_an_expired_token_is_refused_at_once(robots: Robots, clock: Clock) -> None:
    text, _ = await robots.create("ci", [GRANT], expires_seconds=60)
    clock.now += 59.5
    assert await robots.check("ci", text) is not None

    clock.now += 0.5

    assert await robots.check("ci", text) is None


async def test_a_token_that_another_process_revokes_is_refused_within_two_seconds(
    robots: Robots, driver: CountingDriver, clock: Clock
) -> None:
    assert CACHE_SECONDS <= 2
    text, token = await robots.create("ci", [GRANT])
    assert await robots.check("ci", text) is not None

    assert [each.id for each in await another(driver, clock).revoke("ci")] == [token.id]

    clock.now += CACHE_SECONDS
    assert await robots.check("ci", text) is None


async def test_use_does_not_keep_a_revoked_token_alive(robots: Robots, driver: CountingDriver, clock: Clock) -> None:
    text, _ = await robots.create("ci", [GRANT])
    await robots.check("ci", text)
    await another(driver, clock).revoke("ci")

    for _ in range(10):
        clock.now += CACHE_SECONDS / 4
        await robots.check("ci", text)

    assert await robots.check("ci", text) is None
    assert await keys_below(driver, keys.ROBOTS) == []


async def test_noting_a_use_does_not_bring_back_what_is_revoked_meanwhile(clock: Clock) -> None:
    driver = StepDriver()
    robots = another(driver, clock)
    text, token = await robots.create("ci", [GRANT])

    async def revoke(method: str, _key: str) -> None:
        driver.before_write = None
        assert method == "replace"
        await driver.delete(keys.robot_token("ci", token.id))

    driver.before_write = revoke
    await robots.check("ci", text)

    assert await keys_below(driver, keys.ROBOTS) == []


async def test_a_busy_token_is_read_once_in_two_seconds_and_written_once_an_hour(
    robots: Robots, driver: CountingDriver, clock: Clock
) -> None:
    text, _ = await robots.create("ci", [GRANT])
    driver.writes.clear()
    await robots.check("ci", text)
    before = driver.reads

    for _ in range(100):
        await robots.check("ci", text)
    assert driver.reads == before
    for _ in range(100):
        clock.now += CACHE_SECONDS
        await robots.check("ci", text)
    assert driver.reads == before + 100
    assert driver.writes == ["replace"]
    clock.now += USED_SECONDS
    await robots.check("ci", text)

    assert driver.writes == ["replace", "replace"]
    assert [each.used async for each in robots.list("ci")] == [clock.now]


async def test_a_use_that_can_not_be_noted_is_no_reason_to_refuse(clock: Clock) -> None:
    driver = StepDriver()
    robots = another(driver, clock)
    text, _ = await robots.create("ci", [GRANT])

    async def refuse(_method: str, key: str) -> None:
        raise StorageRefused("read-only", key=key)

    driver.before_write = refuse

    with capture_logs() as logs:
        assert await robots.check("ci", text) is not None
        assert await robots.check("ci", text) is not None
    assert len(logs) == 1


async def test_a_store_that_can_not_be_read_is_not_a_wrong_token(robots: Robots, driver: CountingDriver) -> None:
    text, token = await robots.create("ci", [GRANT])
    driver.refused = {keys.robot_token("ci", token.id)}

    with pytest.raises(StorageUnavailable):
        await robots.check("ci", text)


async def test_a_third_token_is_refused_with_the_two_that_there_are(robots: Robots) -> None:
    tokens = [(await robots.create("ci", [GRANT]))[1] for _ in range(LIVE_MAX)]

    with pytest.raises(TooManyTokens) as refused:
        await robots.create("ci", [GRANT])

    assert all(token.id in str(refused.value) for token in tokens)
    await robots.create("cd", [GRANT])
    await robots.revoke(tokens[0].id)
    await robots.create("ci", [GRANT])


async def test_expired_tokens_do_not_count(robots: Robots, clock: Clock) -> None:
    for _ in range(LIVE_MAX):
        await robots.create("ci", [GRANT], expires_seconds=10)
    clock.now += 10

    await robots.create("ci", [GRANT])


async def test_many_who_create_at_once_leave_no_more_than_two(driver: CountingDriver, clock: Clock) -> None:
    async def yield_to_others(_method: str, _key: str) -> None:
        await asyncio.sleep(0)

    driver.before_write = yield_to_others
    made = await asyncio.gather(
        *(another(driver, clock).create("ci", [GRANT]) for _ in range(10)), return_exceptions=True
    )

    assert all(isinstance(each, tuple | TooManyTokens) for each in made)
    assert len(await keys_below(driver, keys.ROBOTS)) == sum(isinstance(each, tuple) for each in made) <= LIVE_MAX


async def test_revoking_takes_one_token_by_its_id_or_all_of_a_robot(robots: Robots) -> None:
    one, two, three = [(await robots.create(name, [GRANT])) for name in ("ci", "ci", "ci-2")]

    assert [token.id for token in await robots.revoke(one[1].id)] == [one[1].id]
    assert await robots.check("ci", one[0]) is None
    assert await robots.check("ci", two[0]) is not None
    assert [token.id for token in await robots.revoke("ci")] == [two[1].id]
    assert await robots.check("ci-2", three[0]) is not None
    assert await robots.revoke("nobody") == []


async def test_the_cache_is_bounded(robots: Robots) -> None:
    for number in range(CACHED_MAX + 10):
        name = f"ci-{number}"
        text, _ = await robots.create(name, [GRANT])
        await robots.check(name, text)

    assert len(robots._cache) == CACHED_MAX


async def test_a_damaged_record_is_refused_and_told(robots: Robots, driver: CountingDriver) -> None:
    text, token = await robots.create("ci", [GRANT])
    await driver.put(keys.robot_token("ci", token.id), b"{}")

    with capture_logs() as logs:
        assert await robots.check("ci", text) is None

    assert logs[0]["key"] == keys.robot_token("ci", token.id)


async def test_an_action_of_a_later_version_allows_nothing(robots: Robots, driver: CountingDriver) -> None:
    text, token = await robots.create("ci", [GRANT])
    key = keys.robot_token("ci", token.id)
    for word in (b"destroy", b"admin"):
        await driver.put(key, token.to_json().replace(b'"push"', b'"%s"' % word))

        found = await another(driver, Clock()).check("ci", text)

        assert found is not None
        assert found.grants == (Grant(("team/**",), frozenset({Action.PULL})),)


@pytest.mark.parametrize("name", ["ci", "a", "team.ci-2_x", "0", "a" * 64])
def test_names_of_robots(name: str) -> None:
    assert check_robot_name(name) == name


@pytest.mark.parametrize("name", ["", "CI", "a/b", "..", "a..b", "-a", "a-", "a b", "é", "a" * 65, "robot$ci", "a\n"])
async def test_other_names_are_refused(robots: Robots, name: str) -> None:
    with pytest.raises(RobotError):
        await robots.create(name, [GRANT])


@pytest.mark.parametrize(
    "grants",
    [
        [],
        [Grant((), frozenset({Action.PULL}))],
        [Grant(("a",), frozenset())],
        [Grant(("a",), frozenset({Action.ADMIN}))],
    ],
)
async def test_a_token_that_allows_nothing_or_everything_is_refused(robots: Robots, grants: list[Grant]) -> None:
    with pytest.raises(RobotError):
        await robots.create("ci", grants)


async def test_a_glob_that_matches_no_repository_is_refused(robots: Robots, driver: CountingDriver) -> None:
    with pytest.raises(GlobError):
        await robots.create("ci", [Grant(("Team/**",), frozenset({Action.PULL}))])

    assert await keys_below(driver, keys.ROBOTS) == []


@pytest.mark.parametrize("seconds", [0, -1.0])
async def test_a_token_that_has_expired_already_is_refused(robots: Robots, seconds: float) -> None:
    with pytest.raises(RobotError):
        await robots.create("ci", [GRANT], expires_seconds=seconds)


def test_actions_are_read_by_name_and_admin_is_none_of_them() -> None:
    assert parse_actions(["pull", "push"]) == {Action.PULL, Action.PUSH}
    assert parse_actions(["*"]) == frozenset(Action) - {Action.ADMIN}
    for texts in ([], ["admin"], ["PULL"], ["pull", ""], ["pul"]):
        with pytest.raises(RobotError):
            parse_actions(texts)
