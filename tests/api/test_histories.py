"""Histories of tags over HTTP: what is told, the way back, and who may go it."""

import json
from collections.abc import Awaitable, Callable

import pytest

from registry.janitor import Janitor
from storage import keys
from storage.digest import Digest
from storage.drivers import Page, SmallObject
from tests.api.client import REPOSITORY, Client, open_client, refusal
from tests.api.conftest import OpenClient
from tests.registry.images import encode, image
from tests.stores import StepDriver

TAGS = f"{REPOSITORY}/_pierhead/tags"


def body(number: int) -> bytes:
    """The manifest of an image of its own."""
    return encode({**image(), "annotations": {"number": str(number)}})


def digest(number: int) -> str:
    return str(Digest.of(body(number)))


async def push(client: Client, *numbers: int, tag: str = "prod") -> None:
    for number in numbers:
        assert (await client.push_manifest(body(number), tag)).status_code == 201


async def states(client: Client, tag: str = "prod") -> list[tuple[str | None, str]]:
    answer = await client.http.get(f"{TAGS}/{tag}/history")
    assert answer.status_code == 200, answer.text
    return [(state["digest"], state["why"]) for state in answer.json()["states"]]


async def current(client: Client, tag: str = "prod") -> bytes:
    answer = await client.http.get(f"{REPOSITORY}/manifests/{tag}")
    assert answer.status_code == 200
    return answer.content


async def test_a_history_tells_each_state_from_now_on_back(client: Client) -> None:
    await push(client, 1, 2)
    await client.http.delete(f"{REPOSITORY}/manifests/prod")

    answer = await client.http.get(f"{TAGS}/prod/history")

    assert answer.headers["cache-control"] == "private, no-store"
    told = answer.json()
    assert (told["name"], told["tag"]) == (REPOSITORY, "prod")
    assert [set(state) for state in told["states"]] == [
        {"number", "digest", "previous", "time", "who", "why", "held"}
    ] * 3
    assert [
        (each["number"], each["digest"], each["previous"], each["who"], each["why"], each["held"])
        for each in told["states"]
    ] == [
        (0, None, digest(2), "anonymous", "delete", False),
        (1, digest(2), digest(1), "anonymous", "push", True),
        (2, digest(1), None, "anonymous", "push", True),
    ]
    times = [each["time"] for each in told["states"]]
    assert times == sorted(times, reverse=True)
    assert all(time.endswith("+00:00") for time in times)


async def test_a_tag_that_never_was_is_unknown(client: Client) -> None:
    await push(client, 1)

    for method, path in (("GET", "other/history"), ("POST", "other/rollback"), ("POST", "other/restore")):
        assert refusal(await client.http.request(method, f"{TAGS}/{path}")) == (404, "MANIFEST_UNKNOWN")
    assert refusal(await client.http.get(f"{TAGS}/.x/history")) == (400, "MANIFEST_INVALID")


async def test_a_history_comes_in_pages(client: Client) -> None:
    await push(client, *range(7))
    path: str | None = f"{TAGS}/prod/history?n=3"
    found: list[int] = []
    pages = 0

    while path:
        answer = await client.http.get(path)
        found += [state["number"] for state in answer.json()["states"]]
        path = answer.headers.get("link", "").partition("<")[2].partition(">")[0] or None
        pages += 1

    assert (found, pages) == (list(range(7)), 3)


@pytest.mark.parametrize("query", ["n=x", "n=-1", "last=x", "last=-1", "last=9999999999"])
async def test_no_numbers_in_the_query_are_400(client: Client, query: str) -> None:
    await push(client, 1)

    assert refusal(await client.http.get(f"{TAGS}/prod/history?{query}")) == (400, "UNSUPPORTED")


