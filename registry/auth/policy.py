"""The policy: who may do what in which repository. Whatever no rule allows is denied.

The format of the file is docs/reference/policy.md.
"""

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from registry.auth.globs import GlobError, Globs, has_wildcards
from registry.auth.identities import ANONYMOUS, Action, Grant, Identity, Kind
from registry.findings import printable
from registry.watched import FileProblem, read_regular

FILE_BYTES_MAX = 8 << 20
NAMES_KEPT_MAX = 4096
GRANTS_KEPT_MAX = 1024

_KINDS: Mapping[str, Kind] = MappingProxyType({kind.value: kind for kind in Kind if kind is not Kind.ANONYMOUS})
_WORDS: Mapping[str, frozenset[Kind]] = MappingProxyType(
    {
        "anonymous": frozenset({Kind.ANONYMOUS}),
        "authenticated": frozenset(_KINDS.values()),
        "everyone": frozenset(Kind),
    }
)
_GROUP = "group"
_ISSUER = "issuer"
_ALL_BUT_ADMIN = frozenset(Action) - {Action.ADMIN}
_ACTIONS: Mapping[str, frozenset[Action]] = MappingProxyType(
    {action.value: frozenset({action}) for action in Action} | {"*": _ALL_BUT_ADMIN}
)
_SECTIONS = ("groups", "rules")
_EXAMPLES: Mapping[str, str] = MappingProxyType(
    {
        "who": 'who = ["authenticated"] for all who have shown who they are',
        "repositories": 'repositories = ["**"] for all of them',
    }
)
_RULE_KEYS = ("name", "who", "issuer", "claims", "repositories", "allow", "deny")

Member = tuple[Kind, str]
Groups = Mapping[str, Sequence[Member]]


class PolicyError(ValueError):
    """A policy file that can't be used: one line that names the file and the rule."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed, and what says so."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Who:
    """Whom a rule is about: all of some kinds, some by name, and those whose name matches a glob of their kind."""

    kinds: frozenset[Kind] = frozenset()
    names: frozenset[Member] = frozenset()
    globs: tuple[tuple[Kind, Globs], ...] = ()

    def includes(self, kind: Kind, name: str) -> bool:
        """Tell whether somebody of that name is one of them."""
        if kind in self.kinds or (kind, name) in self.names:
            return True
        return any(kind is of and globs.match(name) for of, globs in self.globs)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; for whom and what it is about, it decides. `repositories` of None: it only names ADMIN.

    With `issuer` or `claims` it is about workloads alone, and those for whom every claim matches.
    """

    decision: Decision
    who: Who
    actions: frozenset[Action]
    repositories: Globs | None
    issuer: str | None = None
    claims: tuple[tuple[str, Globs], ...] = ()

    def is_claimed(self, identity: Identity) -> bool:
        """Tell whether somebody whom `who` includes is also what the rule wants to be claimed."""
        if self.issuer is None and not self.claims:
            return True
        if identity.kind is not Kind.WORKLOAD:
            return False
        claimed = identity.claims
        if self.issuer is not None and claimed.get(_ISSUER) != self.issuer:
            return False
        return all(name in claimed and globs.match(claimed[name]) for name, globs in self.claims)

    def covers(self, repository: str | None) -> bool:
        """Tell whether the rule is about a repository; None is the registry as a whole, which each rule is about."""
        return repository is None or (self.repositories is not None and self.repositories.match(repository))


