"""The tables of the configuration that are about tags: which of them never move, and which of them are kept."""

from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from registry.auth.globs import Globs
from registry.quantities import Count, Seconds
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


class RetentionRule(TagRule):
    """Which tags, and which manifests without a tag, are kept: `[[retention.rules]]`.

    A tag is dropped if a rule covers it that has any `keep_...`, and none of them keeps it. With `expires_label`, an
    image that has the label says itself how long its tag is kept.
    """

    keep_last: Count | None = Field(None, ge=0)
    keep_newer_than: Seconds | None = Field(None, gt=0)
    keep_pulled_within: Seconds | None = Field(None, gt=0)
    keep_matching: Texts = ()
    keep_semver_majors: Count | None = Field(None, ge=1)
    keep_semver_minors: Count | None = Field(None, ge=1)
    keep_semver_patches: Count | None = Field(None, ge=1)
    untagged_after: Seconds | None = Field(None, ge=0)
    expires_label: str | None = Field(None, min_length=1, max_length=255)
    immutable: bool = False

    @field_validator("keep_matching")
    @classmethod
    def _check_matching(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        TagPatterns(texts)
        return texts

    @model_validator(mode="after")
    def _check_purpose(self) -> Self:
        if not self.drops and self.untagged_after is None and self.expires_label is None:
            raise ValueError("the rule drops nothing: say at least one of keep_..., untagged_after and expires_label")
        return self

    @property
    def has_semver(self) -> bool:
        """Whether it keeps the newest of lines of versions."""
        counts = (self.keep_semver_majors, self.keep_semver_minors, self.keep_semver_patches)
        return any(count is not None for count in counts)

    @property
    def drops(self) -> bool:
        """Whether a tag is dropped that nothing keeps."""
        limits = (self.keep_last, self.keep_newer_than, self.keep_pulled_within)
        return any(limit is not None for limit in limits) or bool(self.keep_matching) or self.has_semver
