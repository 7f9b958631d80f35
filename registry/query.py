"""Query parameters: decoded once, unknown ones ignored."""

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from registry.errors import BadRequest

PARAMETERS_MAX = 1000


class Query:
    """The parameters of one request; a name may stand in it several times."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    @classmethod
    def parse(cls, raw: bytes) -> "Query":
        """Read a raw query string. Raises BadRequest if it is no UTF-8 or has too many parameters."""
        if not raw:
            return NO_QUERY
        values: dict[str, list[str]] = {}
        try:
            for name, value in parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX
            ):
                values.setdefault(name, []).append(value)
        except ValueError:
            raise BadRequest(
                f"the query is not percent-encoded UTF-8 with at most {PARAMETERS_MAX} parameters"
            ) from None
        return cls(values)

    def first(self, name: str) -> str | None:
        """The first value under a name, or None."""
        values = self._values.get(name)
        return values[0] if values else None

    def all(self, name: str) -> Sequence[str]:
        """Every value under a name, in the order given."""
        return self._values.get(name, ())


NO_QUERY = Query({})
