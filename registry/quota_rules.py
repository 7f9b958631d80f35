"""Which quotas cover a repository."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, field_validator

from registry.errors import NameInvalid
from registry.names import parse_name
from registry.quantities import Bytes

ANY = "*"


class Quota(BaseModel):
    """How many bytes a prefix may hold: `[[quota]]`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: str
    bytes: Bytes = Field(ge=1)

    @field_validator("repositories")
    @classmethod
    def _check_repositories(cls, text: str) -> str:
        components = text.split("/")
        if components[-1] in {"", "**"} and len(components) > 1:
            shorter = "/".join(components[:-1])
            raise ValueError(f"a prefix covers everything below it already: write {shorter}")
        try:
            parse_name("/".join("x" if each == ANY else each for each in components))
        except NameInvalid as error:
            raise ValueError(
                f"{text!r} is no prefix: expected components of a repository's name, such as team or team/app; a * "
                "stands for each component"
            ) from error
        return text


@dataclass(frozen=True, slots=True)
class Limit:
    """How many bytes the repositories at and below one prefix may hold together."""

    prefix: str
    bytes: int


class QuotaRules:
    """A quota for `team` covers `team`, `team/app` and everything below; `*` stands for each component there is.

    A prefix has one quota: of several that match it the one whose first components are named. A quota of a prefix
    inside of it counts beside it.
    """

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self._by_depth: dict[int, list[tuple[list[str], int]]] = {}
        for quota in quotas:
            components = quota.repositories.split("/")
            self._by_depth.setdefault(len(components), []).append((components, quota.bytes))
        for patterns in self._by_depth.values():
            patterns.sort(key=lambda pattern: [each == ANY for each in pattern[0]])

    def __bool__(self) -> bool:
        """Whether there is any quota."""
        return bool(self._by_depth)

    def of_repository(self, repository: str) -> Sequence[Limit]:
        """The limits that a repository counts against, those of shorter prefixes first."""
        components = repository.split("/") if self._by_depth else []
        prefixes = ("/".join(components[:depth]) for depth in sorted(self._by_depth) if depth <= len(components))
        return [limit for prefix in prefixes if (limit := self.of_prefix(prefix)) is not None]

    def of_prefix(self, prefix: str) -> Limit | None:
        """The limit of exactly this prefix."""
        components = prefix.split("/")
        for pattern, size in self._by_depth.get(len(components), ()):
            if all(each in {ANY, component} for each, component in zip(pattern, components, strict=True)):
                return Limit(prefix, size)
        return None


def refuse_twice(quotas: Sequence[Quota]) -> None:
    """Raise ValueError if two quotas have the same prefix."""
    seen: set[str] = set()
    for quota in quotas:
        if quota.repositories in seen:
            raise ValueError(f"there are two quotas of {quota.repositories}: which one holds?")
        seen.add(quota.repositories)
