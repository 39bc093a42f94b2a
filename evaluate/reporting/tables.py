"""Tables as text, CSV, Markdown or LaTeX; a cell is one line of printable characters (see synthgen.common.printing)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from synthgen.common.printing import printable

from ..errors import EvaluateError

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",  # these three are other characters in LaTeX's default font encoding
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after the end of a line, these two would be its arguments
        "*": "{*}",
        "−": "$-$",
        "±": r"$\pm$",
        "²": "$^2$",
        "→": r"$\to$",
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    }
)
MARKDOWN = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", **{mark: f"\\{mark}" for mark in "\\`*_[]|~$"}})
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def written(rows: Sequence[Mapping[str, Any]], layout: str) -> str:
    """Rows with the same keys as a table; raises EvaluateError if the layout is not one of FORMATS."""
    if layout not in FORMATS:
        raise EvaluateError(f"--format {layout}: one of {', '.join(FORMATS)}")
    header = list(rows[0])
    return FORMATS[layout](header, [[_cell(row[key]) for key in header] for row in rows])


def _cell(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _text(header: list[str], rows: list[list[str]]) -> str:
    lines = [[printable(cell) for cell in line] for line in [header, *rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _csv(header: list[str], rows: list[list[str]]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(
        [_harmless(printable(cell)) for cell in line] for line in [header, *rows]
    )
    return sink.getvalue().rstrip("\n")


def _harmless(cell: str) -> str:
    """A cell with an apostrophe before anything that spreadsheets would run as a formula.

    The characters are those of OWASP, "CSV Injection"; plain numbers stay as they are.
    """
    return f"'{cell}" if cell[:1] in {*"=+-@\t\r\n"} and not NUMBER.fullmatch(cell) else cell


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table of GitHub Flavored Markdown; HTML and Markdown in cells are shown as text."""
    head, *body = ([_line(cell).translate(MARKDOWN) for cell in line] for line in [header, *rows])
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(header), *body])


def _latex(header: list[str], rows: list[list[str]]) -> str:
    """A booktabs tabular."""
    head, *body = (" & ".join(_line(cell).translate(LATEX) for cell in line) + r" \\" for line in [header, *rows])
    begin = rf"\begin{{tabular}}{{{'l' * len(header)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


def _line(cell: str) -> str:
    """A cell on one line: an empty line would end a paragraph, and any would end a row of Markdown."""
    return printable(" ".join(cell.split()))


FORMATS = {"text": _text, "csv": _csv, "markdown": _markdown, "latex": _latex}
