"""A table in two forms, from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..analysis.formatting import NONE
from ..analysis.results import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column for readers."""

    title: str  # with the unit
    kind: str  # "name", "number", "code" or "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in two forms: rounded for readers, and in full for programs."""

    name: str  # of its files
    caption: str
    columns: tuple[Column, ...]
    cells: tuple[tuple[str, ...], ...]  # [rows][columns]
    arms: tuple[str | None, ...]  # [rows], the arm whose mark is shown before the row
    records: tuple[Mapping[str, Any], ...]  # for CSV; scores are fractions, differences percentage points


def table_of(
    name: str,
    caption: str,
    columns: Sequence[tuple[str, str]],
    rows: Iterable[tuple[str | None, Sequence[str], Mapping[str, Any]]],
) -> Table:
    """A table of ``rows`` of arm, cells and record; columns without any value are left out for readers."""
    rows = list(rows)
    kept = [i for i in range(len(columns)) if any(cells[i] not in ("", NONE) for _, cells, _ in rows)]
    return Table(
        name=name,
        caption=caption,
        columns=tuple(Column(title=columns[i][0], kind=columns[i][1]) for i in kept),
        cells=tuple(tuple(cells[i] for i in kept) for _, cells, _ in rows),
        arms=tuple(arm for arm, _, _ in rows),
        records=tuple(record for _, _, record in rows),
    )


def interval(name: str, value: Estimate) -> dict[str, float | None]:
    """An estimate and its ends as columns of a record."""
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def capital(words: str) -> str:
    """The text with a capital first letter."""
    return words[:1].upper() + words[1:]
