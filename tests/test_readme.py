import re
import shlex
from pathlib import Path
from typing import Any

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


def leaves(name: str, command: Any) -> dict[str, Any]:
    """All commands below one, by their full names."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {k: v for part, below in command.commands.items() for k, v in leaves(f"{name} {part}", below).items()}


LEAVES = {name: leaf for program, group in COMMANDS.items() for name, leaf in leaves(program, group).items()}


@pytest.mark.parametrize("line", [*LINES, *map(str.strip, MAKE)])
def test_every_command_shown_is_one_that_the_program_takes(line: str) -> None:
    (name,) = (name for name in LEAVES if line.startswith(f"{name} "))
    arguments = shlex.split(line.removeprefix(f"{name} "), comments=True)
    LEAVES[name].make_context(name, arguments)  # raises where an option or argument does not exist


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_is_in_the_readme_and_has_an_example(name: str) -> None:
    assert re.search(rf"\b{name}\b", README), f"{name} is not in the README"
    assert LEAVES[name].help
    assert f"Example: {name} " in LEAVES[name].epilog


def test_every_file_that_the_readme_names_is_there() -> None:
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", README) + re.findall(r"`(evaluate/suites/\w+\.toml)`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_keeps_to_two_commands_of_set_up() -> None:
    assert "make quickstart\nmake test" in README


def test_the_python_of_the_readme_runs() -> None:
    code, in_a_notebook = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    exec(in_a_notebook.partition("\n\n")[0], {})  # the rest needs finished runs
    names: dict[str, Any] = {}
    exec(code.replace("search(1000", "search(2").replace("length=1_000_000", "length=10"), names)
    image, label = names["published"][1999]
    assert (tuple(image.shape), label) == ((3, 224, 224), 1)
    assert len(names["fresh"]) == 10
