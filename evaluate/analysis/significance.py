"""Tests over blocks of paired runs, by flipping signs, and the correction for several tests.

The blocks are runs of the same architecture and seed. Epochs and images are not blocks: those of
one run are not independent of each other.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05  # of tests, and of intervals, if no other is stated
EXACT_BLOCKS = 14  # up to here all 2^n sign patterns are enumerated
RESAMPLES = 99_999  # random sign patterns beyond
CELLS = 2**24  # of a matrix of sign patterns by columns, 128 MiB
Array = NDArray[np.float64]


def sign_flip_p(values: ArrayLike) -> Array:
    """Two-sided p of zero mean for values [..., n], n >= 1, each as likely with either sign; shape [...].

    All patterns of signs are enumerated up to ``EXACT_BLOCKS`` values, ``RESAMPLES`` random ones (the same for
    all columns, seed 0) beyond: p = (1 + as extreme) / (1 + tried), Phipson and Smyth 2010.
    """
    columns = np.asarray(values, dtype=np.float64)
    shape, n = columns.shape[:-1], columns.shape[-1]
    columns = columns.reshape(-1, n).T  # [n, m]
    signs = _signs(n)
    extreme = np.empty(columns.shape[1])
    step = max(1, CELLS // len(signs))
    for start in range(0, len(extreme), step):
        part = columns[:, start : start + step]
        bound = np.abs(part.sum(0)) - 1e-12 * np.abs(part).sum(0)  # sums in another order differ by rounding
        extreme[start : start + step] = (np.abs(signs @ part) >= bound).sum(0)
    p = extreme / len(signs) if n <= EXACT_BLOCKS else (extreme + 1) / (len(signs) + 1)
    return np.asarray(p.reshape(shape))


@lru_cache(maxsize=2)
def _signs(n: int) -> Array:
    """Patterns of signs [m, n]; of all, only the half in which the last is +, since the others mirror them."""
    if n <= EXACT_BLOCKS:
        minus = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        minus = np.random.default_rng(0).integers(0, 2, (RESAMPLES, n))
    return np.asarray(1 - 2 * minus, dtype=np.float64)


def sidak_level(tests: int, level: float = LEVEL) -> float:
    """The level of each of several tests that keeps their simultaneous one: 1 - (1 - level)^(1 / tests)."""
    return float(1 - (1 - level) ** (1 / tests))


def sidak(p: float, tests: int) -> float:
    """p adjusted for the number of tests: 1 - (1 - p)^tests (Sidak 1967), whatever their correlation.

    Unlike a step-down procedure it has simultaneous intervals that agree with it: that at ``sidak_level`` leaves out
    zero if, and only if, the adjusted p is below the simultaneous level.
    """
    return float(-np.expm1(tests * np.log1p(-p))) if p < 1 else 1.0
