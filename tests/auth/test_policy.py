"""The first rule that matches decides, what no rule allows is denied, and a wrong file is told in one line."""

import re
import shlex
import tomllib
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from registry.auth.globs import Globs
from registry.auth.identities import ANONYMOUS, Action, Grant, Identity, Kind
from registry.auth.policy import DEFAULT_WITHOUT_FILE, OPEN, Decision, Policy, PolicyError, parse_identity
from registry.cli.policy import policy as command
from tests.running import ROOT

PULL, PUSH, OVERWRITE, DELETE, ADMIN = Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE, Action.ADMIN
ALICE, BOB, CAROL = (Identity(Kind.USER, name) for name in ("alice", "bob", "carol"))
CI = Identity(Kind.ROBOT, "ci")
BUILD = Identity(Kind.CERTIFICATE, "build-7")

GROUPS = """
[groups]
developers = ["user:alice", "bob", "robot:ci"]
nobody = []
"""
RULES = """
[[rules]]
name = "production is pushed once"
who = ["everyone"]
repositories = ["team/prod/**"]
deny = ["overwrite", "delete"]

[[rules]]
name = "developers push their own"
who = ["group:developers", "certificate:build-*"]
repositories = ["team/**"]
allow = ["*"]

[[rules]]
who = ["anonymous", "authenticated"]
repositories = ["public/*"]
allow = ["pull"]

[[rules]]
who = ["carol"]
allow = ["admin"]
"""
WORKED = Policy.parse(GROUPS + RULES, source="policy.toml")


def one_rule(text: str) -> Policy:
    return Policy.parse(f"{GROUPS}\n[[rules]]\n{text}", source="policy.toml")


def rule_for(who: str) -> Policy:
    return one_rule(f'who = [{who}]\nrepositories = ["**"]\nallow = ["pull"]')


def workload(name: str = "w", **claims: str) -> Identity:
    return Identity(Kind.WORKLOAD, name, claims=MappingProxyType(claims))


def robot(*actions: Action, repositories: tuple[str, ...] = ("team/**",), name: str = "ci") -> Identity:
    return Identity(Kind.ROBOT, name, grants=(Grant(repositories, frozenset(actions)),))


@pytest.mark.parametrize(
    ("identity", "action", "repository", "allowed", "reason"),
    [
        (ALICE, PUSH, "team/app", True, "rule 2 'developers push their own'"),
        (BOB, DELETE, "team/app", True, "rule 2 'developers push their own'"),
        (CI, OVERWRITE, "team/a/b", True, "rule 2 'developers push their own'"),
        (BUILD, PULL, "team/app", True, "rule 2 'developers push their own'"),
        (ALICE, PUSH, "team/prod/app", True, "rule 2 'developers push their own'"),
        (ALICE, OVERWRITE, "team/prod/app", False, "rule 1 'production is pushed once'"),
        (CAROL, DELETE, "team/prod/app", False, "rule 1 'production is pushed once'"),
        (ALICE, PUSH, "team", False, "no rule allows it"),
        (ALICE, PUSH, "team-evil/app", False, "no rule allows it"),
        (CAROL, PULL, "team/app", False, "no rule allows it"),
        (ANONYMOUS, PULL, "public/alpine", True, "rule 3"),
        (CAROL, PULL, "public/alpine", True, "rule 3"),
        (ANONYMOUS, PULL, "public/alpine/edge", False, "no rule allows it"),
        (ANONYMOUS, PUSH, "public/alpine", False, "no rule allows it"),
        (CAROL, ADMIN, None, True, "rule 4"),
        (ALICE, ADMIN, None, False, "no rule allows it"),
    ],
)
def test_the_first_rule_about_somebody_an_action_and_a_repository_decides(
    identity: Identity, action: Action, repository: str | None, allowed: bool, reason: str
) -> None:
    assert WORKED.decide(identity, action, repository) == Decision(allowed, reason)
    assert WORKED.allows(identity, action, repository) is allowed


