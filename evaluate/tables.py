"""Tables as text, CSV, Markdown or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import EvaluateError

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    }
)


def written(rows: Sequence[Mapping[str, Any]], layout: str) -> str:
    """Rows of the same keys as a table; raises EvaluateError where the layout is none of FORMATS."""
    if layout not in FORMATS:
        raise EvaluateError(f"--format {layout}: one of {', '.join(FORMATS)}")
    header = list(rows[0])
    return FORMATS[layout](header, [[_cell(row[key]) for key in header] for row in rows])


def _cell(value: Any) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _text(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _csv(header: list[str], rows: list[list[str]]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows([header, *rows])
    return sink.getvalue().rstrip("\n")


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex(header: list[str], rows: list[list[str]]) -> str:
    """A booktabs tabular."""
    head, *body = (" & ".join(cell.translate(LATEX) for cell in line) + r" \\" for line in [header, *rows])
    begin = rf"\begin{{tabular}}{{{'l' * len(header)}}}"
    return "\n".join([begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"])


FORMATS = {"text": _text, "csv": _csv, "markdown": _markdown, "latex": _latex}
