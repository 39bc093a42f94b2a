"""The slope of a line of OOD over ID macro-F1: how well it is known, whether it reaches, whether arms share it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from .estimators import Line, fit_slopes, slopes_difference
from .pairing import Array, Paired
from .results import Estimate
from .significance import LEVEL
from .trends import SAME_ID, to_scale

FEWEST_UNITS = 3  # two give intervals of hundreds of points, whatever was measured
FARTHEST = 3.0  # times as far as ID scores vary that a line may bridge; beyond, its own error exceeds what is measured
FARTHEST_ALONE = 1.0  # of a line between models of one architecture, whose seeds differ by noise, which flattens it


def unbridged(paired: Paired, line: Line) -> str:
    """Why a line cannot reach from one arm to another; empty if it can.

    Its slope comes from ID scores that differ between models, or within runs; what they differ by must not be small
    beside the gap between the arms, or the slope comes from noise.
    """
    final, every = (to_scale(blocks.id_f1, line.scale, line.epsilon) for blocks in (paired.final, paired.every))
    models = np.nanmean(final, -1)  # [n_blocks, n_arms]
    if line.slope == "between":
        within, of, whole = models - models.mean(0), "models", "arm"
    else:
        within, of, whole = every - np.nanmean(every, -1, keepdims=True), "epochs", "run"
    spread = float(np.sqrt(np.nansum(within**2) / np.isfinite(within).sum()))
    gap = float(np.ptp(models.mean(0)))
    if line.slope == "between" and len(paired) == 1:
        return "no line of OOD over ID macro-F1, since there is one pair of models"
    if spread < SAME_ID:
        return f"no line of OOD over ID macro-F1, since ID scores do not differ between {of} of one {whole}"
    alone = line.slope == "between" and not paired.architectures.any()
    if gap > (FARTHEST_ALONE if alone else FARTHEST) * spread:
        return (
            f"the arms' ID scores are {gap / spread:.{2 if alone else 1}f} times as far apart as those of {of} vary,"
            " so that no line of OOD over ID macro-F1 bridges the gap"
        )
    return ""


def line_slope(paired: Paired, line: Line, *, level: float = LEVEL) -> Estimate:
    """The slope of the line on its scale, with a jackknife interval over architectures; over units if there is one."""
    return _jackknifed(paired, partial(fit_slopes, paired.final, paired.every, line), carrying(paired), level)


def slope_difference(paired: Paired, line: Line, *, level: float = LEVEL) -> Estimate:
    """The slope within the runs of the second arm minus that within those of the first, on the scale.

    Its error is the jackknife's over units, on the test images at hand; interval and p are Student's. It cannot be
    estimated with one evaluated epoch per run.
    """
    return _jackknifed(paired, lambda weights: slopes_difference(paired.every, weights, line=line), paired.units, level)


def _jackknifed(
    paired: Paired, estimator: Callable[[Array], Array], groups: NDArray[np.intp], level: float
) -> Estimate:
    """What ``estimator`` gives for weights of blocks, with the jackknife's interval and p without each group."""
    n = len(paired)
    value = float(estimator(np.ones((1, n)))[0]) if n else np.nan
    if not np.isfinite(value):
        return Estimate(n=n)
    without = estimator(leaving_out(groups))
    m = len(without)
    if m < FEWEST_UNITS or not np.isfinite(without).all():
        return Estimate(value=value, n=n)
    error = float(np.sqrt(jackknife_variance(without)))
    half = float(student.ppf(1 - level / 2, m - 1)) * error
    return Estimate(value=value, low=value - half, high=value + half, p=p_of_zero(value, error, m - 1), n=n)


def jackknife_variance(without: Array) -> float:
    """The variance of an estimate, from its values without each of m groups, [m]."""
    m = len(without)
    return float((m - 1) / m * np.square(without - without.mean()).sum())


def p_of_zero(value: float, error: float, freedom: float) -> float:
    """Two-sided p of zero, by Student's t."""
    return float(2 * student.sf(abs(value) / error, freedom)) if error else float(value == 0)


def carrying(paired: Paired) -> NDArray[np.intp]:
    """What the line's slope is fitted to: architectures, or units if there is one architecture."""
    return paired.architectures if paired.architectures.any() else paired.units


def leaving_out(groups: NDArray[np.intp]) -> Array:
    """Weights without each group of blocks, [n_groups, n_blocks]; none if there is one group."""
    if not groups.any():
        return np.empty((0, len(groups)))
    return np.asarray(1.0 * (groups != np.arange(groups.max() + 1)[:, None]))
