"""Tokens of our own: any process verifies what another has issued, whichever keys come and go."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import jwt
import pytest
from structlog.testing import capture_logs

from registry.auth.jwks import parse_key_set
from registry.auth.jwts import OWN_BYTES_MAX, Access, Rules, TokenInvalid, parse
from registry.auth.signing import (
    LIFETIME_SECONDS_MAX,
    KeyRing,
    Rotation,
    Signer,
    SigningKey,
    Verifier,
)
from registry.auth.token_cache import TokenCache
from storage import keys
from storage.drivers import Page, SmallObject
from storage.errors import AlreadyExists, StorageReadOnly, StorageUnavailable
from storage.memory import MemoryDriver
from storage.signing_keys import SigningKeyRecord, SigningKeyStore
from tests.auth.issuing import Issuer, Key, assemble, ec_key
from tests.stores import Clock, damages, keys_below

DAY = 86400
ACCESS = (Access("repository", "team/app", ("pull", "push")),)


class CountingDriver(MemoryDriver):
    """Counts listings, and fails them with `failure` or changes with `refusal` if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.listings = 0
        self.failure: Exception | None = None
        self.refusal: Exception | None = None

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        self.listings += 1
        await asyncio.sleep(0)
        if self.failure:
            raise self.failure
        return await super().list(prefix, after=after, limit=limit, fold=fold)

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        await asyncio.sleep(0)
        return await super().get(key, bytes_max=bytes_max)

    async def create(self, key: str, body: bytes) -> str:
        await asyncio.sleep(0)
        if self.refusal:
            raise self.refusal
        return await super().create(key, body)

    async def delete(self, key: str) -> None:
        if self.refusal:
            raise self.refusal
        await super().delete(key)


@dataclass
class Process:
    """A process of the registry: what it holds of the keys that lie in a store."""

    ring: KeyRing
    signer: Signer
    verifier: Verifier

    async def issue(self, subject: str = "user:alice", lifetime: int = 300) -> str:
        return await self.signer.issue(subject, ACCESS, lifetime_seconds=lifetime)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> CountingDriver:
    return CountingDriver()


@pytest.fixture
def make(driver: CountingDriver, clock: Clock) -> Callable[..., Process]:
    def process(
        *, of: Callable[[], float] = clock, service: str = "registry.test", issuer: str = "pierhead"
    ) -> Process:
        ring = KeyRing(SigningKeyStore(driver), clock=of)
        return Process(
            ring,
            Signer(ring, issuer=issuer, service=service, clock=of),
            Verifier(ring, issuer=issuer, service=service, clock=of),
        )

    return process


Make = Callable[..., Process]


async def test_what_one_process_issues_another_verifies(make: Make, clock: Clock) -> None:
    one, other = make(), make()
    token = await one.signer.issue("user:alice", ACCESS, lifetime_seconds=300, claims={"kind": "user"})

    found = await other.verifier.verify(token)

    assert (found.subject, found.access, found.issuer) == ("user:alice", ACCESS, "")
    assert found.expires == clock.now + 300
    assert found.claims["kind"] == "user"


async def test_a_token_has_the_form_that_distribution_asks_for(make: Make, clock: Clock) -> None:
    process = make()
    token = await process.issue()

    (jwk,) = process.ring.public_jwks()["keys"]
    decoded = jwt.decode_complete(token, jwt.PyJWK(jwk).key, algorithms=["ES256"], options={"verify_signature": False})

    assert decoded["header"] == {"alg": "ES256", "typ": "JWT", "kid": jwk["kid"]}
    identity = decoded["payload"].pop("jti")
    assert len(identity) == 32
    assert decoded["payload"] == {
        "iss": "pierhead",
        "sub": "user:alice",
        "aud": "registry.test",
        "exp": clock.now + 300,
        "nbf": clock.now,
        "iat": clock.now,
        "access": [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}],
    }
    assert (await process.issue()) != token


