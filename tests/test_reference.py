"""docs/reference: made from the code as it is, and complete."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from synthgen.cli import app as synthgen_app
from synthgen.common.options import command_of
from synthgen_evaluate.cli import app as evaluate_app
from synthgen_evaluate.design.arms import ArmSpec, Weights
from synthgen_evaluate.design.labelling import Labels
from synthgen_evaluate.design.select import Select
from synthgen_evaluate.design.suite import Suite
from synthgen_evaluate.recipe import Recipe

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs/reference"


def test_the_reference_is_what_the_code_gives(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs/generate", "--out", tmp_path], check=True, timeout=120)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    stored = {path.name: path.read_text() for path in REFERENCE.iterdir()}
    assert stored == made, "run make reference"


def options(name: str, command: Any) -> list[tuple[str, str]]:
    if hasattr(command, "commands"):
        return [found for part, below in command.commands.items() for found in options(f"{name} {part}", below)]
    return [(name, word) for one in command.params for word in one.opts if word.startswith("-")]


@pytest.mark.parametrize(("program", "app"), [("synthgen", synthgen_app), ("evaluate", evaluate_app)])
def test_every_option_of_every_command_is_in_it(program: str, app: typer.Typer) -> None:
    sections = (REFERENCE / "commands.md").read_text().split("\n## ")
    by_command = {section.partition("\n")[0]: section for section in sections}
    found = options(program, command_of(app))
    assert len(found) > 30
    for name, option in found:
        assert f"`{option}" in by_command[name], (name, option)


VARIANTS = [variant for union in (Weights, Select, Labels) for variant in get_args(union)]


@pytest.mark.parametrize("record", [Suite, Recipe, ArmSpec, *VARIANTS])
def test_every_key_of_a_suite_is_in_it_and_says_what_it_means(record: Any) -> None:
    rows = [line.strip("| ").split(" | ") for line in (REFERENCE / "suites.md").read_text().splitlines()]
    for field in fields(record):
        if field.name in getattr(record, "INNER", ()):
            continue
        row = next(row for row in rows if row[0] == f"`{field.name}`" and len(row) >= 4)
        assert len(row[-1]) > 5, field.name
