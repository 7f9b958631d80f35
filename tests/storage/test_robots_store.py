"""The tokens of robots as they lie in storage, and the texts of all tokens that are nothing but random."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tests.properties  # noqa: F401  # no deadlines
from storage import keys
from storage.errors import AlreadyExists, Corrupt, NotFound
from storage.opaque_tokens import ALPHABET, OpaqueToken
from storage.robots import RobotGrant, RobotStore, RobotToken
from tests.stores import RefusingDriver, StepDriver

HASH = "0123456789abcdef" * 4
TOKEN = RobotToken("ci", "a" * 12, HASH, (RobotGrant(("team/**",), ("pull", "push")),), 1000.0, 2000.0, "alice")


@pytest.fixture
def driver() -> RefusingDriver:
    return RefusingDriver()


@pytest.fixture
def store(driver: RefusingDriver) -> RobotStore:
    return RobotStore(driver)


def made(name: str, token: str) -> RobotToken:
    return RobotToken(name, token, HASH, TOKEN.grants, 1000.0)


async def test_a_token_comes_back_as_it_was_kept(store: RobotStore) -> None:
    await store.create(TOKEN)

    assert await store.get("ci", TOKEN.id) == TOKEN
    with pytest.raises(AlreadyExists):
        await store.create(TOKEN)
    with pytest.raises(NotFound):
        await store.get("cd", TOKEN.id)


async def test_a_listing_is_in_order_of_names_and_passes_over_what_is_none(
    store: RobotStore, driver: RefusingDriver
) -> None:
    for name, token in (("b", "2" * 12), ("a", "9" * 12), ("b", "1" * 12), ("b.c", "0" * 12)):
        await store.create(made(name, token))
    await driver.put(f"{keys.ROBOTS}stray", b"")
    await driver.put(f"{keys.ROBOTS}a/b/c", b"")
    await driver.put(keys.robot_token("b", "damaged"), b"{")
    await driver.put(keys.robot_token("b", "copied"), made("b", "1" * 12).to_json())
    await store.create(made("b", "refused"))
    driver.refused = {keys.robot_token("b", "refused")}

    with capture_logs() as logs:
        found = [(token.name, token.id[0]) async for token in store.list()]

    assert found == [("a", "9"), ("b.c", "0"), ("b", "1"), ("b", "2")]
    assert {line["key"].rpartition("/")[2] for line in logs} == {"damaged", "copied", "refused"}
    assert [token.id[0] async for token in store.list("b")] == ["1", "2"]


async def test_more_tokens_than_a_page_holds_are_all_listed(store: RobotStore) -> None:
    for number in range(1100):
        await store.create(made("ci", f"{number:012}"))

    assert len([token async for token in store.list("ci")]) == 1100


async def test_a_revoked_token_is_gone_and_may_be_revoked_again(store: RobotStore) -> None:
    await store.create(TOKEN)

    await store.revoke("ci", TOKEN.id)
    await store.revoke("ci", TOKEN.id)

    with pytest.raises(NotFound):
        await store.get("ci", TOKEN.id)


async def test_of_two_workers_that_note_a_use_one_writes_and_neither_fails() -> None:
    driver = StepDriver()
    store = RobotStore(driver)
    await store.create(TOKEN)

    async def overtake(_method: str, _key: str) -> None:
        driver.before_write = None
        await store.use(TOKEN, 1500.0)

    driver.before_write = overtake
    await store.use(TOKEN, 1501.0)

    assert (await store.get("ci", TOKEN.id)).used == 1500.0


async def test_a_use_that_somebody_else_has_noted_is_not_noted_again(store: RobotStore) -> None:
    await store.create(TOKEN)
    await store.use(TOKEN, 1500.0)

    found = await store.use(TOKEN, 1501.0)

    assert found == await store.get("ci", TOKEN.id)
    assert found.used == 1500.0


@pytest.mark.parametrize(
    "change",
    [
        {"hash": "x"},
        {"hash": None},
        {"hash": HASH.upper()},
        {"grants": {}},
        {"grants": [{}]},
        {"grants": [{"repositories": [1], "actions": []}]},
        {"grants": [{"repositories": "**", "actions": []}]},
        {"created": "now"},
        {"created": True},
        {"expires": "never"},
        {"used": []},
        {"created_by": None},
        {"more": 1},
    ],
)
async def test_a_record_with_another_shape_is_damaged(
    store: RobotStore, driver: RefusingDriver, change: dict[str, object]
) -> None:
    await driver.put(keys.robot_token("ci", TOKEN.id), json.dumps(json.loads(TOKEN.to_json()) | change).encode())

    with capture_logs(), pytest.raises(Corrupt):
        await store.get("ci", TOKEN.id)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
)


@given(
    st.binary(max_size=60)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(dict.fromkeys(RobotToken.__slots__, json_values)).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_are_anything_but_a_record_or_damaged(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # json has its own words
        RobotToken.from_json(text)


# Texts of tokens


def test_a_token_is_as_scanners_expect_it() -> None:
    token = OpaqueToken.create("phr")

    assert re.fullmatch(r"phr_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", token.text)
    assert token.text.startswith(f"phr_{token.id}_")
    assert OpaqueToken.parse("phr", token.text) == token
    assert token.text not in repr(token)


def test_tokens_are_never_the_same() -> None:
    made = [OpaqueToken.create("phr").text for _ in range(1000)]

    assert len(set(made)) == 1000
    assert set("".join(text.rpartition("_")[2][:43] for text in made)) == set(ALPHABET)


def test_a_token_of_another_kind_is_none() -> None:
    assert OpaqueToken.parse("phi", OpaqueToken.create("phr").text) is None


def test_the_checksum_stays_what_it_is_for_tokens_that_were_given_out() -> None:
    text = "phr_" + "A" * 12 + "_" + "0" * 43

    assert OpaqueToken.parse("phr", text + "CHECK") is None
    assert OpaqueToken.parse("phr", text + "30EHdo") is not None


@given(st.data())
def test_a_mistyped_token_is_told_from_a_right_one(data: st.DataObject) -> None:
    text = OpaqueToken.create("phi", owner="0" * 16).text
    place = data.draw(st.integers(0, len(text) - 1))
    wrong = text[:place] + data.draw(st.sampled_from(ALPHABET + " _\n")) + text[place + 1 :]

    assert (OpaqueToken.parse("phi", wrong) is None) == (wrong != text)


@given(st.text(max_size=90))
def test_no_text_from_outside_is_a_token(text: str) -> None:
    assert OpaqueToken.parse("phr", text) is None


def test_the_hash_is_the_sha_256_of_the_whole_token() -> None:
    token = OpaqueToken.create("phr")

    assert re.fullmatch(r"[0-9a-f]{64}", token.hash)
    assert token.has_hash(token.hash)
    assert not token.has_hash(OpaqueToken.create("phr").hash)
    assert not token.has_hash("")