class Policy:
    """Rules in order. Immutable, but for a bounded memory of who is named by which rules and of globs of grants.

    The first rule that is about somebody, the action and the repository decides. Who has a token with grants of its own
    is allowed what these say unless that rule denies it, and nothing beyond them whatever the rules say.
    """

    def __init__(self, rules: Iterable[Rule], *, otherwise: str = "no rule allows it") -> None:
        self.rules = tuple(rules)
        self._otherwise = Decision(allowed=False, reason=otherwise)
        self._naming = lru_cache(maxsize=NAMES_KEPT_MAX)(self._find_naming)
        self._globs = lru_cache(maxsize=GRANTS_KEPT_MAX)(_grant_globs)

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file. Raises PolicyError, also if it can't be read."""
        try:
            text = read_regular(path, FILE_BYTES_MAX).decode()
        except FileProblem as error:
            raise PolicyError(f"{printable(str(path))}: {error}") from None
        except UnicodeDecodeError as error:
            raise PolicyError(f"{printable(str(path))}: not UTF-8, from byte {error.start} on") from None
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str) -> "Policy":
        """Read the text of a policy file; `source` is what errors call it. Raises PolicyError."""
        try:
            return cls(_parse_file(text))
        except ValueError as error:
            raise PolicyError(printable(f"{source}: {error}")) from None

    def decide(self, identity: Identity, action: Action, repository: str | None) -> Decision:
        """Decide, and say what decides. ADMIN is asked of no repository, and one that is given does not matter.

        Raises ValueError if any other action is asked of no repository.
        """
        if action is Action.ADMIN:
            repository = None
        elif repository is None:
            raise ValueError(f"{action.value} is asked of a repository")
        return self._first(self._about(identity, action), identity.grants, action, repository)

    def allows(self, identity: Identity, action: Action, repository: str | None) -> bool:
        """Tell whether something is allowed, as `decide` does."""
        return self.decide(identity, action, repository).allowed

    def predicate(self, identity: Identity, action: Action) -> Callable[[str], bool]:
        """Return what says of a repository the same as `allows`: for listings, since it looks up once who is asking.

        `action` is any but ADMIN, which is not asked of a repository.
        """
        about = self._about(identity, action)
        return lambda repository: self._first(about, identity.grants, action, repository).allowed

    def may_list(self, identity: Identity) -> bool:
        """Tell whether somebody may ask for the catalog, which then shows what they may pull."""
        return identity != ANONYMOUS or self.anonymous_may_anything()

    def anonymous_may_anything(self) -> bool:
        """Tell whether there may be something that is allowed without credentials."""
        for action in Action:
            for rule in self._about(ANONYMOUS, action):
                if rule.decision.allowed:
                    return True
                if rule.repositories is None or "**" in rule.repositories.texts:
                    break  # none of the later rules is reached
        return False

    def _about(self, identity: Identity, action: Action) -> Sequence[Rule]:
        naming = self._naming(action, identity.kind, identity.name)
        return [rule for rule in naming if rule.is_claimed(identity)]

    def _find_naming(self, action: Action, kind: Kind, name: str) -> Sequence[Rule]:
        return tuple(rule for rule in self.rules if action in rule.actions and rule.who.includes(kind, name))

    def _first(
        self, rules: Iterable[Rule], grants: Sequence[Grant], action: Action, repository: str | None
    ) -> Decision:
        found = next((rule.decision for rule in rules if rule.covers(repository)), None)
        if found is not None and not found.allowed:
            return found
        if grants:
            return _GRANTED if any(self._grants(grant, action, repository) for grant in grants) else _NOT_GRANTED
        return self._otherwise if found is None else found

    def _grants(self, grant: Grant, action: Action, repository: str | None) -> bool:
        # No grant reaches ADMIN, which is asked of no repository.
        return repository is not None and action in grant.actions and self._globs(grant.repositories).match(repository)


_GRANTED = Decision(allowed=True, reason="its token's own grant")
_NOT_GRANTED = Decision(allowed=False, reason="its token does not allow it")


def parse_identity(text: str, claims: Mapping[str, str] = MappingProxyType({})) -> Identity:
    """Read one identity as policies name it: `alice`, `robot:ci`, `anonymous`. Raises ValueError, also for several."""
    if text in _WORDS or text.startswith(f"{_GROUP}:"):
        if text != str(ANONYMOUS):
            raise ValueError(f"{text!r} is not one identity: expected such as alice, robot:ci or anonymous")
        kind, name = Kind.ANONYMOUS, ""
    else:
        kind, name = _member(text)
    if has_wildcards(name):
        raise ValueError(f"{text!r} is not one identity: write a name without wildcards")
    if claims and kind is not Kind.WORKLOAD:
        raise ValueError(f"{text!r} has no claims: only workloads have")
    return Identity(kind, name, claims=MappingProxyType(dict(claims)))


