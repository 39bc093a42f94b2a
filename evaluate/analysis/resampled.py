"""Macro-F1 of resampled locations, from counts.

A location drawn k times adds its counts k times, so macro-F1 of a resample of whole locations needs
no image: 2 TP / (2 TP + FP + FN) of a class is 2 hits / (support + predictions), and each of the
three is a weighted sum over locations. All run-epochs of a split share its truth, so support and the
set of true classes of each resample are computed once. Macro-F1 is WILDS's (see ``metrics``) of the
resampled images: a class is one that is true in the resample, and a prediction of any other class is
a miss of the image's true class.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import EvaluateError
from .counts import Counts

BLOCK = 256  # resamples at a time: their weights and sums stay in a core's second-level cache
EXACT = {np.float32: 2**24, np.float64: 2**53}  # up to here a type represents every integer
# Contraction (fused multiply-add) cannot change sums of integers; nothing else is reordered.
jit = numba.njit(cache=True, nogil=True, fastmath={"contract"})


def macro_f1(
    counts: Counts, weights: NDArray[np.integer], *, threads: int | None = None
) -> Annotated[NDArray[np.float64], "n_run_epochs n_resamples"]:
    """Macro-F1 of every run-epoch on resampled locations, fractions [n_run_epochs, n_resamples].

    ``weights`` [n_resamples, n_locations] says how often each location is drawn. The result does not
    depend on ``threads`` (default: one per core). Raises EvaluateError if the weights are not whole
    numbers from 0, do not match the locations, or draw none.
    """
    weights = np.asarray(weights)
    _check_weights(weights, len(counts.locations))
    largest = int((weights @ counts.n_images).max(initial=0))  # images of a resample
    kind = next(kind for kind, exact in EXACT.items() if 2 * largest < exact)  # support + predictions <= 2 images
    support = counts.support.astype(kind)
    predictions, hits = counts.predictions.astype(kind), counts.hits.astype(kind)
    result = np.empty((counts.n_run_epochs, len(weights)))

    def score(start: int) -> None:
        drawn = np.ascontiguousarray(weights[start : start + BLOCK].T, dtype=kind)  # [n_locations, block]
        _score(drawn, support, counts.starts, counts.location, predictions, hits, result, start)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(score, range(0, len(weights), BLOCK)))
    return result


@jit
def _score(
    weights: NDArray[np.floating],
    support: NDArray[np.floating],
    starts: NDArray[np.int64],
    location: NDArray[np.int32],
    predictions: NDArray[np.floating],
    hits: NDArray[np.floating],
    out: NDArray[np.float64],
    at: int,
) -> None:
    """Macro-F1 of some resamples, into ``out`` [n_run_epochs, n_resamples] from column ``at``.

    weights [n_locations, block] and the counts are whole numbers of one floating-point type, small
    enough for all sums to be exact. The inner loops run over the resamples.
    """
    n_classes, block = support.shape[0], weights.shape[1]
    everywhere = np.arange(support.shape[1]).astype(np.int32)
    supported = np.zeros((n_classes, block), weights.dtype)
    n_true = np.zeros(block, np.int64)  # classes that are true in the resample
    for c in range(n_classes):
        _add(weights, everywhere, support[c], 0, len(everywhere), supported[c])
        for r in range(block):
            n_true[r] += supported[c, r] > 0
    hit = np.empty(block, weights.dtype)
    both = np.empty(block, weights.dtype)  # support + predictions
    f1 = np.empty(block)
    for e in range(starts.shape[0]):
        f1[:] = 0
        for c in range(n_classes):
            first, other, last = starts[e, 2 * c], starts[e, 2 * c + 1], starts[e, 2 * c + 2]
            if first == other:  # without a hit the class adds nothing in any resample
                continue
            hit[:] = 0
            both[:] = supported[c]
            _add(weights, location, hits, first, other, hit)
            _add(weights, location, predictions, first, last, both)
            for r in range(block):  # if a class is neither true nor predicted, hit is 0 and so is its F1
                f1[r] += 2.0 * np.float64(hit[r]) / max(np.float64(both[r]), 1.0)
        for r in range(block):
            out[e, at + r] = f1[r] / n_true[r]


@jit
def _add(
    weights: NDArray[np.floating],
    location: NDArray[np.int32],
    counts: NDArray[np.floating],
    first: int,
    last: int,
    sums: NDArray[np.floating],
) -> None:
    """Add the weighted counts of the cells from first to last to ``sums`` [block].

    Four cells at a time, since loading and storing the sums costs more than the arithmetic.
    """
    k = first
    while k + 4 <= last:
        a, b, c, d = counts[k], counts[k + 1], counts[k + 2], counts[k + 3]
        w, x = weights[location[k]], weights[location[k + 1]]
        y, z = weights[location[k + 2]], weights[location[k + 3]]
        for r in range(sums.shape[0]):
            sums[r] += (w[r] * a + x[r] * b) + (y[r] * c + z[r] * d)
        k += 4
    while k < last:
        a, w = counts[k], weights[location[k]]
        for r in range(sums.shape[0]):
            sums[r] += w[r] * a
        k += 1


def _check_weights(weights: NDArray[np.integer], n_locations: int) -> None:
    if weights.ndim != 2 or weights.shape[1] != n_locations:
        raise EvaluateError(
            f"weights of shape {weights.shape} do not match {n_locations} locations: give one per location in each"
            " resample"
        )
    if weights.dtype.kind not in "iu" or weights.min(initial=0) < 0:
        raise EvaluateError(f"weights of type {weights.dtype} from {weights.min()}: give whole numbers from 0")
    empty = int((weights.sum(axis=1) == 0).sum())
    if empty:
        raise EvaluateError(f"{empty} of {len(weights)} resamples draw no location: every resample needs at least one")