@pytest.mark.parametrize(
    ("who", "included"),
    [
        ('"alice"', [ALICE]),
        ('"user:alice"', [ALICE]),
        ('"user:*"', [ALICE, BOB]),
        ('"user:**"', [ALICE, BOB]),
        ('"a*", "robot:c?"', [ALICE, CI]),
        ('"group:developers"', [ALICE, BOB, CI]),
        ('"group:nobody"', []),
        ('"group:nobody", "robot:ci"', [CI]),
        ('"certificate:build-*"', [BUILD]),
        ('"workload:*"', [workload(), workload("a/b:c")]),
        ('"workload:a/*"', [workload("a/b:c")]),
        ('"anonymous"', [ANONYMOUS]),
        ('"authenticated"', [ALICE, BOB, CI, BUILD, workload(), workload("a/b:c")]),
        ('"everyone"', [ALICE, BOB, CI, BUILD, workload(), workload("a/b:c"), ANONYMOUS]),
        ('"user:ci", "robot:alice", "user:ALICE", "user:build-7"', []),
        ('"user:anonymous"', []),
        ('"robot:al*", "user:build-*", "certificate:c?"', []),
    ],
)
def test_who_means_just_those_whom_it_names(who: str, included: list[Identity]) -> None:
    everybody = [ALICE, BOB, CI, BUILD, workload(), workload("a/b:c"), ANONYMOUS]
    policy = rule_for(who)

    assert [identity for identity in everybody if policy.allows(identity, PULL, "a")] == included


def test_a_user_may_be_called_like_a_word_if_the_kind_is_written() -> None:
    policy = rule_for('"user:everyone"')

    assert policy.allows(Identity(Kind.USER, "everyone"), PULL, "a")
    assert not policy.allows(ALICE, PULL, "a")


@pytest.mark.parametrize(
    ("rule", "claims", "allowed"),
    [
        ('issuer = "github"', {"issuer": "github"}, True),
        ('issuer = "github"', {"issuer": "gitlab"}, False),
        ('issuer = "github"', {}, False),
        ('issuer = "git*"', {"issuer": "github"}, False),
        ('claims = { repository = "acme/*" }', {"repository": "acme/app"}, True),
        ('claims = { repository = "acme/*" }', {"repository": "acme/app/x"}, False),
        ('claims = { repository = "acme/*" }', {"repository": "evil/acme/app"}, False),
        ('claims = { repository = "acme/*" }', {}, False),
        ('claims = { ref = "**" }', {}, False),
        ('claims = { ref = ["refs/heads/main", "refs/tags/*"] }', {"ref": "refs/tags/v1"}, True),
        ('claims = { ref = ["refs/heads/main", "refs/tags/*"] }', {"ref": "refs/heads/other"}, False),
        ('claims = { a = "1", b = "2" }', {"a": "1", "b": "2", "c": "3"}, True),
        ('claims = { a = "1", b = "2" }', {"a": "1", "b": "3"}, False),
        ('issuer = "github"\nclaims = { a = "1" }', {"issuer": "gitlab", "a": "1"}, False),
    ],
)
@pytest.mark.parametrize("who", ["workload:*", "authenticated", "everyone"])
def test_a_workload_is_meant_if_its_issuer_and_every_claim_match(
    who: str, rule: str, claims: dict[str, str], allowed: bool
) -> None:
    policy = one_rule(f'who = ["{who}"]\nrepositories = ["**"]\nallow = ["pull"]\n{rule}')

    assert policy.allows(workload(**claims), PULL, "a") is allowed
    # Whatever else somebody brings, only a workload's claims were signed by its issuer.
    for kind in (Kind.USER, Kind.ROBOT, Kind.CERTIFICATE, Kind.ANONYMOUS):
        assert not policy.allows(Identity(kind, "w", claims=MappingProxyType(claims)), PULL, "a")


def test_a_star_is_every_action_but_admin() -> None:
    policy = one_rule('who = ["alice"]\nrepositories = ["**"]\nallow = ["*"]')

    assert {action for action in Action if policy.allows(ALICE, action, "a")} == set(Action) - {ADMIN}


