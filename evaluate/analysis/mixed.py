"""A linear mixed model of all run-epochs, as a check of the tests over blocks."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import t as student

from .estimators import Line
from .pairing import Blocks
from .results import Estimate
from .significance import LEVEL
from .trends import from_scale, to_scale

METHOD = "powell"  # gradient-free: gradient methods failed in a third of studies whose runs do not vary
BOUNDARY = 1e-4  # a variance of runs that is this small a part of that of epochs counts as zero


def mixed_model(blocks: Blocks, line: Line) -> Estimate:
    """The arm's effect by a linear mixed model, percentage points at the baseline's mean OOD macro-F1.

    OOD on the scale ~ ID on the scale + arm + architecture + (1 | run), fitted by REML (Laird and Ware 1982,
    "Random-effects models for longitudinal data"). Architectures are fixed effects; p and limits are of Student's t
    with the number of runs minus the number of between-run coefficients as degrees of freedom. The second arm is
    compared with the first.
    """
    if not len(blocks) or np.isfinite(blocks.id_f1).sum() <= 2 * len(blocks):
        return _unfitted("one evaluated epoch a run" if len(blocks) else "no paired runs")
    x, y = (to_scale(f1, line.scale, line.epsilon) for f1 in (blocks.id_f1, blocks.ood_f1))
    seen = np.isfinite(x)
    block, arm, _ = np.nonzero(seen)
    names = [architecture for architecture, _ in blocks.names]
    architectures = (np.array(names)[block, None] == np.unique(names)).astype(np.float64)  # [n_points, n_architectures]
    design = np.column_stack([arm, x[seen] - x[seen].mean(), architectures])
    freedom = 2 * len(blocks) - architectures.shape[1] - 1
    if freedom < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return _unfitted("too few runs, or ID scores that do not vary")
    from statsmodels.regression.mixed_linear_model import MixedLM  # slow to import, and needed only here

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # they report any variance below 0.01 as a boundary, whatever its units
        try:
            fitted = MixedLM(y[seen], design, groups=2 * block + arm).fit(reml=True, method=METHOD)
            effect, error = float(fitted.fe_params[0]), float(fitted.bse_fe[0])
        except (np.linalg.LinAlgError, ValueError) as problem:
            return _unfitted(f"the fit failed ({problem})")
    if not fitted.converged or not np.isfinite([effect, error]).all() or error <= 0:
        return _unfitted("the fit did not converge")
    half = float(student.ppf(1 - LEVEL / 2, freedom)) * error
    base = y[:, 0][seen[:, 0]].mean()
    places = base + np.array([effect - half, effect, effect + half, 0.0])
    low, value, high, none = 100 * from_scale(places, line.scale)
    boundary = float(fitted.cov_re[0, 0]) < BOUNDARY * float(fitted.scale)
    return Estimate(
        value=float(value - none),
        low=float(low - none),
        high=float(high - none),
        p=float(2 * student.sf(abs(effect) / error, freedom)),
        note="runs vary no more than their epochs do, so the limits may be too narrow" if boundary else "",
    )


def _unfitted(why: str) -> Estimate:
    return Estimate(note=why)
