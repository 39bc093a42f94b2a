"""Comparison -> tables: the same values rounded for the page, Markdown and LaTeX, and in full for CSV."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup, escape

from synthgen.common.printing import printable

from ..analysis.results import Comparison
from .effect_tables import checks_table, effects_table, epochs_table, ordered_table
from .score_tables import arms_table, clusters_table, runs_table, worst_table
from .table_model import Table
from .tables import MARKDOWN, written
from .variance_tables import components_table, fit_table, sizes_table


def tables(comparison: Comparison) -> dict[str, Table]:
    """The tables by name: arms and runs always, the others if they have rows.

    Tables of effects against the reference have the names of those against the baseline, with "-reference".
    """
    made = [
        arms_table(comparison),
        effects_table(comparison),
        epochs_table(comparison),
        checks_table(comparison),
        ordered_table(comparison),
    ]
    if comparison.reference:
        against = replace(comparison, baseline=comparison.reference.arm, effects=comparison.reference.effects)
        made += [
            replace(table, name=f"{table.name}-reference") for table in (effects_table(against), checks_table(against))
        ]
    made += [fit_table(comparison), components_table(comparison), sizes_table(comparison)]
    made += [worst_table(comparison), clusters_table(comparison), runs_table(comparison)]
    return {table.name: table for table in made if table.cells}


def table_files(table: Table) -> dict[str, bytes]:
    """File name -> content, as CSV, Markdown and LaTeX."""
    titles = [column.title for column in table.columns]
    rows = [dict(zip(titles, cells, strict=True)) for cells in table.cells]
    caption = printable(" ".join(table.caption.split()))
    needs = "% Needs the package booktabs; names beyond Latin letters need lualatex or xelatex."
    texts = {
        "csv": written([{k: "" if v is None else v for k, v in record.items()} for record in table.records], "csv"),
        "md": f"{caption.translate(MARKDOWN)}\n\n{written(rows, 'markdown')}",
        "tex": f"{needs}\n% {caption}\n{written(rows, 'latex')}",
    }
    return {f"{table.name}.{kind}": f"{text}\n".encode() for kind, text in texts.items()}


def to_html(comparison: Comparison) -> str:
    """The comparison for a notebook: its sentences and the tables of arms and effects, as HTML."""
    made = tables(comparison)
    parts = [f"<p><b>Pre-training image sets compared on {_escaped(comparison.task)}</b></p>"]
    parts += [f"<p>{_escaped(sentence)}</p>" for sentence in comparison.summary]
    for table in (made[name] for name in ("arms", "effects", "effects-reference") if name in made):
        parts.append(f"<table><caption style='text-align:left'>{_escaped(table.caption)}</caption>")
        parts.append(
            f"<thead><tr>{''.join(f'<th>{_escaped(c.title)}</th>' for c in table.columns)}</tr></thead><tbody>"
        )
        parts += [f"<tr>{''.join(f'<td><bdi>{_escaped(cell)}</bdi></td>' for cell in row)}</tr>" for row in table.cells]
        parts.append("</tbody></table>")
    return f"<div style='overflow-x:auto'>{''.join(parts)}</div>"


def _escaped(text: str) -> Markup:
    return escape(printable(text))
