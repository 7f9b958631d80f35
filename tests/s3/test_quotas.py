"""Two servers over one bucket keep to one quota, and what that takes of the bucket."""

import itertools
import json
import os
import time
from collections import Counter

from storage.counted_blobs import BlobCounter, fingerprint
from storage.digest import Digest
from storage.s3 import S3Driver
from storage.usage import UsageHead, UsageStore
from tests.quotas.pushing import MIB, push_at_once, push_blob, quota, refusal
from tests.s3.faults import Proxy
from tests.s3.replicas import Replicas
from tests.s3.weed import Store

ALL_TEAMS = [f"team/app-{number}" for number in range(8)]


async def test_a_reservation_takes_a_write_a_listing_and_a_read(weed: Store, prefix: str, proxy: Proxy) -> None:
    ids = itertools.count()
    driver = S3Driver(weed.settings(prefix, endpoint=proxy.endpoint))
    await driver.start()
    store = UsageStore(driver, clock=time.time, new_id=lambda: str(next(ids)))
    counter = BlobCounter()
    counter.add(fingerprint(Digest.of(b"counted")), 7)
    assert await store.put("team", await store.view("team"), UsageHead("", 0, 0, 1.0, 1.0), counter.counted())
    assert (await store.view("team")).used == 7
    proxy.taken()

    await store.add("team", Digest.of(b"new"), 3)
    view = await store.view("team")

    assert view.used == 10
    assert Counter(proxy.taken()) == {"PutObject": 1, "ListObjectsV2": 1, "GetObject": 1}
    await driver.close()


def test_two_servers_let_in_no_more_than_fits(replicas: Replicas) -> None:
    replicas.environment = {**replicas.environment, **quota(team=4 * MIB + MIB // 2)}
    clients = [replicas.add(), replicas.add()]

    answers = push_at_once(clients, ALL_TEAMS, size=MIB)

    statuses = [answer.status_code for answer in answers]
    assert set(statuses) <= {201, 403}
    assert statuses.count(201) <= 4
    later = [push_blob(client, name, os.urandom(MIB)) for name in ALL_TEAMS for client in clients]
    assert "quota of team: 4 MiB of 4.5 MiB used" in refusal(later[-1])
    told = replicas.run("usage", "--recount", "--json")
    rows = {row["prefix"]: row for row in json.loads(told.stdout)["prefixes"]}
    assert rows["team"]["bytes"] == rows["team"]["quota_used_bytes"] == rows["team"]["unique_bytes"] == 4 * MIB
    # What the other server has counted holds here, and what is linked to already is no question of room.
    digest = next(answer.headers["docker-content-digest"] for answer in answers if answer.status_code == 201)
    source = next(name for name, answer in zip(ALL_TEAMS, answers, strict=True) if answer.status_code == 201)
    mounted = clients[1].post("/v2/team/more/blobs/uploads/", params={"mount": digest, "from": source})
    assert mounted.status_code == 201


def test_large_blobs_that_may_not_be_at_their_key_yet_have_their_size(replicas: Replicas) -> None:
    client = replicas.add()
    body = os.urandom(12 * MIB)
    assert push_blob(client, "team/app", body).status_code == 201

    told = replicas.run("usage", "--recount", "--json")

    rows = {row["prefix"]: row for row in json.loads(told.stdout)["prefixes"]}
    assert rows["team"]["bytes"] == len(body)
