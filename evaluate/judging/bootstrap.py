"""The two-level bootstrap: blocks and camera locations drawn with replacement, trends and effects of each resample.

A block is an architecture x seed; drawing it draws the run of every arm there, with all its epochs.
Locations are drawn for the ID and the OOD split on their own, and the same ones for every run; their
macro-F1 comes from ``counts.macro_f1``. Since all arms share the draws, differences between arms are
paired. What cannot be known in a resample is NaN there: intervals leave it out and tell how often.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from ..errors import EvaluateError
from .trends import MIN_POINTS, SAME_ID, Scale, from_scale, to_scale

CHUNK = 512  # resamples at a time, so that one arm's arrays stay in the cache
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """How often each block and each location is drawn in each resample."""

    blocks: NDArray[np.int32]  # [n_resamples, n_blocks]; every row sums to n_blocks
    id_locations: NDArray[np.int32]  # [n_resamples, n_id_locations], likewise
    ood_locations: NDArray[np.int32]  # [n_resamples, n_ood_locations], likewise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """Which arm and block the run-epochs belong to; runs are sorted by arm, then by block."""

    n_arms: int
    n_blocks: int
    baseline: int  # arm
    order: NDArray[np.intp]  # [n_run_epochs], puts run-epochs in the order of their runs, then of epochs
    run_start: NDArray[np.intp]  # [n_runs + 1], the run's first in this order
    run_arm: NDArray[np.intp]  # [n_runs]
    run_block: NDArray[np.intp]  # [n_runs]

    @property
    def n_pairs(self) -> NDArray[np.intp]:
        """Blocks in which an arm and the baseline both have a run, [n_arms]."""
        return np.array([len(self.pairs(arm)[0]) for arm in range(self.n_arms)])

    def runs(self, arm: int) -> slice:
        """The arm's runs."""
        return slice(*np.searchsorted(self.run_arm, [arm, arm + 1]).tolist())

    def pairs(self, arm: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Runs of the arm and of the baseline in the same blocks, each [n_pairs]."""
        ours, theirs = (self.run_block[self.runs(one)] for one in (arm, self.baseline))
        _, of_arm, of_baseline = np.intersect1d(ours, theirs, assume_unique=True, return_indices=True)
        return self.runs(arm).start + of_arm, self.runs(self.baseline).start + of_baseline


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resampled:
    """Trends and effective robustness in every resample; NaN where a resample cannot tell."""

    design: Design
    scale: Scale
    epsilon: float  # macro-F1 is kept this far from 0 and 1 on the scale
    slope: Array  # [n_arms, n_resamples], scale units of OOD per scale unit of ID
    intercept: Array  # [n_arms, n_resamples], scale units
    run_er: Array  # [n_runs, n_resamples], mean effective robustness over the run's epochs, percentage points


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its interval, in the units of the estimate; None where it cannot be known."""

    estimate: float | None
    low: float | None
    high: float | None
    level: float
    n_resamples: int  # that the interval rests on
    left_out: int  # resamples that could not tell


def draw(n_resamples: int, *, n_blocks: int, n_id_locations: int, n_ood_locations: int, seed: int) -> Draws:
    """Draw blocks, ID locations and OOD locations with replacement, as many as there are.

    Each of the three has a PCG64 stream of its own from the seed, so the number of one does not
    change the draws of another. Raises EvaluateError where one of the numbers is below 1.
    """
    sizes = {"blocks": n_blocks, "ID locations": n_id_locations, "OOD locations": n_ood_locations}
    for name, n in {"resamples": n_resamples, **sizes}.items():
        if n < 1:
            raise EvaluateError(f"{n} {name} to draw: at least one is needed")
    streams = np.random.SeedSequence(seed).spawn(len(sizes))
    blocks, id_locations, ood_locations = (
        np.random.Generator(np.random.PCG64(stream)).multinomial(n, np.full(n, 1 / n), n_resamples).astype(np.int32)
        for stream, n in zip(streams, sizes.values(), strict=True)
    )
    return Draws(blocks=blocks, id_locations=id_locations, ood_locations=ood_locations)


def arrange(arm: ArrayLike, block: ArrayLike, epoch: ArrayLike, *, n_arms: int, n_blocks: int, baseline: int) -> Design:
    """The design of run-epochs from their arm, block and epoch, integers [n_run_epochs] from 0.

    Arms may lack runs of some blocks, or all. Raises EvaluateError where the three do not match, where
    an index is out of range, or where an arm has an epoch of a block twice.
    """
    arms, blocks, epochs = (np.asarray(values, dtype=np.intp) for values in (arm, block, epoch))
    if arms.ndim != 1 or not arms.shape == blocks.shape == epochs.shape:
        raise EvaluateError(
            f"arms of shape {arms.shape}, blocks of shape {blocks.shape} and epochs of shape {epochs.shape} do not"
            " match: give one of each a run-epoch"
        )
    for name, values, n in (("arm", arms, n_arms), ("block", blocks, n_blocks), ("arm", np.array([baseline]), n_arms)):
        outside = values[(values < 0) | (values >= n)]
        if outside.size:
            raise EvaluateError(f"{name} {outside[0]} is none of the {n}: number them from 0")
    order = np.lexsort((epochs, blocks, arms))
    keys = np.stack([arms, blocks, epochs])[:, order]
    same = (keys[:, 1:] == keys[:, :-1]).all(axis=0)
    if same.any():
        a, b, e = keys[:, 1:][:, same][:, 0]
        raise EvaluateError(f"arm {a} has epoch {e} of block {b} twice: an arm has at most one run a block")
    starts = np.flatnonzero(np.r_[True, (keys[:2, 1:] != keys[:2, :-1]).any(axis=0)][: len(order)])
    return Design(
        n_arms=n_arms,
        n_blocks=n_blocks,
        baseline=baseline,
        order=order,
        run_start=np.append(starts, len(order)),
        run_arm=keys[0, starts],
        run_block=keys[1, starts],
    )


def resample(
    design: Design,
    id_f1: Array,
    ood_f1: Array,
    blocks: NDArray[np.integer],
    *,
    scale: Scale = "logit",
    epsilon: float,
    threads: int | None = None,
) -> Resampled:
    """Refit the trends and recompute effective robustness in every resample.

    ``id_f1`` and ``ood_f1`` are fractions [n_run_epochs, n_resamples], ``blocks`` [n_resamples,
    n_blocks] says how often each block is drawn, ``epsilon`` comes from ``trends.clip_epsilon``.
    Plain scores [n_run_epochs, 1] with weights of one [1, n_blocks] give the estimates themselves.

    An arm's trend is the least squares of ``trends.fit_trend`` with a run-epoch counted as often as
    its block is drawn; it needs ``MIN_POINTS`` different run-epochs. The result does not depend on
    ``threads`` (default: one a core). Raises EvaluateError where the shapes do not match.
    """
    shape = (len(design.order), len(blocks))
    if id_f1.shape != shape or ood_f1.shape != shape or blocks.shape != (shape[1], design.n_blocks):
        raise EvaluateError(
            f"ID scores of shape {id_f1.shape}, OOD scores of shape {ood_f1.shape} and blocks of shape {blocks.shape}"
            f" do not match {shape[0]} run-epochs and {design.n_blocks} blocks"
        )
    slope, intercept = np.empty((2, design.n_arms, shape[1]))
    run_er = np.empty((len(design.run_arm), shape[1]))

    def one(start: int) -> None:
        part = slice(start, start + CHUNK)
        drawn = np.ascontiguousarray(blocks[part].T, dtype=np.float64)  # [n_blocks, chunk]
        baseline = None
        for arm in sorted(range(design.n_arms), key=lambda arm: arm != design.baseline):
            runs = design.runs(arm)
            starts = design.run_start[runs.start : runs.stop + 1]
            rows = design.order[starts[0] : starts[-1]]
            ood = ood_f1[rows, part]
            x, y = to_scale(id_f1[rows, part], scale, epsilon), to_scale(ood, scale, epsilon)
            trend = _fit(x, y, drawn[np.repeat(design.run_block[runs], np.diff(starts))])
            slope[arm, part], intercept[arm, part] = trend
            baseline = trend if baseline is None else baseline
            if len(rows):
                er = 100 * (ood - from_scale(baseline[1] + baseline[0] * x, scale))
                total = np.add.reduceat(er, starts[:-1] - starts[0], axis=0)
                run_er[runs, part] = total / np.diff(starts)[:, None]

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(one, range(0, shape[1], CHUNK)))
    return Resampled(
        design=design,
        scale=scale,
        epsilon=epsilon,
        slope=slope,
        intercept=intercept,
        run_er=run_er,
    )


