"""Who makes a request, by what means they have shown it, and what they may do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from registry.auth.identities import ANONYMOUS, Action, Identity
from registry.auth.policy import OPEN, Policy


class Means(Enum):
    """How somebody has shown who they are with this request, which decides how they are refused."""

    NOTHING = "nothing"
    PASSWORD = "password"  # noqa: S105  # no password
    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Reach:
    """How far an access token reaches: which actions in which repositories, and whether to the catalog."""

    repositories: Mapping[str, frozenset[Action]]
    catalog: bool

    def includes(self, action: Action, repository: str) -> bool:
        """Whether the token was made out for it. OVERWRITE is no part of a token: it goes with PUSH."""
        needed = Action.PUSH if action is Action.OVERWRITE else action
        return needed in self.repositories.get(repository, ())


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who makes a request.

    With a token they may do what both the token and the policy allow, as it is now. `policy` is None for tokens of
    an outside issuer, which has decided itself.
    """

    identity: Identity
    means: Means
    address: str
    policy: Policy | None
    reach: Reach | None = None

    def may(self, action: Action, repository: str) -> bool:
        """Whether they may do something with a repository, whether or not there is such a one."""
        if self.reach is not None and not self.reach.includes(action, repository):
            return False
        return self.policy is None or self.policy.allows(self.identity, action, repository)

    @property
    def may_list(self) -> bool:
        """Whether they may ask for the catalog, which then shows what they may pull."""
        if self.reach is not None and not self.reach.catalog:
            return False
        return self.policy is None or self.policy.may_list(self.identity)

    def shows(self) -> Callable[[str], bool]:
        """What says of a repository whether a listing shows it to them."""
        if self.policy is not None:
            return self.policy.predicate(self.identity, Action.PULL)
        reach = self.reach
        return lambda repository: reach is not None and reach.includes(Action.PULL, repository)

    def pulls(self) -> Callable[[str], bool]:
        """What says of a repository whether they may pull from it with this request, as `may` does: for many of them.

        A token for some repositories must not find blobs in others that a listing would show.
        """
        shows, reach = self.shows(), self.reach
        if reach is None:
            return shows
        return lambda repository: reach.includes(Action.PULL, repository) and shows(repository)


def everybody(address: str) -> Caller:
    """The caller where nobody has to say who they are."""
    return Caller(ANONYMOUS, Means.NOTHING, address, OPEN)