async def test_the_public_keys_are_enough_to_verify_and_hold_nothing_private(make: Make, clock: Clock) -> None:
    process = make()
    token = parse(await process.issue())
    published = process.ring.public_jwks()

    key = parse_key_set(json.dumps(published).encode()).find(token.kid, "ES256")

    assert key is not None
    rules = Rules(issuer="pierhead", audience="registry.test", lifetime_seconds_max=300)
    assert token.verify(key, rules, now=clock.now)["sub"] == "user:alice"
    assert all(set(jwk) == {"kty", "crv", "x", "y", "kid", "alg", "use"} for jwk in published["keys"])


async def test_an_anonymous_token_has_an_empty_subject(make: Make) -> None:
    process = make()

    assert (await process.verifier.verify(await process.issue(""))).subject == ""


async def test_a_token_is_good_until_it_expires_also_when_it_was_verified_before(make: Make, clock: Clock) -> None:
    process = make()
    token = await process.issue()
    await process.verifier.verify(token)

    clock.now += 359
    await process.verifier.verify(token)
    clock.now += 1
    with pytest.raises(TokenInvalid, match="expired"):
        await process.verifier.verify(token)


async def test_a_token_for_another_service_or_from_another_registry_is_refused(make: Make) -> None:
    token = await make().issue()

    with pytest.raises(TokenInvalid, match="audience"):
        await make(service="other.test").verifier.verify(token)
    with pytest.raises(TokenInvalid, match="issuer"):
        await make(issuer="other").verifier.verify(token)


async def test_a_token_that_somebody_else_signed_is_refused(make: Make, clock: Clock) -> None:
    process = make()
    await process.ring.start()
    kid = (await process.ring.signing_key()).kid
    stranger = Issuer(url="pierhead", now=clock.now)
    key = Key(ec_key(), "ES256", kid)

    for header in ({}, {"kid": "other"}, {"kid": None}, {"kid": "../first"}, {"jwk": key.jwk()}, {"typ": None}):
        with pytest.raises(TokenInvalid):
            await process.verifier.verify(stranger.token(key, header=header, aud="registry.test"))
    unsigned = assemble({"alg": "none", "typ": "JWT", "kid": kid}, stranger.claims(), None, "ES256")
    with pytest.raises(TokenInvalid):
        await process.verifier.verify(unsigned)


async def test_a_token_without_a_subject_or_times_is_refused_though_we_signed_it(make: Make, clock: Clock) -> None:
    process = make()
    signing = await process.ring.signing_key()
    own = Issuer(url="pierhead", now=clock.now)
    key = Key(signing.private, "ES256", signing.kid)

    await process.verifier.verify(own.token(key))
    for claim in ("sub", "exp", "nbf", "iat"):
        with pytest.raises(TokenInvalid, match=claim):
            await process.verifier.verify(own.token_saying({claim: None}, key))
    with pytest.raises(TokenInvalid, match="access"):
        await process.verifier.verify(own.token(key, access=[{"type": "repository"}]))
    with pytest.raises(TokenInvalid, match="too long"):
        await process.verifier.verify(own.token(key, exp=int(clock.now) + LIFETIME_SECONDS_MAX + 61))


async def test_a_token_stays_below_what_a_header_line_holds(make: Make) -> None:
    many = [Access("repository", f"{'team/' * 40}{number}", ("pull", "push")) for number in range(30)]

    with pytest.raises(ValueError, match="ask for fewer scopes"):
        await make().signer.issue("user:alice", many, lifetime_seconds=300)
    assert len(await make().signer.issue("user:alice", many[:20], lifetime_seconds=300)) <= OWN_BYTES_MAX


@pytest.mark.parametrize("lifetime", [0, -1, LIFETIME_SECONDS_MAX + 1])
async def test_a_lifetime_has_bounds(make: Make, lifetime: int) -> None:
    with pytest.raises(ValueError, match="valid for 1 to"):
        await make().issue(lifetime=lifetime)


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "access"])
async def test_a_private_claim_replaces_no_registered_one(make: Make, name: str) -> None:
    with pytest.raises(ValueError, match="registered"):
        await make().signer.issue("user:alice", ACCESS, lifetime_seconds=300, claims={name: "x"})


