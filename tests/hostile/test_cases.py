"""The page of hostile clients and the tests agree: no case without a test, no test for a case that is not there."""

import ast
import re
from pathlib import Path

import pytest

from tests.running import ROOT

PAGE = ROOT / "docs/explanation/hostile-clients.md"
ROW = re.compile(r"^\| (H[0-9]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
KEY = re.compile(r"`limits\.([a-z_]+)`")
CASES = range(1, 55)


def cases_of_the_page() -> list[str]:
    return [row[0] for row in ROW.findall(PAGE.read_text())]


def cases_of_tests() -> dict[str, list[str]]:
    """Case to the tests that name it, from the sources: a test that is skipped or deselected counts as well."""
    found: dict[str, list[str]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for case in map(_case, node.decorator_list):
                    if case is not None:
                        found.setdefault(case, []).append(f"{path.name}::{node.name}")
    return found


def _case(decorator: ast.expr) -> str | None:
    match decorator:
        case ast.Call(func=ast.Attribute(attr="case"), args=[ast.Constant(value=str(name))]):
            return name
    return None


def test_the_page_has_every_case_once_and_in_order() -> None:
    assert cases_of_the_page() == [f"H{number}" for number in CASES]


def test_every_case_of_the_page_has_a_test_and_every_test_a_case_of_the_page() -> None:
    assert sorted(cases_of_tests()) == sorted(cases_of_the_page())


def test_every_test_of_hostile_clients_names_its_case() -> None:
    named = {test for tests in cases_of_tests().values() for test in tests}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        tests = re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
        assert tests
        assert {f"{path.name}::{test}" for test in tests} <= named


def test_limits_that_the_page_names_exist() -> None:
    from registry.config import Limits

    named = set(KEY.findall(PAGE.read_text()))

    assert named <= Limits.model_fields.keys()
    assert len(named) > 10


@pytest.mark.parametrize("case", [f"H{number}" for number in CASES])
def test_a_case_is_told_in_words(case: str) -> None:
    rows = {row[0]: row[1:] for row in ROW.findall(PAGE.read_text())}

    what, answer, bound = rows[case]
    assert len(what.split()) >= 2
    assert len(answer.split()) >= 5
    assert bound.strip()
