"""What is there beyond the specification: the extensions that discovery tells of, and their JSON."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.api.bodies import WholeBodies
from registry.api.requests import Request
from registry.errors import BadRequest
from registry.strict_json import parse_object

JSON_BYTES_MAX = 16 << 10

_SPECIFIED = "https://github.com/opencontainers/distribution-spec/blob/main/extensions/README.md"


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension as discovery tells it. `endpoints` follow `/v2/`, or `/v2/<name>/` for those of a repository.

    `url` leads to its specification; Pierhead's own stand in docs/reference/http-extensions.md of its sources.
    """

    name: str
    description: str
    endpoints: Sequence[str]
    url: str = _SPECIFIED

    def told(self, root: str) -> dict[str, object]:
        """The extension below the path `root`, which ends in a slash (distribution-spec, extensions/_oci.md)."""
        return {
            "name": self.name,
            "url": self.url,
            "description": self.description,
            "endpoints": [f"{root}{endpoint}" for endpoint in self.endpoints],
        }


DISCOVERY = Extension("_oci", "which extensions there are", ("_oci/ext/discover",))

OF_THE_REGISTRY: Sequence[Extension] = (
    DISCOVERY,
    Extension("_catalog", "the names of all repositories", ("_catalog",)),
)

OF_A_REPOSITORY: Sequence[Extension] = (
    DISCOVERY,
    Extension(
        "_pierhead",
        "histories of tags, and the way back; DELETE of a whole repository; usage of quotas",
        (
            "_pierhead/tags/{tag}/history",
            "_pierhead/tags/{tag}/rollback",
            "_pierhead/tags/{tag}/restore",
            "_pierhead/repository",
            "_pierhead/usage",
        ),
    ),
)
"""Each endpoint of registry/api/routes.py below `_pierhead` stands here."""

_BODIES = WholeBodies(bytes_max=JSON_BYTES_MAX)


async def read_json(request: Request, *known: str) -> dict[str, object]:
    """Read a body that is a JSON object of known fields; an empty body has none. Raises BadRequest, TooLarge."""
    async with _BODIES.read(request) as body:
        try:
            fields = parse_object(body) if body.strip() else {}
        except ValueError as error:
            raise BadRequest(f"the body is not what was expected: {error}") from error
    for name in fields:
        if name not in known:
            raise BadRequest(f"the body has an unknown field {name[:64]!r}: expected {', '.join(known) or 'none'}")
    return fields