@pytest.mark.parametrize("number", range(1, 10))
async def test_a_rollback_to_each_of_the_last_ten_states_serves_its_very_bytes_and_is_told(
    client: Client, number: int
) -> None:
    await push(client, *range(10))

    answer = await client.http.post(f"{TAGS}/prod/rollback", json={"to": number})

    assert answer.status_code == 200
    assert answer.json() == {
        "name": REPOSITORY,
        "tag": "prod",
        "state": number,
        "digest": digest(9 - number),
        "previous": digest(9),
    }
    assert await current(client) == body(9 - number)
    assert (await states(client))[:2] == [(digest(9 - number), "rollback"), (digest(9), "push")]
    assert len(await states(client)) == 11


async def test_a_rollback_without_a_target_goes_to_what_was_there_before_and_a_second_one_back(client: Client) -> None:
    await push(client, 1, 2)

    for number in (1, 2):
        assert (await client.http.post(f"{TAGS}/prod/rollback")).status_code == 200
        assert await current(client) == body(number)


@pytest.mark.parametrize("cut", [12, 71])
async def test_a_rollback_may_name_the_digest_or_its_start(client: Client, cut: int) -> None:
    await push(client, 1, 2, 3)

    answer = await client.http.post(f"{TAGS}/prod/rollback", json={"to": digest(1)[:cut]})

    assert (answer.json()["digest"], await current(client)) == (digest(1), body(1))


async def test_a_rollback_may_name_a_time(client: Client) -> None:
    await push(client, 1, 2, 3)
    told = (await client.http.get(f"{TAGS}/prod/history")).json()["states"]

    answer = await client.http.post(f"{TAGS}/prod/rollback", json={"at": told[1]["time"]})

    assert (answer.status_code, await current(client)) == (200, body(2))
    before = await client.http.post(f"{TAGS}/prod/rollback", json={"at": "2001-01-01T00:00"})
    assert refusal(before) == (404, "MANIFEST_UNKNOWN")
    assert "begins at" in before.text


async def test_a_rollback_to_where_the_tag_points_changes_nothing_and_is_no_change(client: Client) -> None:
    await push(client, 1, 2)

    assert (await client.http.post(f"{TAGS}/prod/rollback", json={"to": 0})).status_code == 200

    assert await states(client) == [(digest(2), "push"), (digest(1), "push")]


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"to": 1, "at": "2026-01-01"}',
        b'{"to": true}',
        b'{"to": -1}',
        b'{"to": 1.5}',
        b'{"to": "prod"}',
        b'{"to": "sha256:"}',
        b'{"at": 5}',
        b'{"at": "yesterday"}',
        b'{"at": "9999-99-99"}',
        b'{"back": 1}',
        b'{"to": null, "who": "root"}',
    ],
)
async def test_a_target_that_cannot_be_read_is_400(client: Client, content: bytes) -> None:
    await push(client, 1, 2)

    assert refusal(await client.http.post(f"{TAGS}/prod/rollback", content=content)) == (400, "UNSUPPORTED")
    assert await current(client) == body(2)


@pytest.mark.parametrize("to", [2, 99, "sha256:" + "0" * 64])
async def test_a_target_that_is_not_there_is_404(client: Client, to: int | str) -> None:
    await push(client, 1, 2)

    assert refusal(await client.http.post(f"{TAGS}/prod/rollback", json={"to": to})) == (404, "MANIFEST_UNKNOWN")


async def test_a_first_state_has_nothing_before_it(client: Client) -> None:
    await push(client, 1)

    answer = await client.http.post(f"{TAGS}/prod/rollback")

    assert refusal(answer) == (404, "MANIFEST_UNKNOWN")
    assert "nothing to go back to" in answer.text


async def test_what_is_longer_than_any_target_is_413(client: Client) -> None:
    assert refusal(await client.http.post(f"{TAGS}/prod/rollback", content=b" " * 20_000)) == (413, "SIZE_INVALID")


async def test_nothing_goes_back_to_a_manifest_that_was_deleted_and_it_is_told_which(client: Client) -> None:
    await push(client, 1, 2)
    await client.http.delete(f"{REPOSITORY}/manifests/{digest(1)}")

    answer = await client.http.post(f"{TAGS}/prod/rollback", json={"to": 1})

    assert refusal(answer) == (404, "MANIFEST_UNKNOWN")
    assert "was deleted" in answer.text
    assert answer.json()["errors"][0]["detail"] == {"digest": digest(1)}
    told = (await client.http.get(f"{TAGS}/prod/history")).json()["states"]
    assert [state["held"] for state in told] == [True, False]


