"""`docs/commands.md` names every command, every option, every exit code, and nothing that is not there."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.commands import run_command
from typer.main import get_command

from cli.main import app
from cli.output import ExitCode

PAGE = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """Return every command by its words, those of groups too."""
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands_of(command, f"{prefix}{name} ")
        else:
            found[prefix + name] = command
    return found


COMMANDS = commands_of(get_command(app))

_HEADING = re.compile(r"^### `esclusa (?P<name>[a-z]+(?: [a-z]+)*)[^`]*`$", re.MULTILINE)
_STARTS = [(match["name"], match.end()) for match in _HEADING.finditer(PAGE)]
SECTIONS = {name: PAGE[start:].partition("\n##")[0] for name, start in _STARTS}


def options_of(command: str) -> set[str]:
    parameters = COMMANDS[command].params
    return {word for parameter in parameters for word in parameter.opts if word.startswith("--")} - {"--help"}


def test_every_command_has_a_section_and_no_other_has() -> None:
    assert [name for name, _ in _STARTS] == list(dict.fromkeys(SECTIONS))
    assert set(SECTIONS) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_options_of_a_command_are_those_of_its_section(command: str) -> None:
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", SECTIONS[command]))

    assert told == options_of(command)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_every_option_has_help(command: str) -> None:
    assert COMMANDS[command].help
    assert all(getattr(parameter, "help", None) for parameter in COMMANDS[command].params)
    assert run_command(*command.split(), "--help").exit_code == ExitCode.OK


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"up", "down", "discover", "schema"}))
def test_whatever_prints_data_prints_it_as_json_too(command: str) -> None:
    assert "--json" in options_of(command)


def test_the_table_of_exit_codes_is_whole() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert told == set(ExitCode)
