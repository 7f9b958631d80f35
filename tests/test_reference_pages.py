"""The reference pages say what the code does: every key, command, option and error is there, word for word."""

from tests.reference import configuration_lines, error_lines, help_of, option_lines
from tests.running import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_every_key_stands_in_the_page_with_its_variable_default_and_meaning() -> None:
    page = (REFERENCE / "configuration.md").read_text().splitlines()

    assert [line for line in configuration_lines() if line not in page] == []


def test_the_page_has_no_key_that_does_not_exist() -> None:
    page = (REFERENCE / "configuration.md").read_text().splitlines()

    assert {line for line in page if line.startswith("| `")} == set(configuration_lines())


def test_every_error_stands_in_the_page() -> None:
    page = (REFERENCE / "errors.md").read_text().splitlines()

    assert [line for line in error_lines() if line not in page] == []


def test_every_command_stands_in_the_page_with_its_whole_help() -> None:
    page = (REFERENCE / "command-line.md").read_text()
    commands = {command for command, _option in option_lines()}

    assert commands >= {"serve", "check-config", "adopt", "verify"}
    for command in commands:
        for line in help_of(command).splitlines():
            assert line.strip() in page, f"pierhead {command}: {line}"
