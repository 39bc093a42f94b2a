"""README and docs: what they show is taken by the programs, and what they link to exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from synthgen.cli import app as synthgen_app
from synthgen.common.logs import setting
from synthgen.common.options import command_of
from synthgen_evaluate.cli import app as evaluate_app

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
}
README = PAGES["README.md"]
COMMANDS = {name: command_of(app) for name, app in (("synthgen", synthgen_app), ("evaluate", evaluate_app))}


def blocks(text: str, language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for name, code in fenced if name == language]


def leaves(name: str, command: Any) -> dict[str, Any]:
    """All commands below one, by their full names."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {k: v for part, below in command.commands.items() for k, v in leaves(f"{name} {part}", below).items()}


def shown(text: str) -> list[str]:
    """The commands of synthgen and evaluate in blocks of code, on one line each, with numbers for variables."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", "").splitlines()]
    ours = [re.sub(r"^accelerate .* -m synthgen_evaluate", "evaluate", line.strip()) for line in lines]
    return [re.sub(r"\$\w+", "1", line) for line in ours if line.split(" ")[0] in COMMANDS]


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LEAVES = {name: leaf for program, group in COMMANDS.items() for name, leaf in leaves(program, group).items()}
LINES = list(dict.fromkeys(line for text in PAGES.values() for line in shown(text)))
MAKE = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.strip().split(" ")[0] in COMMANDS]


@pytest.mark.parametrize("line", [*LINES, *map(str.strip, MAKE)])
def test_every_command_shown_is_one_that_the_program_takes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setting, "debug", False)  # some examples switch it on
    (name,) = (name for name in LEAVES if line.startswith(f"{name} "))
    arguments = shlex.split(line.removeprefix(f"{name} "), comments=True)
    LEAVES[name].make_context(name, arguments)  # raises where an option or argument does not exist


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_is_shown_and_has_an_example(name: str) -> None:
    assert any(line.startswith(f"{name} ") for line in LINES), f"neither README nor a page of docs shows {name}"
    assert LEAVES[name].help
    assert f"Example: {name} " in LEAVES[name].epilog


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", PAGES[page]):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link
    for path in re.findall(r"`((?:evaluate|prompts|synthgen|tests|docs)/[\w/.]+\.\w+)`", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_the_readme_is_short_and_keeps_to_two_commands_of_set_up() -> None:
    assert len(README.splitlines()) <= 160
    assert "make quickstart\nmake test" in README


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w/]+\.md)\)", README))
    assert linked >= PAGES.keys() - {"README.md"}


def test_the_python_of_the_pages_runs() -> None:
    (in_a_notebook,) = blocks(PAGES["docs/compare.md"], "python")
    exec(in_a_notebook.partition("\n\n")[0], {})  # the rest needs finished runs
    (code,) = blocks(PAGES["docs/fractals.md"], "python")
    names: dict[str, Any] = {}
    exec(code.replace("search(1000", "search(2").replace("length=1_000_000", "length=10"), names)
    image, label = names["published"][1999]
    assert (tuple(image.shape), label) == ((3, 224, 224), 1)
    assert len(names["fresh"]) == 10
