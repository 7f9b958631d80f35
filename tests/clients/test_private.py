"""Each client logs in to a private registry, pushes, pulls, logs out, and says in its own words why it is refused."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import pytest

from tests.clients.logins import KINDS, Client, client_of
from tests.clients.private import ROBOT, Private, private_registry
from tests.clients.programs import ProgramFailed

DOCKERS = "denied: requested access to the resource is denied"
"""What docker, podman and skopeo print before what the registry says, or in place of it."""

NO_RIGHT = "this login does not allow it"
LOG_IN = "log in first"
WRONG = "user or password is wrong"
NO_BODY = "401:? Unauthorized"
"""All that there is where a client begins with a HEAD request, whose answer has no message."""
REFUSED = "(?i)denied|unauthorized|authorization failed"


@dataclass(frozen=True, slots=True)
class Words:
    """What a client prints, as patterns: most let the registry speak wherever it can."""

    no_right_to_push: str
    no_right_to_pull: str
    push_without_login: str
    wrong_password: str
    moved: str = "the tag exists, and the policy of this registry does not let you move it: push under another tag"


WORDS: Mapping[str, Words] = MappingProxyType(
    {
        "docker": Words(DOCKERS, f"pull access denied for .*: {DOCKERS}", DOCKERS, f"unauthorized: {WRONG}"),
        "podman": Words(
            DOCKERS,
            f"{DOCKERS}\nunauthorized: {NO_RIGHT}",
            f"{DOCKERS}\nunauthorized: {LOG_IN}",
            "invalid username/password",
        ),
        "skopeo": Words(
            DOCKERS,
            rf"{DOCKERS}\\nunauthorized: {NO_RIGHT}",
            rf"{DOCKERS}\\nunauthorized: {LOG_IN}",
            "invalid username/password",
        ),
        "crane": Words(NO_BODY, f"UNAUTHORIZED: {NO_RIGHT}", f"UNAUTHORIZED: {LOG_IN}", f"UNAUTHORIZED: {WRONG}"),
        "regctl": Words("unauthorized", "unauthorized", "unauthorized", "unauthorized"),
        "oras": Words(NO_BODY, f"unauthorized: {NO_RIGHT}", f"unauthorized: {LOG_IN}", f"unauthorized: {WRONG}"),
        "helm": Words(NO_BODY, f"unauthorized: {NO_RIGHT}", f"unauthorized: {LOG_IN}", f"unauthorized: {WRONG}"),
        "containerd": Words(
            "insufficient_scope: authorization failed",
            "pull access denied, repository does not exist or may require authorization",
            "insufficient_scope: authorization failed",
            "failed to authorize: failed to fetch oauth token: unexpected status.*: 401 Unauthorized",
            moved="403 Forbidden",
        ),
    }
)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Private]:
    """Return a registry that speaks plain HTTP; each test has repositories of its own in it."""
    with private_registry(tmp_path_factory.mktemp("private")) as up:
        yield up


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, private: Private) -> Client:
    """Return each client in turn."""
    return client_of(request.param, private.address, None, request)


def refused(act: Callable[..., object], *arguments: str, says: str) -> None:
    """Check that something fails, and what is printed then."""
    with pytest.raises(ProgramFailed) as caught:
        act(*arguments)
    assert re.search(says, str(caught.value)), caught.value


@pytest.mark.parametrize("somebody", ["alice", ROBOT])
def test_a_password_and_a_robots_token_are_good_for_push_and_pull_until_logout(
    client: Client, private: Private, somebody: str
) -> None:
    repository, later = f"team/{somebody}/{client.kind}", f"team/{somebody}/{client.kind}-later"

    client.login(somebody, private.password(somebody))
    content = client.push(repository)
    came_back = client.pull(repository)
    client.logout()

    assert came_back == content
    assert private.has(client.reference(repository))
    refused(client.push, later, says=REFUSED)
    refused(client.pull, repository, says=REFUSED)
    assert not private.has(client.reference(later))


def test_a_public_image_is_pulled_by_everybody_and_pushed_by_nobody_who_has_not_logged_in(
    client: Client, private: Private
) -> None:
    public, absent = f"public/{client.kind}", f"public/{client.kind}-absent"
    client.login("alice", private.password("alice"))
    content = client.push(public)
    client.logout()

    assert client.pull(public) == content
    refused(client.push, absent, says=WORDS[client.kind].push_without_login)
    assert not private.has(client.reference(absent))


def test_a_repository_that_the_policy_does_not_open_is_refused_in_words_that_tell_it(
    client: Client, private: Private
) -> None:
    secret, absent, words = f"secret/{client.kind}", f"secret/{client.kind}-absent", WORDS[client.kind]
    client.login("owner", private.password("owner"))
    client.push(secret)
    client.logout()
    client.login("alice", private.password("alice"))

    refused(client.pull, secret, says=words.no_right_to_pull)
    refused(client.pull, absent, says=words.no_right_to_pull)
    refused(client.push, absent, says=words.no_right_to_push)
    assert private.has(client.reference(secret))
    assert not private.has(client.reference(absent))


def test_a_tag_that_may_not_be_moved_stays_and_the_client_tells_what_to_do(client: Client, private: Private) -> None:
    repository = f"team/moved/{client.kind}"
    client.login("alice", private.password("alice"))
    content = client.push(repository)

    refused(client.push, repository, says=WORDS[client.kind].moved)

    assert client.pull(repository) == content


def test_a_wrong_password_is_told_from_a_missing_right(client: Client) -> None:
    def log_in_and_push() -> None:
        client.login("alice", "wrong")
        client.push(f"team/wrong/{client.kind}")  # crane and ctr have not asked the registry yet

    refused(log_in_and_push, says=WORDS[client.kind].wrong_password)
