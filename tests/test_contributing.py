import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_job_that_it_names_is_in_the_makefile() -> None:
    jobs = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", TEXT)) <= jobs


@pytest.mark.parametrize("name", re.findall(r"`(\w+\.py|tests/[\w.]+/?)`|\]\(([\w./]+)\)", TEXT))
def test_every_file_that_it_names_exists(name: tuple[str, str]) -> None:
    path = name[0] or name[1]
    if path != "tests/test_NAME.py":
        assert (ROOT / path).exists() or (ROOT / "tests" / path).exists()


def test_the_hooks_run_what_make_lint_runs() -> None:
    recipes = re.findall(r"(?ms)^(?:lint|types-\w+): .*?\n(?=\n)", (ROOT / "Makefile").read_text())
    lint = [line.strip() for recipe in recipes for line in recipe.splitlines()[1:] if "$(MAKE)" not in line]
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    commands = ["ruff check .", "ruff format --check .", "mypy", "mypy --config-file tests/mypy.ini"]
    assert lint == commands
    assert hooks == ["ruff check", "ruff format", *commands[2:]]