async def test_nothing_goes_back_to_when_the_tag_was_gone(client: Client) -> None:
    await push(client, 1)
    await client.http.delete(f"{REPOSITORY}/manifests/prod")
    await push(client, 2)

    assert "was deleted" in (await client.http.post(f"{TAGS}/prod/rollback", json={"to": 1})).text
    assert (await client.http.post(f"{TAGS}/prod/rollback")).json()["digest"] == digest(1)


async def test_a_deleted_tag_is_restored_to_where_it_pointed_last(client: Client) -> None:
    await push(client, 1, 2)
    await client.http.delete(f"{REPOSITORY}/manifests/prod")
    assert refusal(await client.http.post(f"{TAGS}/prod/rollback")) == (400, "UNSUPPORTED")

    answer = await client.http.post(f"{TAGS}/prod/restore")

    assert (answer.status_code, answer.json()["digest"], answer.json()["previous"]) == (200, digest(2), None)
    assert await current(client) == body(2)
    assert [why for _digest, why in await states(client)] == ["restore", "delete", "push", "push"]
    assert (await client.http.get(f"{REPOSITORY}/tags/list")).json()["tags"] == ["prod"]


async def test_a_tag_that_is_there_is_not_restored(client: Client) -> None:
    await push(client, 1, 2)

    answer = await client.http.post(f"{TAGS}/prod/restore")

    assert refusal(answer) == (400, "UNSUPPORTED")
    assert await current(client) == body(2)


async def test_a_tag_whose_manifest_was_deleted_with_it_can_not_be_restored(client: Client) -> None:
    await push(client, 1)
    await client.http.delete(f"{REPOSITORY}/manifests/{digest(1)}")

    assert refusal(await client.http.post(f"{TAGS}/prod/restore")) == (404, "MANIFEST_UNKNOWN")
    assert refusal(await client.http.get(f"{REPOSITORY}/manifests/prod")) == (404, "MANIFEST_UNKNOWN")


async def test_a_condition_of_the_request_holds_for_a_rollback_as_for_a_push(client: Client) -> None:
    await push(client, 1, 2)

    for condition, status in ((digest(1), 412), (digest(2), 200)):
        answer = await client.http.post(f"{TAGS}/prod/rollback", json={"to": 1}, headers={"if-match": f'"{condition}"'})
        assert answer.status_code == status


async def test_a_tag_that_is_moved_while_it_is_rolled_back_stays_where_it_was_moved_to(
    client: Client, driver: StepDriver
) -> None:
    await push(client, 1, 2, 3)
    link = keys.tag_link(REPOSITORY, "prod")

    async def move(method: str, key: str) -> None:
        if method == "replace" and key == link:
            driver.before_write = None
            await driver.put(link, digest(1).encode())

    driver.before_write = move
    answer = await client.http.post(f"{TAGS}/prod/rollback")

    assert refusal(answer) == (412, "DENIED")
    assert digest(1) in answer.text
    assert await current(client) == body(1)


async def test_a_manifest_of_sha512_comes_back_under_its_digest(client: Client) -> None:
    five = Digest.of(body(5), "sha512")
    await push(client, 1)
    await client.http.put(
        f"{REPOSITORY}/manifests/{five}",
        params={"tag": "prod"},
        content=body(5),
        headers={"content-type": str(image()["mediaType"])},
    )
    await push(client, 2)

    assert (await client.http.post(f"{TAGS}/prod/rollback")).json()["digest"] == str(five)

    answer = await client.http.get(f"{REPOSITORY}/manifests/prod")
    assert answer.headers["docker-content-digest"] == str(five)


