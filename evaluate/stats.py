"""Paired differences between arms, with an exact sign-flip permutation test.

The blocks are runs of the same architecture and seed. Epochs and images are no blocks: those of
one run are not independent of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import permutation_test

LEVEL = 0.05  # of the tests
EXACT_BLOCKS = 14  # up to here all 2^n sign patterns are tried
RESAMPLES = 99_999  # random sign patterns beyond


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """Arm minus baseline over paired runs, in the units of the values; None where it cannot be known."""

    n: int  # paired runs
    mean: float | None
    sd: float | None  # sample standard deviation over the pairs (n - 1)
    minimum: float | None
    maximum: float | None
    p: float | None  # two-sided, sign-flip permutation
    smallest_p: float  # the smallest p that n pairs can give
    exact: bool  # whether all sign patterns were tried


def smallest_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip test of n pairs can give: 2 / 2^n, at most 1."""
    return min(1.0, 2.0 ** (1 - n))


def pairs_needed(level: float = LEVEL) -> int:
    """The fewest pairs whose sign-flip test can give p <= level: 6 for 0.05."""
    return math.ceil(1 - math.log2(level))


def paired_difference(
    arm: ArrayLike, baseline: ArrayLike, *, rng: np.random.Generator | None = None
) -> PairedDifference:
    """Test whether an arm differs from the baseline; ``arm[i]`` and ``baseline[i]`` [n] are one block.

    The test statistic is the mean difference; under the null hypothesis each difference is as
    likely with either sign. Beyond ``EXACT_BLOCKS`` pairs, ``RESAMPLES`` sign patterns are drawn
    with ``rng`` (default: a generator seeded with 0, so that a report can be repeated). Without a
    pair, or with a value that is not a number, everything is None; with one pair the sd and p are.
    """
    differences = np.asarray(arm, dtype=np.float64) - np.asarray(baseline, dtype=np.float64)  # [n]
    n = differences.size
    exact = n <= EXACT_BLOCKS
    attainable = smallest_p(n) if exact else max(smallest_p(n), 2 / (RESAMPLES + 1))
    if n == 0 or not np.isfinite(differences).all():
        return PairedDifference(
            n=n, mean=None, sd=None, minimum=None, maximum=None, p=None, smallest_p=attainable, exact=exact
        )
    p = None
    if n > 1:
        p = float(
            permutation_test(
                (differences,),
                _mean,
                permutation_type="samples",
                vectorized=True,
                n_resamples=2**n if exact else RESAMPLES,
                batch=10_000,
                rng=np.random.default_rng(0) if rng is None else rng,
            ).pvalue
        )
    return PairedDifference(
        n=n,
        mean=float(differences.mean()),
        sd=float(differences.std(ddof=1)) if n > 1 else None,
        minimum=float(differences.min()),
        maximum=float(differences.max()),
        p=p,
        smallest_p=attainable,
        exact=exact,
    )


def verdict(difference: PairedDifference, *, comparisons: int = 1) -> str:
    """What the test supports, in words: "higher", "lower", or "cannot tell" and why.

    With several ``comparisons`` the level is divided by their number (Bonferroni).
    """
    level = LEVEL / max(comparisons, 1)
    bound = f"{LEVEL:g}" if comparisons <= 1 else f"{level:.2g} ({LEVEL:g} over {comparisons} comparisons)"
    if difference.mean is None:
        return "cannot tell: no paired runs" if difference.n == 0 else "cannot tell: a value is not a number"
    if difference.smallest_p > level:
        return f"cannot tell: {_runs(difference.n)} cannot reach p < {bound}, at least {pairs_needed(level)} are needed"
    if difference.p is None or difference.p > level:
        return f"cannot tell: p is not below {bound}"
    return "higher" if difference.mean > 0 else "lower"


def points(value: float | None, digits: int = 1) -> str:
    """A signed number for readers, with a minus sign as wide as the plus; "–" where there is none."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def describe(measure: str, differences: Mapping[str, PairedDifference], baseline: str) -> str:
    """One sentence on a measure in percentage points: ``differences`` are those of each arm to the baseline.

    It says "higher" or "lower" of what was measured, and adds whether the test tells it from chance.
    """
    k = len(differences)
    level = f"the {100 * LEVEL:g}% level" + (f" over {k} comparisons (Bonferroni)" if k > 1 else "")
    needed = pairs_needed(LEVEL / max(k, 1))
    able = [d for d in differences.values() if d.mean is not None and d.smallest_p <= LEVEL / k]
    if k == 1:
        ((arm, only),) = differences.items()
        start = f"{arm}: {measure} {_compared(only, baseline)}"
        if only.mean is None:
            return f"{start}."
        if not able:
            return f"{start}, but {_runs(only.n)} cannot show a difference at {level}; at least {needed} are needed."
        shown = "which is" if verdict(only) in ("higher", "lower") else "which is not shown to be"
        return f"{start}, {shown} a difference at {level} (sign-flip permutation, p = {only.p:.2g})."
    counts = {d.n for d in differences.values()}
    over = _runs(*counts) if len(counts) == 1 else "paired runs"
    each = "; ".join(f"{arm} {_brief(d, counted=len(counts) == 1)}" for arm, d in differences.items())
    start = (
        f"{measure[0].upper()}{measure[1:]} against {baseline}, mean difference in points over {over} (range): {each}"
    )
    if not able:
        most = max(d.n for d in differences.values())
        return f"{start}; {_runs(most)} cannot show a difference at {level}, at least {needed} are needed."
    verdicts = {arm: verdict(d, comparisons=k) for arm, d in differences.items()}
    shown = ", ".join(f"{arm} ({says})" for arm, says in verdicts.items() if says in ("higher", "lower"))
    return f"{start}; shown to differ at {level}: {shown or 'none'}."


def _compared(difference: PairedDifference, baseline: str) -> str:
    if difference.mean is None:
        return f"cannot be compared with {baseline}, because there are no paired runs"
    if difference.mean == 0:
        return f"as with {baseline} on average over {_runs(difference.n)}"
    return (
        f"{'higher' if difference.mean > 0 else 'lower'} than with {baseline} by {abs(difference.mean):.1f} points"
        f" on average over {_runs(difference.n)} (range {points(difference.minimum)} to {points(difference.maximum)})"
    )


def _brief(difference: PairedDifference, *, counted: bool) -> str:
    if difference.mean is None:
        return "no paired runs"
    n = "" if counted else f"{_runs(difference.n)}, "
    return f"{points(difference.mean)} ({n}{points(difference.minimum)} to {points(difference.maximum)})"


def _runs(n: int) -> str:
    return "1 paired run" if n == 1 else f"{n} paired runs"


def _mean(differences: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return np.asarray(differences.mean(axis=axis))