def test_admin_is_asked_of_the_registry_whatever_the_repositories_of_its_rule() -> None:
    policy = one_rule('who = ["alice"]\nrepositories = ["team/*"]\nallow = ["*", "admin"]')

    assert policy.allows(ALICE, ADMIN, None)
    assert policy.allows(ALICE, ADMIN, "elsewhere")
    assert not policy.allows(ALICE, PULL, "elsewhere")


@pytest.mark.parametrize("action", [PULL, PUSH, OVERWRITE, DELETE])
def test_another_action_asked_of_no_repository_is_a_mistake_of_the_caller(action: Action) -> None:
    with pytest.raises(ValueError, match="asked of a repository"):
        OPEN.allows(ALICE, action, None)


def test_a_robot_is_allowed_what_its_token_was_granted() -> None:
    policy = Policy.parse("", source="")

    assert policy.decide(robot(PULL), PULL, "team/app") == Decision(True, "its token's own grant")
    assert policy.decide(robot(PULL), PUSH, "team/app") == Decision(False, "its token does not allow it")
    assert policy.decide(robot(PULL), PULL, "team") == Decision(False, "its token does not allow it")


def test_admin_is_never_granted_by_a_token() -> None:
    for policy in (Policy.parse("", source=""), WORKED, DEFAULT_WITHOUT_FILE):
        assert not policy.allows(robot(*Action, repositories=("**",)), ADMIN, None)
        assert not policy.allows(robot(*Action, repositories=("**",)), ADMIN, "team/app")


def test_a_rule_that_denies_is_stronger_than_a_grant_and_one_that_allows_adds_nothing_to_it() -> None:
    grant = robot(PULL, PUSH, OVERWRITE, repositories=("team/prod/**",))

    assert WORKED.decide(grant, OVERWRITE, "team/prod/app") == Decision(False, "rule 1 'production is pushed once'")
    assert WORKED.decide(grant, PUSH, "team/prod/app") == Decision(True, "its token's own grant")
    assert WORKED.decide(grant, PUSH, "team/app") == Decision(False, "its token does not allow it")
    assert WORKED.decide(grant, PULL, "public/alpine") == Decision(False, "its token does not allow it")


def test_a_rule_that_denies_is_not_reached_behind_one_that_allows() -> None:
    deny = '[[rules]]\nwho = ["everyone"]\nrepositories = ["**"]\ndeny = ["*"]\n'
    policy = Policy.parse(f"{GROUPS}{RULES}{deny}", source="")

    assert policy.allows(robot(PUSH), PUSH, "team/app")
    assert policy.decide(robot(PUSH, repositories=("other",)), PUSH, "other") == Decision(False, "rule 5")


def test_a_grant_that_can_not_be_understood_or_names_nothing_grants_nothing() -> None:
    policy = Policy.parse("", source="")

    for repositories in ((), ("Team/*", "**"), ("**", "a**")):
        assert not policy.allows(robot(PULL, repositories=repositories), PULL, "team/app")


def test_without_a_policy_file_users_and_certificates_may_do_everything_and_robots_what_was_granted() -> None:
    for action in Action:
        repository = None if action is ADMIN else "team/app"
        for identity in (ALICE, BUILD):
            assert DEFAULT_WITHOUT_FILE.allows(identity, action, repository)
        assert DEFAULT_WITHOUT_FILE.allows(robot(action), action, repository) is (action is not ADMIN)
        for identity in (ANONYMOUS, workload(), CI, robot(*(set(Action) - {action}))):
            decision = DEFAULT_WITHOUT_FILE.decide(identity, action, repository)
            assert not decision.allowed
            assert "without a policy file" in decision.reason or identity.grants


def test_without_authentication_everybody_may_do_everything() -> None:
    for action in Action:
        assert all(OPEN.allows(identity, action, "a/b") for identity in (ANONYMOUS, ALICE, CI, BUILD, workload()))


