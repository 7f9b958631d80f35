"""How clients come by their tokens, watched on the wire or replayed, and what they are good for, such as mounts."""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
import pytest

from tests.clients.logins import KINDS, Client, ContainerdClient, DockerClient, HelmClient, client_of
from tests.clients.private import HIDDEN, ROBOT, USERS, Private, private_registry
from tests.clients.programs import ProgramFailed
from tests.clients.recorder import Recorder
from tests.running import eventually

NOBODY = {"Authorization": "Basic Og=="}
"""An empty user with an empty password, as containers/image sends them where nobody has logged in."""

CHALLENGE = re.compile(r'(\w+)="([^"]+)"')
SEEN_SECONDS_MAX = 5
"""How long it may take until every worker knows of a change: two seconds, and some for a machine that is busy."""


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    """Return a registry that speaks plain HTTP."""
    with private_registry(tmp_path_factory.mktemp("private")) as up:
        yield up


@pytest.fixture
def wire(private: Private) -> Iterator[Recorder]:
    """Return the way to it on which every request is noted."""
    with Recorder(private.address) as recorder:
        yield recorder


@pytest.fixture
def http(private: Private) -> Iterator[httpx.Client]:
    """Return a client of ours, to replay what another one sends."""
    with httpx.Client(base_url=private.server.url) as client:
        yield client


@pytest.fixture
def docker_client(wire: Recorder, request: pytest.FixtureRequest) -> DockerClient:
    """Return docker, on the wire."""
    client = client_of("docker", wire.address, None, request)
    assert isinstance(client, DockerClient)
    return client


@dataclass(frozen=True, slots=True)
class Blob:
    """Something to push."""

    content: bytes

    @property
    def digest(self) -> str:
        """Its digest."""
        return f"sha256:{hashlib.sha256(self.content).hexdigest()}"


def challenge(answer: httpx.Response) -> Mapping[str, str]:
    """Return what the one challenge of an answer asks for."""
    assert answer.status_code == 401
    (line,) = answer.headers.get_list("www-authenticate")
    scheme, _, parameters = line.partition(" ")
    assert scheme == "Bearer"
    return dict(CHALLENGE.findall(parameters))


def bearer(answer: httpx.Response) -> Mapping[str, str]:
    """Return the header of somebody who was given a token."""
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def token(http: httpx.Client, user: str, *scopes: str) -> Mapping[str, str]:
    """Return the header of a user who asked for a token by GET, as docker does."""
    return bearer(http.get("/token", params={"service": "pierhead", "scope": scopes}, auth=(user, USERS[user])))


def upload(http: httpx.Client, repository: str, blob: Blob, headers: Mapping[str, str]) -> None:
    """Push a blob in two requests."""
    begun = http.post(f"/v2/{repository}/blobs/uploads/", headers=headers)
    assert begun.status_code == 202, begun.text
    put(http, begun, blob, headers)


def put(http: httpx.Client, begun: httpx.Response, blob: Blob, headers: Mapping[str, str]) -> None:
    """End an upload with its only piece."""
    target = httpx.URL(begun.headers["location"]).copy_merge_params({"digest": blob.digest})
    assert http.put(target, content=blob.content, headers=headers).status_code == 201


def pushes(client: Client, repositories: Iterator[str]) -> bool:
    """Whether a push succeeds; if not, it is because of who pushes."""
    try:
        client.push(next(repositories))
    except ProgramFailed as failure:
        if not re.search("(?i)denied|unauthorized", str(failure)):
            raise
        return False
    return True


def names(prefix: str) -> Iterator[str]:
    """Yield names of repositories, each of them new."""
    yield from (f"{prefix}/{number}" for number in range(1000))


def test_docker_keeps_an_identity_token_in_place_of_the_password_and_no_longer_than_it(
    docker_client: DockerClient, private: Private, wire: Recorder
) -> None:
    docker_client.login("bob", private.password("bob"))

    logged_in = wire.matching("GET", "/token", "offline_token=true")
    kept = docker_client.kept()
    wire.clear()
    assert [exchange.status for exchange in logged_in] == [200]
    assert kept["identitytoken"]
    assert private.password("bob") not in str(kept) + base64.b64decode(kept.get("auth", "")).decode()

    repositories = names("team/identity")
    assert pushes(docker_client, repositories)
    assert pushes(docker_client, repositories)  # the same token again: it is not replaced by its use
    assert not wire.matching("GET", "/token")
    assert {exchange.status for exchange in wire.matching("POST", "/token")} == {200}

    private.change("bob", "another password")

    def ended() -> bool:
        # Before that, it may be the other worker that knows, and refuses the access token.
        answers = {exchange.status for exchange in wire.matching("POST", "/token")}
        return not pushes(docker_client, repositories) and 401 in answers

    def begins_again() -> bool:
        try:
            docker_client.login("bob", "another password")
        except ProgramFailed:
            return False
        return pushes(docker_client, repositories)

    eventually(ended, seconds=SEEN_SECONDS_MAX)
    eventually(begins_again, seconds=SEEN_SECONDS_MAX)


