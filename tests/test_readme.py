import re
import shlex
from pathlib import Path

import pytest
import typer

from synthgen.cli import app as synthgen_app
from synthgen_evaluate.cli import app as evaluate_app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = {name: typer.main.get_command(app) for name, app in (("synthgen", synthgen_app), ("evaluate", evaluate_app))}
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.split(" ")[0] in COMMANDS]
MAKE = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.strip().split(" ")[0] in COMMANDS]


@pytest.mark.parametrize("line", [*LINES, *map(str.strip, MAKE)])
def test_every_command_shown_is_one_that_the_program_takes(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    group = COMMANDS[program]
    command = group.get_command(group.make_context(program, [name]), name)  # type: ignore[attr-defined]
    assert command is not None, name
    command.make_context(name, arguments)  # raises where an option or argument does not exist


@pytest.mark.parametrize("program", COMMANDS)
def test_every_command_is_in_the_readme_and_has_an_example(program: str) -> None:
    for name, command in COMMANDS[program].commands.items():  # type: ignore[attr-defined]
        assert re.search(rf"\b{program} {name}\b", README), f"{program} {name} is not in the README"
        assert command.help
        assert f"{program} {name} " in command.epilog


def test_every_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(r"`(evaluate/suites/\w+\.toml)`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_keeps_to_two_commands_of_set_up() -> None:
    assert "make quickstart\nmake test" in README
