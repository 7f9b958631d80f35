"""The reference pages say what the code does: every key, command, option and error is there, and nothing else."""

import re
import tomllib
from pathlib import Path

import pytest

from registry.config_sources import load
from tests.reference import commands, configuration_lines, error_lines, help_of, server_refusals
from tests.running import ROOT

REFERENCE = ROOT / "docs" / "reference"
SETTING = re.compile(r"\b(PIERHEAD_[A-Z_]+)=('[^']*'|\S+)")
BEFORE_THE_REGISTRY = "Before a request reaches the registry"


def test_every_key_stands_in_the_page_with_its_variable_type_default_and_meaning() -> None:
    page = (REFERENCE / "configuration.md").read_text().splitlines()

    assert [line for line in configuration_lines() if line not in page] == []


def test_the_page_has_no_key_that_does_not_exist() -> None:
    page = (REFERENCE / "configuration.md").read_text().splitlines()

    assert {line for line in page if line.startswith("| `")} == set(configuration_lines())


def test_the_page_of_errors_has_those_of_the_registry_and_no_others() -> None:
    page = (REFERENCE / "errors.md").read_text().partition(BEFORE_THE_REGISTRY)[0]

    assert [line for line in page.splitlines() if re.match(r"\| \d", line)] == list(error_lines())


def test_the_page_of_errors_has_what_the_server_refuses_by_itself_and_nothing_else() -> None:
    page = (REFERENCE / "errors.md").read_text().partition(BEFORE_THE_REGISTRY)[2]

    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| \S", page, re.MULTILINE)

    assert {(int(status), code) for status, code in rows} == server_refusals()
    assert len(server_refusals()) > 5


def test_every_command_stands_in_the_page_with_its_help_word_for_word() -> None:
    assert set(commands()) >= {"serve", "check-config", "adopt", "verify", "user add", "token create", "audit verify"}
    assert usages() == {command: help_of(command) for command in {"", *commands()}}


def usages() -> dict[str, str]:
    """Return the indented blocks of the page that begin with `Usage:`, by command."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (REFERENCE / "command-line.md").read_text(), re.MULTILINE)
    texts = ["\n".join(line[4:] for line in block.strip("\n").splitlines()) for block in blocks]
    found = [(text, re.match(r"Usage: pierhead ?([a-z -]*)", text)) for text in texts]
    return {matched[1].strip(): text for text, matched in found if matched}


def test_every_command_shows_an_example() -> None:
    for command, text in usages().items():
        if command:
            assert f"    pierhead {command}" in text.partition("Examples:")[2], command


@pytest.mark.parametrize(
    "document",
    [ROOT / "README.md", *ROOT.glob("docs/how-to/*.md"), *ROOT.glob("deploy/*"), *ROOT.glob("docs/tutorials/*.md")],
    ids=lambda document: document.name,
)
def test_what_documents_tell_users_to_set_is_accepted(document: Path) -> None:
    settings = {name: value.strip("'") for name, value in SETTING.findall(document.read_text())}

    for name, value in settings.items():
        assert load(options={}, environment={name: value}).origins


def test_the_pattern_of_settings_finds_them_in_documents() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "how-to" / "behind-a-reverse-proxy.md").read_text()

    assert {name for name, _ in SETTING.findall(text)} >= {"PIERHEAD_LISTEN", "PIERHEAD_TRUSTED_PROXIES"}


def test_the_example_of_a_file_is_accepted(tmp_path: Path) -> None:
    text = (REFERENCE / "configuration.md").read_text()
    [example] = re.findall(r"^    # pierhead\.toml\n(?:    .*\n|\n(?=    ))+", text, re.MULTILINE)
    file = tmp_path / "pierhead.toml"
    file.write_text("\n".join(line[4:] for line in example.splitlines()))

    found = load(options={}, environment={}, file=file)

    assert found.settings.limits.blob_bytes_max == 20 << 30
    assert found.settings.limits.upload_idle_seconds == 6 * 3600
    assert len(found.origins) == len(tomllib.loads(file.read_text())) - 1 + 2