@pytest.mark.parametrize(("method", "path"), [("POST", "history"), ("GET", "rollback"), ("DELETE", "restore")])
async def test_other_methods_are_405(client: Client, method: str, path: str) -> None:
    assert refusal(await client.http.request(method, f"{TAGS}/prod/{path}")) == (405, "UNSUPPORTED")


async def test_a_damaged_record_is_told_as_far_as_its_name_tells(client: Client, driver: StepDriver) -> None:
    await push(client, 1, 2)
    page = await driver.list(keys.history(REPOSITORY, "prod"), limit=10)
    await driver.put(page.entries[0].key, b"{")

    assert await states(client) == [(digest(2), "push"), (digest(1), "unknown")]
    assert (await client.http.post(f"{TAGS}/prod/rollback")).status_code == 200


async def test_what_lies_in_a_record_cannot_break_the_answer(client: Client, driver: StepDriver) -> None:
    await push(client, 1)
    [entry] = (await driver.list(keys.history(REPOSITORY, "prod"), limit=10)).entries
    fields = {"who": "x\r\ny\x1b[31m\ud800", "old": None, "new": digest(1), "why": "push", "when": ""}
    await driver.put(entry.key, json.dumps(fields).encode())

    answer = await client.http.get(f"{TAGS}/prod/history")

    assert answer.status_code == 200
    assert json.loads(answer.content.decode("utf-8"))["states"][0]["why"] == "push"


async def pulled(client: Client, reference: str) -> int | bytes:
    """What a pull by the reference gives: the bytes, or the status if there are none."""
    answer = await client.http.get(f"{REPOSITORY}/manifests/{reference}")
    head = await client.http.head(f"{REPOSITORY}/manifests/{reference}")
    assert head.status_code == answer.status_code
    if answer.status_code == 200:
        assert answer.headers["docker-content-digest"] == str(Digest.of(answer.content))
        assert answer.headers["cache-control"] == "private, no-cache"
    return answer.content if answer.status_code == 200 else answer.status_code


async def test_an_earlier_state_is_pulled_by_its_number_or_a_time(client: Client, driver: StepDriver) -> None:
    for number, time in ((1, 1_000_000_000), (2, 1_000_000_060), (3, 1_000_000_120)):
        await push(client, number)
        await move_record(driver, time)

    assert [await pulled(client, f"prod.-{number}") for number in (1, 2, 3)] == [body(2), body(1), 404]
    for text, expected in (
        ("20010909T0146Z", 404),  # 1,000,000,000 is 01:46:40 that day
        ("20010909T014639Z", 404),
        ("20010909T014640Z", body(1)),
        ("20010909T0147Z", body(1)),
        ("20010909T014740Z", body(2)),
        ("20300101T0000Z", body(3)),
        ("20309901T0000Z", 404),
        ("20010909T01Z", 404),
    ):
        assert await pulled(client, f"prod.at-{text}") == expected, text
    assert (await client.http.get(f"{REPOSITORY}/tags/list")).json()["tags"] == ["prod"]


async def move_record(driver: StepDriver, seconds: int) -> None:
    """Let the newest record have been written at a time."""
    entry = (await driver.list(keys.history(REPOSITORY, "prod"), limit=10)).entries[-1]
    folder, _, name = entry.key.rpartition("/")
    moved = f"{folder}/{seconds * 1_000_000:016}.{name.partition('.')[2]}"
    found = await driver.get(entry.key, bytes_max=4096)
    await driver.delete(entry.key)
    await driver.put(moved, found.body)


async def test_a_state_in_which_the_tag_was_deleted_is_not_pulled(client: Client) -> None:
    await push(client, 1)
    await client.http.delete(f"{REPOSITORY}/manifests/prod")
    await push(client, 2)

    assert [await pulled(client, f"prod.-{number}") for number in (1, 2)] == [404, body(1)]


