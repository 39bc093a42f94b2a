"""Categories that contract by construction (Anderson & Farrell, "Improving Fractal Pre-training", WACV 2022).

The authors (arXiv 2110.03091) write the matrix of a map as a singular value decomposition,
R(theta) diag(s1, s2) R(phi) diag(+-1, +-1), and draw the singular values with a given weighted sum
alpha = sum over the maps of s1 + 2 s2, whose range keeps the pictures neither too thin nor
too full.  No candidate is rejected, whereas the published search keeps one in 43.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fractaldb.ifs import IFS, Category, FractalError

N_MAPS = (2, 3, 4)  # maps per system, all equally likely: this module's choice
LARGEST = 1 - 1e-9  # singular value; below 1 by more than any rounding of the matrix


def sample_svd(n_categories: int, *, seed: int) -> list[Category]:
    """Contracting systems of a seed, named 00000, 00001, ...; a smaller number gives the first of them.

    Every map's largest singular value is below 1; e and f are uniform in [-1, 1); probabilities are
    proportional to |ad - bc|.  All numbers come from ``numpy.random.RandomState(seed)`` by
    additions, products, quotients and square roots alone, so they are the same on every machine.
    Raises FractalError if ``n_categories`` is below 1.
    """
    if n_categories < 1:
        raise FractalError(f"categories = {n_categories}: at least 1")
    rng = np.random.RandomState(seed)
    return [Category(name=f"{i:05d}", ifs=_system(rng)) for i in range(n_categories)]


def _system(rng: np.random.RandomState) -> IFS:
    n = N_MAPS[rng.randint(len(N_MAPS))]
    values = _singular_values(n, rng)
    maps = np.array([[*_matrix(s1, s2, rng), *rng.uniform(-1.0, 1.0, 2)] for s1, s2 in values])
    areas = [abs(a * d - b * c) for a, b, c, d, _, _ in maps]
    return IFS(maps=maps, probs=np.array(areas) / sum(areas))


def _singular_values(n: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Pairs 1 > s1 >= s2 >= 0, float64 [n, 2], the sum of s1 + 2 s2 uniform in [(5 + n) / 2, (6 + n) / 2]."""
    while True:
        rest = rng.uniform((5 + n) / 2, (6 + n) / 2)  # of the sum, not yet distributed over the maps
        pairs = []
        for after in range(n - 1, 0, -1):
            least = rest - 3 * after  # the maps after this one take up to 3 each
            s1 = rng.uniform(max(0.0, least / 3), min(1.0, rest))
            s2 = rng.uniform(max(0.0, (least - s1) / 2), min(s1, (rest - s1) / 2))
            pairs.append((s1, s2))
            rest -= s1 + 2 * s2
        s2 = rng.uniform(max(0.0, (rest - 1) / 2), rest / 3)
        pairs.append((rest - 2 * s2, s2))
        if max(s1 for s1, _ in pairs) <= LARGEST:
            return np.array(pairs)


def _matrix(s1: float, s2: float, rng: np.random.RandomState) -> tuple[float, float, float, float]:
    """a, b, c, d of R(theta) diag(s1, s2) R(phi) diag(signs)."""
    cos_t, sin_t = _direction(rng)
    cos_p, sin_p = _direction(rng)
    sign_x, sign_y = (2.0 * rng.randint(2) - 1.0 for _ in range(2))
    return (
        sign_x * (s1 * cos_t * cos_p - s2 * sin_t * sin_p),
        sign_y * (-s1 * cos_t * sin_p - s2 * sin_t * cos_p),
        sign_x * (s1 * sin_t * cos_p + s2 * cos_t * sin_p),
        sign_y * (-s1 * sin_t * sin_p + s2 * cos_t * cos_p),
    )


def _direction(rng: np.random.RandomState) -> tuple[float, float]:
    """Cosine and sine of a uniform angle: a uniform point of the unit disc, scaled to length 1."""
    while True:
        x, y = rng.uniform(-1.0, 1.0, 2)
        square = x * x + y * y
        if 0.0 < square <= 1.0:
            length = math.sqrt(square)
            return x / length, y / length
