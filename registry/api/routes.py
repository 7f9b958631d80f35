"""Which request is whose: the table of endpoints, and the one parser of paths.

A repository's name may hold any word that routes use (`team/blobs/uploads` is a name), so a path is matched
from its right end, on the bytes as they were sent: whatever a proxy or framework decodes first could make
routing, policy and storage see different names.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote_to_bytes

from registry.api.blobs import BlobEndpoints
from registry.api.listings import ListingEndpoints
from registry.api.manifests import ManifestEndpoints
from registry.api.repositories import RepositoryEndpoints
from registry.api.requests import Request
from registry.api.responses import Response
from registry.api.uploads import UploadEndpoints
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
    REPOSITORY = "<name>/_pierhead/repository"
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


def routes(
    listings: ListingEndpoints,
    blobs: BlobEndpoints,
    uploads: UploadEndpoints,
    manifests: ManifestEndpoints,
    repositories: RepositoryEndpoints,
) -> Sequence[Route]:
    """Every endpoint; HEAD is answered as GET is, without the body, unless it has a line of its own."""
    return (
        Route("GET", Shape.PING, Action.ANY, listings.ping),
        Route("GET", Shape.CATALOG, Action.CATALOG, listings.catalog),
        Route("GET", Shape.DISCOVER, Action.ANY, listings.discover),
        Route("GET", Shape.DISCOVER_REPOSITORY, Action.PULL, listings.discover),
        Route("GET", Shape.TAGS, Action.PULL, listings.tags),
        Route("GET", Shape.REFERRERS, Action.PULL, listings.referrers),
        Route("GET", Shape.BLOB, Action.PULL, blobs.get),
        Route("HEAD", Shape.BLOB, Action.PULL, blobs.head),
        Route("DELETE", Shape.BLOB, Action.DELETE, blobs.delete),
        Route("GET", Shape.MANIFEST, Action.PULL, manifests.get),
        Route("PUT", Shape.MANIFEST, Action.PUSH, manifests.put),
        Route("DELETE", Shape.MANIFEST, Action.DELETE, manifests.delete),
        Route("POST", Shape.UPLOADS, Action.PUSH, uploads.begin),
        Route("PATCH", Shape.UPLOAD, Action.PUSH, uploads.append),
        Route("PUT", Shape.UPLOAD, Action.PUSH, uploads.finish),
        Route("GET", Shape.UPLOAD, Action.PUSH, uploads.get),
        Route("DELETE", Shape.UPLOAD, Action.PUSH, uploads.cancel),
        Route("DELETE", Shape.REPOSITORY, Action.DELETE, repositories.delete),
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
    parts = path.split("/")
    if "%" in path:
        parts = [_decoded(part) for part in parts]
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
    return _parse_extension(parts)


def _parse_extension(parts: Sequence[str]) -> Target:
    match parts:
        case [*name, "_pierhead", "repository"]:
            return Target(Shape.REPOSITORY, _name(name))
    raise NotThere("there is nothing at this address: the API is below /v2/")


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
