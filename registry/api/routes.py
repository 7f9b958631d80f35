"""Which request is whose: the table of endpoints, and the one parser of paths.

A repository's name may hold any word that routes use (`team/blobs/uploads` is a name), so a path is matched
from its right end, on the bytes as they were sent: whatever a proxy or framework decodes first could make
routing, policy and storage see different names.

What is no part of the specification stands below `_pierhead`, which no component of a name can be. Discovery tells of
it, see registry/api/extensions.py.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from registry.api.blobs import BlobEndpoints
from registry.api.histories import HistoryEndpoints
from registry.api.listings import ListingEndpoints
from registry.api.manifests import ManifestEndpoints
from registry.api.repositories import RepositoryEndpoints
from registry.api.requests import Request
from registry.api.responses import Response
from registry.api.uploads import UploadEndpoints
from registry.api.usage import UsageEndpoints
from registry.errors import NameInvalid, NotThere, Unsupported
from registry.names import RepositoryName, parse_name

Endpoint = Callable[[Request], Awaitable[Response]]


class Shape(Enum):
    """The shapes of paths below `/v2/`."""

    PING = ""
    CATALOG = "_catalog"
    DISCOVER = "_oci/ext/discover"
    DISCOVER_REPOSITORY = "<name>/_oci/ext/discover"
    TAGS = "<name>/tags/list"
    REFERRERS = "<name>/referrers/<digest>"
    BLOB = "<name>/blobs/<digest>"
    MANIFEST = "<name>/manifests/<reference>"
    UPLOADS = "<name>/blobs/uploads/"
    UPLOAD = "<name>/blobs/uploads/<id>"
    TAG_HISTORY = "<name>/_pierhead/tags/<tag>/history"
    TAG_ROLLBACK = "<name>/_pierhead/tags/<tag>/rollback"
    TAG_RESTORATION = "<name>/_pierhead/tags/<tag>/restore"
    REPOSITORY = "<name>/_pierhead/repository"
    USAGE = "<name>/_pierhead/usage"
    TOKEN = "/token"  # noqa: S105  # no password
    """Beside `/v2/`, and in no line of the table."""


class Action(Enum):
    """What somebody has to be allowed to do for a request."""

    ANY = "any"
    PULL = "pull"
    PUSH = "push"
    DELETE = "delete"
    CATALOG = "catalog"


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the table."""

    method: str
    shape: Shape
    action: Action
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Target:
    """A path that was parsed: its shape, the name in it, and what follows the name."""

    shape: Shape
    name: RepositoryName | None = None
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Everything that answers requests."""

    listings: ListingEndpoints
    blobs: BlobEndpoints
    uploads: UploadEndpoints
    manifests: ManifestEndpoints
    histories: HistoryEndpoints
    repositories: RepositoryEndpoints
    usage: UsageEndpoints


def routes(endpoints: Endpoints) -> Sequence[Route]:
    """Every endpoint; HEAD is answered as GET is, without the body, unless it has a line of its own."""
    return (
        Route("GET", Shape.PING, Action.ANY, endpoints.listings.ping),
        Route("GET", Shape.CATALOG, Action.CATALOG, endpoints.listings.catalog),
        Route("GET", Shape.DISCOVER, Action.ANY, endpoints.listings.discover),
        Route("GET", Shape.DISCOVER_REPOSITORY, Action.PULL, endpoints.listings.discover),
        Route("GET", Shape.TAGS, Action.PULL, endpoints.listings.tags),
        Route("GET", Shape.REFERRERS, Action.PULL, endpoints.listings.referrers),
        Route("GET", Shape.BLOB, Action.PULL, endpoints.blobs.get),
        Route("HEAD", Shape.BLOB, Action.PULL, endpoints.blobs.head),
        Route("DELETE", Shape.BLOB, Action.DELETE, endpoints.blobs.delete),
        Route("GET", Shape.MANIFEST, Action.PULL, endpoints.manifests.get),
        Route("PUT", Shape.MANIFEST, Action.PUSH, endpoints.manifests.put),
        Route("DELETE", Shape.MANIFEST, Action.DELETE, endpoints.manifests.delete),
        Route("POST", Shape.UPLOADS, Action.PUSH, endpoints.uploads.begin),
        Route("PATCH", Shape.UPLOAD, Action.PUSH, endpoints.uploads.append),
        Route("PUT", Shape.UPLOAD, Action.PUSH, endpoints.uploads.finish),
        Route("GET", Shape.UPLOAD, Action.PUSH, endpoints.uploads.get),
        Route("DELETE", Shape.UPLOAD, Action.PUSH, endpoints.uploads.cancel),
        Route("GET", Shape.TAG_HISTORY, Action.PULL, endpoints.histories.history),
        Route("POST", Shape.TAG_ROLLBACK, Action.PUSH, endpoints.histories.rollback),
        Route("POST", Shape.TAG_RESTORATION, Action.PUSH, endpoints.histories.restore),
        Route("DELETE", Shape.REPOSITORY, Action.DELETE, endpoints.repositories.delete),
        Route("GET", Shape.USAGE, Action.PUSH, endpoints.usage.get),
    )


class Router:
    """Finds the route of a request."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._table: dict[Shape, dict[str, Route]] = {}
        for route in table:
            self._table.setdefault(route.shape, {})[route.method] = route
        for methods in self._table.values():
            if "GET" in methods:
                methods.setdefault("HEAD", methods["GET"])

    def find(self, method: str, target: Target) -> Route:
        """The route for a method on a parsed path. Raises Unsupported (405) with the methods there are."""
        methods = self._table[target.shape]
        route = methods.get(method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise Unsupported(f"this address takes {allowed}", headers=[("allow", allowed)])
        return route


def parse_path(path: str) -> Target:
    """Parse what follows `/v2/`, undecoded. Raises NameInvalid, or NotThere if it has no known shape."""
    parts = _parts(path)
    # First: a tag may have a name that the lines below know.
    if "_pierhead" in parts and (target := _extended(parts)) is not None:
        return target
    match parts:
        case [""]:
            return Target(Shape.PING)
        case ["_catalog"]:
            return Target(Shape.CATALOG)
        case ["_oci", "ext", "discover"]:
            return Target(Shape.DISCOVER)
        case [*name, "_oci", "ext", "discover"]:
            return Target(Shape.DISCOVER_REPOSITORY, _name(name))
        case [*name, "tags", "list"]:
            return Target(Shape.TAGS, _name(name))
        case [*name, "blobs", "uploads"] | [*name, "blobs", "uploads", ""]:
            return Target(Shape.UPLOADS, _name(name))
        case [*name, "blobs", "uploads", upload]:
            return Target(Shape.UPLOAD, _name(name), upload)
        case [*name, "blobs", digest]:
            return Target(Shape.BLOB, _name(name), digest)
        case [*name, "manifests", reference]:
            return Target(Shape.MANIFEST, _name(name), reference)
        case [*name, "referrers", digest]:
            return Target(Shape.REFERRERS, _name(name), digest)
    raise NotThere("there is nothing at this address: the API is below /v2/")


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    return [_decoded(part) for part in parts] if "%" in path else parts


def _extended(parts: Sequence[str]) -> Target | None:
    """What has a shape below `_pierhead`; a tag or an upload may be called so as well."""
    match parts:
        case [*name, "_pierhead", "repository"]:
            return Target(Shape.REPOSITORY, _name(name))
        case [*name, "_pierhead", "usage"]:
            return Target(Shape.USAGE, _name(name))
        case [*name, "_pierhead", "tags", tag, "history"]:
            return Target(Shape.TAG_HISTORY, _name(name), tag)
        case [*name, "_pierhead", "tags", tag, "rollback"]:
            return Target(Shape.TAG_ROLLBACK, _name(name), tag)
        case [*name, "_pierhead", "tags", tag, "restore"]:
            return Target(Shape.TAG_RESTORATION, _name(name), tag)
    return None


def _name(parts: Sequence[str]) -> RepositoryName:
    if not parts:
        raise NameInvalid("the address lacks the name of a repository")
    return parse_name("/".join(parts))


def _decoded(part: str) -> str:
    # Decoded once. What would then still be a separator can't be in any name, and must not become one.
    try:
        text = unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError:
        raise NameInvalid("the address is not percent-encoded UTF-8") from None
    if not text.isprintable() or any(separator in text for separator in "/\\%"):
        raise NameInvalid("the address has an encoded separator, percent or control character in it")
    return text
