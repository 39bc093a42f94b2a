"""Checks of a contrast: the same difference estimated in other ways and reported beside it. They decide nothing.

A new check is a function here and a row in ``CHECKS``: tables, report and ``comparison.json`` take it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.stats import t as student

from synthgen.common.printing import counted

from .estimators import Line, difference, fit_slopes, paired_robustness
from .formatting import signed
from .lines import unbridged
from .mixed import mixed_model
from .pairing import Paired
from .results import CheckResult, Estimate, StoredAs
from .significance import LEVEL
from .trends import Scale

FEWEST_ARCHITECTURES = 3
NOISY_ID = "noise in ID macro-F1 too"  # the check that ``wording`` warns by


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of ``CHECKS``."""

    name: str  # as readers see it
    run: Callable[
        [Paired, Line], Estimate | None
    ]  # second arm minus first, percentage points; None: the contrast itself
    stored_as: StoredAs = "checks"  # the others are keys of stored effects that are older than ``checks``


def check(paired: Paired, line: Line) -> tuple[CheckResult, ...]:
    """The result of every check in ``CHECKS`` for the paired runs of two arms."""
    found = ((one, one.run(paired, line)) for one in CHECKS)
    return tuple(
        CheckResult(name=one.name, estimate=estimate, stored_as=one.stored_as)
        for one, estimate in found
        if estimate is not None
    )


def along(paired: Paired, line: Line) -> Estimate:
    """The difference from a line, or why the line does not reach from one arm to the other."""
    why = unbridged(paired, line) if len(paired) else ""
    return Estimate(note=why) if why else difference(paired.final, line, every=paired.every)


def other_scale(paired: Paired, line: Line, *, scale: Scale) -> Estimate | None:
    """The difference on another scale; None on the line's own."""
    return None if scale == line.scale else along(paired, replace(line, scale=scale))


def noisy_id(paired: Paired, line: Line) -> Estimate:
    """The difference from an orthogonal-distance line, which is steeper.

    It assumes equal noise in ID and OOD scores on the scale (Fuller 1987, "Measurement Error Models").
    """
    return along(paired, replace(line, fit="orthogonal"))


def own_trend(paired: Paired, line: Line) -> Estimate:
    """The difference from the baseline's own trend, that of ``trends.effective_robustness``.

    Its test is unreliable if arms differ in ID macro-F1 (see the module ``estimators``).
    """
    return along(paired, replace(line, through="baseline"))


def noisy_own_trend(paired: Paired, line: Line) -> Estimate:
    """The difference from the baseline's own trend by orthogonal distances."""
    return along(paired, replace(line, through="baseline", fit="orthogonal"))


def new_architecture(paired: Paired, line: Line) -> Estimate:
    """The difference for another architecture: the mean over architectures with a 95% prediction interval.

    Architectures vary with variance tau^2 beyond what their runs do (method of moments, DerSimonian and Laird 1986);
    the interval is mean +- t(A - 1) sqrt(tau^2 + error^2) (Higgins, Thompson and Spiegelhalter 2009, doi
    10.1111/j.1467-985X.2008.00552.x). The note has each architecture's difference, pooled partially, and the mean
    without each.
    """
    names = [architecture for architecture, _ in paired.final.names]
    known = list(dict.fromkeys(names))
    if len(known) < FEWEST_ARCHITECTURES:
        return Estimate(note=f"{counted(len(known), 'architecture')}; {FEWEST_ARCHITECTURES} are needed")
    if why := unbridged(paired, line):
        return Estimate(note=why)
    slopes = fit_slopes(paired.final, paired.every, line, np.ones((1, len(paired))))
    (values,) = paired_robustness(paired.final, line, slopes)  # [n_blocks]
    groups = [values[[name == one for name in names]] for one in known]
    freedom = sum(len(group) - 1 for group in groups)
    if not np.isfinite(values).all() or freedom < 1:
        return Estimate(note="one run of each architecture, or no line")
    noise = sum(((group - group.mean()) ** 2).sum() for group in groups) / freedom
    errors = np.array([noise / len(group) for group in groups])
    means = np.array([group.mean() for group in groups])
    mean = float(means.mean())
    between = max(0.0, float(means.var(ddof=1) - errors.mean()))
    pooled = mean + (between / (between + errors) if between else 0.0) * (means - mean)
    spread = float(np.sqrt(between + means.var(ddof=1) / len(means)))
    half = float(student.ppf(1 - LEVEL / 2, len(means) - 1)) * spread
    without = (means.sum() - means) / (len(means) - 1)
    each = ", ".join(f"{name} {signed(value)}" for name, value in zip(known, pooled, strict=True))
    note = f"{each}; without one of them {signed(without.min())} to {signed(without.max())}"
    return Estimate(value=mean, low=mean - half, high=mean + half, n=len(paired), note=note)


CHECKS: tuple[Check, ...] = (
    Check(name="another architecture (prediction interval)", run=new_architecture),
    Check(name="mixed model", run=lambda paired, line: mixed_model(paired.every, line), stored_as="mixed_model"),
    Check(name="logit scale", run=partial(other_scale, scale="logit"), stored_as="sensitivity"),
    Check(name="probit scale", run=partial(other_scale, scale="probit"), stored_as="sensitivity"),
    Check(name="linear scale", run=partial(other_scale, scale="linear"), stored_as="sensitivity"),
    Check(name=NOISY_ID, run=noisy_id, stored_as="sensitivity"),
    Check(name="the baseline's own trend", run=own_trend, stored_as="sensitivity"),
    Check(name="the baseline's own trend, noise in ID macro-F1 too", run=noisy_own_trend, stored_as="sensitivity"),
)
