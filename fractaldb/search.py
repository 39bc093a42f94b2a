"""Search for categories: random systems whose drawing fills enough of the picture."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fractaldb import chaos
from fractaldb.ifs import IFS, Category

FILLING_RATE = 0.2  # least share of set pixels of an accepted system (Kataoka et al. 2020)
SEARCH_SIZE = 512  # pixels of the drawing whose filling rate counts
SEARCH_POINTS = 100_000


def candidate(rng: np.random.RandomState) -> tuple[IFS, NDArray[np.float64]]:
    """The next candidate of the published random stream and its orbit's draws, float64 [100000]."""
    n_maps = rng.randint(2, 8)
    maps = np.array([rng.uniform(-1.0, 1.0, 6) for _ in range(n_maps)])
    areas = np.abs(maps[:, 0] * maps[:, 3] - maps[:, 1] * maps[:, 2])
    total = 0.0
    for area in areas:  # one by one: numpy's pairwise sum may round differently
        total += area
    return IFS(maps=maps, probs=areas / total), rng.random_sample(SEARCH_POINTS)


def filling_rate(ifs: IFS, draws: NDArray[np.float64]) -> float:
    """Share of set pixels in the 512 x 512 point drawing of an orbit."""
    filled = chaos.n_filled(ifs.maps, ifs.thresholds, draws, SEARCH_SIZE, chaos.PADDING)
    return float(filled) / SEARCH_SIZE**2


def search(n_categories: int, *, seed: int, progress: Callable[[int], None] | None = None) -> list[Category]:
    """The first ``n_categories`` accepted systems of a seed, named 00000, 00001, ...

    Seed 1 gives the published FractalDB-1k, equal in every float64.  The random stream is
    sequential; the orbits and drawings run on all cores.  ``progress`` is called with the number
    found so far.
    """
    found: list[Category] = []
    for ifs in _accepted(seed):
        found.append(Category(name=f"{len(found):05d}", ifs=ifs))
        if progress:
            progress(len(found))
        if len(found) == n_categories:
            break
    return found


def _accepted(seed: int) -> Iterator[IFS]:
    rng = np.random.RandomState(seed)
    n_threads = os.cpu_count() or 1
    waiting: deque[tuple[IFS, Future[float]]] = deque()
    pool = ThreadPoolExecutor(n_threads)
    try:
        while True:
            while len(waiting) < 4 * n_threads:
                ifs, draws = candidate(rng)
                waiting.append((ifs, pool.submit(filling_rate, ifs, draws)))
            ifs, rate = waiting.popleft()
            if rate.result() >= FILLING_RATE:
                yield ifs
    finally:
        pool.shutdown(cancel_futures=True)