def _grant_globs(texts: tuple[str, ...]) -> Globs:
    try:
        return Globs.of_names(texts)
    except GlobError:
        return Globs.of_names(())  # a grant that can't be understood grants nothing


def _parse_file(text: str) -> list[Rule]:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from None
    except RecursionError:
        raise ValueError("not TOML: it is nested too deeply") from None
    _check_keys(found, _SECTIONS)
    groups = _groups(found.get("groups", {}))
    rules = found.get("rules", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise ValueError("rules: begin each rule with [[rules]] on a line of its own")
    return [_numbered_rule(number, rule, groups) for number, rule in enumerate(rules, 1)]


def _groups(table: object) -> Groups:
    if not isinstance(table, dict):
        raise ValueError("groups: write [groups] on a line of its own, and below it a line for each group")
    found: dict[str, Sequence[Member]] = {}
    for name, value in table.items():
        try:
            found[name] = [_group_member(text) for text in _texts(value, may_be_empty=True)]
        except ValueError as error:
            raise ValueError(f"groups.{name}: {error}") from None
    return found


def _group_member(text: str) -> Member:
    if text in _WORDS or text.startswith(f"{_GROUP}:"):
        raise ValueError(f"{text!r} can't be in a group: name it in the rules, beside the group")
    return _member(text)


def _numbered_rule(number: int, table: Mapping[str, object], groups: Groups) -> Rule:
    name = table.get("name")
    label = printable(f"rule {number} '{name}'" if isinstance(name, str) and name else f"rule {number}")
    try:
        return _rule(label, table, groups)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def _rule(label: str, table: Mapping[str, object], groups: Groups) -> Rule:
    _check_keys(table, _RULE_KEYS)
    if "name" in table:
        _text(table, "name")
    effects = [key for key in ("allow", "deny") if key in table]
    if len(effects) != 1:
        raise ValueError("has both allow and deny: make it two rules" if effects else "says neither allow nor deny")
    [effect] = effects
    actions = frozenset[Action]().union(*_read(table, effect, _action))
    issuer = _text(table, _ISSUER) if _ISSUER in table else None
    claims = _claims(table["claims"]) if "claims" in table else ()
    return Rule(
        Decision(allowed=effect == "allow", reason=label),
        _who(table, groups, workloads_only=issuer is not None or bool(claims)),
        actions,
        _repositories(table, actions),
        issuer,
        claims,
    )


def _who(table: Mapping[str, object], groups: Groups, *, workloads_only: bool) -> Who:
    kinds: set[Kind] = set()
    names: set[Member] = set()
    globs: dict[Kind, list[str]] = {}
    for text, all_of, members in _read(table, "who", lambda text: (text, *_whom(text, groups))):
        if workloads_only and not _are_workloads(all_of, members):
            raise ValueError(f"who: {text!r}: only workloads have an issuer and claims: make it two rules")
        kinds |= all_of
        for kind, name in members:
            if name in ("*", "**"):
                kinds.add(kind)
            elif has_wildcards(name):
                globs.setdefault(kind, []).append(name)
            else:
                names.add((kind, name))
    try:
        compiled = tuple((kind, Globs.of_texts(texts)) for kind, texts in globs.items())
    except GlobError as error:
        raise ValueError(f"who: {error}") from None
    return Who(frozenset(kinds), frozenset(names), compiled)


def _are_workloads(all_of: frozenset[Kind], members: Sequence[Member]) -> bool:
    """Tell whether those are workloads, or have workloads among them where a word stands for many kinds."""
    return (not all_of or Kind.WORKLOAD in all_of) and all(kind is Kind.WORKLOAD for kind, _ in members)


def _whom(text: str, groups: Groups) -> tuple[frozenset[Kind], Sequence[Member]]:
    """Whom an entry of `who` means: the kinds that it takes in as a whole, and those that it names."""
    if text in _WORDS:
        return _WORDS[text], ()
    before, _, group = text.partition(":")
    if before != _GROUP:
        return frozenset(), [_member(text)]
    if group not in groups:
        nearest = _nearest(text, [f"{_GROUP}:{name}" for name in groups])
        raise ValueError(f"{text!r} is an unknown group{nearest or ': there are no [groups]'}")
    return frozenset(), groups[group]


def _member(text: str) -> Member:
    before, colon, name = text.partition(":")
    if text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r} has blanks around it, or control characters in it")
    if not colon:
        return Kind.USER, _plain(text)
    if before not in _KINDS:
        raise ValueError(f"{text!r} is of an unknown kind{_nearest(before, [*_KINDS, _GROUP])}")
    if not name:
        raise ValueError(f"{text!r} lacks a name: write {before}:* for every {before}")
    return _KINDS[before], name