def _fit(x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """Slopes and intercepts [n_resamples] of weighted least squares over points [n, n_resamples]; NaN without one."""
    seen = weights > 0
    highest = np.where(seen, x, -np.inf).max(axis=0, initial=-np.inf)
    span = highest - np.where(seen, x, np.inf).min(axis=0, initial=np.inf)
    known = (seen.sum(axis=0) >= MIN_POINTS) & (span >= SAME_ID)
    n = np.where(known, weights.sum(axis=0), np.nan)
    mean_x, mean_y = _sums(weights, x) / n, _sums(weights, y) / n
    dx = x - mean_x
    of_dx = weights * dx
    slope = _sums(of_dx, y - mean_y) / np.where(known, _sums(of_dx, dx), np.nan)
    return slope, mean_y - slope * mean_x


def _sums(a: Array, b: Array) -> Array:
    """Sums of products over the first axis; einsum, unlike a matrix product, runs on one thread in a fixed order."""
    return np.asarray(np.einsum("er,er->r", a, b))


def paired_effects(design: Design, run_values: Array, blocks: NDArray[np.integer]) -> Array:
    """Arm minus baseline in a value of each run, averaged over the drawn blocks that have both runs.

    ``run_values`` [n_runs, n_resamples] in the order of the design, ``blocks`` [n_resamples, n_blocks];
    the result [n_arms, n_resamples] is NaN where no pair was drawn.
    """
    effects = np.full((design.n_arms, len(blocks)), np.nan)
    for arm in range(design.n_arms):
        ours, theirs = design.pairs(arm)
        weights = blocks[:, design.run_block[ours]].T.astype(np.float64)
        n = weights.sum(axis=0)
        effects[arm] = _sums(weights, run_values[ours] - run_values[theirs]) / np.where(n > 0, n, np.nan)
    return effects


def slope_differences(resampled: Resampled) -> Array:
    """Each arm's slope minus the baseline's, [n_arms, n_resamples]."""
    return np.asarray(resampled.slope - resampled.slope[resampled.design.baseline])


def predicted(resampled: Resampled, arm: int, id_f1: ArrayLike) -> Array:
    """The OOD macro-F1 that the arm's trend gives at ID macro-F1 [n], fractions [n, n_resamples]."""
    x = to_scale(id_f1, resampled.scale, resampled.epsilon)[:, None]
    return from_scale(resampled.intercept[arm] + resampled.slope[arm] * x, resampled.scale)


def differences_at(resampled: Resampled, arm: int, id_f1: ArrayLike) -> Array:
    """The arm's predicted OOD macro-F1 minus the baseline's at ID macro-F1 [n], percentage points [n, n_resamples]."""
    ours, theirs = (predicted(resampled, one, id_f1) for one in (arm, resampled.design.baseline))
    return 100 * (ours - theirs)


def interval(estimate: float, resamples: Array, n_blocks: int, *, level: float = 0.95) -> Interval:
    """estimate +- t quantile (n_blocks - 1) x bootstrap standard error x sqrt(n_blocks / (n_blocks - 1)).

    ``resamples`` [n_resamples] may hold NaN, which are left out; ``n_blocks`` are the blocks behind the
    estimate (for an effect, the pairs). A bootstrap of few blocks is too narrow in two ways: its variance
    divides by n instead of n - 1, and percentiles stand where Student's quantiles belong (the "narrowness
    bias" of Hesterberg 2015, arXiv 1411.5279); this makes up for both. There is no interval with fewer than
    two blocks or resamples.
    """
    kept = resamples[np.isfinite(resamples)]
    known = bool(np.isfinite(estimate))
    half = None
    if known and n_blocks > 1 and len(kept) > 1:
        error = float(kept.std(ddof=1)) * (n_blocks / (n_blocks - 1)) ** 0.5
        half = float(student.ppf((1 + level) / 2, n_blocks - 1)) * error
    return Interval(
        estimate=float(estimate) if known else None,
        low=None if half is None else float(estimate) - half,
        high=None if half is None else float(estimate) + half,
        level=level,
        n_resamples=len(kept),
        left_out=len(resamples) - len(kept),
    )


def band(resamples: Array, *, level: float = 0.95) -> tuple[Array, Array, int]:
    """Percentile limits at each point of a trend: low [n], high [n], and how many resamples were left out.

    ``resamples`` [n, n_resamples], as ``predicted`` gives them; a resample with a NaN is left out whole.
    The limits are NaN where none is left. They hold pointwise, not for the whole line at once.
    """
    kept = resamples[:, np.isfinite(resamples).all(axis=0)]
    if not kept.shape[1]:
        return np.full(len(resamples), np.nan), np.full(len(resamples), np.nan), resamples.shape[1]
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return low, high, resamples.shape[1] - kept.shape[1]
