"""Access tokens of our own: for whom they are, and how far they reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from registry.auth.callers import Reach
from registry.auth.credentials import Known
from registry.auth.identities import ANONYMOUS, Action, Identity, Kind
from registry.auth.jwts import Access, TokenInvalid
from registry.auth.scopes import SCOPE_ACTIONS, Scopes, actions_of
from registry.auth.signing import VerifiedToken

CLAIM = "pierhead"
"""The private claim that tells who the token is for, as its issuer knew it."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """What an access token says."""

    known: Known
    reach: Reach


def access_of(granted: Scopes) -> list[Access]:
    """The claim `access` for what was granted (CNCF distribution, "Token Authentication Implementation")."""
    found = [
        Access("repository", name, tuple(a.value for a in SCOPE_ACTIONS if a in actions))
        for name, actions in granted.repositories.items()
    ]
    return [*found, Access("registry", "catalog", ("*",))] if granted.catalog else found


def claims_of(known: Known) -> Mapping[str, object]:
    """The private claims of a token for somebody."""
    identity = known.identity
    return {
        CLAIM: {
            "kind": identity.kind.value,
            "name": identity.name,
            "credential": known.credential,
            **({"claims": dict(identity.claims)} if identity.claims else {}),
        }
    }


def read_bearer(token: VerifiedToken) -> Bearer:
    """What a verified token of ours says. Raises TokenInvalid if it is of another version."""
    fields = token.claims.get(CLAIM)
    try:
        if not isinstance(fields, dict):
            raise TypeError
        kind, claims = Kind(fields["kind"]), dict(fields.get("claims", {}))
        name, credential = str(fields["name"]), str(fields["credential"])
    except (KeyError, ValueError, TypeError):
        raise TokenInvalid("it does not say in our way whom it is for") from None
    identity = ANONYMOUS if kind is Kind.ANONYMOUS else Identity(kind, name, claims=MappingProxyType(claims))
    return Bearer(Known(identity, credential), reach_of(token.access))


def reach_of(access: Sequence[Access]) -> Reach:
    """How far a token reaches by its claim `access`."""
    repositories: dict[str, frozenset[Action]] = {}
    catalog = False
    for entry in access:
        if entry.type == "registry" and entry.name == "catalog":
            catalog = catalog or "*" in entry.actions
        elif entry.type == "repository":
            repositories[entry.name] = repositories.get(entry.name, frozenset()) | actions_of(entry.actions)
    return Reach(MappingProxyType(repositories), catalog)