def _plain(text: str) -> str:
    # A word written wrong would be a user whom there is not, and the rule would be about nobody.
    alike = difflib.get_close_matches(text.lower(), [*_WORDS, _GROUP], n=1, cutoff=0.8)
    if alike:
        raise ValueError(f"{text!r}: did you mean {alike[0]}? A user of that name is user:{text}")
    if not text.strip("*?"):
        raise ValueError(f"{text!r}: write everyone, authenticated, or user:* for every user")
    return text


def _action(text: str) -> frozenset[Action]:
    if text not in _ACTIONS:
        raise ValueError(f"{text!r} is an unknown action{_nearest(text, [*_ACTIONS])}")
    return _ACTIONS[text]


def _repositories(table: Mapping[str, object], actions: frozenset[Action]) -> Globs | None:
    if "repositories" not in table and actions == {Action.ADMIN}:
        return None
    texts = _read(table, "repositories", str)
    try:
        return Globs.of_names(texts)
    except GlobError as error:
        raise ValueError(f"repositories: {error}") from None


def _claims(table: object) -> tuple[tuple[str, Globs], ...]:
    if not isinstance(table, dict) or not table:
        raise ValueError('claims: expected a table, such as { repository = "acme/*" }')
    if _ISSUER in table:
        raise ValueError('claims: the issuer is a key of the rule: write issuer = "..." beside claims')
    found = []
    for name, value in table.items():
        try:
            found.append((name, Globs.of_texts(_texts([value] if isinstance(value, str) else value))))
        except ValueError as error:
            raise ValueError(f"claims.{name}: {error}") from None
    return tuple(found)


_Read = TypeVar("_Read")


def _read(table: Mapping[str, object], key: str, read: Callable[[str], _Read]) -> list[_Read]:
    if key not in table:
        raise ValueError(f"{key} is missing: write {_EXAMPLES[key]}")
    try:
        return [read(text) for text in _texts(table[key])]
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _text(table: Mapping[str, object], key: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: expected a text that is not empty")
    return value


def _texts(value: object, *, may_be_empty: bool = False) -> list[str]:
    if not isinstance(value, list):
        raise ValueError('expected a list of texts, such as ["a", "b"]')
    if not value and not may_be_empty:
        raise ValueError("the list is empty")
    found = [text for text in value if isinstance(text, str) and text]
    if len(found) != len(value):
        raise ValueError("expected only texts in the list, none of them empty")
    return found


def _check_keys(table: Mapping[str, object], known: Sequence[str]) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{key}: unknown key{_nearest(key, known)}")


def _nearest(text: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(text, known, n=1, cutoff=0)
    return f": did you mean {nearest[0]}?" if nearest else ""


def _for_all(reason: str, kinds: Iterable[Kind]) -> Rule:
    return Rule(Decision(allowed=True, reason=reason), Who(frozenset(kinds)), frozenset(Action), Globs.of_names(["**"]))


DEFAULT_WITHOUT_FILE = Policy(
    [_for_all("without a policy file users and certificates may do everything", (Kind.USER, Kind.CERTIFICATE))],
    otherwise="without a policy file only users and certificates may, and robots what their tokens grant",
)
"""What holds if there are credentials and no policy file is configured: as registry:2 with htpasswd."""

OPEN = Policy([_for_all("there is no authentication", Kind)])
"""What holds if no authentication is configured: everybody may do everything."""
