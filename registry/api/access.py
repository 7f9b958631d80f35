"""Who may: asked of every request before anything is looked up, and the challenge for those who may not yet."""

import contextlib
import re
from collections.abc import Callable

from starlette.types import Scope

from registry.api.auditing import Auditor
from registry.api.forwarding import client_address, forwarded_host, forwarded_scheme
from registry.api.requests import Request
from registry.auth.authenticator import Authenticator
from registry.auth.basic import BasicError, parse_basic
from registry.auth.callers import Caller, Means
from registry.auth.identities import ANONYMOUS, Action
from registry.auth.scopes import CATALOG_SCOPE, repository_scope
from registry.certificates import client_certificate
from registry.errors import Denied, NameInvalid, RegistryError, TooManyRequests, Unauthorized
from registry.names import RepositoryName, parse_name

INSUFFICIENT = "insufficient_scope"
NO_STORE = ("cache-control", "no-store")
DENIED = "the policy of this registry does not allow it"
LOG_IN = "log in first"

_HOST = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")

# In the order in which clients name them: containerd compares scopes as text.
NEEDS = {"pull": (Action.PULL,), "push": (Action.PULL, Action.PUSH), "delete": (Action.DELETE,)}


class Realm:
    """Where clients get their tokens, on the registry's own host and port: crane refuses any other address.

    `outside` is that of a token service elsewhere, if there is one. `url` is the configured one. Without it, it is
    where the client says that it has sent the request: that reaches nobody else, since no answer to it may be stored.
    """

    def __init__(self, url: str, is_trusted: Callable[[str], bool], *, outside: str = "") -> None:
        self._url = url.rstrip("/")
        self._outside = outside
        self._is_trusted = is_trusted

    def of(self, scope: Scope, root: str) -> str:
        """The address for a request; `root` is the path before /v2/."""
        return self._outside or f"{self._url or self._told(scope)}{root}/token"

    def _told(self, scope: Scope) -> str:
        host = forwarded_host(scope, self._is_trusted)
        if not _HOST.fullmatch(host):
            name, port = scope.get("server") or ("localhost", None)
            host = name if port is None else f"{name}:{port}"
        return f"{forwarded_scheme(scope, self._is_trusted)}://{host}"


class Access:
    """Admits requests, where everybody has to say who they are."""

    def __init__(
        self,
        authenticator: Authenticator,
        realm: Realm,
        auditor: Auditor,
        *,
        service: str,
        is_trusted: Callable[[str], bool],
    ) -> None:
        self._authenticator = authenticator
        self._auditor = auditor
        self._realm = realm
        self._service = service
        self._is_trusted = is_trusted

    async def admit(self, request: Request, needed: str) -> Caller:
        """Tell who makes a request, if they may do what it takes: `any`, `catalog`, `pull`, `push` or `delete`.

        Raises Unauthorized with a challenge, Denied, TooManyRequests, Unavailable. Nothing of it depends on whether
        there is such a repository.
        """
        address = client_address(request.scope, self._is_trusted)
        authorization = request.header(b"authorization")
        try:
            try:
                caller = await self._authenticator.identify(
                    authorization, client_certificate(request.scope), address=address
                )
            except (Unauthorized, TooManyRequests) as error:
                user = _claimed(authorization)
                if user:  # tokens expire: that is no event
                    await self._auditor.login_failed(address, user, error.message)
                raise
            self._require(caller, request, needed)
        except Unauthorized as error:
            error.headers = [*error.headers, ("www-authenticate", self._challenge(request, needed, error)), NO_STORE]
            raise
        return caller

    def _require(self, caller: Caller, request: Request, needed: str) -> None:
        if needed == "any":
            # Also where everybody may pull: clients learn here that there is a token service.
            if caller.means is Means.NOTHING:
                raise Unauthorized(LOG_IN)
            return
        if needed == "catalog":
            allowed = caller.may_list
        else:
            allowed = all(caller.may(action, request.repository) for action in NEEDS[needed])
        if not allowed:
            raise _refusal(caller)
        source = _source(request)
        if source is not None and _could_reach(caller, source):
            raise _refusal(caller)

    def _challenge(self, request: Request, needed: str, error: Unauthorized) -> str:
        # One challenge on one line, and no parameter empty: clients read no others (RFC 6750 section 3).
        parameters = {"realm": self._realm.of(request.scope, request.root), "service": self._service}
        scope = _scope(request, needed)
        if scope:
            parameters["scope"] = scope
        if error.reason:
            parameters["error"] = error.reason
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items())


def _could_reach(caller: Caller, source: RepositoryName) -> bool:
    """Whether somebody would get a token to pull from the source of a mount, and has not asked for it.

    Whom the policy does not let pull from it gets an upload session instead, as if the blob were not there.
    """
    if caller.reach is None or caller.policy is None or caller.reach.includes(Action.PULL, source):
        return False
    return caller.policy.allows(caller.identity, Action.PULL, source)


def _refusal(caller: Caller) -> RegistryError:
    if caller.means is Means.NOTHING:
        return Unauthorized(LOG_IN)
    if caller.means is Means.TOKEN:
        # Not 403: on 401 clients ask for a token that reaches further. People never saw the token: most clients print
        # this to whoever has no such right, or has not logged in and got a token all the same.
        told = LOG_IN if caller.identity == ANONYMOUS else "this login does not allow it"
        return Unauthorized(told, reason=INSUFFICIENT)
    return Denied(DENIED)


def _claimed(authorization: str | None) -> str:
    """Whom a client has said that it is."""
    with contextlib.suppress(BasicError):
        credentials = parse_basic(authorization or "")
        return "" if credentials is None else credentials.user
    return ""


def _scope(request: Request, needed: str) -> str:
    if needed == "catalog":
        return CATALOG_SCOPE
    if needed == "any" or request.name is None:
        return ""
    scope, source = repository_scope(request.name, NEEDS[needed]), _source(request)
    return scope if source is None else f"{scope} {repository_scope(source, NEEDS['pull'])}"


def _source(request: Request) -> RepositoryName | None:
    """The other repository that a mount takes a blob from."""
    named = request.query.first("from")
    if request.method != "POST" or named is None or request.query.first("mount") is None:
        return None
    try:
        source = parse_name(named)
    except NameInvalid:
        return None
    return None if source == request.name else source
