"""Iterated function systems: the value, the published CSV format, the published weight variants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

LONGEST = 1 << 20  # bytes in a category file; the published ones have under 1,000
MAX_MAPS = 255  # per system: chaos.orbit counts them in one byte; the published ones have 2 to 7


class FractalError(ValueError):
    """Input from which no fractal can be drawn; its message is one line for the user."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IFS:
    """An iterated function system: x' = ax + by + e, y' = cx + dy + f, map j with probability p_j."""

    maps: Annotated[NDArray[np.float64], "n_maps 6"]  # a, b, c, d, e, f
    probs: Annotated[NDArray[np.float64], "n_maps"]  # sums to one

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """Cumulative probabilities, float64 [n_maps], added up one by one as the published code does."""
        return np.cumsum(self.probs)

    def weighted(self, weight: NDArray[np.float64]) -> IFS:
        """The variant with a..f multiplied by ``weight`` [6]; the probabilities are unchanged."""
        return IFS(maps=self.maps * weight, probs=self.probs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Category:
    """A named IFS: one class of a fractal dataset."""

    name: str
    ifs: IFS


@lru_cache
def weight_table(step: float = 0.4) -> Annotated[NDArray[np.float64], "25 6"]:
    """The 25 published weight rows, float64 [25, 6], read-only.

    Each row changes one of a..f by -2, -1, 0, +1 or +2 steps; the unchanged row occurs once, as
    the third (`weights/weights_<step>.csv` of the published renderer, steps 0.1 to 0.5).
    """
    if step not in (0.1, 0.2, 0.3, 0.4, 0.5):
        raise FractalError(f"weight step {step} is not one of the published 0.1, 0.2, 0.3, 0.4, 0.5")
    rows = []
    for parameter in range(6):
        for steps in (-2, -1, 0, 1, 2):
            if steps == 0 and parameter > 0:
                continue
            row = np.ones(6)
            row[parameter] = round(1 + steps * step, 1)
            rows.append(row)
    table = np.array(rows)
    table.setflags(write=False)
    return table


def write_csv(path: Path, ifs: IFS) -> None:
    """Write one row a,b,c,d,e,f,p per map, with the digits of the published files (they read back exactly)."""
    np.savetxt(path, np.column_stack([ifs.maps, ifs.probs]), delimiter=",")


def _text(path: Path) -> str:
    """A file of a few lines; raises FractalError if it is a pipe, which would block forever, or far larger."""
    try:
        if not path.is_file():
            raise FractalError(f"{path}: not a regular file")
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise FractalError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > LONGEST:
        raise FractalError(f"{path}: more than {LONGEST} bytes; expected one row per map")
    return data.decode("utf-8", errors="replace")


def read_csv(path: Path) -> IFS:
    """Read a published category file.  Raises FractalError naming file, row and value."""
    maps: list[list[float]] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.split(",")
        if len(fields) != 7:
            raise FractalError(f"{path}, row {number}: {len(fields)} columns, expected 7 (a,b,c,d,e,f,p)")
        row = []
        for field in fields:
            try:
                value = float(field)
            except ValueError:
                raise FractalError(f"{path}, row {number}: {field.strip()!r} is not a number") from None
            if not np.isfinite(value):
                raise FractalError(f"{path}, row {number}: {field.strip()} is not a finite number")
            row.append(value)
        if not 0 <= row[6] <= 1:
            raise FractalError(f"{path}, row {number}: probability {row[6]:g} is not between 0 and 1")
        maps.append(row)
    if not maps:
        raise FractalError(f"{path}: no rows; expected a,b,c,d,e,f,p in each row")
    if len(maps) > MAX_MAPS:
        raise FractalError(f"{path}: {len(maps)} rows; at most {MAX_MAPS}")
    table = np.array(maps)
    total = float(table[:, 6].sum())
    if abs(total - 1) > 1e-6:
        raise FractalError(f"{path}: probabilities sum to {total:g}, not to 1")
    return IFS(maps=table[:, :6].copy(), probs=table[:, 6].copy())


def read_categories(directory: Path) -> list[Category]:
    """Read all ``*.csv`` files of a folder in name order; a file's stem names its category."""
    if not directory.is_dir():
        raise FractalError(f"{directory}: no such folder of category CSVs")
    files = sorted(directory.glob("*.csv"))
    if not files:
        raise FractalError(f"{directory}: contains no .csv file; expected one per category (rows of a,b,c,d,e,f,p)")
    return [Category(name=file.stem, ifs=read_csv(file)) for file in files]