NOT_ANONYMOUS = 'who = ["anonymous"]\nrepositories = ["{}"]\ndeny = ["*"]\n'
EVERYONE_PULLS = '[[rules]]\nwho = ["everyone"]\nrepositories = ["**"]\nallow = ["pull"]'


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("", False),
        ('who = ["everyone"]\nrepositories = ["a"]\nallow = ["pull"]', True),
        ('who = ["authenticated"]\nrepositories = ["**"]\nallow = ["*"]', False),
        (NOT_ANONYMOUS.format("**"), False),
        ('who = ["everyone"]\nissuer = "github"\nrepositories = ["**"]\nallow = ["*"]', False),
        (NOT_ANONYMOUS.format("**") + EVERYONE_PULLS, False),
        (NOT_ANONYMOUS.format("secret/**") + EVERYONE_PULLS, True),
        ('who = ["anonymous"]\nallow = ["admin"]', True),
    ],
)
def test_a_policy_knows_whether_somebody_without_credentials_gets_anything(rules: str, expected: bool) -> None:
    policy = one_rule(rules) if rules else Policy.parse("", source="")

    assert policy.anonymous_may_anything() is expected
    assert OPEN.anonymous_may_anything()
    assert not DEFAULT_WITHOUT_FILE.anonymous_may_anything()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rules = 1", "p.toml: rules: begin each rule with [[rules]]"),
        ("[rules]\nwho = []", "p.toml: rules: begin each rule with [[rules]]"),
        ("groups = []", "p.toml: groups: write [groups]"),
        ("[group]\na = []", "p.toml: group: unknown key: did you mean groups?"),
        ("[groups]\na = 'alice'", "p.toml: groups.a: expected a list of texts"),
        ("[groups]\na = [1]", "p.toml: groups.a: expected only texts"),
        ("[groups]\na = ['everyone']", "p.toml: groups.a: 'everyone' can't be in a group"),
        ("[groups]\na = ['group:b']", "p.toml: groups.a: 'group:b' can't be in a group"),
        ("[groups]\na = ['robt:b']", "p.toml: groups.a: 'robt:b' is of an unknown kind: did you mean robot?"),
        ("[[rules]]\nwho = [", "p.toml: not TOML: "),
        ("a = " + "[" * 10_000, "p.toml: not TOML: "),
        ('"a\\nb\\u001b" = 1', "p.toml: a\\nb\\x1b: unknown key"),
    ],
)
def test_what_is_wrong_outside_of_the_rules_is_told_with_the_file(text: str, says: str) -> None:
    with pytest.raises(PolicyError) as raised:
        Policy.parse(text, source="p.toml")

    assert str(raised.value).startswith(says)
    assert str(raised.value).isprintable()


