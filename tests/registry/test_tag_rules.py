"""docs/reference/tag-rules.md has the keys of the tables, and no others."""

import re

import pytest

from registry.tag_rules import ImmutableTags, RetentionRule, TagRule
from tests.running import ROOT

PAGE = (ROOT / "docs" / "reference" / "tag-rules.md").read_text()


@pytest.mark.parametrize(("table", "model"), [("immutable", ImmutableTags), ("retention.rules", RetentionRule)])
def test_every_key_of_a_table_is_told_and_no_other(table: str, model: type[TagRule]) -> None:
    section = PAGE.partition(f"\n## `[[{table}]]`\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)

    assert sorted(told) == sorted(field.alias or name for name, field in model.model_fields.items())
