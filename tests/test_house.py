"""The house keeps its own rules: what is locked is locked, what is written down exists."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import conftest
from tests.running import ROOT, eventually, free_port, start
from tests.tools import PINNED, find_tool, how_to_get, pinned_tools

LOCKS = ["requirements.txt", "requirements-dev.txt"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")


def requirements(lock: str) -> dict[str, list[str]]:
    """Return name to hashes, for every requirement in a lock file."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = (line.split() for line in text.splitlines() if line and not line.lstrip().startswith("#"))
    return {words[0]: words[1:] for words in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_to_one_version_by_hash(lock: str) -> None:
    locked = requirements(lock)

    assert len(locked) > 10
    for requirement, hashes in locked.items():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", requirement)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word) for word in hashes)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_address_so_that_a_mirror_serves_as_well(lock: str) -> None:
    text = (ROOT / lock).read_text()

    assert "://" not in text
    assert "-url" not in text
    assert "--find-links" not in text


def test_tests_run_with_the_very_versions_that_are_deployed() -> None:
    deployed, developed = requirements("requirements.txt"), requirements("requirements-dev.txt")

    assert {name: developed.get(name) for name in deployed} == deployed


def test_every_direct_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for group in project["optional-dependencies"].values() for name in group]

    def names(wanted: list[str]) -> set[str]:
        return {re.split(r"[^a-z0-9-]", name)[0] for name in wanted}

    assert names(project["dependencies"]) <= names(list(requirements("requirements.txt")))
    assert names(extras) <= names(list(requirements("requirements-dev.txt")))


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))

    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert {"run", "test", "check", "conformance", "bench", "lock"} <= phony
    assert set(re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE)) == phony


def test_documents_name_only_make_targets_that_exist() -> None:
    phony = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))

    for document in DOCUMENTS:
        named = set(re.findall(r"(?:`|^    |^)make ([a-z]+)", document.read_text(), re.MULTILINE))
        assert named <= phony, document


def test_links_between_documents_lead_somewhere() -> None:
    checked = 0
    for document in DOCUMENTS:
        for target in LINK.findall(document.read_text()):
            if "://" in target or target.startswith(("#", "mailto:")):
                continue
            assert (document.parent / target.partition("#")[0]).exists(), f"{document}: {target}"
            checked += 1
    assert checked > 10


def test_the_index_of_the_documents_is_complete() -> None:
    docs = ROOT / "docs"
    linked = {(docs / target).resolve() for target in LINK.findall((docs / "index.md").read_text())}

    missing = [page for page in docs.glob("*/*.md") if page.resolve() not in linked]

    assert not missing


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = sorted(page.name[:4] for page in (ROOT / "docs" / "decisions").glob("*.md"))

    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


def test_the_changelog_knows_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_gate_is_a_script_that_bash_can_read() -> None:
    gate = ROOT / ".ci" / "run"

    assert os.access(gate, os.X_OK)
    subprocess.run(["bash", "-n", gate], check=True)


def test_go_programs_are_pinned_to_exact_versions() -> None:
    modules = pinned_tools()

    assert {"conformance", "crane", "oras", "regctl", "registry"} <= set(modules)
    for module in modules.values():
        assert re.fullmatch(r"[a-z0-9./-]+@v\d+\.\d+\.\d+(-[0-9a-z.-]+)?", module)
    assert PINNED.name in (ROOT / "Makefile").read_text()


def test_a_common_word_on_the_path_is_not_taken_for_a_pinned_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impostor = tmp_path / "registry"
    impostor.write_text("#!/bin/sh\n")
    impostor.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_tool("registry") != str(impostor)


def test_a_missing_program_skips_its_test_with_the_line_that_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no-such-program is missing: apt-get install"):
        conftest.tool_or_skip("no-such-program")
    assert how_to_get("crane") == "crane is missing: make tools"


def test_a_missing_program_fails_its_test_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="no-such-program is missing"):
        conftest.tool_or_skip("no-such-program")


def test_eventually_returns_the_first_true_answer_and_gives_up_in_time() -> None:
    answers = iter([0, 0, 7, 8])

    assert eventually(lambda: next(answers), seconds=5) == 7
    with pytest.raises(AssertionError, match=r"not within 0\.1 s"):
        eventually(lambda: False, seconds=0.1)


def test_free_ports_can_be_bound_at_once() -> None:
    assert 1024 <= free_port() < 65536


def test_a_server_that_cannot_start_is_told_with_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="exit code"):
        start(tmp_path / "data", log=tmp_path / "log", arguments=["--no-such-option"])
    assert "no-such-option" in (tmp_path / "log").read_text()


def test_the_floors_can_be_imported_one_without_the_other() -> None:
    code = "import sys, storage.drivers; sys.exit(any(m.split('.')[0] == 'registry' for m in sys.modules))"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
