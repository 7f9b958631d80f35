"""Who is asking: the one description that policy, tokens and the audit trail share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

_NO_CLAIMS: Mapping[str, str] = MappingProxyType({})


class Kind(Enum):
    """By what means somebody has shown who they are."""

    ANONYMOUS = "anonymous"
    USER = "user"
    ROBOT = "robot"
    WORKLOAD = "workload"
    CERTIFICATE = "certificate"


class Action(Enum):
    """What somebody may be allowed to do with a repository.

    PUSH writes what is not there yet; moving a tag that points elsewhere takes OVERWRITE as well. ADMIN is for what
    concerns the registry as a whole, and is asked with no repository.
    """

    PULL = "pull"
    PUSH = "push"
    OVERWRITE = "overwrite"
    DELETE = "delete"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Grant:
    """Rights that came with a credential: these actions, in repositories that match one of the globs."""

    repositories: tuple[str, ...]
    actions: frozenset[Action]


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody. `name` is unique within its kind, and empty only for ANONYMOUS.

    `grants` are what a robot's token was given. `claims` are what the issuer of a WORKLOAD's token says of it,
    flattened to text, with `issuer` for the configured name of the issuer.
    """

    kind: Kind
    name: str = ""
    grants: tuple[Grant, ...] = ()
    claims: Mapping[str, str] = field(default_factory=lambda: _NO_CLAIMS)

    def __str__(self) -> str:
        """`user:alice`, `robot:ci`, `anonymous`: as policy files, logs and the audit trail write it."""
        return f"{self.kind.value}:{self.name}" if self.name else self.kind.value


ANONYMOUS = Identity(Kind.ANONYMOUS)