@pytest.mark.parametrize("kind", ["podman", "skopeo", "crane", "regctl", "oras", "helm"])
def test_the_identity_token_that_docker_keeps_is_good_for_clients_that_read_its_file(
    kind: str, docker_client: DockerClient, private: Private, wire: Recorder, request: pytest.FixtureRequest
) -> None:
    client = client_of(kind, wire.address, None, request)
    assert client.programs is docker_client.programs  # one home for both

    docker_client.login("alice", private.password("alice"))
    wire.clear()
    content = client.push(f"team/lent/{kind}")

    assert client.pull(f"team/lent/{kind}") == content
    assert {exchange.status for exchange in wire.matching("POST", "/token")} == {200}
    assert not wire.matching("GET", "/token")


def test_docker_keeps_a_robots_token_itself_until_it_is_revoked(
    docker_client: DockerClient, private: Private, wire: Recorder
) -> None:
    robot = private.pierhead("token", "create", "--name", "short", "--repo", "team/**", "--allow", "pull,push")
    repositories = names("team/short")

    docker_client.login("short", robot)
    kept = docker_client.kept()
    pushed = pushes(docker_client, repositories)
    private.pierhead("token", "revoke", "short")

    assert "identitytoken" not in kept
    assert base64.b64decode(kept["auth"]).decode() == f"short:{robot}"
    assert pushed
    eventually(lambda: not pushes(docker_client, repositories), seconds=SEEN_SECONDS_MAX)
    assert not wire.matching("POST", "/token")


def test_containerd_begins_without_a_password_and_then_posts_it(
    private: Private, wire: Recorder, request: pytest.FixtureRequest
) -> None:
    client = client_of("containerd", wire.address, None, request)
    client.login("alice", private.password("alice"))

    client.push("team/posted")

    first, *others = wire.exchanges
    assert (first.method, first.status) == ("HEAD", 401)
    asked = [exchange for exchange in others if "/token" in exchange.target]
    assert {(exchange.method, exchange.status) for exchange in asked} == {("POST", 200)}
    assert not [exchange for exchange in others if exchange.method == "PUT" and exchange.status != 201]


def test_what_containerd_asks_for_is_granted_though_it_names_the_repository_twice(http: httpx.Client) -> None:
    name, layer = "team/replayed", Blob(b"a layer")
    path = f"/v2/{name}/blobs/{layer.digest}"

    asked = challenge(http.head(path, headers={"Accept": "application/vnd.oci.image.layer.v1.tar+gzip, */*"}))
    form = {
        "grant_type": "password",
        "service": asked["service"],
        "client_id": "containerd-client",
        "scope": f"{asked['scope']} repository:{name}:pull,push",
        "username": "alice",
        "password": USERS["alice"],
    }
    answer = http.post(asked["realm"], data=form)
    headers = bearer(answer)

    assert asked["scope"] == f"repository:{name}:pull"
    assert answer.json()["scope"] == f"repository:{name}:pull,push"
    assert "refresh_token" not in answer.json()
    assert http.head(path, headers=headers).status_code == 404
    upload(http, name, layer, headers)
    assert http.head(path, headers=headers).status_code == 200


def test_a_refresh_token_of_a_posted_password_takes_its_place(http: httpx.Client) -> None:
    form = {"service": "pierhead", "client_id": "containerd-client", "scope": "repository:team/refreshed:pull"}
    password = {"grant_type": "password", "username": "alice", "password": USERS["alice"], "access_type": "offline"}
    kept = http.post("/token", data={**form, **password}).json()["refresh_token"]

    answers = [http.post("/token", data={**form, "grant_type": "refresh_token", "refresh_token": kept}) for _ in "12"]

    assert [answer.status_code for answer in answers] == [200, 200]
    tags = http.get("/v2/team/refreshed/tags/list", headers=bearer(answers[1]))
    assert tags.status_code == 404  # and not 401: there is no such repository


def test_helm_posts_the_password_when_it_logs_in_and_sends_it_by_get_afterwards(
    private: Private, wire: Recorder, request: pytest.FixtureRequest
) -> None:
    helm = client_of("helm", wire.address, None, request)
    assert isinstance(helm, HelmClient)

    helm.login("alice", private.password("alice"))
    logged_in = [str(exchange) for exchange in wire.exchanges]
    wire.clear()
    helm.push("team/helm/posted")

    assert logged_in == ["GET /v2/ 401", "POST /token 200", "GET /v2/ 200"]
    assert {(exchange.method, exchange.status) for exchange in wire.exchanges if "/token" in exchange.target} == {
        ("GET", 200)
    }


def test_an_empty_user_with_an_empty_password_is_nobody(http: httpx.Client, private: Private) -> None:
    scopes = "repository:public/app:pull,push"
    owner = token(http, "owner", scopes)
    upload(http, "public/app", Blob(b"public"), owner)

    answer = http.get("/token", params={"service": "pierhead", "scope": scopes}, headers=NOBODY)
    nobody = bearer(answer)

    for headers in (NOBODY, nobody):
        assert http.get(f"/v2/public/app/blobs/{Blob(b'public').digest}", headers=headers).status_code == 200
        refused = challenge(http.post("/v2/public/app/blobs/uploads/", headers=headers))
        assert refused["scope"] == "repository:public/app:pull,push"
        challenge(http.get("/v2/team/app/tags/list", headers=headers))
    assert challenge(http.get("/v2/", headers=NOBODY))["realm"] == f"{private.server.url}/token"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "helm"])  # which copies nothing
