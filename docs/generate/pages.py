"""The reference's pages, from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import fields
from checks import CHECKS, ROOT, thing
from sections import DIFFUSION, PROMPTS, PUBLISHED, RECORDS, RUNS, SUITE, Section

from synthgen.common.options import command_of


def cell(text: str) -> str:
    """A text within a table's cell."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without the columns that are empty."""
    lines = [list(row) for row in rows]
    kept = [place for place in range(len(head)) if any(line[place] for line in lines)]
    grid = [[head[place] for place in kept], ["---"] * len(kept)]
    grid += [[cell(line[place]) for place in kept] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in grid)


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: double backquotes become single ones."""
    return inspect.cleandoc(docstring or "").replace("``", "`")


def record(section: Section, links: dict[Any, str]) -> str:
    """A record's section."""
    found = thing(section.path)
    check = CHECKS[section.check] if section.check else None
    if isinstance(found, type):
        told = re.sub(r"; see `.*?`", "", prose(found.__doc__).partition("\n\n")[0])
        rows = [(f"`{name}`", *rest) for name, *rest in fields.rows(found, links, check, section.without)]
    else:
        told, types = "", fields.example_types(ROOT / "tests/golden/records" / section.example)
        rows = [(f"`{name}`", types.get(name, ""), "", "", words) for name, words in written(section, types).items()]
    words = " ".join(filter(None, (section.words, told)))
    return f"## {section.title}\n\n{words}\n\n" + table(("key", "type", "default", "range", "meaning"), rows)


def written(section: Section, order: Iterable[str]) -> dict[str, str]:
    """The keys that functions write, and what comments, and tables of meanings, say of them."""
    meanings: dict[str, str] = {}
    for path in (section.path, *section.also):
        more = thing(path)
        meanings |= {key: words for key, words in (fields.keys(more) if callable(more) else more).items() if words}
    return {key: fragment(meanings[key]) for key in [*order, *(key for key in meanings if key not in order)]}


def fragment(words: str) -> str:
    """A sentence as the other meanings are written: without capital and full stop."""
    return words[0].lower() + words[1:-1] if words.endswith(".") else words


def records(title: str, words: str, sections: Sequence[Section]) -> str:
    """A page of records."""
    links = {thing(section.path): f"suites.md#{section.anchor}" for section in SUITE}
    links |= {thing(section.path): f"#{section.anchor}" for section in sections}
    return "\n\n".join([f"# {title}", words, *(record(section, links) for section in sections)])


def leaves(name: str, command: Any) -> dict[str, Any]:
    """All commands below one, by their full names."""
    if not hasattr(command, "commands"):
        return {name: command}
    return {k: v for part, below in command.commands.items() for k, v in leaves(f"{name} {part}", below).items()}


def command(name: str, leaf: Any) -> str:
    """A command's section: usage, what it does, its arguments and options."""
    context = leaf.make_context(name, [], resilient_parsing=True)
    usage = " ".join(leaf.collect_usage_pieces(context))
    told = [(f"`{names}`", words) for names, words in (parameter.get_help_record(context) for parameter in leaf.params)]
    shown, _, remark = prose(leaf.epilog).removeprefix("Example: ").partition("   ")
    example = f"Example: `{shown}` {remark}".strip()
    parts = [f"## {name}", f"`{name} {usage}`", prose(leaf.help), example, table(("", "meaning"), told)]
    return "\n\n".join(parts)


def commands() -> str:
    """The page of commands and exit codes."""
    programs = {"synthgen": "synthgen.cli.app", "evaluate": f"{RUNS}.cli.app"}
    found: dict[str, Any] = {}
    for program, path in programs.items():
        found |= leaves(program, command_of(thing(path)))
    codes = re.findall(r"^(\d+)  (.+)$", prose(thing("synthgen.common.commands.run").__doc__), re.MULTILINE)
    words = ["# Commands", "## Exit codes", table(("code", "meaning"), [(f"`{code}`", what) for code, what in codes])]
    return "\n\n".join([*words, *(command(name, leaf) for name, leaf in found.items())])


def needed_headers(example: str) -> tuple[list[str], list[str]]:
    """The header keys of a prompt file that it needs, and those that it does not: found by leaving each out."""
    prompts = thing(f"{DIFFUSION}.prompts")
    needed: list[Any] = []
    spare: list[Any] = []
    for key in prompts.KEYS:
        lines = [(n, line) for n, line in enumerate(example.splitlines(), 1) if not line.startswith(f"# {key}:")]
        page = prompts.Page(path=Path("prompts.txt"), sha256="", lines=lines)
        (needed if prompts.parse_prompts(page) is None else spare).append(key)
    return needed, spare


def inputs() -> str:
    """The page of the files that users write."""
    example = (ROOT / "prompts/quickstart.txt").read_text().strip()
    classes = "\n".join((ROOT / "prompts/classes/cifar10.tsv").read_text().splitlines()[:3])
    needed, spare = needed_headers(example)
    header = [
        (f"`{name}`", told) for name, told in fields.meanings(thing(PROMPTS.path)).items() if name in needed + spare
    ]
    left_out = f"May be left out: {', '.join(spare)}." if spare else "None of the header's keys may be left out."
    published = thing(PUBLISHED)
    columns = [(f"`{name}`", "yes" * (name in published.NEEDED), told) for name, told in published.COLUMNS.items()]
    return "\n\n".join(
        [
            "# Files that you write",
            "Suite files have [a page of their own](suites.md).",
            "## Prompt files",
            prose(thing(f"{DIFFUSION}.prompts").__doc__).partition("\n\n")[2],
            f"`prompts/quickstart.txt`:\n\n```text\n{example}\n```",
            table(("header", "meaning"), header),
            left_out,
            f"The beginning of its class list, `prompts/classes/cifar10.tsv`:\n\n```text\n{classes}\n```",
            "## Published scores",
            "`evaluate compare --results FILE.csv` takes a CSV file in UTF-8 whose first line names the columns."
            "  Columns that are not listed are not read.  The arm of the first row is the baseline, unless"
            " `--baseline` names another.",
            table(("column", "needed", "meaning"), columns),
        ]
    )


MAKERS: dict[str, Callable[[], str]] = {
    "commands.md": commands,
    "suites.md": partial(
        records,
        "Suite files",
        "A suite is a TOML file; paths in it are relative to the working directory.  Unknown keys are refused.",
        SUITE,
    ),
    "inputs.md": inputs,
    "records.md": partial(
        records,
        "Records",
        "What sets, directories of runs and reports hold.  Unknown keys are refused, and types are exact.",
        RECORDS,
    ),
}
NOTE = "<!-- Generated from the code by docs/generate (make reference); edits here are lost. -->\n\n"


def pages() -> dict[str, str]:
    """The reference's pages, by file name."""
    return {name: NOTE + make().strip() + "\n" for name, make in MAKERS.items()}
