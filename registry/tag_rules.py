"""The tables of the configuration that are about tags: which of them never move, and which of them are kept."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from registry.auth.globs import Globs
from registry.tag_patterns import TagPatterns


def _texts(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class TagRule(BaseModel):
    """What every rule about tags has: which repositories, and which tags in them, it is about."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    repositories: Texts
    tags: Texts = ("*",)
    excepted: Texts = Field((), alias="except")

    @field_validator("repositories")
    @classmethod
    def _check_repositories(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if not texts:
            raise ValueError("no repository at all: write ** for every repository")
        Globs.of_names(texts)
        return texts

    @field_validator("tags", "excepted")
    @classmethod
    def _check_tags(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        TagPatterns(texts)
        return texts

    def describe(self, kind: str, number: int) -> str:
        """Name the rule for people: `immutable rule 2 (team/** v* except *-dev)`."""
        excepted = f" except {' '.join(self.excepted)}" if self.excepted else ""
        return f"{kind} rule {number} ({' '.join(self.repositories)} {' '.join(self.tags)}{excepted})"


class ImmutableTags(TagRule):
    """Tags that stay where they were set: `[[immutable]]`."""