GOOD = {"name": '"n"', "who": '["alice"]', "repositories": '["a"]', "allow": '["pull"]'}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"repository": '["a"]'}, "repository: unknown key: did you mean repositories?"),
        ({"alow": '["a"]'}, "alow: unknown key: did you mean allow?"),
        ({"deny": '["pull"]'}, "has both allow and deny: make it two rules"),
        ({"allow": ""}, "says neither allow nor deny"),
        ({"allow": '["pul"]'}, "allow: 'pul' is an unknown action: did you mean pull?"),
        ({"allow": '["Pull"]'}, "allow: 'Pull' is an unknown action: did you mean pull?"),
        ({"allow": "[]"}, "allow: the list is empty"),
        ({"allow": '"pull"'}, "allow: expected a list of texts"),
        ({"allow": "true"}, "allow: expected a list of texts"),
        ({"allow": "[[]]"}, "allow: expected only texts"),
        ({"who": ""}, "who is missing: write who = "),
        ({"who": "[]"}, "who: the list is empty"),
        ({"who": '[""]'}, "who: expected only texts in the list, none of them empty"),
        ({"who": '["group:developer"]'}, "who: 'group:developer' is an unknown group: did you mean group:developers?"),
        ({"who": '["gruop:x"]'}, "who: 'gruop:x' is of an unknown kind: did you mean group?"),
        ({"who": '["anonymous:"]'}, "who: 'anonymous:' is of an unknown kind"),
        ({"who": '["robot:"]'}, "who: 'robot:' lacks a name: write robot:* for every robot"),
        ({"who": '["anonymus"]'}, "who: 'anonymus': did you mean anonymous? A user of that name is user:anonymus"),
        ({"who": '["Everyone"]'}, "who: 'Everyone': did you mean everyone?"),
        ({"who": '["*"]'}, "who: '*': write everyone, authenticated, or user:* for every user"),
        ({"who": '[" alice"]'}, "who: ' alice' has blanks around it"),
        ({"who": '["al\\u0000ice"]'}, "who: 'al\\x00ice' has blanks around it, or control characters in it"),
        ({"who": '["user:a**"]'}, "who: 'a**': ** stands for whole components"),
        ({"repositories": ""}, 'repositories is missing: write repositories = ["**"]'),
        ({"repositories": "", "allow": '["admin", "pull"]'}, "repositories is missing"),
        ({"repositories": "[]"}, "repositories: the list is empty"),
        ({"repositories": '["a", "Team/*"]'}, "repositories: 'Team/*': 'T' stands in no repository's name"),
        ({"repositories": "[]", "allow": '["admin"]'}, "repositories: the list is empty"),
        ({"issuer": "1"}, "issuer: expected a text that is not empty"),
        ({"issuer": '"github"'}, "who: 'alice': only workloads have an issuer and claims"),
        ({"claims": '{ a = "b" }', "who": '["workload:*", "anonymous"]'}, "who: 'anonymous': only workloads"),
        ({"claims": '{ a = "b" }', "who": '["group:developers"]'}, "who: 'group:developers': only workloads"),
        ({"claims": "{}", "who": '["workload:*"]'}, "claims: expected a table, such as"),
        ({"claims": '"a=b"', "who": '["workload:*"]'}, "claims: expected a table, such as"),
        ({"claims": '{ issuer = "b" }', "who": '["workload:*"]'}, "claims: the issuer is a key of the rule"),
        ({"claims": '{ a = "" }', "who": '["workload:*"]'}, "claims.a: expected only texts"),
        ({"claims": "{ a = 1 }", "who": '["workload:*"]'}, "claims.a: expected a list of texts"),
        ({"claims": "{ a = [] }", "who": '["workload:*"]'}, "claims.a: the list is empty"),
        ({"claims": '{ a = "x:**" }', "who": '["workload:*"]'}, "claims.a: 'x:**': ** stands for whole components"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_with_its_number_and_name(changes: dict[str, str], says: str) -> None:
    rule = "\n".join(f"{key} = {value}" for key, value in {**GOOD, **changes}.items() if value)
    good = "\n".join(f"{key} = {value}" for key, value in GOOD.items())

    with pytest.raises(PolicyError) as raised:
        Policy.parse(f"{GROUPS}[[rules]]\n{good}\n[[rules]]\n{rule}", source="/etc/p.toml")

    assert str(raised.value).startswith(f"/etc/p.toml: rule 2 'n': {says}")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("name", ["1", '""', "[]"])
def test_a_rule_with_a_wrong_name_is_told_by_its_number(name: str) -> None:
    with pytest.raises(PolicyError, match=r"^p: rule 1: name: expected a text that is not empty$"):
        Policy.parse(f'[[rules]]\nname = {name}\nwho = ["a"]\nallow = ["admin"]', source="p")


def test_a_name_can_not_forge_a_line_of_a_log() -> None:
    policy = Policy.parse('[[rules]]\nname = "a\\nb"\nwho = ["alice"]\nallow = ["admin"]', source="p")

    assert policy.decide(ALICE, ADMIN, None).reason == r"rule 1 'a\nb'"


@given(st.text(max_size=200) | st.text('[]="{}rulewho \n', max_size=100))
def test_a_text_is_a_policy_or_an_error_of_one_line(text: str) -> None:
    try:
        Policy.parse(text, source="p")
    except PolicyError as raised:
        error = str(raised)
    else:
        assert set(tomllib.loads(text)) <= {"groups", "rules"}
        return
    assert error.startswith("p: ")
    assert error.isprintable()


def test_a_file_is_read_and_one_that_can_not_be_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(GROUPS + RULES)
    assert Policy.load(path).allows(ALICE, PUSH, "team/app")

    path.write_bytes(b'# \xff\n[[rules]]\nwho = ["x"]')
    with pytest.raises(PolicyError, match=rf"^{path}: not UTF-8"):
        Policy.load(path)
    with pytest.raises(PolicyError, match=rf"^{tmp_path}/none: it can't be read: No such file"):
        Policy.load(tmp_path / "none")


entries = st.sampled_from(
    ["alice", "robot:*", "robot:ci", "everyone", "anonymous", "authenticated", "group:developers", "workload:a/*"]
)
rules = st.fixed_dictionaries(
    {
        "who": st.lists(entries, min_size=1, max_size=2),
        "repositories": st.lists(st.sampled_from(["**", "team/*", "team/**", "a"]), min_size=1, max_size=2),
        "actions": st.lists(st.sampled_from(["*", "pull", "push", "admin"]), min_size=1, max_size=2),
        "effect": st.sampled_from(["allow", "deny"]),
    }
)
people = st.sampled_from([ALICE, BOB, CI, robot(PULL, PUSH), robot(ADMIN), ANONYMOUS, BUILD, workload("a/b")])


def includes(who: list[str], identity: Identity) -> bool:
    group = identity in (ALICE, BOB) or (identity.kind, identity.name) == (Kind.ROBOT, "ci")
    meant = {
        "alice": identity == ALICE,
        "robot:*": identity.kind is Kind.ROBOT,
        "robot:ci": str(identity) == "robot:ci",
        "everyone": True,
        "anonymous": identity == ANONYMOUS,
        "authenticated": identity != ANONYMOUS,
        "group:developers": group,
        "workload:a/*": str(identity) == "workload:a/b",
    }
    return any(meant[entry] for entry in who)


@given(
    st.lists(rules, max_size=4),
    people,
    st.sampled_from(list(Action)),
    st.sampled_from(["a", "team", "team/x", "t/x/y"]),
)
def test_a_policy_decides_as_its_rules_say_one_after_the_other(
    written: list[dict[str, list[str] | str]], identity: Identity, action: Action, repository: str
) -> None:
    text = GROUPS + "".join(
        f"[[rules]]\nwho = {rule['who']}\nrepositories = {rule['repositories']}\n{rule['effect']} = {rule['actions']}\n"
        for rule in written
    )
    policy = Policy.parse(text, source="p")
    granted = any(
        action is not ADMIN and action in grant.actions and Globs.of_names(grant.repositories).match(repository)
        for grant in identity.grants
    )
    expected = granted
    for rule in written:
        names_action = action.value in rule["actions"] or ("*" in rule["actions"] and action is not ADMIN)
        in_repository = action is ADMIN or Globs.of_names(rule["repositories"]).match(repository)
        if names_action and in_repository and includes(list(rule["who"]), identity):
            expected = rule["effect"] == "allow" and (granted or not identity.grants)
            break

    assert policy.allows(identity, action, repository) is expected
    if action is not ADMIN:
        assert policy.predicate(identity, action)(repository) is expected
    if identity == ANONYMOUS and expected:
        assert policy.anonymous_may_anything()


@pytest.mark.parametrize("text", ["everyone", "authenticated", "group:developers", "robot:*", "al?ce", "robt:ci", "x "])
def test_an_identity_is_one_and_not_several(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_identity(text)


def test_an_identity_is_read_as_it_is_written() -> None:
    for identity in (ALICE, CI, BUILD, workload("a/b:c"), ANONYMOUS):
        assert parse_identity(str(identity)) == identity
    assert parse_identity("alice") == ALICE
    assert parse_identity("workload:w", {"a": "b"}).claims == {"a": "b"}
    for other in ("alice", "anonymous"):
        with pytest.raises(ValueError, match="only workloads"):
            parse_identity(other, {"a": "b"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(
        GROUPS
        + RULES
        + '[[rules]]\nwho = ["workload:*"]\nissuer = "github"\nclaims = { repository = "acme/*" }\n'
        + 'repositories = ["acme/**"]\nallow = ["push"]\n'
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["alice", "push", "team/app"], 0, "allowed: rule 2 'developers push their own'\n"),
        (["user:alice", "overwrite", "team/prod/app"], 1, "denied: rule 1 'production is pushed once'\n"),
        (["robot:ci", "push", "team/app"], 0, "allowed: rule 2 'developers push their own'\n"),
        (["anonymous", "pull", "public/alpine"], 0, "allowed: rule 3\n"),
        (["anonymous", "push", "public/alpine"], 1, "denied: no rule allows it\n"),
        (["carol", "admin"], 0, "allowed: rule 4\n"),
        (
            ["workload:x", "push", "acme/app", "--claim", "issuer=github", "--claim", "repository=acme/a=b"],
            0,
            "allowed: rule 5\n",
        ),
        (["workload:x", "push", "acme/app", "--claim", "issuer=github"], 1, "denied: no rule allows it\n"),
        (["alice", "push"], 2, "pierhead: push is asked of a repository: add its name\n"),
        (["alice", "push", "Team"], 2, "pierhead: Team: a repository name is"),
        (["everyone", "push", "team"], 2, "pierhead: 'everyone' is not one identity"),
        (["alice", "push", "team", "--claim", "a=b"], 2, "pierhead: 'alice' has no claims"),
        (["workload:x", "push", "team", "--claim", "a"], 2, "pierhead: --claim a: expected NAME=TEXT"),
    ],
)
def test_explain_says_what_holds_and_which_rule_decides(file: Path, arguments: list[str], code: int, says: str) -> None:
    ended = CliRunner().invoke(command, ["explain", *arguments, "--policy", str(file)])

    assert ended.exit_code == code
    assert ended.output.startswith(says)
    assert len(ended.output.splitlines()) == 1
    assert (ended.stderr == "") is (code != 2)


def test_explain_knows_what_holds_without_a_file() -> None:
    ended = CliRunner().invoke(command, ["explain", "alice", "push", "a"])

    assert (ended.exit_code, ended.output) == (
        0,
        "allowed: without a policy file users and certificates may do everything\n",
    )


def test_an_unknown_action_is_wrong_usage(file: Path) -> None:
    ended = CliRunner().invoke(command, ["explain", "alice", "pushh", "a", "--policy", str(file)])

    assert ended.exit_code == 2
    assert "pushh" in ended.stderr


def test_check_says_ok_or_what_is_wrong_in_one_line(file: Path) -> None:
    ended = CliRunner().invoke(command, ["check", str(file)])
    assert (ended.exit_code, ended.stdout) == (0, f"{file}: ok, 5 rules\n")

    file.write_text('[[rules]]\nwho = ["alice"]\nallow = ["pull"]')
    ended = CliRunner().invoke(command, ["check", str(file)])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert ended.stderr == (
        f'pierhead: {file}: rule 1: repositories is missing: write repositories = ["**"] for all of them\n'
    )
    ended = CliRunner().invoke(command, ["explain", "alice", "pull", "a", "--policy", str(file)])
    assert (ended.exit_code, ended.stdout) == (2, "")


def test_the_example_of_the_reference_is_a_policy() -> None:
    [example] = [block for block in blocks("reference/policy.md") if "[[rules]]" in block]

    assert len(Policy.parse(example, source="page").rules) == 4


def test_the_examples_of_the_how_to_say_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = 0
    for block in blocks("how-to/decide-who-may-do-what.md"):
        if "[[rules]]" in block:
            Path("policy.toml").write_text(block)
        for line, answer in re.findall(r"^\$ pierhead policy (.*)\n(.*)$", block, re.MULTILINE):
            ended = CliRunner().invoke(command, shlex.split(line))
            assert ended.output == answer + "\n", line
            asked += 1

    assert asked > 12


def blocks(page: str) -> list[str]:
    """Return the indented blocks of a page."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return ["\n".join(line[4:] for line in block.splitlines()) for block in found]