@pytest.mark.parametrize("reference", ["prod.-1", "prod.at-20261101T1200Z", "prod.-1.-2"])
async def test_nothing_is_pushed_under_the_name_of_an_earlier_state(client: Client, reference: str) -> None:
    await push(client, 1)

    assert refusal(await client.put_manifest(body(2), reference)) == (403, "DENIED")
    answer = await client.http.put(f"{REPOSITORY}/manifests/{digest(2)}", params={"tag": reference}, content=body(2))
    assert refusal(answer) == (403, "DENIED")
    assert await pulled(client, digest(2)) == 404


@pytest.mark.parametrize(
    "reference", ["prod.-0", "prod.-", "prod.-01", "prod.-1a", "prod.-100", "prod.at-", "prod.at-2026Z", "a.-b"]
)
async def test_other_names_are_names_as_all_others(client: Client, reference: str) -> None:
    assert (await client.push_manifest(body(1), reference)).status_code == 201
    assert await pulled(client, reference) == body(1)


async def test_a_tag_of_the_very_name_comes_first_also_if_it_is_damaged(client: Client, driver: StepDriver) -> None:
    await push(client, 1, 2, 3)
    await driver.put(keys.tag_link(REPOSITORY, "prod.-1"), digest(1).encode())

    assert await pulled(client, "prod.-1") == body(1)
    await driver.put(keys.tag_link(REPOSITORY, "prod.-1"), b"")
    assert await pulled(client, "prod.-1") == 404


async def test_switched_off_they_are_names_as_all_others(open_registry: OpenClient) -> None:
    client = await open_registry(history={"references": False})
    await push(client, 1, 2)

    assert await pulled(client, "prod.-1") == 404
    await push(client, 1, tag="prod.-1")
    assert await pulled(client, "prod.-1") == body(1)


class CountingDriver(StepDriver):
    """Notes what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def get(self, key: str, *, bytes_max: int) -> SmallObject:
        self.calls.append(key)
        return await super().get(key, bytes_max=bytes_max)

    async def list(self, prefix: str, *, after: str = "", limit: int, fold: bool = False) -> Page:
        self.calls.append(prefix)
        return await super().list(prefix, after=after, limit=limit, fold=fold)


async def test_a_tag_that_is_not_there_costs_one_look_as_long_as_its_name_says_nothing() -> None:
    driver = CountingDriver()
    client = await open_client(driver)
    await push(client, 1)
    driver.calls.clear()

    assert (await client.http.get(f"{REPOSITORY}/manifests/absent.1-2")).status_code == 404

    assert driver.calls == [keys.tag_link(REPOSITORY, "absent.1-2")]
    await client.close()


async def test_a_pull_writes_nothing_down(client: Client, driver: StepDriver) -> None:
    await push(client, 1)
    await driver.put(keys.tag_link(REPOSITORY, "prod"), digest(2).encode())

    assert await pulled(client, "prod.-1") == body(1)

    assert len((await driver.list(keys.history(REPOSITORY, "prod"), limit=10)).entries) == 1


def sweep_of(client: Client) -> Callable[[], Awaitable[int]]:
    """What the server does now and then for its histories."""
    janitors = [each for each in client.registry._background if isinstance(each, Janitor)]
    [sweep] = [sweep for each in janitors for what, sweep in each._sweeps.items() if what == "records of histories"]
    return sweep


async def test_the_server_drops_records_that_nothing_keeps_by_its_settings(open_registry: OpenClient) -> None:
    client = await open_registry(history={"keep_seconds": 0, "keep_last": 2})
    await push(client, *range(6))
    sweep = sweep_of(client)

    assert [await sweep() for _ in range(2)] == [3, 0]

    assert [each for each, _why in await states(client)] == [digest(5), digest(4), digest(3)]
    again = await open_registry()
    await push(again, 6)
    assert len(await states(again)) == 4


async def test_what_is_swept_now_and_then_does_not_come_between_two_pushes(open_registry: OpenClient) -> None:
    clients = [await open_registry(history={"keep_seconds": 0, "keep_last": 0}) for _ in range(2)]
    await push(clients[0], 1, 2)

    found = [await sweep_of(client)() for client in clients]

    assert found == [1, 0]  # the second one finds that it was done a moment ago
