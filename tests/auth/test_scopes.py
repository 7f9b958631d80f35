"""Scopes are read as clients write them, and whatever is not known is passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.auth.identities import Action
from registry.auth.scopes import CATALOG_SCOPE, SCOPE_ACTIONS, SCOPES_MAX, Scopes, TooManyScopes, repository_scope
from registry.names import RepositoryName, parse_name
from tests.properties import repository_names

PULL, PUSH, DELETE = Action.PULL, Action.PUSH, Action.DELETE
ALL = {PULL, PUSH, DELETE}

asked = st.frozensets(st.sampled_from(SCOPE_ACTIONS), min_size=1)
scopes = st.builds(
    Scopes, st.dictionaries(repository_names.map(parse_name), asked, max_size=SCOPES_MAX - 1), st.booleans()
)
words = st.sampled_from(
    ["repository", "repository(plugin)", "registry", "catalog", "pull", "push", "*", "a/b", ":", ",", " ", "(", ".."]
)


@pytest.mark.parametrize(
    ("values", "repositories"),
    [
        ([], {}),
        ([""], {}),
        (["repository:team/app:pull"], {"team/app": {PULL}}),
        (["repository:team/app:pull,push"], {"team/app": {PULL, PUSH}}),
        (["repository:team/app:push,pull,delete"], {"team/app": ALL}),
        (["repository:team/app:*"], {"team/app": ALL}),
        (["repository:a:pull", "repository:a:pull,push"], {"a": {PULL, PUSH}}),
        (["repository:a:push repository:b:pull", "repository:a:pull"], {"a": {PULL, PUSH}, "b": {PULL}}),
        (["  repository:a:pull   repository:b:pull "], {"a": {PULL}, "b": {PULL}}),
        (["repository(plugin):a:pull"], {"a": {PULL}}),
    ],
)
def test_every_spelling_of_clients_is_understood(values: list[str], repositories: dict[str, set[Action]]) -> None:
    found = Scopes.parse(values)

    assert found.repositories == repositories
    assert list(found.repositories) == list(repositories)
    assert not found.catalog


@pytest.mark.parametrize(
    "text",
    [
        *["repository", "repository:a", "repository:pull", "repository::pull", "repository:a:", "repository:a:,"],
        *["repository:*:pull", "repository:a/*:pull", "repository:**:pull", "repository:a/../b:pull", ":a:pull"],
        *["repository:A:pull", "repository:a,b:pull", "repository:host:5000/a:pull", "repository:a/:pull"],
        *["repository:a\tb:pull", "repository:a\n:pull", "repository:%61:pull", f"repository:{'a' * 256}:pull"],
        *["Repository:a:pull", "repository():a:pull", "repository(plugin:a:pull", "repository(a)(b):a:pull"],
        *["repository:a:PULL", "repository:a:pulls", "repository:a:admin", "repository:a:overwrite"],
        *["repository:a:pull\n", "repository:..:pull", "repository:a:b:c,pull", "team:a:pull", "*:*:*"],
        *["registry:catalog:pull", "registry:catalog", "registry:other:*", "registry(x):catalog:*"],
    ],
)
def test_what_is_not_known_or_no_name_is_passed_over_and_the_rest_is_kept(text: str) -> None:
    found = Scopes.parse([f"repository:first:push {text} repository:last:pull", text])

    assert found == Scopes({RepositoryName("first"): frozenset({PUSH}), RepositoryName("last"): frozenset({PULL})})


def test_unknown_actions_do_not_take_known_ones_with_them() -> None:
    found = Scopes.parse(["repository:a:admin,pull,,fly"])

    assert found.repositories == {"a": {PULL}}


@pytest.mark.parametrize("text", [CATALOG_SCOPE, "registry:catalog:pull,*"])
def test_the_catalog_is_asked_for_by_its_own_scope(text: str) -> None:
    assert Scopes.parse([text, "registry:catalog:x"]) == Scopes(catalog=True)


def test_a_request_asks_for_so_many_scopes_and_not_for_one_more() -> None:
    texts = [f"repository:a{number}:pull" for number in range(SCOPES_MAX)]

    assert len(Scopes.parse(texts).repositories) == len(Scopes.parse([" ".join(texts)]).repositories) == SCOPES_MAX
    for more in ([*texts, texts[0]], [" ".join(texts), "x"], ["x " * 1000]):
        with pytest.raises(TooManyScopes, match="at most 32"):
            Scopes.parse(more)


@given(scopes)
def test_scopes_come_back_from_their_text_as_they_were(wanted: Scopes) -> None:
    found = Scopes.parse([wanted.render()])

    assert found == wanted
    assert list(found.repositories) == list(wanted.repositories)
    assert Scopes.parse(wanted.render().split(" ")) == wanted


@given(st.lists(st.text(max_size=30) | st.lists(words, max_size=12).map("".join), max_size=4))
def test_no_text_is_an_error_but_too_much_and_only_names_and_actions_come_of_it(values: list[str]) -> None:
    try:
        found = Scopes.parse(values)
    except TooManyScopes:
        assert sum(value.count(" ") + 1 for value in values) > SCOPES_MAX
        return
    for name, actions in found.repositories.items():
        assert parse_name(name) == name
        assert actions
        assert actions <= ALL
        assert any(f":{name}:" in value for value in values)


@given(st.lists(st.tuples(repository_names, asked), max_size=8))
def test_a_repository_gets_what_all_its_scopes_say(pairs: list[tuple[str, frozenset[Action]]]) -> None:
    found = Scopes.parse(repository_scope(name, actions) for name, actions in pairs)

    for name, actions in found.repositories.items():
        assert actions == frozenset().union(*(wanted for other, wanted in pairs if other == name))
    assert set(found.repositories) == {name for name, _ in pairs}


def test_a_challenge_names_actions_in_the_order_that_clients_compare() -> None:
    assert repository_scope("team/app", {DELETE, PUSH, PULL}) == "repository:team/app:pull,push,delete"
    assert repository_scope("team/app", [PUSH, PULL]) == "repository:team/app:pull,push"
    assert repository_scope("team/app", {PULL, PUSH, Action.OVERWRITE}) == "repository:team/app:pull,push"
    assert Scopes().render() == ""
    assert Scopes({RepositoryName("a"): frozenset({PULL})}, catalog=True).render() == (
        "repository:a:pull registry:catalog:*"
    )


@pytest.mark.parametrize("actions", [set(), {Action.ADMIN}, {Action.OVERWRITE}])
def test_a_scope_without_an_action_is_not_written(actions: set[Action]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        repository_scope("a", actions)
