"""Scores of runs, and the blocks that pair them; a block is an architecture x seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluateError

Array = NDArray[np.float64]
RUN, ARCHITECTURE = "independent run", "architecture"  # units; the first is a pre-training run, or what stands for it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunEpochs:
    """Scores of runs at their evaluated epochs, one per row. Raises EvaluateError for impossible rows."""

    arm: NDArray[np.str_]  # [n]
    architecture: NDArray[np.str_]
    seed: NDArray[np.int64]
    epoch: NDArray[np.int64]
    run: NDArray[np.str_]  # digest of the fine-tuning run
    start: NDArray[np.str_]  # what runs that are not independent share: see ``LoadedRun.start``
    id_f1: Array  # fractions
    ood_f1: Array

    def __post_init__(self) -> None:
        shapes = {np.shape(getattr(self, name)) for name in self.__slots__}
        if len(shapes) > 1 or len(next(iter(shapes))) != 1:
            raise EvaluateError(f"columns of shapes {sorted(shapes)} do not form a table: give vectors of one length")
        for name in ("id_f1", "ood_f1"):
            values = np.asarray(getattr(self, name))
            wrong = values[~((values >= 0) & (values <= 1))]
            if wrong.size:
                raise EvaluateError(f"{name} holds {wrong[0]}: give macro-F1 as fractions from 0 to 1")
        seen = set()
        for row in zip(self.arm, self.architecture, self.seed, self.epoch, strict=True):
            if row in seen:
                arm, architecture, seed, epoch = row
                raise EvaluateError(
                    f"arm {str(arm)!r}, {architecture}, seed {seed}, epoch {epoch} appears twice: give each run once"
                )
            seen.add(row)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blocks:
    """The blocks in which every one of some arms has a run; NaN if a run has fewer epochs than others."""

    names: tuple[tuple[str, int], ...]  # [n_blocks], architecture and seed
    arms: tuple[str, ...]
    unpaired: tuple[int, ...]  # [n_arms], runs outside these blocks
    rows: Annotated[NDArray[np.intp], "n_blocks n_arms n_epochs"]  # of the table; -1 if a run has fewer epochs
    id_f1: Annotated[Array, "*r n_blocks n_arms n_epochs"]  # fractions; with the axis r where resamples are scored
    ood_f1: Annotated[Array, "*r n_blocks n_arms n_epochs"]

    def __len__(self) -> int:
        return len(self.names)


def complete_blocks(table: RunEpochs, arms: Sequence[str], *, where: NDArray[np.bool_] | None = None) -> Blocks:
    """The blocks in which all ``arms`` have a run, in the order of architecture and seed.

    ``where`` [n] restricts the table to some of its rows.
    """
    runs: dict[tuple[str, int], dict[str, list[int]]] = {}
    chosen = np.isin(table.arm, list(arms)) & (True if where is None else where)
    for row in np.flatnonzero(chosen).tolist():
        block = runs.setdefault((str(table.architecture[row]), int(table.seed[row])), {})
        block.setdefault(str(table.arm[row]), []).append(row)
    names = tuple(sorted(name for name, block in runs.items() if len(block) == len(arms)))
    most = max((len(rows) for name in names for rows in runs[name].values()), default=0)
    places = np.full((len(names), len(arms), most), -1, np.intp)
    for n, name in enumerate(names):
        for k, arm in enumerate(arms):
            places[n, k, : len(runs[name][arm])] = runs[name][arm]
    unpaired = tuple(sum(arm in block for block in runs.values()) - len(names) for arm in arms)
    id_f1, ood_f1 = (np.where(places < 0, np.nan, scores[places]) for scores in (table.id_f1, table.ood_f1))
    return Blocks(names=names, arms=tuple(arms), unpaired=unpaired, rows=places, id_f1=id_f1, ood_f1=ood_f1)


def averaged(blocks: Blocks) -> Blocks:
    """The blocks with the means over epochs as the scores of the only epoch."""
    id_f1, ood_f1 = (np.nanmean(f1, -1, keepdims=True) for f1 in (blocks.id_f1, blocks.ood_f1))
    return replace(blocks, rows=blocks.rows[..., :1], id_f1=id_f1, ood_f1=ood_f1)


def of_rows(
    scores: Annotated[Array, "n_run_epochs r"], rows: Annotated[NDArray[np.intp], "n_blocks n_arms n_epochs"]
) -> Annotated[Array, "r n_blocks n_arms n_epochs"]:
    """The scores of the rows, NaN where there is none."""
    found = scores[rows]
    found[rows < 0] = np.nan
    return np.moveaxis(found, -1, 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paired:
    """The runs of two arms, paired by block; the first arm is the one that the second is compared with."""

    final: Blocks  # with the epoch that is compared, or with all of them if their mean is
    every: Blocks  # with all evaluated epochs, in the same order
    units: Annotated[NDArray[np.intp], "n_blocks"]  # numbers from 0: blocks that share a pre-training run have one
    architectures: Annotated[NDArray[np.intp], "n_blocks"]  # likewise
    unit: str = RUN  # what a unit is called

    def __len__(self) -> int:
        return len(self.final)

    @property
    def n_units(self) -> int:
        """Independent pre-training runs, or what stands for them."""
        return int(self.units.max()) + 1 if len(self) else 0


def units_of(starts: Sequence[Sequence[str]]) -> NDArray[np.intp]:
    """A number from 0 for each block; blocks with a run from the same weights have one, whatever links them."""
    numbers = list(range(len(starts)))
    first: dict[str, int] = {}
    for block, own in enumerate(starts):
        for start in own:
            old, new = numbers[first.setdefault(start, block)], numbers[block]
            numbers = [old if number == new else number for number in numbers]
    return np.unique(np.array(numbers, np.intp), return_inverse=True)[1].astype(np.intp)
