"""What the rules say of tags: the first rule that covers one decides, and nothing but a rule drops anything."""

import pytest
from pydantic import ValidationError

from registry.names import Tag
from registry.retention.verdicts import Rules, TaggedImage, parse_label
from registry.tag_rules import RetentionRule
from storage.digest import Digest

NOW = 1_000_000.0
DAY = 86400.0
DIGEST = Digest.of(b"manifest")
SIGNATURE = f"sha256-{DIGEST.hex}.sig"


def rule(**fields: object) -> RetentionRule:
    return RetentionRule.model_validate({"repositories": "team/**", **fields})


def tagged(tag: str, days: float = 0.0, *, pulled_days: float | None = None, lasts: float | None = None) -> TaggedImage:
    pulled = None if pulled_days is None else NOW - pulled_days * DAY
    return TaggedImage(Tag(tag), DIGEST, NOW - days * DAY, pulled, lasts)


def dropped(
    rules: list[RetentionRule],
    *images: TaggedImage,
    repository: str = "team/app",
    immutable: str | None = None,
    holds: bool = True,
) -> list[str]:
    verdicts = Rules(rules).judge(
        repository,
        images,
        now=NOW,
        immutable=lambda _repository, tag: "immutable rule 1" if tag == immutable else None,
        holds=lambda _digest: holds,
    )
    assert [verdict.image for verdict in verdicts] == list(images)
    assert all(verdict.why for verdict in verdicts)
    return [verdict.image.tag for verdict in verdicts if not verdict.is_kept]


def test_the_last_are_kept_by_the_time_they_were_set() -> None:
    images = [tagged("a", 3), tagged("b", 1), tagged("c", 2), tagged("d", 4)]

    assert dropped([rule(keep_last=2)], *images) == ["a", "d"]
    assert dropped([rule(keep_last=0)], *images) == ["a", "b", "c", "d"]


def test_any_of_several_reasons_keeps_a_tag() -> None:
    rules = [rule(keep_newer_than="2d", keep_matching=["v*"], keep_last=1, keep_semver_patches=1)]
    images = [tagged("old", 9), tagged("new", 1), tagged("v-old", 9), tagged("1.0.0", 8), tagged("1.0.1", 9)]

    assert dropped(rules, *images) == ["old", "1.0.0"]


def test_a_tag_that_was_pulled_lately_or_may_have_been_is_kept() -> None:
    images = [tagged("a", 90, pulled_days=3), tagged("b", 90, pulled_days=40), tagged("unknown", 90)]

    assert dropped([rule(keep_pulled_within="30d")], *images) == ["b"]


def test_the_first_rule_that_covers_a_tag_decides_alone() -> None:
    rules = [rule(tags="v*", keep_matching="*"), rule(tags=["*"], **{"except": "latest"}, keep_last=1)]
    images = [tagged("v1", 100), tagged("latest", 90), tagged("x", 80), tagged("y", 70)]

    assert dropped(rules, *images) == ["x"]


def test_what_no_rule_covers_stays() -> None:
    assert dropped([rule(keep_last=0)], tagged("v1", 100), repository="other/app") == []
    assert dropped([rule(keep_last=0)], tagged("v1", 100), repository="team") == []
    assert dropped([], tagged("v1", 100)) == []


def test_a_rule_about_untagged_manifests_alone_drops_no_tag() -> None:
    assert dropped([rule(untagged_after="7d")], tagged("v1", 100)) == []


def test_an_image_that_says_how_long_it_lasts_decides_itself_and_only_where_it_may() -> None:
    images = [tagged("a", 3, lasts=2 * DAY), tagged("b", 1, lasts=2 * DAY), tagged("c", 90)]

    assert dropped([rule(expires_label="expires-after")], *images) == ["a"]
    assert dropped([rule(expires_label="expires-after", keep_last=0)], *images) == ["a", "c"]
    assert dropped([rule(keep_last=3)], *images) == []


def test_an_immutable_tag_is_dropped_only_by_a_rule_that_says_so() -> None:
    images = [tagged("v1", 100), tagged("v2", 100)]

    assert dropped([rule(keep_last=0)], *images, immutable="v1") == ["v2"]
    assert dropped([rule(keep_last=0, immutable=True)], *images, immutable="v1") == ["v1", "v2"]


def test_signatures_stay_with_what_they_sign_and_count_for_nothing() -> None:
    images = [tagged("v1", 9), tagged(SIGNATURE, 1)]

    assert dropped([rule(keep_last=1)], *images) == []
    assert dropped([rule(keep_last=1)], *images, holds=False) == [SIGNATURE]
    assert dropped([rule(untagged_after=0)], *images, holds=False) == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("72h", 72 * 3600),
        ("2w", 14 * DAY),
        ("1d12h", 1.5 * DAY),
        ("90s", 90),
        ("", None),
        ("soon", None),
        ("1.5h", None),
    ],
)
def test_labels_say_times_as_they_do_elsewhere(text: str, seconds: float | None) -> None:
    assert parse_label(text) == seconds


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"keep_last": -1},
        {"keep_newer_than": 0},
        {"keep_lst": 1},
        {"keep_matching": "["},
        {"tags": ["a/b"], "keep_last": 1},
    ],
)
def test_a_rule_that_does_nothing_or_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        rule(**fields)
