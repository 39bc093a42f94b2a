"""Scales for macro-F1, linear trends of OOD over ID macro-F1, and effective robustness.

Taori et al. 2020 (arXiv 2007.00644) define effective robustness as a model's out-of-distribution
score beyond what the trend of baseline models predicts from its in-distribution score;
Miller et al. 2021 (arXiv 2107.04649) show that such trends are nearly linear on a probit or logit
scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtr, ndtri

from ..errors import EvaluateError

Scale = Literal["logit", "probit", "linear"]
Slope = Literal["between", "within"]  # of a line: between models, or within their runs
SAME_ID = 1e-9  # scale units: scores that span less count as the same, and have no slope
Array = NDArray[np.float64]
MIN_POINTS = 3  # two points always lie on a line, so they say nothing about its fit


def clip_epsilon(n_images: int) -> float:
    """The distance from 0 and 1 that macro-F1 is kept at before a logit or probit: 0.5 / n_images.

    Half a count is the continuity correction of the empirical logit (Haldane 1956; Anscombe 1956;
    Cox 1970, "The Analysis of Binary Data", section 3.2). Macro-F1 is a mean over classes and not
    one proportion of n, so here it is a convention that bounds how far an exact 0 or 1 reaches.
    """
    if n_images < 1:
        raise EvaluateError(f"{n_images} images: a split needs at least one")
    return 0.5 / n_images


def to_scale(f1: ArrayLike, scale: Scale, epsilon: float) -> NDArray[np.float64]:
    """Transform fractions 0..1 of any shape; logit and probit clip to [epsilon, 1 - epsilon] first.

    Raises EvaluateError for an unknown scale.
    """
    values = np.asarray(f1, dtype=np.float64)
    if scale == "linear":
        return values
    if scale not in get_args(Scale):
        raise EvaluateError(f"scale {scale!r} is unknown: choose one of {', '.join(get_args(Scale))}")
    clipped = values.clip(epsilon, 1 - epsilon)
    return np.asarray(logit(clipped) if scale == "logit" else ndtri(clipped))


def from_scale(values: ArrayLike, scale: Scale) -> NDArray[np.float64]:
    """Back to fractions; the inverse of ``to_scale`` if nothing was clipped."""
    values = np.asarray(values, dtype=np.float64)
    if scale == "linear":
        return values
    return np.asarray(expit(values) if scale == "logit" else ndtr(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """OOD over ID macro-F1 as a line on a scale: scale(ood) = intercept + slope * scale(id)."""

    slope: float  # scale units of OOD per scale unit of ID
    intercept: float  # scale units
    scale: Scale
    epsilon: float  # macro-F1 was kept this far from 0 and 1, a fraction
    r2: float | None  # share of the variance on the scale that the line explains; None if OOD is constant
    n: int  # points

    def predict(self, id_f1: ArrayLike) -> NDArray[np.float64]:
        """The OOD macro-F1 that the line predicts from ID macro-F1, fractions of the same shape.

        On the linear scale a prediction may leave 0..1.
        """
        line = self.intercept + self.slope * to_scale(id_f1, self.scale, self.epsilon)
        return from_scale(line, self.scale)


def fit_trend(id_f1: ArrayLike, ood_f1: ArrayLike, *, scale: Scale = "logit", epsilon: float) -> Trend | None:
    """Ordinary least squares on the transformed scale; ``id_f1`` and ``ood_f1`` are fractions [n].

    ``epsilon`` comes from ``clip_epsilon``. Returns None, for the caller to report, if there are
    fewer than ``MIN_POINTS`` points or all have the same ID macro-F1. Raises EvaluateError if
    the lengths differ or the scale is unknown.
    """
    x, y = to_scale(id_f1, scale, epsilon), to_scale(ood_f1, scale, epsilon)  # [n]
    if x.ndim != 1 or x.shape != y.shape:
        raise EvaluateError(f"ID scores of shape {x.shape} and OOD scores of shape {y.shape} do not pair up")
    if len(x) < MIN_POINTS or not np.isfinite([x, y]).all() or np.ptp(x) < SAME_ID:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    total = float(dy @ dy)
    residual = float(np.square(dy - slope * dx).sum())
    return Trend(
        slope=slope,
        intercept=float(y.mean() - slope * x.mean()),
        scale=scale,
        epsilon=epsilon,
        r2=1 - residual / total if np.ptp(y) > SAME_ID else None,
        n=len(x),
    )


def effective_robustness(id_f1: ArrayLike, ood_f1: ArrayLike, baseline_trend: Trend) -> NDArray[np.float64]:
    """OOD macro-F1 beyond what the baseline's trend predicts from ID macro-F1, in percentage points.

    ``id_f1`` and ``ood_f1`` are fractions of one shape, which the result has too. The formula is
    rho of Taori et al. 2020, section 3, with macro-F1 in place of accuracy.
    """
    return 100 * (np.asarray(ood_f1, dtype=np.float64) - baseline_trend.predict(id_f1))


def fit_lines(
    x: Annotated[Array, "n r"], y: Annotated[Array, "n r"], weights: Annotated[Array, "n r"]
) -> Annotated[Array, "2 r"]:
    """Slopes and intercepts of weighted least squares over n points on the scale, r times at once.

    NaN if fewer than ``MIN_POINTS`` different points count or those that do have the same ID macro-F1.
    """
    seen = weights > 0
    highest = np.where(seen, x, -np.inf).max(axis=0, initial=-np.inf)
    span = highest - np.where(seen, x, np.inf).min(axis=0, initial=np.inf)
    known = (seen.sum(axis=0) >= MIN_POINTS) & (span >= SAME_ID)
    n = np.where(known, weights.sum(axis=0), np.nan)
    mean_x, mean_y = _sums(weights, x) / n, _sums(weights, y) / n
    dx = x - mean_x
    of_dx = weights * dx
    slope = _sums(of_dx, y - mean_y) / np.where(known, _sums(of_dx, dx), np.nan)
    return np.stack([slope, mean_y - slope * mean_x])


def _sums(a: Annotated[Array, "n r"], b: Annotated[Array, "n r"]) -> Annotated[Array, "r"]:
    """Sums of products over the first axis; einsum, unlike a matrix product, runs on one thread in a fixed order."""
    return np.asarray(np.einsum("er,er->r", a, b))
