"""Whether OOD over ID macro-F1 is a straight line on a scale: a test of the quadratic term.

Effective robustness is measured from a straight line. Where the points lie on a curve, arms of different ID macro-F1
seem to differ although one curve holds them all. The test is of the second of two coefficients, of ID macro-F1 and of
its square, beside the effects that the line has: of arms between models, of runs within runs (the regression test for
lack of fit; Draper and Smith 1998, "Applied Regression Analysis", chapter 12). Its error is the jackknife's without
each architecture, or without each block if there are fewer than three, with Student's t of one less than their number
(MacKinnon, Nielsen and Webb 2023, doi 10.1002/jae.2969).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from .estimators import Line
from .pairing import Array, RunEpochs
from .results import Estimate, LineFit
from .scoring import Scored
from .significance import LEVEL
from .trends import SAME_ID, Scale, Slope, from_scale, to_scale

FEWEST = 3  # groups that are left out in turn
TOO_FEW = "too few models or epochs to tell a curve from a line"
FLAT = 1e-8  # of the spread of squared ID scores: what is left of them beyond a line; less says nothing of a curve


def line_fits(scored: Scored) -> tuple[LineFit, ...]:
    """The test for either line on every scale, over all finished runs; the scale of the comparison comes first."""
    scales = sorted(get_args(Scale), key=lambda scale: scale != scored.line.scale)
    return tuple(
        LineFit(
            line=slope,
            scale=scale,
            bend=bend(scored.table, scored.compared, replace(scored.line, scale=scale, slope=slope)),
        )
        for slope, scale in product(get_args(Slope), scales)
    )


def bend(table: RunEpochs, compared: NDArray[np.bool_], line: Line) -> Estimate:
    """How far OOD macro-F1 in the middle of the ID scores lies above the straight line between their ends.

    In percentage points at the mean OOD macro-F1, with a 95% interval and p. The ID scores are those of all models at
    the compared epoch, or for a line within runs those that a run passes on average. Nothing if they do not vary, or
    where fewer than three groups can be left out.
    """
    own = compared if line.slope == "between" else np.ones(len(table.arm), np.bool_)
    if not own.any():
        return Estimate()
    arm, architecture, seed = (column[own] for column in (table.arm, table.architecture, table.seed))
    x, y = (to_scale(f1[own], line.scale, line.epsilon) for f1 in (table.id_f1, table.ood_f1))
    runs = _numbers(arm, architecture, seed)
    if line.slope == "between":  # one point a model, whatever the number of its compared epochs
        x, y = (np.bincount(runs, v) / np.bincount(runs) for v in (x, y))
        one = np.unique(runs, return_index=True)[1]
        runs, arm, architecture, seed = runs[one], arm[one], architecture[one], seed[one]
    means = _numbers(arm) if line.slope == "between" else runs
    groups = _numbers(architecture)
    if groups.max() + 1 < FEWEST:
        groups = _numbers(architecture, seed)
    n = int(groups.max()) + 1
    if n < FEWEST:
        return Estimate(note=TOO_FEW)
    value = _quadratic(x, y, means)
    without = np.array([_quadratic(*(v[groups != group] for v in (x, y, means))) for group in range(n)])
    if not np.isfinite([value, *without]).all():
        return Estimate(note=TOO_FEW)
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    half = float(student.ppf(1 - LEVEL / 2, n - 1)) * error
    p = float(2 * student.sf(abs(value) / error, n - 1)) if error else float(value == 0)
    rise = _half_range(x, runs if line.slope == "within" else np.zeros_like(runs)) ** 2
    middle, low, high, level = from_scale(
        y.mean() - rise * np.array([value, value + half, value - half, 0.0]), line.scale
    )
    return Estimate(
        value=float(100 * (middle - level)), low=float(100 * (low - level)), high=float(100 * (high - level)), p=p, n=n
    )


def _quadratic(x: Array, y: Array, groups: NDArray[np.intp]) -> float:
    """The coefficient of x^2 of least squares of y on x, x^2 and the means of groups; NaN if it cannot be told."""
    x = x - x.mean()
    dx, dxx, dy = (_beyond_means(v, groups) for v in (x, x * x, y))
    if np.ptp(dx) < SAME_ID:
        return np.nan
    beyond = dxx - dx * (dx @ dxx) / (dx @ dx)
    spread = float(beyond @ beyond)
    return float(beyond @ dy / spread) if spread > FLAT * float(dxx @ dxx) else np.nan


def _beyond_means(values: Array, groups: NDArray[np.intp]) -> Array:
    n = np.bincount(groups)
    return np.asarray(values - (np.bincount(groups, values) / np.maximum(n, 1))[groups])


def _half_range(x: Array, groups: NDArray[np.intp]) -> float:
    """Half the distance from the lowest to the highest value, the mean over groups."""
    return float(np.mean([np.ptp(x[groups == group]) for group in range(groups.max() + 1)])) / 2


def _numbers(*columns: NDArray[np.generic]) -> NDArray[np.intp]:
    """A number from 0 for each row; rows that are equal in all columns have one."""
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    order = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    return np.array([order[row] for row in rows], np.intp)
