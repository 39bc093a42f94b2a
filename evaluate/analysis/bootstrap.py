"""The two-level bootstrap: resamples of blocks and of clusters of test images, and the estimates of each.

A block is an architecture x seed; drawing it draws the run of every arm there, with all its epochs.
Clusters (such as camera locations) are drawn separately for the ID and the OOD split, the same ones for every run;
their macro-F1 comes from ``resampled.macro_f1``. Since all arms share the draws, differences between arms are paired.
What cannot be estimated in a resample is NaN there, and intervals leave it out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from ..errors import EvaluateError
from .pairing import Array, Blocks, of_rows
from .results import Estimate
from .significance import LEVEL

CHUNK = 512  # resamples at a time, so that one contrast's arrays stay in the cache


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """How often each block and each cluster is drawn in each resample."""

    blocks: Annotated[NDArray[np.int32], "n_resamples n_blocks"]  # every row sums to n_blocks
    id_clusters: Annotated[NDArray[np.int32], "n_resamples n_id_clusters"]  # likewise
    ood_clusters: Annotated[NDArray[np.int32], "n_resamples n_ood_clusters"]  # likewise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Resamples:
    """The scores of all run-epochs of a table in every resample, and how often each block is drawn there."""

    names: tuple[tuple[str, int], ...]  # [n_all_blocks], architecture and seed
    blocks: Annotated[NDArray[np.integer], "n_resamples n_all_blocks"]
    id_f1: Annotated[Array, "n_run_epochs n_resamples"]  # fractions, on the drawn clusters
    ood_f1: Annotated[Array, "n_run_epochs n_resamples"]


def draw(n_resamples: int, *, n_blocks: int, n_id_clusters: int, n_ood_clusters: int, seed: int) -> Draws:
    """Draw blocks, ID clusters and OOD clusters with replacement, as many as there are.

    Each of the three has its own PCG64 stream from the seed, so the number of one does not
    change the draws of another. Raises EvaluateError if one of the numbers is below 1.
    """
    sizes = {"blocks": n_blocks, "ID clusters": n_id_clusters, "OOD clusters": n_ood_clusters}
    for name, n in {"resamples": n_resamples, **sizes}.items():
        if n < 1:
            raise EvaluateError(f"{n} {name} to draw: at least one is needed")
    streams = np.random.SeedSequence(seed).spawn(len(sizes))
    blocks, id_clusters, ood_clusters = (
        np.random.Generator(np.random.PCG64(stream)).multinomial(n, np.full(n, 1 / n), n_resamples).astype(np.int32)
        for stream, n in zip(streams, sizes.values(), strict=True)
    )
    return Draws(blocks=blocks, id_clusters=id_clusters, ood_clusters=ood_clusters)


def bootstrap(
    estimator: Callable[[Blocks, Array], Array], blocks: Blocks, resamples: Resamples, *, threads: int | None = None
) -> Array:
    """An estimator's value in every resample of ``blocks``, [..., n_resamples]; NaN if it cannot be estimated.

    ``estimator`` takes blocks with scores [r, n_blocks, n_arms, n_epochs] and weights [r, n_blocks], how often each
    is drawn, and returns [..., r]. The result does not depend on ``threads`` (default: one per core).
    """
    columns = [resamples.names.index(name) for name in blocks.names]

    def one(start: int) -> Array:
        part = slice(start, start + CHUNK)
        weights = resamples.blocks[part, columns].astype(np.float64)
        id_f1, ood_f1 = (of_rows(scores[:, part], blocks.rows) for scores in (resamples.id_f1, resamples.ood_f1))
        with np.errstate(invalid="ignore", divide="ignore"):  # when no block or no slope is left
            return estimator(replace(blocks, id_f1=id_f1, ood_f1=ood_f1), weights)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return np.concatenate(list(pool.map(one, range(0, len(resamples.blocks), CHUNK))), axis=-1)


def with_interval(estimate: Estimate, values: Annotated[Array, "n_resamples"], *, level: float = LEVEL) -> Estimate:
    """The estimate with the limits value +- t quantile (n - 1) x bootstrap standard error x sqrt(n / (n - 1)).

    ``values`` [n_resamples] may hold NaN, which are left out; n are the blocks behind the estimate. A bootstrap of
    few blocks is too narrow in two ways: its variance divides by n instead of n - 1, and percentiles are used
    where Student's quantiles belong (the "narrowness bias" of Hesterberg 2015, arXiv 1411.5279); this corrects both.
    There is no interval with fewer than two blocks or resamples.
    """
    kept = values[np.isfinite(values)]
    if estimate.value is None or estimate.n < 2 or len(kept) < 2:
        return replace(estimate, low=None, high=None)
    error = float(kept.std(ddof=1)) * (estimate.n / (estimate.n - 1)) ** 0.5
    half = float(student.ppf(1 - level / 2, estimate.n - 1)) * error
    return replace(estimate, low=estimate.value - half, high=estimate.value + half)


def band(
    values: Annotated[Array, "n n_resamples"], *, level: float = LEVEL
) -> tuple[Annotated[Array, "n"], Annotated[Array, "n"]]:
    """Percentile limits of a trend at each of n points: low [n] and high [n].

    ``values`` [n, n_resamples] are the trend's in each resample; a resample with a NaN is left out whole.
    The limits are NaN if none is left. They hold pointwise, not for the whole line at once.
    """
    kept = values[:, np.isfinite(values).all(axis=0)]
    if not kept.shape[1]:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    low, high = np.quantile(kept, [level / 2, 1 - level / 2], axis=1)
    return low, high
