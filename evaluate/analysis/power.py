"""What a given number of independent runs can show, from the parts of an estimate's variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from scipy.optimize import brentq
from scipy.stats import chi2, nct
from scipy.stats import t as student

from ..errors import EvaluateError
from .results import Variance
from .significance import LEVEL

TARGET = 0.8  # power that a study should have, by the convention of Cohen 1988
MOST_UNITS = 1_000  # more than any study has
MOST_POINTS = 1e4  # beyond any difference
SURE = 0.8  # of pilots whose upper end of a range is enough


def power(effect: float, error: float, freedom: float, *, level: float = LEVEL) -> float:
    """The probability of a two-sided t test with this standard error and degrees of freedom to find an effect.

    ``effect`` and ``error`` are in the same units. Raises EvaluateError for a negative error or no freedom.
    """
    if not error >= 0 or not freedom > 0:
        raise EvaluateError(f"power with standard error {error:g} and {freedom:g} degrees of freedom")
    if error == 0:
        return float(effect != 0)
    shift, bound = abs(effect) / error, float(student.ppf(1 - level / 2, freedom))
    # The lower tail as the upper one of the mirrored distribution: SciPy 1.17.1 gives NaN for nct.cdf(-bound, ...) at
    # many shifts above 7.
    return float(nct.sf(bound, freedom, shift) + nct.sf(bound, freedom, -shift))


def smallest_effect(parts: Variance | None, *, level: float = LEVEL, target: float = TARGET) -> float | None:
    """The smallest effect that is found with this power, in the units of the error; None if nothing is known."""
    if parts is None:
        return None
    return parts.error * _gain(parts.freedom, level, target)


def _gain(freedom: float, level: float, target: float) -> float:
    """How many standard errors an effect must have to be found with this power."""
    return float(brentq(lambda times: power(times, 1.0, freedom, level=level) - target, 0.0, MOST_POINTS))


def with_units(parts: Variance, units: int, n: int) -> Variance:
    """The variance with ``n`` units in place of ``units``, of the same architectures and clusters of test images.

    What single units do at single clusters shrinks with units, and what arms do at clusters does not; likewise of the
    line, what comes from ID scores that differ by chance shrinks.
    """
    share = units / n
    by_chance = min(parts.line, parts.by_chance)
    beyond = max(parts.id_clusters + parts.ood_clusters - parts.cells, 0.0)  # what more units leave
    kept = (beyond + share * parts.cells) / max(parts.id_clusters + parts.ood_clusters, 1e-300)
    return replace(
        parts,
        units=share * parts.units,
        id_clusters=kept * parts.id_clusters,
        ood_clusters=kept * parts.ood_clusters,
        cells=share * parts.cells,
        freedoms=(n - 1, *parts.freedoms[1:]),
        line=parts.line - by_chance + share * by_chance,
        by_chance=share * by_chance,
        fine_tunings=share * parts.fine_tunings,
    )


def units_needed(
    effect: float, parts: Variance, units: int, *, level: float = LEVEL, target: float = TARGET
) -> int | None:
    """The fewest units with which ``power`` reaches the target; None if ``MOST_UNITS`` are too few."""

    def enough(n: int) -> bool:
        found = with_units(parts, units, n)
        return power(effect, found.error, found.freedom, level=level) >= target

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The fewest units that are enough, if more of them are; None if ``MOST_UNITS`` are not."""
    low, high = 2, MOST_UNITS
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a study like a pilot can show, and what it takes to show a given effect; effects in percentage points."""

    units: int  # independent runs of the pilot
    smallest: float | None  # effect that such a study finds with 80% power
    needed: int | None  # independent runs that find the given effect with 80% power; None if no number does
    low: int | None  # the same if the pilot's variances are overstated as far as in one of five pilots
    high: int | None  # the same if they are understated as far; None if then no number is enough
    floor: float | None  # smallest effect that any number of runs of these architectures finds, on these clusters
    floor_high: float | None  # the same if the variances are understated as far as in one of five pilots
    helps: str  # which addition lowers the smallest effect most, and how far; empty if the variance is unknown


def needs(
    effect: float,
    parts: Variance | None,
    units: int,
    *,
    level: float = LEVEL,
    seeds: tuple[str, str] = ("seeds", "fine-tuning seeds"),
) -> Needs:
    """What it takes to show ``effect``, from the variance of a pilot of so many ``units``; None if it is unknown.

    ``seeds`` is what more units are called, and more blocks of each unit.
    """
    if parts is None:
        return Needs(
            units=units, smallest=None, needed=None, low=None, high=None, floor=None, floor_high=None, helps=""
        )

    def enough(n: int, *, upper: bool) -> bool:
        error, freedom = _limit(parts, units, n, upper=upper), with_units(parts, units, n).freedom
        return power(effect, error, freedom, level=level) >= TARGET

    most = with_units(parts, units, MOST_UNITS)
    return Needs(
        units=units,
        smallest=smallest_effect(parts, level=level),
        needed=units_needed(effect, parts, units, level=level),
        low=_fewest(partial(enough, upper=False)),
        high=_fewest(partial(enough, upper=True)),
        floor=smallest_effect(most, level=level),
        floor_high=_limit(parts, units, MOST_UNITS, upper=True) * _gain(most.freedom, level, TARGET),
        helps=_additions(parts, units, level, seeds),
    )


def _limit(parts: Variance, units: int, n: int, *, upper: bool) -> float:
    """The standard error with ``n`` units if a pilot of ``units`` is as far off as in one of five pilots.

    The limit of a sum of variances of which each is estimated: the squares of what each part is away from its own
    chi-squared limit add up (Graybill and Wang 1980, JASA 75, 869), also where one is subtracted (Ting, Burdick,
    Graybill, Jeyaratnam and Lu 1990, Journal of Statistical Computation and Simulation 35, 135).
    """
    later, sign = with_units(parts, units, n), 1 if upper else -1
    sizes = (later.units, later.line, parts.id_clusters, parts.ood_clusters)
    share = 1 - SURE if upper else SURE
    away = [
        size * (free / float(chi2.ppf(share, free)) - 1) if size else 0.0
        for size, free in zip(sizes, parts.freedoms, strict=True)
    ]
    runs, beyond = later.units + later.line, parts.id_clusters + parts.ood_clusters - parts.cells
    variance = max(runs + sign * math.hypot(*away[:2]), runs + beyond + sign * math.hypot(*away))
    return math.sqrt(max(variance, later.total) if upper else min(variance, later.total))


def _additions(parts: Variance, units: int, level: float, seeds: tuple[str, str]) -> str:
    """Twice as many of what lowers the smallest effect most, and of fine-tunings, which cost least, if units have some.

    What single fine-tunings do at single clusters is not known apart, so that theirs may lower it further.
    """
    more = with_units(parts, units, 2 * units)
    tried = {
        seeds[0]: more,
        "architectures": replace(more, line=more.line / 2),
        "clusters of test images": replace(
            parts, id_clusters=parts.id_clusters / 2, ood_clusters=parts.ood_clusters / 2, cells=parts.cells / 2
        ),
    }
    effects = {name: smallest_effect(one, level=level) or 0.0 for name, one in tried.items()}
    name = min(effects, key=lambda one: (effects[one], list(tried).index(one)))
    words = f"twice as many {name}: {effects[name]:.1f} points"
    if not parts.fine_tunings:
        return words
    fewer = replace(parts, units=parts.units - min(parts.fine_tunings, parts.units) / 2)
    return f"{words}; twice as many {seeds[1]}: {smallest_effect(fewer, level=level):.1f} points"


def stated_variance(run_sd: float, cluster_error: float, *, units: int = 15) -> Variance:
    """The variance of a planned study: of runs, whose sd is known, and of clusters, whose standard error is."""
    return Variance(
        units=run_sd**2 / units,
        line=0.0,
        id_clusters=0.0,
        ood_clusters=cluster_error**2,
        cells=0.0,
        freedoms=(units - 1, 1e6, 1e6, 1e6),  # stated variances have no error of their own; of runs, the study's
    )
