"""Effective robustness of paired runs, and the lines of OOD over ID macro-F1 that it is measured from.

Arms are compared at equal ID macro-F1: a line of OOD over ID macro-F1 goes through the baseline's run of each block,
an architecture x seed, and the effective robustness of the other arm's run is how far its OOD macro-F1 lies above
that line. All lines have one slope, over the arms compared: that between models or that within runs (``fit_slopes``).
Arms often raise ID macro-F1, so that an error of the slope becomes an effect; ``uncertainty`` allows for it. The
baseline's own trend, over all its runs, is no substitute: its slope comes from few architectures, which lie off any
common line, and called differences too often in simulated studies whose arms raise ID macro-F1.

``difference`` is for checks, which decide nothing. Blocks are its only source of uncertainty, by Tukey's jackknife
pseudo-values: each block's value says by how much the estimate changes without the block, slope refitted. Their signs
are flipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, TypeVar

import numpy as np
from scipy.stats import t as student

from .pairing import Array, Blocks
from .results import Estimate
from .significance import LEVEL, sign_flip_p
from .trends import Scale, Slope, fit_lines, from_scale, to_scale

ROUNDING = 1e-9  # points, or units of the scale: nothing that small is a difference
NO_SPREAD = 1e-12  # squared scale units: ID scores that vary less give no slope
Weights = Annotated[Array, "r n_blocks"]  # how often each block counts
Points = Annotated[Array, "*s n_blocks n_arms n_epochs"]  # on the scale; with an axis s = r where resamples are scored
Values = Annotated[Array, "r"]
Data = TypeVar("Data", bound=Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """How the line of OOD over ID macro-F1 that effective robustness is measured from is fitted."""

    epsilon: float  # from ``trends.clip_epsilon``
    scale: Scale = "logit"
    through: Literal["blocks", "baseline"] = "blocks"  # each block's baseline run; or the baseline's own trend
    fit: Literal["least squares", "orthogonal"] = "least squares"  # the latter if ID scores are noisy too
    slope: Slope = "within"  # from the epochs within each run, or between models, from one point of each


# --- Lines, for blocks weighted in several ways at once ------------------------------------------------------


def robustness(
    blocks: Blocks, line: Line, weights: Weights, *, every: Blocks | None = None
) -> Annotated[Array, "r n_blocks n_arms"]:
    """Each run's mean effective robustness in percentage points, [r, n_blocks, n_arms]; NaN if ID scores do not vary.

    ``weights`` [r, n_blocks] say how often each block counts in the fit; the scores may differ between
    rows of weights, [r, n_blocks, n_arms, n_epochs]. The first arm is the baseline. ``every`` has all epochs of the
    same runs, for the slope within them, if ``blocks`` has not.
    """
    if line.through == "blocks":
        return beyond(blocks, line, fit_slopes(blocks, blocks if every is None else every, line, weights))
    scaled = _on_scale(blocks, line)
    x, y = (v[..., :1, :] for v in scaled)
    n = (weights * np.isfinite(x).sum((-2, -1))).sum(-1, keepdims=True)  # [r, 1], points
    x0, y0 = ((weights * np.nansum(v, (-2, -1))).sum(-1, keepdims=True) / n for v in (x, y))
    dx, dy = (v - v0[..., None, None] for v, v0 in ((x, x0), (y, y0)))  # [r, n_blocks, 1, n_epochs]
    return _above(blocks, line, _predicted(scaled[0], x0, y0, _fit(dx, dy, weights, line.fit)))


def beyond(
    blocks: Blocks, line: Line, slopes: Values, *, reference: Sequence[int] = (0,)
) -> Annotated[Array, "r n_blocks n_arms"]:
    """How far each run lies above a line through its block, mean over its epochs, percentage points.

    The r lines have these slopes and go through the mean of the block's runs of the ``reference`` arms, on the scale.
    """
    x, y = _on_scale(blocks, line)
    x0, y0 = (np.nanmean(v, -1)[..., list(reference)].mean(-1) for v in (x, y))  # [(r,) n_blocks]
    return _above(blocks, line, _predicted(x, x0, y0, slopes))


def _predicted(x: Array, x0: Array, y0: Array, slopes: Values) -> Array:
    return np.asarray(y0[..., None, None] + slopes[:, None, None, None] * (x - x0[..., None, None]))


def _above(blocks: Blocks, line: Line, predicted: Array) -> Array:
    values = 100 * (blocks.ood_f1 - from_scale(predicted, line.scale))
    seen = np.isfinite(blocks.ood_f1)
    return np.asarray(np.where(seen, values, 0).sum(-1) / seen.sum(-1))  # NaN without a slope


def paired_robustness(blocks: Blocks, line: Line, slopes: Values) -> Annotated[Array, "r n_blocks"]:
    """Effective robustness of the second arm minus that of the first, along lines of these slopes, by block, points."""
    values = beyond(blocks, line, slopes)
    return np.asarray(values[..., 1] - values[..., 0])


def fit_slopes(final: Blocks, every: Blocks, line: Line, weights: Weights) -> Values:
    """The slope of OOD over ID macro-F1 on the scale for each row of weights, [r]; NaN if it cannot be fitted.

    Between models it is that of run means over the compared epochs, beyond what the arms differ by; the field fits one
    point a model (Taori et al. 2020; Miller et al. 2021). Within runs it is that of all epochs, beyond what runs
    differ by.
    """
    if line.slope == "within":
        x, y = (v - np.nanmean(v, -1, keepdims=True) for v in _on_scale(every, line))
    else:
        x, y = (_beyond_arms(np.nanmean(v, -1), weights)[..., None] for v in _on_scale(final, line))
    return _fit(x, y, weights, line.fit)


def _on_scale(blocks: Blocks, line: Line) -> tuple[Points, Points]:
    """ID and OOD scores in units of the scale, [(r,) n_blocks, n_arms, n_epochs]."""
    x, y = (to_scale(f1, line.scale, line.epsilon) for f1 in (blocks.id_f1, blocks.ood_f1))
    return x, y


def _beyond_arms(
    values: Annotated[Array, "*s n_blocks n_arms"], weights: Weights
) -> Annotated[Array, "r n_blocks n_arms"]:
    """Values [(r,) n_blocks, n_arms] without the means of arms, [r, n_blocks, n_arms]."""
    of_arms = (weights[..., None] * values).sum(-2) / weights.sum(-1, keepdims=True)  # [r, n_arms]
    return np.asarray(values - of_arms[:, None])


def _mean(values: Annotated[Array, "*s n_blocks"], weights: Weights) -> Values:
    """The mean of values [(r,) n_blocks] for each row of weights, [r]."""
    return np.asarray((weights * values).sum(-1) / weights.sum(-1))


def _fit(dx: Points, dy: Points, weights: Weights, fit: str) -> Values:
    """The slope through the origin of points [(r,) n_blocks, n_arms, n_epochs], [r]; NaN if dx does not vary."""
    xx, xy, yy = ((weights * np.nansum(a * b, (-2, -1))).sum(-1) for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    known = np.where(xx > NO_SPREAD, xx, np.nan)
    if fit == "orthogonal":  # the first principal axis: equal noise in both, Fuller 1987, "Measurement Error Models"
        return np.asarray(np.tan(np.arctan2(2 * xy, known - yy) / 2))
    return np.asarray(xy / known)


# --- Estimators: paired runs and weights [r, n_blocks], how often each block counts, to values [r] --------------


def robustness_difference(blocks: Blocks, weights: Weights, *, line: Line, every: Blocks | None = None) -> Values:
    """Effective robustness of the second arm minus that of the first, percentage points [r]; see ``robustness``."""
    values = robustness(blocks, line, weights, every=every)
    return _mean(values[..., 1] - values[..., 0], weights)


def own_trend(blocks: Blocks, weights: Weights, *, line: Line) -> Annotated[Array, "2 r"]:
    """Slope and intercept of the trend over all run-epochs of the one arm of ``blocks``, on the scale, [2, r].

    It is the trend of ``trends.fit_trend``, with a run-epoch counted as often as its block.
    """
    seen = blocks.rows.ravel() >= 0
    block = np.nonzero(blocks.rows >= 0)[0]
    x, y = (_points(f1, len(weights))[seen] for f1 in (blocks.id_f1, blocks.ood_f1))  # [n_points, r]
    x, y = (to_scale(f1, line.scale, line.epsilon) for f1 in (x, y))
    return fit_lines(x, y, np.ascontiguousarray(weights.T)[block])


def _points(f1: Array, n: int) -> Array:
    """Scores [(r,) n_blocks, n_arms, n_epochs] as [n_blocks * n_arms * n_epochs, r], the same ones for each r."""
    if f1.ndim == 3:
        return np.repeat(f1.reshape(-1, 1), n, axis=1)
    return np.moveaxis(f1, 0, -1).reshape(-1, n)


def slopes_difference(blocks: Blocks, weights: Weights, *, line: Line) -> Values:
    """The slope within the runs of the second arm minus that within those of the first, on the scale, [r]."""
    ours, theirs = (_slope_within(blocks, line, weights, arm) for arm in (1, 0))
    return ours - theirs


def _slope_within(blocks: Blocks, line: Line, weights: Weights, arm: int) -> Values:
    id_f1, ood_f1 = (f1[..., [arm], :] for f1 in (blocks.id_f1, blocks.ood_f1))
    own = replace(blocks, arms=blocks.arms[arm : arm + 1], rows=blocks.rows[:, [arm]], id_f1=id_f1, ood_f1=ood_f1)
    return fit_slopes(own, own, replace(line, slope="within"), weights)


# --- Estimates -----------------------------------------------------------------------------------------------


def difference(blocks: Blocks, line: Line, *, every: Blocks | None = None) -> Estimate:
    """Effective robustness of the second arm minus that of the first, in percentage points; see ``robustness``."""
    return jackknife(partial(robustness_difference, line=line, every=every), blocks)


def jackknife(estimator: Callable[[Data, Array], Array], blocks: Data) -> Estimate:
    """An estimator's value for blocks, with a t interval and a sign-flip test of its jackknife pseudo-values.

    ``estimator`` takes ``blocks`` and weights [r, n], how often each block counts, and returns [r]. The
    pseudo-values n * all - (n - 1) * without one (Tukey 1958; Miller 1974, "The jackknife: a review") are moved to
    have the estimate itself as their mean; if it is a mean over blocks, they are the values of the blocks.
    The interval allows for the choice of blocks alone: the test images are taken as fixed.
    """
    n = len(blocks)
    value = float(estimator(blocks, np.ones((1, n)))[0]) if n else np.nan
    if not np.isfinite(value):
        return Estimate(n=n)
    without = estimator(blocks, 1 - np.eye(n)) if n > 1 else np.empty(0)
    if n < 2 or not np.isfinite(without).all():
        return Estimate(value=value, n=n)
    values = value + (n - 1) * (without.mean() - without)  # [n]
    values[np.abs(values) < ROUNDING] = 0.0
    half = float(student.ppf(1 - LEVEL / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        p=float(sign_flip_p(values)),
        n=n,
        contributions=tuple(values.tolist()),
    )
