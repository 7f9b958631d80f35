"""Scopes of the token protocol: what a client asks a token for, and what a challenge tells it to ask for.

    scope = type ":" name ":" action *( "," action )        type = word [ "(" class ")" ]

(CNCF distribution, "Token Scope Documentation".) A client may ask for anything: what is not known here is passed
over, and whoever asks for too much is given what they may have.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from registry.auth.identities import Action
from registry.errors import NameInvalid
from registry.names import RepositoryName, parse_name

SCOPES_MAX = 32
CATALOG_SCOPE = "registry:catalog:*"

SCOPE_ACTIONS = (Action.PULL, Action.PUSH, Action.DELETE)
"""The actions that a scope knows, in the order in which they are written: containerd compares scopes as text."""

# docker asks for repository(plugin) to push a plugin: the class changes nothing about the rights.
_REPOSITORY = re.compile(r"repository(?:\([a-z0-9]++\))?")
_BY_TEXT: Mapping[str, frozenset[Action]] = MappingProxyType(
    {action.value: frozenset({action}) for action in SCOPE_ACTIONS} | {"*": frozenset(SCOPE_ACTIONS)}
)


class TooManyScopes(ValueError):
    """A request asks for more scopes than are taken at once."""


@dataclass(frozen=True, slots=True)
class Scopes:
    """What is asked for: actions of each repository, none of them without any, in the order first asked."""

    repositories: Mapping[RepositoryName, frozenset[Action]] = field(default_factory=lambda: MappingProxyType({}))
    catalog: bool = False

    @classmethod
    def parse(cls, values: Iterable[str]) -> "Scopes":
        """Read the values of all `scope` parameters, each of which holds scopes with spaces between them.

        One repository may stand in several scopes: it gets what all of them say. Names that break the grammar,
        unknown types and unknown actions are passed over. Raises TooManyScopes beyond SCOPES_MAX.
        """
        texts = [text for value in values for text in value.split(" ") if text]
        if len(texts) > SCOPES_MAX:
            raise TooManyScopes(f"{len(texts)} scopes are asked for at once: ask for at most {SCOPES_MAX}")
        repositories: dict[RepositoryName, frozenset[Action]] = {}
        catalog = False
        for text in texts:
            # A name may be meant to hold a colon, so that only the first and the last divide.
            kind, _, rest = text.partition(":")
            name, _, asked = rest.rpartition(":")
            if (kind, name) == ("registry", "catalog"):
                catalog = catalog or "*" in asked.split(",")
            elif _REPOSITORY.fullmatch(kind):
                _add(repositories, name, asked)
        return cls(MappingProxyType(repositories), catalog)

    def render(self) -> str:
        """The scopes as text, one space between them; empty if there is none."""
        texts = [repository_scope(name, actions) for name, actions in self.repositories.items()]
        return " ".join([*texts, CATALOG_SCOPE] if self.catalog else texts)


def repository_scope(name: str, actions: Collection[Action]) -> str:
    """The scope to ask for, as a challenge has it: `repository:team/app:pull,push`.

    OVERWRITE and ADMIN are no part of a token and are left out. Raises ValueError if no action is left.
    """
    texts = [action.value for action in SCOPE_ACTIONS if action in actions]
    if not texts:
        raise ValueError("a scope has at least one of pull, push and delete")
    return f"repository:{name}:{','.join(texts)}"


def actions_of(texts: Iterable[str]) -> frozenset[Action]:
    """The actions that are named; * is all that a scope knows, and what is unknown is passed over."""
    return frozenset[Action]().union(*(_BY_TEXT.get(text, frozenset()) for text in texts))


def _add(repositories: dict[RepositoryName, frozenset[Action]], name: str, asked: str) -> None:
    actions = actions_of(asked.split(","))
    try:
        repository = parse_name(name)
    except NameInvalid:
        return
    if actions:
        repositories[repository] = repositories.get(repository, frozenset()) | actions