def test_a_client_that_may_pull_from_the_source_mounts_its_blobs(
    kind: str, private: Private, wire: Recorder, request: pytest.FixtureRequest
) -> None:
    client = client_of(kind, wire.address, None, request)
    # Two components in common: containerd mounts from no repository that is further away.
    source, target = f"team/shared/{kind}", f"team/shared/{kind}-copy"
    client.login("alice", private.password("alice"))
    client.push(source)
    client.pull(source)  # only then ctr knows where it is from
    wire.clear()

    client.copy(source, target)

    mounts = wire.matching("POST", f"/v2/{target}/blobs/uploads/", "mount=", "from=" + source)
    assert 201 in {exchange.status for exchange in mounts}
    assert {exchange.status for exchange in mounts} <= {201, 401}
    assert len(wire.matching("PUT", f"/v2/{target}/blobs/")) <= 1  # the config, which docker and skopeo never mount
    assert private.has(client.reference(target))


def test_a_mount_from_a_repository_that_may_not_be_pulled_is_an_upload(
    private: Private, wire: Recorder, request: pytest.FixtureRequest
) -> None:
    client = client_of("containerd", wire.address, None, request)
    assert isinstance(client, ContainerdClient)
    client.login("owner", private.password("owner"))
    client.push(HIDDEN)
    client.pull(HIDDEN)
    client.login("alice", private.password("alice"))
    wire.clear()

    client.copy(HIDDEN, "team/shared/own")

    mounts = wire.matching("POST", "/v2/team/shared/own/blobs/uploads/", "mount=", "from=" + HIDDEN)
    assert {exchange.status for exchange in mounts} == {202}
    assert len(wire.matching("PUT", "/v2/team/shared/own/blobs/uploads/")) == len(mounts) == 2
    assert private.has(client.reference("team/shared/own"))


@pytest.mark.parametrize(
    ("source", "user", "scopes", "status"),
    [
        ("team/source", "alice", ("repository:team/target:pull,push", "repository:team/source:pull"), 201),
        ("team/source", "alice", ("repository:team/target:pull,push repository:team/source:pull",), 201),
        (HIDDEN, "alice", ("repository:team/target:pull,push", f"repository:{HIDDEN}:pull"), 202),
        (HIDDEN, "alice", ("repository:team/target:pull,push",), 202),
        ("team/absent", "alice", ("repository:team/target:pull,push", "repository:team/absent:pull"), 202),
    ],
)
def test_a_mount_takes_the_right_to_pull_from_its_source(
    http: httpx.Client, source: str, user: str, scopes: tuple[str, ...], status: int
) -> None:
    blob = Blob(b"the layer of " + " ".join(scopes).encode())
    for repository in ("team/source", HIDDEN):
        upload(http, repository, blob, token(http, "owner", f"repository:{repository}:pull,push"))
    headers = token(http, user, *scopes)

    answer = http.post("/v2/team/target/blobs/uploads/", params={"mount": blob.digest, "from": source}, headers=headers)

    assert answer.status_code == status
    there = http.head(f"/v2/team/target/blobs/{blob.digest}", headers=headers)
    assert there.status_code == (200 if status == 201 else 404)
    if status == 202:
        put(http, answer, blob, headers)


def test_a_mount_with_a_token_that_does_not_name_the_source_is_asked_to_get_one_that_does(http: httpx.Client) -> None:
    blob = Blob(b"a layer to be mounted later")
    upload(http, "team/source", blob, token(http, "owner", "repository:team/source:pull,push"))
    mount = {"mount": blob.digest, "from": "team/source"}
    narrow = token(http, "alice", "repository:team/target:pull,push")

    asked = challenge(http.post("/v2/team/target/blobs/uploads/", params=mount, headers=narrow))

    wider = token(http, "alice", asked["scope"])
    assert asked["error"] == "insufficient_scope"
    assert http.post("/v2/team/target/blobs/uploads/", params=mount, headers=wider).status_code == 201


def test_a_robot_mounts_within_what_its_token_says(http: httpx.Client, private: Private) -> None:
    blob = Blob(b"a robot's layer")
    for repository in ("team/source", "secret/source"):
        upload(http, repository, blob, token(http, "owner", f"repository:{repository}:pull,push"))
    scopes = [f"repository:{name}:pull,push" for name in ("team/robot", "team/source", "secret/source")]
    headers = bearer(http.get("/token", params={"scope": scopes}, auth=(ROBOT, private.robot)))

    statuses = [
        http.post(
            "/v2/team/robot/blobs/uploads/", params={"mount": blob.digest, "from": source}, headers=headers
        ).status_code
        for source in ("secret/source", "team/source")
    ]

    assert statuses == [202, 201]
