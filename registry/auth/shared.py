"""What all workers of one server have in common."""

from collections.abc import Callable
from dataclasses import dataclass

from registry.auth.htpasswd import HtpasswdFile
from registry.auth.policy import DEFAULT_WITHOUT_FILE, Policy
from registry.auth.throttle import RateLimit, Throttle
from registry.config import Auth
from registry.watched import WatchedFile


@dataclass(frozen=True, slots=True)
class Shared:
    """Made once, before the workers are forked: what they count together, and files as they were when in order.

    A worker that takes the place of another while a file is being edited begins with that.
    """

    throttle: Throttle
    rate: RateLimit | None
    users: HtpasswdFile | None
    policy: Callable[[], Policy]

    def refresh(self) -> None:
        """Read what has changed: a worker that is forked next begins with it. Never raises."""
        self.policy()
        if self.users is not None:
            self.users.current()

    @classmethod
    def of(cls, settings: Auth) -> "Shared":
        """What the settings ask for. Raises HtpasswdError, PolicyError."""
        limit = settings.requests_per_second
        rate = None if limit is None else RateLimit(limit, settings.requests_burst)
        users = None
        if settings.htpasswd is not None:
            users = HtpasswdFile(settings.htpasswd)
            users.load()
        if settings.policy is None:
            return cls(Throttle(), rate, users, lambda: DEFAULT_WITHOUT_FILE)
        file = WatchedFile(settings.policy, Policy.load, what="policy")
        file.load()
        return cls(Throttle(), rate, users, file.current)
