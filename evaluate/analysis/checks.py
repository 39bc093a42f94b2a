"""Checks of a contrast: the same difference estimated in other ways and reported beside it. They decide nothing.

A new check is a function here and a row in ``CHECKS``: tables, report and ``comparison.json`` take it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from .estimators import Line, difference
from .mixed import mixed_model
from .pairing import Blocks
from .results import CheckResult, Estimate, StoredAs
from .trends import Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of ``CHECKS``."""

    name: str  # as readers see it
    run: Callable[
        [Blocks, Line], Estimate | None
    ]  # second arm minus first, percentage points; None: the contrast itself
    stored_as: StoredAs = "checks"  # the others are keys of stored effects that are older than ``checks``


def check(blocks: Blocks, line: Line) -> tuple[CheckResult, ...]:
    """The result of every check in ``CHECKS`` for the paired runs of two arms."""
    found = ((one, one.run(blocks, line)) for one in CHECKS)
    return tuple(
        CheckResult(name=one.name, estimate=estimate, stored_as=one.stored_as)
        for one, estimate in found
        if estimate is not None
    )


def other_scale(blocks: Blocks, line: Line, *, scale: Scale) -> Estimate | None:
    """The difference on another scale; None on the line's own."""
    return None if scale == line.scale else difference(blocks, replace(line, scale=scale))


def noisy_id(blocks: Blocks, line: Line) -> Estimate:
    """The difference from an orthogonal-distance line, which is steeper.

    It assumes equal noise in ID and OOD scores on the scale (Fuller 1987, "Measurement Error Models").
    """
    return difference(blocks, replace(line, fit="orthogonal"))


def own_trend(blocks: Blocks, line: Line) -> Estimate:
    """The difference from the baseline's own trend, that of ``trends.effective_robustness``.

    Its test is unreliable if arms differ in ID macro-F1 (see the module ``estimators``).
    """
    return difference(blocks, replace(line, through="baseline"))


def noisy_own_trend(blocks: Blocks, line: Line) -> Estimate:
    """The difference from the baseline's own trend by orthogonal distances."""
    return difference(blocks, replace(line, through="baseline", fit="orthogonal"))


CHECKS: tuple[Check, ...] = (
    Check(name="mixed model", run=mixed_model, stored_as="mixed_model"),
    Check(name="logit scale", run=partial(other_scale, scale="logit"), stored_as="sensitivity"),
    Check(name="probit scale", run=partial(other_scale, scale="probit"), stored_as="sensitivity"),
    Check(name="linear scale", run=partial(other_scale, scale="linear"), stored_as="sensitivity"),
    Check(name="noise in ID macro-F1 too", run=noisy_id, stored_as="sensitivity"),
    Check(name="the baseline's own trend", run=own_trend, stored_as="sensitivity"),
    Check(name="the baseline's own trend, noise in ID macro-F1 too", run=noisy_own_trend, stored_as="sensitivity"),
)
