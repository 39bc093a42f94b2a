"""What a given number of blocks can show: power, blocks needed, equivalence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import nct
from scipy.stats import t as student

from ..errors import EvaluateError
from .results import Estimate, MarginTest
from .significance import EXACT_BLOCKS, LEVEL, pairs_needed, sign_flip_p

TARGET = 0.8  # power that a study should have, by the convention of Cohen 1988
SIMULATIONS = 2_000  # studies behind a power: plus or minus 2 points
MOST_BLOCKS = 1_000  # more than any study has


def power(effect: float, sd: float, n: int, *, level: float = LEVEL) -> float:
    """The probability that the sign-flip test of n blocks gives p <= level if there is an effect.

    ``effect`` and ``sd``, that of the blocks' values, are in the same units. Up to ``EXACT_BLOCKS``
    blocks it is simulated (normal values, ``SIMULATIONS`` studies, seed 0), in steps as coarse as the
    test's; beyond, it is that of the t test, which differs by less than the simulation's own error.
    For the first step of Holm over k arms give level / k. Raises EvaluateError for n < 1 or a negative sd.
    """
    if n < 1 or not sd >= 0:
        raise EvaluateError(f"power of {n} blocks with standard deviation {sd:g}: give n >= 1 and sd >= 0")
    if n < pairs_needed(level):
        return 0.0
    if sd == 0:
        return float(effect != 0)
    if n > EXACT_BLOCKS:
        shift, bound = abs(effect) / sd * np.sqrt(n), student.ppf(1 - level / 2, n - 1)
        return float(nct.sf(bound, n - 1, shift) + nct.cdf(-bound, n - 1, shift))
    values = effect + sd * np.random.default_rng(0).standard_normal((SIMULATIONS, n))
    return float((sign_flip_p(values) <= level).mean())


def blocks_needed(effect: float, sd: float, *, level: float = LEVEL, target: float = TARGET) -> int | None:
    """The fewest blocks with which ``power`` reaches the target; None if ``MOST_BLOCKS`` are too few."""
    low, high = pairs_needed(level) - 1, MOST_BLOCKS
    if power(effect, sd, high, level=level) < target:
        return None
    while high - low > 1:  # power(low) < target <= power(high)
        middle = (low + high) // 2
        if power(effect, sd, middle, level=level) < target:
            low = middle
        else:
            high = middle
    return high


def equivalence_p(values: Sequence[float], margin: float) -> float | None:
    """p of two one-sided t tests (TOST, Schuirmann 1987) that the mean lies within -margin..margin.

    ``values`` [n] are the blocks', ``margin`` > 0 is in their units. p <= 0.05 if the 90% t interval lies
    within the margin. None for fewer than two values. Where the true effect was the margin, it called 5% of
    2,000 simulated studies of 15 blocks equivalent, and 2 to 5% of those of six; flipping signs about the margins
    did the same with 15 and found equivalence less often with six (71% to 74%, no effect, margin 2 points).
    """
    if not margin > 0:
        raise EvaluateError(f"a margin of {margin:g} points: give one above 0")
    n = len(values)
    if n < 2:
        return None
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / n**0.5
    if error == 0:
        return float(abs(mean) >= margin)
    return float(student.sf((margin - abs(mean)) / error, n - 1))


def against_margin(effect: Estimate, margin: float, *, comparisons: int = 1) -> MarginTest | None:
    """Test for equivalence, and power at the first step of Holm over ``comparisons``; None without two blocks."""
    sd, p = effect.sd, equivalence_p(effect.contributions, margin)
    if sd is None or p is None:
        return None
    level = LEVEL / max(comparisons, 1)
    return MarginTest(
        margin=margin,
        equivalence_p=p,
        power=power(margin, sd, effect.n, level=level),
        needed=blocks_needed(margin, sd, level=level),
    )
