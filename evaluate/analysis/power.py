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
STATED_UNITS = 15  # of a study without a pilot: five architectures with three seeds
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
    return parts.error * _gain(parts.freedom, level, target) if parts.error else 0.0


def _gain(freedom: float, level: float, target: float) -> float:
    """How many standard errors an effect must have to be found with this power."""
    most = 2 * float(student.ppf(1 - level / 2, freedom) + student.ppf(target, freedom))
    return float(brentq(lambda times: power(times, 1.0, freedom, level=level) - target, 0.0, most))


def with_units(parts: Variance, units: int, n: float) -> Variance:
    """The variance with ``n`` units in place of ``units``, on the same clusters of test images.

    What single units do at single clusters shrinks with units, and what arms do at clusters does not; likewise of the
    line, what comes from ID scores that differ by chance shrinks. All of the line's does where it is fitted to as many
    architectures as there are units: other units are other architectures. Otherwise architectures stay the same, but
    for those that fewer units cannot have.
    """
    share = units / n
    lines = min(parts.freedoms[1] + 1, units)
    later_lines = n if lines == units else min(lines, n)
    by_chance = min(parts.line, parts.by_chance)
    beyond = max(parts.id_clusters + parts.ood_clusters - parts.cells, 0.0)  # what more units leave
    kept = (beyond + share * parts.cells) / max(parts.id_clusters + parts.ood_clusters, 1e-300)
    return replace(
        parts,
        units=share * parts.units,
        id_clusters=kept * parts.id_clusters,
        ood_clusters=kept * parts.ood_clusters,
        cells=share * parts.cells,
        freedoms=(n - 1, later_lines - 1, *parts.freedoms[2:]),
        line=lines / later_lines * (parts.line - by_chance + share * by_chance),
        by_chance=lines / later_lines * share * by_chance,
        fine_tunings=share * parts.fine_tunings,
    )


def units_needed(
    effect: float, parts: Variance, units: int, *, level: float = LEVEL, target: float = TARGET
) -> int | None:
    """The fewest units with which ``power`` reaches the target; None if ``MOST_UNITS`` are too few.

    Power is not monotone: where few architectures carry the line, more units leave its variance alone, and the total
    fewer degrees of freedom. A study of more units is counted as able to show what one of fewer units, at least those
    at hand, can: it contains such a study. ``needs`` and this function thus agree with the smallest effect at hand.
    """

    def enough(n: int) -> bool:
        found = with_units(parts, units, n)
        return power(effect, found.error, found.freedom, level=level) >= target

    return _fewest(enough, units)


def _fewest(enough: Callable[[int], bool], units: int) -> int | None:
    """The fewest units that are enough, as are all from there to ``units``; or the first above that are, if any."""
    if enough(units):
        return next((n + 1 for n in range(units - 1, 1, -1) if not enough(n)), 2)
    before = units
    for size in _sizes(units)[1:]:
        if enough(size):
            return next(n for n in range(before + 1, size + 1) if enough(n))
        before = size
    return None


def _sizes(units: int) -> list[int]:
    """Numbers of units from those at hand to ``MOST_UNITS``, each some 10% above the one before."""
    found = [units]
    while found[-1] < MOST_UNITS:
        found.append(min(MOST_UNITS, max(found[-1] + 1, round(1.1 * found[-1]))))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a study like a pilot can show, and what it takes to show a given effect; effects in percentage points.

    What comes from a pilot is None if variances are stated, and all but ``units`` if ``unknown`` says why.
    """

    units: int | None = None  # independent units of the pilot
    smallest: float | None = None  # effect that such a study finds with 80% power
    needed: int | None = None  # units that find the given effect with 80% power; None if ``MOST_UNITS`` do not
    low: int | None = None  # the same if the pilot's variances are overstated as far as in one of five pilots
    high: int | None = None  # the same if they are understated as far
    floor: float | None = None  # smallest effect that any number of units finds, on these clusters
    floor_high: float | None = None  # the same if the variances are understated as far as in one of five pilots
    helps: str = ""  # which addition lowers the smallest effect most, and how far
    unknown: str = ""  # why nothing is known; empty if the variance is


def needs(
    effect: float,
    parts: Variance,
    units: int,
    *,
    level: float = LEVEL,
    seeds: tuple[str, str] = ("seeds", "fine-tuning seeds"),
) -> Needs:
    """What it takes to show ``effect``, from the variance of a pilot of so many ``units``.

    ``seeds`` is what more units are called, and more blocks of each unit. The smallest effect of any number of units is
    the least of those of the pilot's number and more, as ``units_needed`` counts.
    """
    sizes = [*_sizes(units), math.inf]
    freedoms = [with_units(parts, units, n).freedom for n in sizes]

    def enough(n: int, *, upper: bool) -> bool:
        error, freedom = _limit(parts, units, n, upper=upper), with_units(parts, units, n).freedom
        return power(effect, error, freedom, level=level) >= TARGET

    errors = [with_units(parts, units, n).error for n in sizes]
    errors_high = [_limit(parts, units, n, upper=True) for n in sizes]
    gains = [
        _gain(freedom, level, TARGET) if high else 0.0 for freedom, high in zip(freedoms, errors_high, strict=True)
    ]
    return Needs(
        units=units,
        smallest=smallest_effect(parts, level=level),
        needed=units_needed(effect, parts, units, level=level),
        low=_fewest(partial(enough, upper=False), units),
        high=_fewest(partial(enough, upper=True), units),
        floor=min(error * gain for error, gain in zip(errors, gains, strict=True)),
        floor_high=min(error * gain for error, gain in zip(errors_high, gains, strict=True)),
        helps=_additions(parts, units, level, seeds),
    )


def stated_needs(effect: float, run_sd: float, cluster_error: float) -> Needs:
    """What it takes without a pilot: variances are given, so that there is neither a range nor a smallest effect."""
    found = needs(effect, stated_variance(run_sd, cluster_error), STATED_UNITS)
    return Needs(needed=found.needed, floor=found.floor)


def _limit(parts: Variance, units: int, n: float, *, upper: bool) -> float:
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
    with_them = {} if seeds[0] == "architectures" else {"architectures": replace(more, line=more.line / 2)}
    tried = {
        seeds[0]: more,
        **with_them,
        "clusters of test images": replace(
            parts, id_clusters=parts.id_clusters / 2, ood_clusters=parts.ood_clusters / 2, cells=parts.cells / 2
        ),
    }
    now = smallest_effect(parts, level=level) or 0.0  # which an addition does not raise: see ``units_needed``
    effects = {name: min(now, smallest_effect(one, level=level) or 0.0) for name, one in tried.items()}
    name = min(effects, key=lambda one: (effects[one], list(tried).index(one)))
    words = f"twice as many {name}: {effects[name]:.1f} points"
    if not parts.fine_tunings:
        return words
    fewer = replace(parts, units=parts.units - min(parts.fine_tunings, parts.units) / 2)
    return f"{words}; twice as many {seeds[1]}: {min(now, smallest_effect(fewer, level=level) or 0.0):.1f} points"


def stated_variance(run_sd: float, cluster_error: float, *, units: int = STATED_UNITS) -> Variance:
    """The variance of a planned study: of runs, whose sd is known, and of clusters, whose standard error is."""
    return Variance(
        units=run_sd**2 / units,
        line=0.0,
        id_clusters=0.0,
        ood_clusters=cluster_error**2,
        cells=0.0,
        freedoms=(units - 1, 1e6, 1e6, 1e6),  # stated variances have no error of their own; of runs, the study's
    )