async def test_processes_that_start_at_once_agree_on_one_key(make: Make, driver: CountingDriver) -> None:
    processes = [make() for _ in range(8)]

    await asyncio.gather(*(process.ring.start() for process in processes))

    assert await keys_below(driver, keys.SIGNING_KEYS) == [keys.signing_key("first")]
    assert len({(await process.ring.signing_key()).kid for process in processes}) == 1


async def test_a_key_is_used_at_first_and_kept_over_a_restart(make: Make) -> None:
    token = await make().issue()

    await make().verifier.verify(token)


async def test_a_new_key_signs_only_when_everybody_has_read_it(make: Make, clock: Clock) -> None:
    one, other = make(), make()
    first = await one.ring.signing_key()
    await other.ring.start()

    clock.now += 30 * DAY
    assert await one.ring.signing_key() == first
    assert len(one.ring.public_jwks()["keys"]) == 2
    clock.now += 299
    assert await one.ring.signing_key() == first
    clock.now += 1
    second = await one.ring.signing_key()

    assert second != first
    await other.verifier.verify(await one.issue())
    assert await other.ring.signing_key() == second


async def test_of_processes_that_find_a_new_key_due_one_makes_it(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    processes = [make() for _ in range(8)]
    await asyncio.gather(*(process.ring.start() for process in processes))

    clock.now += 30 * DAY
    await asyncio.gather(*(process.ring.refresh() for process in processes))

    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 2


async def test_an_old_key_verifies_until_no_token_of_it_can_be_left_and_is_deleted_then(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    process = make()
    first = await process.ring.signing_key()
    clock.now += 30 * DAY
    await process.ring.refresh()
    clock.now += 299
    last = await process.issue(lifetime=LIFETIME_SECONDS_MAX)
    assert parse(last).kid == first.kid

    clock.now += LIFETIME_SECONDS_MAX - 1
    await process.verifier.verify(last)
    clock.now += 2 * DAY
    await process.ring.refresh()

    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 1
    with pytest.raises(TokenInvalid, match="key"):
        await process.ring.find(first.kid)


async def test_years_of_rotation_leave_few_keys_and_never_a_token_that_others_refuse(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    processes = [make() for _ in range(3)]
    kids = set()
    for hour in range(0, 400 * 24, 5):
        clock.now += 5 * 3600
        one, other = processes[hour % 3], processes[(hour + 1) % 3]
        token = await one.issue()
        kids.add(parse(token).kid)
        await other.verifier.verify(token)
        assert len(await keys_below(driver, keys.SIGNING_KEYS)) <= 2

    assert 12 <= len(kids) <= 14


async def test_after_months_of_standing_still_the_old_key_is_replaced_and_tokens_are_good(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    before = make()
    first = await before.ring.signing_key()
    clock.now += 200 * DAY

    one, other = make(), make()
    await other.verifier.verify(await one.issue())
    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 2
    clock.now += 3 * DAY
    assert (await one.ring.signing_key()).kid != first.kid
    await one.ring.refresh()

    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 1


async def test_a_replica_whose_clock_is_ahead_does_no_harm(make: Make, driver: CountingDriver, clock: Clock) -> None:
    ahead = make(of=lambda: clock.now + 50)
    behind = make()
    await behind.ring.start()
    clock.now += 30 * DAY - 25

    await ahead.ring.refresh()
    for _ in range(20):
        clock.now += 30
        await behind.verifier.verify(await ahead.issue())
        await ahead.verifier.verify(await behind.issue())
    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 2


async def test_an_unknown_key_is_looked_up_at_once(make: Make, driver: CountingDriver, clock: Clock) -> None:
    one, other = make(), make()
    await other.ring.start()
    for key in await keys_below(driver, keys.SIGNING_KEYS):
        await driver.delete(key)
    clock.now += 2

    token = await one.issue()

    await other.verifier.verify(token)


async def test_tokens_with_unknown_keys_make_one_read_a_second(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    process = make()
    await process.ring.start()
    strange = Issuer(url="pierhead", now=clock.now).token(Key(ec_key(), "ES256", "strange"))
    clock.now += 5
    before = driver.listings

    async def refused() -> None:
        with pytest.raises(TokenInvalid, match="not known"):
            await process.verifier.verify(strange)

    await asyncio.gather(*(refused() for _ in range(50)))
    assert driver.listings == before + 1
    clock.now += 0.5
    await refused()
    assert driver.listings == before + 1
    clock.now += 0.5
    await refused()
    assert driver.listings == before + 2


async def test_storage_is_read_once_in_a_while_and_not_for_each_token(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    process = make()
    token = await process.issue()
    before = driver.listings

    for _ in range(100):
        await process.issue()
        await process.verifier.verify(token)
    assert driver.listings == before
    clock.now += 60
    await asyncio.gather(*(process.verifier.verify(token) for _ in range(100)))
    assert driver.listings == before + 1


async def test_a_clock_that_is_set_back_does_not_stop_the_reading(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    process = make()
    await process.ring.start()
    before = driver.listings

    clock.now -= DAY
    await process.ring.refresh()

    assert driver.listings == before + 1


async def test_while_storage_is_down_the_keys_stay_in_use(make: Make, driver: CountingDriver, clock: Clock) -> None:
    process = make()
    token = await process.issue()
    driver.failure = StorageUnavailable("down")
    clock.now += 61

    with capture_logs() as logs:
        await process.verifier.verify(token)
        await process.verifier.verify(await process.issue())

    assert [line["log_level"] for line in logs] == ["warning"]


async def test_without_any_key_a_store_that_is_down_is_told(make: Make, driver: CountingDriver) -> None:
    driver.failure = StorageUnavailable("down")
    process = make()

    with pytest.raises(StorageUnavailable):
        await process.ring.start()
    with pytest.raises(StorageUnavailable):
        await process.issue()
    driver.failure = None
    assert await process.issue()


async def test_where_nothing_can_be_written_the_old_keys_stay_in_use(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    process = make()
    first = await process.ring.signing_key()
    driver.refusal = StorageReadOnly("read-only")
    clock.now += 40 * DAY

    with capture_logs() as logs:
        assert await process.ring.signing_key() == first

    assert any("old one stays" in str(line["event"]) for line in logs)
    fresh = make()
    assert await fresh.ring.signing_key() == first


async def test_with_no_key_and_nothing_to_be_written_the_start_fails(make: Make, driver: CountingDriver) -> None:
    driver.refusal = StorageReadOnly("read-only")

    with pytest.raises(StorageReadOnly):
        await make().ring.start()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: SigningKeyRecord(record.kid, record.created, "no PEM, but SECRET"),
        lambda record: SigningKeyRecord("another", record.created, record.private_pem),
        lambda record: SigningKeyRecord(record.kid, record.created, record.private_pem[:-60]),
    ],
)
async def test_a_damaged_key_is_passed_over_told_by_its_place_and_followed_by_another(
    make: Make,
    driver: CountingDriver,
    change: Callable[[SigningKeyRecord], SigningKeyRecord],
) -> None:
    await make().ring.start()
    (stored,) = await SigningKeyStore(driver).list()
    driver.write(stored.key, change(stored.record).to_json())

    with capture_logs() as logs:
        processes = [make() for _ in range(4)]
        await asyncio.gather(*(process.ring.start() for process in processes))

    assert set(damages(logs)) == {stored.key}
    assert "SECRET" not in str(logs)
    assert await keys_below(driver, keys.SIGNING_KEYS) == [stored.key, f"{stored.key}.1"]
    await processes[0].verifier.verify(await processes[1].issue())


async def test_a_damaged_key_in_the_next_slot_does_not_end_the_rotation(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    first = await make().ring.signing_key()
    driver.write(keys.signing_key(first.kid), b"damaged")
    clock.now += 30 * DAY

    processes = [make() for _ in range(4)]
    await asyncio.gather(*(process.ring.start() for process in processes))
    clock.now += 300

    assert len({(await process.ring.signing_key()).kid for process in processes} - {first.kid}) == 1
    assert len(await keys_below(driver, keys.SIGNING_KEYS)) == 3


async def test_of_keys_that_are_all_new_everybody_signs_with_the_oldest(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    first = await make().ring.signing_key()
    elsewhere = SigningKeyStore(MemoryDriver())
    await KeyRing(elsewhere, clock=lambda: clock.now + 10).start()
    (second,) = await elsewhere.list()
    await SigningKeyStore(driver).add(second.record, after=first.kid)

    process = make()

    assert await process.ring.signing_key() == first
    assert len(process.ring.public_jwks()["keys"]) == 2


async def test_tokens_of_a_key_that_was_deleted_are_refused_though_they_were_verified_before(
    make: Make, driver: CountingDriver, clock: Clock
) -> None:
    one, other = make(), make()
    token = await one.issue()
    await other.verifier.verify(token)

    for key in await keys_below(driver, keys.SIGNING_KEYS):
        await driver.delete(key)
    clock.now += 60

    for process in (one, other):
        with pytest.raises(TokenInvalid, match="not known"):
            await process.verifier.verify(token)
    await other.verifier.verify(await one.issue())


async def test_a_key_on_another_curve_is_not_ours(make: Make, driver: CountingDriver) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    await SigningKeyStore(driver).add(SigningKeyRecord("k", 1, pem), after=None)

    with capture_logs() as logs:
        await make().ring.start()

    assert damages(logs) == [keys.signing_key("first")]


async def test_a_key_shows_nothing_private(make: Make) -> None:
    key = await make().ring.signing_key()

    assert isinstance(key, SigningKey)
    assert "private" not in repr(key).replace("Private", "private").split("public")[0]


@pytest.mark.parametrize(
    "seconds",
    [
        {"refresh_seconds": 0},
        {"refresh_seconds": 300},
        {"propagation_seconds": 2 * LIFETIME_SECONDS_MAX},
        {"rotate_seconds": LIFETIME_SECONDS_MAX},
    ],
)
def test_a_rotation_that_would_refuse_good_tokens_is_refused(seconds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected refresh < propagation < overlap < rotate"):
        Rotation(**seconds)


async def test_a_slot_that_is_taken_is_not_an_error_of_the_store(make: Make, driver: CountingDriver) -> None:
    driver.refusal = AlreadyExists("taken")

    with pytest.raises(Exception, match="damaged signing keys lie in the way"):
        await make().ring.start()


def test_the_cache_is_bounded_and_forgets_what_has_expired(clock: Clock) -> None:
    cache: TokenCache[int] = TokenCache(clock=clock, entries_max=3)
    for number in range(5):
        cache.put(f"token-{number}", number, expires=clock.now + 10)

    assert len(cache) == 3
    assert [cache.get(f"token-{number}") for number in range(5)] == [None, None, 2, 3, 4]
    assert cache.get("t\u00f6ken") is None
    clock.now += 10
    assert cache.get("token-4") is None
    assert len(cache) == 2


async def test_a_token_that_was_verified_before_costs_next_to_nothing(make: Make) -> None:
    process = make()
    token = await process.signer.issue("user:alice", ACCESS * 3, lifetime_seconds=300)
    first = await process.verifier.verify(token)

    started = time.perf_counter()
    again = first
    for _ in range(1000):
        again = await process.verifier.verify(token)
    seconds = time.perf_counter() - started

    assert again is first
    assert seconds / 1000 < 100e-6  # a tenth of that on an idle machine
