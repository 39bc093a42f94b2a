"""The section of docs/faults.md that tells of the mutation campaign."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

FILES, FOUND = "<!-- changed files -->\n", "<!-- what they found -->\n"  # between them: this section
OUTCOMES = ("right", "refused", "faults told", "forbidden")
HEAD = """## Changed files

Every kind of file that the commands read was changed, {n} times in all: keys, types, numbers, names and counts of
records, bits and lengths of bytes, headers of tars, chunks of images, columns of tables, entries of archives, and
links, pipes and folders in a file's place.  After a change to a set, checksums were corrected in about half of the
cases, so that what lies behind them was read, too.  The commands that read the file were then run in a sandbox: {forks}
in processes that had imported them, {shells} as a user would.

{told}

| file | changes | right | refused in one line | faults told | forbidden |
|---|---|---|---|---|---|
{table}

"Right" is an answer that is as before, or that follows the changed file where nothing promises more; the numbers
count commands.  In a process that had imported them,
the longest took {seconds:.1f} s and the largest {megabytes} MB more
than it began with; more than 20 s or 1.5 GB would have been forbidden, and for a command run as a user would, more than
60 s or 2.5 GB.  Also forbidden are tracebacks, warnings, a second line of error, control sequences for terminals in
whatever is printed or written, writing elsewhere than asked, and silently different answers (`tests/fuzz_judge.py` says
which are noticed and which cannot be).

{forbidden}
"""


def section(rows: Sequence[dict[str, Any]], *, n: int, seed: int) -> str:
    """The section, in Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow", "pillow", "pydantic", "torch"))
    told = (
        f"`python tests/fuzz.py --n {n} --seed {seed}` (`make fuzz`), on {platform.machine()} with {os.cpu_count()}"
        f" cores, Linux {platform.release()}, Python {platform.python_version()}, {versions}."
    )
    ends = [end for row in rows if not row["shell"] for end in row["ends"]]
    faults = distinct(rows)
    listed = "\n".join(f"- {name} ({len(cases)} times)" for name, cases in faults.items())
    return HEAD.format(
        n=len(rows),
        forks=sum(len(row["ends"]) for row in rows if not row["shell"]),
        shells=sum(len(row["ends"]) for row in rows if row["shell"]),
        told=told,
        table="\n".join(_table(rows)),
        seconds=max((end["seconds"] for end in ends), default=0.0),
        megabytes=max((end["megabytes"] for end in ends), default=0),
        forbidden=f"Forbidden outcomes:\n\n{listed}" if faults else "Forbidden outcomes: none.",
    )


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(sorted(row["subject"] for row in rows))
    lines = [_line(name, [row for row in rows if row["subject"] == name]) for name in names]
    return [*lines, _line("all", rows)]


def _line(name: str, rows: Sequence[dict[str, Any]]) -> str:
    counts = Counter(end["outcome"] for row in rows for end in row["ends"])
    return f"| {name} | {len(rows)} | " + " | ".join(str(counts[one]) for one in OUTCOMES) + " |"


def distinct(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Forbidden outcomes by cause, those that came most often first, each with the rows that had it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        for name in dict.fromkeys(one["name"] for one in row["wrong"]):
            found.setdefault(name, []).append(row)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


def parts(page: str) -> tuple[str, str, str]:
    """A page's own text, the section, and what is kept by hand behind it."""
    own, _, rest = page.partition(FILES)
    middle, _, by_hand = rest.partition(FOUND)
    return own, middle, by_hand


def with_section(page: str, text: str) -> str:
    """A page with another section."""
    own, _, by_hand = parts(page)
    return f"{own}{FILES}\n{text}\n{FOUND}{by_hand}"


def with_own(page: str, text: str) -> str:
    """A page with another text before its section."""
    _, middle, by_hand = parts(page)
    return f"{text}{FILES}{middle}{FOUND}{by_hand}" if middle or by_hand else text
